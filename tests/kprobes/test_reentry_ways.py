"""Hits inside hits, where the inner instruction needs no step (N05, N06, N11)."""

import pytest

from kprobes import Kprobe, Options
from tests.kprobes.fakemachine import FakeMachine

SOURCE = """
func outer
    mov eax, 0x11
at: add eax, edi
    nop
    nop
    ret
endf outer
func inner
    lea eax, [rdi+rdi]
    ret
endf inner
func jumps
    jmp 1f
    nop
1:  mov eax, 5
    ret
endf jumps
func opens
    sti
    nop
    nop
    cli
    mov eax, 3
    ret
endf opens
func interrupt
    push rax
    mov eax, 0x12345678
    pop rax
    iretq
endf interrupt
"""


def hit_inside(options, symbol, result):
    """Probe ``symbol`` and have it called from a handler; return the machine, the inner probe, and what ran afterwards."""
    m = FakeMachine(SOURCE, options=options)
    inner = Kprobe(symbol_name=symbol, pre_handler=lambda p, regs: pytest.fail("its handler must not run"))
    m.kprobes.register_kprobe(inner)
    running = []

    def pre(p, regs):
        assert regs.call(symbol, 21) == result
        running.append(m.kprobes.kprobe_running(0))

    outer = Kprobe(symbol_name="outer", pre_handler=pre)
    m.kprobes.register_kprobe(outer)
    m.kprobes.wait_for_optimizer()
    assert m.call("outer", 1) == 0x12 and outer.hits == 1 and running == [outer]
    assert m.kprobes.kprobe_running(0) is None
    return m, inner, outer


def test_N05_a_boosted_one_runs_in_its_slot():
    m, inner, outer = hit_inside(Options(boost=True), "inner", 42)
    assert (inner.hits, inner.nmissed, outer.nmissed) == (0, 1, 0)
    assert [vector for vector, _ in m.traps] == [3, 3], "no step"


def test_N06_an_emulated_one_is_done_at_once():
    m, inner, outer = hit_inside(Options(step="int3"), "jumps", 5)
    assert (inner.nmissed, outer.nmissed) == (1, 0)
    assert [vector for vector, _ in m.traps].count(3) == 3, "outer, inner, and the end of outer's step"


def test_N05_an_optimised_one_stays_in_its_detour():
    m, inner, outer = hit_inside(Options(optimize=True), "opens", 3)
    assert (inner.nmissed, outer.nmissed) == (1, 0)
    assert not m.traps


def test_N11_an_interrupt_during_an_optimised_handler():
    m = FakeMachine(SOURCE, options=Options(optimize=True))
    probed = Kprobe(symbol_name="interrupt", pre_handler=lambda p, regs: pytest.fail("its handler must not run"))

    def pre(p, regs):
        m.irq(m["interrupt"])
        assert regs.call("opens") == 3

    p = Kprobe(addr=m["at"], pre_handler=pre)
    m.kprobes.register_kprobes([probed, p])
    m.kprobes.wait_for_optimizer()
    assert m.read(m["at"], 1) == b"\xe9"
    assert m.call("outer", 1, flags=0) == 0x12
    assert (p.hits, p.nmissed, probed.nmissed) == (1, 0, 1)
