"""The write stage: the architectural state changes here and nowhere else, in program order, one uop a cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.bus import PHYS_BITS, DebugPort, IrqPort, RetirePort
from hw.flags import status_image, status_of
from hw.invariant import invariant
from hw.isa.facts import STATUS_BITS, DebugReg, RFlag, SysOp, SysReg, Vector
from hw.regfile import Bypass
from hw.sysregs import SysRegs
from hw.trap import Event, Shadow, TrapPicker
from hw.types import Done, Flags, Redirect

#: RFLAGS bits that exist in 64-bit mode (VIF, VIP, VM stay 0), and the one that always reads as 1.
RFLAGS_MASK = sum(1 << bit for bit in RFlag if bit.name not in ("VM", "VIF", "VIP")) | 1 << (RFlag.IOPL + 1)
RFLAGS_ONE = 2

#: What popf never changes, and what only CPL 0, and CPL <= IOPL, may change.
_IOPL_BITS = 3 << RFlag.IOPL
_STATUS = sum(1 << bit for bit in STATUS_BITS)


class RetireStage(Component):
    """Stage W.

    Members
    -------
    i : results from execute. flush : everything in flight is dropped in this cycle. redirect : fetch goes on there.
    deliver, deliver_error : the delivery routine starts in the next cycle; it pushes an error code.
    flags_committed : the status flags after this cycle's retirement.
    store, store_pa, store_size, store_data, store_lock, store_grant : the store's request on the data bus.
    busy : stage W holds something. bypass : what it writes.
    d_we .. sp_data : register file write port. debug_addr, debug_data : its debug read port.
    out_valid, out_port, out_size, out_data : an `out` retires.
    stored_page : physical page of the store of the cycle before, if there was one. code_page : bytes of that page had been
    fetched by then and have not retired: they are fetched again before anything of them can retire.
    armed : a timer will interrupt. gate_trap, gate_cpl, gate_selector, gate_switch : what the delivery found in its gate.
    """

    def __init__(self):
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
                "code_page": In(1),
                "gate_trap": In(1),
                "gate_cpl": In(2),
                "gate_selector": In(16),
                "armed": In(1),
                "irq": Out(IrqPort()),
                "dbg": Out(DebugPort()),
                "retire": Out(RetirePort()),
            }
        )
        self.sys = SysRegs()

    def elaborate(self, platform):
        m = Module()
        d = self.i.payload
        u = d.u
        m.submodules.sys = system = self.sys
        m.submodules.trap = trap = TrapPicker()
        rflags, rip = Signal(64, init=RFLAGS_ONE), Signal(64)
        boundary = Signal(init=1)
        held = Signal()  # a store is on the bus and not yet taken: nothing may come between
        shadow = Signal(Shadow)
        halted, mid_rep, step, stepping, stale = Signal(), Signal(), Signal(), Signal(), Signal()
        nmi_before, nmi_pending, nmi_blocked = Signal(), Signal(), Signal()
        m.d.sync += self.tsc.eq(self.tsc + 1)

        # --- what happens in this cycle ---
        stored, refetch = Signal(), Signal()
        frozen = self.dbg.we
        alive = ~trap.shutdown & ~frozen
        m.d.comb += [
            trap.boundary.eq(boundary & ~held & ~trap.delivering & alive),
            trap.fault.eq(u.fault),
            trap.fault_valid.eq(self.i.valid & u.fault.valid & ~halted & alive & ~refetch),
            trap.pc.eq(u.pc),
            trap.next_pc.eq(u.next_pc),
            trap.rip.eq(rip),
            trap.rflags.eq(rflags),
            trap.mid_rep.eq(mid_rep),
            trap.step.eq(step),
            trap.shadow.eq(shadow),
            trap.nmi.eq(nmi_pending & ~nmi_blocked),
            trap.intr.eq(self.irq.valid & rflags[RFlag.IF]),
            trap.intr_vector.eq(self.irq.vector),
            self.irq.ack.eq(trap.take_intr),
            self.event.eq(trap.event),
            self.delivering.eq(trap.delivering),
        ]
        able, commit, ends = Signal(), Signal(), Signal()
        m.d.comb += [
            refetch.eq((stale | (stored & self.code_page)) & boundary & ~held & ~trap.asynchronous & alive),
            able.eq(self.i.valid & ~u.fault.valid & ~trap.asynchronous & ~halted & alive & ~refetch),
            self.store.eq(able & u.store),
            self.store_pa.eq(d.pa),
            self.store_size.eq(u.msize),
            self.store_data.eq(d.store),
            self.store_lock.eq(u.lock),
            commit.eq(able & (~u.store | self.store_grant)),
            ends.eq(commit & d.ends),
            self.i.ready.eq(commit),
            self.busy.eq(self.i.valid),
        ]
        m.d.sync += held.eq(self.store & ~self.store_grant)

        # --- registers ---
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

        # --- flags ---
        after = Signal(64)
        arithmetic = Signal(64)
        cpl = system.cs[0:2]
        m.d.comb += [
            self.rflags.eq(rflags),
            self.cpl.eq(cpl),
            arithmetic.eq((rflags & ~_STATUS) | status_image(d.flags)),
            after.eq(rflags),
        ]
        with m.If(commit):
            m.d.comb += after.eq(arithmetic)
            with m.If(d.ends):
                m.d.comb += after[RFlag.RF].eq(0)
            with m.Switch(u.sysop):
                with m.Case(SysOp.POPF, SysOp.IRETF):
                    self._load_flags(m, after, arithmetic, d.store, cpl, u)
                with m.Case(SysOp.CLI):
                    m.d.comb += after[RFlag.IF].eq(0)
                with m.Case(SysOp.STI):
                    m.d.comb += after[RFlag.IF].eq(1)
                with m.Case(SysOp.CLD):
                    m.d.comb += after[RFlag.DF].eq(0)
                with m.Case(SysOp.STD):
                    m.d.comb += after[RFlag.DF].eq(1)
                with m.Case(SysOp.DELIVER):
                    m.d.comb += [after[bit].eq(0) for bit in (RFlag.TF, RFlag.NT, RFlag.RF, RFlag.VM)]
                    with m.If(~self.gate_trap):
                        m.d.comb += after[RFlag.IF].eq(0)
            with m.If(u.iret & u.last):  # what iretq loaded stands, RF included
                m.d.comb += after[RFlag.RF].eq(rflags[RFlag.RF])
        m.d.sync += rflags.eq((after & RFLAGS_MASK) | RFLAGS_ONE)
        m.d.comb += self.flags_committed.eq(status_of(after))

        # --- system registers ---
        delivered = commit & (u.sysop == SysOp.DELIVER)
        writes = commit & (u.sysop == SysOp.WRITE)
        to_ss = u.sysreg == SysReg.SS
        inner = self.gate_cpl != cpl
        m.d.comb += [
            system.we.eq(writes),
            system.waddr.eq(u.sysreg),
            system.wdata.eq(d.store),
            system.swapgs.eq(commit & (u.sysop == SysOp.SWAPGS)),
            system.fault_we.eq(trap.take & trap.page_fault),
            system.cr2.eq(trap.cr2),
            system.step_we.eq(trap.take_step),
            system.deliver_we.eq(delivered),
            system.new_cs.eq(Cat(self.gate_cpl, self.gate_selector[2:])),
            system.new_ss.eq(self.gate_cpl),
            system.ss_we.eq(inner),
            system.db.eq(trap.event.vector == Vector.DB),
            trap.done.eq(delivered),
        ]

        # --- instruction boundaries ---
        started_stepping = Mux(u.first, rflags[RFlag.TF], stepping)
        with m.If(commit):
            m.d.sync += [boundary.eq(d.ends), stepping.eq(started_stepping)]
        m.d.sync += stored.eq(commit & u.store)
        with m.If(commit & u.store):
            m.d.sync += self.stored_page.eq(d.pa[12:])
        with m.If(refetch):
            m.d.sync += stale.eq(0)
        with m.Elif(stored & self.code_page):
            m.d.sync += stale.eq(1)
        shadows = writes & to_ss & (shadow != Shadow.MOVSS)  # a second one does not: Intel's rule (3.6)
        with m.If(ends):
            m.d.sync += [
                rip.eq(d.target),
                mid_rep.eq(d.again),
                step.eq(started_stepping & ~u.deliver & ~shadows),
                shadow.eq(Shadow.NONE),
            ]
            with m.If(shadows):
                m.d.sync += shadow.eq(Shadow.MOVSS)
            with m.Elif((u.sysop == SysOp.STI) & ~rflags[RFlag.IF]):
                m.d.sync += shadow.eq(Shadow.STI)
        with m.If(commit & (u.sysop == SysOp.HLT)):
            m.d.sync += halted.eq(1)
        with m.If(trap.take):
            m.d.sync += [
                boundary.eq(0),
                halted.eq(0),
                step.eq(0),
                mid_rep.eq(0),
                stale.eq(0),
                shadow.eq(Shadow.NONE),
            ]

        # --- NMI: an edge asks, iretq unblocks ---
        m.d.sync += nmi_before.eq(self.irq.nmi)
        with m.If(trap.take_nmi):
            m.d.sync += [nmi_pending.eq(0), nmi_blocked.eq(1)]
        with m.Elif((commit | trap.fault_valid) & u.iret):
            m.d.sync += nmi_blocked.eq(0)
        with m.If(self.irq.nmi & ~nmi_before):
            m.d.sync += nmi_pending.eq(1)

        # --- refetch ---
        refetches = Signal()
        with m.Switch(u.sysop):
            with m.Case(SysOp.NONE, SysOp.OUT, SysOp.DELIVER):
                pass
            with m.Default():
                m.d.comb += refetches.eq(ends)
        m.d.comb += [
            self.redirect.valid.eq(refetches | refetch | frozen),
            self.redirect.target.eq(Mux(frozen | refetch, rip, d.target)),
            self.flush.eq(trap.take | self.redirect.valid),
            self.deliver.eq(trap.take),
            self.deliver_error.eq(trap.taken.has_error),
        ]
        self._promise(m, commit, held, rflags, rip, boundary, system, trap)
        self._debug(m, rflags, rip, system, boundary, step, shadow, halted)
        self._show(m, d, u, commit, ends, rip, after, trap)
        m.d.comb += [self.dbg.halted.eq(halted & ~(self.armed & rflags[RFlag.IF])), self.dbg.shutdown.eq(trap.shutdown)]
        return m

    def _promise(self, m, commit, held, rflags, rip, boundary, system, trap):
        """Invariants of retirement."""
        d, u, frozen = self.i.payload, self.i.payload.u, self.dbg.we
        writes = Signal()  # registers, flags or system state, in this cycle
        m.d.comb += writes.eq(
            commit & ((u.d_we & (u.d_reg < 16)) | u.sp_we | (u.flags != 0) | (u.sysop != SysOp.NONE))
        )
        wrote = Signal()  # an earlier uop of the instruction has
        with m.If(trap.take | frozen):
            m.d.sync += wrote.eq(0)
        with m.Elif(commit):
            m.d.sync += wrote.eq(~d.ends & (wrote | writes))
        invariant(m, "retire.one", ~(commit & trap.take), "a uop of {:#x} retires as a trap is taken", u.pc)
        invariant(m, "retire.atomic", ~(trap.fault_valid & wrote), "vector {} after a write, at {:#x}", u.fault.vector, u.pc)
        with m.If(self.i.valid & u.fault.valid & ~frozen):
            changes = Cat(self.d_we, self.sp_we, self.store, self.out_valid, system.we, system.swapgs, self.i.ready)
            invariant(m, "retire.fault", changes == 0, "a uop with vector {} writes: {:07b}", u.fault.vector, changes)
        with m.If(commit):
            invariant(m, "retire.deliver", u.deliver == trap.delivering, "{} in a delivery: {}", u.deliver, trap.delivering)
            with m.If(~u.deliver):
                invariant(m, "retire.first", u.first == boundary, "a uop of {:#x} in the middle of another", u.pc)
            with m.If(u.first):
                invariant(m, "retire.order", u.pc == rip, "{:#x} retires where {:#x} is next", u.pc, rip)
        asked = Signal(PHYS_BITS + 64 + 3)  # by a store that the bus has not taken
        with m.If(self.store & ~self.store_grant):
            m.d.sync += asked.eq(Cat(self.store_pa, self.store_size, self.store_lock, self.store_data))
        with m.If(held & ~frozen):
            asks = Cat(self.store_pa, self.store_size, self.store_lock, self.store_data)
            invariant(m, "retire.held", self.store & ~trap.take, "a store on the bus is given up")
            invariant(m, "retire.stable", asked == asks, "a store to {:#x} changes on the bus", self.store_pa)
        fixed = (rflags & ~RFLAGS_MASK) == RFLAGS_ONE
        invariant(m, "retire.rflags", fixed, "reserved bits of {:#x}", rflags)

    def _load_flags(self, m, after, arithmetic, image, cpl, u):
        """popf and iretq: what of the image is loaded (trap semantics 6 and 9)."""
        iopl = Cat(arithmetic[RFlag.IOPL], arithmetic[RFlag.IOPL + 1])
        taken = Signal(64)
        always = _STATUS | 1 << RFlag.TF | 1 << RFlag.DF | 1 << RFlag.NT
        wide = 1 << RFlag.AC | 1 << RFlag.ID
        m.d.comb += taken.eq(always)
        with m.If(u.size != 1):
            m.d.comb += taken.eq(always | wide | Mux(u.iret, 1 << RFlag.RF, 0))
        with m.If(cpl == 0):
            m.d.comb += [taken[RFlag.IOPL].eq(1), taken[RFlag.IOPL + 1].eq(1)]
        with m.If(cpl <= iopl):
            m.d.comb += taken[RFlag.IF].eq(1)
        m.d.comb += after.eq((arithmetic & ~taken) | (image & taken))
        with m.If(~u.iret):
            m.d.comb += after[RFlag.RF].eq(0)

    def _debug(self, m, rflags, rip, system, boundary, step, shadow, halted):
        """The debug port: reads are combinational, a write replaces a register and refetches."""
        port = self.dbg
        index = port.addr
        m.d.comb += [
            self.debug_addr.eq(index[:4]),
            system.debug.eq(index - DebugReg.SYS),
            port.boundary.eq(boundary),
        ]
        with m.If(index < 16):
            m.d.comb += port.rdata.eq(self.debug_data)
        with m.Elif(index == DebugReg.RIP):
            m.d.comb += port.rdata.eq(rip)
        with m.Elif(index == DebugReg.RFLAGS):
            m.d.comb += port.rdata.eq(rflags)
        with m.Elif(index == DebugReg.CPL):
            m.d.comb += port.rdata.eq(self.cpl)
        with m.Else():
            m.d.comb += port.rdata.eq(system.debug_data)
        with m.If(port.we):
            with m.If(index < 16):
                m.d.comb += [self.d_we.eq(1), self.d_addr.eq(index), self.d_data.eq(port.wdata)]
            with m.Elif(index == DebugReg.RIP):
                m.d.comb += self.redirect.target.eq(port.wdata)
                m.d.sync += [rip.eq(port.wdata), step.eq(0), shadow.eq(Shadow.NONE), halted.eq(0)]
            with m.Elif(index == DebugReg.RFLAGS):
                m.d.comb += self.flags_committed.eq(status_of(port.wdata))
                m.d.sync += rflags.eq((port.wdata & RFLAGS_MASK) | RFLAGS_ONE)
            with m.Elif(index >= DebugReg.SYS):
                m.d.comb += [system.we.eq(1), system.waddr.eq(index - DebugReg.SYS), system.wdata.eq(port.wdata)]

    def _show(self, m, d, u, commit, ends, rip, after, trap):
        """The retire port."""
        r = self.retire
        m.d.comb += [
            r.valid.eq(commit),
            r.first.eq(u.first),
            r.last.eq(d.ends),
            r.again.eq(d.again),
            r.pc.eq(u.pc),
            r.length.eq(u.length),
            r.bytes.eq(u.bytes),
            r.next_pc.eq(d.target),
            r.reg_we.eq(u.d_we),
            r.reg.eq(u.d_reg),
            r.reg_data.eq(d.result),
            r.sp_we.eq(u.sp_we),
            r.sp.eq(d.sp),
            r.mem_re.eq(u.load),
            r.mem_we.eq(u.store),
            r.mem_addr.eq(d.la),
            r.mem_size.eq(u.msize),
            r.mem_data.eq(Mux(u.store, d.store, d.mem)),
            r.rflags.eq((after & RFLAGS_MASK) | RFLAGS_ONE),
            r.iret.eq(u.iret),
            r.deliver.eq(u.deliver),
            r.trap.eq(trap.take),
            r.trap_vector.eq(trap.taken.vector),
            r.trap_class.eq(trap.taken.kind),
            r.trap_has_error.eq(trap.taken.has_error),
            r.trap_error.eq(trap.taken.error),
            r.trap_rip.eq(trap.taken.rip),
            r.trap_addr.eq(trap.cr2),
        ]

