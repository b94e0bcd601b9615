"""The catalogue's scenarios of single instructions (I01 to I55) on the hardware, in every way of executing them.

Each is a snippet of a guest with a probe at each label ``here...``. Registers, flags and memory afterwards are those of the
run without probes; the way in which each was executed, and how often it was hit, are those of the row.
"""

import errno
import itertools
from dataclasses import dataclass, field

import pytest

from kprobes import Kprobe, KprobeError, KprobeFlag
from sim.elf import load_elf
from sim.engine import StopReason
from sim.guestbuild import build_text
from sim.machine import Machine
from tests.system.everything import DISPLACED, MODES, final_state

SOURCE = r"""
	.globl	here, snippet
	.type	snippet, @function
1:
snippet:
	SNIPPET
	ret
	.size	snippet, . - snippet

	.data
	.balign	16
pointer: .quad	leaf, 1b
bytes:	.ascii	"abcdefghijklmnop"
	.balign	16
copy:	.skip	64

	.section .note.GNU-stack, "", @progbits
"""

CC = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
SETTINGS = (0x0, 0x1, 0x4, 0x40, 0x80, 0x800, 0x880, 0x8C0, 0x8C5)


def conditions(distance):
    """All 16 jumps with settings of CF, PF, ZF, SF, OF under which each is taken and not taken."""
    text = ["xor %ecx, %ecx"]
    for number, (flags, cc) in enumerate(itertools.product(SETTINGS, CC)):
        text.append(f"push ${flags}; popfq")
        skip = f".skip {distance}, 0x90" if distance > 0 else ""
        if distance >= 0:
            text.append(f"here{number}: j{cc} 1f; add ${number}, %ecx; {skip}\n1: rol $1, %rcx")
        else:
            text.append(f"jmp 2f\n1: rol $1, %rcx; jmp 3f\n2: here{number}: j{cc} 1b; add ${number}, %ecx\n3:")
    return "\n".join(text)


@dataclass(frozen=True)
class Row:
    """A scenario: the snippet; how step="int3" executes it; whether it is boosted; hits of each probe where it is not 1."""

    ids: str
    text: str
    int3: str = "emulate"
    boost: bool = False
    hits: dict = field(default_factory=dict)  # by what ends the copy: "tf", or "whole"


