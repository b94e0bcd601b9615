"""Who may walk when: one walker for fetch and data, and what its result means to them."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hw.paging import Rules, WalkPort
from hw.walker import WalkBus, Walker


class Mmu(Component):
    """A walk starts when nothing older than its requester is in flight, and its result concerns the requester only if that is
    still there; the page is entered into the requester's TLB in any case, unless the TLBs were emptied meanwhile.

    Members
    -------
    rules : of the control registers. flush : the TLBs are emptied in this cycle.
    data, fetch : the two requesters. {data,fetch}_alone : nothing older than the requester is in flight.
    {data,fetch}_kill : the requester is dropped in this cycle.
    busy : the walker has the data bus, bus.
    """

    rules: In(Rules)
    flush: In(1)
    data: In(WalkPort())
    data_alone: In(1)
    data_kill: In(1)
    fetch: In(WalkPort())
    fetch_alone: In(1)
    fetch_kill: In(1)
    busy: Out(1)
    bus: Out(WalkBus)

    def __init__(self, ram_bytes: int):
        self._ram_bytes = ram_bytes
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.walker = walker = Walker(self._ram_bytes)
        connect(m, walker=walker.bus, bus=flipped(self.bus))
        for_fetch, there, spoiled = Signal(), Signal(), Signal()
        data = self.data.miss & self.data_alone & ~self.data_kill
        fetch = self.fetch.miss & self.fetch_alone & ~self.fetch_kill & ~data
        m.d.comb += [
            walker.rules.eq(self.rules),
            walker.start.eq((data | fetch) & ~walker.busy),
            walker.page.eq(Mux(data, self.data.wanted, self.fetch.wanted)),
            walker.access.eq(Mux(data, self.data.access, self.fetch.access)),
            self.busy.eq(walker.busy),
        ]
        with m.If(walker.start):
            m.d.sync += [for_fetch.eq(fetch), there.eq(1), spoiled.eq(self.flush)]
        with m.Elif(self.flush):
            m.d.sync += spoiled.eq(1)
        killed = Mux(for_fetch, self.fetch_kill, self.data_kill)
        with m.If(walker.busy & killed):
            m.d.sync += there.eq(0)
        fill = walker.done & ~walker.fault & ~spoiled & ~self.flush
        ends = walker.done & there  # a requester that is dropped in this very cycle does not look
        for port, mine in ((self.data, ~for_fetch), (self.fetch, for_fetch)):
            m.d.comb += [
                port.rules.eq(self.rules),
                port.flush.eq(self.flush),
                port.walked.eq(ends & mine),
                port.fault.eq(walker.fault),
                port.error.eq(walker.error),
                port.fill.eq(fill & mine),
                port.page.eq(walker.walked),
                port.with_.eq(walker.result),
            ]
        return m
