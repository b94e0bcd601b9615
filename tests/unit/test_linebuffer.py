"""Kept lines of code: answers in order; old until the hart serialises, new at once after its own store."""

import pytest

from hw.linebuffer import LineBuffer
from tests.unit.opbench import simulate

LINES = 4
ADDRESSES = range(0, 16 * 3 * LINES, 16)


class Rig:
    """Requests of a hart, a memory with a version number in every line, and what a line may be when it is answered."""

    def __init__(self, rng, dut, own):
        self.rng, self.dut, self.own = rng, dut, own
        self.versions = dict.fromkeys(ADDRESSES, 0)
        self.oldest = dict.fromkeys(ADDRESSES, 0)  # since the hart serialised, or stored itself
        self.memory, self.wanted = [], []
        self.old = self.answered = 0

    async def cycle(self, ctx, asks=True):
        rng, dut = self.rng, self.dut
        writer = rng.choice(ADDRESSES) + rng.randrange(16) if rng.random() < 0.2 else None
        own = writer is not None and rng.random() < self.own
        empty = rng.random() < 0.02
        ctx.set(dut.empty, empty)
        ctx.set(dut.store, own)
        touched = set()
        if writer is not None:
            last = min(writer + rng.choice((0, 1, 3, 7)), max(ADDRESSES) + 15)
            touched = {writer & ~15, last & ~15}
            ctx.set(dut.store_addr, writer)
            ctx.set(dut.store_last, last)
        if empty:
            self.oldest = dict(self.versions)
        address = rng.choice(ADDRESSES)
        ctx.set(dut.core.req_valid, asks)
        ctx.set(dut.core.req_addr, address)
        ctx.set(dut.memory.req_ready, rng.random() < 0.8)
        answers = bool(self.memory) and rng.random() < 0.6
        ctx.set(dut.memory.resp_valid, answers)
        if answers:
            ctx.set(dut.memory.resp_data, self.memory.pop(0))
        if ctx.get(dut.core.resp_valid):
            where, lowest, highest = self.wanted.pop(0)
            got = ctx.get(dut.core.resp_data)
            assert got >> 64 == where, "another line"
            assert lowest <= got & 0xFFFFFFFF <= highest, (hex(where), lowest, got & 0xFFFFFFFF, highest)
            self.old += got & 0xFFFFFFFF < highest
            self.answered += 1
        if asks and ctx.get(dut.core.req_ready):
            self.wanted.append((address, self.oldest[address], self.versions[address]))
        if ctx.get(dut.memory.req_valid) and ctx.get(dut.memory.req_ready):
            where = ctx.get(dut.memory.req_addr)
            self.memory.append(where << 64 | self.versions[where])
        for line in touched:
            self.versions[line] += 1
            if own:
                self.oldest[line] = self.versions[line]
        await ctx.tick()


@pytest.mark.parametrize("own", (0, 0.5, 1))
def test_versions(own, rng):
    dut = LineBuffer(LINES)

    async def test(ctx):
        rig = Rig(rng, dut, own)
        for _ in range(3000):
            await rig.cycle(ctx, rng.random() < 0.9)
        for _ in range(200):
            await rig.cycle(ctx, False)
        assert not rig.wanted and not rig.memory
        assert rig.answered > 900
        assert rig.old > 10 if own == 0 else rig.old > 0 if own < 1 else rig.old == 0, rig.old

    simulate(dut, test, clock=True)


@pytest.mark.parametrize("lines", (1, 3, 512))
def test_sizes(lines):
    with pytest.raises(ValueError, match="power of two"):
        LineBuffer(lines)
