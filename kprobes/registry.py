"""The table of probed addresses, and the int3 bytes in the guest's text.

Order, as in the kernel: into the table, then armed; disarmed, then out of the table, then the slot is given back. So an
int3 of ours always finds its site. Every request that is refused leaves guest memory and the table as they were.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping

from kprobes.checks import Checks
from kprobes.errors import KprobeError
from kprobes.insn import BREAKPOINT
from kprobes.port import Guest, GuestMemoryError
from kprobes.probes import Kprobe, KprobeFlag
from kprobes.slots import Slots
from kprobes.step import Site, displaced

_INT3 = bytes([BREAKPOINT])


class Registry:
    """The sites of one guest. ``in_use`` tells whether a cpu is still inside a hit of a site; ``own_text`` whether an
    address lies in the runtime's text outside the slots."""

    def __init__(self, guest: Guest, in_use: Callable[[Site], bool], own_text: Callable[[int], bool]):
        self._guest = guest
        self._in_use = in_use
        self._sites: dict[int, Site] = {}
        self._leaving: list[Site] = []  # unregistered while a cpu was inside
        self.slots = Slots(guest)
        self.checks = Checks(guest, _Opcodes(self._sites), lambda addr: self.slots.owns(addr) or own_text(addr))

    def find(self, addr: int) -> Site | None:
        """Return the site at exactly this address: the look-up of every hit."""
        return self._sites.get(addr)

    def site_of(self, p: Kprobe) -> Site | None:
        """Return the site of a registered struct, None when this very struct is not registered."""
        site = self._sites.get(p.addr) if p.addr is not None else None
        return site if site is not None and site.probe is p else None

    def __iter__(self) -> Iterator[Site]:
        return iter(tuple(self._sites.values()))

    def register(self, p: Kprobe) -> Site:
        """Check, prepare, insert and arm (register_kprobe); raise ``KprobeError`` and change nothing on refusal."""
        if self.site_of(p):
            raise KprobeError(errno.EINVAL, f"this Kprobe is already registered, on {p.name}")
        addr = self.checks.resolve(p)
        symbol = self.checks.place(addr)
        if addr in self._sites:
            raise KprobeError(errno.EEXIST, (
                f"{self.checks.describe(addr)} already has a probe ({self._sites[addr].probe.name}); "
                "unregister it first, or call both handlers from one"))
        insn = self.checks.instruction(addr, symbol)
        slot = self.slots.allocate(addr)
        site = Site(addr, insn, slot, p)
        enabled = not p.flags & KprobeFlag.DISABLED
        try:
            self.slots.fill(slot, displaced(insn, slot))
            if enabled:
                self.arm(site)
        except BaseException as exc:
            self.disarm(site)
            self.slots.release(slot)
            if isinstance(exc, GuestMemoryError):
                raise KprobeError(errno.EINVAL, f"the guest's text at {addr:#x} cannot be written: {exc}") from exc
            raise
        self.slots.keep(slot)
        self._sites[addr] = site
        site.registered = True
        if p.symbol_name is None:
            p.offset = 0  # folded into addr, so that the struct can be registered again
        p.addr = addr
        p.opcode = site.opcode
        p.flags &= KprobeFlag.DISABLED
        p.nmissed = p.hits = 0
        return site

    def unregister(self, p: Kprobe) -> None:
        """Disarm, unlink, free (unregister_kprobe). A struct that is not registered loses its addr, as in Linux."""
        site = self.site_of(p)
        if site is None:
            p.addr = None
            return
        self.disarm(site)
        del self._sites[site.addr]
        site.registered = False
        self._leaving.append(site)
        self.settle()

    def settle(self) -> None:
        """Free the slots of unregistered sites that no cpu is inside any more: the kernel's grace period."""
        for site in [site for site in self._leaving if not self._in_use(site)]:
            self._leaving.remove(site)
            self.slots.release(site.slot)

    def enable(self, p: Kprobe) -> None:
        """Put the breakpoint back (enable_kprobe); EINVAL when the struct is not registered."""
        site = self._registered(p, "enabled")
        if not site.armed:
            self.arm(site)
        p.flags &= ~KprobeFlag.DISABLED

    def disable(self, p: Kprobe) -> None:
        """Take the breakpoint out and keep the registration (disable_kprobe); EINVAL when not registered."""
        site = self._registered(p, "disabled")
        self.disarm(site)
        p.flags |= KprobeFlag.DISABLED

    def arm(self, site: Site) -> None:
        """Write the int3 and make every cpu see it."""
        self._guest.write(site.addr, _INT3)
        site.armed = True
        self._guest.sync_cores()

    def disarm(self, site: Site) -> None:
        """Write the saved byte back; a byte that is no longer our int3 belongs to somebody else by now and stays."""
        if not site.armed:
            return
        site.armed = False
        try:
            if self._guest.read(site.addr, 1) == _INT3:
                self._guest.write(site.addr, bytes([site.opcode]))
        except GuestMemoryError:
            pass  # the text is gone altogether
        self._guest.sync_cores()

    def _registered(self, p: Kprobe, what: str) -> Site:
        site = self.site_of(p)
        if site is None:
            raise KprobeError(errno.EINVAL, f"the probe on {p.name} is not registered, so it cannot be {what}")
        return site


class _Opcodes(Mapping[int, int]):
    """The saved bytes of the armed sites, by address."""

    def __init__(self, sites: Mapping[int, Site]):
        self._sites = sites

    def __getitem__(self, addr: int) -> int:
        site = self._sites[addr]
        if not site.armed:
            raise KeyError(addr)
        return site.opcode

    def __iter__(self) -> Iterator[int]:
        return (addr for addr, site in self._sites.items() if site.armed)

    def __len__(self) -> int:
        return sum(site.armed for site in self._sites.values())