ROWS = (
    Row("I01", "here: call leaf"),
    Row("I02", "here: .byte 0x66, 0xe8; .long leaf - . - 4"),
    Row("I02", "here: .byte 0xf2, 0xe8; .long leaf - . - 4"),
    Row("I02", "here: .byte 0x48, 0xe8; .long leaf - . - 4"),
    Row("I03", "lea leaf(%rip), %rax\nhere: call *%rax"),
    Row("I04", "lea leaf(%rip), %r11\nhere: call *%r11"),
    Row("I05", "push $0xc3\nhere: call *%rsp; pop %rax"),
    Row("I06", "lea pointer - 8(%rip), %rax\nhere: call *8(%rax)"),
    Row("I07", "lea 1f(%rip), %rax\nhere: jmp *%rax; ud2\n1:", boost=True),
    Row("I07", "mov $1, %ecx\nhere: jmp *pointer(, %rcx, 8); ud2\n1:", boost=True),
    Row("I08", "jmp 2f\n1: inc %eax; jmp 3f\n2: here: jmp 1b\n3:"),
    Row("I08", "here: jmp 1f; inc %eax\n1:"),
    Row("I08", "here: jmp 1f; .skip 200, 0x90\n1:"),
    Row("I09", conditions(0)),
    Row("I10", conditions(-1)),
    Row("I11", conditions(130)),
    Row("I12", "mov $1, %ecx\nhere: loop 1f; inc %eax\n1:"),
    Row("I13", "xor %ecx, %ecx\nhere: loop 1f; inc %eax\n1:"),
    Row("I14", "mov $5, %ecx; cmp %eax, %eax\n1: here: loope 1b", hits={"whole": 5, "tf": 5}),
    Row("I14", "mov $5, %ecx; cmp %eax, %eax\n1: here: loopne 1b"),
    Row("I14", "mov $5, %ecx; test %eax, %eax\n1: here: loope 1b"),
    Row("I14", "mov $0x300000002, %rcx\n1: here: addr32 loop 1b", hits={"whole": 2, "tf": 2}),
    Row("I15", "mov $0x100000000, %rcx\nhere: jrcxz 1f; inc %eax\n1:"),
    Row("I15", "mov $0x100000000, %rcx\nhere: jecxz 1f; inc %eax\n1:"),
    Row("I16_I19", "jmp 2f\n1: mov (%rsp), %rdx\nhere: ret\n2: call 1b", boost=True),
    Row("I17", "jmp 2f\n1: mov (%rsp), %rdx\nhere: ret $16\n2: push %rax; push %rax; call 1b", boost=True),
    Row("I18", "mov %cs, %eax; push %rax; lea 1f(%rip), %rax; push %rax\nhere: lretq\n1:", boost=True),
    Row("I18", "push $1; mov %cs, %eax; push %rax; lea 1f(%rip), %rax; push %rax\nhere: lretq $8\n1:", boost=True),
    Row("I20", "sti; nop\nhere: pushfq; pop %rax", boost=True),
    Row("I21", "cli\nhere: pushfq; pop %rax", boost=True),
    Row("I22", "sti; nop\nhere: pushfw; pop %ax", boost=True),
    Row("I22", "sti; nop\nhere: .byte 0x48, 0x9c; pop %rax", boost=True),
    Row("I23", "sti; nop; push $0xc7\nhere: popfq"),  # not boosted: if it set TF, the jump behind it would be stepped
    Row("I24", "push $0x202\nhere: popfq; nop"),
    Row("I26", "sti; nop\nhere: cli", boost=True),
    Row("I27", "here: sti; nop", boost=True),
    Row("I35", "mov %ss, %eax\nhere: mov %eax, %ds", "step", boost=True),
    Row("I37", "here: lock incl (%rdi)", "step", boost=True),
    Row("I38", "lea bytes(%rip), %rsi; lea copy(%rip), %rdi; mov $5, %ecx\nhere: rep movsb", "step", boost=True, hits={"tf": 5}),
    Row("I39", "xor %ecx, %ecx\nhere: rep stosq", "step", boost=True),
    Row("I41", "here: mov number(%rip), %rax", "step", boost=True),
    Row("I42", "here: lea number(%rip), %rax", "step", boost=True),
    Row("I43", "here: cmpl $0x12345678, number(%rip)", "step", boost=True),
    Row("I44", "mov $0x804, %eax\nhere: bextr %rax, number(%rip), %rcx", "step", boost=True),
    Row("I44", "here: movbe number(%rip), %rax", "step"),
    Row("I45", "here: jmp *pointer + 8(%rip); ud2\n1:", boost=True),
    Row("I45", "here: call *pointer(%rip)"),
    Row("I46", "here: mov number, %eax", "step", boost=True),
    Row("I47", "here: push %rsp; pop %rax", "step", boost=True),
    Row("I47", "push $5; push $6\nhere: pop (%rsp); pop %rax", "step", boost=True),
    Row("I47", "here: enter $24, $0; leave", "step", boost=True),
    Row("I47", "enter $24, $0\nhere: leave", "step", boost=True),
    Row("I48", "here: xchg %rax, (%rdi)", "step", boost=True),
    Row("I48", "here: lock cmpxchg16b (%rdi)", "step"),
    Row("I48", "here: rdtsc; xor %eax, %eax; xor %edx, %edx", "step", boost=True),
    Row("I48", "xor %ecx, %ecx; xor %eax, %eax\nhere: cpuid", "step"),
    Row("I48", "mov $0xc0000080, %ecx\nhere: rdmsr", "step"),
    Row("I49", "mov $0x9000, %edi\nhere: mov %eax, (%edi)", "step"),
    Row("I49", "here: mov %cs:(%rdi), %eax", "step"),
    Row("I50", "here: nopl 0(%rax, %rax)", "step", boost=True),
    Row("I50", "nop\nhere: endbr64", "step"),
    Row("I51", "here: mov %gs:0x1000, %rax", "step", boost=True),
    Row("I52", "mov $0xc0000084, %ecx; mov $0x300, %eax; xor %edx, %edx\nhere: wrmsr", "step"),
    Row("I52", "mov %cr3, %rax\nhere: mov %rax, %cr3", "step", boost=True),
    Row("I52", "here: invlpg (%rdi)", "step"),
)

