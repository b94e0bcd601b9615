"""The memory stage: waits for the load's answer and gathers the operands, all final when execute sees them."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.handshake import has_room, register_output
from hw.invariant import invariant
from hw.isa.facts import Op, Reg
from hw.regfile import Bypass, forward
from hw.types import Addressed, AKind, BKind, Operands


class MemoryStage(Component):
    """Stage M.

    Members
    -------
    i, o : addressed uops in, uops with operands out (registered). kill : drop both, and the answer in flight.
    resp_valid, resp_data : answers of data memory, in order.
    a_addr .. c_data : register file ports; c is always rcx.
    owed : memory owes an answer, after this cycle's.
    from_x, from_w : bypasses, youngest first.
    """

    i: In(stream.Signature(Addressed))
    o: Out(stream.Signature(Operands))
    kill: In(1)
    resp_valid: In(1)
    resp_data: In(64)
    a_addr: Out(5)
    a_data: In(64)
    b_addr: Out(5)
    b_data: In(64)
    c_addr: Out(5)
    c_data: In(64)
    from_x: In(Bypass)
    from_w: In(Bypass)
    owed: Out(1)

    def elaborate(self, platform):
        m = Module()
        u = self.i.payload.u
        stages = (self.from_x, self.from_w)
        m.d.comb += [self.a_addr.eq(u.a_reg), self.b_addr.eq(u.b_reg), self.c_addr.eq(Reg.RCX)]
        a, _ = forward(m, "a", u.a_reg, self.a_data, stages)
        b, _ = forward(m, "b", u.b_reg, self.b_data, stages)
        c, _ = forward(m, "c", Reg.RCX, self.c_data, stages)

        # an answer that comes while execute is busy is kept; answers to dropped loads are skipped
        kept, kept_data = Signal(), Signal(64)
        dropped = Signal(4)
        answer = Signal()
        have = Signal()
        loaded = Signal(64)
        waiting = Signal()  # a load is in this stage and its answer has not come before this cycle
        m.d.comb += [
            waiting.eq(self.i.valid & u.load & ~kept),
            answer.eq(self.resp_valid & (dropped == 0)),
            have.eq(kept | answer),
            loaded.eq(Mux(kept, kept_data, self.resp_data)),
        ]
        double = (u.op == Op.SHLD) | (u.op == Op.SHRD)  # their b is the other register; all others have the count there
        go = Signal()
        m.d.comb += [go.eq(self.i.valid & has_room(self.o) & (~u.load | have) & ~self.kill), self.i.ready.eq(go)]
        with m.If(go | self.kill):
            m.d.sync += kept.eq(0)
        with m.Elif(waiting & answer):
            m.d.sync += [kept.eq(1), kept_data.eq(self.resp_data)]
        m.d.comb += self.owed.eq((waiting & ~answer) | (dropped > self.resp_valid))
        lost = self.kill & waiting & ~answer
        skipped = self.resp_valid & (dropped != 0)
        m.d.sync += dropped.eq(dropped + lost - skipped)
        invariant(m, "memory.answer", ~self.resp_valid | (dropped != 0) | waiting, "an answer that nobody asked for")
        invariant(m, "memory.dropped", ~(lost & ~skipped & (dropped == 15)), "16 answers of dropped loads to come")

        out = Signal(Operands)
        m.d.comb += [
            out.u.eq(u),
            out.count.eq(Mux(u.cl, Mux(double, c, b)[:8], u.imm[:8])),
            out.la.eq(self.i.payload.la),
            out.pa.eq(self.i.payload.pa),
            out.split.eq(self.i.payload.split),
            out.rest.eq(self.i.payload.rest),
            out.sp.eq(self.i.payload.sp),
            out.mem.eq(loaded),
        ]
        with m.Switch(u.a_kind):
            with m.Case(AKind.REG):
                m.d.comb += out.a.eq(a)
            with m.Case(AKind.MEM):
                m.d.comb += out.a.eq(loaded)
        with m.Switch(u.b_kind):
            with m.Case(BKind.REG):
                m.d.comb += out.b.eq(Mux(u.b_high, b[8:16], b))
            with m.Case(BKind.MEM):
                m.d.comb += out.b.eq(loaded)
            with m.Case(BKind.IMM):
                m.d.comb += out.b.eq(u.imm)
            with m.Case(BKind.ADDR):
                m.d.comb += out.b.eq(self.i.payload.ea)
        register_output(m, self.o, go, out, self.kill)
        return m
