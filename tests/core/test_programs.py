"""The whole core on compiled programs: what they print is what the same source prints natively, and how fast."""

import pytest

from hw.isa.facts import SysReg
from sim.engine import StopOn, StopReason
from sim.guestbuild import PROGRAMS, build_program, expected_output

#: Enough for any program at its test size.
MAX_CYCLES = 2_000_000

HOSTED = [name for name, program in PROGRAMS.items() if program.host]

#: What runs on an engine of a few thousand cycles a second: short, and together they use most of what gcc emits.
SHORT = ("demo", "linkedlist", "dispatch", "wide", "bitops", "strings")

VARIANTS = [("-O2", "high"), ("-O0", "high"), ("-O1", "high"), ("-O3", "high"), ("-Os", "high"), ("-O2", "low")]

#: Cycles per instruction that the pipeline must reach on integer workloads (gcc -O2).
MAX_CPI = 2.0
MEASURED = ("linkedlist", "matrix", "tokeniser", "crc", "sort", "strings")


def run(machine, name, *, n=None, opt="-O2", link="high", **options):
    """Run a program to its end; return the machine and the result."""
    m = machine(build_program(name, n=PROGRAMS[name].n_test if n is None else n, opt=opt, link=link), **options)
    result = m.run(max_cycles=MAX_CYCLES)
    return m, result


def is_slow(name: str) -> bool:
    return name == "pysim"


@pytest.mark.parametrize(("opt", "link"), VARIANTS, ids=["-".join(v) for v in VARIANTS])
@pytest.mark.parametrize("name", HOSTED)
def test_prints_what_the_native_twin_prints(machine, engine_name, name, opt, link):
    if is_slow(engine_name) and not (name in SHORT and (opt, link) == ("-O2", "high")) and (name, opt, link) not in (
        ("demo", "-O0", "high"), ("demo", "-Os", "high"), ("demo", "-O2", "low"),
    ):
        pytest.skip("too long for this engine: the compiled one runs it")
    _, result = run(machine, name, opt=opt, link=link)
    assert result.reason == StopReason.EXIT
    assert result.console.decode() == expected_output(name, n=PROGRAMS[name].n_test)
    assert result.exit == 1


@pytest.mark.parametrize("name", MEASURED)
def test_cycles_per_instruction(machine, engine_name, name):
    """Cycles are the same wherever it runs, so this measures the design and not the machine."""
    if is_slow(engine_name) and name not in ("linkedlist", "strings"):
        pytest.skip("too long for this engine: the compiled one runs it")
    program = PROGRAMS[name]
    _, result = run(machine, name, n=program.n_test if is_slow(engine_name) else program.n_bench)
    assert result.reason == StopReason.EXIT
    cpi = result.cycles / result.retired
    assert cpi <= MAX_CPI, f"{name}: {result.cycles} cycles for {result.retired} instructions are {cpi:.2f} each"


@pytest.mark.parametrize("link", ["high", "low"])
@pytest.mark.parametrize(("name", "says"), [("traps", "ok"), ("singlestep", "ok"), ("doublefault", "double fault")])
def test_trap_guests(machine, engine_name, name, says, link):
    if is_slow(engine_name) and link == "low":
        pytest.skip("too long for this engine: the compiled one runs it")
    _, result = run(machine, name, link=link)
    assert result.console.decode().splitlines()[-1] == says
    assert (result.reason, result.exit) == (StopReason.EXIT, 1)


def test_a_shutdown_ends_with_an_nmi(machine, assemble):
    """With no IDT the NMI cannot be delivered either: a chain of its own, and the NMI is lost."""
    m = machine()
    m.load(0x10000, assemble("ud2", at=0x10000).data)
    result = m.run(2000)
    assert (result.reason, [trap.vector for trap in result.shutdown]) == (StopReason.SHUTDOWN, [6, 13, 8, 13])
    assert result.why.startswith("hart 0 shut down on a triple fault") and not result.lost
    assert m.run(2000).reason == StopReason.SHUTDOWN, "it stays down"
    m.harts[0].nmi()
    result = m.run(2000)
    assert (result.reason, [trap.vector for trap in result.shutdown]) == (StopReason.SHUTDOWN, [2, 13, 8, 13])
    assert [(lost.vector, lost.by) for lost in result.lost] == [(2, 13)]


