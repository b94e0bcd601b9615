"""Random logic in Amaranth's own simulator, in Python by levels, and as C++: all three compute the same."""

import ctypes
import random
import shutil
import subprocess

import pytest
from amaranth.hdl import Array, Cat, ClockDomain, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.soc import Soc
from sim.build import NATIVE
from sim.cxxdesign import CxxDesign
from sim.levelized import Design
from sim.lowering import Lowered

BINARY = ["+", "-", "*", "//", "%", "&", "|", "^", "==", "!=", "<", "<=", ">", ">="]
WIDTHS = [1, 1, 2, 3, 5, 8, 16, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200]
GLUE = """
#include "design.h"
extern "C" {
Design *t_new() { auto *d = new Design; design_reset(*d); return d; }
void t_free(Design *d) { delete d; }
void t_settle(Design *d) { design_settle(*d); }
void t_edge(Design *d) { design_edge(*d); design_settle(*d); }
void *t_port(Design *d, int i) { return reinterpret_cast<char *>(d) + port_table[i].offset; }
const char *t_name(int i) { return port_table[i].name; }
int t_count() { return port_count; }
}
"""


class RandomLogic(wiring.Component):
    """Inputs, registers, a memory with masks, arrays, nested switches, partial assignments, loops of struct fields."""

    def __init__(self, seed, outputs=24):
        self.rng = random.Random(seed)
        members = {f"i{n}": In(self._shape()) for n in range(8)}
        members |= {f"o{n}": Out(self._shape()) for n in range(outputs)}
        super().__init__(members)
        self._outputs = outputs

    def _shape(self):
        return Shape(self.rng.choice(WIDTHS), self.rng.random() < 0.3)

    def _leaf(self):
        return self.rng.choice(self._values)

    def _expression(self, depth):
        rng = self.rng
        if depth == 0:
            return self._leaf()
        kind = rng.randrange(11)
        a, b = self._expression(depth - 1), self._expression(depth - 1)
        if kind <= 3:
            operator = rng.choice(BINARY)
            if operator in ("*", "//", "%"):
                a, b = a[:40], b[:40]
                a, b = (v.as_signed() if rng.random() < 0.4 and len(v) else v for v in (a, b))
            return eval(f"a {operator} b", {"a": a, "b": b})
        if kind == 4:
            amount = b[: rng.randrange(1, 7)]
            return a[:150] << amount if rng.random() < 0.5 else a >> amount
        if kind == 5:
            return Mux(self._leaf().any(), a, b)
        if kind == 6:
            return Cat(a, b, self._leaf())[: rng.choice(WIDTHS)]
        if kind == 7:
            lo = rng.randrange(len(a))
            return a[lo : rng.randrange(lo + 1, len(a) + 1)]
        if kind == 8:
            offset = self._leaf().as_unsigned()[:5]
            width = rng.randrange(1, 40)
            # Cat, not as_unsigned: beyond the end of that, Amaranth's simulator selects ones where hardware has zeros.
            return Cat(a).bit_select(offset, width) if rng.random() < 0.5 else Cat(a).word_select(offset[:3], width)
        if kind == 9:
            return rng.choice([lambda: ~a, lambda: -a, a.any, a.all, a.xor, lambda: a.as_signed(), a.bool])()
        return Array([a, b, self._leaf(), self._leaf()])[self._leaf().as_unsigned()[:2]]

    def _assign(self, m, target, domain, depth):
        rng = self.rng
        value = self._expression(2)
        kind = rng.randrange(7)
        statements = m.d[domain]
        if kind == 0 and len(target) > 2:
            lo = rng.randrange(len(target) - 1)
            statements += target[lo : rng.randrange(lo + 1, len(target))].eq(value)
        elif kind == 1 and len(target) > 4:
            lo = rng.randrange(len(target) // 2)
            part = target[lo:].bit_select(self._leaf().as_unsigned()[:4], rng.randrange(1, min(20, len(target) - lo) + 1))
            statements += part.eq(value)
        elif kind == 2 and depth:
            patterns = rng.sample(["0-1", "1-0", "111", "010", "--1"] if rng.random() < 0.5 else range(8), 3)
            with m.Switch(Cat(self._leaf(), 0, 0, 0)[:3]):
                for pattern in patterns:
                    with m.Case(pattern):
                        self._assign(m, target, domain, depth - 1)
                with m.Default():
                    self._assign(m, target, domain, depth - 1)
        elif kind == 3 and depth:
            with m.If(self._leaf().any()):
                self._assign(m, target, domain, depth - 1)
            with m.Else():
                self._assign(m, target, domain, depth - 1)
        elif kind == 4 and len(target) > 1:
            other = Signal(self._shape())
            statements += Cat(target[: len(target) // 2], other).eq(value)
        else:
            statements += target.eq(value)

    def elaborate(self, platform):
        m, rng = Module(), self.rng
        self._values = [getattr(self, f"i{n}") for n in range(8)]
        registers = [Signal(self._shape(), name=f"r{n}", init=rng.getrandbits(1)) for n in range(8)]
        self._values += registers
        width = rng.choice([8, 24, 64, 72, 144])
        m.submodules.memory = memory = Memory(shape=width, depth=13, init=[rng.getrandbits(width) for _ in range(9)])
        write = memory.write_port(granularity=8)
        reads = [memory.read_port(domain="comb"), memory.read_port(), memory.read_port(transparent_for=(write,))]
        self._values += [port.data for port in reads[1:]]
        m.d.comb += [port.addr.eq(self._leaf()) for port in (write, *reads)]
        m.d.comb += [write.en.eq(self._leaf()), write.data.eq(self._leaf()), reads[1].en.eq(self._leaf().any())]
        self._values += [reads[0].data]
        for n in range(6):
            field = Signal(self._shape(), name=f"c{n}")
            self._assign(m, field, "comb", 2)
            self._assign(m, field, "comb", 2)
            self._values.append(field)
        self._structs(m)
        for register in registers:
            self._assign(m, register, "sync", 2)
        for n in range(self._outputs):
            self._assign(m, getattr(self, f"o{n}"), "comb", 2)
        return m


    def _structs(self, m):
        """Structs that travel: made field by field, copied whole, changed in a field, held, and names for each other."""
        rng = self.rng
        layout = StructLayout({f"f{n}": self._shape() for n in range(6)} | {"inner": StructLayout({"a": 7, "b": signed(70)})})
        made, held, changed, nest = Signal(layout), Signal(layout), Signal(layout), Signal(StructLayout({"x": layout, "y": 9}))
        for n in range(6):
            if rng.random() < 0.8:
                self._assign(m, getattr(made, f"f{n}"), "comb", 1)
        m.d.comb += made.inner.b.eq(self._expression(1))
        with m.If(self._leaf().any()):
            m.d.sync += held.eq(made)
        m.d.comb += [nest.x.eq(held), nest.y.eq(self._leaf()), changed.eq(Mux(self._leaf().any(), nest.x, made))]
        with m.If(self._leaf().any()):
            self._assign(m, Value.cast(getattr(changed, f"f{rng.randrange(6)}")), "comb", 1)
        with m.If(self._leaf().any()):
            m.d.comb += [Cat(changed.inner.a, changed.f0).eq(self._expression(2)), changed.inner.b.eq(nest.x.inner.b)]
        alias = Signal(signed(70))
        m.d.comb += alias.eq(changed.inner.b)
        self._values += [alias, nest.as_value()[3:], changed.inner.a, Signal(5), Signal(signed(5), init=-3)]
        self._values += [getattr(changed, f"f{n}") for n in range(6)]


class Compiled:
    """The C++ of a component with a minimal library around it."""

    def __init__(self, component, folder):
        for name, text in CxxDesign(component).files.items():
            (folder / name).write_text(text)
        (folder / "glue.cc").write_text(GLUE)
        sources = [path.name for path in folder.glob("*.cc")]
        command = ["g++", "-std=c++17", "-O1", "-fno-strict-aliasing", "-w", "-fPIC", "-shared", "-I.", f"-I{NATIVE}"]
        subprocess.run([*command, *sources, "-o", "t.so"], cwd=folder, check=True)
        self._lib = ctypes.CDLL(str(folder / "t.so"))
        for name in ("t_new", "t_port"):
            getattr(self._lib, name).restype = ctypes.c_void_p
        self._lib.t_name.restype = ctypes.c_char_p
        self._design = ctypes.c_void_p(self._lib.t_new())
        self._at = {self._lib.t_name(i).decode(): self._lib.t_port(self._design, i) for i in range(self._lib.t_count())}

    def set(self, name, value, width):
        size = (width + 63) // 64 * 8
        ctypes.memmove(self._at[name], (value & ((1 << width) - 1)).to_bytes(size, "little"), size)

    def get(self, name, width):
        return int.from_bytes(ctypes.string_at(self._at[name], (width + 63) // 64 * 8), "little")

    def settle(self):
        self._lib.t_settle(self._design)

    def edge(self):
        self._lib.t_edge(self._design)


@pytest.mark.parametrize("seed", range(6))
def test_random_logic(seed, tmp_path):
    if not shutil.which("g++"):
        pytest.skip("no g++")
    ours = RandomLogic(seed)
    design, compiled = Design(ours), Compiled(RandomLogic(seed), tmp_path)
    reference = RandomLogic(seed)
    top, domain = Module(), ClockDomain("sync")
    top.domains += domain
    top.submodules.reference = reference
    simulator = Simulator(top)
    rng = random.Random(seed)

    async def testbench(ctx):
        for cycle in range(150):
            for n in range(8):
                port = getattr(reference, f"i{n}")
                value = rng.choice([0, -1, rng.getrandbits(200), rng.getrandbits(200), rng.getrandbits(4)])
                value &= (1 << len(port)) - 1
                signed = value - (1 << len(port)) if port.shape().signed and value >> (len(port) - 1) else value
                ctx.set(port, signed)
                design.poke(design.get_signal(getattr(ours, f"i{n}")), signed)
                compiled.set(f"i{n}", value, len(port))
            design.settle()
            compiled.settle()
            for n in range(24):
                port = getattr(reference, f"o{n}")
                mask = (1 << len(port)) - 1
                expected = ctx.get(port) & mask
                where = f"output {n} in cycle {cycle}"
                assert design.values[design.get_signal(getattr(ours, f"o{n}"))] & mask == expected, f"Python, {where}"
                assert compiled.get(f"o{n}", len(port)) == expected, f"C++, {where}"
            ctx.set(domain.clk, 1)
            ctx.set(domain.clk, 0)
            design.edge()
            design.settle()
            compiled.edge()

    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("harts", (1, 2, 3))
def test_the_hardware_has_no_loops_of_whole_signals(harts):
    """One costs half of the speed of an engine: all logic is settled twice. It is a struct of which one field reads another, or
    harts of which each waits for what the other drops."""
    lowered = Lowered(Soc(harts))
    assert not [[lowered.signals[index].name for index in loop] for loop in lowered.loops]
