"""The page walker against a walk in Python: random tables of every level and size, every kind of access, slow memory."""

from amaranth.hdl import Cat

from hw.walker import Walker
from tests.unit.opbench import simulate
from tests.unit.pagetables import DEVICES, NX, PS, RAM, A, D, P, U, W, Who, walk


class Tables:
    """Random tables: mostly right, sometimes with a bit that makes them wrong."""

    def __init__(self, rng):
        self.rng, self.memory, self.next = rng, {}, 0x10000
        self.root = self.table()

    def table(self) -> int:
        self.next += 0x1000
        return self.next - 0x1000

    def map(self, la: int, la_bits_wrong: bool) -> None:
        rng, table = self.rng, self.root
        wrong = rng.randrange(4) if la_bits_wrong else None
        top = rng.choice((0, 0, 0, 1, 1, 2))
        for level in (3, 2, 1, 0):
            where = table + 8 * (la >> 12 + 9 * level & 511)
            entry = self.memory.get(where)
            leaf = level == top
            if entry is None:
                size = 1 << 12 + 9 * level
                frame = self.table() if not leaf else rng.choice((rng.randrange(RAM), *DEVICES)) & ~(size - 1)
                if leaf and level == 1:
                    frame |= rng.choice((0, 0x1000))  # PAT
                entry = frame | P | PS * (leaf and level > 0)
                entry |= sum(bit for bit in (W, U, A, D) if rng.random() < 0.7) | NX * (rng.random() < 0.1)
                if level == wrong:
                    entry ^= rng.choice((P, 1 << rng.randrange(32, 52), 1 << rng.randrange(24, 32), PS, 1 << 14))
                self.memory[where] = entry
            if not entry & P or leaf or (entry & PS):
                return
            table = entry & 0xFFFFF000


def test_against_the_manual(rng):
    dut = Walker(RAM)

    async def bench(ctx):
        seen = set()
        for _ in range(40):
            tables = Tables(rng)
            pages = [rng.getrandbits(48) for _ in range(6)]
            for la in pages:
                tables.map(la, rng.random() < 0.4)
            pages += [la ^ 1 << rng.randrange(12, 48) for la in pages[:3]]
            for _ in range(12):
                la = rng.choice(pages)
                who = Who(*(rng.random() < 0.5 for _ in range(7)))
                if who.fetch and who.write:
                    continue
                root = tables.root if rng.random() < 0.95 else rng.choice((RAM, 1 << 40, tables.root | 1 << 33))
                expected = walk(tables.memory, root, la, who)
                outcome = await run(ctx, dut, tables.memory, root, la, who, rng)
                assert outcome == (expected.pa, expected.error), f"{la:#x} {who} {outcome} {expected}"
                for where, entry in expected.marks.items():
                    if expected.error is None:
                        assert tables.memory[where] == entry, hex(where)
                    assert tables.memory[where] | A | D == entry | A | D
                seen.add(expected.error)
        assert {None, 0, 1, 3, 9, 0x11} <= seen

    simulate(dut, bench, clock=True)


async def run(ctx, dut, memory, root, la, who, rng):
    """One walk on a memory that answers when it likes; physical address and error code."""
    ctx.set(dut.page, la >> 12)
    for name in ("write", "user", "fetch", "smap"):
        ctx.set(getattr(dut.access, name), getattr(who, name))
    for name in ("wp", "nxe", "smep"):
        ctx.set(getattr(dut.rules, name), getattr(who, name))
    ctx.set(Cat(dut.rules.root, dut.rules.root_high), root >> 12 & 0xFFFFF | (root >> 32 != 0) << 20)
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    answers, locked = [], None
    for _ in range(300):
        assert ctx.get(dut.busy)
        if answers and rng.random() < 0.5:
            ctx.set(dut.bus.resp_valid, 1)
            ctx.set(dut.bus.resp_data, answers.pop())
        ready = rng.random() < 0.6
        ctx.set(dut.bus.req_ready, ready)
        if ctx.get(dut.done):
            result = (
                (None, ctx.get(dut.error))
                if ctx.get(dut.fault)
                else (ctx.get(dut.result.frame) << 12 | la & 0xFFF, None)
            )
            assert ctx.get(dut.walked) == la >> 12 and locked is None
            if result[1] is None:
                assert ctx.get(dut.result.dirty) or not who.write
            await ctx.tick()
            assert not ctx.get(dut.busy)
            return result
        if ready and ctx.get(dut.bus.req_valid):
            where = ctx.get(dut.bus.req_addr)
            assert where % 8 == 0 and where < RAM
            if ctx.get(dut.bus.req_write):
                assert where == locked
                memory[where], locked = ctx.get(dut.bus.req_data), None
            else:
                answers.append(memory.get(where, 0))
                if ctx.get(dut.bus.req_lock):
                    locked = where
        await ctx.tick()
        ctx.set(dut.bus.resp_valid, 0)
    raise AssertionError("the walk does not end")


def test_another_hart_changes_the_entry():
    """The entry that is about to be marked is taken away meanwhile: nothing of the change is lost, and the walk starts over."""
    dut = Walker(RAM)
    la = 0x0000_1234_5678_9ABC
    tables = [0x1000, 0x2000, 0x3000, 0x4000]
    where = [table + 8 * (la >> 12 + 9 * level & 511) for table, level in zip(tables, (3, 2, 1, 0), strict=True)]
    memory = {place: following | P | W | A for place, following in zip(where, (*tables[1:], 0x9000), strict=True)}
    changed = 0xA000 | P | W

    async def bench(ctx):
        ctx.set(dut.page, la >> 12)
        ctx.set(dut.access.write, 1)
        ctx.set(Cat(dut.rules.root, dut.rules.root_high), 1)
        ctx.set(dut.start, 1)
        ctx.set(dut.bus.req_ready, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        answer = None
        for _ in range(100):
            ctx.set(dut.bus.resp_valid, answer is not None)
            ctx.set(dut.bus.resp_data, answer or 0)
            answer = None
            if ctx.get(dut.done):
                break
            if ctx.get(dut.bus.req_valid):
                place = ctx.get(dut.bus.req_addr)
                if ctx.get(dut.bus.req_write):
                    memory[place] = ctx.get(dut.bus.req_data)
                else:
                    if ctx.get(dut.bus.req_lock) and memory[place] & 0xF000 == 0x9000:
                        memory[place] = changed
                    answer = memory[place]
            await ctx.tick()
        assert not ctx.get(dut.fault) and ctx.get(dut.result.frame) == 0xA
        assert memory[where[3]] == changed | A | D

    simulate(dut, bench, clock=True)


def test_no_walk_without_a_request():
    dut = Walker(RAM)

    async def bench(ctx):
        for _ in range(5):
            assert not ctx.get(dut.busy) and not ctx.get(dut.bus.req_valid) and not ctx.get(dut.done)
            await ctx.tick()

    simulate(dut, bench, clock=True)
