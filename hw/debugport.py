"""The debug port's way to the registers: one index space for all (`hw.isa.facts.DebugReg`)."""

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out

from hw.isa.facts import DebugReg


class DebugAccess(Component):
    """Reads are combinational; a write is a strobe for the owner of the register.

    Members
    -------
    addr, we, rdata : of `hw.bus.DebugPort`.
    gpr, rip, rflags, cpl, system : what can be read. gpr_addr, system_addr : which of the register file, of `SysRegs`.
    gpr_we, rip_we, rflags_we, system_we : who takes the written value.
    """

    addr: In(7)
    we: In(1)
    rdata: Out(64)
    gpr: In(64)
    gpr_addr: Out(5)
    rip: In(64)
    rflags: In(64)
    cpl: In(2)
    system: In(64)
    system_addr: Out(6)
    gpr_we: Out(1)
    rip_we: Out(1)
    rflags_we: Out(1)
    system_we: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.gpr_addr.eq(self.addr[:4]), self.system_addr.eq(self.addr - DebugReg.SYS)]
        with m.If(self.addr < 16):
            m.d.comb += [self.rdata.eq(self.gpr), self.gpr_we.eq(self.we)]
        with m.Elif(self.addr == DebugReg.RIP):
            m.d.comb += [self.rdata.eq(self.rip), self.rip_we.eq(self.we)]
        with m.Elif(self.addr == DebugReg.RFLAGS):
            m.d.comb += [self.rdata.eq(self.rflags), self.rflags_we.eq(self.we)]
        with m.Elif(self.addr == DebugReg.CPL):
            m.d.comb += self.rdata.eq(self.cpl)
        with m.Else():
            m.d.comb += [self.rdata.eq(self.system), self.system_we.eq(self.we & (self.addr >= DebugReg.SYS))]
        return m
