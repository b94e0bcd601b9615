"""The write stage: the architectural state changes here and nowhere else, in program order, one uop a cycle.

This file is what retires and what is thrown away. What else the stage holds has a file of its own each: `hw.rflags`,
`hw.sysregs`, `hw.boundary` (pending debug traps, shadows, sleep), `hw.breakpoints`, `hw.nmi`, `hw.startup`, `hw.trap` (which
event is taken, and the order among them), `hw.refetch` (code that changed under way), `hw.debugport`, `hw.retireport`,
`hw.retirepromise`.
"""

from amaranth.hdl import Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.boundary import Boundary, Shadow
from hw.breakpoints import Breakpoints, Watch
from hw.bus import PHYS_BITS, DebugPort, IrqPort, RetirePort
from hw.config import Config, Vendor
from hw.debugport import DebugAccess
from hw.isa.facts import EventClass, RFlag, SysOp, SysReg, Vector
from hw.nmi import NmiLatch
from hw.refetch import Refetch
from hw.regfile import Bypass
from hw.retireport import show
from hw.retirepromise import promise
from hw.rflags import Rflags
from hw.startup import Startup
from hw.sysregs import CR4_DE, SysRegs
from hw.trap import Event, TrapPicker
from hw.types import Done, Flags, Redirect


class RetireStage(Component):
    """Stage W.

    Members
    -------
    i : results from execute. flush : everything in flight is dropped in this cycle. redirect : fetch goes on there.
    deliver, deliver_error : the delivery routine starts in the next cycle; it pushes an error code.
    flags_committed : the status flags after this cycle's retirement.
    store, store_pa, store_size, store_data, store_lock, store_grant : the store's request on the data bus.
    stall : the `out` that would retire in this cycle does not. unlock : a locked instruction retires, all of it.
    asleep : no instruction will retire before an event wakes the hart.
    nmi, init, start, page : what interrupt controllers send, beside interrupts (`hw.bus.ApicPort`). reset : INIT takes effect.
    busy : stage W holds something. bypass : what it writes.
    d_we .. sp_data : register file write port. debug_addr, debug_data : its debug read port.
    out_valid, out_port, out_size, out_data : an `out` retires.
    store_split, store_rest : it crosses its page, and goes on in another frame.
    stored_page, stored_last, code_page : as in `hw.refetch.Refetch`.
    tlb_flush : translations may have changed. serialises : a serialising instruction retires: code is fetched from memory.
    armed : a timer will interrupt. gate_trap : the gate of the delivery leaves IF.
    far_cs, far_ss, far_ss_we : selectors after a delivery or far transfer.
    """

    def __init__(self, config: Config, first: bool = True, shared: bool = False):
        """`first`: it runs after reset. `shared`: there are other harts, which can reset and start it (`hw.startup`)."""
        self._config, self._startup = config, Startup(first) if shared else None
        super().__init__(
            {
                "i": In(stream.Signature(Done)),
                "flush": Out(1),
                "redirect": Out(Redirect),
                "deliver": Out(1),
                "deliver_error": Out(1),
                "flags_committed": Out(Flags),
                "rflags": Out(64),
                "cpl": Out(2),
                "event": Out(Event),
                "delivering": Out(1),
                "tsc": Out(64),
                "store": Out(1),
                "store_pa": Out(PHYS_BITS),
                "store_size": Out(2),
                "store_data": Out(64),
                "store_lock": Out(1),
                "store_grant": In(1),
                "stall": In(1),
                "unlock": Out(1),
                "asleep": Out(1),
                "nmi": In(1),
                "init": In(1),
                "start": In(1),
                "page": In(8),
                "reset": Out(1),
                "busy": Out(1),
                "bypass": Out(Bypass),
                "d_we": Out(1),
                "d_addr": Out(5),
                "d_data": Out(64),
                "sp_we": Out(1),
                "sp_data": Out(64),
                "debug_addr": Out(5),
                "debug_data": In(64),
                "out_valid": Out(1),
                "out_port": Out(16),
                "out_size": Out(2),
                "out_data": Out(32),
                "stored_page": Out(PHYS_BITS - 12),
                "stored_last": Out(PHYS_BITS - 12),
                "store_split": Out(1),
                "store_rest": Out(PHYS_BITS - 12),
                "tlb_flush": Out(1),
                "serialises": Out(1),
                "code_page": In(1),
                "gate_trap": In(1),
                "far_cs": In(16),
                "far_ss": In(16),
                "far_ss_we": In(1),
                "armed": In(1),
                "irq": Out(IrqPort()),
                "dbg": Out(DebugPort()),
                "retire": Out(RetirePort()),
            }
        )
        self.sys = SysRegs(config, first)
        #: The hart waits for its start; its registers may be cleared meanwhile.
        self.waiting = self._startup.waiting if self._startup else Const(0)

    def elaborate(self, platform):
        m = Module()
        d = self.i.payload
        u = d.u
        system, trap, rflags, at, nmi = self.sys, TrapPicker(self._config), Rflags(), Boundary(self._config), NmiLatch()
        again = Refetch()
        parts = {"sys": system, "trap": trap, "rflags": rflags, "boundary": at, "nmi": nmi, "refetch": again}
        for name, part in parts.items():
            m.submodules[name] = ResetInserter(self.reset)(part) if self._startup else part
        rip = Signal(64)
        held = Signal()  # a store is on the bus and not yet taken: nothing may come between
        frozen = self.dbg.we
        alive = ~trap.shutdown & ~frozen
        m.d.comb += self.tsc.eq(system.tsc)
        if self._startup:
            alive &= ~self._startup.take & ~self.waiting

        # --- what retires in this cycle ---
        able, commit, ends = Signal(), Signal(), Signal()
        between = at.boundary & ~held & alive
        m.d.comb += [
            able.eq(
                self.i.valid & ~u.fault.valid & ~trap.asynchronous & ~trap.take_break & ~at.halted & alive & ~again.code
            ),
            self.store.eq(able & u.store),
            self.store_pa.eq(d.pa),
            self.store_size.eq(u.msize),
            self.store_data.eq(d.store),
            self.store_lock.eq(u.lock),
            self.store_split.eq(d.split),
            self.store_rest.eq(d.rest),
            commit.eq(able & (~u.store | self.store_grant) & ~self.stall),
            ends.eq(commit & d.ends),
            self.i.ready.eq(commit),
            self.busy.eq(self.i.valid),
            self.unlock.eq(ends & u.lock),
            self.asleep.eq(at.halted | trap.shutdown | self.waiting),
        ]
        m.d.sync += held.eq(self.store & ~self.store_grant)
        self._registers(m, d, u, able, commit)
        self._events(m, u, trap, at, nmi, rflags, rip, between, alive & ~again.code)
        self._breakpoints(m, d, u, trap, at, rflags, system, alive & ~again.code)

        # --- flags, system registers, what is pending at the boundary ---
        cpl = system.cs[0:2]
        delivered = commit & (u.sysop == SysOp.DELIVER)
        far, calls, returns = (commit & (u.sysop == op) for op in (SysOp.FAR, SysOp.SYSCALL, SysOp.SYSRET))
        segment = commit & (u.sysop == SysOp.SEGMENT)
        m.d.comb += [
            rflags.commit.eq(commit),
            rflags.ends.eq(d.ends),
            rflags.last.eq(u.last),
            rflags.iret.eq(u.iret),
            rflags.size.eq(u.size),
            rflags.sysop.eq(u.sysop),
            rflags.flags.eq(d.flags),
            rflags.image.eq(d.store),
            rflags.fmask.eq(system.fmask),
            rflags.cpl.eq(cpl),
            rflags.gate_trap.eq(self.gate_trap),
            self.rflags.eq(rflags.value),
            self.flags_committed.eq(rflags.status),
            self.cpl.eq(cpl),
            system.we.eq(segment | (commit & (u.sysop == SysOp.WRITE))),
            system.segment.eq(segment),
            system.waddr.eq(u.sysreg),
            system.wdata.eq(d.store),
            system.swapgs.eq(commit & (u.sysop == SysOp.SWAPGS)),
            system.fault_we.eq(trap.page_fault),
            system.cr2.eq(trap.cr2),
            system.deliver_we.eq(delivered),
            system.far_we.eq(far | calls | returns),
            system.new_cs.eq(self.far_cs),
            system.new_ss.eq(self.far_ss),
            system.ss_we.eq(self.far_ss_we | calls | returns),
            system.outer.eq(far & (self.far_cs[0:2] > cpl)),
            trap.done.eq(delivered),
            at.commit.eq(commit),
            at.ends.eq(d.ends),
            at.again.eq(d.again),
            at.first.eq(u.first),
            at.deliver.eq(u.deliver),
            at.sysop.eq(u.sysop),
            at.sysreg.eq(u.sysreg),
            at.if_before.eq(rflags.value[RFlag.IF]),
            at.tf_before.eq(rflags.value[RFlag.TF]),
            at.tf_after.eq(rflags.after[RFlag.TF]),
            at.take.eq(trap.take),
            at.keep.eq(trap.take_fault & (u.fault.kind == EventClass.SOFT)),
        ]
        with m.If(calls):  # the selectors of syscall and sysret are not looked up anywhere (SDM vol. 2)
            base = system.star[32:48]
            m.d.comb += [system.new_cs.eq(base & 0xFFFC), system.new_ss.eq(base + 8)]
        with m.If(returns):
            base = system.star[48:64]
            m.d.comb += [system.new_cs.eq((base + 16) | 3), system.new_ss.eq((base + 8) | 3)]
        with m.If(ends):
            m.d.sync += rip.eq(d.target)

        # --- what was fetched and must be fetched again ---
        m.d.comb += [
            again.commit.eq(commit),
            again.ends.eq(d.ends),
            again.sysop.eq(u.sysop),
            again.sysreg.eq(u.sysreg),
            again.store.eq(u.store),
            again.pa.eq(d.pa),
            again.msize.eq(u.msize),
            again.split.eq(d.split),
            again.rest.eq(d.rest),
            again.code_page.eq(self.code_page),
            again.may.eq(between & ~trap.asynchronous),
            again.taken.eq(trap.take),
            self.stored_page.eq(again.stored_page),
            self.stored_last.eq(again.stored_last),
        ]
        m.d.comb += self.tlb_flush.eq(frozen | (commit & (u.sysop == SysOp.SYNC)))
        with m.If(system.we), m.Switch(u.sysreg), m.Case(SysReg.CR0, SysReg.CR3, SysReg.CR4, SysReg.EFER):
            m.d.comb += self.tlb_flush.eq(1)
        orders = (u.sysop == SysOp.WRITE) | (u.sysop == SysOp.SYNC) | u.iret
        m.d.comb += self.serialises.eq(frozen | (commit & orders))
        m.d.comb += [
            self.redirect.valid.eq(again.after | again.code | frozen),
            self.redirect.target.eq(Mux(frozen | again.code, rip, d.target)),
            self.flush.eq(trap.take | self.redirect.valid),
            self.deliver.eq(trap.take),
            self.deliver_error.eq(trap.taken.has_error),
        ]
        self._debug(m, rflags, rip, system, at)
        if self._startup:
            self._start(m, trap, at, held, rip, frozen)
        show(m, self.retire, d, commit, rflags.after, trap)
        promise(m, self, commit, held, rip, at, trap)
        m.d.comb += [
            self.dbg.boundary.eq(at.boundary),
            self.dbg.halted.eq(at.halted & ~(self.armed & rflags.value[RFlag.IF])),
            self.dbg.shutdown.eq(trap.shutdown & ~nmi.coming),
        ]
        if self._startup:
            with m.If(self.waiting):
                m.d.comb += [self.dbg.boundary.eq(~self._startup.clear), self.dbg.halted.eq(1)]
        return m

    def _start(self, m, trap, at, held, rip, frozen):
        """INIT, which resets all parts that are entered as submodules above, and the start-up after it."""
        m.submodules.startup = startup = self._startup
        m.d.comb += [
            startup.init.eq(self.init),
            startup.start.eq(self.start),
            startup.page.eq(self.page),
            startup.able.eq(((at.boundary & ~held) | trap.shutdown) & ~frozen),
            self.reset.eq(startup.take),
        ]
        with m.If(startup.take):
            m.d.comb += [self.flush.eq(1), self.deliver.eq(0), self.tlb_flush.eq(1), self.serialises.eq(1)]
            m.d.sync += rip.eq(0)
        with m.If(startup.clear):
            m.d.comb += [self.d_we.eq(1), self.d_addr.eq(startup.index), self.d_data.eq(0)]
        with m.If(startup.go):
            m.d.comb += [self.redirect.valid.eq(1), self.redirect.target.eq(startup.target)]
            m.d.sync += rip.eq(startup.target)

    def _registers(self, m, d, u, able, commit):
        """The register file, its bypass, and port output."""
        m.d.comb += [
            self.d_we.eq(commit & u.d_we),
            self.d_addr.eq(u.d_reg),
            self.d_data.eq(d.result),
            self.sp_we.eq(commit & u.sp_we),
            self.sp_data.eq(d.sp),
            self.bypass.d_we.eq(self.i.valid & u.d_we),
            self.bypass.d_reg.eq(u.d_reg),
            self.bypass.ready.eq(1),
            self.bypass.result.eq(d.result),
            self.bypass.sp_we.eq(self.i.valid & u.sp_we),
            self.bypass.sp.eq(d.sp),
            self.out_valid.eq(able & (u.sysop == SysOp.OUT)),  # which never stores
            self.out_port.eq(d.result),
            self.out_size.eq(u.size),
            self.out_data.eq(d.store),
        ]

    def _events(self, m, u, trap, at, nmi, rflags, rip, between, may_fault):
        """Who asks to be taken, and the latch of NMIs."""
        m.d.comb += [
            trap.boundary.eq(between & ~trap.delivering),
            trap.debug.eq(at.stepped | at.met.any()),
            trap.mid_rep.eq(at.mid_rep),
            trap.shadow.eq(at.shadow),
            trap.nmi.eq(nmi.ready & ~self.dbg.we & ~self.reset),
            trap.intr.eq(self.irq.valid & rflags.value[RFlag.IF]),
            trap.intr_vector.eq(self.irq.vector),
            trap.fault.eq(u.fault),
            trap.fault_valid.eq(self.i.valid & u.fault.valid & ~at.halted & may_fault),
            trap.pc.eq(u.pc),
            trap.next_pc.eq(u.next_pc),
            trap.rip.eq(rip),
            trap.rflags.eq(rflags.value),
            self.irq.ack.eq(trap.take_intr),
            self.event.eq(trap.event),
            self.delivering.eq(trap.delivering),
            nmi.line.eq(self.irq.nmi),
            nmi.ipi.eq(self.nmi),
            nmi.taken.eq(trap.take_nmi),
            nmi.unblock.eq(u.iret & (rflags.commit | trap.take_fault)),
        ]

    def _breakpoints(self, m, d, u, trap, at, rflags, system, may_fault):
        """Breakpoints on the next instruction and on what retires; DR6 and DR7 as a debug exception leaves them."""
        m.submodules.breakpoints = points = Breakpoints()
        shadowed = (at.shadow == Shadow.MOVSS) & (self._config.vendor == Vendor.INTEL)
        begins = self.i.valid & u.first & ~at.mid_rep & ~at.halted & ~rflags.value[RFlag.RF] & ~shadowed & may_fault
        event = trap.event
        m.d.comb += [
            points.dr0.eq(system.dr0),
            points.dr1.eq(system.dr1),
            points.dr2.eq(system.dr2),
            points.dr3.eq(system.dr3),
            points.dr7.eq(system.dr7),
            points.de.eq(system.cr4[CR4_DE]),
            points.starts.eq(begins),
            points.pc.eq(u.pc),
            points.watch.eq(u.watch),
            points.address.eq(d.la),
            points.size.eq(Mux(u.watch == Watch.PORT, u.size, u.msize)),
            trap.breaks.eq(points.code.any()),
            at.hits.eq(points.data),
            system.dr6_we.eq(
                trap.take_debug
                | trap.take_break
                | (trap.take_fault & (u.fault.vector == Vector.DB) & (u.fault.kind == EventClass.FAULT))
            ),
            system.dr6_bs.eq(trap.take_debug & at.stepped),
            system.dr6_bd.eq(trap.take_fault),
            system.db.eq(
                (event.vector == Vector.DB) & ((event.kind == EventClass.FAULT) | (event.kind == EventClass.TRAP))
            ),
        ]
        with m.If(trap.take_debug):
            m.d.comb += system.dr6_b.eq(at.met)
        with m.Elif(trap.take_break):
            m.d.comb += system.dr6_b.eq(points.code)

    def _debug(self, m, rflags, rip, system, at):
        """The debug port: a write replaces a register and refetches."""
        m.submodules.debug = access = DebugAccess()
        port = self.dbg
        m.d.comb += [
            access.addr.eq(port.addr),
            access.we.eq(port.we),
            access.gpr.eq(self.debug_data),
            access.rip.eq(rip),
            access.rflags.eq(rflags.value),
            access.cpl.eq(self.cpl),
            access.system.eq(system.debug_data),
            port.rdata.eq(access.rdata),
            self.debug_addr.eq(access.gpr_addr),
            system.debug.eq(access.system_addr),
            rflags.we.eq(access.rflags_we),
            rflags.wdata.eq(port.wdata),
        ]
        with m.If(access.gpr_we):
            m.d.comb += [self.d_we.eq(1), self.d_addr.eq(access.gpr_addr), self.d_data.eq(port.wdata)]
        with m.If(access.rip_we):  # the same rip is a refetch, and changes nothing else
            m.d.comb += [self.redirect.target.eq(port.wdata), at.moved.eq(port.wdata != rip)]
            m.d.sync += rip.eq(port.wdata)
            if self._startup:
                m.d.comb += self._startup.skip.eq(port.wdata != rip)
        with m.If(access.system_we):
            m.d.comb += [system.we.eq(1), system.waddr.eq(access.system_addr), system.wdata.eq(port.wdata)]
