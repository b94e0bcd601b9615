"""Checks of gates, segment descriptors and selectors, as uops of the delivery, iret, lret, ltr and mov routines see them.

Each check is one combinational operation in execute that computes a result or raises a fault; what later rows need (selector,
stack choice, new privilege) is kept here from one row to the next. Order of checks: trap semantics 1.3 and 6.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.isa.facts import EventClass, Op, Size, Vector


class Gates(Component):
    """The delivery's checks.

    Members
    -------
    op, bsize, a, b : the operation, valid with fire; fire : it leaves execute without an older fault.
    to_ss : mov loads ss, not another segment register.
    result : combinational. fault, vector, error : combinational; error without the EXT bit.
    cpl, nt, gdt_base, gdt_limit, tr, tr_base, tr_limit : the state that checks look at.
    event_vector, event_kind, event_rip, event_flags, event_error : the event being delivered.
    switch : the delivery takes another stack (after CODE). trap_gate, new_cpl, selector : of the gate, for retirement.
    """

    op: In(Op)
    bsize: In(2)
    a: In(64)
    b: In(64)
    fire: In(1)
    to_ss: In(1)
    result: Out(64)
    fault: Out(1)
    vector: Out(8)
    error: Out(16)
    cpl: In(2)
    nt: In(1)
    gdt_base: In(64)
    gdt_limit: In(16)
    tr: In(16)
    tr_base: In(64)
    tr_limit: In(32)
    event_vector: In(8)
    event_kind: In(EventClass)
    event_rip: In(64)
    event_flags: In(64)
    event_error: In(16)
    switch: Out(1)
    trap_gate: Out(1)
    new_cpl: Out(2)
    selector: Out(16)

    def elaborate(self, platform):
        m = Module()
        a, b = self.a, self.b
        ist = Signal(3)
        # descriptor fields (SDM vol. 3, 3.4.5)
        kind, system, dpl, present = a[40:44], ~a[44], a[45:47], a[47]
        is_code = ~system & a[43]
        conforming = a[42]
        long_mode = a[53] & ~a[54]

        def refuse(condition, vector, error):
            """Raises a fault if nothing raised one before."""
            with m.If(condition & ~refused[-1]):
                m.d.comb += [self.fault.eq(1), self.vector.eq(vector), self.error.eq(error)]
            after = Signal(name=f"refused{len(refused)}")
            m.d.comb += after.eq(refused[-1] | condition)
            refused.append(after)

        def beyond(selector, size):
            return (selector[2]) | ((selector[3:16] << 3) + (size - 1) > self.gdt_limit)

        def place(selector):
            return self.gdt_base + (selector[3:16] << 3)

        def plain(selector):
            return Cat(Const(0, 2), selector[2:16])

        with m.Switch(self.op):
            with m.Case(Op.GATE):
                refused = [Const(0, 1)]
                selector = a[16:32]
                by_vector = Cat(Const(2, 3), self.event_vector)
                refuse(system == 0, Vector.GP, by_vector)
                refuse((kind & 0b1110) != 0b1110, Vector.GP, by_vector)
                refuse((self.event_kind == EventClass.SOFT) & (dpl < self.cpl), Vector.GP, by_vector)
                refuse(~present, Vector.NP, by_vector)
                refuse(selector[2:16] == 0, Vector.GP, 0)
                refuse(beyond(selector, 8), Vector.GP, plain(selector))
                m.d.comb += self.result.eq(place(selector))
                with m.If(self.fire):
                    m.d.sync += [self.selector.eq(selector), ist.eq(a[32:35]), self.trap_gate.eq(a[40])]
            with m.Case(Op.CODE):
                refused = [Const(0, 1)]
                refuse(~is_code | (dpl > self.cpl), Vector.GP, plain(self.selector))
                refuse(~long_mode, Vector.GP, plain(self.selector))
                refuse(~present, Vector.NP, plain(self.selector))
                inner = ~conforming & (dpl < self.cpl)
                with m.If(self.fire):
                    m.d.sync += [self.new_cpl.eq(Mux(inner, dpl, self.cpl)), self.switch.eq(inner | (ist != 0))]
            with m.Case(Op.STKADDR):
                refused = [Const(0, 1)]
                offset = Signal(7)
                m.d.comb += offset.eq(Mux(ist != 0, 28 + (ist << 3), 4 + (self.new_cpl << 3)))
                refuse(self.switch & (offset + 7 > self.tr_limit), Vector.TS, plain(self.tr))
                m.d.comb += self.result.eq(self.tr_base + offset)
            with m.Case(Op.STACK):
                m.d.comb += self.result.eq(Mux(self.switch, a, b) & ~0xF)
            with m.Case(Op.TARGET):
                m.d.comb += self.result.eq(Cat(a[0:16], a[48:64], b[0:32]))
            with m.Case(Op.CANON):
                refused = [Const(0, 1)]
                refuse(a[47:].any() & ~a[47:].all(), Vector.GP, 0)
            with m.Case(Op.EVENT):
                with m.Switch(self.bsize):
                    with m.Case(Size.B):
                        m.d.comb += self.result.eq(self.event_rip)
                    with m.Case(Size.W):
                        m.d.comb += self.result.eq(self.event_flags)
                    with m.Default():
                        m.d.comb += self.result.eq(self.event_error)
            with m.Case(Op.CSADDR):
                refused = [Const(0, 1)]
                refuse(self.nt & (self.bsize == Size.W), Vector.GP, 0)
                refuse(a[2:16] == 0, Vector.GP, 0)
                refuse(beyond(a[:16], 8), Vector.GP, plain(a))
                refuse(a[0:2] < self.cpl, Vector.GP, plain(a))
                m.d.comb += self.result.eq(place(a[:16]))
            with m.Case(Op.CSCHK):
                refused = [Const(0, 1)]
                refuse(~is_code | ~long_mode, Vector.GP, plain(b))
                refuse(Mux(conforming, dpl > b[0:2], dpl != b[0:2]), Vector.GP, plain(b))
                refuse(~present, Vector.NP, plain(b))
            with m.Case(Op.SSADDR):
                refused = [Const(0, 1)]
                null = b[2:16] == 0
                refuse(null & ((a[0:2] == 3) | (b[0:2] != a[0:2])), Vector.GP, 0)
                refuse(~null & (beyond(b[:16], 8) | (b[0:2] != a[0:2])), Vector.GP, plain(b))
                m.d.comb += self.result.eq(place(b[:16]))
            with m.Case(Op.SSCHK):
                refused = [Const(0, 1)]
                null = b[2:16] == 0
                data = ~system & ~a[43] & a[41]
                refuse(~null & (~data | (dpl != b[0:2])), Vector.GP, plain(b))
                refuse(~null & ~present, Vector.SS, plain(b))
            with m.Case(Op.SEGADDR):
                refused = [Const(0, 1)]
                null = a[2:16] == 0
                refuse(self.to_ss & null & ((a[0:2] == 3) | (a[0:2] != self.cpl)), Vector.GP, 0)
                refuse(~null & (beyond(a[:16], 8) | (self.to_ss & (a[0:2] != self.cpl))), Vector.GP, plain(a))
                m.d.comb += self.result.eq(place(a[:16]))
                with m.If(self.fire):
                    m.d.sync += self.selector.eq(a)
            with m.Case(Op.SEGCHK):
                refused = [Const(0, 1)]
                sel, null = plain(self.selector), self.selector[2:16] == 0
                stack = ~system & ~a[43] & a[41] & (dpl == self.cpl)
                reach = (is_code & conforming) | ((self.selector[0:2] <= dpl) & (self.cpl <= dpl))
                readable = ~system & (~a[43] | a[41]) & reach
                refuse(~null & ~Mux(self.to_ss, stack, readable), Vector.GP, sel)
                refuse(~null & ~present, Mux(self.to_ss, Vector.SS, Vector.NP), sel)
            with m.Case(Op.TRADDR):
                refused = [Const(0, 1)]
                refuse(a[2:16] == 0, Vector.GP, 0)
                refuse(beyond(a[:16], 16), Vector.GP, plain(a))
                m.d.comb += self.result.eq(place(a[:16]))
                with m.If(self.fire):
                    m.d.sync += self.selector.eq(a)
            with m.Case(Op.TRCHK):
                refused = [Const(0, 1)]
                refuse(~system | (kind != 9), Vector.GP, plain(self.selector))
                refuse(~present, Vector.NP, plain(self.selector))
                m.d.comb += self.result.eq(Cat(a[16:40], a[56:64], b[0:32]))
            with m.Case(Op.TRLIMIT):
                limit = Cat(a[0:16], a[48:52])
                m.d.comb += self.result.eq(Mux(a[55], Cat(Const(0xFFF, 12), limit), limit))
            with m.Case(Op.TRBUSY):
                m.d.comb += self.result.eq(a | (1 << 41))
        return m
