"""The comparators of the debug registers against sets of bytes (trap semantics 3.2)."""

import itertools

from hw.breakpoints import Breakpoints, Kind, Watch
from tests.unit.opbench import M64, simulate

LENGTH = {0: 1, 1: 2, 2: 8, 3: 4}
SEES = {
    Kind.EXECUTE: (),
    Kind.WRITE: (Watch.WRITE,),
    Kind.PORT: (Watch.PORT,),
    Kind.ANY: (Watch.READ, Watch.WRITE),
}


def meets(place, kind, length, watch, address, size, de) -> bool:
    """By the definition: bytes in common."""
    if watch not in SEES[kind] or (kind == Kind.PORT and not de):
        return False
    start = place & ~(LENGTH[length] - 1)
    region = {start + i for i in range(LENGTH[length])}
    return bool(region & {(address + i) & M64 for i in range(1 << size)})


def run(test):
    dut = Breakpoints()

    async def bench(ctx):
        await test(ctx, dut)

    simulate(dut, bench)


def put(ctx, dut, points, *, de=0):
    """`points`: place, enable bits, kind, length of each breakpoint."""
    dr7 = 0x400
    for n, (place, enable, kind, length) in enumerate(points):
        ctx.set(getattr(dut, f"dr{n}"), place)
        dr7 |= enable << 2 * n | kind.value << 16 + 4 * n | length << 18 + 4 * n
    ctx.set(dut.dr7, dr7)
    ctx.set(dut.de, de)


def test_every_overlap():
    """A breakpoint of each length and alignment with accesses all around it, one sort of access for each kind."""

    async def test(ctx, dut):
        base = 0xFFFF_8000_1234_5FF8  # so that the quadword after it lies in another page
        for length, low, size in itertools.product(LENGTH, range(8), range(4)):
            points = [(base + low, 2, kind, length) for kind in Kind]
            put(ctx, dut, points, de=1)
            ctx.set(dut.size, size)
            for watch in Watch:
                ctx.set(dut.watch, watch)
                for distance in range(-9, 18):
                    address = base + distance
                    ctx.set(dut.address, address)
                    want = [meets(place, kind, length, watch, address, size, 1) for place, _, kind, length in points]
                    assert ctx.get(dut.data) == sum(hit << n for n, hit in enumerate(want)), (length, low, size, watch, distance)

    run(test)


def test_random_registers(rng):
    """Four breakpoints at random near one another: which are met, and that enabled ones only are."""

    async def test(ctx, dut):
        for _ in range(400):
            base, de = rng.getrandbits(64) & ~0xFF, rng.getrandbits(1)
            kinds = list(Kind)
            points = [
                ((base + rng.randrange(24)) & M64, rng.randrange(4), rng.choice(kinds), rng.randrange(4)) for _ in range(4)
            ]
            put(ctx, dut, points, de=de)
            watch, size, address = rng.choice(list(Watch)), rng.randrange(4), base + rng.randrange(24)
            for name, value in (("watch", watch), ("size", size), ("address", address)):
                ctx.set(getattr(dut, name), value)
            want = [bool(enable) and meets(place, kind, length, watch, address, size, de) for place, enable, kind, length in points]
            assert ctx.get(dut.data) == sum(hit << n for n, hit in enumerate(want)), (points, watch, size, address)
            pc, starts = rng.choice(points)[0], rng.getrandbits(1)
            ctx.set(dut.pc, pc)
            ctx.set(dut.starts, starts)
            code = [bool(starts and enable) and kind == Kind.EXECUTE and place == pc for place, enable, kind, _ in points]
            assert ctx.get(dut.code) == sum(hit << n for n, hit in enumerate(code)), (points, pc)

    run(test)


def test_the_end_of_the_address_space():
    """An access that wraps around meets a breakpoint at 0, and one at the end."""

    async def test(ctx, dut):
        put(ctx, dut, [(0, 1, Kind.WRITE, 0), (M64, 1, Kind.WRITE, 0), (8, 1, Kind.WRITE, 2), (M64 - 8, 1, Kind.ANY, 2)])
        for name, value in (("watch", Watch.WRITE), ("size", 3), ("address", M64 - 3)):
            ctx.set(getattr(dut, name), value)
        assert ctx.get(dut.data) == 0b0011

    run(test)
