"""Bit operations: single bits, scans, counts, byte order, and the address arithmetic of bit strings."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa.facts import Op
from hw.types import Flags


def _total(bits):
    """Sum of single bits, as a balanced tree of adders."""
    if len(bits) == 1:
        return bits[0]
    half = len(bits) // 2
    return _total(bits[:half]) + _total(bits[half:])


def _ones(count):
    """The lowest ``count`` (8 bits) of 64 bits set."""
    return Mux(count[6:].any(), Const(-1, 64), (Const(1, 64) << count[:6])[:64] - 1)


class Bits(wiring.Component):
    """BT BTS BTR BTC BSF BSR TZCNT LZCNT POPCNT BSWAP MOVBE BITOFF, and BEXTR BZHI BLSR BLSI BLSMSK of BMI; combinational.

    Without ``en`` the outputs are 0.

    ``a`` and ``b`` may hold anything above the operand size; ``result`` is zero there, except for BITOFF, whose result
    has 64 bits, and with ``keep``. Undefined flags are as on Zen: unchanged after BT and its kin and after BSF and BSR.
    BMI makes C, Z, S and O alone.
    """

    en: In(1, init=1)
    op: In(Op)
    size: In(2)  #: log2 of the bytes
    a: In(64)
    b: In(64)
    flags_in: In(Flags)
    result: Out(64)
    flags_out: Out(Flags)
    #: A scan found nothing: ``result`` is all of ``a``, and all 64 bits of it stay, at any operand size.
    keep: Out(1)

    def elaborate(self, platform):
        """Build the logic."""
        m = Module()
        flags = self.flags_out

        source = Signal(64)  # what is counted, or has its highest 1 looked for
        chosen = Signal(8)  # its highest byte that is not 0
        place = Signal(3)  # of that byte
        index = Cat(self._highest(chosen), place)

        with m.If(self.en):
            m.d.comb += flags.eq(self.flags_in)
            with m.Switch(self.size):
                for size in range(4):
                    with m.Case(size):
                        self._one_size(m, 8 << size, size, source, index)
            with m.Switch(self.op):
                with m.Case(Op.BSF, Op.BSR, Op.TZCNT, Op.LZCNT):
                    m.d.comb += chosen.eq(source[:8])
                    for n in range(1, 8):
                        byte = source[8 * n : 8 * n + 8]
                        with m.If(byte.any()):
                            m.d.comb += [chosen.eq(byte), place.eq(n)]
                with m.Case(Op.POPCNT):
                    m.d.comb += [self.result.eq(_total(list(source))), flags.eq(0), flags.z.eq(source == 0)]
        return m

    @staticmethod
    def _highest(byte):
        """Index of the highest 1 in a byte."""
        upper = byte[4:].any()
        nibble = Mux(upper, byte[4:], byte[:4])
        pair_up = nibble[2:].any()
        return Cat(Mux(pair_up, nibble[3], nibble[1]), pair_up, upper)

    def _one_size(self, m, bits, size, source, index):
        a, b, flags = self.a[:bits], self.b[:bits], self.flags_out
        lowest = (b & -b)[:bits]
        with m.Switch(self.op):
            with m.Case(Op.BT, Op.BTS, Op.BTR, Op.BTC):
                number = self.b[: size + 3]
                mask = (Const(1, 64) << number)[:bits]
                m.d.comb += [self.result.eq(a), flags.c.eq(a.bit_select(number, 1))]
                with m.If(self.op == Op.BTS):
                    m.d.comb += self.result.eq(a | mask)
                with m.If(self.op == Op.BTR):
                    m.d.comb += self.result.eq(a & ~mask)
                with m.If(self.op == Op.BTC):
                    m.d.comb += self.result.eq(a ^ mask)
            with m.Case(Op.BSF, Op.BSR):
                m.d.comb += [
                    source.eq(Mux(self.op == Op.BSF, lowest, b)),
                    self.keep.eq(b == 0),
                    self.result.eq(Mux(b == 0, self.a, index)),
                    flags.z.eq(b == 0),
                ]
            with m.Case(Op.TZCNT, Op.LZCNT):
                trailing = self.op == Op.TZCNT
                m.d.comb += [
                    source.eq(Mux(trailing, lowest, b)),
                    self.result.eq(Mux(b == 0, bits, Mux(trailing, index, bits - 1 - index))),
                    flags.c.eq(b == 0),
                    flags.p.eq(0),
                    flags.a.eq(0),
                    flags.z.eq(Mux(trailing, b[0], b[-1])),
                    flags.s.eq(0),
                ]
            with m.Case(Op.POPCNT):
                m.d.comb += source.eq(b)
            with m.Case(Op.BSWAP, Op.MOVBE):
                # bswap of 16 bits: the manuals leave it open, silicon has 0.
                with m.If((self.op == Op.MOVBE) | (bits != 16)):
                    m.d.comb += self.result.eq(Cat(b[n - 8 : n] for n in range(bits, 0, -8)))
            with m.Case(Op.BEXTR):
                field = Mux(self.b[6:8].any(), 0, a >> self.b[:6]) & _ones(self.b[8:16])[:bits]
                m.d.comb += [self.result.eq(field), flags.c.eq(0), flags.o.eq(0), flags.z.eq(field == 0)]
            with m.Case(Op.BZHI):
                kept = a & _ones(self.b[:8])[:bits]
                m.d.comb += self.result.eq(kept)
                self._logic_flags(m, kept, self.b[:8] >= bits)
            with m.Case(Op.BLSR):
                m.d.comb += self.result.eq(b ^ lowest)
                self._logic_flags(m, b ^ lowest, b == 0)
            with m.Case(Op.BLSI):
                m.d.comb += self.result.eq(lowest)
                self._logic_flags(m, lowest, b != 0)
            with m.Case(Op.BLSMSK):
                below = b ^ (b - 1)[:bits]
                m.d.comb += self.result.eq(below)
                self._logic_flags(m, below, b == 0)
            with m.Case(Op.BITOFF):
                m.d.comb += self.result.eq(Cat(Const(0, size), b[size + 3 :]).as_signed())

    def _logic_flags(self, m, value, carry):
        m.d.comb += [
            self.flags_out.c.eq(carry),
            self.flags_out.o.eq(0),
            self.flags_out.z.eq(value == 0),
            self.flags_out.s.eq(value[-1]),
        ]
