"""Reads guest images: what to load, where to start, and which symbol an address belongs to."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Symbol as ElfSymbol
from elftools.elf.sections import SymbolTableSection

#: Segment flags, as in the ELF program header.
PF_X, PF_W, PF_R = 1, 2, 4

_RELINK = "link it with gcc -static -no-pie for x86-64 (sim/guestbuild.py does)"
_NOT_EXEC = {"ET_DYN": "position-independent", "ET_REL": "an object file that is not linked"}


class ImageError(ValueError):
    """A file that cannot be loaded as a guest; the message names the cause and the next step."""


@dataclass(frozen=True)
class Segment:
    """Bytes to place at a virtual address; memory beyond them, up to `memsz`, is zero."""

    vaddr: int
    data: bytes
    memsz: int
    flags: int


@dataclass(frozen=True, order=True)
class Symbol:
    """A named range of addresses."""

    start: int
    name: str
    size: int

    @property
    def end(self) -> int:
        """The first address after the symbol."""
        return self.start + self.size


@dataclass(frozen=True)
class RawSymbol:
    """A symbol as it stands in a file; size 0 means that the file does not say where it ends."""

    name: str
    start: int
    size: int = 0
    kind: str = "NOTYPE"
    is_global: bool = True


class SymbolTable:
    """Symbols by name and by address. A stripped file gives an empty table, not an error.

    A symbol without a size, such as a label in assembly, reaches to the next symbol or to the end of its segment. A
    label inside a function that has a size stays part of that function, as in the kernel's own symbol table.
    """

    def __init__(self, symbols: Iterable[RawSymbol] = (), segments: Iterable[Segment] = ()) -> None:
        segments = list(segments)
        self._text = [(s.vaddr, s.vaddr + s.memsz) for s in segments if s.flags & PF_X]
        ranges = [(s.vaddr, s.vaddr + s.memsz) for s in segments]
        rows = sorted(symbols, key=lambda s: (s.start, not s.is_global))
        self._addresses: dict[str, list[int]] = {}
        for row in sorted(rows, key=lambda s: not s.is_global):
            places = self._addresses.setdefault(row.name, [])
            if row.start not in places:
                places.append(row.start)
        self._symbols = _resolve(rows, ranges)
        self._starts = [s.start for s in self._symbols]

    def __len__(self) -> int:
        return len(self._addresses)

    def lookup(self, name: str) -> int | None:
        """Return the address of a symbol, or None. A global symbol wins over local ones of the same name."""
        places = self._addresses.get(name)
        return places[0] if places else None

    def addresses(self, name: str) -> list[int]:
        """Return the addresses of all symbols of this name, that of a global one first."""
        return list(self._addresses.get(name, ()))

    def containing(self, address: int) -> Symbol | None:
        """Return the symbol that an address lies in, or None."""
        at = bisect.bisect_right(self._starts, address) - 1
        if at >= 0 and address < self._symbols[at].end:
            return self._symbols[at]
        return None

    def names(self) -> list[str]:
        """Return every name, in alphabetical order."""
        return sorted(self._addresses)

    def symbols(self) -> list[Symbol]:
        """Return the ranges that `containing` searches, by address; they do not overlap."""
        return list(self._symbols)

    def joined(self, name: str, other: SymbolTable) -> SymbolTable:
        """Return this table with another image's, whose symbols are called `name:symbol` in it; they must not overlap."""
        table = SymbolTable()
        table._text = [*self._text, *other._text]
        table._addresses = self._addresses | {f"{name}:{key}": list(places) for key, places in other._addresses.items()}
        renamed = [replace(s, name=f"{name}:{s.name}") for s in other._symbols]
        table._symbols = sorted([*self._symbols, *renamed], key=lambda s: s.start)
        table._starts = [s.start for s in table._symbols]
        return table

    def without(self, name: str, other: SymbolTable) -> SymbolTable:
        """Return this table without what `joined` has added."""
        table, prefix = SymbolTable(), f"{name}:"
        table._text = [span for span in self._text if span not in other._text]
        table._addresses = {key: places for key, places in self._addresses.items() if not key.startswith(prefix)}
        table._symbols = [s for s in self._symbols if not s.name.startswith(prefix)]
        table._starts = [s.start for s in table._symbols]
        return table

    def is_text(self, address: int) -> bool:
        """Tell whether an address lies in an executable segment."""
        return any(start <= address < end for start, end in self._text)

    def describe(self, address: int) -> str:
        """Return "symbol+0x12", "symbol" at its start, or the bare address where there is no symbol."""
        symbol = self.containing(address)
        if symbol is None:
            return f"{address:#x}"
        offset = address - symbol.start
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name


