"""What the fetch queue must do: show the bytes of memory, each at its address, none twice and none left out."""

from amaranth.hdl import Assert, Assume, Module, Mux, Signal, signed
from amaranth.lib.wiring import Component, In

from hw.config import Config
from hw.types import Redirect
from tests.formal.prover import Opened


class Bytes(Component):
    """The fetch stage on a memory that takes requests and answers when it likes; one byte of a line, any one, is followed.

    As long as no redirect drops it, it is in the window exactly while its address lies between ``pc`` and ``pc`` + ``avail``,
    and ``pc`` moves by what is consumed and by redirects only. What is assumed: answers come in order, to what was asked, and
    no more is consumed than there is. The map of addresses is static.
    """

    redirect: In(Redirect)
    consume: In(5)
    ready: In(1)
    answers: In(1)
    data: In(128)
    follow: In(1)  #: a byte of the line that is asked for in this cycle is followed, if none is
    place: In(4)  #: which one
    value: In(8)  #: what memory holds there

    def __init__(self, module):
        super().__init__()
        self._module = module

    def elaborate(self, platform):
        m = Module()
        fetch = self._module.Fetch(Config().ram_bytes)
        m.submodules.fetch = inner = Opened(fetch)
        queue, count, live, drop, skip = (inner[name] for name in ("queue", "count", "live", "drop", "skip"))
        next_pc, asked = inner["next_pc"], inner["ask.asked"]
        redirect = self.redirect
        m.d.comb += [
            fetch.redirect.eq(redirect),
            fetch.consume.eq(self.consume),
            fetch.bus.req_ready.eq(self.ready),
            fetch.bus.resp_valid.eq(self.answers),
            fetch.bus.resp_data.eq(self.data),
            Assume(self.consume <= fetch.avail),
            Assume(~self.answers | (live + drop != 0)),
        ]

        # the byte: how many answers come before its line's, and where it lies from pc on
        following, here, before = Signal(), Signal(), Signal(4)  # here: its line has come
        at, place, value = Signal(signed(8)), Signal(4), Signal(8)
        first = Mux(redirect.valid, -redirect.target[0:4], count + (live << 4) - skip)  # where the line begins that is asked for
        begins = Signal(signed(8))
        coming = following & ~here & (before == 0) & self.answers
        m.d.comb += [begins.eq(first + self.place), Assume(~coming | (self.data.word_select(place, 8) == value))]
        m.d.sync += at.eq(at - self.consume)
        with m.If(coming):
            m.d.sync += here.eq(1)
        with m.If(self.answers & ~here):
            m.d.sync += before.eq(before - 1)
        with m.If(redirect.valid | (self.consume > at)):
            m.d.sync += following.eq(0)
        with m.If(asked & self.follow & (~following | redirect.valid) & (begins >= 0)):
            m.d.sync += [
                following.eq(1),
                here.eq(0),
                before.eq(live + drop - self.answers),
                at.eq(begins - Mux(redirect.valid, 0, self.consume)),
                place.eq(self.place),
                value.eq(self.value),
            ]

        seen = following & (here | coming) & (at < fetch.avail)
        m.d.comb += [
            Assert(~seen | (fetch.window.word_select(at[:4], 8) == value), "the byte is where it belongs"),
            Assert(~(following & (self.consume > at)) | seen, "the byte has been in the window when it is consumed"),
        ]

        # where the stage stands
        line = at - place - count + skip  # from the next line to come, to the byte's
        m.d.comb += [
            Assert(count + (live << 4) <= 32, "room for what is asked for"),
            Assert((queue >> (count << 3)) == 0, "nothing behind the last byte"),
            Assert(((next_pc ^ (fetch.pc + count - skip + (live << 4))[:64]) >> 4) == 0, "what is asked for next"),
            Assert((fetch.pc + count - skip)[:4] == 0, "lines are aligned"),
            Assert((live == 0) | (next_pc[:4] == 0), "whole lines"),
            Assert((skip == 0) | (count == 0), "only the first line is cut"),
            Assert(~following | (at >= 0), "a byte before pc is consumed"),
            Assert(~(following & here) | ((at < count) & (queue.word_select(at[:5], 8) == value)), "in the queue"),
            Assert(~(following & ~here) | ((before >= drop) & (before < live + drop)), "its line is on its way"),
            Assert(~(following & ~here) | (line == ((before - drop) << 4)), "in order"),
        ]

        # pc
        pc, moved = Signal(64), Signal()
        m.d.sync += [pc.eq(Mux(redirect.valid, redirect.target, fetch.pc + self.consume)), moved.eq(1)]
        m.d.comb += Assert(~moved | (fetch.pc == pc), "pc moves by what is consumed, and by redirects")
        return m
