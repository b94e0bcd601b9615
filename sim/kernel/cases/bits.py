"""Bitmaps and searches in them: lib/bitmap.c, lib/find_bit.c, lib/hweight.c, arch/x86/lib/hweight.S."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sim.kernel.cases.base import Call, Case, Mem, room, text

#: Lengths in bits: within a word, whole words, and beyond.
LENGTHS = (1, 7, 64, 65, 130, 300)

_WORDS = 6


def number(seed: int, bits: int = 64 * _WORDS) -> int:
    """A number of scattered bits, the same each time (xorshift)."""
    value, state = 0, seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1 or 1
    for _ in range(bits // 64 + 1):
        state ^= state << 13 & (1 << 64) - 1
        state ^= state >> 7
        state ^= state << 17 & (1 << 64) - 1
        value = value << 64 | state
    return value & (1 << bits) - 1


A, B, C = number(1), number(2), number(3)
SPARSE = sum(1 << bit for bit in (3, 64, 70, 127, 128, 200, 301))


def bitmap(value: int, name: str = "bitmap") -> Mem:
    """A bitmap in memory."""
    return Mem(value.to_bytes(8 * _WORDS, "little"), name=name)


def low(value: int, bits: int) -> int:
    """The low bits of a number."""
    return value & (1 << bits) - 1


def words(value: int, bits: int) -> bytes:
    """The whole words that a bitmap of so many bits takes."""
    return value.to_bytes(8 * _WORDS, "little")[: (bits + 63) // 64 * 8]


def positions(value: int, bits: int) -> list[int]:
    """The bits that are set."""
    return [bit for bit in range(bits) if value >> bit & 1]


def _upto(bits: int) -> int:
    """Bits of the whole words."""
    return (bits + 63) // 64 * 64


def logic() -> Iterator[Case]:
    """Operations of two bitmaps."""
    binary: dict[str, Callable[[int, int], int]] = {
        "__bitmap_and": lambda a, b: a & b,
        "__bitmap_andnot": lambda a, b: a & ~b,
        "__bitmap_or": lambda a, b: a | b,
        "__bitmap_xor": lambda a, b: a ^ b,
    }
    for bits in LENGTHS:
        x, y, name = low(A, bits), low(B, bits), f"{bits} bits"
        for function, operation in binary.items():
            target = room(8 * _WORDS)
            known = operation(A, B)
            if function in ("__bitmap_and", "__bitmap_andnot"):  # the last word is masked, the others are whole
                known = low(known, bits)
                call = Call(function, target, bitmap(A), bitmap(B), bits, returns=bool(known), bits=8)
            else:
                call = Call(function, target, bitmap(A), bitmap(B), bits)
            yield Case(name, call, after={target: words(low(known, _upto(bits)), bits)})
        target = room(8 * _WORDS)
        call = Call("__bitmap_complement", target, bitmap(A), bits)
        yield Case(name, call, after={target: words(low(~A, _upto(bits)), bits)})
        call = Call("__bitmap_replace", target, bitmap(A), bitmap(B), bitmap(C), bits)
        yield Case(name, call, after={target: words(low(A & ~C | B & C, _upto(bits)), bits)})
        high = 1 << bits  # beyond the end
        for other in (x | high, x ^ 1, y):
            yield Case(name, Call("__bitmap_equal", bitmap(x), bitmap(other), bits, returns=low(other, bits) == x, bits=8))
            any_ = bool(x & low(other, bits))
            yield Case(name, Call("__bitmap_intersects", bitmap(x), bitmap(other), bits, returns=any_, bits=8))
            subset = not x & ~low(other, bits)
            yield Case(name, Call("__bitmap_subset", bitmap(x), bitmap(other), bits, returns=subset, bits=8))
            same = low(x | y, bits) == low(other | y, bits)
            yield Case(name, Call("__bitmap_or_equal", bitmap(x), bitmap(y), bitmap(other | y), bits, returns=same, bits=8))
        weight = x.bit_count()
        yield Case(name, Call("__bitmap_weight", bitmap(A), bits, returns=weight, bits=32))
        yield Case(name, Call("__bitmap_weight_and", bitmap(A), bitmap(B), bits, returns=(x & y).bit_count(), bits=32))
        for shift in (0, 1, 63, 64, 100):
            if shift < bits:
                target = room(8 * _WORDS)
                call = Call("__bitmap_shift_right", target, bitmap(A), shift, bits)
                yield Case(f"{name}, {shift}", call, after={target: words(x >> shift, bits)})
                call = Call("__bitmap_shift_left", target, bitmap(low(A, bits)), shift, bits)
                yield Case(f"{name}, {shift}", call, after={target: words(low(x << shift, _upto(bits)), bits)})
    for start, count in ((0, 1), (5, 60), (63, 2), (64, 64), (70, 200), (9, 0)):
        run = low(-1, count) << start
        for function, known in (("__bitmap_set", A | run), ("__bitmap_clear", A & ~run)):
            target = bitmap(A)
            yield Case(f"{count} from {start}", Call(function, target, start, count), after={target: words(known, 384)})


def searches() -> Iterator[Case]:
    """The next bit that is set, or clear."""
    for label, value in (("scattered", A), ("sparse", SPARSE), ("empty", 0), ("full", (1 << 384) - 1)):
        for bits in LENGTHS:
            have = positions(value, bits)
            lack = positions(~value, bits)
            both = positions(value & B, bits)
            name = f"{label}, {bits} bits"
            yield Case(name, Call("_find_first_bit", bitmap(value), bits, returns=next(iter(have), bits)))
            yield Case(name, Call("_find_first_zero_bit", bitmap(value), bits, returns=next(iter(lack), bits)))
            yield Case(name, Call("_find_first_and_bit", bitmap(value), bitmap(B), bits, returns=next(iter(both), bits)))
            yield Case(name, Call("_find_last_bit", bitmap(value), bits, returns=have[-1] if have else bits))
            for n in (0, 1, 5, 40):
                known = have[n] if n < len(have) else None  # anything from the size on
                yield Case(f"{name}, number {n}", Call("__find_nth_bit", bitmap(value), bits, n, returns=known))
            for start in (1, 64, 129):
                later = [bit for bit in have if bit >= start]
                call = Call("_find_next_bit", bitmap(value), bits, start, returns=next(iter(later), bits))
                yield Case(f"{name}, from {start}", call)
                later = [bit for bit in lack if bit >= start]
                call = Call("_find_next_zero_bit", bitmap(value), bits, start, returns=next(iter(later), bits))
                yield Case(f"{name}, from {start}", call)
                later = [bit for bit in both if bit >= start]
                call = Call("_find_next_and_bit", bitmap(value), bitmap(B), bits, start, returns=next(iter(later), bits))
                yield Case(f"{name}, from {start}", call)
    for start, bits in ((0, 64), (65, 300), (202, 300)):
        clump, later = room(8), [bit for bit in positions(SPARSE, bits) if bit >= start]
        at = later[0] // 8 * 8 if later else bits
        call = Call("find_next_clump8", clump, bitmap(SPARSE), bits, start, returns=at, bits=32)
        known = (SPARSE >> at & 255).to_bytes(8, "little") if later else clump.data
        yield Case(f"{bits} bits from {start}", call, after={clump: known})
    for count, start in ((3, 0), (10, 7), (60, 0), (100, 0)):
        areas = (at for at in range(start, 300 - count + 1) if not SPARSE >> at & low(-1, count))
        known = next(areas, None)
        # without room: anything beyond the size
        call = Call("bitmap_find_next_zero_area_off", bitmap(SPARSE), 300, start, count, 0, 0, returns=known)
        yield Case(f"{count} from {start}", call)
    for order in (0, 2, 4):
        size, target = 1 << order, bitmap(SPARSE)
        known = next(at for at in range(0, 300, size) if not SPARSE >> at & low(-1, size))
        call = Call("bitmap_find_free_region", target, 300, order, returns=known, bits=32)
        after = SPARSE | low(-1, size) << known
        yield Case(f"order {order}", call, after={target: words(after, 384)})
        busy = Call("bitmap_allocate_region", target, known, order, returns=-16, bits=32)  # -EBUSY
        free = Call("bitmap_release_region", target, known, order)
        again = Call("bitmap_allocate_region", target, known, order, returns=0, bits=32)
        yield Case(f"order {order}, in turn", call, busy, free, again, after={target: words(after, 384)})


def conversions() -> Iterator[Case]:
    """Bitmaps from and to other shapes."""
    for bits in LENGTHS:
        target, halves = room(8 * _WORDS), (bits + 31) // 32 * 4
        source = Mem(A.to_bytes(8 * _WORDS, "little")[:halves], name="u32[]")
        call = Call("bitmap_from_arr32", target, source, bits)
        yield Case(f"{bits} bits", call, after={target: words(low(A, bits), bits)})
        call = Call("bitmap_to_arr32", target, bitmap(A), bits)
        yield Case(f"{bits} bits", call, after={target: words(low(A, bits), bits)[:halves]})
    target = room(8 * _WORDS)
    for line, known in (("0-3,7", 0x8F), ("1,64-66", 7 << 64 | 2), ("0-15:2/4", 0x3333), ("", 0), ("all", low(-1, 80))):
        call = Call("bitmap_parselist", text(line), target, 80, returns=0, bits=32)
        yield Case(repr(line), call, after={target: words(known, 80)})
    for line, error in (("5-3", -22), ("90", -34), ("1,x", -22)):
        yield Case(repr(line), Call("bitmap_parselist", text(line), target, 80, returns=error, bits=32))
    for line, known in (("f", 15), ("1,80000001", 1 << 32 | 1 << 31 | 1), ("12345678,9abcdef0", 0x123456789ABCDEF0)):
        call = Call("bitmap_parse", text(line), len(line), target, 128, returns=0, bits=32)
        yield Case(repr(line), call, after={target: words(known, 128)})
    yield Case("overflow", Call("bitmap_parse", text("ffff,0,0"), 8, target, 70, returns=-75, bits=32))
    old, new = 0xF0, 0x0F00
    for bit, known in ((4, 8), (7, 11), (2, 2)):
        yield Case(f"bit {bit}", Call("bitmap_bitremap", bit, bitmap(old), bitmap(new), 64, returns=known, bits=32))
    for value in (0x35, 0xF0, 0x0F, 1 << 63 | 0x40):
        # bits of `old` become those of `new` in the same place, others stay
        moved = (value & old) >> 4 << 8 | value & ~old
        call = Call("bitmap_remap", target, bitmap(value), bitmap(old), bitmap(new), 64)
        yield Case(f"{value:#x}", call, after={target: words(moved, 64)})
    for value in (0, 1 << 2, A):
        known = sum(1 << bit for n, bit in enumerate(positions(SPARSE, 300)) if value >> n & 1)
        call = Call("bitmap_onto", target, bitmap(value), bitmap(SPARSE), 300)
        yield Case(f"{value & 0xFF:#x}", call, after={target: words(known, 300)})
    for size in (8, 33):
        known = 0
        for bit in positions(A, 300):
            known |= 1 << bit % size
        yield Case(f"modulo {size}", Call("bitmap_fold", target, bitmap(A), size, 300), after={target: words(known, 300)})
    for first, cut in ((0, 3), (10, 64), (65, 1)):
        known = low(A, first) | low(A, 300) >> first + cut << first
        call = Call("bitmap_cut", target, bitmap(low(A, 300)), first, cut, 300)
        yield Case(f"{cut} at {first}", call, after={target: words(known, 300)})


def weights() -> Iterator[Case]:
    """Counts of bits."""
    for value in (0, 1, 0xFF, 0x80000001, 0xDEADBEEF, (1 << 64) - 1, A & (1 << 64) - 1):
        for bits in (8, 16, 32, 64):
            known = low(value, bits).bit_count()
            yield Case(f"{value:#x}", Call(f"__sw_hweight{bits}", low(value, bits), returns=known, bits=32))
    data = A.to_bytes(48, "little")
    for start, count in ((0, 48), (1, 40), (3, 9), (7, 0)):
        whole = Mem(data[start : start + count] or b"\0", name="data", align=64)
        known = sum(byte.bit_count() for byte in data[start : start + count])
        yield Case(f"{count} bytes", Call("memweight", whole, count, returns=known))


def cases() -> Iterator[Case]:
    """All of them."""
    yield from logic()
    yield from searches()
    yield from conversions()
    yield from weights()
