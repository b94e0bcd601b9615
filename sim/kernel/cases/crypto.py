"""Digests and ciphers: lib/crypto, crypto/md5.c, crypto/algapi.c; compared with hashlib, and with published vectors."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

from sim.kernel.cases.base import At, Call, Case, Mem, room
from sim.kernel.cases.hashes import M32, MESSAGES, count_of, packed, rotate
from sim.kernel.cases.strings import PATTERN


def chacha(state: list[int], rounds: int) -> list[int]:
    """The permutation of ChaCha (RFC 8439, 2.3)."""
    x = list(state)
    columns = [(i, i + 4, i + 8, i + 12) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for _ in range(rounds // 2):
        for a, b, c, d in columns + diagonals:
            for p, q, r, count in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[p] = (x[p] + x[q]) & M32
                x[r] = rotate(x[r] ^ x[p], count, 32)
    return x


def _padded(message: bytes, order: str) -> bytes:
    """One block of MD5 or SHA-1."""
    return message + b"\x80" + bytes(55 - len(message)) + struct.pack(f"{order}Q", 8 * len(message))


def digests() -> Iterator[Case]:
    """Cryptographic hashes."""
    start = struct.pack("<5I", 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
    for message in (message for message in MESSAGES if len(message) <= 55):
        digest, name = Mem(start[:16], name="digest"), count_of(message)
        call = Call("md5_transform", digest, packed(_padded(message, "<")))
        yield Case(name, call, after={digest: hashlib.md5(message, usedforsecurity=False).digest()})
        digest, known = room(20), hashlib.sha1(message, usedforsecurity=False).digest()
        calls = Call("sha1_init", digest), Call("sha1_transform", digest, packed(_padded(message, ">")), room(64))
        yield Case(name, *calls, after={digest: struct.pack("<5I", *struct.unpack(">5I", known))})
    yield Case("", Call("sha1_init", (digest := room(20))), after={digest: start})
    first = struct.pack("<8I", *(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
                        *(0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19))  # fmt: skip
    second = struct.pack("<8I", *(0xC1059ED8, 0x367CD507, 0x3070DD17, 0xF70E5939),
                         *(0xFFC00B31, 0x68581511, 0x64F98FA7, 0xBEFA4FA4))  # fmt: skip
    for message in MESSAGES:
        name, digest = count_of(message), room(32)
        known = hashlib.sha256(message).digest()
        yield Case(name, Call("sha256", packed(message), len(message), digest), after={digest: known})
        for family, initial in (("256", first), ("224", second)):
            state, digest = Mem(initial + bytes(8 + 64), name="state"), room(32)
            third = len(message) // 3
            yield Case(
                f"{name} in two parts",
                Call("sha256_update", state, packed(message), third),
                Call("sha256_update", state, At(packed(message), third), len(message) - third),
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
            Call("blake2s_update", state, packed(message), len(message)),
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
    yield from digests()
    yield from ciphers()
