"""Shifts and rotates: one right shift of a 129-bit window that holds the operand and what moves in beside it."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa.facts import Op
from hw.types import Flags


class Shifter(wiring.Component):
    """ROL ROR RCL RCR SHL SHR SAR SHLD SHRD of ``a`` by ``count``; combinational. Without ``en`` the outputs are 0.

    ``a`` and ``b`` may hold anything above the operand size, ``result`` is zero there; ``count`` is masked here.
    Undefined flags are as on Zen: AF of shifts is 1, and OF follows for every count the rule for 1. A 16-bit double
    shift by more than 16 brings ``b`` in twice, as there.
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
        """Build the logic."""
        m = Module()

        def is_one_of(*ops):
            return Cat(self.op == op for op in ops).any()

        is_left = is_one_of(Op.ROL, Op.RCL, Op.SHL, Op.SHLD)
        is_plain_rotate = is_one_of(Op.ROL, Op.ROR)
        is_carry_rotate = is_one_of(Op.RCL, Op.RCR)
        is_double = is_one_of(Op.SHLD, Op.SHRD)
        is_sar = self.op == Op.SAR

        # To the left by n is to the right by 64 - n, seen from 64 bits further up. The result begins at bit 1: so the
        # distance is n to the right and 63 - n to the left. The bit shifted out last is below the result or above it.
        window = Signal(129)
        distance = Signal(6)
        shifted = (window >> distance)[:66]

        carry = self.flags_in.c
        beside = Mux(is_plain_rotate, self.a, Mux(is_double, self.b, 0))
        with m.If(self.en):
            m.d.comb += self.flags_out.eq(self.flags_in)
            with m.Switch(self.size):
                for size in range(4):
                    bits = 8 << size
                    with m.Case(size):
                        a = self.a[:bits]
                        copies = 2 if bits == 16 else 1
                        count = self.count[: 6 if bits == 64 else 5]
                        turns = self.count[: size + 3]
                        carry_turns = count % (bits + 1) if bits < 32 else count
                        amount = Mux(is_carry_rotate, carry_turns, Mux(is_plain_rotate, turns, count))

                        # What moves in, and what C becomes if the operand turns all the way round.
                        low = Mux(is_carry_rotate, Cat(a[1:], carry), beside[:bits])
                        high = Mux(is_carry_rotate, Cat(carry, a), Cat([beside[:bits]] * copies))
                        sign = Mux(is_sar & a[-1], ~Const(0, 64), 0)
                        above = Mux(is_plain_rotate, a[0], carry)
                        below = Mux(is_plain_rotate, a[-1], carry)
                        leftward = Cat(Const(0, 64 - copies * bits), [low] * copies, a, above)
                        with m.If(is_left):
                            m.d.comb += [window.eq(leftward), distance.eq(amount ^ 63)]
                        with m.Else():
                            m.d.comb += [window.eq(Cat(below, a, high | sign)), distance.eq(amount)]

                        # The result and its flags; a count of 0 changes none.
                        value, msb = shifted[1 : bits + 1], shifted[bits]
                        out = Mux(is_left, shifted[bits + 1], shifted[0])
                        next_to_msb = Mux(is_left, shifted[bits + 1], shifted[bits - 1])
                        m.d.comb += self.result.eq(value)
                        with m.If(count.any()):
                            m.d.comb += [self.flags_out.c.eq(out), self.flags_out.o.eq(msb ^ next_to_msb)]
                            with m.If(~(is_plain_rotate | is_carry_rotate)):
                                m.d.comb += [
                                    self.flags_out.p.eq(~shifted[1:9].xor()),
                                    self.flags_out.a.eq(1),
                                    self.flags_out.z.eq(value == 0),
                                    self.flags_out.s.eq(msb),
                                ]
        return m