REFUSED = (
    Row("I29", "here: hlt"), Row("I31", "here: int3"), Row("I32", "here: int $0x80"), Row("I32", "here: .byte 0xf1"),
    Row("I33", "here: ud2"), Row("I34", "here: mov %eax, %ss"), Row("I36", "here: syscall"), Row("I36", "here: sysenter"),
    Row("I36", "here: sysretq"), Row("I55", 'here: .byte 0x0f, 0x0b; .ascii "kvm"'),
)
ERRNO = {"I29": errno.EOPNOTSUPP, "I34": errno.EINVAL, "I36": errno.EOPNOTSUPP} | dict.fromkeys(
    ("I31", "I32", "I33", "I55"), errno.EILSEQ)

FAULTS = (
    Row("I53", "mov $0x12345, %ecx\nhere: rdmsr", "step"), Row("I53", "mov $0x40000000, %edx\nhere: mov (%rdx), %rax", "step"),
    Row("I53", "mov $0x40000000, %edx\nhere: call *(%rdx)"), Row("I53", "mov $0x40000000, %esp\nhere: call leaf"),
    Row("I53", "mov $0x40000000, %esp\nhere: pushfq"), Row("I53", "here: fld1", "step"),
    Row("I54", "xor %ecx, %ecx\nhere: div %ecx", "step"),
)


def ids(rows):
    return [f"{row.ids}-{n}" for n, row in enumerate(rows)]


def machine_of(row, engine, mode):
    elf = build_text(SOURCE.replace("SNIPPET", row.text), name="instruction", suffix=".S", beside=[DISPLACED])
    return Machine(load_elf(elf), engine=engine, probes=MODES[mode])


def addresses(machine):
    """Where the probes go."""
    names = ["here", *(f"here{n}" for n in range(len(CC) * len(SETTINGS)))]
    found = [machine.symbols.lookup(name) for name in names]
    return [address for address in found if address is not None]


def run(row, engine, mode, probed):
    """The final state, the result, and the events and probes."""
    with machine_of(row, engine, mode) as machine:
        probes = [Kprobe(addr=address, pre_handler=lambda p, regs: None) for address in addresses(machine) if probed]
        for probe in probes:
            machine.kprobes.register_kprobe(probe)
        if MODES[mode].optimize:
            machine.kprobes.wait_for_optimizer()
        jumps = {probe.addr for probe in probes if probe.flags & KprobeFlag.OPTIMIZED}
        result = machine.run(200_000)
        phases = [event.phase for event in machine.events if event.kind == "probe"]
        for probe in probes:
            machine.kprobes.unregister_kprobe(probe)
        machine.kprobes.wait_for_optimizer()
        return final_state(machine, result), result, phases, probes, jumps


@pytest.fixture
def compiled(engine_name):
    if engine_name == "pysim":
        pytest.skip("hundreds of runs: on the compiled engine only")
    return engine_name


def expected_way(row, mode):
    options = MODES[mode]
    if options.boost and row.boost:
        return "boost"
    return row.int3 if options.step == "int3" else "step"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_I01_to_I52_displaced(row, mode, compiled):
    wanted, _, _, _, _ = run(row, compiled, mode, False)
    state, result, phases, probes, jumps = run(row, compiled, mode, True)
    assert (result.reason, result.exit) == (StopReason.EXIT, 1), (result.why, result.console)
    assert state == wanted
    way = expected_way(row, mode)
    hits = row.hits.get("tf" if way == "step" and MODES[mode].step == "tf" and not jumps else "whole", 1)
    assert {probe.hits for probe in probes} == {hits}
    ways = {phase for phase in phases if phase in ("step", "boost", "emulate", "detour")}
    assert ways == ({"detour"} if jumps else set()) | ({way} if len(jumps) < len(probes) else set())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", REFUSED, ids=ids(REFUSED))
def test_I29_I31_I32_I33_I34_I36_I55_refused(row, mode, compiled):
    with machine_of(row, compiled, mode) as machine:
        snippet = machine.symbols.lookup("snippet")
        before = machine.mem.read(snippet, 64)
        with pytest.raises(KprobeError) as info:
            machine.kprobes.register_kprobe(Kprobe(symbol_name="here"))
        assert info.value.errno == ERRNO[row.ids]
        assert machine.mem.read(snippet, 64) == before and not machine.kprobes.registered


