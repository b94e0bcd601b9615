"""The latch of non-maskable interrupts."""

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import Component, In, Out


class NmiLatch(Component):
    """One request beside the one in service (SDM vol. 3, 6.7; trap semantics 7.1).

    A rising edge of ``line`` asks, and so does ``ipi``; a burst while the latch is full is one request. Delivery blocks
    further ones until an iretq executes, even if that iretq faults.

    Members
    -------
    line : the request line. ipi : an interrupt controller delivers one in this cycle. taken : an NMI is taken in this cycle.
    unblock : an iretq executes in this cycle.
    ready : a request may be taken now. coming : ``ready``, or it will be in the next cycle.
    """

    line: In(1)
    ipi: In(1)
    taken: In(1)
    unblock: In(1)
    ready: Out(1)
    coming: Out(1)

    def elaborate(self, platform):
        m = Module()
        before, pending, blocked = Signal(), Signal(), Signal()
        asks = (self.line & ~before) | self.ipi
        m.d.comb += [self.ready.eq(pending & ~blocked), self.coming.eq((pending | asks) & ~blocked)]
        m.d.sync += before.eq(self.line)
        with m.If(self.taken):
            m.d.sync += [pending.eq(0), blocked.eq(1)]
        with m.Elif(self.unblock):
            m.d.sync += blocked.eq(0)
        with m.If(asks):
            m.d.sync += pending.eq(1)
        return m
