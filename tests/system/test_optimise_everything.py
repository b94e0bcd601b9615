"""Compiled functions covered with jumps instead of breakpoints: nothing but time may change, and no trap is taken.

Compared as in `test_probe_everything`. The jumps are in place before the guest starts, or come while it runs.
"""

from collections import Counter

import pytest

from kprobes import Kprobe, KprobeError, KprobeFlag, Options, Region
from sim.elf import load_elf
from sim.engine import Recording, StopReason
from sim.guestbuild import build_program
from sim.machine import Machine
from tests.system.test_probe_everything import GUESTS, MAX_CYCLES, final_state, instructions


def plant(machine, addresses):
    """Probe what can be; return the probes by address."""
    probes = {}
    for address in addresses:
        probe = Kprobe(addr=address, pre_handler=lambda p, regs: None)
        try:
            machine.kprobes.register_kprobe(probe)
        except KprobeError as error:
            assert "hlt" in str(error) or "int3" in str(error), error
        else:
            probes[address] = probe
    return probes


def run(image, engine, addresses=(), delay=None, record=Recording.TRAPS):
    """Run a guest with probes; `delay` None: the jumps are there from the start. Return what happened, and the machine's state."""
    options = Options(optimize=True, optimize_delay=delay or 1)
    with Machine(image, engine=engine, record=record, probes=options) as machine:
        probes = plant(machine, addresses)
        if delay is None:
            machine.kprobes.wait_for_optimizer()
        optimised = {address for address, p in probes.items() if p.flags & KprobeFlag.OPTIMIZED}
        result = machine.run(MAX_CYCLES)
        assert result.reason == StopReason.EXIT, result
        assert not any(p.nmissed for p in probes.values())
        for probe in probes.values():
            machine.kprobes.unregister_kprobe(probe)
        machine.kprobes.wait_for_optimizer()
        hits = {address: probe.hits for address, probe in probes.items()}
        return final_state(machine, result), hits, optimised, machine.events


def disjoint(image, engine, addresses):
    """Return addresses whose regions do not overlap, from the first that has one on."""
    picked, end = [], 0
    with Machine(image, engine=engine, probes=Options(optimize=True)) as machine:
        for address in addresses:
            if address < end:
                continue
            for probe in plant(machine, [address]).values():
                region = machine.kprobes.region_of(probe)
                if isinstance(region, Region):
                    picked.append(address)
                    end = region.end
                machine.kprobes.unregister_kprobe(probe)
    return picked


@pytest.fixture(scope="module")
def unprobed(engine_name):
    """The unprobed run of each guest: final state, and how often each instruction was executed."""
    runs = {}

    def get(name):
        if name not in runs:
            image = load_elf(build_program(name, n=GUESTS[name][0]))
            state, _, _, events = run(image, engine_name, record=Recording.ALL)
            retired = Counter(event.pc for event in events if event.kind == "retire" and event.last)
            runs[name] = image, state, retired
        return runs[name]

    return get


@pytest.mark.parametrize("name", GUESTS)
def test_P01_jumps_side_by_side_and_no_trap(name, engine_name, unprobed):
    if engine_name == "pysim" and name != "demo":
        pytest.skip("hundreds of hits: on the compiled engine only")
    image, state, retired = unprobed(name)
    addresses = disjoint(image, engine_name, instructions(image, GUESTS[name][1]))
    probed, hits, optimised, events = run(image, engine_name, addresses)
    assert probed == state
    assert hits == {address: retired[address] for address in addresses} and sum(hits.values()) > 100
    assert optimised == set(addresses)
    assert not [event for event in events if event.kind == "trap"]


@pytest.mark.parametrize("name", GUESTS)
def test_P02_P12_jumps_that_come_while_the_guest_runs_among_breakpoints(name, engine_name, unprobed):
    if engine_name == "pysim":
        pytest.skip("thousands of hits: on the compiled engine only")
    image, state, retired = unprobed(name)
    addresses = instructions(image, GUESTS[name][1])
    probed, hits, optimised, _ = run(image, engine_name, addresses, delay=300)
    assert probed == state
    assert hits == {address: retired[address] for address in hits}
    assert optimised and optimised != set(hits)


@pytest.mark.parametrize("name", ["demo", "crc"])
def test_P01_one_at_a_time(name, engine_name, unprobed):
    if engine_name == "pysim":
        pytest.skip("hundreds of runs: on the compiled engine only")
    image, state, retired = unprobed(name)
    jumps = 0
    for address in instructions(image, GUESTS[name][1]):
        probed, hits, optimised, events = run(image, engine_name, [address])
        where = image.symbols.describe(address)
        assert probed == state, where
        assert hits == {address: retired[address]}, where
        assert not optimised or not [event for event in events if event.kind == "trap"], where
        jumps += len(optimised)
    assert jumps > 100
