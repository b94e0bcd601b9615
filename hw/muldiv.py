"""Multiplication and division, over several cycles, and the register between the two halves of their routines."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa.facts import Op
from hw.types import Flags

#: Cycles from the first with ``start`` to the one with ``done``, both counted.
MUL_CYCLES = 2
HALF_CYCLES = 1  # MULHI, REM, DIVHI
#: Bits of a quotient that a cycle makes.
DIGIT = 4
#: Bits of the quotient that a cycle passes over when all of them are zeros.
ZEROS = 16
#: Division, at most: one cycle takes the magnitudes, one puts the signs back, and each between makes a digit.
DIV_CYCLES = {bits: 2 + bits // DIGIT for bits in (8, 16, 32, 64)}
#: A divide error that the first step sees: divisor 0, or a quotient that does not fit even without its sign.
DIV_ERROR_CYCLES = 3


class Multiplier(wiring.Component):
    """The product of ``a`` and ``b`` at the operand size; ``done`` comes in the second cycle of ``start``."""

    start: In(1)
    signed: In(1)
    size: In(2)
    a: In(64)
    b: In(64)
    done: Out(1)
    low: Out(64)
    high: Out(64)
    #: The high half is more than zeros (unsigned) or copies of the sign (signed).
    significant: Out(1)

    def elaborate(self, platform):
        """Build the logic."""
        m = Module()
        factor_a = Signal(signed(65))
        factor_b = Signal(signed(65))
        product = Signal(signed(130), reset_less=True)

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.next = "DONE"
                with m.Switch(self.size):
                    for size in range(4):
                        a, b = self.a[: 8 << size], self.b[: 8 << size]
                        with m.Case(size):
                            m.d.comb += [
                                factor_a.eq(Mux(self.signed, a.as_signed(), a)),
                                factor_b.eq(Mux(self.signed, b.as_signed(), b)),
                            ]
                m.d.sync += product.eq(factor_a * factor_b)
            with m.State("DONE"):
                m.next = "IDLE"
                m.d.comb += self.done.eq(1)
                with m.Switch(self.size):
                    for size in range(4):
                        bits = 8 << size
                        high, sign_on = product[bits : 2 * bits], product[bits - 1 : 2 * bits]
                        with m.Case(size):
                            m.d.comb += [
                                self.low.eq(product[:bits]),
                                self.high.eq(high),
                                self.significant.eq(
                                    Mux(self.signed, sign_on.any() & ~sign_on.all(), high.any()),
                                ),
                            ]
        return m


class Divider(wiring.Component):
    """Quotient and remainder of the dividend high : low by ``b``, truncated toward zero; restoring, `DIGIT` bits a cycle.

    8-bit operands have their dividend in low[15:0]. With ``error`` the results mean nothing.
    """

    start: In(1)
    signed: In(1)
    size: In(2)
    high: In(64)
    low: In(64)
    b: In(64)
    done: Out(1)
    quotient: Out(64)
    remainder: Out(64)
    error: Out(1)

    def elaborate(self, platform):
        """Build the logic."""
        m = Module()

        # Magnitudes. The dividend leaves `quotient` at its top for `rest`, while the quotient comes in at the bottom.
        # Its low half starts at the top, whatever its size: every bit of it takes one step.
        rest = Signal(64, reset_less=True)
        quotient = Signal(64, reset_less=True)
        divisor = Signal(64, reset_less=True)
        negative = Signal(reset_less=True)  # the quotient will be
        negative_rest = Signal(reset_less=True)
        overflow = Signal(reset_less=True)
        cycles_left = Signal(range(64 // DIGIT), reset_less=True)

        # Operands as they come, sign-extended to the full width.
        dividend_in = Signal(128)
        divisor_in = Signal(64)
        minus_dividend = self.signed & dividend_in[-1]
        minus_divisor = self.signed & divisor_in[-1]

        skipped = ZEROS // DIGIT
        ahead = Cat(quotient[64 - ZEROS :], rest)
        passes = ahead < divisor
        pass_over = Cat(quotient, rest).eq(Cat(Const(0, ZEROS), quotient[: 64 - ZEROS], ahead))

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.next = "FIRST_STEP"
                with m.Switch(self.size):
                    for size in range(4):
                        bits = 8 << size
                        b, low = self.b[:bits], self.low[:bits]
                        high = self.low[8:16] if bits == 8 else self.high[:bits]
                        extended = Mux(self.signed, high.as_signed(), high)
                        with m.Case(size):
                            m.d.comb += [
                                dividend_in.eq(Cat(Const(0, 64 - bits), low, extended).as_signed()),
                                divisor_in.eq(Mux(self.signed, b.as_signed(), b)),
                            ]
                            m.d.sync += cycles_left.eq(bits // DIGIT - 1)
                m.d.sync += [
                    Cat(quotient, rest).eq(Mux(minus_dividend, -dividend_in, dividend_in)),
                    divisor.eq(Mux(minus_divisor, -divisor_in, divisor_in)),
                    negative.eq(minus_dividend ^ minus_divisor),
                    negative_rest.eq(minus_dividend),
                ]
            with m.State("FIRST_STEP"):
                # A quotient fits if the high half of the dividend is below the divisor; nothing is below 0.
                m.d.sync += overflow.eq(rest >= divisor)
                with m.If(passes & (cycles_left >= skipped)):
                    m.d.sync += [pass_over, cycles_left.eq(cycles_left - (skipped - 1))]
                with m.Else():
                    self._digit(m, rest, quotient, divisor)
                m.next = "STEP"
                with m.If(rest >= divisor):
                    m.next = "SIGN"
            with m.State("STEP"):
                with m.If(passes & (cycles_left > skipped)):
                    m.d.sync += [pass_over, cycles_left.eq(cycles_left - skipped)]
                with m.Else():
                    self._digit(m, rest, quotient, divisor)
                    m.d.sync += cycles_left.eq(cycles_left - 1)
                    with m.If(cycles_left == 1):
                        m.next = "SIGN"
            with m.State("SIGN"):
                m.next = "IDLE"
                m.d.comb += self.done.eq(1)
                with m.Switch(self.size):
                    for size in range(4):
                        bits = 8 << size
                        # Of magnitudes with the top bit set, only the lowest has a negative counterpart.
                        too_big = quotient[bits - 1] & (~negative | quotient[: bits - 1].any())
                        with m.Case(size):
                            m.d.comb += [
                                self.quotient.eq(Mux(negative, -quotient, quotient)[:bits]),
                                self.remainder.eq(Mux(negative_rest, -rest, rest)[:bits]),
                                self.error.eq(overflow | (self.signed & too_big)),
                            ]
        return m

    @staticmethod
    def _digit(m, rest, quotient, divisor):
        """`DIGIT` steps of long division. No signals between them: the Python simulator pays for each."""
        remaining, digits = rest, []
        for n in range(DIGIT):
            candidate = Cat(quotient[63 - n], remaining)
            digit = candidate >= divisor
            remaining = Mux(digit, candidate - divisor, candidate)[:64]
            digits.insert(0, digit)
        m.d.sync += [rest.eq(remaining), quotient.eq(Cat(digits, quotient[: 64 - DIGIT]))]


class MulDiv(wiring.Component):
    """MUL IMUL IMUL2 MULHI DIVHI DIV IDIV REM, on request. Without ``start`` the outputs are 0.

    ``start`` stays high, with stable operands, up to the cycle with ``done``; the next operation may start right after.
    `MUL_CYCLES`, `DIV_CYCLES` and `HALF_CYCLES` say how long each takes.

    One register carries what does not fit the result: MUL and IMUL leave the high half there for MULHI, DIVHI the
    high half of the next dividend, DIV and IDIV the remainder for REM. 8-bit operands need none of this: the result of
    MUL and IMUL is the 16-bit product, the dividend is a[15:0], and a division gives remainder and quotient.

    C and O after a multiplication say whether the high half matters; all other flags pass through, as on Zen. So do all
    after a division.
    """

    start: In(1)
    op: In(Op)
    size: In(2)  #: log2 of the bytes
    a: In(64)
    b: In(64)
    flags_in: In(Flags)
    #: Abandons what is under way; the register between the halves is then undefined.
    flush: In(1)
    done: Out(1)
    result: Out(64)
    flags_out: Out(Flags)
    error: Out(1)  #: with ``done``: divide error; the result means nothing

    def elaborate(self, platform):
        """Build the logic."""
        m = Module()
        multiplier, divider = Multiplier(), Divider()
        m.submodules.multiplier = ResetInserter(self.flush)(multiplier)
        m.submodules.divider = ResetInserter(self.flush)(divider)
        other_half = Signal(64, reset_less=True)

        with m.If(self.start):
            m.d.comb += self.flags_out.eq(self.flags_in)
            with m.Switch(self.op):
                with m.Case(Op.DIVHI):
                    m.d.comb += self.done.eq(1)
                    m.d.sync += other_half.eq(self.a)
                with m.Case(Op.MULHI, Op.REM):
                    m.d.comb += self.done.eq(1)
                    with m.Switch(self.size):
                        for size in range(4):
                            with m.Case(size):
                                m.d.comb += self.result.eq(other_half[: 8 << size])
                with m.Case(Op.MUL, Op.IMUL, Op.IMUL2):
                    self._multiply(m, multiplier, other_half)
                with m.Case(Op.DIV, Op.IDIV):
                    self._divide(m, divider, other_half)
        return m

    def _multiply(self, m, multiplier, other_half):
        m.d.comb += [
            multiplier.start.eq(1),
            multiplier.signed.eq(self.op != Op.MUL),
            multiplier.size.eq(self.size),
            multiplier.a.eq(self.a),
            multiplier.b.eq(self.b),
            self.done.eq(multiplier.done),
            self.result.eq(multiplier.low),
        ]
        with m.If((self.size == 0) & (self.op != Op.IMUL2)):
            m.d.comb += self.result.eq(Cat(multiplier.low[:8], multiplier.high[:8]))
        with m.If(multiplier.done):
            m.d.comb += [self.flags_out.c.eq(multiplier.significant), self.flags_out.o.eq(multiplier.significant)]
            m.d.sync += other_half.eq(multiplier.high)

    def _divide(self, m, divider, other_half):
        m.d.comb += [
            divider.start.eq(1),
            divider.signed.eq(self.op == Op.IDIV),
            divider.size.eq(self.size),
            divider.high.eq(other_half),
            divider.low.eq(self.a),
            divider.b.eq(self.b),
            self.done.eq(divider.done),
            self.result.eq(divider.quotient),
            self.error.eq(divider.error),
        ]
        with m.If(self.size == 0):
            m.d.comb += self.result.eq(Cat(divider.quotient[:8], divider.remainder[:8]))
        with m.If(divider.done):
            m.d.sync += other_half.eq(divider.remainder)
