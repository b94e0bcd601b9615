"""A kernel image as the other modules need it: what to load, what is code, and the symbols, wherever they come from."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from sim.elf import PF_R, PF_X, RawSymbol, Segment, SymbolTable
from sim.kernel.kallsyms import KallsymsError, read_kallsyms
from sim.kernel.unpack import UnpackError, unpack

#: Where kernels are linked: the upper half. A segment below is the template of the per-CPU area.
KERNEL_HALF = 1 << 63


@dataclass(frozen=True)
class Section:
    """A section with code: its name, address and bytes."""

    name: str
    start: int
    data: bytes

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.start + len(self.data)


@dataclass(frozen=True)
class KernelImage:
    """A kernel. `segments` go to their addresses, `percpu` is the template of the per-CPU area; `origin` of the symbols."""

    name: str
    segments: list[Segment]
    percpu: bytes
    text: list[Section]
    raw_symbols: list[RawSymbol]
    origin: str

    @property
    def end(self) -> int:
        """The first address after the image."""
        return max(segment.vaddr + segment.memsz for segment in self.segments)

    def symbols(self, more: Iterable[RawSymbol] = (), segments: Iterable[Segment] = ()) -> SymbolTable:
        """Return the symbol table, in which symbols of `more` win. Only sections of code count as text."""
        ranges = [Segment(s.vaddr, b"", s.memsz, PF_R) for s in self.segments]
        ranges += [Segment(s.start, b"", len(s.data), PF_R | PF_X) for s in self.text]
        return SymbolTable([*more, *self.raw_symbols], [*ranges, *segments])


def load_kernel(path: Path) -> KernelImage:
    """Read a .deb, vmlinuz or vmlinux; UnpackError when it is none, or has no symbols to be found."""
    kernel = unpack(path)
    try:
        elf = ELFFile(io.BytesIO(kernel.vmlinux))
        if elf["e_machine"] != "EM_X86_64" or elf.elfclass != 64:
            raise UnpackError(f"{path} holds a kernel for {elf['e_machine']}, not for x86-64: fetch one for amd64")
        loads = [segment for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD"]
        segments = [Segment(s["p_vaddr"], s.data(), s["p_memsz"], s["p_flags"]) for s in loads]
        text = [
            Section(section.name, section["sh_addr"], section.data())
            for section in elf.iter_sections()
            if section["sh_flags"] & 4 and section["sh_type"] == "SHT_PROGBITS" and section["sh_addr"] >= KERNEL_HALF
        ]
        symbols, origin = _elf_symbols(elf), "its symbol table"
    except (ELFError, ValueError, KeyError, IndexError, AssertionError) as error:
        if isinstance(error, UnpackError):
            raise
        raise UnpackError(f"the vmlinux in {path} is damaged ({error}): fetch it again") from None
    if not symbols and kernel.system_map is not None:
        symbols, origin = list(_map_symbols(kernel.system_map)), "System.map"
    if not symbols:
        try:
            entries = read_kallsyms(kernel.vmlinux)
        except KallsymsError as error:
            raise UnpackError(f"{path} has no symbols: no symbol table, no System.map, and {error}") from None
        symbols = [_raw(e.address, e.letter, e.name) for e in entries if e.address >= KERNEL_HALF]
        origin = "kallsyms"
    return KernelImage(
        kernel.name,
        [segment for segment in segments if segment.vaddr >= KERNEL_HALF],
        next((segment.data for segment in segments if segment.vaddr < KERNEL_HALF), b""),
        text,
        symbols,
        origin,
    )


def _raw(address: int, letter: str, name: str) -> RawSymbol:
    """A symbol by nm's letter. None counts as global, so that those of the guest's stubs win over them."""
    return RawSymbol(name, address, 0, "FUNC" if letter in "tTwW" else "OBJECT", is_global=False)


def _map_symbols(text: str) -> Iterable[RawSymbol]:
    for line in text.splitlines():
        address, letter, name = line.split()[:3]
        if int(address, 16) >= KERNEL_HALF:
            yield _raw(int(address, 16), letter, name)


def _elf_symbols(elf: ELFFile) -> list[RawSymbol]:
    rows = []
    for section in elf.iter_sections():
        if isinstance(section, SymbolTableSection):
            for symbol in section.iter_symbols():
                kind = symbol["st_info"]["type"].removeprefix("STT_")
                if symbol.name and symbol["st_value"] >= KERNEL_HALF and kind in ("NOTYPE", "FUNC", "OBJECT"):
                    rows.append(RawSymbol(symbol.name, symbol["st_value"], symbol["st_size"], kind, False))
    return rows
