"""The types of fetch arguments: how a value is read from memory or cut out of a register, and how it is printed.

A value is an int (signed or not), a str, None for a string that could not be read, or a tuple of these for an array.

    u8 u16 u32 u64   unsigned, printed in decimal          char             printed as 'c'
    s8 s16 s32 s64   signed, printed in decimal            symbol           an address, printed as sym+0xoff/0xsize
    x8 x16 x32 x64   unsigned, printed in hexadecimal      symstr           the same, as a string in quotes
    string ustring   the bytes up to a NUL, 4095 at most   bW@O/C           W bits from bit O of a C-bit unsigned
    TYPE[N]          N elements, printed as {a,b,c}

Source: Documentation/trace/kprobetrace.rst, "Types".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from kprobes.port import PAGE_SIZE, GuestMemoryError, Symbols
from kprobes.ptregs import MASK64
from kprobes.tracing.errors import ErrorCode
from kprobes.tracing.source import Source, Word, integer

Value = int | str | tuple["int | str | None", ...] | None

STRING_LIMIT = 4095
ARRAY_LIMIT = 64
FAULT = "(fault)"


class Kind(Enum):
    """What a type's values are."""

    DECIMAL = "decimal"
    HEX = "hex"
    CHAR = "char"
    SYMBOL = "symbol"
    SYMSTR = "symstr"
    STRING = "string"


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type without its array suffix. ``size`` is in bytes, that of a pointer for strings.

    ``bits`` is the width and the offset of a bit field, which lie in an unsigned integer of ``size`` bytes.
    """

    name: str
    kind: Kind
    size: int
    signed: bool = False
    bits: tuple[int, int] | None = None

    @property
    def is_string(self) -> bool:
        """Whether values are text, quoted when printed."""
        return self.kind in (Kind.STRING, Kind.SYMSTR)

    def decoder(self) -> Callable[[int], int]:
        """Return the function from a register or a memory word to the value: cut, shifted, sign-extended."""
        mask, sign = (1 << 8 * self.size) - 1, 1 << 8 * self.size - 1
        if self.bits is not None:
            width, offset = self.bits
            field = (1 << width) - 1
            return lambda raw: raw >> offset & field
        if self.signed:
            return lambda raw: (raw & mask ^ sign) - sign
        return lambda raw: raw & mask

    def show(self, value: int | str | None, symbols: Symbols) -> str:
        """Return one value, no array, as ftrace prints it."""
        if isinstance(value, str):
            return f'"{printable(value)}"'
        if value is None:
            return FAULT
        if self.kind is Kind.HEX:
            return f"{value:#x}"
        if self.kind is Kind.CHAR:
            return f"'{printable(chr(value))}'"
        return symbolic(value, symbols) if self.kind is Kind.SYMBOL else str(value)


def printable(text: str) -> str:
    """Return ``text`` on one line: control characters as escapes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", text)


def symbolic(addr: int, symbols: Symbols) -> str:
    """Return ``sym+0xoff/0xsize``, the kernel's %pS, or the address where there is no symbol."""
    symbol = symbols.containing(addr)
    return f"{addr:#x}" if symbol is None else f"{symbol.name}+{addr - symbol.start:#x}/{symbol.size:#x}"


def read_string(read: Callable[[int, int], bytes], addr: int) -> str | None:
    """Return the string at ``addr``, cut at 4095 bytes; None when a byte before its NUL cannot be read."""
    found = bytearray()
    while len(found) < STRING_LIMIT:
        at = addr + len(found) & MASK64
        size = min(64, PAGE_SIZE - at % PAGE_SIZE, STRING_LIMIT - len(found))
        try:
            piece = read(at, size)
        except GuestMemoryError:
            return None
        head, nul, _ = piece.partition(b"\0")
        found += head
        if nul:
            break
    return found.decode(errors="backslashreplace")


def _scalars() -> dict[str, ValueType]:
    table = {}
    for bits in (8, 16, 32, 64):
        table[f"u{bits}"] = ValueType(f"u{bits}", Kind.DECIMAL, bits // 8)
        table[f"s{bits}"] = ValueType(f"s{bits}", Kind.DECIMAL, bits // 8, signed=True)
        table[f"x{bits}"] = ValueType(f"x{bits}", Kind.HEX, bits // 8)
    others = (("char", Kind.CHAR, 1), ("symbol", Kind.SYMBOL, 8), ("symstr", Kind.SYMSTR, 8),
              ("string", Kind.STRING, 8), ("ustring", Kind.STRING, 8))
    return table | {name: ValueType(name, kind, size) for name, kind, size in others}


#: Every type with a name of its own.
TYPES = _scalars()
DEFAULT_TYPE, STRING = TYPES["x64"], TYPES["string"]


def parse_type(source: Source, word: Word) -> tuple[ValueType, int]:
    """Read what follows the ':' of an argument; return the type and the number of elements, 0 for no array."""
    name, bracket, rest = word.text.partition("[")
    count = 0
    if bracket:
        number, close, after = rest.partition("]")
        at = word.at + len(name) + 1
        if not close:
            raise source.error(ErrorCode.ARRAY_NO_CLOSE, at + len(rest))
        if after:
            raise source.error(ErrorCode.BAD_ARRAY_SUFFIX, at + len(number) + 1)
        found = integer(number)
        if found is None or found <= 0:
            raise source.error(ErrorCode.BAD_ARRAY_NUM, at)
        if found > ARRAY_LIMIT:
            raise source.error(ErrorCode.ARRAY_TOO_BIG, at)
        count = found
    if name in TYPES:
        return TYPES[name], count
    if re.match(r"b\d", name):
        return _bitfield(source, Word(name, word.at)), count
    if name in ("%pd", "%pD"):
        raise source.error(ErrorCode.BAD_TYPE, word.at, f"{name} needs the layout of Linux's struct dentry, which this "
                           "guest does not have: write the offsets with +OFFSET(...):string")
    raise source.error(ErrorCode.BAD_TYPE, word.at)


def _bitfield(source: Source, word: Word) -> ValueType:
    match = re.fullmatch(r"b(\w+)@(\w+)/(8|16|32|64)", word.text)
    width, offset = (integer(match[1]), integer(match[2])) if match else (None, None)
    if not match or width is None or offset is None or width <= 0 or width + offset > int(match[3]):
        raise source.error(ErrorCode.BAD_BITFIELD, word.at)
    return replace(TYPES[f"u{match[3]}"], name=word.text, bits=(width, offset))
