"""What happens on a trap: the state machine of a hit, one control block for each cpu.

    idle   --int3 of p-->  ACTIVE  --pre_handler 0-->  SS (in the slot)  --#DB-->  SSDONE, post_handler  -->  idle
                           ACTIVE  --pre_handler not 0-->  idle
                           ACTIVE  --int3 in jprobe_return-->  SS
    SS     --fault in the slot-->  idle, with ip back at the probed address; or again SS when fault_handler says so
    ACTIVE, SS, SSDONE  --int3 of q-->  REENTER (nmissed of q counted)  --#DB or fault-->  what it was
    REENTER  --int3 of r-->  panic: only one level is saved

Sources: kprobe_handler, post_kprobe_handler, kprobe_fault_handler of arch/x86_64/kernel/kprobes.c, 2004; reenter_kprobe
of 2.6.13 and later in place of the permanent disarming.

When a handler raises, the hit is undone as ``HandlerError`` describes, on its cpu only; the exception leaves on_trap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kprobes.errors import HandlerError, KprobePanic
from kprobes.events import Observer, Phase, ProbeEvent
from kprobes.insn import BREAKPOINT
from kprobes.jprobes import Jprobes, Mirror
from kprobes.port import Guest, GuestMemoryError, Trap
from kprobes.probes import Kprobe, Status
from kprobes.ptregs import DR6_B, DR6_BS, FAULTS, MASK64, TF, TF_IF, PtRegs, Vector
from kprobes.step import Site, enter_slot, leave_slot, rewind

_INT3, _INT_3 = bytes([BREAKPOINT]), b"\xcd\x03"


@dataclass(eq=False, slots=True)
class Hit:
    """One hit under way on one cpu. ``old_flags`` are TF and IF as the int3 found them."""

    site: Site
    status: Status
    old_flags: int
    mirror: Mirror | None = None


@dataclass(eq=False, slots=True)
class ControlBlock:
    """What one cpu is doing, and the one level that it can be interrupted in (struct kprobe_ctlblk)."""

    current: Hit | None = None
    prev: Hit | None = None


class Handlers:
    """The trap side of the runtime."""

    def __init__(
        self, guest: Guest, find: Callable[[int], Site | None], jprobes: Jprobes, settle: Callable[[], None],
        observer: Observer | None,
    ):
        self._guest = guest
        self._find = find
        self._jprobes = jprobes
        self._settle = settle
        self._observer = observer
        self._blocks = [ControlBlock() for _ in range(guest.cpus)]
        self.running: list[str] = []  # names of the Python handlers that are being executed, innermost last

    def in_use(self, site: Site) -> bool:
        """Whether a cpu is inside a hit of this site."""
        return any(hit is not None and hit.site is site
                   for block in self._blocks for hit in (block.current, block.prev))

    def current(self, cpu: int) -> Kprobe | None:
        """Return the probe that this cpu is inside of (kprobe_running)."""
        hit = self._blocks[cpu].current
        return None if hit is None else hit.site.probe

    def on_trap(self, trap: Trap) -> bool:
        """Handle one trap; True when it was ours and ``trap.regs`` is where the guest continues."""
        if trap.vector == Vector.BP:
            return self._int3(trap)
        if trap.vector == Vector.DB:
            return self._debug(trap)
        return trap.vector in FAULTS and self._fault(trap)

    def _int3(self, trap: Trap) -> bool:
        regs, block = trap.regs, self._blocks[trap.cpu]
        if regs.user_mode:
            return False
        addr = (regs.ip - 1) & MASK64
        site = self._find(addr)
        if site is not None and site.armed:
            if block.current is None:
                self._hit(trap, block, site)
            else:
                self._reenter(trap, block, block.current, site)
            return True
        hit = block.current
        if (hit is not None and hit.mirror is not None and hit.status is Status.HIT_ACTIVE
                and self._jprobe_trap(trap, block, hit, hit.mirror, addr)):
            return True
        return self._vanished(regs, addr)

    def _hit(self, trap: Trap, block: ControlBlock, site: Site) -> None:
        """A first hit: the pre_handler, then into the slot (kprobe_handler)."""
        regs, p = trap.regs, site.probe
        hit = block.current = Hit(site, Status.HIT_ACTIVE, regs.flags & TF_IF)
        p.hits += 1
        self._tell(Phase.HIT, trap, site)
        if p.jprobe is not None:
            hit.mirror = self._jprobes.enter(trap.cpu, p.jprobe, regs)
            self._tell(Phase.JPROBE_ENTRY, trap, site)
            return
        if p.pre_handler is not None:
            handler, before = p.pre_handler, regs.copy()
            before.ip = site.addr
            result = self._run(trap, block, site, "pre_handler", before, lambda: handler(p, regs))
            self._tell(Phase.PRE, trap, site, result)
            if result:
                self._finish(trap, block, site)
                return
        self._step(trap, hit)

    def _reenter(self, trap: Trap, block: ControlBlock, outer: Hit, site: Site) -> None:
        """A hit inside a hit: counted, executed, not handled (reenter_kprobe)."""
        regs = trap.regs
        if outer.status is Status.REENTER:
            regs.ip = site.addr
            self._reset(block)
            raise KprobePanic(
                f"the probe on {site.probe.name} was hit on cpu {trap.cpu} while the probe on {outer.site.probe.name}, "
                "itself hit inside another one, was being stepped; only one level of nesting can be resumed. Do not "
                "probe what runs in an NMI or a fault handler during a step")
        site.probe.nmissed += 1
        block.prev = outer
        hit = block.current = Hit(site, Status.REENTER, regs.flags & TF_IF)
        self._tell(Phase.MISS, trap, site)
        self._step(trap, hit)

    def _step(self, trap: Trap, hit: Hit) -> None:
        if hit.status is not Status.REENTER:
            hit.status = Status.HIT_SS
        enter_slot(hit.site, trap.regs)
        self._tell(Phase.STEP, trap, hit.site)

    def _jprobe_trap(self, trap: Trap, block: ControlBlock, hit: Hit, mirror: Mirror, addr: int) -> bool:
        """An int3 inside a jprobe's handler; True when it is one of its stations."""
        regs, jprobes, p = trap.regs, self._jprobes, hit.site.probe
        if jprobes.is_entry(mirror, addr):
            before = mirror.regs.copy()
            before.ip = hit.site.addr
            self._run(trap, block, hit.site, "jprobe handler", before, lambda: jprobes.call(mirror))
            regs.ip = (addr + 1) & MASK64
            return True
        if jprobes.is_return(mirror, addr):
            try:
                jprobes.leave(trap.cpu, mirror, regs)
            except KprobePanic:
                regs.ip = hit.site.addr
                self._reset(block)
                raise
            hit.mirror = None
            self._tell(Phase.JPROBE_RETURN, trap, hit.site)
            self._step(trap, hit)
            return True
        if jprobes.is_missed_return(addr):
            jprobes.restore(mirror, regs)
            regs.ip = hit.site.addr
            self._reset(block)
            raise KprobePanic(
                f"the handler {mirror.jprobe.entry_name} of the jprobe on {p.name} returned without calling "
                "jprobe_return; the probed function would have been skipped. End the handler with jprobe_return()")
        return False

    def _vanished(self, regs: PtRegs, addr: int) -> bool:
        """An int3 that is no longer there was taken out while the trap was under way: run what is there now.

        The two-byte ``int 3`` (CD 03), which also raises vector 3, is not such a case.
        """
        try:
            code = self._guest.read(addr - 1, 2) if addr else b""
        except GuestMemoryError:
            try:
                code = b"\0" + self._guest.read(addr, 1)
            except GuestMemoryError:
                return False
        if code[1:] == _INT3 or (code == _INT_3 and self._find(addr) is None):
            return False
        regs.ip = addr
        return True

    def _debug(self, trap: Trap) -> bool:
        """The end of a step (post_kprobe_handler); anything else that raises #DB is not ours."""
        regs, block = trap.regs, self._blocks[trap.cpu]
        hit = block.current
        if hit is None or hit.status not in (Status.HIT_SS, Status.REENTER):
            return False
        site = hit.site
        if trap.dr6 is not None and not trap.dr6 & DR6_BS:
            return False
        if not site.insn.may_end_at(regs.ip - site.slot):
            return False
        leave_slot(site, regs, hit.old_flags, self._guest)
        others = trap.dr6 is not None and bool(trap.dr6 & DR6_B)
        stepped_by_others = bool(hit.old_flags & TF)
        if trap.dr6 is not None and not stepped_by_others:
            trap.dr6 &= ~DR6_BS
        if hit.status is Status.HIT_SS:
            hit.status = Status.HIT_SSDONE
            p, handler = site.probe, site.probe.post_handler
            if handler is not None and site.registered:
                self._run(trap, block, site, "post_handler", regs.copy(), lambda: handler(p, regs, 0))
                self._tell(Phase.POST, trap, site)
        self._finish(trap, block, site)
        return not (others or stepped_by_others)

    def _fault(self, trap: Trap) -> bool:
        """A fault of the stepped copy, or of guest code that a handler runs (kprobe_fault_handler)."""
        regs, block = trap.regs, self._blocks[trap.cpu]
        hit = block.current
        if hit is None or regs.user_mode:
            return False
        site = hit.site
        if hit.status in (Status.HIT_ACTIVE, Status.HIT_SSDONE):
            return self._ask_fault_handler(trap, block, site) == 1
        if regs.ip != site.slot:
            return False  # in an interrupt handler that came between
        rewind(site, regs, hit.old_flags)
        handled = hit.status is Status.HIT_SS and self._ask_fault_handler(trap, block, site) == 1
        if hit.status is Status.REENTER or site.probe.fault_handler is None:
            self._tell(Phase.FAULT, trap, site)
        if handled and regs.ip == site.addr:
            self._step(trap, hit)
            return True
        self._finish(trap, block, site)
        return handled

    def _ask_fault_handler(self, trap: Trap, block: ControlBlock, site: Site) -> int | None:
        """Return 1 when the user's fault_handler says that it has handled this, 0 when not, None without one."""
        p, handler, regs = site.probe, site.probe.fault_handler, trap.regs
        if handler is None or not site.registered:
            return None
        result = self._run(
            trap, block, site, "fault_handler", regs.copy(), lambda: handler(p, regs, trap.vector))
        self._tell(Phase.FAULT, trap, site, result)
        return int(bool(result))

    def _run(
        self, trap: Trap, block: ControlBlock, site: Site, role: str, undo: PtRegs, call: Callable[[], object],
    ) -> int:
        """Run a Python handler and return its result, 0 for None.

        A ``GuestMemoryError`` of it is a page fault in the handler: fault_handler is asked, and may have it ignored.
        For any other exception the hit ends, the registers become ``undo``, and it leaves as ``HandlerError``.
        """
        name = f"the {role} of {site.probe.name}"
        self.running.append(name)
        try:
            try:
                result = call()
            except GuestMemoryError:
                if role == "fault_handler" or not self._pardoned(trap, site):
                    raise
                result = None
            if role in ("pre_handler", "fault_handler") and not isinstance(result, int | None):
                raise TypeError(f"its result is {result!r}; it must be an int, a bool or None")
            return result if isinstance(result, int) else 0
        except BaseException as exc:
            trap.regs.assign(undo)
            self._reset(block)
            if isinstance(exc, Exception) and not isinstance(exc, KprobePanic | HandlerError):
                raise HandlerError(site.probe.name, role, f"{type(exc).__name__}: {exc}") from exc
            raise
        finally:
            self.running.pop()

    def _pardoned(self, trap: Trap, site: Site) -> bool:
        handler = site.probe.fault_handler
        result = handler(site.probe, trap.regs, int(Vector.PF)) if handler is not None else None
        if handler is not None:
            self._tell(Phase.FAULT, trap, site, int(bool(result)))
        return bool(result)

    def _finish(self, trap: Trap, block: ControlBlock, site: Site) -> None:
        """End the current hit and go back to the one that it interrupted, if any."""
        block.current, block.prev = block.prev, None
        self._tell(Phase.RESUME, trap, site)
        self._settle()

    def _reset(self, block: ControlBlock) -> None:
        block.current = block.prev = None
        self._settle()

    def _tell(self, kind: Phase, trap: Trap, site: Site, result: int | None = None) -> None:
        if self._observer is not None:
            self._observer(ProbeEvent(kind, trap.cpu, site.probe, site.addr, trap.regs.ip, result))
