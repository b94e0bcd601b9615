"""The comparators of the debug registers (SDM vol. 3, 17.2; trap semantics 3.2)."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import enum
from amaranth.lib.wiring import Component, In, Out

#: DR7.GD, general detect: a move to or from a debug register is a fault.
DR7_GD = 13


class Watch(enum.Enum, shape=2):
    """What data breakpoints see of a uop's access. A uop that loads and stores writes."""

    NONE = 0  # no access, or one that the instruction does not ask for: descriptors, gates, frames
    READ = 1
    WRITE = 2
    PORT = 3  # an `in` or `out`


class Kind(enum.Enum, shape=2):
    """DR7.R/Wn."""

    EXECUTE = 0
    WRITE = 1
    PORT = 2  # with CR4.DE only
    ANY = 3


class Breakpoints(Component):
    """Which of the four breakpoints an instruction or an access meets. Combinational.

    A breakpoint that L and G both leave off meets nothing. An access of 1, 2, 4 or 8 bytes meets a breakpoint if they share a
    byte; the breakpoint's address is aligned to its length. While no breakpoint of a sort is on, its comparators are at rest.

    Members
    -------
    dr0 to dr3, dr7 : the registers. de : CR4.DE.
    starts, pc : an instruction is about to begin at pc. code : it meets these.
    watch, address, size : an access: linear address or port, log2 of the bytes. data : it meets these.
    """

    dr0: In(64)
    dr1: In(64)
    dr2: In(64)
    dr3: In(64)
    dr7: In(64)
    de: In(1)
    starts: In(1)
    pc: In(64)
    code: Out(4)
    watch: In(Watch)
    address: In(64)
    size: In(2)
    data: Out(4)

    def elaborate(self, platform):
        m = Module()
        places = (self.dr0, self.dr1, self.dr2, self.dr3)
        code_on, data_on = Signal(4), Signal(4)
        for n in range(4):
            enabled = self.dr7[2 * n : 2 * n + 2].any()
            kind = Kind(self.dr7[16 + 4 * n : 18 + 4 * n])
            m.d.comb += [
                code_on[n].eq(enabled & (kind == Kind.EXECUTE)),
                data_on[n].eq(enabled & (kind != Kind.EXECUTE)),
            ]
        with m.If(self.starts & code_on.any()):
            m.d.comb += self.code.eq(Cat(place == self.pc for place in places) & code_on)

        # The access lies in the quadword of its address and runs over into the next; a breakpoint in one quadword.
        bytes_ = Signal(16)
        here, next_ = self.address[3:], Signal(61)
        with m.If((self.watch != Watch.NONE) & data_on.any()):
            with m.Switch(self.size):
                for log in range(4):
                    with m.Case(log):
                        m.d.comb += bytes_.eq(Const((1 << (1 << log)) - 1, 16) << self.address[:3])
            m.d.comb += next_.eq(here + 1)
            for n, place in enumerate(places):
                kind = Kind(self.dr7[16 + 4 * n : 18 + 4 * n])
                length = self.dr7[18 + 4 * n : 20 + 4 * n]
                seen, covered = Signal(name=f"seen{n}"), Signal(8, name=f"covered{n}")
                with m.Switch(self.watch):
                    with m.Case(Watch.READ):
                        m.d.comb += seen.eq(kind == Kind.ANY)
                    with m.Case(Watch.WRITE):
                        m.d.comb += seen.eq((kind == Kind.ANY) | (kind == Kind.WRITE))
                    with m.Case(Watch.PORT):
                        m.d.comb += seen.eq((kind == Kind.PORT) & self.de)
                with m.Switch(length):
                    for code, mask, aligned in ((0, 0x01, 0), (1, 0x03, 1), (3, 0x0F, 2)):
                        with m.Case(code):
                            m.d.comb += covered.eq(Const(mask, 8) << Cat(Const(0, aligned), place[aligned:3]))
                    with m.Case(2):
                        m.d.comb += covered.eq(0xFF)
                low = (place[3:] == here) & (covered & bytes_[:8]).any()
                high = (place[3:] == next_) & (covered & bytes_[8:]).any()
                m.d.comb += self.data[n].eq(data_on[n] & seen & (low | high))
        return m
