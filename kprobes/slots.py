"""Slots: executable guest memory that holds displaced copies, all of one size, as many as go into a page.

There are two of these: plain slots of 15 bytes, 273 to a page, for one instruction each, and the larger ones for the
detours of optimised probes. Pages come from the guest near the probed code, because a RIP-relative operand must reach
its target from the slot. Of the pages with room in reach the one that got room last is taken, its lowest free slot
first; a page that becomes empty is given back unless it is the only one (get_insn_slot and free_insn_slot,
arch/x86_64/kernel/kprobes.c, 2004). A slot that a cpu may still be in is retired instead of released: it is used again
once the guest says that no cpu is there (the dirty slots of kernel/kprobes.c, 2.6.18 and later).

Finding a free slot, and the page of a slot, takes the same time however many slots are in use.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from kprobes.errors import KprobeError, Rule
from kprobes.insn import MAX_INSN_SIZE
from kprobes.port import PAGE_SIZE, Guest

SLOTS_PER_PAGE = PAGE_SIZE // MAX_INSN_SIZE
_REACH = (1 << 31) - PAGE_SIZE


def distance(a: int, b: int) -> int:
    """Return ``a - b`` as a signed 64-bit number: what a displacement from ``b`` to ``a`` has to be."""
    return ((a - b + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


@dataclass(eq=False, slots=True)
class _Page:
    start: int
    free: list[int]  # a heap of slot numbers
    used: dict[int, bool] = field(default_factory=dict[int, bool])  # slot number -> whether it was filled
    fresh: bool = True  # no slot of it was ever kept


class Slots:
    """The slot pages of one guest, for copies of up to ``size`` bytes."""

    def __init__(self, guest: Guest, size: int = MAX_INSN_SIZE):
        self._guest = guest
        self.size = size
        self._pages: dict[int, _Page] = {}  # by start, oldest first
        self._open: dict[int, _Page] = {}   # those with a free slot
        self._dirty: dict[int, None] = {}   # retired slots, oldest first
        self._patience = PAGE_SIZE // size  # so many dirty slots are kept before somebody looks

    @property
    def pages(self) -> tuple[int, ...]:
        """Start addresses of the pages, newest first."""
        return tuple(reversed(self._pages))

    @property
    def dirty(self) -> tuple[int, ...]:
        """The retired slots that are not free yet."""
        return tuple(self._dirty)

    def owns(self, addr: int) -> bool:
        """Whether ``addr`` lies in a slot page (``is_kprobe_insn_slot``)."""
        return addr & -PAGE_SIZE in self._pages

    def allocate(self, near: int) -> int:
        """Return the address of a free slot in reach of ``near``; nothing is written yet.

        Raise ``KprobeError``: ENOMEM without memory, EINVAL when the guest's page is out of reach.
        """
        page = self._with_room(near)
        if page is None and self._dirty:
            self.collect()
            page = self._with_room(near)
        if page is None:
            page = self._new_page(near)
        index = heapq.heappop(page.free)
        page.used[index] = False
        if not page.free:
            del self._open[page.start]
        return page.start + index * self.size

    def fill(self, slot: int, copy: bytes) -> None:
        """Write a copy; the rest of the slot becomes int3, so that nothing can run past the copy unnoticed."""
        self._guest.write(slot, copy.ljust(self.size, b"\xcc"))
        page, index = self._page(slot)
        page.used[index] = True

    def keep(self, slot: int) -> None:
        """Say that the registration went through: a slot that is released without this leaves no new page behind."""
        self._page(slot)[0].fresh = False

    def release(self, slot: int) -> None:
        """Give a slot back; no cpu may be in it."""
        page, index = self._page(slot)
        if page.used.pop(index):
            self._guest.write(slot, bytes(self.size))
        heapq.heappush(page.free, index)
        self._open[page.start] = page
        if not page.used and (page.fresh or len(self._pages) > 1):
            del self._pages[page.start], self._open[page.start]
            self._guest.free_text_page(page.start)

    def retire(self, slot: int) -> None:
        """Give a slot back that a cpu may be in: it stays as it is until ``collect`` finds that none is."""
        self._page(slot)
        if slot in self._dirty:
            raise ValueError(f"{slot:#x} was retired before")
        self._dirty[slot] = None
        if len(self._dirty) >= self._patience:
            self.collect()

    def collect(self, among: Iterable[int] | None = None) -> bool:
        """Release the retired slots, all or some, that no cpu is in (``Guest.settled``); return whether any had to stay."""
        looked = tuple(self._dirty) if among is None else [slot for slot in among if slot in self._dirty]
        for slot in [slot for slot in looked if self._guest.settled(slot, slot + self.size)]:
            del self._dirty[slot]
            self.release(slot)
        if among is None:
            self._patience = 2 * len(self._dirty) + PAGE_SIZE // self.size
        return bool(self._dirty)

    def _with_room(self, near: int) -> _Page | None:
        return next((page for page in reversed(self._open.values())
                     if abs(distance(page.start, near)) < _REACH), None)

    def _new_page(self, near: int) -> _Page:
        try:
            start = self._guest.alloc_text_page(near)
        except MemoryError as exc:
            raise KprobeError(
                errno.ENOMEM, f"the guest has no page left for out-of-line copies near {near:#x}: {exc}",
                Rule.MEMORY) from exc
        if abs(distance(start, near)) >= _REACH:
            self._guest.free_text_page(start)
            raise KprobeError(
                errno.EINVAL, f"the guest's page for out-of-line copies, {start:#x}, is not within 2 GiB of {near:#x}",
                Rule.MEMORY)
        page = self._pages[start] = self._open[start] = _Page(start, list(range(PAGE_SIZE // self.size)))
        return page

    def _page(self, slot: int) -> tuple[_Page, int]:
        page = self._pages.get(slot & -PAGE_SIZE)
        if page is not None:
            index, rest = divmod(slot - page.start, self.size)
            if not rest and index in page.used:
                return page, index
        raise ValueError(f"{slot:#x} is not a slot in use")
