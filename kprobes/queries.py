"""What a runtime tells about its probes: nothing here changes anything."""

from __future__ import annotations

import errno
from itertools import islice

from kprobes.blacklist import Blacklist
from kprobes.control import Control
from kprobes.errors import KprobeError
from kprobes.explain import Explainer, Explanation
from kprobes.jprobes import Jprobes, kprobe_of
from kprobes.options import Options
from kprobes.port import Guest
from kprobes.probes import Jprobe, Kprobe, Kretprobe, Status
from kprobes.ptregs import PtRegs
from kprobes.region import Obstacle, Region
from kprobes.registry import Registry
from kprobes.retprobes import Retprobes
from kprobes.unwind import Unwinder


class Queries:
    """The questions of ``Kprobes``, over the parts of one runtime."""

    def __init__(
        self, guest: Guest, options: Options, registry: Registry, jprobes: Jprobes, retprobes: Retprobes, control: Control,
    ):
        self._registry = registry
        self._jprobes = jprobes
        self._retprobes = retprobes
        self._control = control
        self._explainer = Explainer(registry, options)
        self._unwinder = Unwinder(guest, registry.text.recovered, retprobes.find_ret_addr)

    def kprobe_on_func_entry(self, symbol_name: str | None = None, addr: int | None = None, offset: int = 0) -> None:
        """Raise EINVAL when this is not where the callers of a function arrive, ENOENT when there is no such symbol."""
        self._retprobes.on_func_entry(symbol_name, addr, offset)

    def in_flight(self, rp: Kretprobe) -> int:
        """Return how many calls of the function are hooked at the moment."""
        return self._retprobes.in_flight(rp)

    def kretprobe_find_ret_addr(self, fp: int) -> int | None:
        """Return the real return address whose stack slot is at ``fp``, None when no kretprobe has replaced it."""
        return self._retprobes.find_ret_addr(fp)

    @property
    def kretprobe_trampoline(self) -> int | None:
        """The address that stands in the return slots of hooked calls; None before the first kretprobe is registered."""
        return self._retprobes.trampoline

    def stack_trace(self, regs: PtRegs, limit: int = 64) -> list[int]:
        """Return ``regs.ip`` and the return addresses from the innermost out, with those that kretprobes have replaced.

        In a pre_handler the first is the probed address. The guest has to be compiled with frame pointers.
        """
        hit = self._control.blocks[self._control.cpu].current
        at_hit = hit is not None and hit.status is Status.HIT_ACTIVE and regs.ip == hit.site.addr + 1
        return list(islice(self._unwinder.walk(regs.ip - at_hit, regs.sp, regs.bp), limit))

    @property
    def cpu(self) -> int:
        """The cpu whose trap is being handled, for handlers (smp_processor_id)."""
        return self._control.cpu

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """Return the newest probe at exactly this address, or None."""
        site = self._registry.find(addr)
        return None if site is None else next(iter(site.probes), None)

    def kprobe_running(self, cpu: int) -> Kprobe | None:
        """Return the probe that this cpu is inside of: in a handler, a jprobe's guest handler, or its slot."""
        return self._control.current(cpu)

    @property
    def registered(self) -> tuple[Kprobe, ...]:
        """All registered probes, those of jprobes included, by address, and at one address the newest first."""
        return tuple(p for site in sorted(self._registry, key=lambda site: site.addr) for p in site.probes)

    @property
    def blacklist(self) -> Blacklist:
        """What must not be probed; ``add_symbol`` and ``add_area`` forbid more."""
        return self._registry.blacklist

    @property
    def jprobe_return(self) -> int:
        """The guest address where a jprobe's guest handler ends: the guest's symbol, or code of the runtime.

        Without the symbol it exists once a jprobe is registered; ENOENT before.
        """
        start, end = self._jprobes.return_range()
        if start == end:
            raise KprobeError(errno.ENOENT, (
                "the guest has no symbol 'jprobe_return'; the runtime's own exists once a jprobe is registered"))
        return start

    def slot_of(self, p: Kprobe | Jprobe) -> int:
        """Return the address of the out-of-line copy of a registered probe; EINVAL when it is not registered."""
        site = self._registry.site_of(kprobe_of(p))
        if site is None:
            raise KprobeError(errno.EINVAL, f"the probe on {kprobe_of(p).name} is not registered, so it has no slot")
        if site.fentry:
            raise KprobeError(errno.EINVAL, f"the probe on {kprobe_of(p).name} is called at the function's entry: no slot")
        return site.slot

    def is_kprobe_insn_slot(self, addr: int) -> bool:
        """Whether ``addr`` lies in a page of out-of-line copies."""
        return self._registry.copies.slots.owns(addr)

    def is_kprobe_optinsn_slot(self, addr: int) -> bool:
        """Whether ``addr`` lies in a page of detours of optimised probes."""
        return self._registry.detours.owns(addr)

    def region_of(self, p: Kprobe | Jprobe) -> Region | Obstacle:
        """Return the code that a jump at a registered probe covers or would cover, or why there can be none.

        What may change, such as a post_handler, is not looked at. EINVAL when the probe is not registered.
        """
        site = self._registry.site_of(kprobe_of(p))
        if site is None:
            raise KprobeError(errno.EINVAL, f"the probe on {kprobe_of(p).name} is not registered, so it has no region")
        return self._registry.optimizer.region_of(site)

    def explain(
        self, symbol_name: str | None = None, addr: int | None = None, offset: int = 0, *, post: bool = False,
    ) -> Explanation:
        """Say whether and how a probe there would be executed, and why not faster; ``post``: with a post_handler."""
        return self._explainer.explain(symbol_name, addr, offset, post=post)

    def describe(self, addr: int) -> str:
        """Return ``symbol+0xoffset`` of a guest address, or the address when no symbol contains it."""
        return self._registry.checks.describe(addr)
