"""Stage L against the reference decoder: every row, random bytes, stalls, kills, faults anywhere, the 15-byte limit."""

from random import Random

import pytest
from amaranth.hdl import Cat, Const
from amaranth.sim import Simulator

from hw.isa.absent import ABSENT
from hw.isa.facts import EventClass, Vector
from hw.isa.opcodes import TABLE
from hw.isa.reference import LEGACY, split
from hw.length import Length
from hw.types import Fault
from tests.isa.instances import instance, near_miss

PAGE_FAULT = dict(valid=1, vector=Vector.PF, kind=EventClass.FAULT, has_error=1, error=4, addr=0)
M64 = (1 << 64) - 1


def expected(data: bytes, pc: int) -> dict | None:
    """What L must make of these bytes if no more come; None if it cannot tell yet."""
    parts = split(data)
    if parts is None:
        return None
    common = dict(pc=pc, length=parts.length, bytes=int.from_bytes(parts.bytes, "little"))
    if parts.too_long:
        return common | dict(fault=(1, Vector.GP, 0))
    return common | dict(
        next_pc=pc + parts.length & M64,
        map=parts.map,
        opcode=parts.opcode,
        modrm=parts.modrm,
        sib=parts.sib,
        disp=parts.disp & 0xFFFFFFFF,
        imm=parts.imm,
        rex=parts.rex,
        has_rex=parts.has_rex,
        vvvv=parts.vvvv,
        long=parts.long,
        refused=parts.refused,
        opsize=parts.opsize,
        asize=parts.asize,
        lock=parts.lock,
        rep=parts.rep,
        seg=parts.seg,
        fault=(0, 0, 0),
    )


def got(insn, keys) -> dict:
    fault = insn.fault
    values = {key: getattr(insn, key) for key in keys if key != "fault"}
    values = {key: value if isinstance(value, int) else value.value for key, value in values.items()}
    return values | dict(fault=(fault.valid, fault.vector if fault.valid else 0, fault.error))


class Feeder:
    """Plays the fetch stage: a stream of bytes at an address, of which some are there; then perhaps a fault."""

    def __init__(self, ctx, dut, rng, data, pc, *, slow=0.0, fault=True, junk=True):
        self.ctx, self.dut, self.rng, self.data, self.pc = ctx, dut, rng, data, pc
        self.slow, self.fault, self.junk = slow, fault, junk
        self.at = 0  # bytes consumed
        self.seen = 0  # bytes that were there at least once: they do not go away

    def drive(self):
        ctx, dut, rng = self.ctx, self.dut, self.rng
        left = len(self.data) - self.at
        floor = min(max(self.seen - self.at, 0), 16)
        avail = min(left, rng.randint(floor, 16) if rng.random() < self.slow else 16)
        self.seen = max(self.seen, self.at + avail)
        window = self.data[self.at : self.at + avail]
        if self.junk:
            window += rng.choice((rng.randbytes(16), b"\x66" * 16, b"\x48" * 16))[avail:]
        pc = self.pc + self.at
        fault = PAGE_FAULT | dict(valid=self.fault and avail == left, addr=pc + avail & M64)
        line = Const(int.from_bytes(window, "little"), 128)
        fields = Cat(line, Const(avail, 5), Const(pc & M64, 64), Fault.const(fault))
        ctx.set(Cat(dut.window, dut.avail, dut.pc, dut.fault), Const.cast(fields).value)

    def take(self):
        self.at += self.ctx.get(self.dut.consume)


def simulate(testbench):
    dut = Length()
    sim = Simulator(dut)
    sim.add_clock(1e-6)

    async def run(ctx):
        await testbench(ctx, dut)

    sim.add_testbench(run)
    sim.run()


async def run_stream(ctx, dut, feeder, *, stall=0.0, limit=100_000):
    """Feeds everything; yields the instructions until the first with a fault, as (values, raw payload)."""
    rng = feeder.rng
    held = None
    for _ in range(limit):
        feeder.drive()
        ready = rng.random() >= stall
        ctx.set(dut.o.ready, ready)
        if ctx.get(dut.o.valid):
            raw = ctx.get(dut.o.payload.as_value())
            assert held in (None, raw), "payload changed while it was waiting"
            held = raw
            if ready:
                held = None
                payload = ctx.get(dut.o.payload)
                yield payload
                if payload.fault.valid:
                    return
        else:
            assert held is None, "valid went away"
        feeder.take()
        await ctx.tick()
    raise AssertionError("no fault ended the stream")


