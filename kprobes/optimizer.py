"""The life of optimised probes: when a jump replaces a breakpoint, and when it goes again.

    IDLE     --nothing in the way-->  QUEUED   --delay over, no cpu inside the region-->  WRITTEN
    QUEUED   --something in the way-->  IDLE
    WRITTEN  --forced-->  IDLE, at once: the breakpoint is back, or the original instruction
    WRITTEN  --disabled, unregistered-->  LEAVING  --delay over-->  IDLE
    LEAVING  --enabled or registered again-->  WRITTEN

``OPTIMIZED`` is in a probe's flags in all states but IDLE, as the kernel has it: before the jump is there, and until it is
gone. In the way are: a post_handler or a jprobe at the address, another armed probe inside the region, the global switches.

The worker has no thread of its own: the machine calls ``work`` when its clock has reached ``deadline``.

Source: kernel/kprobes.c (optimize_kprobe, unoptimize_kprobe, kprobe_optimizer). Different from it: when a jump inside the
region of another probe has left after its delay, that other probe is queued again, too.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from kprobes.detour import jump
from kprobes.detours import Detours
from kprobes.errors import KprobeError
from kprobes.grace import GracePeriod
from kprobes.insn import BREAKPOINT
from kprobes.options import Options
from kprobes.port import Guest, GuestMemoryError, Symbol
from kprobes.probes import KprobeFlag
from kprobes.region import JUMP_SIZE, MAX_REGION, Jump, JumpState, Obstacle, Region, Regions
from kprobes.step import NO_SLOT, Site
from kprobes.text import Text
from kprobes.textpoke import Poke, TextPoke

_INT3 = bytes([BREAKPOINT])

#: What could not be done because of a cpu is tried again after this part of the delay.
_SOONER = 8


class Optimizer:
    """The jumps of one guest.

    ``find`` is the look-up of a site, ``grace`` has those out of the table, and ``retire`` is called for a site without probes
    once its jump is gone.
    """

    def __init__(
        self, guest: Guest, options: Options, text: Text, poke: TextPoke, regions: Regions, detours: Detours,
        find: Callable[[int], Site | None], grace: GracePeriod, retire: Callable[[Site], object],
    ):
        self._guest = guest
        self._delay = options.optimize_delay
        self._text = text
        self._poke = poke
        self._regions = regions
        self._detours = detours
        self._find = find
        self._grace = grace
        self._retire = retire
        self._queue: dict[Site, None] = {}    # QUEUED, in the order of their requests
        self._removals: dict[Site, None] = {}  # LEAVING
        self.allowed = options.optimize
        self.deadline: int | None = None

    def switch(self, sites: Iterable[Site], on: bool) -> None:
        """Take all jumps out and queue none, or queue all that may be (proc_kprobes_optimization_handler)."""
        self.allowed = on
        for site in sites:
            if on:
                self.review(site)
            else:
                self.force(site)
        self._detours.collect()
        self.relax()

    def relax(self) -> None:
        """Do not ask for time when there is nothing to do."""
        if not self._queue and not self._removals and not self._detours.retired:
            self.deadline = None

    # What the registry tells.

    def review(self, site: Site) -> None:
        """Queue a site, or take its jump out, as its probes now have it (optimize_kprobe, unoptimize_kprobe)."""
        state = site.jump.state if site.jump is not None else JumpState.IDLE
        if state is JumpState.IDLE:
            if self.allowed and self._wanted(site) and self._prepared(site):
                self._to(site, JumpState.QUEUED)
                self._queue[site] = None
                self._schedule()
        elif site.armed and not self._wanted(site):
            self.force(site)
        elif site.armed:
            self._mark(site)

    def review_before(self, addr: int) -> None:
        """A breakpoint at ``addr`` is gone: queue those that it was in the way of."""
        if self.allowed:
            for other in self._around(addr):
                if other.armed:
                    self.review(other)

    def make_way(self, addr: int) -> None:
        """A breakpoint is about to come to ``addr``: no jump may cover it (__arm_kprobe)."""
        for other in self._around(addr):
            if other.jump is not None and addr < other.jump.region.end:
                self.force(other)

    def keeps(self, site: Site) -> bool:
        """Take an armed site out of use; True when its jump stays until the worker comes, False when a breakpoint is left."""
        state = site.jump.state if site.jump is not None else JumpState.IDLE
        if state is JumpState.QUEUED:
            self.force(site)
        if state is not JumpState.WRITTEN:
            return False
        self._to(site, JumpState.LEAVING)
        self._removals[site] = None
        self._schedule()
        return True

    def rescued(self, site: Site) -> bool:
        """Whether a site that is to be armed still has its jump, which then stays (reuse_unused_kprobe)."""
        if site.jump is None or site.jump.state is not JumpState.LEAVING:
            return False
        del self._removals[site]
        self._to(site, JumpState.WRITTEN)
        return True

    def force(self, site: Site) -> None:
        """Take a jump out at once: an armed site gets its breakpoint back, any other its original instruction."""
        if site.jump is None or site.jump.state is JumpState.IDLE:
            return
        state = site.jump.state
        self._queue.pop(site, None)
        self._removals.pop(site, None)
        if state is not JumpState.QUEUED:
            self._take_out(site, site.jump)
        self._to(site, JumpState.IDLE)
        if state is JumpState.LEAVING:
            if not site.probes:
                self._retire(site)
            self.review_before(site.addr)

    def drop(self, site: Site) -> int:
        """Give the detour of a site back, which has no jump any more, and return its address or ``NO_SLOT``.

        A cpu may still be in it.
        """
        if site.jump is None:
            return NO_SLOT
        start = site.jump.start
        self._detours.retire(site.jump)
        site.jump = None
        self._schedule()
        return start

    def abandon(self, site: Site) -> None:
        """Forget the jump of a site whose text is about to vanish; nothing is written there."""
        self._queue.pop(site, None)
        self._removals.pop(site, None)
        if site.jump is not None:
            self._to(site, JumpState.IDLE)
            self.drop(site)
        site.region = None

    # The worker.

    def work(self) -> None:
        """Do what is queued (kprobe_optimizer). What a cpu is in the way of is tried again soon."""
        self.deadline = None
        for site in tuple(self._removals):
            self.force(site)
        ready = [site for site in self._queue if self._quiet(site)]
        self._write(sorted(ready, key=lambda site: site.addr))
        self._detours.collect()
        if self._queue or self._removals or self._detours.retired:
            self._schedule(self._delay // _SOONER)

    def _write(self, sites: list[Site]) -> None:
        pokes = [Poke(site.addr, jump(site.addr, site.jump.start)) for site in sites if site.jump is not None]
        try:
            if pokes:
                self._poke.write(pokes)
        except GuestMemoryError:  # some text is gone without a word; the breakpoints of the others do as well
            for site in sites:
                self.force(site)
            return
        for site in sites:
            del self._queue[site]
            self._to(site, JumpState.WRITTEN)

    def _schedule(self, delay: int | None = None) -> None:
        if self.deadline is None:
            self.deadline = self._guest.now + max(1, self._delay if delay is None else delay)

    def _take_out(self, site: Site, jump_of_it: Jump) -> None:
        """Put the breakpoint over the jump and the original bytes behind it; leave what somebody else has written."""
        armed, site.armed = site.armed, True  # whoever arrives meanwhile has hit a breakpoint of ours
        try:
            if self._guest.read(site.addr, JUMP_SIZE) != jump(site.addr, jump_of_it.start):
                raise GuestMemoryError(f"the jump at {site.addr:#x} was written over")
            self._text.write(site.addr, _INT3)
            self._text.restore(site.addr + 1, JUMP_SIZE - 1)
            if not armed:
                self._text.restore(site.addr)
        except GuestMemoryError:
            self._text.forget(site.addr, site.addr + JUMP_SIZE)
            armed = False
        site.armed = armed

    # Conditions.

    def _wanted(self, site: Site) -> bool:
        """Whether nothing that may change stands in the way of a jump (kprobe_optready and what is around it)."""
        if not site.armed or site.gone or site.fentry or site.posts or any(p.jprobe is not None for p in site.probes):
            return False
        region = self.region_of(site)
        return isinstance(region, Region) and not any(
            _occupied(self._find(at)) for at in range(site.addr + 1, region.end))

    def region_of(self, site: Site) -> Region | Obstacle:
        """Return what a jump at this site would cover, or why there can be none; found once."""
        if site.region is None:
            symbol = self._guest.symbols.containing(site.addr)
            site.region = Obstacle(errno.EINVAL, "no symbol contains it") if symbol is None else (
                self._regions.find(site.addr, symbol))
        return site.region

    def region_at(self, addr: int, symbol: Symbol) -> Region | Obstacle:
        """Return the same for an address of ``symbol``, with a site or without."""
        site = self._find(addr)
        return self.region_of(site) if site is not None else self._regions.find(addr, symbol)

    def _prepared(self, site: Site) -> bool:
        """Whether the site has a detour, now if not before; without one the reason is noted."""
        if site.jump is not None:
            return True
        region = self.region_of(site)
        assert isinstance(region, Region)
        try:
            site.jump = self._detours.make(region)
        except (KprobeError, ValueError) as exc:
            code, reason = (exc.errno, str(exc.strerror)) if isinstance(exc, KprobeError) else (errno.EINVAL, str(exc))
            site.region = Obstacle(errno.ERANGE if code == errno.EINVAL else code or errno.ENOMEM, reason)
            return False
        return True

    def _quiet(self, site: Site) -> bool:
        """Whether no cpu is in the region or will come back into it, out of a copy or a detour.

        It counts from the second instruction: what a breakpoint saves, ``addr`` + 1, is no place to go on at, unless the
        first instruction has one byte.
        """
        assert site.jump is not None
        start, end = site.addr + len(site.insn.data), site.jump.region.end
        if not self._guest.settled(start, end):
            return False
        around = [self._find(at) for at in range(site.addr + 1 - MAX_REGION, end)]
        for other in (*around, *self._grace):
            if other is None:
                continue
            if start <= other.addr + len(other.insn.data) < end and self._grace.inside(other):
                return False
            if other.jump is not None and start <= other.jump.region.end < end and not self._detours.vacant(other.jump.start):
                return False
        return not self._detours.lead_into(start, end)

    def _around(self, addr: int) -> list[Site]:
        """Return the sites before ``addr`` whose region may reach it (get_optimized_kprobe)."""
        found = (self._find(addr - back) for back in range(1, MAX_REGION))
        return [site for site in found if site is not None]

    def _to(self, site: Site, state: JumpState) -> None:
        assert site.jump is not None
        site.jump.state = state
        self._mark(site)

    @staticmethod
    def _mark(site: Site) -> None:
        flag = KprobeFlag.OPTIMIZED if site.jump is not None and site.jump.state is not JumpState.IDLE else 0
        for p in site.probes:
            p.flags = p.flags & ~KprobeFlag.OPTIMIZED | flag


def _occupied(site: Site | None) -> bool:
    return site is not None and (site.armed or site.leaving)
