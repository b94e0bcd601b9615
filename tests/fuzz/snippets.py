"""Snippets: 64 bytes of code each, of three kinds, that no one could call a program."""

from __future__ import annotations

from functools import cache
from random import Random

from hw.isa.absent import ABSENT
from hw.isa.opcodes import TABLE
from tests.isa.instances import instance, near_miss

#: Bytes from one snippet to the next.
STRIDE = 64
KINDS = ("random", "guided", "prefixes")

_DAMAGE = bytes(range(1, 256))
_PREFIXES = bytes((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, *range(0x40, 0x50)))


@cache
def _instances(seed: str) -> tuple[bytes, ...]:
    """Instructions of the table, whole and damaged."""
    rng = Random(seed)
    whole = [instance(rng, row) for row in TABLE for _ in range(6)]
    return (*whole, *(near_miss(rng, rng.choice(TABLE)) for _ in whole))


@cache
def _starts() -> tuple[bytes, ...]:
    """Escapes and opcodes of everything that has a name, for behind a storm of prefixes."""
    escape = {0: b"", 1: b"\x0f", 2: b"\x0f\x38", 3: b"\x0f\x3a"}
    rows = [row for row in (*TABLE, *ABSENT) if row.map in escape]
    return tuple({escape[row.map] + bytes([opcode]) for row in rows for opcode in row.opcodes()})


def snippet(rng: Random, kind: str) -> bytes:
    """One snippet of a kind of `KINDS`."""
    if kind == "random":
        return rng.randbytes(STRIDE)
    if kind == "guided":
        code = bytearray(b"".join(rng.choices(_instances("pool"), k=24))[:STRIDE])
        for damage in rng.randbytes(rng.choice((0, 1, 1, 2, 4))):
            code[damage & 31] ^= rng.choice(_DAMAGE)
        return bytes(code)
    storm = bytes(rng.choices(_PREFIXES, k=rng.randrange(1, 17)))
    return (storm + rng.choice(_starts()) + rng.randbytes(STRIDE))[:STRIDE]


def fill(seed: int, number: int, count: int) -> bytes:
    """The `count` snippets of one fill of memory: a function of seed and number."""
    rng = Random(f"{seed}/{number}")
    kinds = rng.choices(KINDS, (1, 2, 1), k=count)
    return b"".join(snippet(rng, kind) for kind in kinds)
