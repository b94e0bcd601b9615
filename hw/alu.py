"""Addition, subtraction and logic: one adder, whose operands are prepared so that it also delivers logic results."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa.facts import Op
from hw.types import Flags


class Alu(wiring.Component):
    """ADD OR ADC SBB AND SUB XOR INC DEC NOT NEG ANDN ADOX; combinational. Other operations give 0 and pass the flags through.

    ``a`` and ``b`` may hold anything above the operand size, ``result`` is zero there. AF after logic is 0, as on Zen.
    """

    op: In(Op)
    size: In(2)  #: log2 of the bytes
    a: In(64)
    b: In(64)
    flags_in: In(Flags)
    result: Out(64)
    flags_out: Out(Flags)

    def elaborate(self, platform):
        """Build the logic."""
        m = Module()
        a, b, carry = self.a, self.b, self.flags_in.c

        # What the adder adds. Logic results pass through it with nothing added, which also clears C, A and O.
        x = Signal(64)
        y = Signal(64)
        carry_in = Signal()
        borrow = Signal()  # the operation is a subtraction: C and A are borrows
        writes = Signal()
        keeps_c = Signal()
        with m.Switch(self.op):
            with m.Case(Op.ADD):
                m.d.comb += [x.eq(a), y.eq(b), writes.eq(1)]
            with m.Case(Op.ADC):
                m.d.comb += [x.eq(a), y.eq(b), carry_in.eq(carry), writes.eq(1)]
            with m.Case(Op.ADOX):
                m.d.comb += [x.eq(a), y.eq(b), carry_in.eq(self.flags_in.o), writes.eq(1)]
            with m.Case(Op.SUB):
                m.d.comb += [x.eq(a), y.eq(~b), carry_in.eq(1), borrow.eq(1), writes.eq(1)]
            with m.Case(Op.SBB):
                m.d.comb += [x.eq(a), y.eq(~b), carry_in.eq(~carry), borrow.eq(1), writes.eq(1)]
            with m.Case(Op.INC):
                m.d.comb += [x.eq(a), carry_in.eq(1), keeps_c.eq(1), writes.eq(1)]
            with m.Case(Op.DEC):
                m.d.comb += [x.eq(a), y.eq(~Const(0, 64)), borrow.eq(1), keeps_c.eq(1), writes.eq(1)]
            with m.Case(Op.NEG):
                m.d.comb += [y.eq(~a), carry_in.eq(1), borrow.eq(1), writes.eq(1)]
            with m.Case(Op.NOT):
                m.d.comb += x.eq(~a)
            with m.Case(Op.AND):
                m.d.comb += [x.eq(a & b), writes.eq(1)]
            with m.Case(Op.ANDN):
                m.d.comb += [x.eq(~a & b), writes.eq(1)]
            with m.Case(Op.OR):
                m.d.comb += [x.eq(a | b), writes.eq(1)]
            with m.Case(Op.XOR):
                m.d.comb += [x.eq(a ^ b), writes.eq(1)]

        # Expressions, not signals: the Python simulator would evaluate the whole unit once more for each.
        total = (x + y + carry_in)[:65]
        carries = x ^ y ^ total  # bit n: the carry into bit n, which is the carry out of an n-bit operand

        m.d.comb += self.flags_out.eq(self.flags_in)
        with m.Switch(self.size):
            for size in range(4):
                bits = 8 << size
                with m.Case(size):
                    m.d.comb += self.result.eq(total[:bits])
                    with m.If(writes):
                        m.d.comb += [
                            self.flags_out.p.eq(~total[:8].xor()),
                            self.flags_out.a.eq(carries[4] ^ borrow),
                            self.flags_out.z.eq(total[:bits] == 0),
                            self.flags_out.s.eq(total[bits - 1]),
                            self.flags_out.o.eq(carries[bits] ^ (carries[bits - 1] & (self.op != Op.ADOX))),
                        ]
                        with m.If(~keeps_c):
                            m.d.comb += self.flags_out.c.eq(carries[bits] ^ borrow)
        return m
