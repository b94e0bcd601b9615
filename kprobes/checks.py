"""Whether an address may be probed: from what the user wrote to a decoded instruction, or a refusal with its reason.

The order of the checks and their errno are the kernel's (register_kprobe, kernel/kprobes.c; can_probe,
arch/x86/kernel/kprobes/core.c). Nothing here writes anything.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Iterable, Mapping

from kprobes.errors import KprobeError
from kprobes.insn import BREAKPOINT, MAX_INSN_SIZE, DecodeError, Insn, decode, never_falls_through, walk
from kprobes.port import PAGE_SIZE, Guest, GuestMemoryError, Symbol
from kprobes.probes import Kprobe

#: Symbols that belong to control-flow integrity, not to code that runs.
_NOT_CODE = ("__cfi_", "__pfx_")


class Checks:
    """The checks, over one guest. ``opcodes`` maps each address that has our int3 to the byte under it; ``own_text``
    tells whether an address lies in memory that the runtime itself has filled."""

    def __init__(self, guest: Guest, opcodes: Mapping[int, int], own_text: Callable[[int], bool]):
        self._guest = guest
        self._opcodes = opcodes
        self._own_text = own_text

    def lookup(self, name: str) -> int:
        """Return the address of a symbol; raise ENOENT with the nearest names."""
        addr = self._guest.symbols.lookup(name)
        if addr is not None:
            return addr
        names = list(self._guest.symbols.names())
        near = [other for other in names if other.startswith(name + ".")][:3]
        near += [other for other in difflib.get_close_matches(name, names, n=3) if other not in near]
        hint = f"; did you mean {' or '.join(repr(other) for other in near[:3])}?" if near else (
            "" if names else "; the guest has no symbols at all: was it linked with --strip-all?")
        raise KprobeError(errno.ENOENT, f"the guest has no symbol '{name}'{hint}")

    def resolve(self, p: Kprobe) -> int:
        """Return the address that ``symbol_name`` or ``addr``, and ``offset``, stand for (_kprobe_addr)."""
        if p.symbol_name is not None and p.addr is not None:
            raise KprobeError(errno.EINVAL, (
                f"both symbol_name '{p.symbol_name}' and addr {p.addr:#x} are set; give one. (After a registration by "
                "symbol the address is filled in: set p.addr = None to register the same struct again)"))
        if p.offset < 0:
            raise KprobeError(errno.EINVAL, f"offset {p.offset} is negative; it counts from the start of the symbol")
        if p.symbol_name is not None:
            return self.lookup(p.symbol_name) + p.offset
        if p.addr is None:
            raise KprobeError(errno.EINVAL, "neither symbol_name nor addr is set; say where to probe")
        return p.addr + p.offset

    def describe(self, addr: int) -> str:
        """Return ``symbol+0xoffset``, or the bare address."""
        symbol = self._guest.symbols.containing(addr)
        if symbol is None:
            return hex(addr)
        return f"{symbol.name}+{addr - symbol.start:#x}" if addr != symbol.start else symbol.name

    def place(self, addr: int) -> Symbol:
        """Check that ``addr`` lies in probeable text and return its symbol: ENOENT without one, else EINVAL."""
        if self._own_text(addr):
            raise KprobeError(errno.EINVAL, f"{addr:#x} is the probe runtime's own text; probing it would never end")
        symbol = self._guest.symbols.containing(addr)
        if symbol is None:
            raise KprobeError(errno.ENOENT, (
                f"{addr:#x} is in no symbol of the guest, so there is no function start to decode from; give the "
                "function a symbol (.type and .size in assembly)"))
        if not self._guest.is_text(addr):
            raise KprobeError(errno.EINVAL, f"{self.describe(addr)} ({addr:#x}) is not in the guest's text")
        reason = self._blacklisted(addr, symbol)
        if reason:
            raise KprobeError(errno.EINVAL, f"{self.describe(addr)} must not be probed: {reason}")
        return symbol

    def instruction(self, addr: int, symbol: Symbol) -> Insn:
        """Decode the instruction at ``addr``: EILSEQ off a boundary, else the errno of a refused instruction."""
        self._on_boundary(addr, symbol)
        try:
            insn = decode(self.recovered(addr, addr + MAX_INSN_SIZE), addr)
        except DecodeError as exc:
            raise KprobeError(errno.EINVAL, f"{self.describe(addr)} cannot be displaced: {exc}") from exc
        if insn.refusal:
            code, reason = insn.refusal
            raise KprobeError(code, f"'{insn.text}' at {self.describe(addr)} cannot be probed: {reason}")
        return insn

    def recovered(self, start: int, end: int) -> bytes:
        """Return text without our own int3s, up to ``end`` or to where memory ends (recover_probed_instruction)."""
        code = bytearray(self._mapped(start, end))
        for addr, opcode in self._opcodes.items():
            if 0 <= addr - start < len(code):
                code[addr - start] = opcode
        return bytes(code)

    def _mapped(self, start: int, end: int) -> bytes:
        """Read [start, end), or as many whole pages of it as are mapped."""
        while end > start:
            try:
                return self._guest.read(start, end - start)
            except GuestMemoryError:
                end = (end - 1) & -PAGE_SIZE
        raise KprobeError(errno.EINVAL, f"the guest's text at {start:#x} cannot be read")

    def _blacklisted(self, addr: int, symbol: Symbol) -> str | None:
        """Return the reason, looking also at the symbol without its '.cold' or '.isra.0' (within_kprobe_blacklist)."""
        if symbol.name.startswith(_NOT_CODE):
            return f"'{symbol.name}' is control-flow integrity data"
        ranges = tuple(self._guest.blacklist())
        base = self._guest.symbols.lookup(symbol.name.split(".")[0]) if "." in symbol.name[1:] else None
        return _reason(ranges, addr) or (_reason(ranges, base) if base is not None else None)

    def _on_boundary(self, addr: int, symbol: Symbol) -> None:
        """Decode from the symbol's start to ``addr``, over recovered bytes (can_probe).

        An int3 that is not ours counts as padding only where control does not fall into it. Elsewhere it is a
        debugger's, the instruction under it is unknown, and so is every boundary behind it.
        """
        end = min(symbol.end, (addr & -PAGE_SIZE) + 2 * PAGE_SIZE)  # by pages, so that the walk is remembered
        code = self.recovered(symbol.start, max(end, addr + MAX_INSN_SIZE))
        before: tuple[int, int, str] | None = None
        for insn in walk(code, symbol.start):
            start, size, _ = insn
            if start == addr:
                return
            if start + size > addr:
                raise KprobeError(errno.EILSEQ, self._inside(addr, symbol, insn, code))
            at = start - symbol.start
            if code[at] == BREAKPOINT and not (before and never_falls_through(
                    code[before[0] - symbol.start:before[0] - symbol.start + before[1]])):
                raise KprobeError(errno.EILSEQ, (
                    f"{self.describe(start)} holds an int3 that is not a probe's, so the boundaries after it, up to "
                    f"{self.describe(addr)}, are unknown; remove that breakpoint first"))
            before = insn
        last = before[0] + before[1] if before else symbol.start
        at = last - symbol.start
        raise KprobeError(errno.EILSEQ, (
            f"{self.describe(addr)} cannot be reached by decoding from the start of '{symbol.name}': "
            f"{self.describe(last)} holds {code[at:at + 8].hex(' ')}, which is not an instruction"))

    def _inside(self, addr: int, symbol: Symbol, insn: tuple[int, int, str], code: bytes) -> str:
        """Say that ``addr`` is inside ``insn``, with a caret under its byte."""
        start, size, text = insn
        at = start - symbol.start
        head = f"   {self.describe(start)}:  "
        data = code[at:at + size].hex(" ")
        caret = " " * (len(head) + 3 * (addr - start)) + f"^ +{addr - symbol.start:#x}"
        near = f"nearest boundaries: +{at:#x}, +{at + size:#x}"
        return (f"{self.describe(addr)} is inside an instruction\n{head}{data}   {text}\n"
                f"{caret}{' ' * max(3, len(head) + len(data) + 3 - len(caret))}{near}")


def _reason(ranges: Iterable[tuple[int, int, str]], addr: int) -> str | None:
    return next((reason for start, end, reason in ranges if start <= addr < end), None)
