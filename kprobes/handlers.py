"""What happens on a trap: the state machine of a hit, one control block for each cpu.

    idle   --int3 of p-->  ACTIVE  --pre_handler not 0-->  idle
                           ACTIVE  --pre_handler 0-->      one of
                               boosted                     idle; the guest is in the slot, which jumps back
                               emulated                    SSDONE, post_handler  -->  idle
                               SS (in the slot)  --#DB, or the int3 behind the copy-->  SSDONE, post_handler  -->  idle
                           ACTIVE  --int3 in jprobe_return-->  the same
    SS     --fault in the slot-->  idle, with ip back at the probed address; or again SS when fault_handler says so
    ACTIVE, SS, SSDONE  --int3 of q-->  REENTER (nmissed of q counted)  --the same ends-->  what it was
    REENTER  --int3 of r-->  panic: only one level is saved

Sources: kprobe_handler, post_kprobe_handler, kprobe_fault_handler of arch/x86_64/kernel/kprobes.c, 2004; reenter_kprobe
of 2.6.13 and later in place of the permanent disarming; setup_singlestep and kprobe_int3_handler of 5.13 and later.

When a handler raises, the hit is undone as ``HandlerError`` describes, on its cpu only; the exception leaves on_trap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kprobes.control import Control, ControlBlock, Hit
from kprobes.errors import KprobePanic
from kprobes.events import Observer, Phase, ProbeEvent
from kprobes.execution import Execution
from kprobes.faults import Faults
from kprobes.insn import BREAKPOINT
from kprobes.jprobes import Jprobes, Mirror
from kprobes.options import Options
from kprobes.port import Door, Guest, GuestMemoryError, Trap
from kprobes.probes import Kprobe, Miss, Status
from kprobes.ptregs import FAULTS, MASK64, TF_IF, PtRegs, Vector
from kprobes.registry import Registry
from kprobes.step import Site

_INT3, _INT_3 = bytes([BREAKPOINT]), b"\xcd\x03"


class Handlers:
    """The trap side of the runtime."""

    def __init__(
        self, guest: Guest, registry: Registry, jprobes: Jprobes, options: Options, observer: Observer | None,
    ):
        self._guest = guest
        self._find = registry.find
        self._poke = registry.poke
        self._fentry = registry.fentry
        self._jprobes = jprobes
        self.control = Control(guest, registry.settle, observer)
        self._execution = Execution(guest, registry, options, self.control)
        self._faults = Faults(registry, self.control, self._execution.execute)

    def on_trap(self, trap: Trap) -> bool:
        """Handle one trap; True when it was ours and ``trap.regs`` is where the guest continues."""
        if trap.vector == Vector.BP:
            return self._poke.on_trap(trap.regs) or self._int3(trap)
        if trap.vector == Vector.DB:
            return self._execution.on_debug(trap)
        if trap.vector == Door.DETOUR:
            return self._detour(trap)
        if trap.vector == Door.FENTRY:
            return self._entry(trap)
        return trap.vector in FAULTS and self._faults.on_fault(trap)

    def _int3(self, trap: Trap) -> bool:
        regs, block = trap.regs, self.control.blocks[trap.cpu]
        if regs.user_mode:
            return False
        addr = (regs.ip - 1) & MASK64
        site = self._find(addr)
        if site is not None and site.armed:
            if block.current is None and not block.busy:
                self._hit(trap, block, site)
            else:
                self._reenter(trap, block, site)
            return True
        hit = block.current
        if hit is not None:
            if (hit.mirror is not None and hit.status is Status.HIT_ACTIVE
                    and self._jprobe_trap(trap, block, hit, hit.mirror, addr)):
                return True
            if self._execution.ends_at_int3(trap, block, hit, addr):
                return True
        return self._vanished(trap, addr)

    def _hit(self, trap: Trap, block: ControlBlock, site: Site) -> None:
        """A first hit: the pre_handlers, then the instruction (kprobe_handler, aggr_pre_handler).

        While a jump that no probe wants any more is taken out, a breakpoint is there that nobody has asked for.
        """
        regs = trap.regs
        hit = block.current = Hit(site, Status.HIT_ACTIVE, regs.flags & TF_IF)
        if not site.enabled:
            self._execution.execute(trap, block, hit)
            return
        self.control.tell(Phase.HIT, trap, site)
        for p in self._counted(trap, site):
            if p.jprobe is not None:
                hit.mirror = self._jprobes.enter(trap.cpu, p.jprobe, regs)
                self.control.tell(Phase.JPROBE_ENTRY, trap, site, p)
                return
            if p.pre_handler is None:
                continue
            result = self._pre_handler(trap, block, hit, p, p.pre_handler)
            if result:
                self.control.finish(trap, block, site)
                return
        self._execution.execute(trap, block, hit)

    def _detour(self, trap: Trap) -> bool:
        """A hit by a jump: the pre_handlers, without a trap, and whatever they return (optimized_callback)."""
        regs, block = trap.regs, self.control.blocks[trap.cpu]
        addr = (regs.ip - 1) & MASK64
        site = self._find(addr)
        if site is None or site.jump is None or not site.enabled:
            self.control.emit(ProbeEvent(Phase.DETOUR, trap.cpu, None, addr, regs.ip))
            return True
        if block.current is not None or block.busy:
            self._count_miss(trap, site)
            return True
        hit = block.current = Hit(site, Status.HIT_ACTIVE, regs.flags & TF_IF)
        self.control.tell(Phase.HIT, trap, site)
        for p in self._counted(trap, site):
            if p.pre_handler is not None:
                self._pre_handler(trap, block, hit, p, p.pre_handler)
        self._execution.leave_by_detour(trap, block, site, site.jump)
        return True

    def _entry(self, trap: Trap) -> bool:
        """A hit by the call at a function's entry (kprobe_ftrace_handler)."""
        regs, block, addr = trap.regs, self.control.blocks[trap.cpu], self._fentry.origin(trap.regs)
        site = self._find(addr)
        if site is None or not site.fentry or not site.enabled:
            return True
        if block.current is not None or block.busy:
            self._count_miss(trap, site)
            return True
        regs.ip = (addr + 1) & MASK64
        self._hit(trap, block, site)
        self._fentry.redirect(regs)
        return True

    def _counted(self, trap: Trap, site: Site) -> Iterator[Kprobe]:
        """Yield the probes that a hit is for, each counted when its turn comes; one that is disabled misses the hit."""
        for p in tuple(site.probes):
            if p.disabled:
                self.control.miss(trap, site, p, Miss.DISABLED)
            else:
                p.hits += 1
                yield p

    def _pre_handler(
        self, trap: Trap, block: ControlBlock, hit: Hit, p: Kprobe, handler: Callable[[Kprobe, PtRegs], int | None],
    ) -> int:
        regs = trap.regs
        before = regs.copy()
        before.ip = hit.site.addr
        role = "pre_handler" if p.retprobe is None else "entry_handler"
        result = self.control.run(trap, block, hit, p, role, before, lambda: handler(p, regs))
        self.control.tell(Phase.PRE, trap, hit.site, p, result)
        return result

    def _reenter(self, trap: Trap, block: ControlBlock, site: Site) -> None:
        """A hit inside a hit: counted, executed, not handled (reenter_kprobe)."""
        regs, outer = trap.regs, block.current
        if outer is not None and outer.status is Status.REENTER:
            regs.ip = site.addr
            self.control.reset(block)
            raise KprobePanic(
                f"the probe on {_name(site)} was hit on cpu {trap.cpu} while the probe on {_name(outer.site)}, "
                "itself hit inside another one, was being stepped; only one level of nesting can be resumed. Do not "
                "probe what runs in an NMI or a fault handler during a step")
        self._count_miss(trap, site)
        block.prev = outer
        hit = block.current = Hit(site, Status.REENTER, regs.flags & TF_IF)
        self._execution.execute(trap, block, hit)

    def _count_miss(self, trap: Trap, site: Site) -> None:
        for p in site.probes:
            p.nmissed += 1
            self.control.miss(trap, site, p, Miss.REENTRANT)

    def _jprobe_trap(self, trap: Trap, block: ControlBlock, hit: Hit, mirror: Mirror, addr: int) -> bool:
        """An int3 inside a jprobe's handler; True when it is one of its stations."""
        regs, jprobes, p = trap.regs, self._jprobes, mirror.jprobe.kp
        if jprobes.is_entry(mirror, addr):
            before = mirror.regs.copy()
            before.ip = hit.site.addr
            self.control.run(trap, block, hit, p, "jprobe handler", before, lambda: jprobes.call(mirror))
            regs.ip = (addr + 1) & MASK64
            return True
        if jprobes.is_return(mirror, addr):
            try:
                jprobes.leave(trap.cpu, mirror, regs)
            except KprobePanic:
                regs.ip = hit.site.addr
                self.control.reset(block)
                raise
            hit.mirror = None
            self.control.tell(Phase.JPROBE_RETURN, trap, hit.site, p)
            self._execution.execute(trap, block, hit)
            return True
        if jprobes.is_missed_return(addr):
            jprobes.restore(mirror, regs)
            regs.ip = hit.site.addr
            self.control.reset(block)
            raise KprobePanic(
                f"the handler {mirror.jprobe.entry_name} of the jprobe on {p.name} returned without calling "
                "jprobe_return; the probed function would have been skipped. End the handler with jprobe_return()")
        return False

    def _vanished(self, trap: Trap, addr: int) -> bool:
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
        trap.regs.ip = addr
        self.control.emit(ProbeEvent(Phase.MISS, trap.cpu, None, addr, addr, reason=Miss.REMOVED))
        return True


def _name(site: Site) -> str:
    return site.probes[0].name if site.probes else hex(site.addr)
