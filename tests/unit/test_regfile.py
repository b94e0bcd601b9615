"""The register file: two writes a cycle; `forward` finds the newest value, `merge` puts a result into a register."""

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.isa.facts import Reg
from hw.regfile import COUNT, READS, Bypass, RegFile, forward, merge
from tests.unit.opbench import M64, interesting, simulate


def test_random_writes_and_reads(rng):
    """Reads give the value before the edge; a result in rsp is newer than the stack pointer of the same uop."""
    dut = RegFile()
    writes = Cat(dut.d_we, dut.d_addr, dut.d_data, dut.sp_we, dut.sp_data)
    addresses = Cat(getattr(dut, f"{name}_addr") for name in READS)
    values = Cat(getattr(dut, f"{name}_data") for name in READS)

    async def bench(ctx):
        model = [0] * COUNT
        for _ in range(1500):
            d_we, sp_we = rng.random() < 0.5, rng.random() < 0.5
            reg = rng.choice((Reg.RSP, rng.randrange(COUNT)))
            result, sp = rng.getrandbits(64), rng.getrandbits(64)
            ctx.set(writes, d_we | reg << 1 | result << 6 | sp_we << 70 | sp << 71)
            asked = [rng.choice((reg, Reg.RSP, rng.randrange(COUNT))) for _ in READS]
            ctx.set(addresses, sum(number << 5 * i for i, number in enumerate(asked)))
            assert ctx.get(values) == sum(model[number] << 64 * i for i, number in enumerate(asked))
            await ctx.tick()
            if sp_we:
                model[Reg.RSP] = sp
            if d_we:
                model[reg] = result

    simulate(dut, bench, clock=True)


@pytest.mark.parametrize("d_we, reg, sp_we, rsp", ((1, 4, 1, 1), (1, 4, 0, 1), (0, 4, 1, 2), (1, 5, 1, 2), (0, 4, 0, 0)))
def test_rsp(d_we, reg, sp_we, rsp):
    dut = RegFile()

    async def bench(ctx):
        ctx.set(dut.debug_addr, Reg.RSP)
        for port, value in (("d_we", d_we), ("d_addr", reg), ("d_data", 1), ("sp_we", sp_we), ("sp_data", 2)):
            ctx.set(getattr(dut, port), value)
        await ctx.tick()
        assert ctx.get(dut.debug_data) == rsp

    simulate(dut, bench, clock=True)


class Forward(Component):
    def __init__(self, stages):
        self.count = stages
        super().__init__(
            {"reg": In(5), "filed": In(64), "value": Out(64), "wait": Out(1)}
            | {f"stage{i}": In(Bypass) for i in range(stages)}
        )

    def elaborate(self, platform):
        m = Module()
        stages = [getattr(self, f"stage{i}") for i in range(self.count)]
        value, wait = forward(m, "x", self.reg, self.filed, stages)
        m.d.comb += [self.value.eq(value), self.wait.eq(wait)]
        return m


@pytest.mark.parametrize("count", (1, 2, 3))
def test_the_youngest_value_wins(count, rng):
    dut = Forward(count)
    stages = [getattr(dut, f"stage{i}") for i in range(count)]
    inputs = Cat(dut.reg, dut.filed, *stages)
    outputs = Cat(dut.value, dut.wait)

    async def bench(ctx):
        waits = 0
        for _ in range(1500):
            reg = rng.choice((Reg.RSP, Reg.RAX, Reg.T0, Reg.R12))
            filed = rng.getrandbits(64)
            want, wait = filed, 0
            word, shift, found = reg | filed << 5, 69, False
            for _ in range(count):
                d_we, ready, sp_we = (rng.random() < p for p in (0.6, 0.7, 0.4))
                d_reg = rng.choice((reg, Reg.RSP, rng.randrange(COUNT)))
                result, sp = rng.getrandbits(64), rng.getrandbits(64)
                word |= Bypass.const(
                    dict(d_we=d_we, d_reg=d_reg, ready=ready, result=result, sp_we=sp_we, sp=sp)
                ).as_value().value << shift
                shift += Bypass.as_shape().size
                if not found and d_we and d_reg == reg:
                    want, wait, found = result, not ready, True
                elif not found and sp_we and reg == Reg.RSP:
                    want, wait, found = sp, 0, True
            ctx.set(inputs, word)
            seen = ctx.get(outputs)
            assert seen >> 64 == wait, "waits for what is not ready, and for nothing else"
            assert wait or seen == want
            waits += wait
        assert waits > 50

    simulate(dut, bench)


class Merge(Component):
    size: In(2)
    high: In(1)
    old: In(64)
    new: In(64)
    full: Out(64)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.full.eq(merge(m, "x", self.size, self.high, self.old, self.new))
        return m


def merged(size, high, old, new):
    if size == 0 and high:
        return old & ~0xFF00 | (new & 0xFF) << 8
    mask = (0xFF, 0xFFFF, M64, M64)[size]
    return old & ~mask | (new & 0xFFFFFFFF if size == 2 else new & mask)


@pytest.mark.parametrize("size, high", ((0, 0), (0, 1), (1, 0), (2, 0), (3, 0)))
def test_merge(size, high, rng):
    dut = Merge()
    inputs = Signal(len(Cat(dut.size, dut.high, dut.old, dut.new)))
    top = Module()
    top.submodules.dut = dut
    top.d.comb += Cat(dut.size, dut.high, dut.old, dut.new).eq(inputs)

    async def bench(ctx):
        for _ in range(300):
            old, new = interesting(rng, 64), interesting(rng, 8 << size)
            ctx.set(inputs, size | high << 2 | old << 3 | new << 67)
            assert ctx.get(dut.full) == merged(size, high, old, new)

    simulate(top, bench)
