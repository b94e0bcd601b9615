"""Requests to the runtime at moments when another hart is in a trap of the probe: scenarios that need two harts."""

import pytest

from kprobes import Jprobe, Kprobe
from sim.engine import StopOn
from sim.events import ProbePhase
from sim.guestbuild import build_program

#: The guest `patched`: each hart calls `work` so often, and then it prints this.
CALLS, OUTPUT = 10, b"patched: af0a1e82\n"


@pytest.fixture
def patched(machine):
    return machine(build_program("patched", n=CALLS), harts=2)


def planted(m, place="w_add", **fields):
    p = Kprobe(symbol_name=place, **{"pre_handler": lambda p, regs: 0} | fields)
    m.kprobes.register_kprobe(p)
    return p


def in_the_trap(m, hart=1, hits=2):
    """Run until the hart has taken an int3 whose delivery has not begun, some hits later."""
    while sum(event.phase == "hit" and event.hart == hart for event in m.events.of(ProbePhase)) < hits:
        m.run(until=StopOn(trap=True, hart=hart))
    while True:
        m.run(until=StopOn(trap=True, hart=hart))
        if m.events[len(m.events) - 1].vector == 3:
            return


def phases(m, hart, start):
    return [event.phase for i, event in enumerate(m.events) if i >= start and isinstance(event, ProbePhase)
            and event.hart == hart]


def finished(m):
    result = m.run()
    assert result.exit == 1
    console = bytes(event.byte for event in m.events if event.kind == "console")
    assert console == OUTPUT
    return result


def test_H13_removed_between_the_trap_and_its_handling(patched):
    p = planted(patched)
    in_the_trap(patched)
    start, hits = len(patched.events), p.hits
    patched.kprobes.unregister_kprobe(p)
    finished(patched)
    assert phases(patched, 1, start) == ["miss"], "it executes the original instruction, and no handler runs"
    late = [event.hart for i, event in enumerate(patched.events) if i >= start and event.kind == "probe" and event.phase == "hit"]
    assert not late and p.hits == hits


def test_H17_disabled_between_the_trap_and_its_handling(patched):
    """A kernel's may run once more, as its look-up does not ask; here none runs until the probe is enabled again."""
    p = planted(patched)
    in_the_trap(patched)
    hits = p.hits
    patched.kprobes.disable_kprobe(p)
    patched.run(100)
    assert p.hits == hits
    patched.kprobes.enable_kprobe(p)
    finished(patched)
    assert p.hits > hits


@pytest.mark.parametrize("cycles", range(0, 160, 23))
def test_H14_unregistered_while_the_other_hart_is_in_its_hit(patched, cycles):
    """Wherever hart 1 is, in the entry code, the slot or the way back: it goes on behind the instruction, once."""
    p = planted(patched)
    slot = patched.kprobes.slot_of(p)
    in_the_trap(patched)
    patched.run(cycles)
    patched.kprobes.unregister_kprobe(p)
    q = planted(patched, "work")
    if slot == patched.kprobes.slot_of(q):
        assert all(not slot <= hart.regs.rip < slot + 15 for hart in patched.harts), "it is used again when nobody is in it"
    finished(patched)
    assert q.hits > 0


def test_H15_one_probe_on_both_harts_at_once(patched):
    seen = []
    p = planted(patched, pre_handler=lambda p, regs: seen.append(patched.kprobes.cpu))
    finished(patched)
    assert p.hits == 2 * CALLS and p.nmissed == 0 and sorted(seen) == [0] * CALLS + [1] * CALLS
    assert seen != sorted(seen), "their hits are interleaved"


def test_N13_each_hart_in_a_handler_that_hits_a_probe(patched):
    """What a handler calls hits the other probe inside a hit of its own hart: counted there, and nobody else is disturbed."""
    other = planted(patched, "work")
    p = planted(patched, pre_handler=lambda p, regs: regs.call("work", 5) and 0)
    finished(patched)
    assert p.hits == 2 * CALLS and other.hits == 2 * CALLS
    assert other.nmissed == 2 * CALLS and p.nmissed == 2 * CALLS


def test_J11_jprobes_on_both_harts(patched):
    seen = []
    jp = Jprobe(lambda x: seen.append((patched.kprobes.cpu, x)), symbol_name="work")
    patched.kprobes.register_jprobe(jp)
    finished(patched)
    assert len(seen) == 2 * CALLS and {cpu for cpu, _ in seen} == {0, 1}
