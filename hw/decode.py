"""The decode stage: an instruction's bytes become uops, one a cycle; the sequencer walks routines; branches are predicted.

The table's control word (`hw.control`) says what; this stage fills in registers, immediates and sizes, checks legality and
privilege, and turns what decoding alone can find into a `Fault`.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.breakpoints import Watch
from hw.config import Vendor
from hw.control import DELIVER, ROM, Ctl, lower_rom, lower_table
from hw.handshake import has_room, register_output
from hw.invariant import invariant
from hw.isa.facts import Op, Vector
from hw.isa.rows import Flow, Priv, When
from hw.legality import lower_checks
from hw.operands import lower_address, lower_operands, lower_sizes
from hw.predict import AgreePredictor, ReturnStack, TargetTable
from hw.types import Decoded, Fault, FpuControl, Insn, Modes, Redirect, Rep


class Decode(Component):
    """Decoder, sequencer and branch prediction.

    Members
    -------
    i : instructions from the length stage. o : uops, registered.
    kill : drop the buffered uop and whatever routine is being walked, in this cycle.
    redirect : a predicted-taken branch has been issued in this cycle; younger fetches must be dropped.
    deliver, deliver_error : start the delivery routine in the next cycle (with kill); whether it pushes an error code.
    cpl, iopl, guard, de, modes, fpu : the current privilege, DR7.GD, CR4.DE, and more bits of registers, for checks.
    delivering : the delivery routine is being walked.
    resolved, resolved_pc, agreed : how a conditional branch went (`hw.predict.AgreePredictor`).
    led, resolved_target : an indirect branch at resolved_pc went there (`hw.predict.TargetTable`).
    """

    i: In(stream.Signature(Insn))
    o: Out(stream.Signature(Decoded))
    kill: In(1)
    redirect: Out(Redirect)
    deliver: In(1)
    deliver_error: In(1)
    cpl: In(2)
    iopl: In(2)
    guard: In(1)
    de: In(1)
    modes: In(Modes)
    fpu: In(FpuControl)
    delivering: Out(1)
    resolved: In(1)
    resolved_pc: In(64)
    agreed: In(1)
    led: In(1)
    resolved_target: In(64)

    def __init__(self, vendor: Vendor = Vendor.INTEL):
        super().__init__()
        self._vendor = vendor

    def elaborate(self, platform):
        m = Module()
        insn = self.i.payload
        row, ctl = Signal(Ctl), Signal(Ctl)
        upc = Signal(9)  # ROM address + 1; 0 at the start of an instruction
        upc_now = Signal(9)
        with_error = Signal()
        in_routine = upc != 0
        m.submodules.stack = stack = ReturnStack()
        m.submodules.agree = agree = AgreePredictor()
        m.submodules.targets = targets = TargetTable()
        m.d.comb += [
            agree.pc.eq(insn.pc),
            agree.resolved.eq(self.resolved),
            agree.resolved_pc.eq(self.resolved_pc),
            agree.agreed.eq(self.agreed),
            targets.pc.eq(insn.pc),
            targets.resolved.eq(self.led),
            targets.resolved_pc.eq(self.resolved_pc),
            targets.resolved_target.eq(self.resolved_target),
        ]

        lower_table(m, row, insn, self._vendor)
        asks = (row.priv == Priv.IO.value) & (self.cpl > self.iopl)
        m.d.comb += upc_now.eq(Mux(in_routine, upc, Mux(asks, row.asking, row.routine)))
        m.d.comb += ctl.eq(row)
        with m.If(upc_now != 0):
            lower_rom(m, ctl, (upc_now - 1)[:9])

        # the sequencer
        bad = Signal(Fault)
        lower_checks(m, row, self.delivering, self.cpl, self.iopl, self.guard, self.de, self.modes, self.fpu, insn, bad)
        fault = bad.valid
        condition = Mux(self.delivering, with_error, insn.rep != Rep.NONE)
        turn = Signal(5, init=1)  # of enter
        level = insn.imm[16:21]  # of nesting
        skip = Signal()
        m.d.comb += skip.eq(
            ~fault
            & (
                ((ctl.when == When.REP.value) & ~condition)
                | ((ctl.when == When.ERROR.value) & ~condition)
                | ((ctl.when == When.NOERROR.value) & condition)
                | ((ctl.when == When.NESTED.value) & (level == 0))
                | ((ctl.when == When.TURN.value) & (turn >= level))
            )
        )
        last = Signal()
        m.d.comb += last.eq(fault | (upc_now == 0) | Mux(condition, ctl.last1, ctl.last0))
        have = self.i.valid | self.delivering
        issue = Signal()
        m.d.comb += issue.eq(have & has_room(self.o) & ~skip & ~self.kill)
        advance = issue | (have & skip)
        with m.If(advance):
            m.d.sync += upc.eq(upc_now + 1)
        with m.If(issue & ctl.back & ~fault):
            m.d.sync += [upc.eq(upc_now - 1), turn.eq(turn + 1)]
        with m.If((issue & last) | self.kill):
            m.d.sync += turn.eq(1)
        with m.If(issue & last):
            m.d.sync += upc.eq(0)
            with m.If(self.delivering):
                m.d.sync += self.delivering.eq(0)
            with m.Elif(~ctl.loop | fault):
                m.d.comb += self.i.ready.eq(1)
        with m.If(self.kill):
            m.d.sync += [upc.eq(0), self.delivering.eq(0)]
        with m.If(self.deliver):
            m.d.sync += [upc.eq(DELIVER + 1), self.delivering.eq(1), with_error.eq(self.deliver_error)]

        out = Signal(Decoded)
        u, g = out.u, out.g
        register_output(m, self.o, issue, out, self.kill)
        size, load, store = Signal(2), Signal(), Signal()
        whole = lower_sizes(m, ctl, row, insn, u, size)
        lower_operands(m, ctl, insn, u, size, load, store, fault)
        lower_address(m, ctl, self.delivering, insn, u, g, size, whole, turn, load, store, fault)
        self._branch(m, ctl, insn, u, stack, agree.agree, targets.target, issue & ~fault)
        with m.If(self.delivering):
            invariant(m, "decode.deliver", (upc > DELIVER) & (upc <= len(ROM)), "row {} of the routines", upc)
        started = Signal()  # the first uop of a routine may be a skipped row
        m.d.comb += [
            u.pc.eq(insn.pc),
            u.next_pc.eq(insn.next_pc),
            u.length.eq(insn.length),
            u.bytes.eq(insn.bytes),
            u.first.eq(~started & ~self.delivering),
            u.last.eq(last),
            u.deliver.eq(self.delivering),
            u.iret.eq(ctl.iret & (~fault | (bad.vector == Vector.GP)) & ~insn.fault.valid),  # NT=1 is executing it
            u.fault.eq(bad),
            u.cond.eq(
                Mux(
                    ctl.fixed_cond,
                    ctl.cond,
                    Mux(ctl.op == Op.REPNEXT, Cat(insn.rep == Rep.F2, Const(2, 3)), insn.opcode[0:4]),
                )
            ),
            u.cl.eq(ctl.cl),
            u.lock.eq((insn.lock | row.lock) & ~self.delivering),
            u.op.eq(ctl.op),
            u.imm.eq(Mux(self.delivering, 0, Mux(ctl.one, 1, insn.imm))),
        ]
        if self._vendor is Vendor.AMD:  # F2 and F3 replace the condition of loope and loopne
            with m.If((ctl.op == Op.LOOP) & (insn.rep != Rep.NONE)):
                m.d.comb += u.cond.eq(Cat(insn.rep == Rep.F2, Const(2, 3)))
        with m.If((ctl.op == Op.IN) | (ctl.op == Op.OUT)):
            m.d.comb += u.watch.eq(Watch.PORT)
        with m.Elif((load | store | (ctl.probe & ~ctl.intent)) & ~ctl.implicit & ~self.delivering):
            m.d.comb += u.watch.eq(Mux(store, Watch.WRITE, Watch.READ))
        with m.If(issue):
            m.d.sync += started.eq(~last)
        with m.If(self.kill):
            m.d.sync += started.eq(0)
        with m.If(~fault):
            m.d.comb += [u.flags.eq(ctl.flags), u.sysop.eq(ctl.sysop)]
        return m

    def _branch(self, m, ctl, insn, u, stack, agree, target, issue):
        """Conditional branches go backward and not forward unless they did otherwise; returns and indirect branches go where
        the return stack and the table of targets say."""
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
                m.d.comb += [u.branch.eq(1), taken.eq(insn.imm[63] ^ ~agree), self.redirect.valid.eq(issue & taken)]
            with m.Case(Flow.RET.value):
                m.d.comb += [u.branch.eq(1), self.redirect.valid.eq(issue), stack.pop.eq(issue), predicted.eq(stack.top)]
            with m.Case(Flow.INDIRECT.value):
                m.d.comb += [u.branch.eq(1), u.indirect.eq(1), predicted.eq(target), self.redirect.valid.eq(issue)]
            with m.Case(Flow.CALLIND.value):
                m.d.comb += [u.branch.eq(1), u.indirect.eq(1), predicted.eq(target), self.redirect.valid.eq(issue)]
                m.d.comb += stack.push.eq(issue)
