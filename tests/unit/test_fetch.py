"""Stage F against a model: no byte lost, none twice, none of a dropped path, whatever memory and consumer do."""

import random

import pytest
from amaranth.sim import Simulator

from hw.bus import HIGH_BASE
from hw.fetch import Fetch
from hw.isa.facts import EventClass, Vector

RAM = 1 << 16
MEMORY = random.Random(1).randbytes(RAM)


class Memory:
    """Answers in order, after a latency of its own choosing; `step` once a cycle, after the edge."""

    def __init__(self, rng, latency, ready):
        self._rng, self._latency, self._ready = rng, latency, ready
        self._pending = []  # (earliest cycle, address)
        self.requests = []  # (cycle, address)
        self.cycle = 0

    def drive(self, ctx, bus):
        """Sets ready and the answer for the cycle that begins."""
        ctx.set(bus.req_ready, self._ready(self._rng))
        answer = bool(self._pending) and self._pending[0][0] <= self.cycle
        ctx.set(bus.resp_valid, answer)
        if answer:
            _, address = self._pending.pop(0)
            ctx.set(bus.resp_data, int.from_bytes(MEMORY[address : address + 16], "little"))
        else:
            ctx.set(bus.resp_data, self._rng.getrandbits(128))

    def take(self, ctx, bus):
        """Accepts the request of the cycle that ends."""
        if ctx.get(bus.req_valid) and ctx.get(bus.req_ready):
            address = ctx.get(bus.req_addr)
            assert address % 16 == 0 and address < RAM
            self._pending.append((self.cycle + self._latency(self._rng), address))
            self.requests.append((self.cycle, address))
        self.cycle += 1


def simulate(testbench, queue_bytes=32):
    dut = Fetch(RAM, queue_bytes)
    sim = Simulator(dut)
    sim.add_clock(1e-6)

    async def run(ctx):
        await testbench(ctx, dut)

    sim.add_testbench(run)
    sim.run()


def redirect(ctx, dut, target):
    ctx.set(dut.redirect, {"valid": target is not None, "target": target or 0})


def mapped(address):
    return address % (1 << 31) < RAM and address >> 31 in (0, HIGH_BASE >> 31)


def check_window(ctx, dut, pc):
    """The window holds what memory holds at pc; returns avail."""
    avail = ctx.get(dut.avail)
    assert avail <= 16
    assert ctx.get(dut.pc) == pc
    start = pc % (1 << 31)
    expected = int.from_bytes(MEMORY[start : start + avail], "little") if avail else 0
    assert ctx.get(dut.window) == expected, f"{pc:#x}: {avail} bytes"
    return avail


def targets(rng):
    kind = rng.randrange(10)
    base = rng.choice((0, HIGH_BASE))
    if kind < 6:
        return base + rng.randrange(RAM)
    if kind < 8:
        return base + RAM - rng.randrange(40)  # runs off the end of RAM
    return rng.choice((base + RAM, 0x7FFF_FFFF_F000, 1 << 47, rng.getrandbits(64), HIGH_BASE - 5, 0xFFFFFFFFFE000000))


LATENCIES = {
    "one": lambda rng: 1,
    "three": lambda rng: 3,
    "random": lambda rng: rng.choice((1, 1, 2, 5, 9)),
    "slow": lambda rng: 20,
}
READY = {
    "always": lambda rng: 1,
    "often": lambda rng: rng.random() < 0.7,
    "rarely": lambda rng: rng.random() < 0.2,
}


@pytest.mark.parametrize("queue_bytes", (32, 48))
@pytest.mark.parametrize("ready", READY)
@pytest.mark.parametrize("latency", LATENCIES)
def test_random_streams(latency, ready, queue_bytes):
    rng = random.Random(f"{latency} {ready}")

    async def testbench(ctx, dut):
        memory = Memory(rng, LATENCIES[latency], READY[ready])
        pc, consumed, faults, waited = None, 0, 0, 0
        for _ in range(500):
            memory.drive(ctx, dut.bus)
            hop = rng.random() < (0.2 if rng.random() < 0.3 else 0.03)
            target = targets(rng) if hop or (pc is None and memory.cycle > 5) else None
            redirect(ctx, dut, target)
            if pc is None:
                assert not ctx.get(dut.avail) and not ctx.get(dut.fault.valid)
                assert target is not None or not ctx.get(dut.bus.req_valid)
            else:
                avail = check_window(ctx, dut, pc)
                assert not avail or (ctx.get(dut.queue_page_valid) and ctx.get(dut.fetch_page_valid))
                end = pc + avail
                fault = ctx.get(dut.fault)
                if fault.valid:
                    faults += 1
                    assert not mapped(end)
                    canonical = end >> 47 in (0, 0x1FFFF)
                    assert fault.vector == (Vector.PF if canonical else Vector.GP)
                    assert fault.has_error and fault.error == 0 and fault.kind == EventClass.FAULT
                    assert fault.addr == end
                elif avail < 16:
                    waited += 1
                    assert waited < 200, "starved"
                if avail == 16 or fault.valid:
                    waited = 0
                take = rng.choice((0, 0, 1, 2, 3, 4, 7, 15, 16))
                take = min(take, avail)
                ctx.set(dut.consume, take)
                pc += take
                consumed += take
                if ctx.get(dut.queue_page_valid):
                    assert ctx.get(dut.queue_page) == (pc - take) % (1 << 31) >> 12
            if target is not None:
                pc, waited = target, 0
            await ctx.delay(1e-8)
            if ctx.get(dut.fetch_page_valid):
                assert ctx.get(dut.fetch_page) == memory.requests[-1][1] >> 12
            memory.take(ctx, dut.bus)
            await ctx.tick()
        assert consumed > 40 and faults > 3

    simulate(testbench, queue_bytes)


