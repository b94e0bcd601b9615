"""Accesses that cross a page to a frame elsewhere: two loads joined, or stores of single bytes. All else passes through."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.bus import DataBus
from hw.paging import FRAME_BITS


class SplitBus(Component):
    """Between the core's stages and its data bus.

    A load that is split is taken before it is made, and answered once, when both halves are there. A store that is split is
    ready with its last byte.

    Members
    -------
    core, memory : the data bus. split, rest : the request of core crosses its page, and goes on in frame rest.
    owed : memory owes an answer; a split load waits. unlock : a locked load was dropped, whose halves may still be to come.
    """

    core: In(DataBus())
    memory: Out(DataBus())
    split: In(1)
    rest: In(FRAME_BITS)
    owed: In(1)
    unlock: In(1)

    def elaborate(self, platform):
        m = Module()
        core, memory = self.core, self.memory
        place, size, frame, rest, lock = Signal(12), Signal(2), Signal(FRAME_BITS), Signal(FRAME_BITS), Signal()
        number, first = Signal(3), Signal(64)
        left = Signal(4)  # bytes before the end of the page
        inside = Signal()
        last = Cat(core.req_size != 0, core.req_size >= 2, core.req_size == 3)
        offset = core.req_addr[:12] + number
        m.d.comb += [
            left.eq(0 - place),
            inside.eq(~offset[12]),
            memory.req_addr.eq(core.req_addr),
            memory.req_size.eq(core.req_size),
            memory.req_write.eq(core.req_write),
            memory.req_data.eq(core.req_data),
            core.resp_data.eq(memory.resp_data),
        ]

        with m.If(self.unlock):
            m.d.sync += lock.eq(0)
        with m.FSM():
            with m.State("PASS"):
                m.d.comb += [
                    memory.req_valid.eq(core.req_valid & ~self.split),
                    memory.req_lock.eq(core.req_lock & ~self.split),
                    core.req_ready.eq(Mux(self.split, ~core.req_write & ~self.owed, memory.req_ready)),
                    core.resp_valid.eq(memory.resp_valid),
                ]
                with m.If(core.req_valid & self.split):
                    m.d.sync += [
                        number.eq(0),
                        place.eq(core.req_addr),
                        size.eq(core.req_size),
                        frame.eq(core.req_addr[12:]),
                        rest.eq(self.rest),
                        lock.eq(core.req_lock),
                    ]
                    with m.If(core.req_write):
                        m.next = "STORE"
                    with m.Elif(~self.owed):
                        m.next = "FIRST"
            with m.State("STORE"):
                m.d.comb += [
                    core.resp_valid.eq(memory.resp_valid),
                    memory.req_valid.eq(1),
                    memory.req_size.eq(0),
                    memory.req_addr.eq(Cat(offset[:12], Mux(inside, frame, rest))),
                    memory.req_data.eq(core.req_data.word_select(number, 8)),
                    memory.req_lock.eq(core.req_lock & (number == last)),  # the last byte ends the lock
                ]
                with m.If(memory.req_ready):
                    m.d.sync += number.eq(number + 1)
                    with m.If(number == last):
                        m.d.comb += core.req_ready.eq(1)
                        m.next = "PASS"
            # the last quadword of one page, then the first of the other
            for state, page, following in (("FIRST", frame, "FIRST ANSWER"), ("SECOND", rest, "SECOND ANSWER")):
                with m.State(state):
                    m.d.comb += [
                        memory.req_valid.eq(1),
                        memory.req_write.eq(0),
                        memory.req_lock.eq(lock),
                        memory.req_size.eq(3),
                        memory.req_addr.eq(Cat(Const(0xFF8 if state == "FIRST" else 0, 12), page)),
                    ]
                    with m.If(memory.req_ready):
                        m.next = following
            with m.State("FIRST ANSWER"):
                m.d.sync += first.eq(memory.resp_data >> Cat(Const(0, 3), (8 - left)[:3]))
                with m.If(memory.resp_valid):
                    m.next = "SECOND"
            with m.State("SECOND ANSWER"):
                both = Signal(64)
                m.d.comb += [
                    both.eq(first | (memory.resp_data << Cat(Const(0, 3), left[:3]))),
                    core.resp_valid.eq(memory.resp_valid),
                ]
                with m.Switch(size):
                    for log, width in enumerate((8, 16, 32, 64)):
                        with m.Case(log):
                            m.d.comb += core.resp_data.eq(both[:width])
                with m.If(memory.resp_valid):
                    m.next = "PASS"
        return m
