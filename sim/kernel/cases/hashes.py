"""Checksums and hashes: lib/crc*.c, lib/xxhash.c, lib/siphash.c, fs/namei.c, arch/x86/lib/csum*."""

from __future__ import annotations

import binascii
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator

from sim.kernel.cases.base import At, Call, Case, Mem, room, text
from sim.kernel.cases.strings import PATTERN

#: Messages: the published check value's, and lengths around the blocks of the functions.
MESSAGES = (b"", b"a", b"123456789", b"The quick brown fox jumps over the lazy dog", *(PATTERN[:n] for n in (55, 64, 100, 333)))

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def packed(message: bytes) -> Mem:
    """A message in memory, with room behind it that may be read."""
    return Mem(message + bytes(16), name="message")


def count_of(message: bytes) -> str:
    """The name of a case."""
    return f"{len(message)} bytes"


# --- Python's side, bit by bit where no library has it ---


def crc(message: bytes, value: int, polynomial: int, bits: int, *, reflected: bool) -> int:
    """A cyclic redundancy check by its definition: one bit at a time."""
    mask = (1 << bits) - 1
    for byte in message:
        if reflected:
            value ^= byte
            for _ in range(8):
                value = value >> 1 ^ (polynomial if value & 1 else 0)
        else:
            value ^= byte << bits - 8
            for _ in range(8):
                value = (value << 1 ^ (polynomial if value >> bits - 1 & 1 else 0)) & mask
    return value


def rotate(value: int, count: int, bits: int = 64) -> int:
    """Rotate to the left."""
    return (value << count | value >> bits - count) & (1 << bits) - 1


