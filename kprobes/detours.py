"""The detours of optimised probes: made near what they lead around, and freed when no cpu is in them any more."""

from __future__ import annotations

from collections.abc import Iterable

from kprobes.detour import detour, room
from kprobes.port import Door, Guest
from kprobes.region import Jump, Region
from kprobes.slots import Slots


class Detours:
    """The detours of one guest; ``slots`` holds them, once there is one."""

    def __init__(self, guest: Guest):
        self._guest = guest
        self._returns: dict[int, int] = {}  # retired detours: where they end in the guest's text
        self.slots: Slots | None = None

    def owns(self, addr: int) -> bool:
        """Whether ``addr`` lies in a page of detours (``is_kprobe_optinsn_slot``)."""
        return self.slots is not None and self.slots.owns(addr)

    @property
    def retired(self) -> tuple[int, ...]:
        """The detours that no jump leads to any more, but a cpu may still be in."""
        return tuple(self._returns)

    def make(self, region: Region) -> Jump:
        """Make a detour around a region; no jump leads to it yet.

        Raise ``KprobeError`` as ``Slots.allocate`` and ``detour`` do, and ``ValueError`` when the door cannot be reached.
        """
        door = self._guest.door(Door.DETOUR)
        if self.slots is None:
            self.slots = Slots(self._guest, room(door))
        start = self.slots.allocate(region.addr)
        try:
            made = detour(region, start, door)
            self.slots.fill(start, made.data)
        except BaseException:
            self.slots.release(start)
            raise
        self.slots.keep(start)
        return Jump(region, start, made.copy)

    def retire(self, jump: Jump) -> None:
        """Give a detour back that a cpu may be in."""
        assert self.slots is not None, "there is a detour"
        self.slots.retire(jump.start)
        self._returns[jump.start] = jump.region.end
        self._forget()

    def collect(self, among: Iterable[int] | None = None) -> None:
        """Free the retired detours that no cpu is in, all or some."""
        if self._returns and self.slots is not None:
            self.slots.collect(among)
            self._forget()

    def vacant(self, start: int) -> bool:
        """Whether no cpu is in a detour, or will come back into it."""
        assert self.slots is not None, "there is a detour"
        return self._guest.settled(start, start + self.slots.size)

    def lead_into(self, start: int, end: int) -> bool:
        """Whether a cpu is in a retired detour that ends in [start, end)."""
        return any(start <= back < end and not self.vacant(detour) for detour, back in self._returns.items())

    def _forget(self) -> None:
        dirty = frozenset(self.slots.dirty) if self.slots is not None else frozenset[int]()
        self._returns = {start: end for start, end in self._returns.items() if start in dirty}
