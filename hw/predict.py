"""Branch prediction that needs state: return addresses, how branches went before, and where indirect ones led."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

#: Entries; deeper call chains lose the outermost predictions, never correctness.
DEPTH = 8

#: Counters of conditional branches.
COUNTERS = 1024

#: Targets of indirect branches.
TARGETS = 64


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


class AgreePredictor(Component):
    """Two-bit counters, by the low bits of rip, that say whether a conditional branch follows the static rule.

    The static rule is backward taken, forward not; a fresh counter trusts it, so that cold code is predicted statically.

    Members
    -------
    pc, agree : the prediction for a branch at pc, combinational.
    resolved, resolved_pc, agreed : a conditional branch leaves execute in this cycle, and whether it followed the rule.
    """

    pc: In(64)
    agree: Out(1)
    resolved: In(1)
    resolved_pc: In(64)
    agreed: In(1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.counters = counters = Memory(shape=2, depth=COUNTERS, init=[2] * COUNTERS)
        predict, before = counters.read_port(domain="comb"), counters.read_port(domain="comb")
        after = counters.write_port()
        count = before.data
        m.d.comb += [
            predict.addr.eq(self.pc),
            self.agree.eq(predict.data[1]),
            before.addr.eq(self.resolved_pc),
            after.addr.eq(self.resolved_pc),
            after.en.eq(self.resolved),
            after.data.eq(Mux(self.agreed, count + (count != 3), count - (count != 0))),
        ]
        return m


class TargetTable(Component):
    """The last target of each indirect jump and call, by the low bits of its rip; no tags, since a wrong guess costs no more
    than none.

    Members
    -------
    pc, target : the prediction for a branch at pc, combinational.
    resolved, resolved_pc, resolved_target : an indirect branch leaves execute in this cycle, and where it went.
    """

    pc: In(64)
    target: Out(64)
    resolved: In(1)
    resolved_pc: In(64)
    resolved_target: In(64)

    def elaborate(self, platform):
        m = Module()
        m.submodules.targets = targets = Memory(shape=64, depth=TARGETS, init=[])
        predict, after = targets.read_port(domain="comb"), targets.write_port()
        m.d.comb += [
            predict.addr.eq(self.pc),
            self.target.eq(predict.data),
            after.addr.eq(self.resolved_pc),
            after.en.eq(self.resolved),
            after.data.eq(self.resolved_target),
        ]
        return m
