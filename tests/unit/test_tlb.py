"""The TLB against a dictionary, and accesses that cross into another frame against bytes."""

import pytest

from hw.split import SplitBus
from hw.tlb import Tlb
from tests.unit.opbench import simulate


def test_tlb_against_a_dictionary(rng):
    dut = Tlb(8, 2)

    async def bench(ctx):
        entries = {}  # by index: page, frame
        pages = [rng.getrandbits(36) for _ in range(12)]
        pages += [page ^ 1 << rng.randrange(36) for page in pages]
        for _ in range(600):
            looked = [rng.choice(pages) for _ in range(2)]
            for i, page in enumerate(looked):
                ctx.set(getattr(dut, f"page{i}"), page)
                entry = entries.get(page % 8)
                hit = entry is not None and entry[0] == page
                assert ctx.get(getattr(dut, f"hit{i}")) == hit
                if hit:
                    found = getattr(dut, f"found{i}")
                    assert (ctx.get(found.frame), ctx.get(found.writable)) == entry[1:]
            frame = rng.choice([entry[1] for entry in entries.values()] + [rng.getrandbits(20)])
            other = rng.getrandbits(20)
            for name, value in zip(("frame", "last"), rng.sample((frame, other), 2), strict=True):
                ctx.set(getattr(dut, name), value)
            assert ctx.get(dut.holds) == any(entry[1] in (frame, other) for entry in entries.values())
            fill, flush = rng.random() < 0.4, rng.random() < 0.03
            page, new = rng.choice(pages), (rng.getrandbits(20), rng.getrandbits(1))
            for name, value in (("fill", fill), ("flush", flush), ("fill_page", page)):
                ctx.set(getattr(dut, name), value)
            ctx.set(dut.fill_with.frame, new[0])
            ctx.set(dut.fill_with.writable, new[1])
            await ctx.tick()
            if flush:
                entries = {}
            if fill:
                entries[page % 8] = (page, *new)

    simulate(dut, bench, clock=True)


@pytest.mark.parametrize("lock", (0, 1))
@pytest.mark.parametrize("write", (0, 1))
def test_split_accesses(rng, write, lock):
    """Every size at every place before the end of a page, with slow memory."""
    dut = SplitBus()
    pages = {3: bytearray(rng.randbytes(4096)), 9: bytearray(rng.randbytes(4096))}

    async def access(ctx, offset, size, data):
        core, memory = dut.core, dut.memory
        for name, value in (("valid", 1), ("addr", 3 << 12 | offset), ("size", size), ("write", write), ("data", data), ("lock", lock)):
            ctx.set(getattr(core, f"req_{name}"), value)
        ctx.set(dut.split, 1)
        ctx.set(dut.rest, 9)
        answers, taken, locks = [], False, []
        for _ in range(200):
            ready = rng.random() < 0.5
            ctx.set(memory.req_ready, ready)
            ctx.set(memory.resp_valid, 0)
            if answers and rng.random() < 0.5:
                ctx.set(memory.resp_valid, 1)
                ctx.set(memory.resp_data, answers.pop(0))
            was_taken = taken or (ctx.get(core.req_ready) and ctx.get(core.req_valid))
            answered = ctx.get(core.resp_valid)
            value = ctx.get(core.resp_data)
            if ready and ctx.get(memory.req_valid):
                where, width = ctx.get(memory.req_addr), 1 << ctx.get(memory.req_size)
                page, place = pages[where >> 12], where & 0xFFF
                assert place + width <= 4096
                locks.append(ctx.get(memory.req_lock))
                if ctx.get(memory.req_write):
                    page[place : place + width] = (ctx.get(memory.req_data) & (1 << 8 * width) - 1).to_bytes(width, "little")
                else:
                    answers.append(int.from_bytes(page[place : place + width], "little"))
            await ctx.tick()
            if was_taken and not taken:
                ctx.set(core.req_valid, 0)
                taken = True
            if (taken and write) or answered:
                ctx.set(memory.resp_valid, 0)
                assert locks == ([0] * (len(locks) - 1) + [lock] if write else [lock, lock])
                return value
        raise AssertionError("no end")

    async def bench(ctx):
        for size in (1, 2, 3):
            for before in range(1, 1 << size):
                offset, data = 4096 - before, rng.getrandbits(64)
                value = await access(ctx, offset, size, data)
                there = bytes(pages[3][offset:] + pages[9][: (1 << size) - before])
                wanted = data & (1 << (8 << size)) - 1 if write else value
                assert int.from_bytes(there, "little") == wanted

    simulate(dut, bench, clock=True)


def test_everything_else_passes():
    dut = SplitBus()

    async def bench(ctx):
        for name, value in (("valid", 1), ("addr", 0x1FFE), ("size", 3), ("write", 1), ("data", 5), ("lock", 1)):
            ctx.set(getattr(dut.core, f"req_{name}"), value)
        for ready in (0, 1):
            ctx.set(dut.memory.req_ready, ready)
            assert ctx.get(dut.core.req_ready) == ready
            assert ctx.get(dut.memory.req_valid) and ctx.get(dut.memory.req_size) == 3 and ctx.get(dut.memory.req_lock)
            await ctx.tick()

    simulate(dut, bench, clock=True)
