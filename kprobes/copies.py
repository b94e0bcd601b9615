"""The copies of displaced instructions: how each is to be executed, and the slot that it occupies (arch_prepare_kprobe)."""

from __future__ import annotations

import errno

from kprobes.boost import boosted, why_not
from kprobes.checks import Checks, Place
from kprobes.emulate import emulator, refusal
from kprobes.errors import KprobeError, Rule
from kprobes.fentry import NOP
from kprobes.insn import Insn
from kprobes.options import Options
from kprobes.port import Guest
from kprobes.probes import Kprobe
from kprobes.slots import Slots
from kprobes.step import NO_SLOT, Site, displaced


class Copies:
    """The copies of one guest's sites, in ``slots``."""

    def __init__(self, guest: Guest, options: Options, slots: Slots, checks: Checks):
        self._guest = guest
        self._options = options
        self._checks = checks
        self._by_slot: dict[int, Site] = {}
        self.slots = slots

    def by_slot(self, slot: int) -> Site | None:
        """Return the site whose copy begins at ``slot``."""
        return self._by_slot.get(slot)

    def steppable(self, insn: Insn, place: Place) -> None:
        """Check that the instruction of a place can be executed with these options: EOPNOTSUPP, or ENOSPC without room."""
        refused = refusal(insn) if self._options.step == "int3" else None
        if refused:
            code, reason = refused
            raise KprobeError(code, (
                f"'{insn.text}' at {self._checks.describe(insn.addr)} cannot be probed with step=\"int3\": {reason}"
                f"{self._checks.shown(place, 'not probed')}"), Rule.ROOM if code == errno.ENOSPC else Rule.EMULATION)

    def at_fentry(self, insn: Insn) -> bool:
        """Whether an instruction is a function's nop for tracing, which a probe turns into a call."""
        return insn.data == NOP and self._guest.fentry(insn.addr)

    def why_not_boosted(self, insn: Insn) -> str | None:
        """Return in words why a copy of this instruction needs a step, None when it needs none."""
        return why_not(insn, self._guest.fixup(insn.addr) is not None)

    def make(self, insn: Insn, p: Kprobe) -> Site:
        """Return a new site with its copy, which ``keep`` or ``discard`` has to follow; at a nop for tracing there is none.

        Errors: those of ``Slots.allocate``, and EINVAL when the copy cannot reach what the instruction does.
        """
        if self.at_fentry(insn):
            return Site(insn.addr, insn, NO_SLOT, fentry=True)
        site = Site(insn.addr, insn, self.slots.allocate(insn.addr))
        try:
            self._fill(site, p)
        except BaseException:
            self.slots.release(site.slot)
            raise
        self._by_slot[site.slot] = site
        return site

    def _fill(self, site: Site, p: Kprobe) -> None:
        """Choose how the instruction is executed, and write its copy."""
        insn, slot = site.insn, site.slot
        copy = displaced(insn, slot)
        if self._options.step == "int3":
            site.emulate = emulator(insn)
        site.boosted = self._options.boost and p.post_handler is None and self.why_not_boosted(insn) is None
        self.slots.fill(slot, boosted(insn, slot, copy) if site.boosted else copy)

    def keep(self, site: Site) -> None:
        """Say that the registration of a new site went through."""
        if site.slot != NO_SLOT:
            self.slots.keep(site.slot)

    def discard(self, site: Site) -> None:
        """Give the slot of a site back that no cpu has ever been in."""
        if site.slot != NO_SLOT:
            del self._by_slot[site.slot]
            self.slots.release(site.slot)
            site.slot = NO_SLOT

    def vacant(self, slot: int) -> bool:
        """Whether no cpu is in a copy, or will come back into it."""
        return self._guest.settled(slot, slot + self.slots.size)

    def free(self, site: Site) -> None:
        """Give the slot of a site back whose hits are over.

        No hit tells who is in a boosted copy. As long as somebody is, the slot is not used again, and a fault that comes from
        there is known for what it is.
        """
        if site.boosted and site.slot != NO_SLOT and not self.vacant(site.slot):
            self.slots.retire(site.slot)
            site.slot = NO_SLOT
        else:
            self.discard(site)