def siphash(message: bytes, key: tuple[int, int], compress: int, finish: int) -> int:
    """SipHash-c-d (Aumasson and Bernstein)."""
    v = [key[0] ^ 0x736F6D6570736575, key[1] ^ 0x646F72616E646F6D, key[0] ^ 0x6C7967656E657261, key[1] ^ 0x7465646279746573]

    def rounds(count: int) -> None:
        for _ in range(count):
            for a, b, c, d, x, y in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
                v[a] = (v[a] + v[b]) & M64
                v[b] = rotate(v[b], x) ^ v[a]
                if a == 0:
                    v[0] = rotate(v[0], 32)
                    v[c] = (v[c] + v[d]) & M64
                    v[d] = rotate(v[d], y) ^ v[c]
                else:
                    v[2] = rotate(v[2], 32)
                    v[c] = (v[c] + v[d]) & M64
                    v[d] = rotate(v[d], y) ^ v[c]

    padded = message + bytes(-(len(message) + 1) % 8) + bytes([len(message) & 255])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(compress)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(finish)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def xxhash32(message: bytes, seed: int) -> int:
    """XXH32, by its specification."""
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    at = 0
    if len(message) >= 16:
        lanes = [(seed + p1 + p2) & M32, (seed + p2) & M32, seed, (seed - p1) & M32]
        while at + 16 <= len(message):
            for i, word in enumerate(struct.unpack_from("<4I", message, at)):
                lanes[i] = rotate((lanes[i] + word * p2) & M32, 13, 32) * p1 & M32
            at += 16
        value = sum(rotate(lane, count, 32) for lane, count in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        value = seed + p5
    value = (value + len(message)) & M32
    while at + 4 <= len(message):
        value = rotate((value + struct.unpack_from("<I", message, at)[0] * p3) & M32, 17, 32) * p4 & M32
        at += 4
    for byte in message[at:]:
        value = rotate((value + byte * p5) & M32, 11, 32) * p1 & M32
    for shift, factor in ((15, p2), (13, p3)):
        value = (value ^ value >> shift) * factor & M32
    return value ^ value >> 16


def xxhash64(message: bytes, seed: int) -> int:
    """XXH64, by its specification."""
    p1, p2, p3, p4, p5 = (
        *(11400714785074694791, 14029467366897019727, 1609587929392839161),
        *(9650029242287828579, 2870177450012600261),
    )

    def lane(start: int, word: int) -> int:
        return rotate((start + word * p2) & M64, 31) * p1 & M64

    at = 0
    if len(message) >= 32:
        lanes = [(seed + p1 + p2) & M64, (seed + p2) & M64, seed, (seed - p1) & M64]
        while at + 32 <= len(message):
            lanes = [lane(a, b) for a, b in zip(lanes, struct.unpack_from("<4Q", message, at), strict=True)]
            at += 32
        value = sum(rotate(a, count) for a, count in zip(lanes, (1, 7, 12, 18), strict=True))
        for a in lanes:
            value = ((value ^ lane(0, a)) * p1 + p4) & M64
    else:
        value = seed + p5
    value = (value + len(message)) & M64
    while at + 8 <= len(message):
        value = (rotate(value ^ lane(0, struct.unpack_from("<Q", message, at)[0]), 27) * p1 + p4) & M64
        at += 8
    if at + 4 <= len(message):
        value = (rotate(value ^ struct.unpack_from("<I", message, at)[0] * p1 & M64, 23) * p2 + p3) & M64
        at += 4
    for byte in message[at:]:
        value = rotate(value ^ byte * p5 & M64, 11) * p1 & M64
    for shift, factor in ((33, p2), (29, p3)):
        value = (value ^ value >> shift) * factor & M64
    return value ^ value >> 32


def internet_sum(data: bytes) -> int:
    """The ones' complement sum of RFC 1071, folded."""
    total = sum(struct.unpack(f"<{(len(data) + 1) // 2}H", data + b"\0" * (len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


# --- cases ---


def checksums() -> Iterator[Case]:
    """Functions of (value, message, length)."""
    little = lambda message, value: zlib.crc32(message, value ^ M32) ^ M32  # noqa: E731
    functions: dict[str, tuple[int, Callable[[bytes, int], int]]] = {
        "crc32_le_base": (32, little),
        "crc32_le": (32, little),
        "__crc32c_le_base": (32, lambda m, v: crc(m, v, 0x82F63B78, 32, reflected=True)),
        "__crc32c_le": (32, lambda m, v: crc(m, v, 0x82F63B78, 32, reflected=True)),
        "crc32_be_base": (32, lambda m, v: crc(m, v, 0x04C11DB7, 32, reflected=False)),
        "crc32_be": (32, lambda m, v: crc(m, v, 0x04C11DB7, 32, reflected=False)),
        "crc_ccitt": (16, lambda m, v: crc(m, v & 0xFFFF, 0x8408, 16, reflected=True)),
        "crc_ccitt_false": (16, lambda m, v: binascii.crc_hqx(m, v & 0xFFFF)),
        "crc16": (16, lambda m, v: crc(m, v & 0xFFFF, 0xA001, 16, reflected=True)),
        "crc_itu_t": (16, lambda m, v: binascii.crc_hqx(m, v & 0xFFFF)),
        "crc_t10dif_generic": (16, lambda m, v: crc(m, v & 0xFFFF, 0x8BB7, 16, reflected=False)),
    }
    for message in MESSAGES:
        for start in (0, M32):
            for function, (bits, known) in functions.items():
                value = start & (1 << bits) - 1
                call = Call(function, value, packed(message), len(message), returns=known(message, value), bits=bits)
                yield Case(f"{count_of(message)} from {start:#x}", call)
    for count in (1, 10, 1000):
        value = 0x12345678
        known = crc(bytes(count), value, 0xEDB88320, 32, reflected=True)
        yield Case(f"{count} zeros", Call("crc32_le_shift", value, count, returns=known, bits=32))
    for size in (4, 20, 21, 64, 100, 333):
        message = PATTERN[5 : 5 + size]
        known = internet_sum(message) ^ 0xFFFF
        yield Case(f"{size} bytes", Call("ip_compute_csum", packed(message), size, returns=known, bits=16))
        yield Case(f"{size} bytes", Call("csum_partial", packed(message), size, 0x1234))
    source, target = PATTERN[:16], PATTERN[40:56]
    for length, protocol in ((20, 6), (1280, 17), (8, 58)):
        pseudo = source + target + struct.pack(">II", length, protocol)
        known = internet_sum(pseudo) ^ 0xFFFF
        call = Call("csum_ipv6_magic", Mem(source), Mem(target), length, protocol, 0, returns=known, bits=16)
        yield Case(f"{length} bytes of {protocol}", call)


def hashes() -> Iterator[Case]:
    """Hash functions for tables."""
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    memory = Mem(struct.pack("<2Q", *key), name="key")
    for message in (*MESSAGES, bytes(range(15))):
        name = count_of(message)
        known = siphash(message, key, 2, 4)
        for function in ("__siphash_unaligned", "__siphash_aligned"):
            yield Case(name, Call(function, packed(message), len(message), memory, returns=known))
        known = siphash(message, key, 1, 3) & M32
        yield Case(name, Call("__hsiphash_unaligned", packed(message), len(message), memory, returns=known, bits=32))
        for seed in (0, 0x9E3779B1):
            call = Call("xxh32", packed(message), len(message), seed, returns=xxhash32(message, seed), bits=32)
            yield Case(f"{name}, {seed:#x}", call)
            call = Call("xxh64", packed(message), len(message), seed, returns=xxhash64(message, seed))
            yield Case(f"{name}, {seed:#x}", call)
        state, half = room(88), len(message) // 3
        yield Case(
            name,
            Call("xxh64_reset", state, 7),
            Call("xxh64_update", state, packed(message), half, returns=0),
            Call("xxh64_update", state, At(packed(message), half), len(message) - half, returns=0),
            Call("xxh64_digest", state, returns=xxhash64(message, 7)),
        )
        if b"\0" not in message:
            yield Case(name, Call("full_name_hash", key[0], packed(message), len(message)))
            yield Case(name, Call("hashlen_string", key[0], text(message)))
    for count, salt in itertools.product((1, 2, 3, 4), (0, 1, 0x5555_5555_5555_5555)):
        values = [0x0123456789ABCDEF ^ n << 60 ^ salt for n in range(count)]
        name, known = f"{count} from {values[0]:#x}", siphash(struct.pack(f"<{count}Q", *values), key, 2, 4)
        yield Case(name, Call(f"siphash_{count}u64", *values, memory, returns=known))
        values = [value & M32 for value in values]
        data = struct.pack(f"<{count}I", *values)
        if count in (1, 3):
            yield Case(name, Call(f"siphash_{count}u32", *values, memory, returns=siphash(data, key, 2, 4)))
        known = siphash(data, key, 1, 3) & M32
        yield Case(name, Call(f"hsiphash_{count}u32", *values, memory, returns=known, bits=32))


def cases() -> Iterator[Case]:
    """All of them."""
    yield from checksums()
    yield from hashes()
