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


GDT, TSS = TABLES + 0x400, TABLES + 0x500


def run(m, code, number, *, stepped=False, interrupts=None):
    """Run from equal beginnings, interrupted at times that `interrupts` draws; return the end."""
    handler = code.labels["handler"]
    gate = handler & 0xFFFF | 8 << 16 | 0x8E << 40 | (handler >> 16) << 48
    m.mem.write(CODE, code.data)
    for vector, ist in ((1, 1), (2, 2), (32, 1)):  # an NMI may come in the handler of an interrupt
        m.mem.write(TABLES + 16 * vector, (gate | ist << 32).to_bytes(16, "little"))
    m.mem.write(GDT + 8, (0x00CF93000000FFFF << 64 | 0x00AF9B000000FFFF).to_bytes(16, "little"))
    m.mem.write(TSS + 0x24, (STACK + 0x4000 | STACK + 0x5000 << 64).to_bytes(16, "little"))
    m.mem.write(DATA, random.Random(number).randbytes(32))
    regs = m.harts[0].regs
    values = {name: random.Random(f"{number}{name}").getrandbits(64) for name in REGISTERS}
    values |= dict(idt_base=TABLES, idt_limit=0x20F, gdt_base=GDT, gdt_limit=0x1F, tr_base=TSS, tr_limit=0x67)
    hidden = 1 << RFlag.TF | 1 << RFlag.IF
    flags = 2 | (stepped << RFlag.TF) | ((interrupts is not None) << RFlag.IF)
    for name, value in (values | dict(r15=DATA, rsp=STACK, rip=CODE, rflags=flags)).items():
        regs[name] = value
    result = m.run(max_cycles=400_000 if interrupts is None else interrupts.randrange(60))
    while result.reason == StopReason.MAX_CYCLES and interrupts is not None and m.cycle < 400_000:
        if interrupts.randrange(2):
            m.harts[0].nmi()
        else:
            m.harts[0].irq(32)
        result = m.run(max_cycles=interrupts.randrange(40, 150))
    assert result.reason == StopReason.EXIT
    return {n: hex(regs[n]) for n in (*REGISTERS, "rsp")}, hex(regs.rflags & ~hidden), m.mem.read(DATA, 32), m.mem.read(
        STACK - 512, 512
    )


@pytest.fixture
def program(engine_name, assemble, seed, number):
    """A random program; fewer and shorter ones on a slow engine."""
    if engine_name == "pysim" and number > 1:
        pytest.skip("too long for this engine: the compiled one runs it")
    text = write_program(random.Random(f"{seed} {number}"), 60 if engine_name == "pysim" else 400)
    return assemble(f"{text}\nout %al, $0xf4\n1: jmp 1b\nhandler: iretq", at=CODE)


@pytest.mark.parametrize("number", range(12))
def test_as_without_a_pipeline(machine, program, number):
    wanted = run(machine(), program, number, stepped=True)
    for options in ({}, dict(wait_seed=11), dict(latency=4)):
        assert run(machine(**options), program, number) == wanted, options


@pytest.mark.parametrize("number", range(12))
def test_interrupts_and_nmis_leave_no_trace(machine, program, number, seed):
    wanted = run(machine(), program, number)
    for options in ({}, dict(wait_seed=11)):
        again = random.Random(f"{seed} {number}")
        for _ in range(2):
            assert run(machine(**options), program, number, interrupts=again) == wanted, options
