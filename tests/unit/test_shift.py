"""The shifter against the reference for every count, and the reference against the host."""

import random

from hw.isa.facts import Op
from hw.shift import Shifter
from tests.unit.flags_reference import SHIFTS
from tests.unit.opbench import Case, cases, check_reference, check_unit, interesting, simulate

SINGLE = [op for op in SHIFTS if op not in (Op.SHLD, Op.SHRD)]
DOUBLE = (Op.SHLD, Op.SHRD)  # there is none of 8 bits


def every_count():
    rng = random.Random(1)
    for op in SHIFTS:
        for size in range(op in DOUBLE, 4):
            for count in range(66):
                bits = 8 << size
                yield Case(op, size, interesting(rng, bits), interesting(rng, bits), rng.getrandbits(6), count)


def test_unit_random():
    check_unit(Shifter(), cases(SINGLE, range(4), 400, "shift"))
    check_unit(Shifter(), cases(DOUBLE, range(1, 4), 400, "double shift"))


def test_unit_every_count():
    check_unit(Shifter(), every_count())


def test_disabled():
    async def bench(ctx):
        ctx.set(dut.en, 0)
        ctx.set(dut.op, Op.SHL)
        ctx.set(dut.a, 5)
        ctx.set(dut.count, 3)
        ctx.set(dut.flags_in.as_value(), 63)
        assert ctx.get(dut.result) == 0
        assert ctx.get(dut.flags_out.as_value()) == 0

    dut = Shifter()
    simulate(dut, bench)


def test_reference(tmp_path):
    todo = [*cases(SINGLE, range(4), 4000, "shift"), *cases(DOUBLE, range(1, 4), 4000, "double shift"), *every_count()]
    check_reference(todo, tmp_path)