async def check_stream(ctx, dut, data, rng, pc=0x1000, **options):
    """The whole stream gives what the reference says, then the fault at its end. Returns the number of instructions."""
    stall = options.pop("stall", 0.0)
    feeder = Feeder(ctx, dut, rng, data, pc, **options)
    at = count = 0
    async for insn in run_stream(ctx, dut, feeder, stall=stall):
        want = expected(data[at:], pc + at)
        if want is None:
            assert insn.fault.valid and insn.fault.vector == Vector.PF
            assert insn.fault.addr == pc + len(data)
            assert insn.pc == pc + at
            assert insn.length == len(data) - at
            assert insn.bytes == int.from_bytes(data[at:], "little")
        else:
            assert got(insn, want) == want, data[at : at + 16].hex()
            if insn.fault.valid:
                assert insn.fault.has_error
        at += insn.length
        count += 1
    # What follows a fault does not exist, until kill.
    ctx.set(dut.o.ready, 1)
    await ctx.tick()
    assert not ctx.get(dut.o.valid) and not ctx.get(dut.consume)
    ctx.set(dut.kill, 1)
    await ctx.tick()
    ctx.set(dut.kill, 0)
    return count


@pytest.mark.parametrize("slow, stall", ((0.0, 0.0), (0.5, 0.4)))
def test_every_row(slow, stall):
    rng = Random(1)
    codes = [instance(rng, row) for row in (*TABLE, *ABSENT) for _ in range(6 + row.span)]
    rng.shuffle(codes)

    async def testbench(ctx, dut):
        count = await check_stream(ctx, dut, b"".join(codes), rng, 0xFFFFFFFF80001000, slow=slow, stall=stall)
        assert count == len(codes) + 1

    simulate(testbench)


