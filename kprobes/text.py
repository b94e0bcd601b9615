"""The guest's text as its author wrote it, and as we changed it.

Every byte that the runtime writes over code of the guest is kept here, so that whoever decodes sees the original
(recover_probed_instruction, arch/x86/kernel/kprobes/core.c). A function is decoded once and remembered for as long as
its bytes are what they were, apart from our own: n registrations in one function stay linear in n.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from operator import itemgetter

from kprobes.insn import BREAKPOINT, MAX_INSN_SIZE, never_falls_through, walk
from kprobes.port import PAGE_SIZE, Guest, GuestMemoryError, Symbol


@dataclass(frozen=True, slots=True)
class Function:
    """A symbol's original code, and its instructions: ``(address, length, text)`` in order, and by address.

    Decoding ends at the first bytes that are no instruction, and goes past the symbol's end by no more than its last
    instruction. ``foreign`` is the first int3 that control can fall into: a debugger's, since padding follows jumps and
    returns only. The instruction under it is unknown, and so is every boundary behind it.
    """

    symbol: Symbol
    code: bytes
    insns: tuple[tuple[int, int, str], ...]
    index: dict[int, int]
    foreign: int | None

    def before(self, addr: int) -> tuple[int, int, str] | None:
        """Return the last decoded instruction that begins below ``addr``."""
        number = bisect_left(self.insns, addr, key=itemgetter(0))
        return self.insns[number - 1] if number else None


class Text:
    """The text of one guest."""

    def __init__(self, guest: Guest):
        self._guest = guest
        self._original: dict[int, int] = {}
        self._functions: dict[int, tuple[bytearray, Function]] = {}  # by start: the bytes as they should be in memory

    def write(self, addr: int, data: bytes, sync: bool = True) -> None:
        """Write over the guest's code, and make every cpu see it. Raise ``GuestMemoryError`` with nothing changed."""
        was = self.recovered(addr, addr + len(data))
        self._guest.write(addr, data)
        for at, byte in enumerate(was, addr):
            self._original[at] = byte
        self._changed(addr, data, sync)

    def restore(self, addr: int, size: int = 1, sync: bool = True) -> None:
        """Put back ``size`` original bytes; those that were not written over are left alone."""
        data = bytes(self._original[at] for at in range(addr, addr + size) if at in self._original)
        self._guest.write(addr, data)
        for at in range(addr, addr + size):
            self._original.pop(at, None)
        self._changed(addr, data, sync)

    def forget(self, start: int, end: int) -> None:
        """The text in [start, end) is gone, or somebody else's by now: nothing of it will be put back."""
        for at in [at for at in self._original if start <= at < end]:
            del self._original[at]

    def recovered(self, start: int, end: int) -> bytes:
        """Return original code, up to ``end`` or to where memory ends, ``b""`` when ``start`` is not mapped."""
        code = bytearray(self._mapped(start, end))
        original = self._original
        if len(original) < len(code):
            for at, byte in original.items():
                if 0 <= at - start < len(code):
                    code[at - start] = byte
        else:
            for at in range(start, start + len(code)):
                if at in original:
                    code[at - start] = original[at]
        return bytes(code)

    def function(self, symbol: Symbol) -> Function:
        """Return a symbol decoded from its start (can_probe). A huge one is read no further than memory goes."""
        known = self._functions.get(symbol.start)
        if known is not None:
            raw, function = known
            if function.symbol == symbol and self._mapped(symbol.start, symbol.start + len(raw)) == raw:
                return function
        code = self.recovered(symbol.start, symbol.end + MAX_INSN_SIZE)
        insns = tuple(insn for insn in walk(code, symbol.start) if insn[0] < symbol.end)
        index = {insn[0]: number for number, insn in enumerate(insns)}
        function = Function(symbol, code, insns, index, _foreign(code, insns, symbol.start))
        self._functions[symbol.start] = bytearray(self._mapped(symbol.start, symbol.end + MAX_INSN_SIZE)), function
        return function

    def _changed(self, addr: int, data: bytes, sync: bool) -> None:
        symbol = self._guest.symbols.containing(addr)
        known = self._functions.get(symbol.start) if symbol is not None else None
        if symbol is not None and known is not None:
            at = addr - symbol.start
            known[0][at:at + len(data)] = data[:max(0, len(known[0]) - at)]
        if sync:
            self._guest.sync_cores()

    def _mapped(self, start: int, end: int) -> bytes:
        """Read [start, end), or as many whole pages of it as are mapped."""
        while end > start:
            try:
                return self._guest.read(start, end - start)
            except GuestMemoryError:
                end = (end - 1) & -PAGE_SIZE
        return b""


def _foreign(code: bytes, insns: tuple[tuple[int, int, str], ...], start: int) -> int | None:
    before = b""
    for addr, size, _ in insns:
        data = code[addr - start:addr - start + size]
        if data[0] == BREAKPOINT and not (before and never_falls_through(before)):
            return addr
        before = data
    return None
