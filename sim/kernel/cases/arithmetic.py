"""Arithmetic, time and random numbers: lib/math, lib/crypto/mpi, kernel/time, kernel/bpf/tnum.c, lib/random32.c."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from sim.kernel.cases.base import Call, Case, Mem, room
from sim.kernel.cases.bits import number

PAIRS = ((0, 5), (5, 0), (1, 1), (12, 18), (1071, 462), (1 << 40, 3 << 20), (600851475143, 6857), (2**61 - 1, 2**31 - 1))


def integers() -> Iterator[Case]:
    """Numbers of one word."""
    for a, b in PAIRS:
        yield Case(f"{a}, {b}", Call("gcd", a, b, returns=math.gcd(a, b)))
        if a * b < 1 << 64:
            yield Case(f"{a}, {b}", Call("lcm", a, b, returns=math.lcm(a, b)))
            yield Case(f"{a}, {b}", Call("lcm_not_zero", a, b, returns=math.lcm(a, b) or a or b))
    for value in (0, 1, 2, 3, 4, 99, 100, 101, 65535**2, 2**32, 2**62 + 12345, 2**64 - 1):
        yield Case(str(value), Call("int_sqrt", value, returns=math.isqrt(value)))
    for base, exponent in ((0, 0), (3, 13), (10, 19), (2, 63), (7, 1), (123456789, 2)):
        yield Case(f"{base} ** {exponent}", Call("int_pow", base, exponent, returns=base**exponent))
    for value in (0, 9, 10, 42, 99):
        yield Case(str(value), Call("_bin2bcd", value, returns=value // 10 << 4 | value % 10, bits=8))
        yield Case(str(value), Call("_bcd2bin", value // 10 << 4 | value % 10, returns=value, bits=32))
    for dividend, divisor in ((17, 5), (3_999_999_999, 1_000_000_000), (0, 1)):
        rest = room(8)
        call = Call("iter_div_u64_rem", dividend, divisor, rest, returns=dividend // divisor, bits=32)
        yield Case(f"{dividend} / {divisor}", call, after={rest: (dividend % divisor).to_bytes(8, "little")})
    for divisor in (1, 3, 7, 10, 1000, 2**31 + 1):
        shift = (divisor - 1).bit_length()
        multiplier = ((1 << 32) * ((1 << shift) - divisor)) // divisor + 1
        known = multiplier & 0xFFFFFFFF | min(shift, 1) << 32 | max(shift - 1, 0) << 40
        yield Case(str(divisor), Call("reciprocal_value", divisor, returns=known, bits=48))
    for value, limit in ((Fraction(31415926, 10_000_000), 1000), (Fraction(355, 113), 400), (Fraction(1, 3), 10)):
        best = value.limit_denominator(limit)
        top, bottom = room(8), room(8)
        call = Call("rational_best_approximation", value.numerator, value.denominator, 10**6, limit, top, bottom)
        known = {top: best.numerator.to_bytes(8, "little"), bottom: best.denominator.to_bytes(8, "little")}
        yield Case(f"{value}, {limit}", call, after=known)
    for rate, to in ((1_000_000_000, 1000), (24_000_000, 1_000_000_000), (2_893_000_000, 1_000_000_000)):
        multiplier, shift = room(4), room(4)
        yield Case(f"{rate} to {to}", Call("clocks_calc_mult_shift", multiplier, shift, rate, to, 600))


def limbs(value: int, count: int = 6) -> Mem:
    """A number of several words in memory."""
    return Mem(value.to_bytes(8 * count, "little"), name="limbs")


def long_integers() -> Iterator[Case]:
    """Numbers of several words (lib/crypto/mpi)."""
    size = 6
    top = 1 << 64 * size
    for a, b in ((number(5), number(6)), (top - 1, 1), (0, top - 1), (number(7), number(7))):
        name, result = f"{a & 0xFFFF:#x}..., {b & 0xFFFF:#x}...", room(8 * size)

        def left(value: int, result: Mem = result) -> dict[Mem, bytes]:
            return {result: (value % top).to_bytes(8 * size, "little")}

        call = Call("mpihelp_add_n", result, limbs(a), limbs(b), size, returns=(a + b) >> 64 * size)
        yield Case(name, call, after=left(a + b))
        call = Call("mpihelp_sub_n", result, limbs(a), limbs(b), size, returns=a < b)
        yield Case(name, call, after=left(a - b))
        yield Case(name, Call("mpihelp_cmp", limbs(a), limbs(b), size, returns=(a > b) - (a < b), bits=32))
        factor = b & (1 << 64) - 1
        call = Call("mpihelp_mul_1", result, limbs(a), size, factor, returns=a * factor // top)
        yield Case(name, call, after=left(a * factor))
        start = number(8)
        result = limbs(start)
        call = Call("mpihelp_addmul_1", result, limbs(a), size, factor, returns=(start + a * factor) // top)
        yield Case(name, call, after=left(start + a * factor, result))
        call = Call("mpihelp_submul_1", result, limbs(a), size, factor, returns=-((start - a * factor) // top))
        yield Case(name, call, after=left(start - a * factor, result))
        for count in (1, 63):
            result = room(8 * size)
            call = Call("mpihelp_lshift", result, limbs(a), size, count, returns=a << count >> 64 * size)
            yield Case(f"{name} << {count}", call, after=left(a << count, result))
            call = Call("mpihelp_rshift", result, limbs(a), size, count, returns=(a << 64 - count) & (1 << 64) - 1)
            yield Case(f"{name} >> {count}", call, after=left(a >> count, result))


def times() -> Iterator[Case]:
    """Dates and durations."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    moments = (datetime(2004, 8, 23, 9, 5, tzinfo=UTC), datetime(2000, 2, 29, 23, 59, 59, tzinfo=UTC), epoch,
               datetime(2100, 3, 1, tzinfo=UTC), datetime(1999, 12, 31, 12, 0, 1, tzinfo=UTC))  # fmt: skip
    for when in moments:
        seconds = (when - epoch) // timedelta(seconds=1)
        parts = (when.year, when.month, when.day, when.hour, when.minute, when.second)
        yield Case(str(when), Call("mktime64", *parts, returns=seconds))
        day = when.timetuple().tm_yday - 1
        weekday = (when.weekday() + 1) % 7
        broken, rtc = room(48), room(36)
        fields = struct.pack("<5ixxxxqii", *reversed(parts[2:]), when.month - 1, when.year - 1900, weekday, day)
        # the four bytes before the long are padding, which is not written
        known = fields[:20] + bytes([0xA5]) * 4 + fields[24:]
        yield Case(str(when), Call("time64_to_tm", seconds, 0, broken), after={broken: known})
        fields = struct.pack("<9i", *reversed(parts[2:]), when.month - 1, when.year - 1900, weekday, day + 1, 0)
        yield Case(str(when), Call("rtc_time64_to_tm", seconds, rtc), after={rtc: fields})
        source = Mem(fields, name="rtc_time")
        yield Case(str(when), Call("rtc_tm_to_time64", source, returns=seconds))
    for year, month, known in ((2024, 1, 29), (1900, 1, 28), (2000, 1, 29), (2023, 3, 30)):
        yield Case(f"{year}-{month}", Call("rtc_month_days", month, year, returns=known, bits=32))
    for nanoseconds in (0, 1, 1_999_999_999, 123_456_789_012_345, -1, -1_000_000_001):
        known = nanoseconds // 1_000_000_000
        yield Case(str(nanoseconds), Call("ns_to_timespec64", nanoseconds, returns=known))
    for seconds, nanoseconds in ((5, 1_500_000_000), (5, -1), (0, 0)):
        whole, target = seconds * 10**9 + nanoseconds, room(16)
        call = Call("set_normalized_timespec64", target, seconds, nanoseconds)
        yield Case(f"{seconds}, {nanoseconds}", call, after={target: struct.pack("<qq", *divmod(whole, 10**9))})


