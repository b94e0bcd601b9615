"""Finds a kernel's symbols in its own image: the tables that it prints /proc/kallsyms from.

Nothing points to the tables, so they are found by what they must look like:

* ``token_table``: 256 strings of which each digit stands for itself, followed by ``token_index``, their offsets (u16).
* ``num_syms`` (u32), then ``names``: for each symbol a length (from 128 on in two bytes, 7 bits each, low first) and as
  many tokens; the first character is nm's letter. Then ``markers``: the offset of every 256th name (u32).
* ``offsets`` (i32 for each symbol) and ``relative_base`` (u64): before num_syms in older kernels, behind token_index in
  newer ones. Where one is negative, the address is relative_base - 1 - offset, and others are absolute (per-CPU).

Every table starts at a multiple of 8 (the kernel's scripts/kallsyms.c writes them; only this layout is used here).
"""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple

_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_ZERO = ord("0")
_LETTERS = frozenset(b"AaBbDdGgIiNnRrSsTtUuVvWw-?")
_EVERY = 256


class KallsymsError(ValueError):
    """The image holds no tables that can be read; the message says which is missing."""


class Entry(NamedTuple):
    """A symbol: address, nm's letter ("t": local text, "T": global text, ...), name."""

    address: int
    letter: str
    name: str


def read_kallsyms(image: bytes) -> list[Entry]:
    """Return the symbols of an uncompressed kernel image, in order of address as the tables have them."""
    table, index, tokens = _tokens(image)
    for at, count, names in _names(image, table, tokens):
        addresses = _addresses(image, at, index + 512, count)
        if addresses is not None:
            return [Entry(a, name[:1], name[1:]) for a, name in zip(addresses, names, strict=True)]
    raise KallsymsError("no table of symbol names was found: the kernel was built without CONFIG_KALLSYMS, or differently")


def _align(at: int) -> int:
    return (at + 7) & ~7


def _tokens(image: bytes) -> tuple[int, int, list[bytes]]:
    """Return the position of token_table, that of token_index, and the tokens."""
    found = image.find(_DIGITS)
    while found >= 0:
        strings, end = 256 - _ZERO, found
        for _ in range(strings):
            end = image.find(b"\0", end) + 1
            if not end:
                break
        index = _align(end)
        offsets = struct.unpack_from("<256H", image, index) if end and index + 512 <= len(image) else (0,)
        start = found - offsets[_ZERO] if len(offsets) == 256 else -1
        if start >= 0 and offsets[0] == 0:
            ends = [*offsets[1:], end - start]
            tokens = [image[start + a : start + b] for a, b in zip(offsets, ends, strict=True)]
            if all(token.endswith(b"\0") and b"\0" not in token[:-1] for token in tokens):
                return start, index, [token[:-1] for token in tokens]
        found = image.find(_DIGITS, found + 1)
    raise KallsymsError("no table of name tokens was found: the kernel was built without CONFIG_KALLSYMS")


def _names(image: bytes, table: int, tokens: list[bytes]) -> Iterator[tuple[int, int, list[str]]]:
    """Yield places before token_table where so many names and their markers stand: position of num_syms, count, names."""
    first = table % 8
    words = array("Q", image[first : first + (table - first) // 8 * 8])
    for i in range(len(words) - 1, -1, -1):
        count = words[i]
        if count < 1 << 21 and count:
            at = first + 8 * i
            names = _parse(image, at + 8, count, table, tokens)
            if names is not None:
                yield at, count, names


def _parse(image: bytes, start: int, count: int, limit: int, tokens: list[bytes]) -> list[str] | None:
    """Return `count` names, or None if what starts there is no such table with its markers behind it."""
    names: list[str] = []
    markers = []
    at = start
    for number in range(count):
        if number % _EVERY == 0:
            markers.append(at - start)
        size, at = image[at], at + 1
        if size >= 128:
            size, at = size & 127 | image[at] << 7, at + 1
        if not size or at + size > limit:
            return None
        name = b"".join([tokens[code] for code in image[at : at + size]])
        if name[0] not in _LETTERS or len(name) < 2 or not name.isascii():
            return None
        names.append(name.decode())
        at += size
    if struct.pack(f"<{len(markers)}I", *markers) != image[_align(at) : _align(at) + 4 * len(markers)]:
        return None
    return names


def _addresses(image: bytes, num_syms: int, behind: int, count: int) -> list[int] | None:
    """Return the addresses that belong to `count` names, from either place, or None."""
    size = _align(4 * count)
    before = num_syms - 8 - size, num_syms - 8
    after = _align(behind), _align(behind) + size
    for offsets_at, base_at in (before, after):
        if offsets_at < 0 or base_at + 8 > len(image):
            continue
        (base,) = struct.unpack_from("<Q", image, base_at)
        offsets = struct.unpack_from(f"<{count}i", image, offsets_at)
        if any(offset < 0 for offset in offsets):
            addresses = [offset if offset >= 0 else base - 1 - offset for offset in offsets]
        else:
            addresses = [base + offset for offset in offsets]
        if base >> 63 and all(a <= b for a, b in itertools.pairwise(addresses)):
            return addresses
    return None
