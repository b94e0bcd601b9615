"""What each cpu is doing, and the running of Python handlers in it: what all kinds of traps have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kprobes.errors import GuestCallError, HandlerError, KprobePanic
from kprobes.events import Observer, Phase, ProbeEvent
from kprobes.jprobes import Mirror
from kprobes.port import Guest, GuestMemoryError, Trap
from kprobes.probes import Kprobe, Miss, Status
from kprobes.ptregs import PtRegs, Vector
from kprobes.step import NO_SLOT, Site


@dataclass(eq=False, slots=True)
class Hit:
    """One hit under way on one cpu. ``old_flags`` are TF and IF as the int3 found them; ``child`` is the probe whose
    handler runs; ``single`` tells that the slot is stepped by TF rather than up to the int3 behind the copy. ``at`` is
    where the instruction is executed, the slot or its own place."""

    site: Site
    status: Status
    old_flags: int
    mirror: Mirror | None = None
    child: Kprobe | None = None
    single: bool = True
    at: int = NO_SLOT


@dataclass(eq=False, slots=True)
class ControlBlock:
    """What one cpu is doing, and the one level that it can be interrupted in (struct kprobe_ctlblk). ``busy`` counts
    the sections that no handler may run in (kprobe_busy_begin)."""

    current: Hit | None = None
    prev: Hit | None = None
    busy: int = 0


class Control:
    """The control blocks of all cpus. ``settle`` is called whenever a hit has ended."""

    def __init__(self, guest: Guest, settle: Callable[[], None], observer: Observer | None):
        self._guest = guest
        self._settle = settle
        self._observer = observer
        self.cpu = 0  # whose trap is being handled (smp_processor_id)
        self.blocks = [ControlBlock() for _ in range(guest.cpus)]
        self.running: list[str] = []  # names of the Python handlers that are being executed, innermost last

    def in_use(self, site: Site) -> bool:
        """Whether a cpu is inside a hit of this site."""
        return any(hit is not None and hit.site is site
                   for block in self.blocks for hit in (block.current, block.prev))

    def current(self, cpu: int) -> Kprobe | None:
        """Return the probe that this cpu is inside of (kprobe_running); of several at one address, the one whose handler
        runs, else the newest."""
        hit = self.blocks[cpu].current
        if hit is None:
            return None
        return hit.child or next(iter(hit.site.probes), None)

    def run(
        self, trap: Trap, block: ControlBlock, hit: Hit, p: Kprobe, role: str, undo: PtRegs, call: Callable[[], object],
    ) -> int:
        """Run a Python handler and return its result, 0 for None.

        A ``GuestMemoryError`` of it is a page fault in the handler: fault_handler is asked, and may have it ignored.
        For any other exception the hit ends, the registers become ``undo``, and it leaves as ``HandlerError``.
        """
        outer, hit.child = hit.child, p
        regs = trap.regs
        caller, regs.caller = regs.caller, lambda function, args: self._call(trap.cpu, function, args)
        self.running.append(f"the {role} of {p.name}")
        try:
            try:
                result = call()
            except GuestMemoryError:
                if role == "fault_handler" or not self._pardoned(trap, hit, p):
                    raise
                result = None
            if role in ("pre_handler", "fault_handler") and not isinstance(result, int | None):
                raise TypeError(f"its result is {result!r}; it must be an int, a bool or None")
            return result if isinstance(result, int) else 0
        except BaseException as exc:
            trap.regs.assign(undo)
            if hit.status is not Status.HIT_SSDONE and undo.ip == hit.site.addr:
                unhook(hit.site, undo.sp)
            self.reset(block)
            if isinstance(exc, Exception) and not isinstance(exc, KprobePanic | HandlerError):
                raise HandlerError(p.name, role, f"{type(exc).__name__}: {exc}") from exc
            raise
        finally:
            hit.child, regs.caller = outer, caller
            self.running.pop()

    def _call(self, cpu: int, function: str | int, args: tuple[int, ...]) -> int:
        """Run a guest function for a handler (``PtRegs.call``). Hits that it began and did not end are forgotten."""
        addr = self._guest.symbols.lookup(function) if isinstance(function, str) else function
        if addr is None:
            raise GuestCallError(f"there is no symbol {function!r} in the guest to call")
        block = self.blocks[cpu]
        kept = block.current, block.prev
        try:
            return self._guest.call(cpu, addr, args)
        except BaseException:
            block.current, block.prev = kept
            raise

    def _pardoned(self, trap: Trap, hit: Hit, p: Kprobe) -> bool:
        """Whether the fault_handler lets its handler's page fault pass."""
        handler = p.fault_handler
        self.count_fault(trap, hit)
        result = handler(p, trap.regs, int(Vector.PF)) if handler is not None else None
        if handler is not None:
            self.tell(Phase.FAULT, trap, hit.site, p, int(bool(result)))
        return bool(result)

    def finish(self, trap: Trap, block: ControlBlock, site: Site) -> None:
        """End the current hit and go back to the one that it interrupted, if any."""
        block.current, block.prev = block.prev, None
        self.tell(Phase.RESUME, trap, site)
        self._settle()

    def reset(self, block: ControlBlock) -> None:
        """Drop every hit of a cpu."""
        block.current = block.prev = None
        self._settle()

    def miss(self, trap: Trap, site: Site, p: Kprobe, reason: Miss) -> None:
        """Note that the handlers of a probe do not run, and why."""
        p.misses[reason] += 1
        self.tell(Phase.MISS, trap, site, p, reason=reason)

    def count_fault(self, trap: Trap, hit: Hit) -> None:
        """Count a fault in a handler of a hit (kprobes_inc_nmissed_count in kprobe_fault_handler, to 5.13)."""
        for p in [hit.child] if hit.child is not None else hit.site.probes:
            p.nmissed += 1
            self.miss(trap, hit.site, p, Miss.FAULT)

    def tell(
        self, kind: Phase, trap: Trap, site: Site, p: Kprobe | None = None, result: int | None = None,
        reason: Miss | None = None,
    ) -> None:
        """Tell the observer of a phase; without ``p`` it is that of the newest probe at the site."""
        if self._observer is not None:
            p = p or next(iter(site.probes), None)
            self.emit(ProbeEvent(kind, trap.cpu, p, site.addr, trap.regs.ip, result, reason))

    def emit(self, event: ProbeEvent) -> None:
        """Give an event to whoever watches."""
        if self._observer is not None:
            self._observer(event)


def unhook(site: Site, sp: int) -> None:
    """A hit at a function's entry is undone and will happen again: take back what its kretprobes did to the call."""
    for p in reversed(site.probes):
        if p.retprobe is not None and p.retprobe.unhook is not None:
            p.retprobe.unhook(sp)
