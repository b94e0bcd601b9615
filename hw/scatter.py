"""pdep and pext: bits spread over, or gathered from, the ones of a mask; one of them a cycle."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out


class Scatter(Component):
    """Bits of ``a`` from or to the places of the ones of ``mask``: one cycle to start, one for each of those ones.

    ``start`` stays high, with stable operands, up to the cycle with ``done``; the next operation may start right after.
    Without ``done`` the result means nothing.
    """

    start: In(1)
    gather: In(1)  #: pext, not pdep
    a: In(64)
    mask: In(64)
    flush: In(1)  #: abandons what is under way
    done: Out(1)
    result: Out(64)

    def elaborate(self, _):
        """Build the logic."""
        m = Module()
        busy = Signal()
        left = Signal(64)  # ones still to come
        low = Signal(64)  # pdep: the bits still to come; pext: a 1 where the next bit goes
        lowest = Signal(64)
        m.d.comb += [lowest.eq(left & -left), self.done.eq(busy & (left == 0))]
        with m.If(self.start & ~busy):
            m.d.sync += [busy.eq(1), left.eq(self.mask), low.eq(Mux(self.gather, 1, self.a)), self.result.eq(0)]
        with m.If(busy):
            m.d.sync += [left.eq(left ^ lowest), low.eq(Mux(self.gather, low << 1, low >> 1))]
            with m.If(Mux(self.gather, (self.a & lowest).any(), low[0])):
                m.d.sync += self.result.eq(self.result | Mux(self.gather, low, lowest))
        with m.If(self.flush | self.done):
            m.d.sync += busy.eq(0)
        return m
