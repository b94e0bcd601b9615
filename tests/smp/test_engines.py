"""Several harts on both engines: every port of every hart in every cycle, and the records."""

import pytest

from sim.engine import Recording
from tests.smp.test_locked import LOCKED, both

CYCLES = 150


@pytest.mark.parametrize("seed", (None, 6), ids=("fast", "waits"))
def test_both_engines_are_equal(engine_pool, assemble, config, seed):
    from tests.smp.smpbench import SmpBench

    seen = []
    for name in ("pysim", "compiled"):
        bench = SmpBench(engine_pool.borrow(name, harts=2, config=config, wait_seed=seed), assemble)
        bench.load("h40: incl %ebx; iretq;" + both(LOCKED["xadd"]))
        engine = bench.engine
        for hart in bench.harts:
            bench.set(hart, "rflags", 0x202)
            bench.set(hart, "rip", bench.labels[f"start{hart}"])
        names = sorted(engine.ports())
        names = [n for n in names if not n.endswith(("resp_data", "dbg__addr", "dbg__wdata", "dbg__rdata"))]
        engine.record(Recording.ALL)
        engine.sample(names, 0, CYCLES)
        engine.run(40)
        engine.set_irq(1, 40)
        engine.run(20)
        engine.nmi(0)
        engine.run(CYCLES - 60)
        records = engine.drain()
        assert {record.hart for record in records.retires} == {0, 1}
        seen.append((names, engine.drain_samples(), records, [engine.retired(h) for h in (0, 1)]))
    (names, ours, *rest), (_, theirs, *others) = seen
    for one, other in zip(ours, theirs, strict=True):
        assert one == other, {n: (a, b) for n, a, b in zip(["cycle", *names], one, other, strict=True) if a != b}
    assert rest == others
