"""Stage F: 16-byte lines from instruction memory into a byte queue, from wherever the last redirect pointed."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.bus import DEVICE_VIRT, HIGH_BASE, FetchBus
from hw.invariant import invariant
from hw.isa.facts import EventClass, Vector
from hw.paging import ERROR_USER, FRAME_BITS, WalkPort, allows
from hw.tlb import Tlb
from hw.types import Fault, Redirect

#: Bytes of a line, the unit of the fetch bus.
LINE = 16

#: Entries of the TLB for fetches.
_TLB_ENTRIES = 8

#: Requests that may be unanswered at once, those of dropped paths included.
_IN_FLIGHT = 15


def _is_mapped(address, ram_bytes: int):
    """True for an address in RAM, low or high."""
    low = address[0:31] < ram_bytes
    return low & ((address[31:64] == 0) | (address[31:64] == HIGH_BASE >> 31))


def _is_canonical(address):
    return address[47:64].all() | ~address[47:64].any()


class Fetch(Component):
    """Keeps the next bytes of the instruction stream in a window; asks for lines ahead of it.

    ``window``, ``avail`` and ``fault`` are combinational from the answer on the bus: a line is usable in the cycle in
    which it arrives. The request is combinational from ``redirect``: after a redirect in cycle t, a memory that answers
    in one cycle has the target's bytes in the window in t + 1. In the cycle of a redirect the window still shows the
    old path. Nothing is fetched before the first redirect.

    While the map is static, addresses 0 and `HIGH_BASE` upwards are RAM, and every other canonical address is a page fault to
    a fetch. With tables, a page that the TLB does not have is walked for.
    """

    bus: Out(FetchBus())
    redirect: In(Redirect)
    user: In(1)  #: the current privilege level is 3 (error code of page faults)
    window: Out(128)  #: byte 0 is the next instruction byte; 0 beyond ``avail``
    avail: Out(range(17))  #: valid bytes of the window
    pc: Out(64)  #: address of byte 0
    fault: Out(Fault)  #: valid: the byte at pc + avail cannot be fetched
    consume: In(range(17))  #: bytes taken in this cycle, not more than ``avail``
    queue_page_valid: Out(1)  #: bytes from ``queue_page`` on are held or on their way
    queue_page: Out(20)  #: physical page of ``pc``
    fetch_page_valid: Out(1)  #: ``fetch_page`` is; the bytes held lie in these two pages and in no other
    fetch_page: Out(20)  #: physical page of the newest line requested before this cycle
    walk: Out(WalkPort())  #: the tables are walked for what the TLB does not have
    hold: In(1)  #: the privilege is about to change: with tables, no request in this cycle
    stored_page: In(FRAME_BITS)  #: frames that were stored to
    stored_last: In(FRAME_BITS)
    holds_stored: Out(1)  #: fetched bytes may be of these frames; meaningful with tables

    def __init__(self, ram_bytes: int, queue_bytes: int = 2 * LINE):
        if ram_bytes % 4096 or not 0 < ram_bytes <= DEVICE_VIRT - HIGH_BASE:
            raise ValueError(f"ram_bytes must be whole pages, at most {DEVICE_VIRT - HIGH_BASE:#x}, not {ram_bytes:#x}")
        if queue_bytes % LINE or queue_bytes < 2 * LINE:
            raise ValueError(f"queue_bytes must be a multiple of {LINE}, at least {2 * LINE}, not {queue_bytes}")
        super().__init__()
        self._ram_bytes = ram_bytes
        self._queue_bytes = queue_bytes

    def elaborate(self, _):
        """The request side, the window side, and the registers between them."""
        m = Module()
        started = Signal()
        queue = Signal(8 * self._queue_bytes)  # 0 beyond `count`
        count = Signal(range(self._queue_bytes + 1))
        live = Signal(range(_IN_FLIGHT + 1))  # answers to come that belong to the queue
        drop = Signal(range(_IN_FLIGHT + 1))  # answers to come, before those, that belong to dropped paths
        skip = Signal(range(LINE))  # bytes of the next live answer that lie before the target
        next_pc = Signal(64)  # the first byte not requested yet
        last_page = Signal(20)

        # --- the request
        m.submodules.ask = ask = Module()
        redirect = self.redirect
        asked = Signal()
        outstanding = live + drop
        room = count + ((live + 1) << 4) <= self._queue_bytes
        source = Mux(redirect.valid, redirect.target, next_pc)
        address = Signal(64)
        ask.d.comb += address.eq(source)
        on = self.walk.rules.on
        ask.submodules.tlb = tlb = Tlb(_TLB_ENTRIES, 1)
        mapped, place = Signal(), Signal(28)  # of the line: in memory, and where
        m.d.comb += [
            self.walk.access.fetch.eq(1),
            self.walk.access.user.eq(self.user),
            tlb.fill.eq(self.walk.fill),
            tlb.fill_page.eq(self.walk.page),
            tlb.fill_with.eq(self.walk.with_),
            tlb.flush.eq(self.walk.flush),
            tlb.frame.eq(Mux(on, self.stored_page, 0)),
            tlb.last.eq(Mux(on, self.stored_last, 0)),
            self.holds_stored.eq(on & tlb.holds),
        ]
        ask.d.comb += [
            tlb.page0.eq(Mux(on, address[12:48], 0)),
            mapped.eq(_is_mapped(address, self._ram_bytes)),
            place.eq(address[4:31]),
        ]
        with ask.If(on):
            usable = tlb.hit0 & allows(tlb.found0, self.walk.access, self.walk.rules)
            ask.d.comb += [
                mapped.eq(usable & _is_canonical(address) & ~self.hold),
                place.eq(Cat(address[4:12], tlb.found0.frame)),
            ]
        ask.d.comb += [
            self.bus.req_valid.eq((redirect.valid | (started & room)) & (outstanding != _IN_FLIGHT) & mapped),
            self.bus.req_addr.eq(Cat(Const(0, 4), place)),
            asked.eq(self.bus.req_valid & self.bus.req_ready),
        ]

        # --- the window, with the line that arrives in this cycle
        arrives = self.bus.resp_valid & (drop == 0)
        level = Mux(arrives, count + LINE - skip, count)
        line = Mux(arrives, self.bus.resp_data >> Cat(Const(0, 3), skip), 0)
        merged = (queue | (line << Cat(Const(0, 3), count)))[: len(queue)]
        refused, refusal = Signal(), Signal(16)  # the tables have no page at next_pc
        canonical = _is_canonical(next_pc)
        nowhere = Mux(on, refused | ~canonical, ~_is_mapped(next_pc, self._ram_bytes))
        ended = started & nowhere & (live == arrives)
        m.d.comb += [
            self.walk.miss.eq(on & started & room & canonical & ~mapped & ~refused & ~redirect.valid & ~self.hold),
            self.walk.wanted.eq(next_pc[12:48]),
        ]
        with m.If(redirect.valid):
            m.d.sync += refused.eq(0)
        with m.Elif(self.walk.walked & self.walk.fault):
            m.d.sync += [refused.eq(1), refusal.eq(self.walk.error)]
        m.d.comb += [
            self.window.eq(merged),
            self.avail.eq(Mux(level > LINE, LINE, level)),
            self.fault.valid.eq(ended & (level <= LINE)),
            self.fault.vector.eq(Mux(canonical, Vector.PF, Vector.GP)),
            self.fault.kind.eq(EventClass.FAULT),
            self.fault.has_error.eq(1),
            self.fault.error.eq(Mux(canonical, Mux(on, refusal, self.user << ERROR_USER), 0)),
            self.fault.addr.eq(next_pc),
            self.queue_page.eq(self.pc[12:31]),
            self.queue_page_valid.eq((live != 0) | (count != 0)),
            self.fetch_page.eq(last_page),
            self.fetch_page_valid.eq(self.queue_page_valid),
        ]

        bytes_here = (self.consume, self.avail)
        invariant(m, "fetch.consume", self.consume <= self.avail, "{} bytes taken of {}", *bytes_here)
        invariant(m, "fetch.room", level <= self._queue_bytes, "{} bytes in the queue", level[:6])
        invariant(m, "fetch.in_flight", outstanding <= _IN_FLIGHT, "{} live and {} dropped requests", live, drop)
        invariant(m, "fetch.answer", ~self.bus.resp_valid | (outstanding != 0), "an answer that nobody asked for")

        # --- registers
        m.d.sync += [
            queue.eq(merged >> Cat(Const(0, 3), self.consume)),
            count.eq(level - self.consume),
            self.pc.eq(self.pc + self.consume),
            live.eq(live + asked - arrives),
        ]
        with m.If(self.bus.resp_valid):
            m.d.sync += [drop.eq(drop - (drop != 0)), skip.eq(Mux(arrives, 0, skip))]
        with m.If(asked):
            m.d.sync += [next_pc.eq(Cat(Const(0, 4), address[4:64] + 1)), last_page.eq(place[8:])]
        with m.If(redirect.valid):
            m.d.sync += [
                started.eq(1),
                queue.eq(0),
                count.eq(0),
                self.pc.eq(redirect.target),
                skip.eq(redirect.target[0:4]),
                live.eq(asked),
                drop.eq(outstanding - self.bus.resp_valid),
            ]
            with m.If(~asked):
                m.d.sync += next_pc.eq(redirect.target)
        return m
