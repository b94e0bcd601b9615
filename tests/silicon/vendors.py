"""What processors do differently although no manual says so; vectors that show it are dropped, whoever made the processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hw.isa.rows import REP, Row
from tests.silicon.executor import Outcome

_LEGACY = frozenset(b"\x66\x67\xf0\xf2\xf3\x2e\x36\x3e\x26\x64\x65")


class _Piece(Protocol):
    row: Row | None
    code: bytes


def disputed(piece: _Piece, before: Mapping[str, int], outcome: Outcome, stored: bool) -> str | None:
    """Say why processors may differ in this instruction, or return None.

    `before`: registers that it began with. `stored`: memory changed although it faulted.
    """
    if piece.row is None:
        return None
    prefixes = piece.code[: next(i for i, byte in enumerate(piece.code) if byte not in _LEGACY)]
    if piece.row.mnemonic == "xchg" and 0xF3 in prefixes and piece.code[-1] == 0x90:
        return "F3 with REX.B and 90: pause on Intel, xchg on AMD (seen on a Xeon and on Zen 4)"
    if REP in piece.row.ok and 0x67 in prefixes and {0xF2, 0xF3} & {*prefixes} and not before["rcx"] & 0xFFFFFFFF:
        return "67 and rep with ECX = 0: Intel clears the upper halves of RCX, and for movs and stos of RSI and RDI; AMD keeps them"
    if stored and piece.row.mnemonic == "call":
        return "call to a non-canonical address: Intel stores the return address before it faults"
    return None
