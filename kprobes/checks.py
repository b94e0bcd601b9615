"""Whether an address may be probed: from what the user wrote to a decoded instruction, or a refusal with its reason.

The order of the checks and their errno are the kernel's (register_kprobe, kernel/kprobes.c; can_probe,
arch/x86/kernel/kprobes/core.c). Nothing here writes anything.
"""

from __future__ import annotations

import difflib
import errno
from dataclasses import dataclass

from kprobes.blacklist import Blacklist
from kprobes.errors import KprobeError, Rule
from kprobes.insn import MAX_INSN_SIZE, DecodeError, Insn, decode
from kprobes.picture import picture
from kprobes.port import Guest, ModuleState, Symbol
from kprobes.probes import Kprobe
from kprobes.text import Function, Text

_ENDBR64 = b"\xf3\x0f\x1e\xfa"


@dataclass(frozen=True, slots=True)
class Place:
    """A resolved address: the symbol that contains it, and whether it is where the function's callers arrive."""

    addr: int
    symbol: Symbol
    on_entry: bool


class Checks:
    """The checks, over one guest, its text and its blacklist."""

    def __init__(self, guest: Guest, text: Text, blacklist: Blacklist):
        self._guest = guest
        self._text = text
        self._blacklist = blacklist

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
        raise KprobeError(errno.ENOENT, f"the guest has no symbol '{name}'{hint}", Rule.ADDRESS)

    def resolve(self, symbol_name: str | None, addr: int | None, offset: int = 0) -> Place:
        """Return the place that a symbol or an address, and an offset, stand for (_kprobe_addr).

        A function that begins with endbr64 is entered behind it: offsets 0 and 4 both mean that place
        (arch_adjust_kprobe_addr). EINVAL when not exactly one of the two is given; ENOENT when no symbol is there.
        """
        if symbol_name is not None and addr is not None:
            raise KprobeError(errno.EINVAL, (
                f"both symbol_name '{symbol_name}' and addr {addr:#x} are set; give one. (After a registration by "
                "symbol the address is filled in: set p.addr = None to register the same struct again)"), Rule.ADDRESS)
        if offset < 0:
            raise KprobeError(
                errno.EINVAL, f"offset {offset} is negative; it counts from the start of the symbol", Rule.ADDRESS)
        if symbol_name is not None:
            base = self.lookup(symbol_name)
        elif addr is not None:
            base = addr
        else:
            raise KprobeError(
                errno.EINVAL, "neither symbol_name nor addr is set; say where to probe", Rule.ADDRESS)
        where = base + offset
        symbol = self._guest.symbols.containing(where)
        if symbol is None:
            if reason := self._blacklist.reason(where):
                raise KprobeError(errno.EINVAL, f"{where:#x} must not be probed: {reason}", Rule.BLACKLIST)
            raise KprobeError(errno.ENOENT, (
                f"{where:#x} is in no symbol of the guest, so there is no function start to decode from; give the "
                "function a symbol (.type and .size in assembly)"), Rule.ADDRESS)
        inside = where - symbol.start
        if inside in (0, 4) and self._text.recovered(symbol.start, symbol.start + 4) == _ENDBR64:
            return Place(symbol.start + 4, symbol, True)
        return Place(where, symbol, not inside)

    def where(self, p: Kprobe) -> Place:
        """Return the place of a probe; raise as ``resolve``."""
        return self.resolve(p.symbol_name, p.addr, p.offset)

    def describe(self, addr: int) -> str:
        """Return ``symbol+0xoffset``, or the bare address."""
        symbol = self._guest.symbols.containing(addr)
        if symbol is None:
            return hex(addr)
        return f"{symbol.name}+{addr - symbol.start:#x}" if addr != symbol.start else symbol.name

    def permit(self, place: Place) -> None:
        """Check that a place lies in text that may be probed: EINVAL, ENOENT (check_kprobe_address_safe)."""
        name = self.describe(place.addr)
        if not self._guest.is_text(place.addr):
            raise KprobeError(errno.EINVAL, f"{name} ({place.addr:#x}) is not in the guest's text", Rule.TEXT)
        module = self._guest.module(place.addr)
        if module is not None and module.state is ModuleState.GOING:
            raise KprobeError(errno.ENOENT, f"{name} is in module '{module.name}', which is being unloaded", Rule.MODULE)
        reason = self._blacklist.reason(place.addr)
        if reason:
            raise KprobeError(
                errno.EINVAL, f"{name} must not be probed: {reason}{self.shown(place, 'forbidden')}", Rule.BLACKLIST)
        if module is not None and module.state is not ModuleState.COMING and module.init[0] <= place.addr < module.init[1]:
            raise KprobeError(errno.ENOENT, (
                f"{name} is in the init text of module '{module.name}', which has run and is gone"), Rule.MODULE)

    def shown(self, place: Place, note: str) -> str:
        """Return the code around a place, with a caret and a note, as further lines of a message; nothing without code."""
        text = picture(self._text.function(place.symbol), place.addr, note)
        return f"\n{text}" if text else ""

    def instruction(self, place: Place) -> Insn:
        """Decode the instruction at a place: EILSEQ off a boundary, else the errno of a refused instruction."""
        addr = place.addr
        function = self._text.function(place.symbol)
        self._on_boundary(addr, function)
        at = addr - place.symbol.start
        code = function.code[at:at + MAX_INSN_SIZE]
        try:
            insn = decode(code, addr)
        except DecodeError as exc:
            raise KprobeError(
                errno.EINVAL, f"{self.describe(addr)} cannot be displaced: {exc}{self.shown(place, 'not probed')}",
                Rule.INSTRUCTION) from exc
        if insn.refusal:
            code_, reason = insn.refusal
            raise KprobeError(
                code_, f"'{insn.text}' at {self.describe(addr)} cannot be probed: {reason}{self.shown(place, 'not probed')}",
                Rule.BOUNDARY if code_ == errno.EILSEQ else
                Rule.EMULATION if code_ == errno.EOPNOTSUPP else Rule.INSTRUCTION)
        return insn

    def _on_boundary(self, addr: int, function: Function) -> None:
        """Check that decoding from the symbol's start arrives at ``addr``, over original bytes (can_probe)."""
        symbol, foreign = function.symbol, function.foreign
        if not function.code:
            raise KprobeError(
                errno.EINVAL, f"the guest's text at {symbol.start:#x} cannot be read", Rule.INSTRUCTION)
        if foreign is not None and foreign < addr:
            raise KprobeError(errno.EILSEQ, (
                f"{self.describe(foreign)} holds an int3 that is not a probe's, so the boundaries after it, up to "
                f"{self.describe(addr)}, are unknown; remove that breakpoint first"), Rule.BOUNDARY)
        if addr in function.index:
            return
        before = function.before(addr)
        last = before[0] + before[1] if before else symbol.start
        if before and last > addr:
            raise KprobeError(errno.EILSEQ, self._inside(addr, symbol, before, function.code), Rule.BOUNDARY)
        at = last - symbol.start
        raise KprobeError(errno.EILSEQ, (
            f"{self.describe(addr)} cannot be reached by decoding from the start of '{symbol.name}': "
            f"{self.describe(last)} holds {function.code[at:at + 8].hex(' ')}, which is not an instruction"), Rule.BOUNDARY)

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
