"""Slots: executable guest memory that holds the displaced copies, 15 bytes each, 273 to a page.

Pages come from the guest near the probed code, because a RIP-relative operand must reach its target from the slot.
The newest page with a free slot in reach is taken, its lowest free slot first; a page that becomes empty is given back
unless it is the only one (get_insn_slot and free_insn_slot, arch/x86_64/kernel/kprobes.c, 2004).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from kprobes.errors import KprobeError
from kprobes.insn import MAX_INSN_SIZE
from kprobes.port import PAGE_SIZE, Guest

SLOTS_PER_PAGE = PAGE_SIZE // MAX_INSN_SIZE
_REACH = (1 << 31) - PAGE_SIZE


def distance(a: int, b: int) -> int:
    """Return ``a - b`` as a signed 64-bit number: what a displacement from ``b`` to ``a`` has to be."""
    return ((a - b + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


@dataclass(slots=True)
class _Page:
    start: int
    used: dict[int, bool] = field(default_factory=dict[int, bool])  # slot number -> whether it was filled
    fresh: bool = True  # no slot of it was ever kept


class Slots:
    """The slot pages of one guest."""

    def __init__(self, guest: Guest):
        self._guest = guest
        self._pages: list[_Page] = []  # newest first

    @property
    def pages(self) -> tuple[int, ...]:
        """Start addresses of the pages, newest first."""
        return tuple(page.start for page in self._pages)

    def owns(self, addr: int) -> bool:
        """Whether ``addr`` lies in a slot page (``is_kprobe_insn_slot``)."""
        return any(0 <= addr - page.start < PAGE_SIZE for page in self._pages)

    def allocate(self, near: int) -> int:
        """Return the address of a free slot in reach of ``near``; nothing is written yet.

        Raise ``KprobeError``: ENOMEM without memory, EINVAL when the guest's page is out of reach.
        """
        for page in self._pages:
            if len(page.used) < SLOTS_PER_PAGE and abs(distance(page.start, near)) < _REACH:
                break
        else:
            page = self._new_page(near)
        index = next(i for i in range(SLOTS_PER_PAGE) if i not in page.used)
        page.used[index] = False
        return page.start + index * MAX_INSN_SIZE

    def fill(self, slot: int, copy: bytes) -> None:
        """Write a copy; the rest of the slot becomes int3, so that nothing can run past the copy unnoticed."""
        self._guest.write(slot, copy.ljust(MAX_INSN_SIZE, b"\xcc"))
        page, index = self._page(slot)
        page.used[index] = True

    def keep(self, slot: int) -> None:
        """Say that the registration went through: a slot that is released without this leaves no new page behind."""
        self._page(slot)[0].fresh = False

    def release(self, slot: int) -> None:
        """Give a slot back; no cpu may be in it."""
        page, index = self._page(slot)
        if page.used.pop(index):
            self._guest.write(slot, bytes(MAX_INSN_SIZE))
        if not page.used and (page.fresh or len(self._pages) > 1):
            self._pages.remove(page)
            self._guest.free_text_page(page.start)

    def _new_page(self, near: int) -> _Page:
        try:
            start = self._guest.alloc_text_page(near)
        except MemoryError as exc:
            raise KprobeError(
                errno.ENOMEM, f"the guest has no page left for out-of-line copies near {near:#x}: {exc}") from exc
        if abs(distance(start, near)) >= _REACH:
            self._guest.free_text_page(start)
            raise KprobeError(
                errno.EINVAL, f"the guest's page for out-of-line copies, {start:#x}, is not within 2 GiB of {near:#x}")
        page = _Page(start)
        self._pages.insert(0, page)
        return page

    def _page(self, slot: int) -> tuple[_Page, int]:
        for page in self._pages:
            index, rest = divmod(slot - page.start, MAX_INSN_SIZE)
            if 0 <= index < SLOTS_PER_PAGE and not rest and index in page.used:
                return page, index
        raise ValueError(f"{slot:#x} is not a slot in use")
