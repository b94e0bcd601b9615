"""What routines must do, row by row, on a machine that executes one row a cycle with the core's own checks and flags."""

from amaranth.hdl import Assert, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

from hw.flags import status_of
from hw.gates import Gates
from hw.isa.facts import Op, Reg, RFlag, SysOp, SysReg
from hw.isa.routines import ROUTINES
from hw.isa.rows import AMode, Sel, Uop, When
from hw.rflags import RFLAGS_MASK, RFLAGS_ONE, Rflags

_TEMPORARIES = range(Reg.T0, Reg.T0 + 8)

#: Operations that are not of `hw.gates`.
_PLAIN = (Op.MOV, Op.RDSYS, Op.JMPA)

#: What iretq leaves as it is when CPL is not 0 (SDM vol. 2, IRET).
_PRIVILEGED = 1 << RFlag.IF | 3 << RFlag.IOPL | 1 << RFlag.VIF | 1 << RFlag.VIP


#: Cycles from an event to the return from its handler, one for each row.
CYCLES = 3 + len(ROUTINES["deliver"]) + len(ROUTINES["iret"])


class Return(Component):
    """A delivery, a handler, an ``iretq``: afterwards rip, rsp, the selectors and the flags are those of the event.

    Descriptors, tables and what the handler does with temporaries and flags are free, from cycle to cycle. What is assumed:
    no check fails (else the delivery or the return has not happened), nobody writes the frame, descriptors are not in it, the
    handler takes the error code off and does not set NT. At an outer handler, the flags that only CPL 0 may change are not
    claimed.
    """

    rip: In(64)
    rsp: In(64)
    cs: In(16)
    ss: In(16)
    flags: In(64)
    error_code: In(1)
    free: In(64)  #: what memory outside the frame holds
    handler_flags: In(64)
    vector: In(8)
    kind: In(3)
    gdt_limit: In(16)
    ldt_limit: In(32)
    tr_limit: In(32)

    def __init__(self, module):
        super().__init__()
        deliver, leave = module.ROUTINES["deliver"], module.ROUTINES["iret"]
        #: None: the first cycle, and the handler.
        self.rows: tuple[Uop | None, ...] = (None, *deliver, None, *leave)
        self._handler = 1 + len(deliver)

    def elaborate(self, platform):
        m = Module()
        m.submodules.gates = gates = Gates()
        m.submodules.rflags = rflags = Rflags()
        at = Signal(range(len(self.rows) + 1))
        # of the event: kept
        rip0, rsp0, cs0, ss0, flags0, with_error = Signal(64), Signal(64), Signal(16), Signal(16), Signal(64), Signal()
        # of the machine
        rip, rsp, cs, ss, fails = Signal(64), Signal(64), Signal(16), Signal(16), Signal()
        handler_cpl = Signal(2)
        regs = {number: Signal(64, name=f"t{number - Reg.T0}") for number in _TEMPORARIES} | {Reg.RSP: rsp}
        frame = []  # whether it has happened, address and value of each store
        m.d.comb += [
            gates.cpl.eq(cs[0:2]),
            gates.event_rip.eq(rip0),
            gates.event_flags.eq(flags0),
            gates.event_vector.eq(self.vector),
            gates.event_kind.eq(self.kind),
            gates.gdt_limit.eq(self.gdt_limit),
            gates.ldt_limit.eq(self.ldt_limit),
            gates.tr_limit.eq(self.tr_limit),
            gates.fire.eq(~gates.fault),
            rflags.cpl.eq(cs[0:2]),
            rflags.size.eq(3),
            rflags.gate_trap.eq(gates.trap_gate),
            rflags.flags.eq(status_of(rflags.value)),
        ]
        with m.If(at != len(self.rows)):
            m.d.sync += at.eq(at + 1)
        m.d.sync += fails.eq(fails | gates.fault)
        with m.Switch(at):
            with m.Case(0):
                image = (self.flags & RFLAGS_MASK) | RFLAGS_ONE
                m.d.sync += [rip0.eq(self.rip), rsp0.eq(self.rsp), cs0.eq(self.cs), ss0.eq(self.ss), flags0.eq(image)]
                m.d.sync += [rsp.eq(self.rsp), cs.eq(self.cs), ss.eq(self.ss), with_error.eq(self.error_code)]
                m.d.comb += [rflags.we.eq(1), rflags.wdata.eq(image)]
            with m.Case(self._handler):
                m.d.sync += [regs[number].eq(self.free) for number in _TEMPORARIES]
                m.d.sync += [rsp.eq(rsp + (with_error << 3)), handler_cpl.eq(cs[0:2])]
                m.d.comb += [rflags.we.eq(1), rflags.wdata.eq(self.handler_flags & ~(1 << RFlag.NT))]
            for number, row in enumerate(self.rows):
                if row is not None:
                    issued = {When.ERROR: with_error, When.NOERROR: ~with_error}.get(row.when, Const(1, 1))
                    last = number == len(self.rows) - 1
                    with m.Case(number), m.If(issued):
                        self._row(m, row, regs, frame, gates, rflags, (rip, cs, ss), last)
        kept = Mux(handler_cpl == 0, Const(0, 64), Const(_PRIVILEGED, 64))
        with m.If((at == len(self.rows)) & ~fails):
            m.d.comb += [
                Assert(rip == rip0, "rip"),
                Assert(rsp == rsp0, "rsp"),
                Assert(cs == cs0, "cs"),
                Assert(ss == ss0, "ss"),
                Assert((rflags.value & ~kept) == (flags0 & ~kept), "flags"),
            ]
        return m

    def _row(self, m, row, regs, frame, gates, rflags, state, last):
        """One row: operands, operation, effects."""
        rip, cs, ss = state
        address, loaded, result = Signal(64), Signal(64), Signal(64)
        if row.amode in (AMode.BASE, AMode.SETSP):
            m.d.comb += address.eq(regs[row.base] + row.disp * (8 if row.scaled else 1))
        m.d.comb += loaded.eq(self.free)
        if row.load and row.stack:
            for written, place, value in frame:
                with m.If(written & (address == place)):
                    m.d.comb += loaded.eq(value)

        def operand(where):
            if where in (Sel.NONE, Sel.MEM):
                return loaded if where == Sel.MEM else Const(0, 64)
            return regs[where]

        a, b = operand(row.a), operand(row.b)
        if row.op in _PLAIN:
            system = {SysReg.CS: cs, SysReg.SS: ss}
            m.d.comb += result.eq(system[row.sysreg] if row.op == Op.RDSYS else b)
        else:
            m.d.comb += [gates.op.eq(row.op), gates.valid.eq(1), gates.a.eq(a), gates.b.eq(b)]
            m.d.comb += [gates.bsize.eq(row.bsize), result.eq(gates.result)]
        if row.d in regs:
            m.d.sync += regs[row.d].eq(result)
        if row.store and not row.touch:
            written, place, value = Signal(), Signal(64), Signal(64)
            frame.append((written, place, value))
            m.d.sync += [written.eq(1), place.eq(address), value.eq(result)]
        m.d.comb += [rflags.commit.eq(1), rflags.sysop.eq(row.sysop), rflags.image.eq(b)]
        m.d.comb += [rflags.iret.eq(last or row.sysop == SysOp.IRETF), rflags.last.eq(last), rflags.ends.eq(last)]
        if row.amode == AMode.SETSP:
            m.d.sync += regs[Reg.RSP].eq(address)
        if row.op == Op.JMPA:
            m.d.sync += rip.eq(a)
        if row.sysop in (SysOp.DELIVER, SysOp.FAR):
            m.d.sync += cs.eq(gates.cs)
            with m.If(gates.ss_we):
                m.d.sync += ss.eq(gates.ss)
