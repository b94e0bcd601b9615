"""The table of probed addresses, and the int3 bytes in the guest's text.

Order, as in the kernel: into the table, then armed; disarmed, then out of the table, then the slot is given back. So an
int3 of ours always finds its site. Every request that is refused leaves guest memory and the table as they were.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from kprobes.arming import Arming
from kprobes.blacklist import Blacklist
from kprobes.checks import Checks, Place
from kprobes.copies import Copies
from kprobes.detours import Detours
from kprobes.errors import KprobeError, Rule
from kprobes.fentry import Fentry
from kprobes.grace import Departure, GracePeriod, departure
from kprobes.optimizer import Optimizer
from kprobes.options import Options
from kprobes.port import Guest, GuestMemoryError
from kprobes.probes import Kprobe, KprobeFlag
from kprobes.region import Regions
from kprobes.slots import Slots
from kprobes.step import NO_SLOT, Site
from kprobes.text import Text
from kprobes.textpoke import TextPoke

#: What a registration fills in of a Kprobe, beside its misses.
_OURS = ("offset", "addr", "opcode", "flags", "nmissed", "hits")


class Registry:
    """The sites of one guest. ``in_use`` tells whether a cpu is still inside a hit of a site; ``own_text`` whether an
    address lies in the runtime's text outside the slots."""

    def __init__(
        self, guest: Guest, options: Options, in_use: Callable[[Site], bool], own_text: Callable[[int], bool],
    ):
        self._sites: dict[int, Site] = {}
        self._of: dict[Kprobe, Site] = {}
        self._off = False
        self.text = Text(guest)
        slots, self.detours = Slots(guest), Detours(guest)
        self.blacklist = Blacklist(guest, lambda addr: (
            slots.owns(addr) or self.detours.owns(addr) or self.fentry.owns(addr) or own_text(addr)))
        self.checks = Checks(guest, self.text, self.blacklist)
        self.copies = Copies(guest, options, slots, self.checks)
        self.poke = TextPoke(guest, self.text)
        self.fentry = Fentry(guest, self.text, self.poke)
        self._grace = GracePeriod(guest, self.copies, self.detours, in_use)
        self.optimizer = Optimizer(
            guest, options, self.text, self.poke, Regions(guest, self.text, self.blacklist), self.detours, self.find,
            self._grace, self._retire)
        self.arming = Arming(guest, self.text, self.fentry, self.optimizer, in_use)

    def find(self, addr: int) -> Site | None:
        """Return the site at exactly this address: the look-up of every hit."""
        return self._sites.get(addr)

    def site_of(self, p: Kprobe) -> Site | None:
        """Return the site of a registered struct, None when this very struct is not registered."""
        return self._of.get(p)

    def __iter__(self) -> Iterator[Site]:
        return iter(tuple(self._sites.values()))

    def register(self, p: Kprobe) -> Site:
        """Check, prepare, insert and arm (register_kprobe); raise ``KprobeError`` and change nothing on refusal."""
        place = self.checks.where(p)
        if p in self._of:
            raise KprobeError(errno.EINVAL, f"this Kprobe is already registered, on {p.name}", Rule.REGISTERED)
        self.checks.permit(place)
        self.settle()
        site = self._sites.get(place.addr)
        if site is None or site.gone:
            site = self._new(p, place)
        else:
            self._join(p, site, place)
        self.optimizer.review(site)
        return site

    def register_all(self, probes: Iterable[Kprobe], register: Callable[[Kprobe], object]) -> None:
        """Register in order; when one is refused, take back those before it and raise its error (register_kprobes)."""
        done: list[Kprobe] = []
        try:
            for p in probes:
                register(p)
                done.append(p)
        except BaseException:
            self.unregister(done[::-1])
            raise

    def unregister(self, probes: Iterable[Kprobe]) -> None:
        """Disarm and unlink all, let the cpus leave them, and free what they used (unregister_kprobes).

        A struct that is not registered loses its addr, as in Linux.
        """
        self._grace.wait([left for p in probes if (left := self._remove(p)) is not None])
        self.optimizer.relax()
        self.settle()

    def _remove(self, p: Kprobe) -> Departure | None:
        """Disarm and unlink a probe; return the site if it was the last one there."""
        site = self._of.pop(p, None)
        if site is None:
            p.addr = None
            return None
        site.probes.remove(p)
        site.posts.discard(p)
        p.flags &= ~KprobeFlag.OPTIMIZED
        if not site.enabled:
            self.arming.disarm(site)
        if site.probes:
            self.optimizer.review(site)
            return None
        if site.leaving:
            return departure(site, NO_SLOT)
        return self._retire(site)

    def settle(self) -> None:
        """Do what waits for the end of hits: free slots, put breakpoints back."""
        self.arming.put_back()
        self._grace.settle()

    def kill(self, start: int, end: int) -> None:
        """The text in [start, end) is about to vanish: what is there becomes GONE, and is not written to (kill_kprobe).

        The structs stay registered until they are unregistered; a new probe at the address shares it with them.
        """
        for site in self:
            if not start <= site.addr < end or site.gone:
                continue
            self.arming.abandon(site)
            site.gone = True
            site.posts.clear()
            for p in site.probes:
                p.flags |= KprobeFlag.GONE
            self._grace.add(site)
            if not site.probes:
                del self._sites[site.addr]
        self.text.forget(start, end)
        self.settle()

    def optimize(self, on: bool | None = None) -> None:
        """Let the optimizer do its work now; with ``on``, allow jumps or take all of them out."""
        if on is None:
            self.optimizer.work()
        else:
            self.optimizer.switch(self, on)
        self.settle()
        self.copies.slots.collect()

    def free_detours(self) -> None:
        """Let the cpus leave the detours that no jump leads to any more, and free them."""
        self._grace.wait_for_detours()
        self.optimizer.relax()

    def enable(self, p: Kprobe) -> None:
        """Let a probe be hit again (enable_kprobe); EINVAL when the struct is not registered, or its text is gone."""
        site = self._registered(p, "enabled")
        if p.flags & KprobeFlag.GONE:
            raise KprobeError(errno.EINVAL, (
                f"the text under the probe on {p.name} is gone, so it cannot be enabled; unregister it"))
        flags, p.flags = p.flags, p.flags & ~KprobeFlag.DISABLED
        if not site.armed and not self._off:
            try:
                self.arming.arm(site)
            except BaseException:
                p.flags = flags
                raise
        self.optimizer.review(site)

    def disable(self, p: Kprobe) -> None:
        """Keep the registration, but let nothing be hit (disable_kprobe); EINVAL when not registered.

        The breakpoint goes when every probe at the address is disabled.
        """
        site = self._registered(p, "disabled")
        p.flags |= KprobeFlag.DISABLED
        if not site.enabled:
            self.arming.disarm(site)

    @property
    def off(self) -> bool:
        """Whether all probes are disarmed by the global switch; those registered meanwhile are armed with the rest."""
        return self._off

    def switch(self, off: bool) -> None:
        """Disarm everything, or arm everything that is enabled (arm_all_kprobes, disarm_all_kprobes).

        A site that cannot be armed does not keep the others from it; ``KprobeError`` (EINVAL) then names it.
        """
        self._off = off
        failed: tuple[Site, GuestMemoryError] | None = None
        for site in self:
            if off:
                self.optimizer.force(site)
                self.arming.disarm(site)
            elif site.enabled and not site.armed:
                try:
                    self.arming.arm(site)
                    self.optimizer.review(site)
                except GuestMemoryError as exc:
                    failed = site, exc
        if failed:
            site, exc = failed
            raise KprobeError(errno.EINVAL, (
                f"the probes are on again, but the text at {self.checks.describe(site.addr)} cannot be written: {exc}"),
                Rule.ARMING) from exc

    def _new(self, p: Kprobe, place: Place) -> Site:
        """Make the site of a first probe."""
        insn = self.checks.instruction(place)
        self.copies.steppable(insn, place)
        before = self._sites.get(place.addr)
        with _written(place):
            site = self.copies.make(insn, p)
            try:
                with self._inserted(p, site, place):
                    if site.enabled and not self._off:
                        self.arming.arm(site)
            except BaseException:
                self._sites.pop(place.addr, None)
                if before is not None:
                    self._sites[place.addr] = before
                self.copies.discard(site)
                raise
        self.copies.keep(site)
        if before is not None:  # its text is gone, and its probes are with the new ones
            site.probes += before.probes
            self._of |= dict.fromkeys(before.probes, site)
            before.probes.clear()
        return site

    def _join(self, p: Kprobe, site: Site, place: Place) -> None:
        """Add a probe to those that are there (register_aggr_kprobe)."""
        other = next((q.jprobe for q in site.probes if q.jprobe is not None), None)
        if p.jprobe is not None and other is not None:
            raise KprobeError(errno.EEXIST, (
                f"{self.checks.describe(site.addr)} already has a jprobe ({other.entry_name}), and a call has one detour; "
                "unregister it first, or call both handlers from one"), Rule.AGGREGATE)
        with _written(place), self._inserted(p, site, place):
            if site.enabled and not site.armed and not self._off:
                self.arming.arm(site)

    @contextmanager
    def _inserted(self, p: Kprobe, site: Site, place: Place) -> Iterator[None]:
        """Put a probe into the table, as it will be hit: other cpus run while it is armed. On failure all is as before.

        Newest first; but a jprobe is last, since it takes the guest away with it.
        """
        before, misses = {name: getattr(p, name) for name in _OURS}, dict(p.misses)
        p.offset = 0 if p.symbol_name is None else p.offset  # folded into addr, so that it can be registered again
        p.addr, p.opcode = place.addr, site.opcode
        p.flags = p.flags & KprobeFlag.DISABLED | (KprobeFlag.ON_FUNC_ENTRY if place.on_entry else 0) | (
            KprobeFlag.FTRACE if site.fentry else 0)
        p.nmissed = p.hits = 0
        p.misses.clear()
        site.probes.insert(len(site.probes) if p.jprobe is not None else 0, p)
        if p.post_handler is not None:
            site.posts.add(p)
        self._of[p] = site
        self._sites[site.addr] = site
        try:
            yield
        except BaseException:
            site.probes.remove(p)
            site.posts.discard(p)
            del self._of[p]
            for name, value in before.items():
                setattr(p, name, value)
            p.misses.clear()
            p.misses.update(misses)
            raise

    def _retire(self, site: Site) -> Departure:
        """Take a site without probes out of the table; what it occupies is freed when no cpu is inside."""
        if self._sites.get(site.addr) is site:
            del self._sites[site.addr]
        self._grace.add(site)
        return departure(site, self.optimizer.drop(site))

    def _registered(self, p: Kprobe, what: str) -> Site:
        site = self.site_of(p)
        if site is None:
            raise KprobeError(errno.EINVAL, f"the probe on {p.name} is not registered, so it cannot be {what}")
        return site


@contextmanager
def _written(place: Place) -> Iterator[None]:
    try:
        yield
    except GuestMemoryError as exc:
        raise KprobeError(
            errno.EINVAL, f"the guest's text at {place.addr:#x} cannot be written: {exc}", Rule.ARMING) from exc
