"""Interrupts, IPIs and NMIs to either of two harts that run the same probed function: neither may compute anything else (H16)."""

import functools

import pytest

from kprobes import Kprobe, Options
from sim.engine import Recording
from sim.explore import explore, ipi, irq, nmi
from sim.guestbuild import build_program
from sim.machine import Machine

#: Both harts are in their loops, and hit the probe there.
WINDOW = (900, 1160)
STEPS = [11, pytest.param(1, marks=pytest.mark.every_cycle)]
WAYS = {
    "tf": Options(),
    "int3": Options(step="int3"),
    "boosted": Options(boost=True),
    "optimised": Options(optimize=True, optimize_delay=60),
}


def make(engine, options):
    machine = Machine(build_program("patched", n=10), engine=engine, record=Recording.ALL, probes=options)
    machine.kprobes.register_kprobe(Kprobe(symbol_name="w_add", pre_handler=lambda p, regs: 0))
    return machine


@pytest.mark.parametrize("event", (irq, ipi, nmi))
@pytest.mark.parametrize("hart", (0, 1))
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", STEPS)
def test_nothing_else_changes(engine_pool, event, hart, way, step):
    engine = engine_pool.borrow("compiled", harts=2)
    window = range(*WINDOW, step)
    found = explore(functools.partial(make, engine, WAYS[way]), event(hart=hart), window)
    assert not found.findings, found.findings[0]
    assert found.runs == len(window)


def test_an_ipi_that_nobody_takes_is_found(engine_pool):
    """Its controller is off before the guest starts its harts."""
    engine = engine_pool.borrow("compiled", harts=2)
    (finding,) = explore(functools.partial(make, engine, Options()), ipi(hart=1), range(3, 4)).findings
    assert "hart 1 took vector 40 0 times instead of 1" in finding.problems
