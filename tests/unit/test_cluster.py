"""The lock of the memory, the turns of the ports, and interrupts between controllers, each without a core."""

import pytest
from amaranth.hdl import Elaboratable, Module

from hw.cluster import MemoryLock, OutTurns, interrupt_each_other
from hw.config import Config
from hw.lapic import At, Lapic
from hw.soc import Soc
from tests.unit.opbench import simulate


class Requester:
    """A hart's side of the lock: plain accesses, and locked instructions of one or two loads and as many stores."""

    def __init__(self, rng, dut, number):
        self.rng, self.number, self.core = rng, number, getattr(dut, f"h{number}_core")
        self.todo, self.waited, self.longest, self.done = [], 0, 0, 0
        self.locked = self.drops = False

    def drive(self, ctx):
        """The request of this cycle, and whether the hart lets go."""
        if not self.todo and self.rng.random() < 0.8:
            if self.rng.random() < 0.5:
                self.todo = [(0, 1)] * (n := self.rng.randint(1, 2)) + [(1, 1)] * n + ["end"]
            else:
                self.todo = [(self.rng.getrandbits(1), 0)]
        self.drops = self.locked and self.rng.random() < 0.05
        if self.drops:
            self.todo = []
        wants = self.todo and self.todo[0] != "end" and not (self.locked and self.rng.random() < 0.3)
        self.wants = bool(wants)
        ctx.set(self.core.req_valid, self.wants)
        write, lock = self.todo[0] if wants else (0, self.rng.random() < 0.3)  # a claim whose load was dropped
        ctx.set(self.core.req_write, write)
        ctx.set(self.core.req_lock, lock)
        self.ends = bool(self.todo) and self.todo[0] == "end"
        return self.drops or self.ends

    def see(self, ctx):
        """What happened in this cycle: whether the request was taken, and whether it asked for the lock."""
        taken = self.wants and ctx.get(self.core.req_ready)
        asked = taken and self.todo[0] == (0, 1) and not self.locked
        self.waited = 0 if taken or not self.wants else self.waited + 1
        self.longest = max(self.longest, self.waited)
        self.done += taken
        if taken:
            self.locked |= self.todo[0][1]
            self.todo.pop(0)
        if self.drops or self.ends:
            self.locked = False
            if self.ends:
                self.todo.pop(0)
        return taken, asked


@pytest.mark.parametrize("harts", (2, 3, 4))
@pytest.mark.parametrize("ready", (1.0, 0.7))
def test_lock(harts, ready, rng):
    """Nothing comes between; of two that ask at once, one gets the lock; nobody waits long."""
    dut = MemoryLock(harts)

    async def test(ctx):
        requesters = [Requester(rng, dut, i) for i in range(harts)]
        for _ in range(1000):
            before = [r.locked for r in requesters]
            ends = [r.drive(ctx) for r in requesters]
            ctx.set(dut.unlock, sum(end << i for i, end in enumerate(ends)))
            for i in range(harts):
                ctx.set(getattr(dut, f"h{i}_memory").req_ready, rng.random() < ready)
            for i, r in enumerate(requesters):
                memory = getattr(dut, f"h{i}_memory")
                taken = r.wants and ctx.get(r.core.req_ready)
                assert taken == (ctx.get(memory.req_valid) and ctx.get(memory.req_ready))
            seen = [r.see(ctx) for r in requesters]
            assert sum(before) <= 1
            for i in range(harts):
                others = [taken for j, (taken, _) in enumerate(seen) if j != i]
                assert not (before[i] and any(others)), "a request came between"
                assert not (seen[i][1] and any(others)), "a request came with the first locked load"
            await ctx.tick()
        assert all(r.done > 60 for r in requesters)
        bound = (18 if ready == 1 else 40) * harts
        assert max(r.longest for r in requesters) < bound, [r.longest for r in requesters]

    simulate(dut, test, clock=True)


def test_turns(rng):
    """One at a time, and everybody within as many cycles as there are harts."""
    dut = OutTurns(3)

    async def test(ctx):
        waits = [0] * 3
        for _ in range(300):
            wants = rng.getrandbits(3) | sum((wait > 0) << i for i, wait in enumerate(waits))
            ctx.set(dut.wants, wants)
            grants = ctx.get(dut.grants)
            assert grants.bit_count() == bool(wants) and not grants & ~wants
            waits = [wait + 1 if (wants & ~grants) >> i & 1 else 0 for i, wait in enumerate(waits)]
            assert max(waits) < 3
            await ctx.tick()

    simulate(dut, test, clock=True)


class Three(Elaboratable):
    """Three controllers that see each other."""

    def __init__(self):
        self.apics = [Lapic(i, 3) for i in range(3)]

    def elaborate(self, platform):
        m = Module()
        for i, apic in enumerate(self.apics):
            m.submodules[f"apic{i}"] = apic
        interrupt_each_other(m, self.apics)
        return m


