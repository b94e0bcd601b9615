"""Interrupts between harts, by number of the scenario: what controllers send, INIT, and how a hart starts."""

import pytest

from hw.bus import APIC_BASE
from hw.lapic import At
from hw.sysregs import ROWS
from sim import Machine
from sim.engine import StopReason
from sim.harts import REGISTERS
from tests.smp.smpbench import SmpBench

ON = f"mov ${APIC_BASE:#x}, %ebp; movl $0x1ff, {At.SVR:#x}(%rbp);"
EOI = f"movl $0, {At.EOI:#x}(%rbp);"
FIXED, NMI, INIT, START = 0, 4 << 8, 5 << 8, 6 << 8
OTHERS, ALL = 3 << 18, 2 << 18
INT_ASSERT, LEVEL = 1 << 14, 1 << 15
COUNTS = "h2: inc %r12d; mov %r13d, %r14d; iretq; h40: inc %r13d; " + EOI + "iretq;"


def send(command: int, to: int | None = None) -> str:
    """Sends an IPI, to a hart by its number or as the command says."""
    high = "" if to is None else f"movl ${to << 24:#x}, {At.ICR_HIGH:#x}(%rbp);"
    return high + f"movl ${command:#x}, {At.ICR_LOW:#x}(%rbp);"


def wait(nops: int) -> str:
    return f".fill {nops}, 1, 0x90;"


@pytest.mark.parametrize("distance", range(0, 25, 3))
def test_s161_nmi_and_ipi_in_order(smp, distance):
    """s161: hart 0 sends an NMI, then an interrupt: hart 1 sees the NMI not later (r14: interrupts seen before the NMI)."""
    bench = smp()
    bench.load(
        COUNTS + "start0: " + ON + wait(distance) + send(NMI, 1) + send(40) + "hlt;"
        "start1: " + ON + "sti;" + wait(60) + "1: test %r13d, %r13d; jz 1b; cli; hlt"
    )
    bench.start(0, 0)
    assert [bench.get(1, name) for name in ("r12", "r13", "r14")] == [1, 1, 0]
    assert [bench.get(0, name) for name in ("r12", "r13")] == [0, 0]
    names = [[trap.name for trap in traps] for traps in bench.traps()]
    assert names == [[], ["NMI", "v40"]]


def test_s161_ipi_and_nmi_together(smp):
    """s161: to a hart that has interrupts off, then on: both are pending, and the NMI is taken first."""
    bench = smp()
    bench.load(
        COUNTS + "start0: " + ON + send(40, 1) + send(NMI) + "hlt;"
        "start1: " + ON + wait(90) + "sti; nop; nop; nop; cli; hlt"
    )
    bench.start(0, 0)
    assert [[trap.name for trap in traps] for traps in bench.traps()] == [[], ["NMI", "v40"]]


def test_wakes_a_sleeping_hart(smp):
    """A run ends when all harts sleep, and not while one will wake the other."""
    bench = smp()
    bench.load(
        COUNTS + "start0: " + ON + wait(99) + send(40, 1) + "hlt; start1: " + ON + "sti; hlt; mov $7, %eax; cli; hlt"
    )
    bench.start(0, 0)
    assert (bench.get(1, "rax"), bench.get(1, "r13")) == (7, 1)


@pytest.mark.parametrize(("command", "takes"), [(FIXED | OTHERS, {1}), (FIXED | ALL, {0, 1}), (1 << 18, {0})])
def test_shorthands(smp, command, takes):
    bench = smp()
    own = "start{}: " + ON + "sti; {}" + wait(80) + "cli; hlt;"
    bench.load(COUNTS + own.format(0, wait(30) + send(command | 40)) + own.format(1, ""))
    bench.start(0, 0)
    assert {hart for hart in bench.harts if bench.get(hart, "r13")} == takes


# --- INIT and start-up ---

#: Where the start-up IPI with vector 0x30 lets a hart begin, and what it does there.
PAGE = 0x30000
TRAMPOLINE = (
    f".org {PAGE - 0x10000:#x}; trampoline: mov %rsp, %r8; mov %ss, %r9d; mov %cs, %r10d;"
    "mov %cr8, %r11; mov $0x1b, %ecx; mov $1, %eax; cpuid; mov $0x900, %esp; pushfq; pop %r12;"
    "incl x(%rip); mfence; hlt; .balign 64; x: .long 0"
)
WAKE = send(INIT | INT_ASSERT | OTHERS) + wait(40) + send(START | OTHERS | 0x30) + wait(40)


def started(bench: SmpBench, hart: int) -> dict[str, int]:
    return {name: bench.get(hart, name) for name in ("r8", "r9", "r10", "r11", "r12", "rbx", "rip")}


