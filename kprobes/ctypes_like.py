"""Integer types to annotate the parameters of a jprobe's handler with, by the kernel's short names.

``def handler(skb, ipfragok: s32)``: the argument is cut to the type's width and given its sign. The names are
lower-case because they are the kernel's.
"""

from __future__ import annotations

from typing import ClassVar, Self


class CInteger(int):
    """An integer of ``bits`` bits, in two's complement when ``signed``."""

    bits: ClassVar[int] = 64
    signed: ClassVar[bool] = False

    def __new__(cls, value: int) -> Self:
        """Take the low bits of any integer."""
        value &= (1 << cls.bits) - 1
        if cls.signed and value >> (cls.bits - 1):
            value -= 1 << cls.bits
        return super().__new__(cls, value)


class u8(CInteger):
    """Unsigned, 8 bits."""

    bits = 8


class u16(CInteger):
    """Unsigned, 16 bits."""

    bits = 16


class u32(CInteger):
    """Unsigned, 32 bits."""

    bits = 32


class u64(CInteger):
    """Unsigned, 64 bits."""


class s8(CInteger):
    """Signed, 8 bits."""

    bits, signed = 8, True


class s16(CInteger):
    """Signed, 16 bits."""

    bits, signed = 16, True


class s32(CInteger):
    """Signed, 32 bits: C's ``int``."""

    bits, signed = 32, True


class s64(CInteger):
    """Signed, 64 bits: C's ``long``."""

    signed = True
