"""Loads of segment registers, returns and far jumps: checks of selectors and descriptors. Parts of `hw.gates.Gates`.

A far transfer ends with `hw.isa.facts.SysOp.FAR`, which loads CS, and SS if ``ss_we``, with what these checks kept. Order
of checks: trap semantics 6; SDM vol. 2, MOV, JMP, CALL, RET, LAR, LSL, VERR. There is no compatibility mode: a code segment
that is not 64-bit cannot be entered (#GP with its selector), and neither can a call gate.
"""

from amaranth.hdl import Cat, Const, Mux, Signal

from hw.descriptor import Checks, Descriptor, canonical, error_of, is_null
from hw.isa.facts import Op, Size, Vector

#: What LAR shows of the upper half of a descriptor.
_RIGHTS = 0x00FFFF00


def lower_segments(m, unit):
    """Cases of the operations that this file is about, in the unit's Switch over them."""
    _far(m, unit)
    _loads(m, unit)
    _looks(m, unit)


def _far(m, unit):
    """iret (bsize W), lret (B), and jmp or call through memory (D)."""
    a, b = unit.a, unit.b
    what = Descriptor(a)
    cs, ss, outer = Signal(16), Signal(16), Signal()

    def stack(checks, selector):
        """A selector for SS, for which the new CPL is known: before its descriptor is read."""
        null = is_null(selector)
        checks.refuse(null & ((cs[0:2] == 3) | (selector[0:2] != cs[0:2])), Vector.GP, 0)
        checks.refuse(~null & unit.beyond(selector, 8), Vector.GP, error_of(selector))
        checks.refuse(~null & (selector[0:2] != cs[0:2]), Vector.GP, error_of(selector))

    with m.Case(Op.CSADDR):
        checks = Checks(m, unit)
        checks.refuse(is_null(a), Vector.GP, 0)
        checks.refuse(unit.beyond(a[:16], 8), Vector.GP, error_of(a))
        m.d.comb += unit.result.eq(unit.place(a[:16]))
        with m.If(unit.fire):
            m.d.sync += [cs.eq(a), ss.eq(b)]
    with m.Case(Op.CSCHK):
        checks = Checks(m, unit)
        sel = error_of(cs)
        checks.refuse(~what.code | ~what.long, Vector.GP, sel)
        checks.refuse(cs[0:2] < unit.cpl, Vector.GP, sel)
        checks.refuse(Mux(what.conforming, what.dpl > cs[0:2], what.dpl != cs[0:2]), Vector.GP, sel)
        checks.refuse(~what.present, Vector.NP, sel)
        unit.touch(m)
        m.d.comb += unit.switch.eq(cs[0:2] != unit.cpl)
        with m.If(unit.bsize == Size.W):
            stack(checks, ss)
            m.d.comb += [unit.result.eq(unit.place(ss)), unit.switch.eq(~is_null(ss))]
        with m.Else():
            m.d.comb += unit.result.eq(b)
        with m.If(unit.fire):
            leaves = cs[0:2] != unit.cpl
            m.d.sync += [outer.eq(leaves), unit.cs.eq(cs), unit.ss.eq(ss), unit.ss_we.eq(leaves | (unit.bsize == Size.W))]
    with m.Case(Op.SSADDR):  # lret, once it has read the selector from the stack
        checks = Checks(m, unit)
        with m.If(outer):
            stack(checks, b[:16])
        m.d.comb += [unit.switch.eq(outer & ~is_null(b)), unit.result.eq(unit.place(b[:16]))]
        with m.If(unit.fire):
            m.d.sync += [ss.eq(b), unit.ss.eq(b)]
    with m.Case(Op.SSCHK):  # b is the new rip
        checks = Checks(m, unit)
        checks.refuse(unit.switch & (~what.writable | (what.dpl != cs[0:2])), Vector.GP, error_of(ss))
        checks.refuse(unit.switch & ~what.present, Vector.SS, error_of(ss))
        checks.refuse(~canonical(b), Vector.GP, 0)
        unit.touch(m)
        with m.If(~unit.switch):
            m.d.comb += unit.keep_memory.eq(1)
    with m.Case(Op.RETSP):
        m.d.comb += unit.result.eq(Mux(outer, a, b))
    with m.Case(Op.FARCHK):  # b is the new rip
        checks = Checks(m, unit)
        sel = error_of(cs)
        reach = Mux(what.conforming, what.dpl <= unit.cpl, (cs[0:2] <= unit.cpl) & (what.dpl == unit.cpl))
        checks.refuse(~what.code | ~what.long, Vector.GP, sel)
        checks.refuse(~reach, Vector.GP, sel)
        checks.refuse(~what.present, Vector.NP, sel)
        checks.refuse(~canonical(b), Vector.GP, 0)
        unit.touch(m)
        with m.If(unit.fire):
            m.d.sync += [unit.cs.eq(Cat(unit.cpl, cs[2:])), unit.ss_we.eq(0)]


