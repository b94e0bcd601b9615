"""The return stack is a stack of eight; the agree predictor learns in two steps and forgets in two; targets are the last."""

from collections import deque

import pytest

from hw.predict import COUNTERS, DEPTH, TARGETS, AgreePredictor, ReturnStack, TargetTable
from tests.unit.opbench import simulate


async def call(ctx, dut, target):
    ctx.set(dut.ret_pc, target)
    ctx.set(dut.push, 1)
    await ctx.tick()
    ctx.set(dut.push, 0)


async def give_back(ctx, dut):
    top = ctx.get(dut.top)
    ctx.set(dut.pop, 1)
    await ctx.tick()
    ctx.set(dut.pop, 0)
    return top


@pytest.mark.parametrize("depth", (1, 2, DEPTH - 1, DEPTH))
def test_returns_come_in_reverse_order(depth):
    dut = ReturnStack()

    async def bench(ctx):
        for n in range(depth):
            await call(ctx, dut, 0x1000 + n)
        assert [await give_back(ctx, dut) for _ in range(depth)] == [0x1000 + n for n in reversed(range(depth))]

    simulate(dut, bench, clock=True)


def test_a_deep_chain_loses_the_outermost():
    dut = ReturnStack()

    async def bench(ctx):
        for n in range(3 * DEPTH + 3):
            await call(ctx, dut, n)
        assert [await give_back(ctx, dut) for _ in range(DEPTH)] == [3 * DEPTH + 2 - n for n in range(DEPTH)]

    simulate(dut, bench, clock=True)


def test_top_holds_still_without_a_call_or_a_return():
    dut = ReturnStack()

    async def bench(ctx):
        await call(ctx, dut, (1 << 64) - 2)
        ctx.set(dut.ret_pc, 5)
        for _ in range(4):
            await ctx.tick()
            assert ctx.get(dut.top) == (1 << 64) - 2

    simulate(dut, bench, clock=True)


def test_random_calls_and_returns(rng):
    """As a stack of `DEPTH`; more returns than calls predict anything, and what is called afterwards is right again."""
    dut = ReturnStack()

    async def bench(ctx):
        model = deque(maxlen=DEPTH)
        for _ in range(1500):
            if rng.random() < (0.7 if rng.random() < 0.5 else 0.4):
                model.append(rng.getrandbits(64))
                await call(ctx, dut, model[-1])
            else:
                top = await give_back(ctx, dut)
                assert not model or model.pop() == top
            if model:
                assert ctx.get(dut.top) == model[-1]

    simulate(dut, bench, clock=True)


async def resolve(ctx, dut, pc, agreed):
    ctx.set(dut.resolved_pc, pc)
    ctx.set(dut.agreed, agreed)
    ctx.set(dut.resolved, 1)
    await ctx.tick()
    ctx.set(dut.resolved, 0)


@pytest.mark.parametrize(
    "history, agree",
    (
        ("", 1),  # a branch never seen follows the static rule
        ("+", 1),
        ("-", 0),  # the first surprise turns it
        ("+-", 1),  # a settled branch forgives one
        ("+--", 0),
        ("++++++++-", 1),  # saturates: no more than one
        ("++++++++--", 0),
        ("--------+", 0),
        ("--------++", 1),
        ("-+", 1),
    ),
)
def test_counters_learn_and_saturate(history, agree):
    dut = AgreePredictor()

    async def bench(ctx):
        ctx.set(dut.pc, 0xFFFFFFFF80001234)
        for step in history:
            await resolve(ctx, dut, 0xFFFFFFFF80001234, step == "+")
        assert ctx.get(dut.agree) == agree

    simulate(dut, bench, clock=True)


def test_branches_do_not_disturb_each_other(rng):
    """Random histories of branches whose low address bits differ; nothing is learnt without `resolved`."""
    dut = AgreePredictor()

    async def bench(ctx):
        count = {}
        places = [rng.randrange(COUNTERS) for _ in range(12)] + [0, 1, COUNTERS - 1]
        for _ in range(2000):
            pc = rng.choice(places) + COUNTERS * rng.getrandbits(50)
            index, agreed = pc % COUNTERS, rng.random() < 0.5
            if rng.random() < 0.8:
                await resolve(ctx, dut, pc, agreed)
                count[index] = min(count.get(index, 2) + 1, 3) if agreed else max(count.get(index, 2) - 1, 0)
            else:
                ctx.set(dut.agreed, agreed)
                await ctx.tick()
            asked = rng.choice(places)
            ctx.set(dut.pc, asked + COUNTERS * rng.getrandbits(50))
            assert ctx.get(dut.agree) == (count.get(asked, 2) >= 2)

    simulate(dut, bench, clock=True)


def test_targets_are_those_of_the_last_time(rng):
    """By the low bits of rip; a branch with the same low bits takes the entry over, others leave it alone."""
    dut = TargetTable()

    async def bench(ctx):
        last = {}
        for _ in range(500):
            pc, target = rng.getrandbits(64), rng.getrandbits(64)
            learns = rng.random() < 0.7
            ctx.set(dut.resolved_pc, pc)
            ctx.set(dut.resolved_target, target)
            ctx.set(dut.resolved, learns)
            await ctx.tick()
            if learns:
                last[pc % TARGETS] = target
            asked = rng.getrandbits(64)
            ctx.set(dut.pc, asked)
            assert ctx.get(dut.target) == last.get(asked % TARGETS, 0)

    simulate(dut, bench, clock=True)
