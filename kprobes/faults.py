"""Faults inside a hit: of the displaced copy, of guest code that a handler runs (kprobe_fault_handler)."""

from __future__ import annotations

from collections.abc import Callable

from kprobes.control import Control, ControlBlock, Hit, unhook
from kprobes.events import Phase
from kprobes.port import Trap
from kprobes.probes import Status
from kprobes.registry import Registry
from kprobes.step import rewind


class Faults:
    """What becomes of a fault. ``execute`` lets the displaced instruction of a hit be executed again."""

    def __init__(
        self, registry: Registry, control: Control, execute: Callable[[Trap, ControlBlock, Hit], None],
    ):
        self._registry = registry
        self._control = control
        self._execute = execute

    def on_fault(self, trap: Trap) -> bool:
        """A fault of the displaced copy, or of guest code that a handler runs (kprobe_fault_handler)."""
        regs, block = trap.regs, self._control.blocks[trap.cpu]
        hit = block.current
        if regs.user_mode:
            return False
        if hit is None or regs.ip != hit.site.slot:
            site = self._registry.copies.by_slot(regs.ip)
            if site is not None and site.boosted:  # no hit tells of it, and the guest's handling has to see the original
                regs.ip = site.addr
                unhook(site, regs.sp)
                self._control.tell(Phase.FAULT, trap, site)
                return False
        if hit is None:
            return False
        site = hit.site
        if hit.status in (Status.HIT_ACTIVE, Status.HIT_SSDONE):
            self._control.count_fault(trap, hit)
            return self._ask_fault_handlers(trap, block, hit) == 1
        if regs.ip != hit.at:
            return False  # in an interrupt handler that came between
        rewind(site, regs, hit.old_flags)
        result = None if hit.status is Status.REENTER else self._ask_fault_handlers(trap, block, hit)
        if result is None:
            self._control.tell(Phase.FAULT, trap, site)
        if result == 1 and regs.ip == site.addr:
            self._execute(trap, block, hit)
            return True
        if hit.status is not Status.REENTER and regs.ip == site.addr:
            unhook(site, regs.sp)
        self._control.finish(trap, block, site)
        return result == 1

    def _ask_fault_handlers(self, trap: Trap, block: ControlBlock, hit: Hit) -> int | None:
        """Return 1 when a fault_handler says that it has handled this, 0 when none does, None when there is none.

        The probe whose handler runs is asked; without one, all at the address, the newest first.
        """
        regs, answer = trap.regs, None
        for p in [hit.child] if hit.child is not None else tuple(hit.site.probes):
            handler = p.fault_handler
            if handler is None or p.disabled or p not in hit.site.probes:
                continue
            result = self._control.run(
                trap, block, hit, p, "fault_handler", regs.copy(), lambda h=handler, p=p: h(p, regs, trap.vector))
            self._control.tell(Phase.FAULT, trap, hit.site, p, result)
            answer = int(bool(result))
            if answer:
                break
        return answer