@pytest.mark.parametrize("seed", (None, 7), ids=("fast", "waits"))
def test_s162_init_and_start_up(smp, seed):
    """s162: the other hart starts at its page as after reset; the first is not touched."""
    bench = smp(wait_seed=seed)
    bench.load("start0: mov $0x1234, %r15d;" + ON + WAKE + "mov $0x5678, %r14d; hlt;" + TRAMPOLINE)
    bench.set(0, "rip", bench.labels["start0"])
    bench.finish()
    assert (bench.get(0, "r15"), bench.get(0, "r14")) == (0x1234, 0x5678)
    assert bench.long("x") == 1
    seen = started(bench, 1)
    assert seen["r8"] == 0 and seen["r10"] == 8 and seen["r11"] == 0 and seen["r12"] == 2
    assert seen["rbx"] >> 24 == 1, "its APIC ID"
    assert bench.get(1, "apic_base") & 0x100 == 0 and bench.get(0, "apic_base") & 0x100


def test_s162_in_any_state(smp, cases):
    """s162: INIT reaches a hart that runs, sleeps, loops in a string instruction, is in a handler, or is dead of a triple fault."""
    states = {
        "runs": "1: inc %ebx; jmp 1b",
        "waits with interrupts on": "sti; 1: jmp 1b",
        "sleeps": "cli; hlt",
        "copies": "mov $0x8000, %edi; mov $0x100000, %ecx; rep stosb; hlt",
        "locks": "1: lock incl y(%rip); jmp 1b",
        "handles": "int $50",
        "steps": "pushfq; orl $0x100, (%rsp); popfq; 1: nop; jmp 1b",
        "is dead": "lidt zero(%rip); ud2",
    }  # fmt: skip
    for name, state in cases(states.items()):
        for distance in cases((0, 1, 2, 5)):
            bench = smp()
            bench.load(
                "h50: 1: jmp 1b; h1: iretq; start0: " + ON + wait(60 + distance) + WAKE + "hlt; .balign 64;"
                "start1: mov $-1, %rbx; mov %rbx, %r8; std; stc;" + ON + f"{state}; zero: .quad 0, 0; .balign 4096;"
                "y: .long 0; .balign 64;" + TRAMPOLINE
            )
            for hart in (1, 0):
                bench.set(hart, "rip", bench.labels[f"start{hart}"])
            while bench.engine.run(4000).reason == StopReason.SHUTDOWN and bench.engine.cycle < 4000:
                pass
            assert bench.engine.state(1).halted and not bench.engine.state(1).shutdown, name
            assert bench.long("x") == 1, name
            seen = started(bench, 1)
            assert seen["r8"] == 0 and seen["r12"] == 2, name


def test_s162_registers_after_init(smp):
    """s162: a hart that waits has every register as after reset, but for MSRs that INIT leaves."""
    bench = smp()
    text = "start0: " + ON + wait(60) + send(INIT | INT_ASSERT, 1) + "hlt; start1: 1: jmp 1b"
    kept = {"kernel_gs_base": 0x1234}
    changed = {"cr2": 5, "dr7": 0x401, "fs_base": 8, "cr4": 0xA0, "idt_limit": 1} | {f"r{n}": n for n in range(8, 16)}
    bench.load(text, regs={1: changed | kept | dict(rax=1, rsp=2, rbp=3, rflags=0x2D7)})
    bench.start(0, 0)
    bench.engine.run(30)
    reset = {row.reg.name.lower(): row.reset for row in ROWS} | kept
    reset["apic_base"] &= ~0x100
    names = [name for name in REGISTERS if name not in ("cr8", "cpl", "tsc")]
    wanted = {name: reset.get(name, {"rflags": 2}.get(name, 0)) for name in names if name in reset or name in REGISTERS}
    got = {name: bench.get(1, name) for name in wanted}
    assert got == wanted


def test_s162_what_does_not_start(smp):
    """s162: a start-up without INIT before it is lost, a second one too; the end of a level asks for nothing."""
    for commands, starts in (
        (send(START | OTHERS | 0x30), 1),  # it waits since reset
        (send(START | OTHERS | 0x30) + wait(40) + send(START | OTHERS | 0x30), 1),
        (send(INIT | LEVEL | OTHERS) + wait(40), 0),
        (
            send(INIT | INT_ASSERT | OTHERS) + send(START | OTHERS | 0x30),
            1,
        ),  # at once: it is kept until the reset is over
        (WAKE + WAKE, 2),
        (WAKE + send(INIT | INT_ASSERT | OTHERS), 1),
        (send(NMI | OTHERS) + send(OTHERS | 40) + WAKE, 1),
    ):
        bench = smp()
        bench.load("start0: " + ON + commands + wait(80) + "hlt;" + TRAMPOLINE)
        bench.set(0, "rip", bench.labels["start0"])
        bench.finish()
        assert bench.long("x") == starts, commands


def test_a_machine_with_two_harts(machine, assemble):
    """Machine(harts=2): hart 0 begins; writing memory does not start the other; records carry the hart."""
    code = assemble("start: " + ON + WAKE + "mov x(%rip), %eax; out %al, $0xf4; 1: jmp 1b;" + TRAMPOLINE)
    with machine(None, harts=2) as m:
        assert isinstance(m, Machine)
        m.load(code.address, code.data)
        m.mem.write(0x500, b"1")
        result = m.run(20_000)
        assert result.exit == 3 and result.reason == StopReason.EXIT
        assert m.harts[1].state.halted and m.harts[1].retired > 8
        assert result.retired == sum(hart.retired for hart in m.harts)
