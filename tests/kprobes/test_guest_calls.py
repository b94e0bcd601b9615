"""``regs.call``: guest functions that handlers call, so that hits within hits really happen."""

import pytest

from kprobes import Door, HandlerError, Kprobe, PtRegs
from kprobes.errors import GuestCallError
from tests.kprobes.fakemachine import FakeMachine

SOURCE = """
func f
    lea rax, [rdi + 1]
    ret
endf f
func g
    lea rax, [rdi + rdi]
    ret
endf g
func forever
    jmp forever
endf forever
"""


@pytest.fixture
def m():
    return FakeMachine(SOURCE)


@pytest.mark.parametrize("role", ["pre_handler", "post_handler"])
def test_N01_N02_a_handler_calls_a_probed_function(m, role, every_mode):
    got = []
    outer = Kprobe(symbol_name="f", **{role: lambda p, regs, *flags: got.append((regs.call("g", 4), regs.call(m["g"], 5)))})
    inner = Kprobe(symbol_name="g", pre_handler=lambda p, regs: 1 / 0)
    m.kprobes.register_kprobe(outer)
    m.kprobes.register_kprobe(inner)
    assert m.call("f", 7) == 8
    assert got == [(8, 10)]
    assert (inner.nmissed, inner.hits, outer.nmissed) == (2, 0, 0)


def test_N08_a_handler_calls_the_function_that_it_probes(m, every_mode):
    p = Kprobe(symbol_name="f", pre_handler=lambda p, regs: got.append(regs.call("f", 1)))
    got = []
    m.kprobes.register_kprobe(p)
    assert m.call("f", 7) == 8
    assert (got, p.hits, p.nmissed) == ([2], 1, 1)


def test_only_while_a_handler_runs(m):
    kept = []
    m.kprobes.register_kprobe(Kprobe(symbol_name="f", pre_handler=lambda p, regs: kept.append(regs)))
    m.call("f", 1)
    for regs in (*kept, PtRegs(), kept[0].copy()):
        with pytest.raises(GuestCallError, match="inside a handler only"):
            regs.call("g")


def test_a_name_that_is_not_there(m):
    m.kprobes.register_kprobe(Kprobe(symbol_name="f", pre_handler=lambda p, regs: regs.call("h")))
    with pytest.raises(HandlerError, match="there is no symbol 'h' in the guest to call"):
        m.call("f", 1)


def test_a_function_that_does_not_return_leaves_no_hit_behind(m):
    """Neither that of the caller, nor one that was under way in the function."""
    caught = []

    def handler(p, regs):
        try:
            regs.call("forever")
        except GuestCallError as error:
            caught.append(error)
        assert m.kprobes.kprobe_running(0) is p
        assert regs.call("g", 3) == 6

    m.kprobes.register_kprobe(Kprobe(symbol_name="f", pre_handler=handler))
    inner = Kprobe(symbol_name="forever")
    m.kprobes.register_kprobe(inner)
    assert m.call("f", 1) == 2
    assert len(caught) == 1 and inner.nmissed > 1
    assert m.kprobes.kprobe_running(0) is None


def test_the_addresses_of_doors():
    m = FakeMachine(SOURCE)
    assert m.guest.door(Door.TRAMPOLINE) == 0xFFFFFFFFFE000400
    assert m.guest.door(Door.FENTRY) - m.guest.door(Door.DETOUR) == 8
