"""Stage M against a model of memory with random latencies: every load gets its own answer, whatever is killed or stalls."""

from collections import deque

import pytest
from amaranth.hdl import Cat

from hw.isa.facts import Op, Reg
from hw.memory import MemoryStage
from hw.regfile import Bypass
from hw.types import Addressed, AKind, BKind, Operands
from tests.unit.opbench import simulate


def addressed(load=0, **fields) -> int:
    own = {name: fields.pop(name) for name in ("ea", "la", "pa", "sp") if name in fields}
    u = dict(op=Op.MOV, load=load, d_we=1, a_kind=AKind.NONE, b_kind=BKind.MEM if load else BKind.NONE) | fields
    return Addressed.const(dict(u=u) | own).as_value().value


class Field:
    """Bits of the output by name."""

    def __init__(self, word):
        self.word = word

    def __getitem__(self, name):
        place = Operands.as_shape()[name]
        return self.word >> place.offset & (1 << place.width) - 1


@pytest.mark.parametrize("latency, stall, kills", ((1, 0.0, 0.0), (4, 0.1, 0.05), (2, 0.6, 0.2), (12, 0.2, 0.3)))
def test_every_load_gets_its_own_answer(latency, stall, kills, rng):
    """Uops as the address stage hands them on: a load's request is made in the cycle before it is here."""
    dut = MemoryStage()
    output = dut.o.payload.as_value()

    async def bench(ctx):
        answers = deque()  # (cycle in which it comes, data), in order
        here = None  # (number, is load, data) in the stage
        expected = deque()  # what must come out, in order
        number = came = lost = 0
        for cycle in range(450):
            kill = rng.random() < kills and len(answers) < 12
            ready = rng.random() >= stall
            answering = bool(answers) and answers[0][0] <= cycle
            ctx.set(dut.kill, kill)
            ctx.set(dut.o.ready, ready)
            ctx.set(dut.resp_valid, answering)
            ctx.set(dut.resp_data, answers.popleft()[1] if answering else rng.getrandbits(64))
            if ctx.get(dut.o.valid) and ready:
                got = Field(ctx.get(output))
                want, data = expected.popleft()
                assert (got["la"], got["b"], got["mem"] if data else 0) == (want, data, data)
                came += 1
            taken = ctx.get(dut.i.ready)
            assert not (taken and kill)
            await ctx.tick()
            if kill:
                lost += here is not None and here[1]
                expected.clear()
                here = None
            elif taken:
                expected.append((here[0], here[2]))
                here = None
            if here is None and not kill and rng.random() < 0.8:
                number += 1
                load = rng.random() < 0.6
                here = number, load, rng.getrandbits(63) + 1 if load else 0
                ctx.set(dut.i.payload.as_value(), addressed(load, la=number))
                if load:  # the request went out in this cycle: its answer comes in the next or later
                    after = max(cycle + rng.randint(1, latency), answers[-1][0] + 1 if answers else 0)
                    answers.append((after, here[2]))
            ctx.set(dut.i.valid, here is not None)
        assert came > 25 and (lost > 5 or not kills)

    simulate(dut, bench, clock=True)


def test_an_answer_while_execute_is_busy_is_kept():
    dut = MemoryStage()
    output = dut.o.payload.as_value()

    async def bench(ctx):
        ctx.set(dut.i.payload.as_value(), addressed(1, la=1))
        ctx.set(Cat(dut.i.valid, dut.resp_valid), 3)
        ctx.set(dut.resp_data, 0x1111)
        await ctx.tick()  # the first load moves on, and stays in the output register
        ctx.set(dut.i.payload.as_value(), addressed(1, la=2))
        ctx.set(dut.resp_data, 0x2222)
        assert not ctx.get(dut.i.ready)
        await ctx.tick()
        ctx.set(dut.resp_valid, 0)
        for _ in range(3):
            ctx.set(dut.resp_data, 0xDEAD)
            assert not ctx.get(dut.i.ready) and Field(ctx.get(output))["b"] == 0x1111
            await ctx.tick()
        ctx.set(dut.o.ready, 1)
        assert ctx.get(dut.i.ready)
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
        assert Field(ctx.get(output))["b"] == 0x2222 and Field(ctx.get(output))["mem"] == 0x2222
        await ctx.tick()
        assert not ctx.get(dut.o.valid)

    simulate(dut, bench, clock=True)


def test_operands(rng):
    """Where a, b and the count come from: file, bypasses (youngest first), memory, immediate, rip, address."""
    dut = MemoryStage()
    files = Cat(dut.a_data, dut.b_data, dut.c_data)
    addresses = Cat(dut.a_addr, dut.b_addr, dut.c_addr)

    async def bench(ctx):
        ctx.set(Cat(dut.o.ready, dut.i.valid), 3)
        for _ in range(120):
            regs = [rng.getrandbits(64) for _ in range(24)]
            a_kind, b_kind = rng.choice(list(AKind)), rng.choice(list(BKind))
            a_reg, b_reg = (rng.choice((Reg.RSP, Reg.RCX, Reg.RAX, 17)) for _ in range(2))
            b_high, cl = rng.getrandbits(1), rng.getrandbits(1)
            op = rng.choice((Op.SHL, Op.SHLD, Op.SHRD, Op.SAR))
            imm, next_pc, ea, memory = (rng.getrandbits(64) for _ in range(4))
            load = a_kind == AKind.MEM or b_kind == BKind.MEM
            fields = dict(a_kind=a_kind, b_kind=b_kind, a_reg=a_reg, b_reg=b_reg, b_high=b_high, cl=cl, imm=imm, op=op)
            ctx.set(dut.i.payload.as_value(), addressed(load, next_pc=next_pc, ea=ea, sp=7, pa=9, **fields))
            ctx.set(Cat(dut.resp_valid, dut.resp_data), load | memory << 1)
            now = list(regs)  # what the registers hold after all that is older
            for stage in (dut.from_w, dut.from_x):  # oldest first
                by = dict(
                    d_we=rng.getrandbits(1), d_reg=rng.choice((Reg.RSP, Reg.RCX, Reg.RAX, 17)), ready=1,
                    result=rng.getrandbits(64), sp_we=rng.getrandbits(1), sp=rng.getrandbits(64),
                )  # fmt: skip
                ctx.set(stage.as_value(), Bypass.const(by).as_value().value)
                if by["sp_we"]:
                    now[Reg.RSP] = by["sp"]
                if by["d_we"]:
                    now[by["d_reg"]] = by["result"]
            assert ctx.get(addresses) == a_reg | b_reg << 5 | Reg.RCX << 10
            ctx.set(files, regs[a_reg] | regs[b_reg] << 64 | regs[Reg.RCX] << 128)
            assert ctx.get(dut.i.ready)
            await ctx.tick()
            got = Field(ctx.get(dut.o.payload.as_value()))
            assert got["a"] == {AKind.REG: now[a_reg], AKind.MEM: memory}.get(a_kind, 0)
            high = now[b_reg] >> 8 & 0xFF if b_high else now[b_reg]
            values = {BKind.REG: high, BKind.MEM: memory, BKind.IMM: imm, BKind.ADDR: ea}
            assert got["b"] == values.get(b_kind, 0)
            count = now[Reg.RCX] if op in (Op.SHLD, Op.SHRD) else now[b_reg]  # b is the count, but for double shifts
            assert got["count"] == (count if cl else imm) & 0xFF
            assert (got["sp"], got["pa"]) == (7, 9)

    simulate(dut, bench, clock=True)
