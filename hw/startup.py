"""How harts start: INIT resets one and lets it wait for a start-up IPI (SDM vol. 3, 8.4 and 10.6.1; trap semantics 7.2)."""

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import Component, In, Out

#: A start-up IPI with vector v starts a hart at v << this.
PAGE_BITS = 12


class Startup(Component):
    """The part of a hart that is awake before it starts.

    A processor enters real mode at page `page`. This one has none: it enters 64-bit mode at the same physical address, with
    every register as after reset (general registers, rsp among them, 0; CPL 0; interrupts off; no IDT).

    Members
    -------
    init, start, page : INIT and start-up IPIs, as they arrive. A start-up is lost unless INIT came before.
    able : the hart is between two instructions or dead of a triple fault, and nobody writes its registers.
    take : the hart is reset in this cycle. clear, index : general register `index` becomes 0, one a cycle, after that.
    waiting : for the start-up; nothing retires and no event is taken. go, target : it begins there. skip : it begins
    elsewhere, because the debug port has set rip.
    """

    init: In(1)
    start: In(1)
    page: In(8)
    able: In(1)
    take: Out(1)
    clear: Out(1)
    index: Out(4)
    waiting: Out(1)
    go: Out(1)
    target: Out(64)
    skip: In(1)

    def __init__(self, first: bool):
        """`first`: the hart runs after reset; the others wait."""
        self._first = first
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        waiting = Signal(init=not self._first)
        asked, started, page = Signal(), Signal(), Signal(8)
        m.d.comb += [
            self.take.eq(asked & self.able),
            self.waiting.eq(waiting),
            self.go.eq(waiting & started & ~self.clear & self.able & ~asked),
            self.target.eq(page << PAGE_BITS),
        ]
        with m.If(self.clear):
            m.d.sync += self.index.eq(self.index + 1)
            with m.If(self.index == 15):
                m.d.sync += self.clear.eq(0)
        with m.If(self.go | self.skip):
            m.d.sync += [waiting.eq(0), started.eq(0)]
        with m.If(self.take):
            m.d.sync += [asked.eq(0), waiting.eq(1), self.clear.eq(1), self.index.eq(0)]
        with m.If(self.start & (waiting | asked) & ~self.go):
            m.d.sync += [started.eq(1), page.eq(self.page)]
        with m.If(self.init):
            m.d.sync += [asked.eq(1), started.eq(0)]
        return m
