"""Delivery's checks of gate, code segment and stack; the unit that also holds those of returns, segment loads and tasks.

Each check is one operation in execute that computes a result or raises a fault; what later rows of a routine and the end of
it need (selectors, stack choice) is kept here. Order of checks: trap semantics 1.3. What belongs to other instructions than a
delivery is in `hw.segments` and `hw.tasks`.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.descriptor import Checks, Descriptor, canonical, error_of, is_null
from hw.isa.facts import EventClass, Op, Size, Vector
from hw.segments import lower_segments
from hw.tasks import lower_tasks


class Gates(Component):
    """Checks of everything that involves a descriptor table or a task state segment.

    Members
    -------
    op, size, bsize, a, b, imm : the operation, valid with valid. fire : it leaves execute without a fault.
    to_ss : a segment load is one of SS, not of another segment register.
    result, store : combinational; what goes to the register and, where the row stores, to memory. keep_memory : nothing is
    stored, the descriptor is as it should be. keep_register, zero : LAR and its kin: the register stays; the zero flag.
    fault, vector, error : combinational; error without the EXT bit.
    cpl, gdt_base, gdt_limit, ldt_base, ldt_limit, tr, tr_base, tr_limit : the state that checks look at.
    event_vector, event_kind, event_rip, event_flags, event_error : the event being delivered.
    switch : a load marked if_switch happens: the delivery or return takes another stack, the selector is not null.
    Combinational from the operation, then kept.
    trap_gate : of the gate. cs, ss, ss_we : the selectors after the delivery or the far transfer; ss stays without ss_we.
    """

    op: In(Op)
    valid: In(1)
    size: In(2)
    bsize: In(2)
    a: In(64)
    b: In(64)
    fire: In(1)
    to_ss: In(1)
    result: Out(64)
    store: Out(64)
    keep_memory: Out(1)
    keep_register: Out(1)
    zero: Out(1)
    fault: Out(1)
    vector: Out(8)
    error: Out(16)
    cpl: In(2)
    gdt_base: In(64)
    gdt_limit: In(16)
    ldt_base: In(64)
    ldt_limit: In(32)
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
    cs: Out(16)
    ss: Out(16)
    ss_we: Out(1)

    def beyond(self, selector, size: int):
        """The descriptor of ``size`` bytes does not lie in its table whole. Without an LDT its limit is 0."""
        last = Cat(Const(7, 3), selector[3:16]) + (size - 8)
        return Mux(selector[2], last > self.ldt_limit, last > self.gdt_limit)

    def place(self, selector):
        """The linear address of a descriptor."""
        return Mux(selector[2], self.ldt_base, self.gdt_base) + Cat(Const(0, 3), selector[3:16])

    def touch(self, m):
        """Memory gets the descriptor marked accessed, unless it is."""
        m.d.comb += [self.store.eq(self.a | 1 << 40), self.keep_memory.eq(self.a[40])]

    def elaborate(self, platform):
        m = Module()
        kept = Signal()  # `switch` of the last operation that decided it
        m.d.comb += [self.switch.eq(kept), self.store.eq(self.result)]
        with m.If(self.fire):
            m.d.sync += kept.eq(self.switch)
        with m.If(self.valid), m.Switch(self.op):
            self._delivery(m)
            lower_segments(m, self)
            lower_tasks(m, self)
        return m

    def _delivery(self, m):
        a, b = self.a, self.b
        what = Descriptor(a)
        selector, ist, target = Signal(16), Signal(3), Signal(64)
        with m.Case(Op.GATE):
            checks = Checks(m, self)
            named = a[16:32]
            by_vector = Cat(Const(2, 3), self.event_vector)
            checks.refuse(~what.system | (what.kind[1:] != 0b111), Vector.GP, by_vector)
            checks.refuse((self.event_kind == EventClass.SOFT) & (what.dpl < self.cpl), Vector.GP, by_vector)
            checks.refuse(~what.present, Vector.NP, by_vector)
            checks.refuse(is_null(named), Vector.GP, 0)
            checks.refuse(self.beyond(named, 8), Vector.GP, error_of(named))
            m.d.comb += self.result.eq(self.place(named))
            with m.If(self.fire):
                m.d.sync += [
                    selector.eq(named),
                    ist.eq(a[32:35]),
                    self.trap_gate.eq(a[40]),
                    target.eq(Cat(a[0:16], a[48:64], b[0:32])),
                ]
        with m.Case(Op.CODE):
            checks = Checks(m, self)
            checks.refuse(~what.code | (what.dpl > self.cpl), Vector.GP, error_of(selector))
            checks.refuse(~what.long, Vector.GP, error_of(selector))
            checks.refuse(~what.present, Vector.NP, error_of(selector))
            inner = ~what.conforming & (what.dpl < self.cpl)
            new_cpl, offset = Signal(2), Signal(7)
            m.d.comb += [
                new_cpl.eq(Mux(inner, what.dpl, self.cpl)),
                self.switch.eq(inner | (ist != 0)),
                offset.eq(Mux(ist != 0, 28 + (ist << 3), 4 + (new_cpl << 3))),
                self.result.eq(self.tr_base + offset),
            ]
            checks.refuse(self.switch & (offset + 7 > self.tr_limit), Vector.TS, error_of(self.tr))
            self.touch(m)
            with m.If(self.fire):
                m.d.sync += [self.cs.eq(Cat(new_cpl, selector[2:])), self.ss.eq(new_cpl), self.ss_we.eq(inner)]
        with m.Case(Op.STACK):
            checks = Checks(m, self)
            top, first = Signal(64), Signal(64)
            m.d.comb += [top.eq(Mux(self.switch, a, b) & ~0xF), first.eq(top - 8), self.result.eq(top)]
            checks.refuse(~canonical(first), Vector.SS, 0)
        with m.Case(Op.TARGET):
            checks = Checks(m, self)
            m.d.comb += self.result.eq(target)
            checks.refuse(~canonical(target), Vector.GP, 0)
        with m.Case(Op.CANON):
            checks = Checks(m, self)
            checks.refuse(~canonical(a), Vector.GP, 0)
        with m.Case(Op.EVENT), m.Switch(self.bsize):
            with m.Case(Size.B):
                m.d.comb += self.result.eq(self.event_rip)
            with m.Case(Size.W):
                m.d.comb += self.result.eq(self.event_flags)
            with m.Default():
                m.d.comb += self.result.eq(self.event_error)