@dataclass(frozen=True)
class Image:
    """A guest program, ready to be copied into memory."""

    entry: int
    segments: list[Segment]
    symbols: SymbolTable = field(default_factory=SymbolTable)


def load_elf(path: str | Path) -> Image:
    """Read a static x86-64 executable; raise ImageError when it is anything else."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                raise ImageError(f"{path} is not an ELF file: give a guest that gcc has linked, or load raw code with "
                                 "Machine.load(address, code)")
            return _read(path, ELFFile(file), size)
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist: check the name, or build the guests with "
                         "python -m sim.guestbuild") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a directory: give the ELF file of a guest") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    except ImageError:
        raise
    except (ELFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError) as error:
        # pyelftools reports a damaged file by whatever its parser stumbled on.
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{path} is a damaged ELF file ({why}): build it again") from None


def _read(path: Path, elf: ELFFile, size: int) -> Image:
    if elf.elfclass != 64:
        raise ImageError(f"{path} is a 32-bit ELF file, and the core runs 64-bit mode only: compile it with gcc -m64")
    if elf["e_machine"] != "EM_X86_64":
        raise ImageError(f"{path} is for {elf['e_machine']}, not x86-64: build it with a gcc for x86-64")
    if elf["e_type"] != "ET_EXEC":
        raise ImageError(f"{path} is {_NOT_EXEC.get(elf['e_type'], 'not an executable')}: {_RELINK}")
    segments = []
    for header in elf.iter_segments():
        if header["p_type"] in ("PT_INTERP", "PT_DYNAMIC"):
            raise ImageError(f"{path} needs a dynamic loader: {_RELINK}")
        if header["p_type"] != "PT_LOAD" or not header["p_memsz"]:
            continue
        if header["p_offset"] + header["p_filesz"] > size:
            raise ImageError(f"{path} is truncated: the segment at {header['p_vaddr']:#x} ends at byte "
                             f"{header['p_offset'] + header['p_filesz']} of a file of {size}: copy or build it again")
        if header["p_filesz"] > header["p_memsz"]:
            raise ImageError(f"{path} is a damaged ELF file (the segment at {header['p_vaddr']:#x} is larger in the "
                             "file than in memory): build it again")
        segments.append(Segment(header["p_vaddr"], header.data(), header["p_memsz"], header["p_flags"]))
    if not segments:
        raise ImageError(f"{path} has nothing to load: {_RELINK}")
    entry = elf["e_entry"]
    if not any(s.flags & PF_X and s.vaddr <= entry < s.vaddr + s.memsz for s in segments):
        raise ImageError(f"{path} starts at {entry:#x}, which is not in an executable segment: define _start, or "
                         "link it with sim/guest/link-low.ld or link-high.ld")
    return Image(entry, segments, SymbolTable(_symbols(elf), segments))


def _symbols(elf: ELFFile) -> list[RawSymbol]:
    """Return the symbols that name a place in the image: not files, sections, absolute or undefined ones."""
    rows = []
    for section in elf.iter_sections():
        if isinstance(section, SymbolTableSection):
            rows += [_raw(s) for s in section.iter_symbols() if s.name and _is_place(s)]
    return rows


def _is_place(symbol: ElfSymbol) -> bool:
    return (symbol["st_shndx"] not in ("SHN_UNDEF", "SHN_ABS", "SHN_COMMON")
            and symbol["st_info"]["type"] in ("STT_NOTYPE", "STT_FUNC", "STT_OBJECT", "STT_LOOS"))


def _raw(symbol: ElfSymbol) -> RawSymbol:
    info = symbol["st_info"]
    return RawSymbol(symbol.name, symbol["st_value"], symbol["st_size"], info["type"].removeprefix("STT_"),
                     info["bind"] != "STB_LOCAL")


def _resolve(rows: list[RawSymbol], ranges: list[tuple[int, int]]) -> list[Symbol]:
    """Give every symbol an end, one symbol per start, none inside another. `rows` are in order of address."""
    best: dict[int, RawSymbol] = {}
    for row in rows:
        held = best.get(row.start)
        if held is None or (row.size > 0, row.kind == "FUNC") > (held.size > 0, held.kind == "FUNC"):
            best[row.start] = row
    result: list[Symbol] = []
    starts = sorted(best)
    for at, start in enumerate(starts):
        if result and start < result[-1].end:
            continue  # a label inside a symbol whose size is known
        row, following = best[start], starts[at + 1] if at + 1 < len(starts) else None
        size = row.size
        if not size:
            end = next((high for low, high in ranges if low <= start < high), start)
            size = min(end, following if following is not None else end) - start
        if size > 0:
            result.append(Symbol(start, row.name, size))
    return result
