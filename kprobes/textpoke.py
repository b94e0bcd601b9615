"""Changing an instruction of several bytes while cpus run through it (text_poke_bp_batch).

    int3 over the first byte of each     sync     whoever arrives now behaves as the new instruction
    all bytes but the first              sync
    the first byte                       sync     whoever arrives now executes the new instruction

So a cpu sees the old instruction, the breakpoint or the new one, never a mixture. No cpu may be at, or come back to, an
instruction that begins behind the first byte; that is the caller's to know. A single byte needs none of this: it is one
write and one sync (``Text.write``).

Source: arch/x86/kernel/alternative.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kprobes.emulate import emulator
from kprobes.insn import BREAKPOINT, decode
from kprobes.port import Guest
from kprobes.ptregs import MASK64, PtRegs
from kprobes.text import Text

_INT3 = bytes([BREAKPOINT])

#: The opcodes that a trap on the temporary int3 can stand for: ret, call, jmp and jcc. Nops of 2 and 5 bytes are the others.
_ACTS = frozenset((0xC3, 0xE8, 0xE9, 0xEB, *range(0x70, 0x80)))
_NOPS = (bytes.fromhex("6690"), bytes.fromhex("0f1f440000"))


@dataclass(frozen=True, slots=True)
class Poke:
    """New bytes for the instruction at ``addr``; ``acts`` are those that a trap there stands for, when they differ."""

    addr: int
    data: bytes
    acts: bytes | None = None


class TextPoke:
    """The one writer of several bytes to the text of a guest."""

    def __init__(self, guest: Guest, text: Text):
        self._guest = guest
        self._text = text
        self._acting: dict[int, Callable[[PtRegs, Guest], None]] = {}

    def write(self, pokes: Sequence[Poke]) -> None:
        """Write a batch. Raise ``GuestMemoryError`` when some of it is not mapped: nothing is written then."""
        with self._published(pokes):
            for poke in pokes:
                self._text.write(poke.addr, _INT3, sync=False)
            self._guest.sync_cores()
            for poke in pokes:
                self._text.write(poke.addr + 1, poke.data[1:], sync=False)
            self._guest.sync_cores()
            for poke in pokes:
                self._text.write(poke.addr, poke.data[:1], sync=False)
            self._guest.sync_cores()

    def restore(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Put the original instructions back at some ``(address, size)``, in the same way: they are nops or branches, too."""
        with self._published([Poke(addr, self._text.recovered(addr, addr + size)) for addr, size in ranges]):
            for addr, _ in ranges:
                self._text.write(addr, _INT3, sync=False)
            self._guest.sync_cores()
            for addr, size in ranges:
                self._text.restore(addr + 1, size - 1, sync=False)
            self._guest.sync_cores()
            for addr, _ in ranges:
                self._text.restore(addr, sync=False)
            self._guest.sync_cores()

    def on_trap(self, regs: PtRegs) -> bool:
        """Let a cpu that has trapped on a temporary int3 continue behind the new instruction; False when it is not one.

        A breakpoint that becomes permanent is left to whose it is.
        """
        act = self._acting.get((regs.ip - 1) & MASK64) if self._acting and not regs.user_mode else None
        if act is None:
            return False
        act(regs, self._guest)
        return True

    @contextmanager
    def _published(self, pokes: Sequence[Poke]) -> Iterator[None]:
        for poke in pokes:
            self._guest.read(poke.addr, len(poke.data))
        self._acting = {poke.addr: _acting(poke) for poke in pokes if poke.data[:1] != _INT3}
        try:
            yield
        finally:
            self._acting = {}


def _acting(poke: Poke) -> Callable[[PtRegs, Guest], None]:
    """Return what a trap at a temporary int3 does; ``ValueError`` for an instruction that no trap can stand for."""
    insn = decode(poke.data if poke.acts is None else poke.acts, poke.addr)
    act = emulator(insn) if insn.data[0] in _ACTS or (insn.data[0] == 0x0F and insn.data[1] & 0xF0 == 0x80) else None
    if act is not None:
        return act
    if insn.data not in _NOPS:
        raise ValueError(f"a breakpoint at {poke.addr:#x} cannot stand for '{insn.text}'")
    following = (poke.addr + len(insn.data)) & MASK64

    def skip(regs: PtRegs, guest: Guest) -> None:
        regs.ip = following

    return skip
