"""RFLAGS: the committed register and what each uop makes of it."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.flags import status_image, status_of
from hw.invariant import invariant
from hw.isa.facts import STATUS_BITS, RFlag, SysOp
from hw.types import Flags

#: RFLAGS bits that exist in 64-bit mode (VM stays 0), and the one that always reads as 1.
RFLAGS_MASK = sum(1 << bit for bit in RFlag if bit != RFlag.VM) | 1 << (RFlag.IOPL + 1)
RFLAGS_ONE = 2

_STATUS = sum(1 << bit for bit in STATUS_BITS)


class Rflags(Component):
    """The register and its next value (trap semantics 1.6, 3.5, 6 and 9). Combinational outputs but for ``value``.

    Members
    -------
    commit : a uop retires; the members down to ``gate_trap`` belong to it.
    ends, last, iret, size, sysop : as in `hw.types.Done` and `hw.types.Uop`. flags : its status flags. image : what popf and
    iretq load, and sysret. fmask : what syscall clears. cpl : before it. gate_trap : a delivery through a trap gate, which
    leaves IF.
    we, wdata : the debug port's write, in a cycle without commit.
    value : committed. after : what it will be after this cycle. status : the status flags of ``after``.
    """

    commit: In(1)
    ends: In(1)
    last: In(1)
    iret: In(1)
    size: In(2)
    sysop: In(SysOp)
    flags: In(Flags)
    image: In(64)
    fmask: In(64)
    cpl: In(2)
    gate_trap: In(1)
    we: In(1)
    wdata: In(64)
    value: Out(64, init=RFLAGS_ONE)
    after: Out(64)
    status: Out(Flags)

    def elaborate(self, platform):
        m = Module()
        value, after = self.value, Signal(64)
        arithmetic = Signal(64)
        m.d.comb += [arithmetic.eq((value & ~_STATUS) | status_image(self.flags)), after.eq(value)]
        with m.If(self.commit):
            m.d.comb += after.eq(arithmetic)
            with m.If(self.ends):
                m.d.comb += after[RFlag.RF].eq(0)
            with m.Switch(self.sysop):
                with m.Case(SysOp.POPF, SysOp.IRETF):
                    self._load(m, after, arithmetic)
                with m.Case(SysOp.CLI):
                    m.d.comb += after[RFlag.IF].eq(0)
                with m.Case(SysOp.STI):
                    m.d.comb += after[RFlag.IF].eq(1)
                with m.Case(SysOp.CLAC):
                    m.d.comb += after[RFlag.AC].eq(0)
                with m.Case(SysOp.STAC):
                    m.d.comb += after[RFlag.AC].eq(1)
                with m.Case(SysOp.SYSCALL):
                    m.d.comb += [after.eq(arithmetic & ~self.fmask), after[RFlag.RF].eq(0)]
                with m.Case(SysOp.SYSRET):
                    m.d.comb += after.eq(self.image & ~(1 << RFlag.RF))
                with m.Case(SysOp.CLD):
                    m.d.comb += after[RFlag.DF].eq(0)
                with m.Case(SysOp.STD):
                    m.d.comb += after[RFlag.DF].eq(1)
                with m.Case(SysOp.DELIVER):
                    m.d.comb += [after[bit].eq(0) for bit in (RFlag.TF, RFlag.NT, RFlag.RF, RFlag.VM)]
                    with m.If(~self.gate_trap):
                        m.d.comb += after[RFlag.IF].eq(0)
            with m.If(self.iret & self.last):  # what iretq loaded stands, RF included
                m.d.comb += after[RFlag.RF].eq(value[RFlag.RF])
        with m.Elif(self.we):
            m.d.comb += after.eq(self.wdata)
        m.d.comb += [self.after.eq((after & RFLAGS_MASK) | RFLAGS_ONE), self.status.eq(status_of(after))]
        m.d.sync += value.eq(self.after)
        fixed = (value & ~RFLAGS_MASK) == RFLAGS_ONE
        invariant(m, "rflags.reserved", fixed, "reserved bits of {:#x}", value)
        return m

    def _load(self, m, after, arithmetic):
        """popf and iretq: what of the image is loaded."""
        iopl = Cat(arithmetic[RFlag.IOPL], arithmetic[RFlag.IOPL + 1])
        taken = Signal(64)
        always = _STATUS | 1 << RFlag.TF | 1 << RFlag.DF | 1 << RFlag.NT
        wide = 1 << RFlag.AC | 1 << RFlag.ID
        m.d.comb += taken.eq(always)
        with m.If(self.size != 1):
            m.d.comb += taken.eq(always | wide | Mux(self.iret, 1 << RFlag.RF, 0))
        with m.If(self.cpl == 0):
            m.d.comb += [taken[RFlag.IOPL].eq(1), taken[RFlag.IOPL + 1].eq(1)]
            with m.If(self.iret & (self.size != 1)):
                m.d.comb += [taken[RFlag.VIF].eq(1), taken[RFlag.VIP].eq(1)]
        with m.If(self.cpl <= iopl):
            m.d.comb += taken[RFlag.IF].eq(1)
        m.d.comb += after.eq((arithmetic & ~taken) | (self.image & taken))
        with m.If(~self.iret):
            m.d.comb += after[RFlag.RF].eq(0)