def _loads(m, unit):
    """mov, lss, lfs and lgs: the result of SEGCHK is what `SysOp.SEGMENT` writes (`hw.sysregs`)."""
    a = unit.a
    what = Descriptor(a)
    selector = Signal(16)
    null, rpl = is_null(selector), selector[0:2]
    with m.Case(Op.SEGADDR):
        checks = Checks(m, unit)
        checks.refuse(unit.to_ss & is_null(a) & ((a[0:2] == 3) | (a[0:2] != unit.cpl)), Vector.GP, 0)
        checks.refuse(~is_null(a) & unit.beyond(a[:16], 8), Vector.GP, error_of(a))
        checks.refuse(~is_null(a) & unit.to_ss & (a[0:2] != unit.cpl), Vector.GP, error_of(a))
        m.d.comb += [unit.result.eq(unit.place(a[:16])), unit.switch.eq(~is_null(a))]
        with m.If(unit.fire):
            m.d.sync += selector.eq(a)
    with m.Case(Op.SEGCHK):
        checks = Checks(m, unit)
        stack = what.writable & (what.dpl == unit.cpl)
        reach = what.conforming | ((rpl <= what.dpl) & (unit.cpl <= what.dpl))
        checks.refuse(~null & ~Mux(unit.to_ss, stack, what.readable & reach), Vector.GP, error_of(selector))
        checks.refuse(~null & ~what.present, Mux(unit.to_ss, Vector.SS, Vector.NP), error_of(selector))
        unit.touch(m)
        m.d.comb += unit.result.eq(Cat(selector, what.dpl, what.conforming, Const(0, 13), what.base))
        with m.If(null):
            m.d.comb += [unit.keep_memory.eq(1), unit.result.eq(selector)]


def _looks(m, unit):
    """lar, lsl, verr, verw: nothing is loaded and nothing faults; the zero flag says whether the selector is good."""
    a, b = unit.a, unit.b
    what = Descriptor(b)
    selector = Signal(16)
    visible = what.conforming | ((unit.cpl <= what.dpl) & (selector[0:2] <= what.dpl))
    gate = what.system & (what.kind == 0xC)  # of those that have no limit, the one that LAR shows
    table = what.system & ((what.kind == 2) | (what.kind == 9) | (what.kind == 0xB))
    with m.Case(Op.SELADDR):
        m.d.comb += [
            unit.result.eq(unit.place(a[:16])),
            unit.switch.eq(~is_null(a) & ~unit.beyond(a[:16], 8)),
        ]
        with m.If(unit.fire):
            m.d.sync += selector.eq(a)
    with m.Case(Op.LAR):
        m.d.comb += [
            unit.zero.eq(unit.switch & visible & (~what.system | table | gate)),
            unit.result.eq(b[32:64] & _RIGHTS),
            unit.keep_register.eq(~unit.zero),
        ]
    with m.Case(Op.LSL):
        m.d.comb += [
            unit.zero.eq(unit.switch & visible & (~what.system | table)),
            unit.result.eq(what.limit),
            unit.keep_register.eq(~unit.zero),
        ]
    with m.Case(Op.VERR):
        m.d.comb += unit.zero.eq(unit.switch & visible & what.readable)
    with m.Case(Op.VERW):
        m.d.comb += unit.zero.eq(unit.switch & visible & what.writable)
