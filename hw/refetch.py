"""What has been fetched and must not run as it is: code that a store changed, and what a system instruction changed."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.bus import PHYS_BITS
from hw.isa.facts import SysOp, SysReg

#: Writes that nothing before stage W knows of; reads of them wait for stage W (`hw.execute`).
UNSEEN = (SysReg.DR0, SysReg.DR1, SysReg.DR2, SysReg.DR3, SysReg.DR6)


class Refetch(Component):
    """Decides whether fetch starts over, at the instruction that is next.

    Members
    -------
    commit : a uop retires; the members down to ``rest`` belong to it. ends, sysop, sysreg : as in `hw.types`.
    store, pa, msize, split, rest : its store, and the frame of its second page (`hw.types.Addressed`).
    stored_page, stored_last : physical pages of the first and last byte of the store of the cycle before, if there was one.
    code_page : bytes of these pages had been fetched by then and have not retired.
    may : between two instructions, and no event is taken there. taken : an event is taken.
    code : fetch again, before anything of it retires. after : fetch again, because of what retires.
    """

    commit: In(1)
    ends: In(1)
    sysop: In(SysOp)
    sysreg: In(6)
    store: In(1)
    pa: In(PHYS_BITS)
    msize: In(2)
    split: In(1)
    rest: In(PHYS_BITS - 12)
    stored_page: Out(PHYS_BITS - 12)
    stored_last: Out(PHYS_BITS - 12)
    code_page: In(1)
    may: In(1)
    taken: In(1)
    code: Out(1)
    after: Out(1)

    def elaborate(self, platform):
        m = Module()
        stored, stale = Signal(), Signal()
        m.d.sync += stored.eq(self.commit & self.store)
        with m.If(self.commit & self.store):
            over = (self.pa[:12] + ((1 << self.msize) - 1))[12]
            m.d.sync += [
                self.stored_page.eq(self.pa[12:]),
                self.stored_last.eq(Mux(self.split, self.rest, self.pa[12:] + over)),
            ]
        m.d.comb += self.code.eq((stale | (stored & self.code_page)) & self.may)
        with m.If(self.code | self.taken):
            m.d.sync += stale.eq(0)
        with m.Elif(stored & self.code_page):
            m.d.sync += stale.eq(1)

        with m.Switch(self.sysop):
            with m.Case(SysOp.NONE, SysOp.OUT, SysOp.DELIVER, SysOp.FAR):
                pass
            with m.Case(SysOp.WRITE):
                unseen = Cat(self.sysreg == reg for reg in UNSEEN).any()
                m.d.comb += self.after.eq(self.commit & self.ends & ~unseen)
            with m.Default():
                m.d.comb += self.after.eq(self.commit & self.ends)
        return m
