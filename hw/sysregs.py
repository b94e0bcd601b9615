"""System registers: one row each (width, value after reset, writable bits), one write port, two read ports."""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.bus import APIC_BASE
from hw.config import Config, Vendor
from hw.isa.facts import SysReg

ALL = (1 << 64) - 1


class SysRow(NamedTuple):
    """A system register: index, bits kept by a write, value after reset, bits that always read as 1."""

    reg: SysReg
    mask: int
    reset: int = 0
    ones: int = 0


#: SDM vol. 3, 2.5 (CRs), 17.2 (DRs), 9.1.1 (reset); paging and protection are on from the start in a 64-bit-only core.
ROWS = (
    SysRow(SysReg.CR0, 0xE005003F, 0x80050033, 0x10),
    SysRow(SysReg.CR2, ALL),
    SysRow(SysReg.CR3, ALL),
    SysRow(SysReg.CR4, 0x007FFFFF, 0x20),
    SysRow(SysReg.ES, 0xFFFF, 0x10),
    SysRow(SysReg.CS, 0xFFFF, 0x08),
    SysRow(SysReg.SS, 0xFFFF, 0x10),
    SysRow(SysReg.DS, 0xFFFF, 0x10),
    SysRow(SysReg.FS, 0xFFFF),
    SysRow(SysReg.GS, 0xFFFF),
    SysRow(SysReg.TR, 0xFFFF),
    SysRow(SysReg.DR0, ALL),
    SysRow(SysReg.DR1, ALL),
    SysRow(SysReg.DR2, ALL),
    SysRow(SysReg.DR3, ALL),
    SysRow(SysReg.DR6, 0x0000E00F, 0xFFFF0FF0, 0xFFFF0FF0),
    SysRow(SysReg.DR7, 0xFFFF23FF, 0x400, 0x400),
    SysRow(SysReg.IDT_BASE, ALL),
    SysRow(SysReg.IDT_LIMIT, 0xFFFF, 0xFFFF),
    SysRow(SysReg.GDT_BASE, ALL),
    SysRow(SysReg.GDT_LIMIT, 0xFFFF, 0),
    SysRow(SysReg.TR_BASE, ALL),
    SysRow(SysReg.TR_LIMIT, 0xFFFFFFFF),
    SysRow(SysReg.FS_BASE, ALL),
    SysRow(SysReg.GS_BASE, ALL),
    SysRow(SysReg.KERNEL_GS_BASE, ALL),
    SysRow(SysReg.EFER, 0x801, 0x500, 0x500),
    SysRow(SysReg.LDTR, 0xFFFF),
    SysRow(SysReg.LDT_BASE, ALL),
    SysRow(SysReg.LDT_LIMIT, 0xFFFFFFFF),
    SysRow(SysReg.STAR, ALL),
    SysRow(SysReg.LSTAR, ALL),
    SysRow(SysReg.CSTAR, ALL),
    SysRow(SysReg.FMASK, 0xFFFFFFFF),
    SysRow(SysReg.PAT, ALL, 0x0007040600070406),
    SysRow(SysReg.TSC_AUX, 0xFFFFFFFF),
    SysRow(SysReg.APIC_BASE, 0x800, APIC_BASE | 0x900, APIC_BASE | 0x100),
)

#: CR4.DE, debugging extensions: I/O breakpoints, and no DR4 and DR5.
CR4_DE = 3

#: Bits that decode looks at (SDM vol. 3, 2.5): CR4, EFER, IA32_APIC_BASE.
CR4_TSD, CR4_UMIP, CR4_FSGSBASE = 2, 11, 16
EFER_SCE = 0
APIC_EN = 11

#: Segment registers whose hidden parts matter in 64-bit mode, and where their base is, if it is not 0.
_SEGMENTS = {SysReg.ES: None, SysReg.DS: None, SysReg.FS: SysReg.FS_BASE, SysReg.GS: SysReg.GS_BASE}

#: IA32_APIC_BASE.BSP: the bootstrap processor.
BSP = 1 << 8

#: INIT leaves these as they are, and the time stamp counter (SDM vol. 3, table 9-1).
KEPT_BY_INIT = (
    SysReg.APIC_BASE, SysReg.KERNEL_GS_BASE, SysReg.STAR, SysReg.LSTAR, SysReg.CSTAR, SysReg.FMASK, SysReg.PAT, SysReg.TSC_AUX,
)  # fmt: skip

#: DR6 bits that the trap logic sets or rewrites.
DR6_BS = 1 << 14
DR6_B = 0xF


