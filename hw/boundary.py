"""What a hart remembers between two instructions: pending debug traps, shadows, sleep (trap semantics 3.3 to 3.8)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import enum
from amaranth.lib.wiring import Component, In, Out

from hw.config import Config, Vendor
from hw.isa.facts import SysOp, SysReg

#: Instructions whose single step depends on TF as they leave it, not as they found it: `syscall` and `sysret` (3.3) put
#: their `SysOp` here.
TF_AT_END: tuple[SysOp, ...] = (SysOp.SYSCALL, SysOp.SYSRET)


class Shadow(enum.Enum, shape=2):
    """What holds interrupts back at the next boundary; MOVSS also holds debug traps back."""

    NONE = 0
    STI = 1
    MOVSS = 2


class Boundary(Component):
    """The state at an instruction boundary, which includes that between two iterations of a string instruction.

    An instruction whose last uop writes SS makes a shadow: `mov ss`, but not `lss`, which writes its register last.

    Members
    -------
    commit : a uop retires; the members down to ``hits`` belong to it. ends, again : as in `hw.types.Done`.
    first, deliver, sysop, sysreg : as in `hw.types.Uop`. if_before, tf_before, tf_after : of RFLAGS. hits : breakpoints that
    its access meets (`hw.breakpoints`).
    take, keep : an event is taken; it leaves pending breakpoints as they are (int n and int3). moved : the debug port writes
    another rip.
    boundary : the last uop that retired ended an instruction. mid_rep : and a string instruction goes on with its next
    iteration. shadow : of the last instruction. halted : it was hlt, and nothing has come since.
    stepped, met : pending debug traps: a single step, and breakpoints that were met (one bit each).
    """

    commit: In(1)
    ends: In(1)
    again: In(1)
    first: In(1)
    deliver: In(1)
    sysop: In(SysOp)
    sysreg: In(6)
    if_before: In(1)
    tf_before: In(1)
    tf_after: In(1)
    hits: In(4)
    take: In(1)
    keep: In(1)
    moved: In(1)
    boundary: Out(1, init=1)
    mid_rep: Out(1)
    shadow: Out(Shadow)
    halted: Out(1)
    stepped: Out(1)
    met: Out(4)

    def __init__(self, config: Config):
        self._again = config.vendor == Vendor.AMD
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        started = Signal()  # TF as the instruction began
        tf, late, arms = Signal(), Signal(), Signal()
        m.d.comb += tf.eq(Mux(self.first, self.tf_before, started))
        with m.Switch(self.sysop):
            with m.Case(*TF_AT_END):
                m.d.comb += late.eq(1)
            with m.Case(SysOp.SEGMENT):
                # a second one in a row makes none: Intel's rule, which bounds how long an interrupt waits (3.6)
                m.d.comb += arms.eq((self.sysreg == SysReg.SS) & (self._again | (self.shadow != Shadow.MOVSS)))
        with m.If(self.commit):
            m.d.sync += [self.boundary.eq(self.ends), started.eq(tf)]
            with m.If(self.hits.any()):
                m.d.sync += self.met.eq(self.met | self.hits)
            with m.If(self.sysop == SysOp.HLT):
                m.d.sync += self.halted.eq(1)
            with m.If(self.ends):
                m.d.sync += [
                    self.mid_rep.eq(self.again),
                    self.stepped.eq(Mux(late, self.tf_after, tf) & ~self.deliver & ~arms),
                    self.shadow.eq(Shadow.NONE),
                ]
                with m.If(arms):
                    m.d.sync += self.shadow.eq(Shadow.MOVSS)
                with m.Elif((self.sysop == SysOp.STI) & ~self.if_before):
                    m.d.sync += self.shadow.eq(Shadow.STI)
        with m.If(self.take):
            m.d.sync += self.boundary.eq(0)
        with m.If(self.take | self.moved):
            m.d.sync += [self.halted.eq(0), self.stepped.eq(0), self.mid_rep.eq(0), self.shadow.eq(Shadow.NONE)]
            with m.If(~self.keep):
                m.d.sync += self.met.eq(0)
        return m
