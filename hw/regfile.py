"""The register file, and what the stages behind it offer to those that need a value before it is written."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.isa.facts import Reg

#: Registers in the file: 16 architectural and 8 temporaries.
COUNT = 24

#: Read ports: base and index (A), a, b and cl (M), debug.
READS = ("base", "index", "a", "b", "c", "debug")


class RegFile(Component):
    """24 registers of 64 bits; reads combinational, old value in the cycle of a write.

    Members
    -------
    NAME_addr, NAME_data : read ports, for each of `READS`.
    d_we, d_addr, d_data : a result. sp_we, sp_data : rsp as a stack pointer; a result in rsp wins.
    """

    def __init__(self):
        members = {"d_we": In(1), "d_addr": In(5), "d_data": In(64), "sp_we": In(1), "sp_data": In(64)}
        for name in READS:
            members |= {f"{name}_addr": In(5), f"{name}_data": Out(64)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.file = memory = Memory(shape=64, depth=COUNT, init=[])
        for name in READS:
            port = memory.read_port(domain="comb")
            m.d.comb += [port.addr.eq(getattr(self, f"{name}_addr")), getattr(self, f"{name}_data").eq(port.data)]
        result, stack = memory.write_port(), memory.write_port()
        m.d.comb += [
            result.en.eq(self.d_we),
            result.addr.eq(self.d_addr),
            result.data.eq(self.d_data),
            stack.en.eq(self.sp_we & ~(self.d_we & (self.d_addr == Reg.RSP))),
            stack.addr.eq(Reg.RSP),
            stack.data.eq(self.sp_data),
        ]
        return m


class Bypass(data.Struct):
    """What one stage will write. ``ready``: the result is known in this cycle; the stack pointer always is."""

    d_we: 1
    d_reg: 5
    ready: 1
    result: 64
    sp_we: 1
    sp: 64


def forward(m: Module, name: str, reg, filed, stages) -> tuple[Signal, Signal]:
    """The newest value of ``reg`` and whether it has to be waited for, over ``stages`` (youngest first) and the file.

    A result in rsp is newer than the stack pointer of the same uop.
    """
    value, wait = Signal(64, name=f"{name}_value"), Signal(name=f"{name}_wait")
    is_sp = Signal(name=f"{name}_is_sp")
    m.d.comb += [is_sp.eq(reg == Reg.RSP), value.eq(filed)]
    first = True
    for stage in stages:
        hit = stage.d_we & (stage.d_reg == reg)
        with m.If(hit) if first else m.Elif(hit):
            m.d.comb += [value.eq(stage.result), wait.eq(~stage.ready)]
        with m.Elif(stage.sp_we & is_sp):
            m.d.comb += value.eq(stage.sp)
        first = False
    return value, wait


def merge(m: Module, name: str, size, high, old, new) -> Signal:
    """A result of ``size`` (log2 of bytes) put into a register: 32 bits clear the upper half, 8 and 16 keep the rest."""
    full = Signal(64, name=f"{name}_full")
    with m.Switch(size):
        with m.Case(0):
            m.d.comb += full.eq(Mux(high, Cat(old[:8], new[:8], old[16:]), Cat(new[:8], old[8:])))
        with m.Case(1):
            m.d.comb += full.eq(Cat(new[:16], old[16:]))
        with m.Case(2):
            m.d.comb += full.eq(new[:32])
        with m.Default():
            m.d.comb += full.eq(new)
    return full
