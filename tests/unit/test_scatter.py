"""pdep and pext against the reference, that against the host, and the time that they take."""

import random

from hw.isa.facts import Op
from hw.scatter import Scatter
from tests.unit.flags_reference import SCATTER
from tests.unit.opbench import M64, cases, check_reference, simulate


def todo(each):
    yield from cases(SCATTER, (2, 3), each, "scatter")


def test_unit():
    """One after the other without a pause, and again after each was abandoned somewhere."""
    dut = Scatter()
    rng = random.Random(5)

    async def bench(ctx):
        for case in todo(40):
            mask = case.b & ((1 << (8 << case.size)) - 1)
            ctx.set(dut.gather, case.op == Op.PEXT)
            ctx.set(dut.a, case.a)
            ctx.set(dut.mask, mask)
            ctx.set(dut.start, 1)
            if rng.random() < 0.3:
                for _ in range(rng.randrange(4)):
                    await ctx.tick()
                ctx.set(dut.flush, 1)
                await ctx.tick()
                ctx.set(dut.flush, 0)
            cycles = 0
            while not ctx.get(dut.done):
                await ctx.tick()
                cycles += 1
            assert cycles == 1 + mask.bit_count(), case
            assert ctx.get(dut.result) & M64 == case.expected().result, case
            await ctx.tick()

    simulate(dut, bench, clock=True)


def test_reference(tmp_path):
    check_reference(list(todo(500)), tmp_path)