@pytest.mark.parametrize("mode", MODES)
def test_I30_iretq(mode, compiled):
    """Stepped by TF; int3 stepping refuses it, since it does not come back to the slot."""
    row = Row("I30", "mov %ss, %eax; mov %rsp, %rdx; push %rax; push %rdx; push $0x46; mov %cs, %eax; push %rax\n"
                     "lea 1f(%rip), %rax; push %rax\nhere: iretq\n1:", "step", boost=True)
    if MODES[mode].step == "int3":
        with pytest.raises(KprobeError) as info:
            run(row, compiled, mode, True)
        assert info.value.errno == errno.EOPNOTSUPP
    else:
        wanted, *_ = run(row, compiled, mode, False)
        state, _, phases, (probe,), _ = run(row, compiled, mode, True)
        assert state == wanted and probe.hits == 1 and expected_way(row, mode) in phases


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", FAULTS, ids=ids(FAULTS))
def test_I53_I54_a_fault_is_reported_at_the_probed_address(row, mode, compiled):
    def trap(probed):
        with machine_of(row, compiled, mode) as machine:
            if probed:
                machine.kprobes.register_kprobe(Kprobe(symbol_name="here", pre_handler=lambda p, regs: None))
            result = machine.run(200_000)
            here = machine.symbols.lookup("here")
            if result.unhandled:
                return [(call.vector, call.resume - here) for call in result.unhandled]
            return [(event.vector, event.rip) for event in result.shutdown][-1:]  # no stack to deliver it on

    wanted = trap(False)
    assert wanted and trap(True) == wanted


def interrupted(text, engine, mode, probed):
    """Run a snippet with an interrupt waiting from the start; return the machine's result and where interrupts came."""
    with machine_of(Row("", text), engine, mode) as machine:
        if probed:
            machine.kprobes.register_kprobe(Kprobe(symbol_name="here", pre_handler=lambda p, regs: None))
        machine.harts[0].irq(0x21)
        first = machine.run(30_000)
        asleep = machine.harts[0].state.halted
        if asleep:
            machine.harts[0].irq(0x22)
            first = machine.run(30_000)
        here = machine.symbols.lookup("here")
        return first.exit, asleep, [(e.vector, e.rip - here) for e in machine.events if e.kind == "trap" and e.vector > 0x20]


@pytest.mark.parametrize("mode", MODES)
def test_I24_popf_lets_an_interrupt_in_at_the_next_instruction(mode, compiled):
    text = "push $0x202\nhere: popfq; nop; cli"
    wanted = interrupted(text, compiled, mode, False)
    assert wanted == (1, False, [(0x21, 1)])
    assert interrupted(text, compiled, mode, True) == wanted


@pytest.mark.parametrize("mode", MODES)
def test_I27_I28_sti_keeps_no_interrupt_away_from_the_next_instruction(mode, compiled):
    """Unprobed, the shadow of sti lets hlt begin, and the interrupt ends it. A probe on sti, however it is executed, has the
    interrupt come before the hlt, which then sleeps until the next one: the one thing that a probe changes."""
    text = "here: sti; hlt; nop; cli"
    assert interrupted(text, compiled, mode, False) == (1, False, [(0x21, 2)])
    assert interrupted(text, compiled, mode, True) == (1, True, [(0x21, 1), (0x22, 2)])


@pytest.mark.parametrize("mode", MODES)
def test_I25_popf_sets_TF_for_the_instruction_behind_the_next(mode, compiled):
    """The guest's own debug trap comes after the instruction behind popf, and goes on until TF is off."""
    text = ("pushfq; orq $0x100, (%rsp)\nhere: popfq; nop; inc %eax; pushfq; andq $~0x100, (%rsp); popfq; ret\n"
            ".globl trap_unhandled\ntrap_unhandled: mov 128(%rdi), %rax; mov list(%rip), %rcx; mov %rax, (%rcx)\n"
            "addq $8, list(%rip); ret\n.pushsection .data\nlist: .quad list + 8\n.skip 128\n.popsection")
    row = Row("I25", text)
    seen = []
    for probed in (False, True):
        state, result, phases, *_ = run(row, compiled, mode, probed)
        assert (result.exit, len(result.unhandled)) == (1, 5) and ("hit" in phases) is probed
        seen.append((state, [(call.vector, call.rip) for call in result.unhandled]))
    assert seen[0] == seen[1]
