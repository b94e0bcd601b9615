"""Checksums, hashes and ciphers: lib/crc*.c, lib/xxhash.c, lib/siphash.c, lib/crypto, fs/namei.c, arch/x86/lib/csum*."""

from __future__ import annotations

import binascii
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator

from sim.kernel.cases.base import At, Call, Case, Mem, room, text
from sim.kernel.cases.strings import PATTERN

#: Messages: the published check value's, and lengths around the blocks of the functions.
MESSAGES = (b"", b"a", b"123456789", b"The quick brown fox jumps over the lazy dog", *(PATTERN[:n] for n in (55, 64, 100, 333)))

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def _data(message: bytes) -> Mem:
    return Mem(message + bytes(16), name="message")


def _name(message: bytes) -> str:
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


def _rotate(value: int, count: int, bits: int = 64) -> int:
    return (value << count | value >> bits - count) & (1 << bits) - 1


def siphash(message: bytes, key: tuple[int, int], compress: int, finish: int) -> int:
    """SipHash-c-d (Aumasson and Bernstein)."""
    v = [key[0] ^ 0x736F6D6570736575, key[1] ^ 0x646F72616E646F6D, key[0] ^ 0x6C7967656E657261, key[1] ^ 0x7465646279746573]

    def rounds(count: int) -> None:
        for _ in range(count):
            for a, b, c, d, x, y in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
                v[a] = (v[a] + v[b]) & M64
                v[b] = _rotate(v[b], x) ^ v[a]
                if a == 0:
                    v[0] = _rotate(v[0], 32)
                    v[c] = (v[c] + v[d]) & M64
                    v[d] = _rotate(v[d], y) ^ v[c]
                else:
                    v[2] = _rotate(v[2], 32)
                    v[c] = (v[c] + v[d]) & M64
                    v[d] = _rotate(v[d], y) ^ v[c]

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
                lanes[i] = _rotate((lanes[i] + word * p2) & M32, 13, 32) * p1 & M32
            at += 16
        value = sum(_rotate(lane, count, 32) for lane, count in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        value = seed + p5
    value = (value + len(message)) & M32
    while at + 4 <= len(message):
        value = _rotate((value + struct.unpack_from("<I", message, at)[0] * p3) & M32, 17, 32) * p4 & M32
        at += 4
    for byte in message[at:]:
        value = _rotate((value + byte * p5) & M32, 11, 32) * p1 & M32
    for shift, factor in ((15, p2), (13, p3)):
        value = (value ^ value >> shift) * factor & M32
    return value ^ value >> 16


def internet_sum(data: bytes) -> int:
    """The ones' complement sum of RFC 1071, folded."""
    total = sum(struct.unpack(f"<{(len(data) + 1) // 2}H", data + b"\0" * (len(data) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def chacha(state: list[int], rounds: int) -> list[int]:
    """The permutation of ChaCha (RFC 8439, 2.3)."""
    x = list(state)
    columns = [(i, i + 4, i + 8, i + 12) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for _ in range(rounds // 2):
        for a, b, c, d in columns + diagonals:
            for p, q, r, count in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[p] = (x[p] + x[q]) & M32
                x[r] = _rotate(x[r] ^ x[p], count, 32)
    return x


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
                call = Call(function, value, _data(message), len(message), returns=known(message, value), bits=bits)
                yield Case(f"{_name(message)} from {start:#x}", call)
    for count in (1, 10, 1000):
        value = 0x12345678
        known = crc(bytes(count), value, 0xEDB88320, 32, reflected=True)
        yield Case(f"{count} zeros", Call("crc32_le_shift", value, count, returns=known, bits=32))
    for size in (4, 20, 21, 64, 100, 333):
        message = PATTERN[5 : 5 + size]
        known = internet_sum(message) ^ 0xFFFF
        yield Case(f"{size} bytes", Call("ip_compute_csum", _data(message), size, returns=known, bits=16))
        yield Case(f"{size} bytes", Call("csum_partial", _data(message), size, 0x1234))
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
        name = _name(message)
        known = siphash(message, key, 2, 4)
        for function in ("__siphash_unaligned", "__siphash_aligned"):
            yield Case(name, Call(function, _data(message), len(message), memory, returns=known))
        known = siphash(message, key, 1, 3) & M32
        yield Case(name, Call("__hsiphash_unaligned", _data(message), len(message), memory, returns=known, bits=32))
        for seed in (0, 0x9E3779B1):
            call = Call("xxh32", _data(message), len(message), seed, returns=xxhash32(message, seed), bits=32)
            yield Case(f"{name}, {seed:#x}", call)
            yield Case(f"{name}, {seed:#x}", Call("xxh64", _data(message), len(message), seed))
        state, half = room(88), len(message) // 3
        yield Case(
            name,
            Call("xxh64_reset", state, 7),
            Call("xxh64_update", state, _data(message), half, returns=0),
            Call("xxh64_update", state, At(_data(message), half), len(message) - half, returns=0),
            Call("xxh64_digest", state),
            Call("xxh64", _data(message), len(message), 7),
        )
        if b"\0" not in message:
            yield Case(name, Call("full_name_hash", key[0], _data(message), len(message)))
            yield Case(name, Call("hashlen_string", key[0], text(message)))
    for count in (1, 2, 3, 4):
        values = [0x0123456789ABCDEF ^ n << 60 for n in range(count)]
        known = siphash(struct.pack(f"<{count}Q", *values), key, 2, 4)
        yield Case(f"{count} quadwords", Call(f"siphash_{count}u64", *values, memory, returns=known))
        values = [0x89ABCDEF ^ n << 28 for n in range(count)]
        packed = struct.pack(f"<{count}I", *values)
        if count in (1, 3):
            known = siphash(packed, key, 2, 4)
            yield Case(f"{count} words", Call(f"siphash_{count}u32", *values, memory, returns=known))
        known = siphash(packed, key, 1, 3) & M32
        yield Case(f"{count} words", Call(f"hsiphash_{count}u32", *values, memory, returns=known, bits=32))


def _padded(message: bytes, order: str) -> bytes:
    """One block of MD5 or SHA-1."""
    return message + b"\x80" + bytes(55 - len(message)) + struct.pack(f"{order}Q", 8 * len(message))


def digests() -> Iterator[Case]:
    """Cryptographic hashes."""
    start = struct.pack("<5I", 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
    for message in (message for message in MESSAGES if len(message) <= 55):
        digest, name = Mem(start[:16], name="digest"), _name(message)
        call = Call("md5_transform", digest, _data(_padded(message, "<")))
        yield Case(name, call, after={digest: hashlib.md5(message, usedforsecurity=False).digest()})
        digest, known = room(20), hashlib.sha1(message, usedforsecurity=False).digest()
        calls = Call("sha1_init", digest), Call("sha1_transform", digest, _data(_padded(message, ">")), room(64))
        yield Case(name, *calls, after={digest: struct.pack("<5I", *struct.unpack(">5I", known))})
    yield Case("", Call("sha1_init", (digest := room(20))), after={digest: start})
    first = struct.pack("<8I", *(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
                        *(0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19))  # fmt: skip
    second = struct.pack("<8I", *(0xC1059ED8, 0x367CD507, 0x3070DD17, 0xF70E5939),
                         *(0xFFC00B31, 0x68581511, 0x64F98FA7, 0xBEFA4FA4))  # fmt: skip
    for message in MESSAGES:
        name, digest = _name(message), room(32)
        known = hashlib.sha256(message).digest()
        yield Case(name, Call("sha256", _data(message), len(message), digest), after={digest: known})
        for family, initial in (("256", first), ("224", second)):
            state, digest = Mem(initial + bytes(8 + 64), name="state"), room(32)
            third = len(message) // 3
            yield Case(
                f"{name} in two parts",
                Call("sha256_update", state, _data(message), third),
                Call("sha256_update", state, At(_data(message), third), len(message) - third),
                Call(f"sha{family}_final", state, digest),
                after={digest: hashlib.new(f"sha{family}", message).digest()},
            )
        # h[0] holds the length of the digest, that of the key, fanout and depth: all as for no key
        h = list(struct.unpack("<8I", first))
        h[0] ^= 0x01010020
        # h, t, f, the buffer, and how much of it is used; the length of the digest
        content = struct.pack("<8I", *h) + bytes(16 + 64) + struct.pack("<2I", 0, 32)
        state, digest = Mem(content, name="state"), room(32)
        yield Case(
            name,
            Call("blake2s_update", state, _data(message), len(message)),
            Call("blake2s_final", state, digest),
            after={digest: hashlib.blake2s(message).digest()},
        )


#: FIPS-197, appendix C: key, and what 00112233445566778899aabbccddeeff becomes under it.
_AES = (
    ("000102030405060708090a0b0c0d0e0f", "69c4e0d86a7b0430d8cdb78070b4c55a"),
    ("000102030405060708090a0b0c0d0e0f1011121314151617", "dda97ca4864cdfe06eaf70a0ec0d7191"),
    ("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "8ea2b7ca516745bfeafc49904b496089"),
)


def ciphers() -> Iterator[Case]:
    """Block and stream ciphers."""
    plain = bytes(range(0, 256, 17))
    for key, cipher in _AES:
        key, cipher = bytes.fromhex(key), bytes.fromhex(cipher)
        context, there, back = room(484 + 28, 0), room(16), room(16)
        yield Case(
            f"{8 * len(key)} bits",
            Call("aes_expandkey", context, Mem(key, name="key"), len(key), returns=0, bits=32),
            Call("aes_encrypt", context, there, Mem(plain, name="plain")),
            Call("aes_decrypt", context, back, there),
            after={there: cipher, back: plain},
        )
    yield Case("9 bytes", Call("aes_expandkey", room(484), Mem(bytes(9)), 9, returns=-22, bits=32))
    state = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", bytes(range(32))), 1, 9, 74, 0x1234]
    for rounds in (12, 20):
        memory, stream = Mem(struct.pack("<16I", *state), name="state"), room(64)
        mixed = chacha(state, rounds)
        known = struct.pack("<16I", *((a + b) & M32 for a, b in zip(state, mixed, strict=True)))
        after = struct.pack("<16I", *state[:12], state[12] + 1, *state[13:])
        call = Call("chacha_block_generic", memory, stream, rounds)
        yield Case(f"{rounds} rounds", call, after={stream: known, memory: after})
        memory, stream = Mem(struct.pack("<16I", *state), name="state"), room(32)
        known = struct.pack("<8I", *mixed[:4], *mixed[12:])
        yield Case(f"{rounds} rounds", Call("hchacha_block_generic", memory, stream, rounds), after={stream: known})
    for size in (1, 8, 15, 16, 40):
        a, b = PATTERN[:size], PATTERN[100 : 100 + size]
        yield Case(f"{size} bytes", Call("__crypto_memneq", Mem(a), Mem(a), size, returns=0))
        target = room(size)
        known = bytes(x ^ y for x, y in zip(a, b, strict=True))
        yield Case(f"{size} bytes", Call("__crypto_xor", target, Mem(a), Mem(b), size), after={target: known})
        for value in (b"\xff" * size, a):
            counter = Mem(value, name="counter")
            after = ((int.from_bytes(value) + 1) & (1 << 8 * size) - 1).to_bytes(size)
            yield Case(f"{size} bytes", Call("crypto_inc", counter, size), after={counter: after})


def cases() -> Iterator[Case]:
    """All of them."""
    yield from checksums()
    yield from hashes()
    yield from digests()
    yield from ciphers()
