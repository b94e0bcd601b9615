"""A translation lookaside buffer: pages of 4 KiB, direct-mapped by the low bits of the page number.

Large pages are entered as the 4 KiB that were asked for. Only the walker fills it; it is emptied as a whole, which is more
than the manual asks for (SDM vol. 3, 4.10.4).
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from hw.paging import FRAME_BITS, PAGE_BITS, Page


class Tlb(Component):
    """``entries`` pages, a power of two, and ``ports`` lookups a cycle.

    Members
    -------
    page{i}, hit{i}, found{i} : lookup i, combinational; found is valid with hit.
    fill, fill_page, fill_with : enters a page at the clock edge. flush : empties it at the clock edge, but for the fill.
    frame, last, holds : is there an entry of one of these frames? Combinational (self-modifying code).
    """

    def __init__(self, entries: int, ports: int):
        self._index, self._ports = exact_log2(entries), ports
        lookups = {}
        for i in range(ports):
            lookups |= {f"page{i}": In(PAGE_BITS), f"hit{i}": Out(1), f"found{i}": Out(Page)}
        super().__init__(
            lookups
            | {
                "fill": In(1),
                "fill_page": In(PAGE_BITS),
                "fill_with": In(Page),
                "flush": In(1),
                "frame": In(FRAME_BITS),
                "last": In(FRAME_BITS),
                "holds": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        n = self._index
        row = data.StructLayout({"tag": PAGE_BITS - n, "page": Page})
        m.submodules.rows = rows = Memory(shape=row, depth=1 << n, init=[])
        valid = Signal(1 << n)
        frames = [Signal(FRAME_BITS, name=f"frame{i}") for i in range(1 << n)]
        for i in range(self._ports):
            page, port = getattr(self, f"page{i}"), rows.read_port(domain="comb")
            m.d.comb += [
                port.addr.eq(page[:n]),
                getattr(self, f"hit{i}").eq(valid.bit_select(page[:n], 1) & (port.data.tag == page[n:])),
                getattr(self, f"found{i}").eq(port.data.page),
            ]
        write = rows.write_port()
        m.d.comb += [
            write.en.eq(self.fill),
            write.addr.eq(self.fill_page[:n]),
            write.data.tag.eq(self.fill_page[n:]),
            write.data.page.eq(self.fill_with),
            self.holds.eq((valid & Cat((f == self.frame) | (f == self.last) for f in frames)).any()),
        ]
        with m.If(self.flush):
            m.d.sync += valid.eq(0)
        with m.If(self.fill):
            m.d.sync += valid.bit_select(self.fill_page[:n], 1).eq(1)
            with m.Switch(self.fill_page[:n]):
                for i, frame in enumerate(frames):
                    with m.Case(i):
                        m.d.sync += frame.eq(self.fill_with.frame)
        return m
