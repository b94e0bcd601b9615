"""The decode stage: an instruction's bytes become uops, one a cycle; the sequencer walks routines; branches are predicted.

The table's control word (`hw.control`) says what; this stage fills in registers, immediates and sizes, checks legality and
privilege, and turns what decoding alone can find into a `Fault`.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.control import DELIVER, MSIZE_OF_OPERAND, SIZE_OF_INSN, Ctl, SysClass, lower_rom, lower_table
from hw.isa.facts import EventClass, Op, Reg, SysOp, Vector
from hw.isa.rows import AMode, Flow, Priv, Raise, Sel, SizeRule, When
from hw.predict import ReturnStack
from hw.types import AKind, BKind, Decoded, Fault, Insn, Override, Redirect, Rep


class Decode(Component):
    """Decoder, sequencer and static branch prediction.

    Members
    -------
    i : instructions from the length stage. o : uops, registered.
    kill : drop the buffered uop and whatever routine is being walked, in this cycle.
    redirect : a predicted-taken branch has been issued in this cycle; younger fetches must be dropped.
    deliver, deliver_error : start the delivery routine in the next cycle (with kill); whether it pushes an error code.
    cpl, iopl : the current privilege, for checks.
    delivering : the delivery routine is being walked.
    """

    i: In(stream.Signature(Insn))
    o: Out(stream.Signature(Decoded))
    kill: In(1)
    redirect: Out(Redirect)
    deliver: In(1)
    deliver_error: In(1)
    cpl: In(2)
    iopl: In(2)
    delivering: Out(1)

    def elaborate(self, platform):
        m = Module()
        insn = self.i.payload
        row, ctl = Signal(Ctl), Signal(Ctl)
        upc = Signal(8)  # ROM address + 1; 0 at the start of an instruction
        upc_now = Signal(8)
        with_error = Signal()
        in_routine = upc != 0
        m.submodules.stack = stack = ReturnStack()

        lower_table(m, row, insn)
        m.d.comb += upc_now.eq(Mux(in_routine, upc, row.routine))
        m.d.comb += ctl.eq(row)
        with m.If(upc_now != 0):
            lower_rom(m, ctl, (upc_now - 1)[:8])

        # the sequencer
        bad = Signal(Fault)
        self._checks(m, row, insn, bad)
        fault = bad.valid
        condition = Mux(self.delivering, with_error, insn.rep != Rep.NONE)
        skip = Signal()
        m.d.comb += skip.eq(
            ~fault
            & (
                ((ctl.when == When.REP.value) & ~condition)
                | ((ctl.when == When.ERROR.value) & ~condition)
                | ((ctl.when == When.NOERROR.value) & condition)
            )
        )
        last = Signal()
        m.d.comb += last.eq(fault | (upc_now == 0) | Mux(condition, ctl.last1, ctl.last0))
        have = self.i.valid | self.delivering
        slot = ~self.o.valid | self.o.ready
        issue = Signal()
        m.d.comb += issue.eq(have & slot & ~skip & ~self.kill)
        advance = issue | (have & skip)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(advance):
            m.d.sync += upc.eq(upc_now + 1)
        with m.If(issue):
            m.d.sync += self.o.valid.eq(1)
            with m.If(last):
                m.d.sync += upc.eq(0)
                with m.If(self.delivering):
                    m.d.sync += self.delivering.eq(0)
                with m.Elif(~ctl.loop | fault):
                    m.d.comb += self.i.ready.eq(1)
        with m.If(self.kill):
            m.d.sync += [self.o.valid.eq(0), upc.eq(0), self.delivering.eq(0)]
        with m.If(self.deliver):
            m.d.sync += [upc.eq(DELIVER + 1), self.delivering.eq(1), with_error.eq(self.deliver_error)]

        out = Signal(Decoded)
        u, g = out.u, out.g
        with m.If(issue):
            m.d.sync += self.o.payload.eq(out)
        size, load, store = Signal(2), Signal(), Signal()
        self._sizes(m, ctl, row, insn, u, size)
        self._operands(m, ctl, insn, u, size, load, store, fault)
        self._address(m, ctl, insn, u, g, size, load, store, fault)
        self._branch(m, ctl, insn, u, stack, issue & ~fault)
        started = Signal()  # the first uop of a routine may be a skipped row
        m.d.comb += [
            u.pc.eq(insn.pc),
            u.next_pc.eq(insn.next_pc),
            u.length.eq(insn.length),
            u.bytes.eq(insn.bytes),
            u.first.eq(~started & ~self.delivering),
            u.last.eq(last),
            u.deliver.eq(self.delivering),
            u.iret.eq(ctl.iret),
            u.fault.eq(bad),
            u.loop.eq(ctl.loop),
            u.cond.eq(
                Mux(
                    ctl.fixed_cond,
                    ctl.cond,
                    Mux(ctl.op == Op.REPNEXT, Cat(insn.rep == Rep.F2, Const(2, 3)), insn.opcode[0:4]),
                )
            ),
            u.cl.eq(ctl.cl),
            u.op.eq(ctl.op),
            u.imm.eq(Mux(self.delivering, 0, Mux(ctl.one, 1, insn.imm))),
        ]
        with m.If(issue):
            m.d.sync += started.eq(~last)
        with m.If(self.kill):
            m.d.sync += started.eq(0)
        with m.If(~fault):
            m.d.comb += [u.flags.eq(ctl.flags), u.sysop.eq(ctl.sysop)]
        return m

    def _sizes(self, m, ctl, row, insn, u, size):
        rule = Signal(4)
        wide, short = insn.rex[3], insn.opsize & ~insn.rex[3]
        m.d.comb += rule.eq(Mux(ctl.size == SIZE_OF_INSN, row.size, ctl.size))
        with m.Switch(rule):
            for fixed in (SizeRule.B, SizeRule.W, SizeRule.D, SizeRule.Q):
                with m.Case(fixed.value):
                    m.d.comb += size.eq(fixed.value)
            with m.Case(SizeRule.V.value):
                m.d.comb += size.eq(Mux(wide, 3, Mux(short, 1, 2)))
            with m.Case(SizeRule.D64.value):
                m.d.comb += size.eq(Mux(short, 1, 3))
            with m.Case(SizeRule.Y.value):
                m.d.comb += size.eq(Mux(wide, 3, 2))
            with m.Case(SizeRule.A.value):
                m.d.comb += size.eq(Mux(insn.asize, 2, 3))
        m.d.comb += [
            u.size.eq(size),
            u.bsize.eq(Mux(ctl.half, size - 1, ctl.bsize)),
            u.msize.eq(Mux(ctl.msize == MSIZE_OF_OPERAND, size, ctl.msize)),
        ]
        with m.If(ctl.op == Op.STEP):  # an index has the address size, its step the operand size
            m.d.comb += u.bsize.eq(Mux(insn.asize, 2, 3))
        extends = (ctl.op == Op.MOVZX) | (ctl.op == Op.MOVSX)
        with m.If(extends & (ctl.amode == AMode.EA.value)):
            m.d.comb += u.msize.eq(ctl.bsize)

    def _operands(self, m, ctl, insn, u, size, load, store, fault):
        """Registers of operands a, b and d. Byte registers 4 to 7 without REX are ah to bh."""
        memory = Signal()
        m.d.comb += memory.eq((ctl.amode == AMode.EA.value) & (insn.modrm[6:8] != 3))
        rm = Cat(insn.modrm[0:3], insn.rex[0])
        reg = Cat(insn.modrm[3:6], insn.rex[2])
        low = Cat(insn.opcode[0:3], insn.rex[0])
        extends = (ctl.op == Op.MOVZX) | (ctl.op == Op.MOVSX)
        byte_b = Mux(extends, ctl.bsize == 0, size == 0)

        def place(sel, number, high, byte):
            with m.If(sel < 32):
                m.d.comb += number.eq(sel)
            for code, field in ((Sel.E, rm), (Sel.G, reg), (Sel.Z, low)):
                with m.If(sel == code.value):
                    legacy = byte & ~insn.has_rex & (field[2:4] == 1) & ~(memory & (code is Sel.E))
                    m.d.comb += [number.eq(Mux(legacy, field[0:2], field)), high.eq(legacy)]

        def is_register(sel):
            return (sel < 32) | (sel == Sel.G.value) | (sel == Sel.Z.value) | ((sel == Sel.E.value) & ~memory)

        place(ctl.a, u.a_reg, u.a_high, size == 0)
        place(ctl.b, u.b_reg, u.b_high, byte_b)
        place(ctl.d, u.d_reg, u.d_high, size == 0)
        a_memory = (ctl.a == Sel.MEM.value) | ((ctl.a == Sel.E.value) & memory & ctl.a_read)
        b_memory = (ctl.b == Sel.MEM.value) | ((ctl.b == Sel.E.value) & memory)
        with m.If(a_memory):
            m.d.comb += u.a_kind.eq(AKind.MEM)
        with m.Elif(is_register(ctl.a)):
            m.d.comb += u.a_kind.eq(AKind.REG)
        with m.If(b_memory):
            m.d.comb += u.b_kind.eq(BKind.MEM)
        with m.Elif(is_register(ctl.b)):
            m.d.comb += u.b_kind.eq(BKind.REG)
        for code, kind in ((Sel.IMM, BKind.IMM), (Sel.NEXT, BKind.NEXT), (Sel.ADDR, BKind.ADDR)):
            with m.If(ctl.b == code.value):
                m.d.comb += u.b_kind.eq(kind)

        live = ~fault
        m.d.comb += [
            u.d_we.eq(is_register(ctl.d) & live),
            load.eq((ctl.load | a_memory | b_memory) & live),
            store.eq((ctl.store | ((ctl.d == Sel.E.value) & memory)) & live),
            u.load.eq(load),
            u.store.eq(store),
            u.lock.eq(insn.lock | ctl.lock),
        ]
        field = insn.modrm[3:6]
        with m.Switch(ctl.sysclass):
            with m.Case(SysClass.FIXED):
                m.d.comb += u.sysreg.eq(ctl.sysreg)
            with m.Case(SysClass.SEGMENT, SysClass.CONTROL):
                m.d.comb += u.sysreg.eq(ctl.sysreg + reg)
            with m.Case(SysClass.DEBUG):  # dr4 and dr5 are dr6 and dr7
                m.d.comb += u.sysreg.eq(ctl.sysreg + Mux(field[1:3] == 2, field + 2, field))

    def _address(self, m, ctl, insn, u, g, size, load, store, fault):
        mod, rm, sib = insn.modrm[6:8], insn.modrm[0:3], insn.sib
        bytes_ = Signal(4)
        disp = insn.disp.as_signed()
        small = Signal(64)
        m.d.comb += [
            bytes_.eq(1 << size),
            small.eq(Mux(ctl.scaled, ctl.disp.as_signed() << size, ctl.disp.as_signed())),
            g.asize.eq(insn.asize & ~self.delivering),
            g.stack.eq(ctl.stack),
            g.intent.eq(ctl.intent | (load & store)),
            g.if_switch.eq(ctl.if_switch),
            g.use.eq(load | store | (ctl.b == Sel.ADDR.value)),
        ]
        base, base_en = Signal(5), Signal()
        # the register that ModRM and SIB name as base; rsp and rbp make a bad address a stack fault
        named, has_base, on_stack = Signal(4), Signal(), Signal()
        g_index = Cat(sib[3:6], insn.rex[1])
        m.d.comb += [
            named.eq(Cat(Mux(rm == 4, sib[0:3], rm), insn.rex[0])),
            has_base.eq(Mux(rm == 4, (sib[0:3] != 5) | (mod != 0), (rm != 5) | (mod != 0))),
            on_stack.eq(has_base & ((named == Reg.RSP) | (named == Reg.RBP)) & (insn.seg == Override.NONE)),
        ]
        m.d.comb += [g.base.eq(base), g.base_en.eq(base_en)]
        with m.Switch(ctl.amode):
            with m.Case(AMode.EA.value):
                m.d.comb += [
                    g.disp.eq(disp + small.as_signed()),
                    g.seg.eq(insn.seg),
                    g.rip.eq((mod == 0) & (rm == 5)),
                    base.eq(named),
                    base_en.eq(has_base),
                    g.index.eq(Cat(sib[3:6], insn.rex[1])),
                    g.index_en.eq((rm == 4) & (g_index != 4)),
                    g.scale.eq(sib[6:8]),
                    g.stack.eq(ctl.stack | on_stack),
                ]
                with m.If(ctl.bias & has_base & (named == Reg.RSP)):
                    m.d.comb += g.disp.eq(disp + bytes_)
            with m.Case(AMode.PUSH.value):
                m.d.comb += [base.eq(Reg.RSP), base_en.eq(1), g.disp.eq(-bytes_), u.sp_we.eq(~fault), g.asize.eq(0)]
            with m.Case(AMode.POP.value):
                m.d.comb += [
                    base.eq(Reg.RSP),
                    base_en.eq(1),
                    g.sp_delta.eq(bytes_ + insn.imm[0:16]),
                    u.sp_we.eq(~fault),
                    g.asize.eq(0),
                ]
            with m.Case(AMode.LEAVE.value):
                m.d.comb += [
                    base.eq(Reg.RBP),
                    base_en.eq(1),
                    g.sp_delta.eq(bytes_),
                    u.sp_we.eq(~fault),
                    g.asize.eq(0),
                ]
            with m.Case(AMode.SI.value):
                m.d.comb += [base.eq(Reg.RSI), base_en.eq(1), g.seg.eq(insn.seg)]
            with m.Case(AMode.DI.value):
                m.d.comb += [base.eq(Reg.RDI), base_en.eq(1)]
            with m.Case(AMode.MOFFS.value):
                m.d.comb += [g.disp.eq(insn.imm), g.seg.eq(insn.seg)]
            with m.Case(AMode.BASE.value):
                m.d.comb += [base.eq(ctl.base), base_en.eq(1), g.disp.eq(small), g.asize.eq(0)]
                with m.If(ctl.seg):  # a bit string, addressed through a temporary
                    m.d.comb += [g.seg.eq(insn.seg), g.stack.eq(on_stack)]
            with m.Case(AMode.GATE.value):
                m.d.comb += [g.gate.eq(1), g.disp.eq(ctl.disp), g.asize.eq(0)]
            with m.Case(AMode.SETSP.value):
                m.d.comb += [
                    base.eq(ctl.base),
                    base_en.eq(1),
                    g.disp.eq(small),
                    g.sp_delta.eq(Mux(self.delivering, 0, insn.imm[0:16])),
                    u.sp_we.eq(~fault),
                    g.asize.eq(0),
                ]
        with m.If(self.delivering):
            m.d.comb += g.seg.eq(Override.NONE)

    def _checks(self, m, row, insn, bad):
        """Faults known now, in the order of the manual: fetch, then invalid opcode, then privilege."""
        memory = insn.modrm[6:8] != 3
        writes_memory = row.lock_ok & memory
        illegal = ~row.valid | (insn.lock & ~writes_memory) | (row.need_mem & ~memory) | (row.need_reg & memory)
        illegal |= row.no_opsize & insn.opsize
        field, extended = insn.modrm[3:6], insn.rex[2]
        undefined = Signal()
        m.d.comb += undefined.eq(illegal | (row.raises == Raise.UD.value))
        with m.Switch(row.sysclass):
            with m.Case(SysClass.SEGMENT):
                with m.If((field > 5) | ((row.sysop != SysOp.NONE) & (field == 1))):
                    m.d.comb += undefined.eq(1)
            with m.Case(SysClass.CONTROL):
                with m.If(Mux(extended, field != 0, (field == 1) | (field > 4))):
                    m.d.comb += undefined.eq(1)
            with m.Case(SysClass.DEBUG):
                with m.If(extended):
                    m.d.comb += undefined.eq(1)
        with m.If(undefined):
            m.d.comb += [bad.valid.eq(1), bad.vector.eq(Vector.UD)]
        with m.Else():
            refused = ((row.priv == Priv.CPL0.value) & (self.cpl != 0)) | (
                (row.priv == Priv.IOPL.value) & (self.cpl > self.iopl)
            )
            with m.If(refused):
                m.d.comb += [
                    bad.valid.eq(1),
                    bad.vector.eq(Vector.GP),
                    bad.has_error.eq(1),
                ]
            with m.Elif(row.raises == Raise.INT3.value):
                m.d.comb += [bad.valid.eq(1), bad.vector.eq(Vector.BP), bad.kind.eq(EventClass.SOFT)]
            with m.Elif(row.raises == Raise.INTN.value):
                m.d.comb += [bad.valid.eq(1), bad.vector.eq(insn.imm[0:8]), bad.kind.eq(EventClass.SOFT)]
            with m.Elif(row.raises == Raise.ICEBP.value):
                m.d.comb += [bad.valid.eq(1), bad.vector.eq(Vector.DB), bad.kind.eq(EventClass.ICEBP)]
        with m.If(insn.fault.valid):
            m.d.comb += bad.eq(insn.fault)
        with m.If(self.delivering):
            m.d.comb += bad.eq(Fault.const({}))

    def _branch(self, m, ctl, insn, u, stack, issue):
        """Static prediction: backward taken, forward not; returns by the return stack."""
        near = Signal(64)
        taken, predicted = Signal(), Signal(64)
        m.d.comb += [
            near.eq(insn.next_pc + insn.imm),
            predicted.eq(Mux(taken, near, insn.next_pc)),
            u.predicted.eq(predicted),
            self.redirect.target.eq(predicted),
            stack.ret_pc.eq(insn.next_pc),
        ]
        with m.Switch(ctl.flow):
            with m.Case(Flow.JUMP.value):
                m.d.comb += [u.branch.eq(1), taken.eq(1), self.redirect.valid.eq(issue)]
            with m.Case(Flow.CALL.value):
                m.d.comb += [u.branch.eq(1), taken.eq(1), self.redirect.valid.eq(issue), stack.push.eq(issue)]
            with m.Case(Flow.COND.value):
                m.d.comb += [u.branch.eq(1), taken.eq(insn.imm[63]), self.redirect.valid.eq(issue & taken)]
            with m.Case(Flow.RET.value):
                m.d.comb += [u.branch.eq(1), self.redirect.valid.eq(issue), stack.pop.eq(issue), predicted.eq(stack.top)]
            with m.Case(Flow.INDIRECT.value):
                m.d.comb += u.branch.eq(1)
            with m.Case(Flow.CALLIND.value):
                m.d.comb += [u.branch.eq(1), stack.push.eq(issue)]
