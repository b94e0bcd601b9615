"""Counts the instructions of a kernel image: a linear sweep, function by function, against the table.

As usual for counts of code (and as `objdump -d` sees it): sections of code are cut at their symbols, and each piece is
read from its start to its end; the nops and int3s that only fill up to the next symbol are not counted. The length of an
instruction is that of the table's own decoder (`hw.isa.reference`), whether the core has it or not; capstone names what it has
not, and is asked for what no table of ours knows.

Counted apart: x87, MMX, SSE and AVX with the saving of their state (class C), on registers that the core does not have.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from hw.isa.absent import EVEX
from hw.isa.opcodes import TABLE
from hw.isa.reference import Parts, absent, attributes, displacement_size, find, lookup, split
from hw.isa.rows import VEX, Raise
from sim.kernel.classify import SYSTEM, Classifier
from sim.kernel.image import KernelImage, Section

#: What stands among code and is none: 32-bit code, and a selector.
NOT_CODE = frozenset({"pvh_start_xen", "x86_verw_sel", "mds_verw_sel"})

#: The replacements that alternatives patch in: counted apart, for they are no functions.
REPLACEMENTS = ".altinstr_replacement"

#: Lengths of the keys under which a decision is kept: as many bytes as prefixes, opcode, ModRM and SIB are together.
_KEYS = (2, 3, 4, 5, 7, 10)

_MAX_LENGTH = 15

_PADDING = frozenset({"nop", "int3"})

#: Ways of refusing that tell what is refused: class C.
_VECTOR = frozenset((Raise.X87, Raise.WAIT, Raise.MMX, Raise.SSE, Raise.AVX))

_ROW_NUMBERS = {id(row): number for number, row in enumerate(TABLE)}


class Kind(NamedTuple):
    """What an instruction is: its length, its row in the table (None: not there), else a name, and whether it is class C."""

    length: int
    row: int | None
    name: str
    vector: bool


@dataclass
class Sweep:
    """Counts of one part of an image. `missing`: by name and encoding; `bad`: places where no decoder finds an instruction."""

    rows: Counter[int] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    vector: Counter[str] = field(default_factory=Counter)
    bad: list[int] = field(default_factory=list)
    functions: int = 0

    @property
    def supported(self) -> int:
        """Integer and system instructions that the table has."""
        return sum(self.rows.values())

    @property
    def total(self) -> int:
        """Integer and system instructions."""
        return self.supported + sum(self.missing.values()) + len(self.bad)

    @property
    def share(self) -> float:
        """The supported part of the total, from 0 to 1."""
        return self.supported / self.total if self.total else 1.0

    def add(self, kind: Kind, address: int) -> None:
        """Count one instruction."""
        if kind.row is not None:
            self.rows[kind.row] += 1
        elif not kind.length:
            self.bad.append(address)
        elif kind.vector:
            self.vector[kind.name] += 1
        else:
            self.missing[kind.name] += 1


class Decoder:
    """Tells what an instruction is, and remembers it by the bytes that decide."""

    def __init__(self) -> None:
        self._classifier = Classifier()
        self._known: dict[bytes, Kind] = {}

    def kind(self, code: bytes, at: int) -> Kind:
        """Return what stands at an offset of `code`."""
        known = self._known
        for size in _KEYS:
            kind = known.get(code[at : at + size])
            if kind is not None:
                return kind
        kind, decided_by = self._decode(code[at : at + _MAX_LENGTH])
        for size in _KEYS:
            if decided_by <= size <= len(code) - at:
                known[code[at : at + size]] = kind
                break
        return kind

    def _decode(self, code: bytes) -> tuple[Kind, int]:
        """Return what stands at the start of `code`, and how many of its bytes decide that."""
        parts = split(code)
        row = lookup(parts) if parts is not None else None
        if parts is not None and row is not None:
            size = displacement_size(parts.modrm, parts.sib) if parts.has_modrm else 0
            return Kind(parts.length, _ROW_NUMBERS[id(row)], row.mnemonic, False), parts.length - size - parts.imm_size
        length, name, vector = self._classifier.opinion(code)
        refused = absent(parts) if parts is not None and not parts.too_long else None
        if parts is not None and refused is not None:  # an encoding that our own table knows, as left out
            length, vector = parts.length, refused in _VECTOR and not name.startswith(SYSTEM)
        elif parts is not None and parts.map < VEX and attributes(parts.map, parts.opcode).defined:
            length = parts.length  # a place in a group that nobody has named
        if not length:  # without parts: an instruction that runs over the end
            return Kind(0 if parts is not None else _MAX_LENGTH, None, "", False), _MAX_LENGTH
        return Kind(length, None, _describe(parts, name), vector), _MAX_LENGTH


def _describe(parts: Parts | None, name: str) -> str:
    """Name what the table lacks: mnemonic and opcode, with the digit of a group."""
    if parts is None:
        return name or "(unknown)"
    prefix = "lock " * parts.lock + {0: "", 2: "F2 ", 3: "F3 "}[parts.rep]
    vector = "EVEX " if parts.map == EVEX else "VEX " if parts.map > VEX else ""
    escape = ("", "0F ", "0F 38 ", "0F 3A ")[parts.map % VEX]
    row = find(parts)
    group = f" /{parts.reg}" if parts.has_modrm and (row is None or row.reg is not None) else ""
    return f"{name or '(unknown)'} ({prefix}{vector}{escape}{parts.opcode:02X}{group})"


def sweep(image: KernelImage, show: Callable[[float], None] = lambda done: None) -> tuple[Sweep, Sweep]:
    """Return the counts of the image's code, and those of its replacements; `show` is called with the bytes done."""
    code, replacements, decoder, done = Sweep(), Sweep(), Decoder(), 0
    starts = sorted({symbol.start for symbol in image.raw_symbols})
    skipped = {symbol.start for symbol in image.raw_symbols if symbol.name in NOT_CODE}
    for section in image.text:
        into = replacements if section.name == REPLACEMENTS else code
        for start, end in _pieces(section, starts):
            if start not in skipped:
                _function(decoder, section, start, end, into)
            show(done + end - section.start)
        done += len(section.data)
    return code, replacements


def _pieces(section: Section, starts: list[int]) -> Iterator[tuple[int, int]]:
    low, high = bisect.bisect_right(starts, section.start), bisect.bisect_left(starts, section.end)
    edges = [section.start, *starts[low:high], section.end]
    yield from itertools.pairwise(edges)


def _function(decoder: Decoder, section: Section, start: int, end: int, into: Sweep) -> None:
    """Count one piece; what fills it up at the end is left out."""
    data, base = section.data[start - section.start : end - section.start], start
    found: list[tuple[Kind, int]] = []
    at, decode = 0, decoder.kind
    while at < len(data):
        kind = decode(data, at)
        found.append((kind, base + at))
        at += kind.length or 1
    if at > len(data):  # a symbol inside an instruction, or data
        found[-1] = Kind(0, None, "", False), found[-1][1]
    while found and (found[-1][0].name in _PADDING or not any(data[found[-1][1] - base :])):
        found.pop()
    into.functions += bool(found)
    for kind, address in found:
        into.add(kind, address)