def test_triple_fault_is_reported(machine):
    m, result = run(machine, "triple")
    assert result.reason == StopReason.SHUTDOWN
    assert result.console == b"shutting down\n"
    assert [trap.vector for trap in result.shutdown] == [6, 13, 8, 13]
    assert m.harts[0].state.shutdown


def test_interrupt_guest(machine):
    """Sleeps in hlt until it is woken, three times, with an NMI in between."""
    m = machine(build_program("irq", n=3))
    for vector in (32, 33, 34):
        result = m.run(max_cycles=MAX_CYCLES)
        assert result.reason == StopReason.HALTED
        m.harts[0].irq(vector)
        if vector == 33:
            m.harts[0].nmi()
    result = m.run(max_cycles=MAX_CYCLES)
    assert result.reason == StopReason.EXIT
    text = bytes(e.byte for e in m.events if e.kind == "console").decode()
    assert text == "waiting\nvectors 000700000000 irqs 3 nmis 1 ok\n"


def test_wait_states_change_no_output(machine, engine_name):
    """Memory that is slow, or answers when it likes: the same text."""
    for options in (dict(wait_seed=11), dict(latency=4)):
        _, result = run(machine, "demo", **options)
        assert result.console.decode() == expected_output("demo", n=PROGRAMS["demo"].n_test), options


def test_interrupts_at_random_do_not_disturb(machine, engine_name, rng):
    """A program that knows nothing of interrupts prints the same under a hail of them."""
    name = "demo" if is_slow(engine_name) else "mix"
    program = build_program(name, n=PROGRAMS[name].n_test)
    m = machine(program)
    handler = 0x7000  # inc rax saved around it: push rax; mov $1, %eax; pop rax; iretq
    m.mem.write(handler, bytes.fromhex("50b801000000f7d858") + b"\x48\xcf")
    m.run(until="main")
    idt, regs = 0x6000, m.harts[0].regs
    for vector in range(32, 48):
        m.mem.write(idt + 16 * vector, gate(handler))
    old = m.mem.read(regs[SysReg.IDT_BASE.name.lower()], 16 * 32)
    m.mem.write(idt, old)
    regs.idt_base = idt
    regs.rflags |= 0x200
    hits = 0
    for _ in range(4000):
        result = m.run(max_cycles=rng.randrange(20, 400))
        if result.reason != StopReason.MAX_CYCLES:
            break
        m.harts[0].irq(rng.randrange(32, 48))
        hits += 1
    assert result.reason == StopReason.EXIT
    text = bytes(e.byte for e in m.events if e.kind == "console").decode()
    assert text == expected_output(name, n=PROGRAMS[name].n_test)
    assert hits > 10


def gate(offset: int) -> bytes:
    """An interrupt gate of code segment 8."""
    return (offset & 0xFFFF | 8 << 16 | 0x8E << 40 | (offset >> 16 & 0xFFFF) << 48 | offset >> 32 << 64).to_bytes(16, "little")


def test_stops_at_an_instruction_count(machine):
    """Stopping and going on changes nothing."""
    whole, result = run(machine, "demo")
    m = machine(build_program("demo", n=PROGRAMS["demo"].n_test))
    while m.run(until=StopOn(retired=97), max_cycles=MAX_CYCLES).reason != StopReason.EXIT:
        pass
    assert (m.cycle, m.harts[0].retired) == (whole.cycle, whole.harts[0].retired)
    assert result.retired == whole.harts[0].retired
