"""What the sequencer must do with a delivery: come to its end, whatever else happens, unless a fault stops it."""

from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

from hw.isa.facts import Op, SysOp
from hw.isa.routines import ROUTINES
from hw.isa.rows import When
from hw.types import Insn, Operands
from tests.formal.prover import Opened


class Ends(Component):
    """The decode stage, its predictors free. A delivery that has begun and is not killed issues a uop or passes a row over in
    every cycle in which there is room, never the same row twice, and ends with the uop that is past the point of no return:
    which brings no fault and neither loads, stores nor is predicted, so that A and M have nothing to fault on (for X: `Final`).

    So it ends after as many cycles with room as its routine has rows. Without room it stays where it is.
    """

    insn: In(Insn)
    valid: In(1)
    ready: In(1)
    kill: In(1)
    deliver: In(1)
    error: In(1)
    cpl: In(2)
    iopl: In(2)
    guard: In(1)
    agree: In(1)
    target: In(64)
    top: In(64)

    def __init__(self, module):
        super().__init__()
        self._module = module

    def elaborate(self, platform):
        m = Module()
        stage = self._module.Decode()
        m.submodules.stage = inner = Opened(stage, cut=("stack", "agree", "targets"))
        m.d.comb += [
            stage.i.payload.eq(self.insn),
            stage.i.valid.eq(self.valid),
            stage.o.ready.eq(self.ready),
            stage.kill.eq(self.kill),
            stage.deliver.eq(self.deliver),
            stage.deliver_error.eq(self.error),
            stage.cpl.eq(self.cpl),
            stage.iopl.eq(self.iopl),
            stage.guard.eq(self.guard),
            Assume(~self.deliver | self.kill),
        ]
        first = self._module.DELIVER
        upc, delivering, out = inner["upc"], stage.delivering, stage.o
        room = ~out.valid | out.ready
        was, moved, stood, ended, row = Signal(), Signal(), Signal(), Signal(), Signal.like(upc)
        m.d.sync += [
            was.eq(delivering & ~self.kill),
            moved.eq(delivering & ~self.kill & (room | inner["skip"])),
            stood.eq(delivering & ~self.kill & ~room & ~inner["skip"]),
            row.eq(upc),
        ]
        rows = ROUTINES["deliver"]
        short = 1 + next(number for number, what in enumerate(rows) if what.when == When.NOERROR)
        length = Mux(inner["with_error"], len(rows), short)
        m.d.comb += ended.eq(was & ~delivering)
        past = out.payload.u.sysop == SysOp.DELIVER
        m.d.comb += [
            Assert(~delivering | ((upc > first) & (upc <= first + length)), "a row of the delivery"),
            Assert(~moved | ended | (upc == row + 1), "the next row"),
            Assert(~stood | (delivering & (upc == row)), "without room it waits"),
            Assert(~ended | (out.valid & past & out.payload.u.deliver & out.payload.u.last), "the last uop ends it"),
            Assert(~(delivering & out.valid & out.payload.u.deliver) | ~past, "no other uop does"),
        ]
        u = out.payload.u
        with m.If(out.valid & u.deliver):
            m.d.comb += [
                Assert(~u.fault.valid, "no fault of decoding"),
                Assert(~past | ~(u.load | u.store | u.branch), "nothing to fault on past the point of no return"),
            ]
        return m


class Final(Component):
    """The execute stage with any uops of which those that end a delivery are as `Ends` has them leave the decoder: without a
    fault, a jump that neither loads, stores nor is predicted. They leave the stage without a fault, too.
    """

    uop: In(Operands)
    valid: In(1)
    ready: In(1)
    kill: In(1)
    older: In(1)
    rflags: In(64)

    def __init__(self, module):
        super().__init__()
        self._module = module

    def elaborate(self, platform):
        m = Module()
        m.submodules.stage = stage = self._module.ExecuteStage()
        u = self.uop.u
        ends = u.sysop == SysOp.DELIVER
        m.d.comb += [
            stage.i.payload.eq(self.uop),
            stage.i.valid.eq(self.valid),
            stage.o.ready.eq(self.ready),
            stage.kill.eq(self.kill),
            stage.older.eq(self.older),
            stage.rflags.eq(self.rflags),
            Assume(~ends | ((u.op == Op.JMPA) & ~u.fault.valid & ~u.load & ~u.store & ~u.branch)),
        ]
        out = stage.o.payload.u
        m.d.comb += Assert(~(stage.o.valid & (out.sysop == SysOp.DELIVER)) | ~out.fault.valid, "it has no fault")
        return m
