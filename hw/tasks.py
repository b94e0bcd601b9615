"""The task register, the LDT register and the I/O permission bitmap. Parts of `hw.gates.Gates`.

SDM vol. 2, LTR, LLDT; vol. 1, 19.5.2 (I/O permission bit map). Task switches do not exist in 64-bit mode.
"""

from amaranth.hdl import Cat, Mux, Signal

from hw.descriptor import Checks, Descriptor, error_of, is_null
from hw.isa.facts import Op, Size, Vector

#: Offset of the I/O map base in a 64-bit TSS.
_MAP_BASE = 0x66

_LDT, _TSS_AVAILABLE = 2, 9


def lower_tasks(m, unit):
    """Cases of the operations that this file is about, in the unit's Switch over them."""
    a, b = unit.a, unit.b
    what = Descriptor(a)
    selector = Signal(16)
    ldt = unit.bsize == Size.W
    with m.Case(Op.TRADDR):
        checks = Checks(m, unit)
        checks.refuse(~ldt & is_null(a), Vector.GP, 0)
        checks.refuse(~is_null(a) & (a[2] | unit.beyond(a[:16], 16)), Vector.GP, error_of(a))
        m.d.comb += [unit.result.eq(unit.place(a[:16])), unit.switch.eq(~is_null(a))]
        with m.If(unit.fire):
            m.d.sync += selector.eq(a)
    with m.Case(Op.TRCHK):
        checks = Checks(m, unit)
        kind = Mux(ldt, _LDT, _TSS_AVAILABLE)
        checks.refuse(unit.switch & (~what.system | (what.kind != kind)), Vector.GP, error_of(selector))
        checks.refuse(unit.switch & (b[40:45] != 0), Vector.GP, error_of(selector))
        checks.refuse(unit.switch & ~what.present, Vector.NP, error_of(selector))
        m.d.comb += unit.result.eq(Cat(what.base, b[0:32]))
    with m.Case(Op.TRLIMIT):  # a null LDT has no descriptor within its limit
        m.d.comb += unit.result.eq(Mux(unit.switch, what.limit, 0))
    with m.Case(Op.TRBUSY):
        m.d.comb += unit.store.eq(a | (1 << 41))

    port, bits, mask = Signal(16), Signal(4), Signal(4)
    m.d.comb += [port.eq(b), mask.eq(Mux(unit.size == Size.B, 1, Mux(unit.size == Size.W, 3, 0xF)))]
    with m.Case(Op.IOBASE):
        checks = Checks(m, unit)
        checks.refuse(unit.tr_limit < _MAP_BASE + 1, Vector.GP, 0)
        m.d.comb += unit.result.eq(unit.tr_base + _MAP_BASE)
    with m.Case(Op.IOMAP):
        checks = Checks(m, unit)
        offset = Signal(17)
        m.d.comb += [offset.eq(a[0:16] + port[3:]), unit.result.eq(unit.tr_base + offset)]
        checks.refuse(offset + 1 > unit.tr_limit, Vector.GP, 0)
    with m.Case(Op.IOBITS):
        checks = Checks(m, unit)
        m.d.comb += bits.eq(a[0:16] >> port[0:3])
        checks.refuse((bits & mask).any(), Vector.GP, 0)
