"""Branch prediction that needs state: the stack of return addresses."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib.wiring import Component, In, Out

#: Entries; deeper call chains lose the outermost predictions, never correctness.
DEPTH = 8


class ReturnStack(Component):
    """A ring of return addresses. Wrong paths may disturb it; a wrong prediction costs a redirect and nothing else.

    Members
    -------
    push, ret_pc : a call is issued in this cycle. pop : a return is. top : the predicted target, always valid.
    """

    push: In(1)
    ret_pc: In(64)
    pop: In(1)
    top: Out(64)

    def elaborate(self, platform):
        m = Module()
        entries = Array(Signal(64, name=f"entry{i}") for i in range(DEPTH))
        head = Signal(range(DEPTH))
        m.d.comb += self.top.eq(entries[head])
        with m.If(self.push):
            above = (head + 1)[: len(head)]
            m.d.sync += [head.eq(above), entries[above].eq(self.ret_pc)]
        with m.Elif(self.pop):
            m.d.sync += head.eq(head - 1)
        return m
