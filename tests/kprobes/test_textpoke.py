"""Writing several bytes of text while cpus run through them (P24, P25, R16)."""

import pytest

from kprobes import GuestMemoryError
from kprobes.insn import jump_target
from kprobes.text import Text
from kprobes.textpoke import Poke, TextPoke
from tests.kprobes.fakecpu import CF, IF, ZF
from tests.kprobes.fakemachine import FakeMachine, UnhandledTrap

pytestmark = pytest.mark.fake_only("looks at memory in the middle of the protocol; harts that run: tests/smp, sim.explore")

SOURCE = """
func f
    mov eax, 1
at: mov ecx, 0x11111111
    add rax, rcx
    ret
endf f
func g
    mov ecx, 0x22222222
    lea rax, [rax + rcx]
    ret
endf g
func h
    mov ecx, 0x33333333
    ret
endf h
"""
OLD, NEW, AFTER_CALL = 0x11111112, 0x22222223, 0x33333334


class PokedMachine(FakeMachine):
    """A machine whose traps go to a TextPoke only, and which runs ``between`` after each step of the protocol."""

    deadline = None

    def __init__(self, source=SOURCE):
        super().__init__(source)
        self.text_of_it = Text(self)
        self.poke = TextPoke(self, self.text_of_it)
        self.between = None
        self.states = []
        self.kprobes = self

    def on_trap(self, trap):
        return trap.vector == 3 and self.poke.on_trap(trap.regs)

    def sync_cores(self):
        super().sync_cores()
        self.states.append(self.read(self["at"], 6))
        if self.between:
            self.between()


def jump(m, to="g", opcode=b"\xe9", at="at"):
    end = m[at] + len(opcode) + 4
    return opcode + (m[to] - end & 0xFFFFFFFF).to_bytes(4, "little")


def test_P24_each_step_shows_the_old_or_the_new_instruction():
    m = PokedMachine()
    data = jump(m)
    old = m.read(m["at"], 6)
    results = []
    m.between = lambda: results.append(m.call("f"))
    assert m.call("f") == OLD
    m.poke.write([Poke(m["at"], data)])
    assert m.states == [b"\xcc" + old[1:], b"\xcc" + data[1:] + old[5:], data + old[5:]]
    assert results == [NEW, NEW, NEW] and [v for v, _ in m.traps] == [3, 3]


def test_P24_back_to_the_original():
    m = PokedMachine("func f\nmov eax, 1\nat: .byte 0x0f, 0x1f, 0x44, 0, 0\nret\nendf f\nfunc g\nmov eax, 7\nret\nendf g")
    old, data = m.read(m["at"], 6), jump(m)
    m.poke.write([Poke(m["at"], data)])
    results = []
    m.between = lambda: results.append(m.call("f"))
    m.states.clear()
    m.poke.restore([(m["at"], 5)])
    assert m.states == [b"\xcc" + data[1:] + old[5:], b"\xcc" + old[1:], old]
    assert results == [1, 1, 1] and m.text_of_it.recovered(m["at"], m["at"] + 6) == old


def test_P24_a_cpu_that_waits_before_the_instruction_at_every_step():
    for stop in range(1, 4):
        m = PokedMachine()
        m.start("f")
        m.run(until=lambda regs, m=m: regs.ip == m["at"])
        m.between = lambda m=m, stop=stop: m.syncs == stop and m.run()
        m.poke.write([Poke(m["at"], jump(m))])
        assert m.cpu[0].regs.ax == NEW


def test_an_instruction_that_no_trap_can_stand_for():
    m = PokedMachine()
    with pytest.raises(ValueError, match="cannot stand for 'mov eax"):
        m.poke.write([Poke(m["at"], b"\xb8\0\0\0\0")])
    assert m.syncs == 0


def test_P25_a_breakpoint_that_stays_is_left_to_its_owner():
    m = PokedMachine()
    seen = []

    def between():
        try:
            m.call("f")
        except UnhandledTrap as trap:
            seen.append(trap.trap.vector)

    m.between = between
    m.poke.write([Poke(m["at"], b"\xcc\x90\x90\x90\x90")])
    assert seen == [3, 3, 3]


@pytest.mark.parametrize(("data", "result"), [
    (b"\xc3", 1), (b"\xeb\x05", 1), (b"\x66\x90", None), (b"\x0f\x1f\x44\x00\x00", None)])
def test_what_a_trap_stands_for(data, result):
    m = PokedMachine()
    ends = []

    def between():
        m.start("f")
        m.cpu[0].regs.cx = 5
        m.run(until=lambda regs: regs.ip == m["at"])
        m.step()
        ends.append((m.cpu[0].regs.ip, m.cpu[0].regs.sp))

    m.between = between
    m.poke.write([Poke(m["at"], data)])
    assert len(set(ends)) == 1, "the trap does what the instruction does"


@pytest.mark.parametrize("code", range(16))
@pytest.mark.parametrize("near", [False, True])
def test_what_a_trap_stands_for_when_it_is_a_condition(code, near):
    opcode = bytes([0x0F, 0x80 + code]) if near else bytes([0x70 + code])
    m = PokedMachine()
    data = jump(m, opcode=opcode) if near else opcode + b"\x04"
    for flags in (0, ZF, CF, CF | ZF, 0x80, 0x880, 0x800, 4):
        ends = []

        def between(flags=flags, ends=ends):
            m.start(m["at"], flags=IF | flags)
            m.step()
            ends.append(m.cpu[0].regs.ip)

        m.between = between
        m.poke.write([Poke(m["at"], data)])
        assert len(ends) == 3 and len(set(ends)) == 1
        assert ends[0] in (m["at"] + len(data), jump_target(data, m["at"]))


def test_a_call_pushes_the_address_behind_it():
    m = PokedMachine()
    results = []
    m.between = lambda: results.append(m.call("f"))
    m.poke.write([Poke(m["at"], jump(m, "h", b"\xe8"))])
    assert results == [AFTER_CALL] * 3


def test_a_batch_takes_three_syncs_and_is_published_as_a_whole():
    m = PokedMachine("func f\nat: nop\nnop\nnop\nnop\nnop\nb: nop\nnop\nnop\nnop\nnop\nnop\nret\nendf f\nfunc g\nmov eax, 7\nret\nendf g")
    pokes = [Poke(m["at"], jump(m)), Poke(m["b"], jump(m, at="b"))]
    m.between = lambda: [m.call(m[name]) for name in ("at", "b")] == [7, 7] or pytest.fail("torn")
    m.poke.write(pokes)
    assert m.syncs == 3
    assert m.text_of_it.recovered(m["f"], m["f"] + 11) == b"\x90" * 11
    m.between = lambda: m.call(m["f"])


def test_a_user_mode_trap_is_not_ours():
    m = PokedMachine()
    seen = []

    def between():
        regs = m.start("f")
        regs.ip = m["at"] + 1
        regs.cs = 0x33
        seen.append(m.poke.on_trap(regs))
        regs.cs = 0x10

    m.between = between
    m.poke.write([Poke(m["at"], jump(m))])
    assert seen == [False] * 3


def test_nothing_is_written_when_part_of_it_is_not_mapped():
    m = PokedMachine("func f\nat: nop\n.fill 4090, 1, 0x90\nend: ret\nendf f")
    end = (m["at"] & -4096) + 4094
    before = m.snapshot()
    with pytest.raises(GuestMemoryError):
        m.poke.write([Poke(m["at"], jump(m, "end")), Poke(end, b"\xe9\0\0\0\0")])
    assert m.snapshot() == before and m.syncs == 0
