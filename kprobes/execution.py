"""Executing the displaced instruction of a hit, in the cheapest way that is right, and what comes after it.

Sources: setup_singlestep, kprobe_post_process, kprobe_debug_handler, arch/x86/kernel/kprobes/core.c.
"""

from __future__ import annotations

from collections.abc import Callable

from kprobes.control import Control, ControlBlock, Hit, unhook
from kprobes.events import Phase
from kprobes.options import Options
from kprobes.port import Guest, GuestMemoryError, Trap
from kprobes.probes import Status
from kprobes.ptregs import DR6_B, DR6_BS, MASK64, TF, TF_IF, PtRegs
from kprobes.region import Jump, JumpState
from kprobes.registry import Registry
from kprobes.step import Site, enter_slot, leave_slot


class Execution:
    """The way of a hit from its pre_handlers to its end."""

    def __init__(self, guest: Guest, registry: Registry, options: Options, control: Control):
        self._guest = guest
        self._lift = registry.arming.lift
        self._options = options
        self._control = control

    def execute(self, trap: Trap, block: ControlBlock, hit: Hit) -> None:
        """Have the displaced instruction executed, in the cheapest way that is right (setup_singlestep).

        What somebody steps by TF is stepped by TF, so that it keeps its debug trap; so is a boosted copy of a probe that
        a post_handler has joined. An emulation whose memory is not there leaves the fault to the copy.
        """
        site, regs = hit.site, trap.regs
        if site.fentry:  # the nop is done, and a post_handler cannot move the program
            regs.ip = following = (site.addr + len(site.insn.data)) & MASK64
            self._control.tell(Phase.EMULATE, trap, site)
            self._stepped(trap, block, hit)
            regs.ip = following
            return
        if not hit.old_flags & TF:
            if site.jump is not None and site.jump.state is not JumpState.IDLE:
                regs.flags = regs.flags & ~TF_IF | hit.old_flags
                self.leave_by_detour(trap, block, site, site.jump)
                return
            if site.boosted and not self._wants_post(site):
                enter_slot(site.slot, regs, single=False)
                regs.flags |= hit.old_flags
                self._control.tell(Phase.BOOST, trap, site)
                self._control.finish(trap, block, site)
                return
            if site.emulate is not None and self._emulated(trap, block, hit, site.emulate):
                return
        if hit.status is not Status.REENTER:
            hit.status = Status.HIT_SS
        hit.single = bool(hit.old_flags & TF) or self._options.step != "int3" or site.boosted or site.emulate is not None
        hit.at = site.slot
        if self._options.step == "inline":
            hit.at = site.addr
            self._lift(site)
        enter_slot(hit.at, regs, hit.single)
        self._control.tell(Phase.STEP, trap, site)

    def leave_by_detour(self, trap: Trap, block: ControlBlock, site: Site, jump: Jump) -> None:
        """Let the guest go on in the copies of a detour, which lead back by themselves; the hit is over."""
        trap.regs.ip = jump.copy
        self._control.tell(Phase.DETOUR, trap, site)
        self._control.finish(trap, block, site)

    def ends_at_int3(self, trap: Trap, block: ControlBlock, hit: Hit, addr: int) -> bool:
        """Whether this int3 is the one behind the copy that a hit steps, which is then over."""
        if addr != hit.site.slot + len(hit.site.insn.data) or hit.single or hit.status not in (
                Status.HIT_SS, Status.REENTER):
            return False
        trap.regs.ip = addr
        leave_slot(hit.site, hit.at, trap.regs, hit.old_flags, self._guest)
        self._stepped(trap, block, hit)
        return True

    def on_debug(self, trap: Trap) -> bool:
        """The end of a step (post_kprobe_handler); anything else that raises #DB is not ours."""
        regs, block = trap.regs, self._control.blocks[trap.cpu]
        hit = block.current
        if hit is None or not hit.single or hit.status not in (Status.HIT_SS, Status.REENTER):
            return False
        site = hit.site
        if trap.dr6 is not None and not trap.dr6 & DR6_BS:
            return False
        if not site.insn.may_end_at(regs.ip - hit.at):
            return False
        leave_slot(site, hit.at, regs, hit.old_flags, self._guest)
        others = trap.dr6 is not None and bool(trap.dr6 & DR6_B)
        stepped_by_others = bool(hit.old_flags & TF)
        if trap.dr6 is not None and not stepped_by_others:
            trap.dr6 &= ~DR6_BS
        if site.insn.repeats and regs.ip == site.addr:  # one iteration; the breakpoint will be hit again
            unhook(site, regs.sp)
        self._stepped(trap, block, hit)
        return not (others or stepped_by_others)
    def _emulated(self, trap: Trap, block: ControlBlock, hit: Hit, emulate: Callable[[PtRegs, Guest], None]) -> bool:
        regs = trap.regs
        before = regs.copy()
        regs.ip = hit.site.addr
        regs.flags = regs.flags & ~TF_IF | hit.old_flags
        try:
            emulate(regs, self._guest)
        except GuestMemoryError:
            regs.assign(before)
            return False
        self._control.tell(Phase.EMULATE, trap, hit.site)
        self._stepped(trap, block, hit)
        return True

    def _wants_post(self, site: Site) -> bool:
        """Whether a post_handler is to run. One that is added to a registered struct is seen in step "tf" only: where
        the copy was chosen at registration, the choice stays (prepare_singlestep, since 5.13)."""
        if self._options.step != "int3":
            return any(p.post_handler is not None and not p.disabled for p in site.probes)
        return any(not p.disabled for p in site.posts)

    def _stepped(self, trap: Trap, block: ControlBlock, hit: Hit) -> None:
        """The instruction is done: the post_handlers, and the end of the hit (kprobe_post_process)."""
        site, regs = hit.site, trap.regs
        if hit.status is not Status.REENTER:
            hit.status = Status.HIT_SSDONE
            for p in tuple(site.probes):
                handler = p.post_handler
                if handler is not None and not p.disabled:
                    self._control.run(trap, block, hit, p, "post_handler", regs.copy(), lambda h=handler, p=p: h(p, regs, 0))
                    self._control.tell(Phase.POST, trap, site, p)
        self._control.finish(trap, block, site)
