"""Snapshots of a whole machine: what a run changes, in hardware and in the runtime, comes back as it was."""

from collections import deque
from dataclasses import dataclass, field
from itertools import count

import pytest

from kprobes import Kprobe
from sim.engine import EngineError, StopReason
from sim.guestbuild import build_text
from sim.memento import Memento

WORK = """
#include "guest.h"
noinline int work(int x) { __asm__ volatile("" : "+r"(x)); return x * 3 + 1; }
int main(void) { unsigned s = 0; for (int i = 0; i < 4; i++) s += work(i); putc('a' + s % 26); return 0; }
"""


def guest():
    return build_text(WORK, name="work")


def counting(machine):
    """A probe whose handlers write down what they see."""
    seen = []
    probe = Kprobe(
        symbol_name="work",
        pre_handler=lambda p, regs: seen.append(regs.di),
        post_handler=lambda p, regs, flags: seen.append(regs.ip),
    )
    machine.kprobes.register_kprobe(probe)
    machine.keep(seen)
    return probe, seen


def test_every_moment_of_a_hit_comes_back(machine_on):
    """From a snapshot in any phase of a hit the run goes on as it did: events to the cycle, counters, the user's list."""
    with machine_on("compiled", guest()) as machine:
        probe, seen = counting(machine)
        machine.run(until=machine.symbols.lookup("work"))
        ends = set()
        for _ in range(18):
            machine.run(11)
            snapshot, hits, before = machine.snapshot(), probe.hits, list(seen)
            for _ in range(2):
                result = machine.run()
                assert result.reason == StopReason.EXIT and probe.hits == 4 and len(seen) == 8
                ends.add((machine.cycle, machine.events.digest(), tuple(seen)))
                machine.restore(snapshot)
                assert (machine.cycle, probe.hits, seen) == (snapshot.cycle, hits, before)
        assert len(ends) == 1


def test_registration_is_undone(machine_on):
    """Probes registered and unregistered after the snapshot: text, slots and registry are those of the snapshot."""
    with machine_on("compiled", guest()) as machine:
        work = machine.symbols.lookup("work")
        probe, _ = counting(machine)
        snapshot = machine.snapshot()
        memory = machine.engine.read_mem(0, machine.engine.config.ram_bytes)
        machine.kprobes.unregister_kprobe(probe)
        other = Kprobe(addr=machine.symbols.lookup("main"))
        machine.kprobes.register_kprobe(other)
        machine.run()
        machine.restore(snapshot)
        assert machine.kprobes.registered == (probe,) and machine.kprobes.get_kprobe(work) is probe
        assert machine.engine.read_mem(0, len(memory)) == memory
        machine.kprobes.register_kprobe(other)
        assert machine.run().hits == 5


def test_an_engine_that_cannot(machine_on):
    with machine_on("pysim", guest()) as machine, pytest.raises(EngineError, match="the compiled engine can"):
        machine.snapshot()


def test_an_address_is_reached_while_harts_fetch_again(machine_on):
    """Memory is written in the middle of a delivery, and the run shall stop where it ends."""
    with machine_on("compiled", guest()) as machine:
        machine.kprobes.register_kprobe(Kprobe(symbol_name="work"))
        machine.run(until="work")
        start = machine.snapshot()
        end = machine.run(until="trap_stub_3").cycles
        for delay in range(1, end):
            machine.restore(start)
            machine.run(end - delay)
            machine.mem.write(0x500, b"x")
            result = machine.run(until="trap_stub_3")
            assert (result.reason, result.hits) == (StopReason.REACHED, 0), delay


# --- what Python objects hold ---


@dataclass
class Thing:
    """Stands for an object of the runtime."""

    items: list = field(default_factory=list)
    table: dict = field(default_factory=dict)
    more: object = None


Thing.__module__ = "kprobes.test"


class Slotted:
    """With slots, one of them not set."""

    __slots__ = ("number", "unset")
    __module__ = "kprobes.test"

    def __init__(self):
        self.number = 1


def test_contents_come_back_in_place():
    slotted, queue = Slotted(), deque([1])
    thing = Thing([1, [2]], {"a": {1}}, (slotted, queue, bytearray(b"x")))
    items, inner, members = thing.items, thing.items[1], thing.table["a"]
    memento = Memento([thing])
    for _ in range(2):
        inner.append(3)
        items.clear()
        members.add(9)
        thing.table = {}
        thing.new = 5
        thing.more[2][:] = b"long"
        queue.append(2)
        slotted.number, slotted.unset = 2, 3
        memento.restore()
        assert thing.items is items and items == [1, inner] and inner == [2]
        assert thing.table == {"a": {1}} and thing.table["a"] is members
        assert not hasattr(thing, "new") and not hasattr(slotted, "unset")
        assert (slotted.number, list(queue), bytes(thing.more[2])) == (1, [1], b"x")


class User:
    """No class of ours."""


def test_what_the_user_wants_kept():
    user, other = User(), User()
    user.seen, user.other, other.seen = [1], other, [2]
    memento = Memento([user])
    user.seen.append(3)
    user.new = 4
    other.new = 5
    memento.restore()
    assert vars(user) == {"seen": [1], "other": other} and other.new == 5, "only what was named"


def test_what_lies_behind_methods_and_closures():
    hidden = Thing()

    def closure():
        return hidden

    closure.__module__ = "kprobes.test"
    method = Thing.__repr__.__get__(Thing([7]))
    memento = Memento([[closure, method]])
    hidden.items.append(1)
    method.__self__.items.clear()
    memento.restore()
    assert hidden.items == [] and method.__self__.items == [7]


def test_an_iterator_cannot_be_kept():
    with pytest.raises(TypeError, match="the position of a count cannot be kept"):
        Memento([Thing(more=count())])