@pytest.mark.parametrize("base", (0, HIGH_BASE))
def test_first_bytes_one_cycle_after_redirect(base):
    async def testbench(ctx, dut):
        memory = Memory(random.Random(2), LATENCIES["one"], READY["always"])
        for target in (0x100, 0x20F, 0x3333):
            memory.drive(ctx, dut.bus)
            redirect(ctx, dut, base + target)
            memory.take(ctx, dut.bus)
            await ctx.tick()
            memory.drive(ctx, dut.bus)
            redirect(ctx, dut, None)
            assert memory.requests[-1][1] == target & ~15
            assert check_window(ctx, dut, base + target) == 16 - target % 16
            memory.take(ctx, dut.bus)
            await ctx.tick()

    simulate(testbench)


@pytest.mark.parametrize("queue_bytes, start, bite, least", ((32, 0, 16, 16), (32, 5, 8, 8), (48, 5, 16, 16)))
def test_throughput(queue_bytes, start, bite, least):
    """Bytes a cycle with a memory of one cycle: whole lines when aligned, anything with a queue of three lines."""

    async def testbench(ctx, dut):
        memory = Memory(random.Random(3), LATENCIES["one"], READY["always"])
        pc, first, bytes_taken = start, None, 0
        for cycle in range(200):
            memory.drive(ctx, dut.bus)
            redirect(ctx, dut, start if cycle == 0 else None)
            if cycle > 1:
                avail = check_window(ctx, dut, pc)
                take = bite if avail >= bite else 0
                ctx.set(dut.consume, take)
                pc += take
                if take and first is None:
                    first = cycle
                bytes_taken += take
            memory.take(ctx, dut.bus)
            await ctx.tick()
        assert bytes_taken >= least * (200 - first)

    simulate(testbench, queue_bytes)


def test_user_bit_and_pages_of_a_fault():
    async def testbench(ctx, dut):
        memory = Memory(random.Random(4), LATENCIES["one"], READY["always"])
        ctx.set(dut.user, 1)
        for cycle in range(6):
            memory.drive(ctx, dut.bus)
            redirect(ctx, dut, RAM - 3 if cycle == 0 else None)
            memory.take(ctx, dut.bus)
            await ctx.tick()
        assert ctx.get(dut.avail) == 3 and ctx.get(dut.fault.valid)
        assert ctx.get(dut.fault.error) == 4 and ctx.get(dut.fault.addr) == RAM
        assert ctx.get(dut.queue_page) == (RAM >> 12) - 1
        assert len(memory.requests) == 1

    simulate(testbench)


def test_line_stays_asked_for_while_memory_is_not_ready():
    async def testbench(ctx, dut):
        ctx.set(dut.bus.req_ready, 0)
        redirect(ctx, dut, 0x1234)
        assert ctx.get(dut.bus.req_valid) and ctx.get(dut.bus.req_addr) == 0x1230
        await ctx.tick()
        redirect(ctx, dut, None)
        for _ in range(5):
            assert ctx.get(dut.bus.req_valid) and ctx.get(dut.bus.req_addr) == 0x1230
            await ctx.tick()
        ctx.set(dut.bus.req_ready, 1)
        await ctx.tick()
        assert ctx.get(dut.bus.req_addr) == 0x1240

    simulate(testbench)


def test_no_more_than_fifteen_requests_in_flight():
    async def testbench(ctx, dut):
        ctx.set(dut.bus.req_ready, 1)
        asked = 0
        for cycle in range(40):
            redirect(ctx, dut, 64 * cycle)
            asked += ctx.get(dut.bus.req_valid)
            await ctx.tick()
        redirect(ctx, dut, None)
        assert asked == 15
        line = 0x0F0E0D0C0B0A09080706050403020100
        for _ in range(15):
            assert ctx.get(dut.avail) == 0
            ctx.set(dut.bus.resp_valid, 1)
            ctx.set(dut.bus.resp_data, 0xFF)
            await ctx.tick()
        ctx.set(dut.bus.resp_data, line)
        assert ctx.get(dut.avail) == 16 and ctx.get(dut.window) == line and ctx.get(dut.pc) == 64 * 39

    simulate(testbench)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("ram_bytes, queue_bytes", ((0, 32), (100, 32), (1 << 31, 32), (RAM, 16), (RAM, 40)))
def test_parameters_are_checked(ram_bytes, queue_bytes):
    with pytest.raises(ValueError, match=r"must be"):
        Fetch(ram_bytes, queue_bytes)
