"""Scenarios of the catalogue that no other file holds."""

import errno

import pytest

from kprobes import GuestMemoryError, Jprobe, Kprobe, KprobeError, Options
from tests.kprobes.fakecpu import IF
from tests.kprobes.fakemachine import FakeMachine, UnhandledTrap

SOURCE = """
func f
at: lea rax, [rdi + 1]
    ret
endf f
func g
    nop
    jmp 1f
    ud2
1:  lea rax, [rdi + rdi]
    ret
endf g
func wakes
    sti
sleep: hlt
    ret
endf wakes
func tick
    inc qword ptr [count]
    iretq
endf tick
func stacks
    pushfq
    pop rax
calls: call f
    ret
endf stacks
.data
count: .quad 0
"""


def planted(m, **fields):
    p = Kprobe(**fields)
    m.kprobes.register_kprobe(p)
    return p


def test_R27_the_blacklist_grows_by_functions():
    m = FakeMachine(SOURCE)
    for addr in (m["count"], 0x1000):
        with pytest.raises(KprobeError, match="nothing to forbid there") as error:
            m.kprobes.blacklist.add_symbol(addr)
        assert error.value.errno == errno.EINVAL
    assert m.kprobes.blacklist.add_symbol(m["g"]) == m.symbols.containing(m["g"]).size
    with pytest.raises(KprobeError, match="'g' is on the blacklist"):
        planted(m, symbol_name="g", offset=1)
    planted(m, symbol_name="f")


@pytest.mark.parametrize("step", ["tf", "int3"])
def test_H24_a_boosted_nop_traps_once(step):
    m = FakeMachine(SOURCE, options=Options(step=step, boost=True))
    p = planted(m, symbol_name="g")
    slot = m.kprobes.slot_of(p)
    assert m.read(slot, 2) == b"\x90\xe9" and m.call("g", 4) == 8
    assert [vector for vector, _ in m.traps] == [3] and p.hits == 1


@pytest.mark.parametrize("place", ["stacks", "calls"])
def test_H27_what_software_pushes_and_the_frame_of_the_trap(place):
    """The frame lies right below the interrupted stack, where the push goes."""
    m = FakeMachine(SOURCE, options=Options(step="int3"))
    expected = m.call("stacks", 6)
    after = m.cpu[0].regs.copy()
    p = planted(m, addr=m[place])
    assert m.call("stacks", 6) == expected == 7 and p.hits == 1
    assert m.cpu[0].regs == after


def test_I28_the_interrupt_comes_between_sti_and_hlt():
    """Without a probe sti holds it back until hlt sleeps; the step ends that. Nobody can do better without a second trap."""
    m = FakeMachine(SOURCE)
    planted(m, symbol_name="wakes")
    m.injections.append((lambda core: bool(core.regs.flags & IF), "irq", m["tick"]))
    m.start("wakes", flags=0)
    m.run(until=lambda regs: regs.ip == m["sleep"] and m.word(m["count"]))
    assert m.word(m["count"]) == 1 and m.cpu[0].regs.flags & IF


@pytest.mark.parametrize(("scenario", "code", "number"), [
    ("I29", "hlt", errno.EOPNOTSUPP), ("I31", "int3", errno.EILSEQ), ("I32", "int 0x80", errno.EILSEQ),
    ("I32", ".byte 0xf1", errno.EILSEQ), ("I33", "ud2", errno.EILSEQ), ("I34", "mov ss, eax", errno.EINVAL),
    ("I36", "syscall", errno.EOPNOTSUPP), ("I36", ".byte 0x48, 0x0f, 0x07", errno.EOPNOTSUPP), ("I36", "sysenter", errno.EOPNOTSUPP),
    ("I55", '.ascii "\\x0f\\x0bxen"; cpuid', errno.EILSEQ), ("I55", '.ascii "\\x0f\\x0bkvm"; nop', errno.EILSEQ),
])  # fmt: skip
@pytest.mark.parametrize("step", ["tf", "int3"])
def test_refused_by_what_it_is(scenario, code, number, step):
    m = FakeMachine(f"func f\nat: {code}\nret\nendf f", options=Options(step=step))
    before = m.snapshot()
    with pytest.raises(KprobeError) as error:
        planted(m, symbol_name="f")
    assert error.value.errno == number
    assert m.snapshot() == before and m.kprobes.registered == ()


def test_I52_translation_changes_in_the_slot(where):
    if where == "fake":
        pytest.skip("the fake cpu has no control registers; the hardware has")
    m = FakeMachine("func f\nmov rax, cr3\nat: mov cr3, rax\nway: invlpg [rdi]\nmov eax, 5\nret\nendf f")
    probes = [planted(m, addr=m[place]) for place in ("at", "way")]
    assert m.call("f", m["f"]) == 5 and [p.hits for p in probes] == [1, 1]


def test_I53_a_trap_of_an_instruction_that_this_cpu_does_not_have(where):
    """The core has no floating point: #UD, reported where the probe is."""
    if where == "fake":
        pytest.skip("the fake cpu executes it; the hardware refuses")
    m = FakeMachine("func f\nat: movdqu xmm0, [rdi]\nret\nendf f")
    planted(m, addr=m["at"])
    with pytest.raises(UnhandledTrap) as error:
        m.call("f", m["f"])
    trap = error.value.trap
    assert (trap.vector, trap.regs.ip) == (6, m["at"]) and m.kprobes.kprobe_running(0) is None


def test_F06_a_handler_that_expects_its_fault():
    m, got = FakeMachine(SOURCE), []

    def handler(p, regs):
        try:
            m.read(0x7000, 8)
        except GuestMemoryError as error:
            got.append(error)

    p = planted(m, symbol_name="f", pre_handler=handler)
    assert m.call("f", 1) == 2 and len(got) == 1 and p.nmissed == 0


def test_A14_text_that_is_no_switch():
    m = FakeMachine(SOURCE)
    with pytest.raises(KprobeError) as error:
        m.kprobes.files.enabled = "2x"
    assert error.value.errno == errno.EINVAL and m.kprobes.enabled


def test_J14_a_handler_inside_a_function():
    m = FakeMachine(SOURCE)
    with pytest.raises(KprobeError, match="inside 'g', not at its start") as error:
        m.kprobes.register_jprobe(Jprobe(m["g"] + 1, symbol_name="f"))
    assert error.value.errno == errno.EINVAL and m.kprobes.registered == ()
