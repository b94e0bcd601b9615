"""Model-specific registers, and what may be written to them and to control registers (SDM vol. 3, 2.5; vol. 4, 2.1).

`MSRS` is the table: an MSR that it lacks is #GP(0). Values are checked here, where rdmsr, wrmsr, wrfsbase and mov to a control
register execute; what is kept of them is in `hw.sysregs`.
"""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module
from amaranth.lib.wiring import Component, In, Out

from hw.bus import APIC_BASE, PHYS_BITS
from hw.descriptor import canonical
from hw.isa.facts import SysReg

_ALL = (1 << 64) - 1


class Msr(NamedTuple):
    """Number; the system register that it is, or None for a constant ``value``; the bits that a write may have set; those
    that it must have set; whether it is an address, which must be canonical."""

    number: int
    reg: SysReg | None
    may: int = _ALL
    must: int = 0
    address: bool = False
    value: int = 0


#: EFER: SCE and NXE can be changed; LMA is ignored in a write; LME stays 1, since there is nothing but long mode.
_EFER_MAY, _EFER_MUST = 0xD01, 0x100

MSRS = (
    Msr(0x10, SysReg.TSC),
    Msr(0x17, None, may=0),  # IA32_PLATFORM_ID
    Msr(0x1B, SysReg.APIC_BASE, may=APIC_BASE | 0x900, must=APIC_BASE | 0x100),  # only EN moves
    Msr(0x8B, None),  # IA32_BIOS_SIGN_ID: 0, and written as 0 before cpuid
    Msr(0x1A0, None, may=1, must=1, value=1),  # IA32_MISC_ENABLE: fast strings
    Msr(0x1D9, None, may=0),  # IA32_DEBUGCTL
    Msr(0x277, SysReg.PAT, may=0x0707070707070707),
    Msr(0xC0000080, SysReg.EFER, may=_EFER_MAY, must=_EFER_MUST),
    Msr(0xC0000081, SysReg.STAR),
    Msr(0xC0000082, SysReg.LSTAR, address=True),
    Msr(0xC0000083, SysReg.CSTAR, address=True),
    Msr(0xC0000084, SysReg.FMASK, may=0xFFFFFFFF),
    Msr(0xC0000100, SysReg.FS_BASE, address=True),
    Msr(0xC0000101, SysReg.GS_BASE, address=True),
    Msr(0xC0000102, SysReg.KERNEL_GS_BASE, address=True),
    Msr(0xC0000103, SysReg.TSC_AUX, may=0xFFFFFFFF),
)

#: Index of no system register: a write to a constant MSR goes there.
NOWHERE = 63

#: CR4: TSD DE PSE PAE PGE UMIP FSGSBASE SMEP SMAP. The others belong to what the core does not have and are reserved.
CR4_MAY = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 11 | 1 << 16 | 1 << 20 | 1 << 21
CR4_PAE = 1 << 5

#: CR0: PG and PE stay 1 in 64-bit mode; NW needs CD. Bits of the lower half that have no name are ignored.
CR0_PE, CR0_NW, CR0_CD, CR0_PG = 0, 29, 30, 31


class Msrs(Component):
    """Combinational.

    Members
    -------
    number : of the MSR, for rdmsr and wrmsr. known : there is one. reg : its system register, or `NOWHERE`, and then
    value is what it reads as; constant : so it is.
    target, data : a value for a system register, by index. refused : it cannot be written there (#GP(0)).
    """

    number: In(32)
    known: Out(1)
    reg: Out(6)
    constant: Out(1)
    value: Out(64)
    data: In(64)
    target: In(6)
    msr_refused: Out(1)
    refused: Out(1)

    def elaborate(self, platform):
        m = Module()
        data = self.data
        with m.Switch(self.number):
            for row in MSRS:
                with m.Case(row.number):
                    m.d.comb += [
                        self.known.eq(1),
                        self.reg.eq(NOWHERE if row.reg is None else row.reg),
                        self.constant.eq(row.reg is None),
                        self.value.eq(row.value),
                        self.msr_refused.eq((data & ~row.may & _ALL).any() | (~data & row.must).any()),
                    ]
                    if row.reg is SysReg.PAT:  # memory types 2 and 3 do not exist
                        types = Cat(data[8 * i + 1] & ~data[8 * i + 2] for i in range(8))
                        m.d.comb += self.msr_refused.eq((data & ~row.may & _ALL).any() | types.any())
        with m.Switch(self.target):
            with m.Case(SysReg.CR0):
                illegal = ~data[CR0_PE] | ~data[CR0_PG] | (data[CR0_NW] & ~data[CR0_CD])
                m.d.comb += self.refused.eq(illegal | data[32:].any())
            with m.Case(SysReg.CR3):
                m.d.comb += self.refused.eq(data[PHYS_BITS:].any())
            with m.Case(SysReg.CR4):
                m.d.comb += self.refused.eq((data & ~Const(CR4_MAY, 64)).any() | ~(data & CR4_PAE).any())
            with m.Case(SysReg.CR8):
                m.d.comb += self.refused.eq(data[4:].any())
            with m.Case(SysReg.DR6, SysReg.DR7):
                m.d.comb += self.refused.eq(data[32:].any())
            with m.Case(*sorted({row.reg for row in MSRS if row.address})):
                m.d.comb += self.refused.eq(~canonical(data))
        return m
