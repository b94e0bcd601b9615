"""Arming and disarming in every cycle of a window while two harts call the probed function; and with harts that do not sync."""

import pytest

from hw.config import Config
from kprobes import Kprobe
from sim.engine import Recording, StopReason
from sim.events import Retire, Trap
from sim.explore import Explorer, arm, disarm, explore
from sim.guestbuild import build_program
from sim.machine import Machine

#: Of sim/guest/smp.h.
SYNC_VECTOR, SYNC_IPI = 46, 47

#: Both harts are in their loops, and 12 turns end behind the window.
WINDOW = (640, 1160)
STEPS = [13, pytest.param(1, marks=pytest.mark.slow)]


@pytest.fixture
def two_harts(engine_pool):
    """Makes the factory of machines, with a probe or without, on hardware of a configuration."""

    def factory(probed=False, config=Config()):
        elf = build_program("harts", n=12)
        engine = engine_pool.borrow("compiled", harts=2, config=config)

        def make():
            machine = Machine(elf, engine=engine, record=Recording.ALL)
            if probed:
                machine.kprobes.register_kprobe(Kprobe(symbol_name="work", post_handler=lambda p, regs, flags: None))
            return machine

        return make

    return factory


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("disturbance", (arm("work"), disarm("work")), ids=lambda d: d.name[:3])
def test_no_probe_is_missed(two_harts, disturbance, step):
    found = explore(two_harts(disturbance.disarms is not None), disturbance, range(*WINDOW, step))
    assert not found.findings, found.findings[0]
    assert found.runs == len(range(*WINDOW, step))


@pytest.mark.parametrize("config", (Config(), Config(stale_lines=16)), ids=("narrow", "wide"))
def test_harts_that_do_not_sync_miss_probes(two_harts, monkeypatch, config):
    """Without the serialising step the window is some cycles wide, and with old lines kept, as wide as the loop."""
    monkeypatch.setattr(Machine, "_refetch", lambda self: self._stale.clear())
    found = explore(two_harts(config=config), arm("work"), range(*WINDOW, 3), most=6)
    assert len(found.findings) == 6
    for finding in found.findings:
        assert all("ran work in cycle" in problem and "missed it" in problem for problem in finding.problems)
        often = [" times to cycle " in problem for problem in finding.problems]
        assert any(often) == bool(config.stale_lines), finding


# --- the harts sync as in a kernel: hart 0 sends an IPI to the others, and waits for them ---


def by_ipi(make):
    """The machine of `make`, from when its harts run on, with its changes of text made known by interrupts."""

    def made():
        machine = make()
        machine.run(WINDOW[0])
        machine.sync_vector = SYNC_VECTOR
        return machine

    return made


def test_harts_sync_by_interrupts(two_harts):
    """One interrupt to hart 0, one IPI to hart 1, and nothing through the debug port; from then on all calls are hits."""
    machine = by_ipi(two_harts())()
    work = machine.symbols.lookup("work")
    executed = sum(event.pc == work and event.last for event in machine.events.of(Retire))
    probe = Kprobe(symbol_name="work")
    machine.kprobes.register_kprobe(probe)
    began = machine.cycle
    machine.sync()
    assert 40 < machine.cycle - began < 1000
    synced = len(machine.events)
    assert machine.run().reason == StopReason.EXIT
    interrupts = [(e.hart, e.vector) for e in machine.events.of(Trap) if e.vector >= 32]
    assert interrupts == [(0, SYNC_VECTOR), (1, SYNC_IPI)]
    later = [e for i, e in enumerate(machine.events) if i >= synced and isinstance(e, Retire)]
    assert not any(event.pc == work for event in later)
    assert executed + probe.hits <= 24 and probe.hits > 10


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("disturbance", (arm("work"), disarm("work")), ids=lambda d: d.name[:3])
def test_no_probe_is_missed_with_ipis(two_harts, disturbance, step):
    window = range(WINDOW[0] + 10, WINDOW[1] + 10, step)
    explorer = Explorer(
        by_ipi(two_harts(disturbance.disarms is not None)),
        ignore=("sync_count", "synced"),
        vectors=(SYNC_VECTOR, SYNC_IPI),
    )
    found = explorer.explore(disturbance, window)
    assert not found.findings, found.findings[0]
    assert found.runs == len(window)
