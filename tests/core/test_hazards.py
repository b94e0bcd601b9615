"""Random programs, crowded with dependencies, against themselves without a pipeline.

A run with TF set drains the pipeline after every instruction, so it is the reference for forwarding, loads that wait for
stores, flags, self-modifying code and branches; slow and irregular memory must not change the result either.
"""

import random

import pytest

from hw.isa.facts import RFlag
from sim.engine import StopReason

CODE, DATA, STACK, TABLES = 0x10000, 0x30000, 0x8000, 0x1000
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11")
NARROW = {"rax": ("al", "ax", "eax"), "rcx": ("cl", "cx", "ecx"), "rdx": ("dl", "dx", "edx"), "rbx": ("bl", "bx", "ebx")}
ALU = ("add", "sub", "adc", "sbb", "and", "or", "xor", "cmp", "test")


def write_program(rng: random.Random, length: int) -> str:
    """Return text of `length` random instructions; it always ends."""
    lines, label, depth = [], 0, 0

    def reg() -> str:
        return rng.choice(REGISTERS)

    def sized() -> tuple[str, str]:
        """A suffix and a register of that size."""
        name = rng.choice(list(NARROW))
        size = rng.randrange(4)
        return "bwlq"[size], [*NARROW[name], name][size]

    def place() -> str:
        return f"{rng.randrange(20)}(%r15)"

    for _ in range(length):
        suffix, part = sized()
        kind = rng.randrange(17)
        if kind < 3:
            lines.append(f"{rng.choice(ALU)} %{reg()}, %{reg()}")
        elif kind < 5:
            lines.append(f"{rng.choice(ALU)}{suffix} %{part}, {place()}")
        elif kind < 7:
            lines.append(f"{rng.choice(ALU[:8])}{suffix} {place()}, %{part}")
        elif kind == 7:
            lines.append(f"mov{suffix} %{part}, {place()}")
        elif kind == 8:
            lines.append(f"mov{suffix} {place()}, %{part}")
        elif kind == 9:
            lines.append(rng.choice((f"lea {rng.randrange(99)}(%{reg()},%{reg()},4), %{reg()}", f"imul %{reg()}, %{reg()}")))
        elif kind == 10:
            lines.append(f"push %{reg()}")
            depth += 1
        elif kind == 11 and depth:
            lines.append(f"pop %{reg()}")
            depth -= 1
        elif kind == 12:
            label += 1
            lines += [f"j{rng.choice(('c', 'z', 's', 'o', 'l', 'be'))} {label}f", f"inc %{reg()}", f"{label}:"]
        elif kind == 13:
            label += 1
            value, target = rng.randrange(128), rng.choice(("r8", "r9"))
            between = [f"not %{reg()}"] * rng.randrange(12)
            lines += [f"movb ${value}, w{label}+3(%rip)", *between, f"w{label}: mov ${1:#x}, %{target}"]
        elif kind == 14:
            label += 1
            lines += [f"call {label}f", f"jmp {label + 1}f", f"{label}: {rng.choice(ALU)} %{reg()}, %{reg()}; ret", f"{label + 1}:"]
            label += 1
        elif kind == 15:
            lines.append(rng.choice((f"shl $3, %{reg()}", f"sar %cl, %{reg()}", f"set{rng.choice('czso')} %al", "mul %rbx", "cqo",
                                     f"cmovc {place()}, %{reg()}", f"xchg %{part}, {place()}", "xadd %rax, 8(%r15)", "lahf")))
        elif kind == 16:
            lines += ["lea 3(%r15), %rsi; lea 6(%r15), %rdi; mov $3, %ecx", rng.choice(("rep movsb", "rep movsw", "rep stosb"))]
    return "\n".join(lines)


def run(m, code, seeds, stepped):
    """Run from equal beginnings; return the end."""
    handler = code.labels["h1"]
    gate = handler & 0xFFFF | 8 << 16 | 1 << 32 | 0x8E << 40 | (handler >> 16) << 48
    m.mem.write(CODE, code.data)
    m.mem.write(TABLES + 16, gate.to_bytes(16, "little"))
    m.mem.write(TABLES + 0x108, (0x00CF93000000FFFF << 64 | 0x00AF9B000000FFFF).to_bytes(16, "little"))
    m.mem.write(TABLES + 0x200 + 0x24, (STACK + 0x4000).to_bytes(8, "little"))
    m.mem.write(DATA, random.Random(seeds).randbytes(32))
    regs = m.harts[0].regs
    values = {name: random.Random(f"{seeds}{name}").getrandbits(64) for name in REGISTERS}
    system = dict(idt_base=TABLES, idt_limit=0x1F, gdt_base=TABLES + 0x100, gdt_limit=0x1F, tr_base=TABLES + 0x200, tr_limit=0x67)
    for name, value in (values | system | dict(r15=DATA, rsp=STACK, rip=CODE, rflags=2 | stepped << RFlag.TF)).items():
        regs[name] = value
    result = m.run(max_cycles=400_000)
    assert result.reason == StopReason.EXIT
    flags = regs.rflags & ~(1 << RFlag.TF)
    return {n: hex(regs[n]) for n in (*REGISTERS, "rsp")}, hex(flags), m.mem.read(DATA, 32), m.mem.read(STACK - 512, 512)


@pytest.mark.parametrize("number", range(12))
def test_as_without_a_pipeline(machine, engine_name, assemble, seed, number):
    if engine_name == "pysim" and number > 2:
        pytest.skip("too long for this engine: the compiled one runs it")
    text = write_program(random.Random(f"{seed} {number}"), 60 if engine_name == "pysim" else 400)
    code = assemble(f"{text}\nout %al, $0xf4\n1: jmp 1b\nh1: iretq", at=CODE)
    wanted = run(machine(), code, number, stepped=True)
    for options in ({}, dict(wait_seed=11), dict(latency=4)):
        assert run(machine(**options), code, number, stepped=False) == wanted, (options, text)