async def write(ctx, apic, at, value):
    for name, v in (("offset", at), ("write", 1), ("wdata", value)):
        ctx.set(getattr(apic.registers, name), v)
    await ctx.tick()
    ctx.set(apic.registers.write, 0)


FIXED, LOWEST, NMI, INIT, START = (mode << 8 for mode in (0, 1, 4, 5, 6))
LOGICAL, ITSELF, ALL, OTHERS = 1 << 11, 1 << 18, 2 << 18, 3 << 18
ASSERT, LEVEL = 1 << 14, 1 << 15


@pytest.mark.parametrize(
    ("high", "low", "to"),
    [
        (0, FIXED, {0}), (2, FIXED, {2}), (3, FIXED, set()), (0xFF, FIXED, {0, 1, 2}),
        (0, ITSELF, {1}), (0, ALL, {0, 1, 2}), (0, OTHERS, {0, 2}), (1, OTHERS, {0, 2}),
        (4, LOGICAL, {1}), (0x2A, LOGICAL, {0, 2}), (1, LOGICAL, set()), (0xFF, LOGICAL, {0, 1, 2}),
        (0x26, LOGICAL | LOWEST, {0}), (0xC, LOGICAL | LOWEST, {1}), (0, OTHERS | LOWEST, {0}), (2, LOWEST, {2}),
        (2, NMI, {2}), (0, OTHERS | NMI, {0, 2}), (0, OTHERS | INIT | ASSERT, {0, 2}), (0, OTHERS | INIT | LEVEL, set()),
        (2, INIT | LEVEL | ASSERT, {2}), (0, START, {0}), (0, OTHERS | START, {0, 2}),
    ],
)  # fmt: skip
def test_destinations(high, low, to):
    """Who takes what hart 1 sends: physical, logical and shorthand, of every delivery mode."""
    three = Three()

    async def test(ctx):
        for i, apic in enumerate(three.apics):
            ctx.set(apic.core.enable, 1)
            await write(ctx, apic, At.SVR, 0x1FF)
            await write(ctx, apic, At.LDR, (0x22, 4, 8)[i] << 24)
        sender = three.apics[1]
        await write(ctx, sender, At.ICR_HIGH, high << 24)
        await write(ctx, sender, At.ICR_LOW, low | 0x99)
        kinds = {"nmi": set(), "init": set(), "start": set()}
        for i, apic in enumerate(three.apics):
            for kind, found in kinds.items():
                found |= {i} if ctx.get(getattr(apic.core, kind)) else set()
            if ctx.get(apic.core.start):
                assert ctx.get(apic.core.page) == 0x99
        await ctx.tick()
        kinds["fixed"] = {i for i, apic in enumerate(three.apics) if ctx.get(apic.hart.valid)}
        assert all(ctx.get(three.apics[i].hart.vector) == 0x99 for i in kinds["fixed"])
        kind = {NMI: "nmi", INIT: "init", START: "start"}.get(low & 0x700, "fixed")
        assert kinds == {name: to if name == kind else set() for name in kinds}

    simulate(three, test, clock=True)


def test_an_illegal_vector_is_found_by_both():
    three = Three()

    async def test(ctx):
        for apic in three.apics:
            ctx.set(apic.core.enable, 1)
            await write(ctx, apic, At.SVR, 0x1FF)
        await write(ctx, three.apics[0], At.ICR_HIGH, 2 << 24)
        await write(ctx, three.apics[0], At.ICR_LOW, 15)
        await ctx.tick()
        for apic, found in zip(three.apics, (0x20, 0, 0x40), strict=True):
            await write(ctx, apic, At.ESR, 0)
            ctx.set(apic.registers.offset, At.ESR)
            assert ctx.get(apic.registers.rdata) == found

    simulate(three, test, clock=True)


@pytest.mark.parametrize("remote", (0b111, 0b100, 0b010, 0))
def test_the_lowest_priority_takes_one(remote):
    """Of the harts that an IPI from outside names, the first takes it."""
    three = Three()

    async def test(ctx):
        for i, apic in enumerate(three.apics):
            ctx.set(apic.core.enable, 1)
            for at, value in ((At.SVR, 0x1FF), (At.LDR, 1 << 24 + i)):
                for name, v in (("offset", at), ("write", 1), ("wdata", value)):
                    ctx.set(getattr(apic.registers, name), v)
                await ctx.tick()
            ctx.set(apic.registers.write, 0)
        for apic in three.apics:
            for name, v in (("valid", 1), ("vector", 0x77), ("mode", 1), ("logical", 1), ("destination", remote)):
                ctx.set(getattr(apic.remote, name), v)
        await ctx.tick()
        took = [bool(ctx.get(apic.hart.valid)) for apic in three.apics]
        assert took == [remote & -remote == 1 << i for i in range(3)]

    simulate(three, test, clock=True)


@pytest.mark.parametrize("harts", (0, 5))
def test_numbers_of_harts(harts):
    with pytest.raises(ValueError, match="1 to 4 harts"):
        Soc(harts, Config())
