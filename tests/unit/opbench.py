"""What the unit tests of the execute units share: cases, the simulation that runs them, and the host's own answers."""

import os
import platform
import random
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from amaranth.hdl import Cat, Elaboratable, Module, Signal, Value
from amaranth.sim import Simulator

from hw.isa.facts import STATUS_BITS, Op
from tests.unit.flags_reference import ALL, Outcome, compute

SEED = int(os.environ.get("KPHW_SEED", "1"))
M64 = (1 << 64) - 1


class Case(NamedTuple):
    op: Op
    size: int
    a: int
    b: int
    flags: int
    count: int = 0
    hi: int = 0

    def expected(self) -> Outcome:
        return compute(*self)


def interesting(rng: random.Random, bits: int) -> int:
    """A 64-bit value: corners of the operand size as often as noise, garbage above it."""
    kind = rng.randrange(6)
    if kind == 0:
        top = 1 << (bits - 1)
        value = rng.choice((0, 1, 2, 0x0F, 0x10, 0x7F, 0x80, 0xFF, M64, M64 - 1, top, top - 1))
    elif kind == 1:
        value = 1 << rng.randrange(bits)
    elif kind == 2:
        value = rng.getrandbits(rng.randrange(1, bits + 1))
    elif kind == 3:
        value = -rng.getrandbits(rng.randrange(1, bits + 1))
    else:
        value = rng.getrandbits(bits)
    garbage = rng.choice((0, M64, rng.getrandbits(64)))
    return (value & (1 << bits) - 1) | garbage << bits & M64


def cases(ops: Iterable[Op], sizes: Iterable[int], each: int, salt: str) -> Iterator[Case]:
    """`each` cases of every op and size; the same every time unless KPHW_SEED says otherwise."""
    print(f"KPHW_SEED={SEED}")
    rng = random.Random(f"{SEED} {salt}")
    for op in ops:
        for size in sizes:
            bits = 8 << size
            for _ in range(each):
                count = rng.choice((rng.getrandbits(8), rng.randrange(0, bits + 3), 0, 1))
                a, b, hi = (interesting(rng, bits) for _ in range(3))
                yield Case(op, size, a, b, rng.getrandbits(6), count, hi)


class Packed(Elaboratable):
    """A unit whose inputs are set together and outputs read together: a simulation pays for every access."""

    def __init__(self, dut):
        self.dut = dut
        ports = {name: getattr(dut, name) for name in ("op", "size", "a", "b", "flags_in")}
        if hasattr(dut, "count"):
            ports["count"] = dut.count
        self.targets = Cat(Value.cast(port) for port in ports.values())
        self.ports = {name: len(Value.cast(port)) for name, port in ports.items()}
        self.inputs = Signal(len(self.targets))
        outputs = [dut.result, dut.flags_out.as_value(), *([dut.keep] if hasattr(dut, "keep") else [])]
        self.outputs = Cat(outputs)

    def pack(self, case: Case) -> int:
        values = {**case._asdict(), "flags_in": case.flags}
        word = shift = 0
        for name, width in self.ports.items():
            word |= values[name] << shift
            shift += width
        return word

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        m.d.comb += self.targets.eq(self.inputs)
        return m


def check_unit(dut, todo: Iterable[Case]) -> None:
    """Run a combinational unit over the cases and compare result, flags and what else it shows."""
    packed = Packed(dut)

    async def bench(ctx):
        for case in todo:
            ctx.set(packed.inputs, packed.pack(case))
            want = case.expected()
            seen = ctx.get(packed.outputs)
            assert seen == want.result | want.flags << 64 | want.keep << 70, f"{case} {want} {seen:#x}"

    simulate(packed, bench)


def simulate(dut, bench, clock: bool = False) -> None:
    sim = Simulator(dut)
    if clock:
        sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


# --- the host ------------------------------------------------------------------------------------------------------


def pack(flags: int) -> int:
    """Six flags as bits of RFLAGS."""
    return 0x202 | sum(1 << bit for i, bit in enumerate(STATUS_BITS) if flags >> i & 1)


def unpack(rflags: int) -> int:
    return sum(1 << i for i, bit in enumerate(STATUS_BITS) if rflags >> bit & 1)


def is_zen() -> bool:
    """Whether the host has the undefined flags that the reference promises: AMD families 19h and 1Ah."""
    text = Path("/proc/cpuinfo").read_text()
    return "AuthenticAMD" in text and any(f"cpu family\t: {family}\n" in text for family in (25, 26))


def on_silicon(todo: list[Case], build: Path) -> list[tuple[int, int, int, bool]]:
    """(destination register, flags, high half, divide error) of every case, as the host's processor has it."""
    compiler = shutil.which("gcc")
    if platform.machine() != "x86_64" or platform.system() != "Linux" or compiler is None:
        pytest.skip("needs gcc on an x86-64 Linux host")
    program = build / "flags_silicon"
    source = Path(__file__).with_name("flags_silicon.c")
    defines = [f"-DOP_{op.name}={op.value}" for op in Op]
    subprocess.run([compiler, "-O1", "-mno-red-zone", *defines, "-o", program, source], check=True)
    form = struct.Struct("<8Q")
    data = b"".join(form.pack(c.op, c.size, c.count, pack(c.flags), c.a, c.b, c.hi, 0) for c in todo)
    answer = subprocess.run([program], input=data, stdout=subprocess.PIPE, check=True).stdout
    return [(a, unpack(rflags), hi, bool(error)) for _, _, _, rflags, a, _, hi, error in form.iter_unpack(answer)]


def check_reference(todo: list[Case], build: Path) -> None:
    """Compare the reference with the host; undefined flags too where the host is of the kind they are taken from."""
    zen = is_zen()
    for case, (register, flags, hi, error) in zip(todo, on_silicon(todo, build), strict=True):
        want = case.expected()
        assert error == want.error, f"{case} {want} host {error}"
        if error:
            continue
        bits = 8 << case.size
        if not zen and case.op in (Op.SHLD, Op.SHRD) and case.count & (63 if bits == 64 else 31) > bits:
            continue  # the result is undefined, and vendors differ
        widening = case.op in (Op.MUL, Op.IMUL, Op.DIV, Op.IDIV)
        mask = M64 if want.keep else 0xFFFFFFFF if case.op is Op.CRC32 else 0xFFFF if widening and bits == 8 else (1 << bits) - 1
        assert register & mask == want.result, f"{case} {want} host {register:#x}"
        if widening and bits > 8:
            assert hi & mask == want.hi, f"{case} {want} host {hi:#x}"
        care = ALL & ~(want.varies if zen else want.undefined)
        assert not (flags ^ want.flags) & care, f"{case} {want} host {flags:06b}"
