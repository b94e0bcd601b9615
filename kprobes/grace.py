"""Sites without probes that a cpu may still be inside, until nobody is: the kernel's grace period (synchronize_rcu).

A request that removes probes waits for the cpus, once for all its probes. Where that is impossible, what they are in stays as
it is, and is freed later: a slot at the end of the last hit, a boosted copy or a detour when ``Slots`` looks for room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from kprobes.copies import Copies
from kprobes.detours import Detours
from kprobes.port import Guest
from kprobes.step import NO_SLOT, Site


class Departure(NamedTuple):
    """A site that has lost its last probe, and the addresses of what cpus may be in without a hit: its copy, if that is
    boosted, and its detour, unless a jump still leads there. ``NO_SLOT``: none."""

    site: Site
    copy: int
    detour: int


def departure(site: Site, detour: int) -> Departure:
    """Return what a site leaves behind that has lost its last probe."""
    return Departure(site, site.slot if site.boosted else NO_SLOT, detour)


class GracePeriod:
    """The sites of one guest that are out of the table. ``in_use`` tells whether a cpu is inside a hit of a site."""

    def __init__(self, guest: Guest, copies: Copies, detours: Detours, in_use: Callable[[Site], bool]):
        self._guest = guest
        self._copies = copies
        self._detours = detours
        self._in_use = in_use
        self._sites: dict[Site, None] = {}

    def __iter__(self) -> Iterator[Site]:
        return iter(tuple(self._sites))

    def inside(self, site: Site) -> bool:
        """Whether a cpu is inside a hit of a site, or in its boosted copy."""
        return self._in_use(site) or (site.boosted and site.slot != NO_SLOT and not self._copies.vacant(site.slot))

    def add(self, site: Site) -> None:
        """A site is out of the table; what it occupies is freed by ``settle``."""
        self._sites[site] = None

    def wait(self, departures: Sequence[Departure]) -> None:
        """Let the cpus run until none is inside what a request has removed, and free it; if they cannot, leave it for later."""
        if not departures:
            return

        def over() -> bool:
            return not any(
                self._in_use(site) or (copy != NO_SLOT and not self._copies.vacant(copy))
                or (detour != NO_SLOT and not self._detours.vacant(detour)) for site, copy, detour in departures)

        if over() or self._guest.wait(over):
            for site, copy, detour in departures:
                if site in self._sites:
                    del self._sites[site]
                    self._copies.discard(site)
                elif copy != NO_SLOT:
                    self._copies.slots.collect([copy])
                if detour != NO_SLOT:
                    self._detours.collect([detour])

    def wait_for_detours(self) -> None:
        """The same for all retired detours."""
        retired = self._detours.retired
        if retired:
            self._guest.wait(lambda: all(map(self._detours.vacant, retired)))
            self._detours.collect()

    def settle(self) -> None:
        """Free the slots of sites that no cpu is inside a hit of any more."""
        if self._sites:
            for site in [site for site in self._sites if not self._in_use(site)]:
                del self._sites[site]
                self._copies.free(site)
