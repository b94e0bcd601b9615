"""Shifts and rotates: one right shift of a 129-bit window that holds the operand and what moves in beside it."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa.facts import Op
from hw.types import Flags


class Shifter(wiring.Component):
    """ROL ROR RCL RCR SHL SHR SAR SHLD SHRD of ``a`` by ``count``; combinational. Without ``en`` all outputs are 0.

    ``count`` is masked here. Undefined flags are as on Zen: AF of shifts is 1, and OF for every count is what it is for 1:
    C ^ msb to the left, the two top bits' difference to the right. A double shift of 16 bits by more brings ``b`` in twice.
    """

    en: In(1, init=1)
    op: In(Op)
    size: In(2)  #: log2 of the bytes
    a: In(64)
    b: In(64)  #: the other register of SHLD and SHRD
    count: In(8)
    flags_in: In(Flags)
    result: Out(64)
    flags_out: Out(Flags)

    def elaborate(self, platform):
        m = Module()
        a, b, carry = self.a, self.b, self.flags_in.c

        left = Signal()
        moves_in = Signal(65)  # beside the operand, nearest bit: lowest to the right, highest (below bit 64) to the left
        window = Signal(129)
        distance = Signal(6)
        any_count = Signal()

        # One shifter serves both directions: to the left by n is to the right by 64 - n, seen from 64 bits further up.
        # The result is at 1 and up; the bit shifted out last is below it to the right, above it to the left.
        with m.If(self.en):
            m.d.comb += left.eq(Cat(self.op == op for op in (Op.ROL, Op.RCL, Op.SHL, Op.SHLD)).any())
            with m.Switch(self.size):
                for size in range(4):
                    bits = 8 << size
                    with m.Case(size):
                        self._prepare(m, bits, left, window, distance, any_count)
        del moves_in, a, b, carry
        return m
