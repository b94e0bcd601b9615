"""A walk up the stack by frame pointers, which sees through the kretprobe trampoline (arch/x86/kernel/unwind_frame.c).

The guest has to be compiled with frame pointers (-fno-omit-frame-pointer). Where a function has not yet made its frame, or
no longer has it (first instruction, behind ``push %rbp``, at ``ret``), the return address is found at sp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kprobes.port import Guest, GuestMemoryError
from kprobes.ptregs import MASK64

_ENDBR64, _PUSH_BP, _RET = b"\xf3\x0f\x1e\xfa", b"\x55", (b"\xc3", b"\xc2", b"\xf3\xc3")


class Unwinder:
    """Walks over one guest's stacks. ``recovered`` returns original code of [start, end); ``find_ret_addr`` the address that
    a kretprobe has replaced in a stack slot, or None."""

    def __init__(
        self, guest: Guest, recovered: Callable[[int, int], bytes], find_ret_addr: Callable[[int], int | None],
    ):
        self._guest = guest
        self._recovered = recovered
        self._find_ret_addr = find_ret_addr

    def walk(self, ip: int, sp: int, bp: int) -> Iterator[int]:
        """Yield ``ip``, and then return addresses from the innermost out.

        The walk ends where bp is 0, where memory ends, or where a frame does not lie above the one before it.
        """
        yield ip
        try:
            slot = self._without_frame(ip, sp)
            if slot is not None:
                yield self._return_address(slot)
            below = sp
            while bp >= below:
                yield self._return_address((bp + 8) & MASK64)
                below, bp = bp + 16, self._word(bp)
        except GuestMemoryError:
            return

    def _without_frame(self, ip: int, sp: int) -> int | None:
        """Return the slot of the return address where it is next to sp, None where bp leads to it."""
        if self._recovered(ip, ip + 2).startswith(_RET):
            return sp
        symbol = self._guest.symbols.containing(ip)
        if symbol is None:
            return None
        head = self._recovered(symbol.start, symbol.start + 5)
        entry = symbol.start + 4 * head.startswith(_ENDBR64)
        if ip in (symbol.start, entry):
            return sp
        return sp + 8 if ip == entry + 1 and self._recovered(entry, ip) == _PUSH_BP else None

    def _return_address(self, slot: int) -> int:
        real = self._find_ret_addr(slot)
        return self._word(slot) if real is None else real

    def _word(self, addr: int) -> int:
        return int.from_bytes(self._guest.read(addr & MASK64, 8), "little")