def test_every_opcode_and_modrm():
    """Every opcode of every map, also under prefixes, and every ModRM and SIB byte that has something to it."""
    rng = Random(2)
    opcodes = [e + bytes((n,)) for e in (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a") for n in range(256)]
    starts = opcodes + [head + code for code in opcodes[:512] for head in (b"\x66", b"\x67", b"\x66\x48")]
    starts += [head + bytes((n,)) for n in range(256) for head in (b"\xc5\xf8", b"\x67\xc4\xe2\x70", b"\xc4\xc3\xfb", b"\x62\xf1\x7c\x48")]
    starts += [b"\xc4" + bytes((n, rng.randrange(256))) for n in range(256)]
    starts += [b"\x62" + bytes((n, rng.randrange(256), 8)) for n in range(256)]
    starts += [bytes((op, modrm)) for op in (0x8B, 0xF6, 0x81) for modrm in range(256)]
    starts += [bytes((0x8B, modrm, sib)) for modrm in (0x04, 0x44, 0x84, 0xC4) for sib in range(256)]
    codes = [split(start + rng.randbytes(13)) for start in starts]

    async def testbench(ctx, dut):
        data = b"".join(parts.bytes for parts in codes if not parts.too_long)
        assert await check_stream(ctx, dut, data, rng) > 3000

    simulate(testbench)


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(seed):
    rng = Random(seed)
    popular = [*sorted(LEGACY), 0x0F, 0x48, 0x41, 0x38, 0x66, 0xC4, 0xC5, 0x62, 0xE2]

    async def testbench(ctx, dut):
        for _ in range(120):
            size = rng.randrange(1, 80)
            kind = rng.random()
            if kind < 0.3:
                data = rng.randbytes(size)
            elif kind < 0.7:
                data = bytes(rng.choice(popular) if rng.random() < 0.6 else rng.randrange(256) for _ in range(size))
            else:
                data = b"".join(near_miss(rng, rng.choice(TABLE)) for _ in range(6)) or b"\x90"
            pc = rng.choice((0x1000, 0, M64 + 1 - 100 - size, 0x7FFFFFFFF000 - size, 1 << 32))
            await check_stream(ctx, dut, data, rng, pc, slow=rng.random(), stall=rng.random() * 0.8)

    simulate(testbench)


def test_a_fault_at_every_byte():
    rng = Random(3)
    codes = [instance(rng, rng.choice(TABLE)) for _ in range(60)]
    codes += [b"\x66" * 14 + b"\x90", b"\xf0\x2e\x66\x4f\x81\x84\x88" + bytes(8)]

    async def testbench(ctx, dut):
        for code in codes:
            for cut in range(len(code)):
                # data[:cut] is all there is: the fault is at the first byte that is missing
                assert await check_stream(ctx, dut, code[:cut], rng, 0x5000, slow=0.3) >= 1

    simulate(testbench)


@pytest.mark.parametrize(
    "code, length",
    (
        (b"\x66" * 14 + b"\x90", 15),
        (b"\x66" * 15 + b"\x90", None),
        (b"\x66" * 14 + b"\x48\x90", None),
        (b"\x66" * 13 + b"\x48\x90", 15),
        (b"\x66" * 12 + b"\x48" + b"\x0f\xa2", 15),
        (b"\x66" * 13 + b"\x48" + b"\x0f\xa2", None),
        (b"\x2e" * 5 + b"\x48\xb8" + bytes(8), 15),
        (b"\x2e" * 6 + b"\x48\xb8" + bytes(8), None),
        (b"\x64\x67\x2e\x48\xc7\x84\x88" + bytes(8), 15),
        (b"\x64\x67\x2e\x2e\x48\xc7\x84\x88" + bytes(8), None),
        (b"\x66\x48" * 7 + b"\x90", 15),
        (b"\x48" * 14 + b"\x90", 15),
        (b"\x48" * 15 + b"\x90", None),
    ),
)
def test_fifteen_bytes(code, length):
    """One byte more than 15 is #GP(0), as soon as 15 are there and even if the 16th cannot be fetched."""
    rng = Random(4)

    async def testbench(ctx, dut):
        for data in (code[:15], code + b"\xcc" * 16):
            feeder = Feeder(ctx, dut, rng, data, 0x2000)
            async for insn in run_stream(ctx, dut, feeder):
                assert insn.pc == 0x2000 and insn.length == 15
                fault = insn.fault
                assert (fault.valid, fault.vector, fault.has_error, fault.error) == (
                    (0, 0, 0, 0) if length else (1, Vector.GP, 1, 0)
                )
                break
            ctx.set(dut.kill, 1)
            await ctx.tick()
            ctx.set(dut.kill, 0)

    simulate(testbench)


def test_kill_drops_everything():
    """After a kill at a random moment the next instruction comes from the new bytes, without a trace of the old."""
    rng = Random(5)

    async def testbench(ctx, dut):
        for _ in range(300):
            data = bytes(rng.choice((0x66, 0xF0, 0x48, 0x65, 0x90, 0x8B, 0x0F)) for _ in range(30))
            feeder = Feeder(ctx, dut, rng, data, 0x3000, slow=0.3)
            for _ in range(rng.randrange(1, 8)):
                feeder.drive()
                ctx.set(dut.o.ready, rng.random() < 0.5)
                feeder.take()
                await ctx.tick()
            feeder.drive()
            ctx.set(dut.o.ready, rng.random() < 0.5)
            ctx.set(dut.kill, 1)
            assert ctx.get(dut.consume) == 0
            await ctx.tick()
            ctx.set(dut.kill, 0)
            assert not ctx.get(dut.o.valid)
            await check_stream(ctx, dut, instance(rng, rng.choice(TABLE)), rng, 0x4000)

    simulate(testbench)


def test_the_page_of_held_prefixes_is_known():
    """From the cycle after a prefix is taken to the instruction's end."""
    rng = Random(9)

    async def testbench(ctx, dut):
        feeder = Feeder(ctx, dut, rng, b"\x66\x2e\x2e\x90", 0x7FFFF)
        ctx.set(dut.o.ready, 1)
        for held in (0, 1, 1, 0):
            feeder.drive()
            assert ctx.get(dut.held) == held and (not held or ctx.get(dut.held_page) == 0x7F)
            feeder.take()
            await ctx.tick()

    simulate(testbench)


def test_a_vex_prefix_takes_no_cycle():
    """The instruction with it, and ordinary code around it, one a cycle."""
    rng = Random(8)
    code = b"\x64\xc4\xe2\xf1\xf7\x84\x88\x01\x02\x03\x04" + b"\x90" + b"\xc5\xf8\x77" + b"\x48\x01\xc3"

    async def testbench(ctx, dut):
        feeder = Feeder(ctx, dut, rng, code * 50, 0x1000)
        count = 0
        ctx.set(dut.o.ready, 1)
        for _ in range(4 * 50 + 1):
            feeder.drive()
            count += ctx.get(dut.o.valid)
            feeder.take()
            await ctx.tick()
        assert count == 4 * 50

    simulate(testbench)


@pytest.mark.parametrize("prefix, cycles", ((b"", 1), (b"\x66", 1), (b"\xf0\x66", 2), (b"\x2e\x66\xf3", 3)))
def test_one_instruction_a_cycle(prefix, cycles):
    """n prefixes take n cycles, and at least one, whatever follows: REX, escape, SIB, displacement, immediate."""
    rng = Random(6)
    code = prefix + b"\x48\x0f\xa4\x84\x88\x01\x02\x03\x04\x05"

    async def testbench(ctx, dut):
        feeder = Feeder(ctx, dut, rng, code * 50, 0x1000)
        count = 0
        ctx.set(dut.o.ready, 1)
        for _ in range(50 * cycles + 1):
            feeder.drive()
            count += ctx.get(dut.o.valid)
            feeder.take()
            await ctx.tick()
        assert count == 50

    simulate(testbench)
