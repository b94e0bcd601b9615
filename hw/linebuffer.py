"""Copies of code lines between a hart's fetch and memory, so that what a hart has seen of code can be old (trap semantics 8.3).

Built only if `hw.config.Config.stale_lines` asks for it. Without it code is as old as the bytes in the fetch queue and behind
it, which a taken branch fetches again; with it a loop runs old code until its hart serialises, as an instruction cache without
snooping would let it.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from hw.bus import PHYS_BITS, FetchBus

#: Requests that memory may owe at once: more than `hw.fetch` makes.
_OWED = 16

#: The most lines that make sense: what a test can look at.
MAX_LINES = 256


class LineBuffer(Component):
    """Directly mapped copies of 16-byte lines. A line that memory answers is kept until another takes its place, the hart
    serialises, or it stores to the line itself.

    A hit answers in the next cycle; it waits until memory owes nothing, so that answers keep their order.

    Members
    -------
    core : from the hart's fetch. memory : to instruction memory.
    empty : the hart serialises in this cycle: a request of this very cycle already finds nothing.
    store, store_addr, store_last : the hart stores to these bytes at the end of this cycle.
    """

    core: In(FetchBus())
    memory: Out(FetchBus())
    empty: In(1)
    store: In(1)
    store_addr: In(PHYS_BITS)
    store_last: In(PHYS_BITS)

    def __init__(self, lines: int):
        if lines & (lines - 1) or not 2 <= lines <= MAX_LINES:
            raise ValueError(f"stale_lines must be 0 or a power of two from 2 to {MAX_LINES}, not {lines}")
        self._lines = lines
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        core, memory = self.core, self.memory
        bits = exact_log2(self._lines)
        line = data.StructLayout({"tag": PHYS_BITS - 4 - bits, "bytes": 128})
        m.submodules.lines = lines = Memory(shape=line, depth=self._lines, init=[])
        m.submodules.asked = asked = Memory(shape=PHYS_BITS - 4, depth=_OWED, init=[])
        valid = Signal(self._lines)
        owed, old = (
            Signal(range(_OWED + 1)),
            Signal(range(_OWED + 1)),
        )  # memory owes lines; the first `old` are not kept
        head, tail = Signal(range(_OWED)), Signal(range(_OWED))

        def look(address, name):
            """Is the line of an address kept?"""
            port = lines.read_port(domain="comb")
            hit = Signal(name=name)
            m.d.comb += [
                port.addr.eq(address[4 : 4 + bits]),
                hit.eq(valid.bit_select(address[4 : 4 + bits], 1) & (port.data.tag == address[4 + bits :])),
            ]
            return hit, port.data.bytes

        kept, found = look(core.req_addr, "kept")
        first, _ = look(self.store_addr, "first")
        last, _ = look(self.store_last, "last")

        # --- requests and answers
        hit, free, answers, answer, goes = Signal(), Signal(), Signal(), Signal(128), Signal()
        m.d.comb += [
            hit.eq(kept & ~self.empty),
            free.eq(owed == memory.resp_valid),
            memory.req_valid.eq(core.req_valid & ~hit & (owed != _OWED)),
            memory.req_addr.eq(core.req_addr),
            core.req_ready.eq(Mux(hit, free, memory.req_ready & (owed != _OWED))),
            core.resp_valid.eq(memory.resp_valid | answers),
            core.resp_data.eq(Mux(answers, answer, memory.resp_data)),
            goes.eq(memory.req_valid & memory.req_ready),
        ]
        m.d.sync += [
            answers.eq(core.req_valid & hit & free),
            answer.eq(found),
            owed.eq(owed + goes - memory.resp_valid),
        ]

        # --- what is kept
        push, pop, fill = asked.write_port(), asked.read_port(domain="comb"), lines.write_port()
        address = pop.data
        fills = memory.resp_valid & (old == 0)
        m.d.comb += [
            push.addr.eq(tail),
            push.data.eq(core.req_addr[4:]),
            push.en.eq(goes),
            pop.addr.eq(head),
            fill.addr.eq(address[:bits]),
            fill.data.eq(Cat(address[bits:], memory.resp_data)),
            fill.en.eq(fills),
        ]
        m.d.sync += [
            tail.eq(tail + goes),
            head.eq(head + memory.resp_valid),
            old.eq(old - (memory.resp_valid & (old != 0))),
        ]
        with m.If(fills):
            m.d.sync += valid.bit_select(address[:bits], 1).eq(1)
        with m.If(self.store):  # what was asked for before, this request included, has not seen the store
            m.d.sync += old.eq(owed + goes - memory.resp_valid)
            for stale, place in ((first, self.store_addr), (last, self.store_last)):
                with m.If(stale | (fills & (address == place[4:]))):
                    m.d.sync += valid.bit_select(place[4 : 4 + bits], 1).eq(0)
        with m.If(self.empty):
            m.d.sync += [valid.eq(Const(0)), old.eq(owed - memory.resp_valid)]
        return m
