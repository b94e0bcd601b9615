"""Arming and disarming in every cycle of a window while two harts call the probed function; and with harts that do not sync."""

import pytest

from hw.config import Config
from kprobes import Kprobe
from sim.engine import Recording
from sim.explore import arm, disarm, explore
from sim.guestbuild import build_program
from sim.machine import Machine

#: Both harts are in their loops, which takes 14 cycles a turn: 40 turns end behind the window.
WINDOW = (640, 1160)
STEPS = [13, pytest.param(1, marks=pytest.mark.slow)]


@pytest.fixture
def two_harts(engine_pool):
    """Makes the factory of machines, with a probe or without, on hardware of a configuration."""

    def factory(probed=False, config=Config()):
        elf = build_program("harts", n=40)
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
