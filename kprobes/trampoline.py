"""The code that a hooked function returns to: a call, a pt_regs for the runtime (``kprobes.savearea``), a return.

It begins with a call to its own next instruction: that makes the slot which its ``ret`` will need, and keeps the return
predictor of a processor in step with the stack.

Source: arch_rethook_trampoline, arch/x86/kernel/rethook.c.
"""

from __future__ import annotations

import errno

from kprobes.errors import KprobeError, Rule
from kprobes.port import PAGE_SIZE, Door, Guest
from kprobes.savearea import Line, code, through


class Trampoline:
    """The trampoline of one guest. ``addr`` is where it is, None until it is made."""

    def __init__(self, guest: Guest):
        self._guest = guest
        self.addr: int | None = None

    def owns(self, addr: int) -> bool:
        """Whether ``addr`` lies in its page."""
        return self.addr is not None and 0 <= addr - self.addr < PAGE_SIZE

    def listing(self) -> tuple[Line, ...]:
        """Return its instructions."""
        return Line(b"\xe8\x00\x00\x00\x00", "call .+5"), *through(self._guest.door(Door.TRAMPOLINE), 8), Line(b"\xc3", "ret")

    def make(self, near: int) -> bool:
        """Write it into a text page near an address; False if it was there. ENOMEM when the guest has no page left."""
        if self.addr is not None:
            return False
        try:
            page = self._guest.alloc_text_page(near)
        except MemoryError as exc:
            raise KprobeError(errno.ENOMEM, f"the guest has no text page left for the trampoline: {exc}", Rule.MEMORY) from exc
        self._guest.write(page, code(self.listing()))
        self._guest.sync_cores()
        self.addr = page
        return True

    def free(self) -> None:
        """Clear it and give its page back."""
        assert self.addr is not None
        self._guest.write(self.addr, bytes(len(code(self.listing()))))
        self._guest.free_text_page(self.addr)
        self.addr = None
