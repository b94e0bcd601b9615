"""The multi-cycle unit: values, latencies, flushes and sequences against the reference, and that against the host."""

import random

from hw.isa.facts import Op
from hw.muldiv import DIGIT, DIV_CYCLES, DIV_ERROR_CYCLES, HALF_CYCLES, MUL_CYCLES, ZEROS, MulDiv
from tests.unit.flags_reference import DIVIDE, MULTIPLY, signed
from tests.unit.opbench import SEED, Case, cases, check_reference, interesting, simulate

WIDENING = (Op.MUL, Op.IMUL)


def division(rng: random.Random, op: Op, size: int) -> Case:
    """A division: mostly of a dividend whose quotient is chosen, at and beyond the bounds; else of anything."""
    bits = 8 << size
    mask = (1 << bits) - 1
    a, b, hi = (interesting(rng, bits) for _ in range(3))
    if rng.random() < 0.8:
        half = 1 << (bits - 1)
        if op is Op.IDIV:
            divisor = signed(b, bits)
            bounds = (half - 1, half, -half, -half - 1, 0, -1)
            quotient = rng.choice((signed(interesting(rng, bits), bits), rng.choice(bounds)))
        else:
            divisor = b & mask
            quotient = rng.choice((interesting(rng, bits) & mask, rng.choice((mask, mask + 1, 0, 1))))
        rest = rng.choice((0, max(abs(divisor) - 1, 0), rng.randrange(abs(divisor) or 1)))
        dividend = quotient * divisor + (-rest if quotient * divisor < 0 else rest)
        a = (a >> bits << bits) | dividend & mask
        hi = dividend >> bits & (1 << 64) - 1
        if bits == 8:
            a = (a & ~0xFFFF) | dividend & 0xFFFF
    return Case(op, size, a, b, rng.getrandbits(6), 0, hi)


def divisions(each: int, salt: str):
    rng = random.Random(f"{SEED} {salt}")
    for op in DIVIDE:
        for size in range(4):
            for _ in range(each):
                yield division(rng, op, size)


async def request(ctx, dut, op: Op, case: Case) -> int:
    """Present an operation until it is done, and stay in that cycle; how many cycles it took."""
    ctx.set(dut.op, op)
    ctx.set(dut.size, case.size)
    ctx.set(dut.a, case.a)
    ctx.set(dut.b, case.b)
    ctx.set(dut.flags_in.as_value(), case.flags)
    ctx.set(dut.start, 1)
    cycles = 1
    while not ctx.get(dut.done):
        assert cycles < 40, case
        await ctx.tick()
        cycles += 1
    return cycles


async def operate(ctx, dut, case: Case) -> None:
    """A whole routine, as the core issues it, checked at every step; leaves the unit in the cycle after it."""
    want = case.expected()
    bits = 8 << case.size
    if case.op in DIVIDE and bits > 8:
        assert await request(ctx, dut, Op.DIVHI, case._replace(a=case.hi)) == HALF_CYCLES
        assert ctx.get(dut.flags_out.as_value()) == case.flags
        await ctx.tick()
    cycles = await request(ctx, dut, case.op, case)
    assert ctx.get(dut.error) == want.error, f"{case} {want}"
    assert ctx.get(dut.flags_out.as_value()) == want.flags, f"{case} {want}"
    if case.op in DIVIDE:
        passed_over = (DIV_CYCLES[bits] - cycles) / (ZEROS // DIGIT - 1)
        assert passed_over in range(max(1, bits // ZEROS)) or (want.error and cycles == DIV_ERROR_CYCLES), f"{case} {cycles}"
    else:
        assert cycles == MUL_CYCLES
    if not want.error:
        assert ctx.get(dut.result) == want.result, f"{case} {want} {ctx.get(dut.result):#x}"
    await ctx.tick()
    if bits > 8 and not want.error and case.op is not Op.IMUL2:
        half = Op.REM if case.op in DIVIDE else Op.MULHI
        noise = case._replace(a=~case.a & (1 << 64) - 1, b=0)
        assert await request(ctx, dut, half, noise) == HALF_CYCLES
        assert ctx.get(dut.result) == want.hi, f"{case} {want}"
        assert ctx.get(dut.flags_out.as_value()) == case.flags
        await ctx.tick()


def run(todo, disturb: random.Random | None = None):
    """All cases in one simulation; with `disturb`, idle cycles and flushed operations come between them."""

    async def bench(ctx):
        for case in todo:
            if disturb and disturb.random() < 0.5:
                await flushed(ctx, case)
            await operate(ctx, dut, case)
        ctx.set(dut.start, 0)
        assert not ctx.get(dut.result) and not ctx.get(dut.done) and not ctx.get(dut.flags_out.as_value())

    async def flushed(ctx, case):
        rng = disturb
        assert rng
        other = division(rng, rng.choice(DIVIDE), rng.randrange(4))
        other = other._replace(op=rng.choice((*DIVIDE, *MULTIPLY, Op.DIVHI)))
        ctx.set(dut.start, 1)
        ctx.set(dut.op, other.op)
        ctx.set(dut.size, other.size)
        ctx.set(dut.a, other.a)
        ctx.set(dut.b, other.b)
        for _ in range(rng.randrange(12)):
            if ctx.get(dut.done):
                break
            await ctx.tick()
        ctx.set(dut.flush, 1)
        await ctx.tick()
        ctx.set(dut.flush, 0)
        if rng.random() < 0.5:
            ctx.set(dut.start, 0)
            await ctx.tick().repeat(rng.randrange(1, 3))

    dut = MulDiv()
    simulate(dut, bench, clock=True)


def test_multiply():
    run([*cases(MULTIPLY[:1], range(1, 4), 150, "imul2"), *cases(WIDENING, range(4), 150, "mul")])


def test_divide():
    run(divisions(60, "div"))


def test_divide_corners():
    """INT_MIN / -1, division by 0, and both sides of each bound."""
    todo = []
    for size in range(4):
        bits = 8 << size
        mask, low = (1 << bits) - 1, 1 << (bits - 1)
        for op in DIVIDE:
            for divisor in (0, 1, mask, low, low - 1, 2):
                dividends = (0, low, mask, -low, -low - 1, 2 * low, low * low, -low * low)
                for dividend in (*dividends, divisor * low, divisor * -low, divisor << bits):
                    value = dividend & (1 << 2 * bits) - 1
                    todo.append(Case(op, size, value if bits == 8 else value & mask, divisor, 0, 0, value >> bits))
    run(random.Random(SEED).sample(todo, len(todo))[:300])


def test_sequences_and_flushes():
    rng = random.Random(f"{SEED} sequence")
    todo = list(divisions(8, "sequence")) + list(cases(WIDENING, range(4), 25, "sequence"))
    todo += list(cases([Op.IMUL2], range(1, 4), 15, "sequence"))
    rng.shuffle(todo)
    run(todo, rng)


def test_reference(tmp_path):
    todo = [*cases([Op.IMUL2], range(1, 4), 1000, "imul2"), *cases(WIDENING, range(4), 1000, "mul")]
    check_reference([*todo, *divisions(1000, "div")], tmp_path)
