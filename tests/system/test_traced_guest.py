"""A guest compiled as kernels are, with a tracing nop at every function's entry: probes there come without traps (E01)."""

from collections import Counter

import pytest

from kprobes import Kprobe, KprobeFlag, Kretprobe
from sim.elf import load_elf
from sim.engine import Recording, StopReason
from sim.guestbuild import build
from sim.machine import Machine
from tests.system.everything import MAX_CYCLES, final_state

FUNCTIONS = 4


@pytest.fixture(scope="module")
def image():
    return load_elf(build(["tests/programs/recursion.c"], traced=True, defines=["N=1"]))


def entries(image):
    """The functions that have a nop, less what the runtime forbids."""
    start, stop = (image.symbols.lookup(f"__{edge}_mcount_loc") for edge in ("start", "stop"))
    data = next(s.data[start - s.vaddr:stop - s.vaddr] for s in image.segments if s.vaddr <= start < s.vaddr + len(s.data))
    places = [int.from_bytes(data[i:i + 8], "little") for i in range(0, len(data), 8)]
    return [at for at in places if at >= image.symbols.lookup("__entry_text_end")]


def run(image, engine, plant=None, record=Recording.TRAPS):
    with Machine(image, engine=engine, record=record) as machine:
        probes = plant(machine) if plant else []
        result = machine.run(MAX_CYCLES)
        assert result.reason == StopReason.EXIT
        for p in probes:
            remove = machine.kprobes.unregister_kretprobe if isinstance(p, Kretprobe) else machine.kprobes.unregister_kprobe
            remove(p)
        return final_state(machine, result), probes, machine.events


def test_E01_every_function_of_a_traced_guest(image, engine_name):
    places = entries(image)
    plain, _, events = run(image, engine_name, record=Recording.ALL)
    retired = Counter(event.pc for event in events if event.kind == "retire" and event.last)

    def plant(machine):
        made = [Kprobe(addr=at, pre_handler=lambda p, regs: None, post_handler=lambda p, regs, flags: None) for at in places]
        machine.kprobes.register_kprobes(made)
        return made

    probed, probes, events = run(image, engine_name, plant)
    assert probed == plain
    assert {p.addr: p.hits for p in probes} == {at: retired[at] for at in places}
    assert len(places) >= FUNCTIONS and sum(p.hits for p in probes) > 10
    assert all(p.flags & KprobeFlag.FTRACE for p in probes)
    assert not [event for event in events if event.kind == "trap"]


def test_K24_returns_without_any_trap(image, engine_name):
    """Entry by a call, return by the trampoline, over recursion."""
    plain, _, events = run(image, engine_name, record=Recording.ALL)
    retired = Counter(event.pc for event in events if event.kind == "retire" and event.last)
    returned = Counter()

    def plant(machine):
        made = [Kretprobe(addr=at, maxactive=64, handler=lambda ri, regs: returned.update([ri.rp.kp.addr]))
                for at in entries(image)]
        machine.kprobes.register_kretprobes(made)
        return made

    probed, _, events = run(image, engine_name, plant)
    assert probed == plain and not [event for event in events if event.kind == "trap"]
    main = image.symbols.lookup("main")
    assert returned == {at: retired[at] for at in entries(image) if retired[at]} and returned[main] == 1