def _members(value: int, mask: int) -> list[int]:
    """Every number with these known bits."""
    return [value | some for some in range(mask + 1) if not some & ~mask]


def uncertain() -> Iterator[Case]:
    """Numbers of which some bits are known (value, mask): a bit is known of a sum when all sums agree on it."""
    for a, b in (((5, 0), (7, 0)), ((4, 3), (8, 0)), ((0, 0xF), (0, 0xF)), ((16, 5), (32, 10)), ((64, 9), (1, 2))):
        some = [(x, y) for x in _members(*a) for y in _members(*b)]
        known = functools.reduce(int.__and__, (x + y for x, y in some))
        yield Case(f"{a} + {b}", Call("tnum_add", *a, *b, returns=known))
        known = functools.reduce(int.__and__, ((x - y) & (1 << 64) - 1 for x, y in some))
        yield Case(f"{a} - {b}", Call("tnum_sub", *a, *b, returns=known))
        yield Case(f"{a} * {b}", Call("tnum_mul", *a, *b, returns=a[0] * b[0] if not a[1] | b[1] else None))
        yield Case(f"{a} & {b}", Call("tnum_and", *a, *b, returns=a[0] & b[0]))
        yield Case(f"{a} | {b}", Call("tnum_or", *a, *b, returns=a[0] | b[0]))


def tausworthe(state: list[int]) -> int:
    """One step of the generator of lib/random32.c (L'Ecuyer's taus113), in place."""
    shifts = ((6, 13, 0xFFFFFFFE, 18), (2, 27, 0xFFFFFFF8, 2), (13, 21, 0xFFFFFFF0, 7), (3, 12, 0xFFFFFF80, 13))
    for i, (a, b, mask, d) in enumerate(shifts):
        s = state[i]
        state[i] = (s & mask) << d & 0xFFFFFFFF ^ ((s << a & 0xFFFFFFFF ^ s) >> b)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def random() -> Iterator[Case]:
    """Pseudo-random numbers."""
    for seed in ((2, 8, 16, 128), (0x12345678, 0x9ABCDEF0, 0x0FEDCBA9, 0x87654321)):
        memory, state = Mem(struct.pack("<4I", *seed), name="state"), list(seed)
        calls = [Call("prandom_u32_state", memory, returns=tausworthe(state), bits=32) for _ in range(12)]
        yield Case(f"{seed}", *calls, after={memory: struct.pack("<4I", *state)})
        state, buffer = list(seed), room(32)
        known = b"".join(struct.pack("<I", tausworthe(state)) for _ in range(8))[:29]
        yield Case(f"{seed}, 29 bytes", Call("prandom_bytes_state", memory, buffer, 29), after={buffer: known})


def cases() -> Iterator[Case]:
    """All of them."""
    yield from integers()
    yield from long_integers()
    yield from times()
    yield from uncertain()
    yield from random()