class SysRegs(Component):
    """The registers of `ROWS`.

    Members
    -------
    read, read_data : what execute reads. debug, debug_data : what the debug port reads. Both combinational.
    we, waddr, wdata : a write at the clock edge. swapgs : exchanges the two GS bases.
    segment : the write loads a segment register whole: bits 15 to 0 selector, 17 and 16 DPL, 18 conforming, 63 to 32 base.
    Without it (the debug port) the DPL becomes 0 and the base stays.
    fault_we, cr2 : records a page fault's address. dr6_we, dr6_b, dr6_bs, dr6_bd : a debug exception is taken: B0-3 are
    rewritten, BS and BD are set, never cleared.
    deliver_we, far_we : a delivery or a far transfer ends. new_cs, new_ss, ss_we : the selectors then. db : the delivery was
    one of a #DB, which clears DR7.GD. outer : the transfer goes to less privilege: data segments that it may not use become
    null, their bases stay.
    tsc : the time stamp counter, which counts cycles.
    tpr, cr8_we : CR8 is a half of the interrupt controller's task priority, and a write of it goes there.
    NAME : the value of each register that other parts watch, in lower case.
    """

    WATCHED = (
        SysReg.CR0,
        SysReg.CR3,
        SysReg.CR4,
        SysReg.EFER,
        SysReg.CS,
        SysReg.SS,
        SysReg.IDT_BASE,
        SysReg.IDT_LIMIT,
        SysReg.GDT_BASE,
        SysReg.GDT_LIMIT,
        SysReg.LDT_BASE,
        SysReg.LDT_LIMIT,
        SysReg.TR,
        SysReg.TR_BASE,
        SysReg.TR_LIMIT,
        SysReg.FS_BASE,
        SysReg.GS_BASE,
        SysReg.APIC_BASE,
        SysReg.DR0,
        SysReg.DR1,
        SysReg.DR2,
        SysReg.DR3,
        SysReg.DR7,
        SysReg.STAR,
        SysReg.FMASK,
    )

    def __init__(self, config: Config, first: bool = True):
        """`first`: this is the hart that runs after reset, which IA32_APIC_BASE.BSP says."""
        self._absent = {SysReg.APIC_BASE: 0 if first else BSP}
        self._keeps_base = config.vendor is Vendor.AMD
        super().__init__(
            {
                "read": In(6),
                "read_data": Out(64),
                "debug": In(6),
                "debug_data": Out(64),
                "we": In(1),
                "waddr": In(6),
                "wdata": In(64),
                "swapgs": In(1),
                "fault_we": In(1),
                "cr2": In(64),
                "dr6_we": In(1),
                "dr6_b": In(4),
                "dr6_bs": In(1),
                "dr6_bd": In(1),
                "segment": In(1),
                "deliver_we": In(1),
                "far_we": In(1),
                "outer": In(1),
                "new_cs": In(16),
                "new_ss": In(16),
                "ss_we": In(1),
                "db": In(1),
                "tsc": Out(64),
                "tpr": In(8),
                "cr8_we": Out(1),
            }
            | {reg.name.lower(): Out(64) for reg in self.WATCHED}
        )

    def elaborate(self, platform):
        m = Module()
        value = {}
        for row in ROWS:
            reset = row.reset & ~self._absent.get(row.reg, 0)
            kept = row.reg in KEPT_BY_INIT
            value[row.reg] = Signal(64, init=reset, name=row.reg.name.lower(), reset_less=kept)
        for port, data in ((self.read, self.read_data), (self.debug, self.debug_data)):
            with m.Switch(port):
                for row in ROWS:
                    with m.Case(row.reg):
                        m.d.comb += data.eq(value[row.reg])
                with m.Case(SysReg.CR8):
                    m.d.comb += data.eq(self.tpr[4:])
                with m.Case(SysReg.TSC):
                    m.d.comb += data.eq(self.tsc)
        count = Signal(64, reset_less=True)
        m.d.sync += count.eq(Mux(self.we & (self.waddr == SysReg.TSC), self.wdata, count + 1))
        m.d.comb += self.tsc.eq(count)
        m.d.comb += self.cr8_we.eq(self.we & (self.waddr == SysReg.CR8))
        with m.If(self.we), m.Switch(self.waddr):
            for row in ROWS:
                with m.Case(row.reg):
                    ones = row.ones & ~self._absent.get(row.reg, 0)
                    m.d.sync += value[row.reg].eq((self.wdata & row.mask) | ones)
        with m.If(self.swapgs):
            m.d.sync += [
                value[SysReg.GS_BASE].eq(value[SysReg.KERNEL_GS_BASE]),
                value[SysReg.KERNEL_GS_BASE].eq(value[SysReg.GS_BASE]),
            ]
        with m.If(self.fault_we):
            m.d.sync += value[SysReg.CR2].eq(self.cr2)
        with m.If(self.dr6_we):
            sticky = Cat(Const(0, 13), self.dr6_bd, self.dr6_bs)
            m.d.sync += value[SysReg.DR6].eq((value[SysReg.DR6] & ~DR6_B) | self.dr6_b | sticky)
        with m.If(self.deliver_we | self.far_we):
            m.d.sync += value[SysReg.CS].eq(self.new_cs)
            with m.If(self.ss_we):
                m.d.sync += value[SysReg.SS].eq(self.new_ss)
        with m.If(self.deliver_we & self.db):
            m.d.sync += value[SysReg.DR7][13].eq(0)
        self._hidden(m, value)
        for reg in self.WATCHED:
            m.d.comb += getattr(self, reg.name.lower()).eq(value[reg])
        return m

    def _hidden(self, m, value):
        """The hidden parts of ES, DS, FS and GS (SDM vol. 3, 3.4.3): DPL and conforming, and the base of FS and GS.

        A null selector clears the base on Intel and leaves it on AMD.
        """
        for reg, base in _SEGMENTS.items():
            dpl, conforming = Signal(2, name=f"{reg.name.lower()}_dpl"), Signal(name=f"{reg.name.lower()}_conforming")
            null = self.wdata[2:16] == 0
            with m.If(self.we & (self.waddr == reg)):
                m.d.sync += [dpl.eq(0), conforming.eq(0)]
                with m.If(self.segment):
                    m.d.sync += [dpl.eq(self.wdata[16:18]), conforming.eq(self.wdata[18])]
            if base is not None:
                with m.If(self.we & self.segment & (self.waddr == reg) & ~(null & self._keeps_base)):
                    m.d.sync += value[base].eq(self.wdata[32:64])
            with m.If(self.outer & ~conforming & (dpl < self.new_cs[0:2])):
                m.d.sync += [value[reg].eq(0), dpl.eq(0)]
