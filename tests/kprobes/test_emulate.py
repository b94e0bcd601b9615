"""Emulated instructions against two executors that know nothing of the emulation: the tests' own cpu, and the hardware.

Each row is assembled, run natively from a random state, and emulated from the same state: registers, flags, CS, SS and
all memory must be the same. Where the native run faults, the emulation must refuse and have changed nothing.
"""

import errno
import random
import struct
from dataclasses import dataclass

import pytest

from hw.isa.facts import DebugReg
from kprobes import GuestMemoryError, PtRegs
from kprobes.emulate import emulator, refusal
from kprobes.insn import DecodeError, Insn, Opcode, decode
from kprobes.ptregs import FIELDS
from sim.engine import StopOn, StopReason
from sim.harts import REGISTERS
from tests.kprobes.fakecpu import CF, IF, MASK64, OF, PF, SF, TF, ZF, Cpu, Fault
from tests.kprobes.fakemachine import Memory, assemble

CODE, DATA, STACK = 0x10000, 0x20000, 0x30000
MAPPED = {CODE: 0x4000, DATA: 0x4000, STACK: 0x1000}
NOWHERE = 0x40000000
NONCANONICAL = 0x0000800000000000
GDT, CODE_SEL, DATA_SEL, ALIAS_SEL, USER_CODE, USER_DATA = 0x2000, 0x08, 0x10, 0x18, 0x23, 0x2B
DESCRIPTORS = [0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF, 0x00AFFB000000FFFF, 0x00CFF3000000FFFF]

FREE_FLAGS = 0x247CD5 | IF  # those that an instruction may find set without anything else happening: not TF, RF, VM
CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")

#: Scenarios, instruction, and needs: registers that point to data (p), are small (i), make a pointer when doubled (h), or
#: count (c); capitals: with a full upper half; lret: the width of its words.
ROWS = [
    ("I01", "call .+0x100", ""), ("I01", "call .-0x30", ""),
    ("I02", ".byte 0x66, 0xe8; .long 0x80", ""), ("I02", ".byte 0xf2, 0xe8; .long 0x80", ""),
    ("I02", ".byte 0x48, 0xe8; .long 0x80", ""), ("I02", ".byte 0x67, 0x2e, 0xe8; .long 0x80", ""),
    ("I02", ".fill 10, 1, 0x3e; .byte 0xe8; .long -0x80", ""),
    ("I03", "call rax", "p:ax"), ("I03", "call rbx", "p:bx"), ("I03", "notrack call rdi", "p:di"),
    ("I03", ".byte 0x66, 0xff, 0xd1", "p:cx"), ("I03", ".byte 0x67, 0xff, 0xd1", "p:cx"),
    ("I04", "call r11", "p:r11"), ("I04", "call r15", "p:r15"), ("I05", "call rsp", ""),
    ("I06", "call [rax+8]", "p:ax"), ("I06", "call [r13]", "p:r13"), ("I06", "call [rbp-0x10]", "p:bp"),
    ("I06", "call [r12]", "p:r12"), ("I06", "call [rsi+rcx*8+0x40]", "p:si i:cx"), ("I06", "call [rsp]", ""),
    ("I06", "call [rsp+0x10]", ""), ("I06", "call [rsp+rdx*4+0x100]", "i:dx"),
    ("I06", "call [r9+r12*2]", "p:r9 i:r12"), ("I06", "call [rbp+rbp*1+0]", "h:bp"),
    ("I06", "call [r13+r13*1+0]", "h:r13"), ("I06", "call [0x20080]", ""), ("I06", "call [eax+8]", "P:ax"),
    ("I06", "call [r10d+edi*4]", "P:r10 I:di"), ("I06", "call cs:[rdx]", "p:dx"),
    ("I06", ".byte 0x66, 0xff, 0x10", "p:ax"), ("I06", "bnd call [rax]", "p:ax"),
    ("I07", "jmp rax", "p:ax"), ("I07", "jmp r8", "p:r8"), ("I07", "jmp rsp", ""), ("I07", "bnd jmp rcx", "p:cx"),
    ("I07", "jmp [rcx*8+0x20000]", "i:cx"), ("I07", "jmp [r14*8+0x20000]", "i:r14"), ("I07", "jmp [rbx]", "p:bx"),
    ("I07", "jmp [rax+rax*1]", "h:ax"), ("I07", "jmp [ecx*8+0x20000]", "I:cx"), ("I07", "jmp [r8+0x80]", "p:r8"),
    ("I45", ".balign 8; .fill 2, 1, 0x3e; jmp [rip+0x10000]", ""), ("I45", "call [rip+0x10002]", ""),
    ("I45", ".byte 0x67; call [rip+0x10001]", ""),
    ("I08", "jmp .+0x40", ""), ("I08", "jmp .-0x40", ""), ("I08", "jmp .+0x1000", ""), ("I08", "jmp .-0x1000", ""),
    ("I08", ".byte 0x66, 0xe9; .long 0x200", ""), ("I08", ".byte 0x40, 0xeb, 0x10", ""), ("I08", "bnd jmp .+0x1000", ""),
    *[("I09", f"j{cc} .+0x30", "") for cc in CONDITIONS],
    *[("I10", f"j{cc} .-0x30", "") for cc in CONDITIONS],
    *[("I11", f"j{cc} .{'-+'[n % 2]}0x400", "") for n, cc in enumerate(CONDITIONS)],
    ("I12_I13", "loop .+0x20", "c:cx"), ("I12_I13", "loop .-0x20", "c:cx"), ("I14", "loope .+0x20", "c:cx"),
    ("I14", "loopne .+0x20", "c:cx"), ("I14", ".byte 0x67; loop .+0x20", "c:cx"),
    ("I14", ".byte 0x67; loope .-0x20", "c:cx"), ("I14", ".byte 0x67; loopne .-0x20", "c:cx"),
    ("I15", "jrcxz .+0x20", "c:cx"), ("I15", "jecxz .+0x20", "c:cx"), ("I15", "jecxz .-0x20", "c:cx"),
    ("I16", "ret", ""), ("I16", "repz ret", ""), ("I16", ".byte 0x66, 0xc3", ""), ("I17", "ret 0x10", ""),
    ("I17", "ret 0xfff8", ""), ("I17", "ret 1", ""),
    ("I18", ".byte 0x48, 0xcb", "lret:8"), ("I18", ".byte 0x48, 0xca, 0x18, 0x00", "lret:8"),
    ("I18", ".byte 0xcb", "lret:4"), ("I18", ".byte 0xca, 0x08, 0x00", "lret:4"),
    ("I18", ".byte 0x66, 0xcb", "lret:2"), ("I18", ".byte 0x66, 0xca, 0x06, 0x00", "lret:2"),
    ("I20_I21", "pushfq", ""), ("I22", "pushfw", ""), ("I22", ".byte 0x48, 0x9c", ""),
    ("I22", ".byte 0x66, 0x48, 0x9c", ""), ("I22", ".byte 0x48, 0x66, 0x9c", ""),
    ("I23_I24_I25", "popfq", "popf:"), ("I23_I24_I25", "popfw", "popf:"), ("I23_I24_I25", ".byte 0x48, 0x9d", "popf:"),
    ("I26", "cli", ""), ("I27", "sti", ""),
]


@dataclass(frozen=True)
class Case:
    """An assembled row: its instruction, and its needs by register."""

    name: str
    insn: Insn
    needs: dict[str, str]


@dataclass(frozen=True)
class State:
    """Where an instruction starts: registers, and memory by address."""

    regs: PtRegs
    memory: dict[int, bytes]


def _assembled():
    rows = "".join(f".balign 64\nL{n}: {text}\n.fill 16, 1, 0x90\n" for n, (_, text, _) in enumerate(ROWS))
    ((at, code, _),), symbols = assemble(f".fill 0x1000, 1, 0x90\n{rows}", CODE)
    assert len(code) <= MAPPED[CODE]
    starts = {s.name: s.start for s in symbols}
    cases = []
    for n, (scenarios, text, needs) in enumerate(ROWS):
        insn = decode(code[starts[f"L{n}"] - at:][:15], starts[f"L{n}"])
        named = dict(reversed(need.split(":")) for need in needs.split())
        cases.append(Case(f"{scenarios} {text}".replace(" ", "_"), insn, named))
    return code, cases


TEXT, CASES = _assembled()


def draw(case, rng, *, spoil=""):
    """A random state. `spoil`: make one thing wrong that the instruction may meet."""
    regs = PtRegs(**{name: rng.getrandbits(64) for name in FIELDS})
    upper = rng.getrandbits(32) << 32
    for register, need in case.needs.items():
        value = {
            "p": lambda: DATA + 0x100 + 8 * rng.randrange(64), "P": lambda: DATA + 0x100 + 8 * rng.randrange(64) | upper,
            "i": lambda: 4 * rng.randrange(16), "I": lambda: 4 * rng.randrange(16) | upper,
            "h": lambda: (DATA >> 1) + 4 * rng.randrange(64),
            "c": lambda: rng.choice((0, 1, 2, 1 << 32, (1 << 32) + 1, MASK64, rng.getrandbits(64))),
        }.get(need)
        if value:
            setattr(regs, register, value())
    regs.sp = STACK + 0x400 + 8 * rng.randrange(64)
    regs.cs, regs.ss, regs.ip = CODE_SEL, DATA_SEL, case.insn.addr
    regs.flags = rng.getrandbits(22) & FREE_FLAGS | 2
    targets = [rng.choice((rng.getrandbits(47), MASK64 - rng.getrandbits(47))) for _ in range(MAPPED[DATA] // 8)]
    if spoil == "target":
        targets = [target ^ 1 << rng.randrange(48, 64) for target in targets]
        for register in set(case.needs) & set(FIELDS):
            setattr(regs, register, getattr(regs, register) ^ 1 << 50)
    elif spoil:
        wrong = NOWHERE + 0x800 if spoil == "unmapped" else NONCANONICAL + 0x800
        regs.sp = wrong
        for register, need in case.needs.items():
            if need == "p":
                setattr(regs, register, wrong)
    data = struct.pack(f"<{len(targets)}Q", *targets)
    stack = bytearray(data[-MAPPED[STACK]:])
    if STACK <= regs.sp < STACK + MAPPED[STACK]:
        top = regs.sp - STACK
        if "popf" in case.needs.values() or "" in case.needs:
            stack[top:top + 8] = rng.randbytes(8)
        for width in (int(name) for name, need in case.needs.items() if need == "lret"):
            selector = rng.choice((CODE_SEL, CODE_SEL, ALIAS_SEL)) | rng.getrandbits(48) << 16
            stack[top + width:top + 2 * width] = (selector & (1 << 8 * width) - 1).to_bytes(width, "little")
    return State(regs, {CODE: TEXT.ljust(MAPPED[CODE], b"\x90"), DATA: data, STACK: bytes(stack)})


class Pages(Memory):
    """Memory of a state, as the tests' cpu and as the runtime see it."""

    read, write = Memory.peek, Memory.poke

    def __init__(self, state):
        super().__init__()
        for start, data in state.memory.items():
            for offset in range(0, len(data), 4096):
                self.pages[start + offset] = bytearray(data[offset:offset + 4096])

    def all(self, state):
        return {start: self.peek(start, len(data)) for start, data in state.memory.items()}


def emulated(case, state):
    """Registers and memory after the emulation; None when it refused."""
    regs, pages = state.regs.copy(), Pages(state)
    regs.ip = 0xDEAD
    try:
        emulator(case.insn)(regs, pages)
    except GuestMemoryError:
        regs.ip = state.regs.ip
        assert (regs, pages.all(state)) == (state.regs, state.memory), "a refusal changes nothing"
        return None
    return regs, pages.all(state)


def native(case, state):
    """The same on the tests' cpu; None for a fault."""
    pages = Pages(state)
    cpu = Cpu(0, pages)
    cpu.regs = state.regs.copy()
    try:
        cpu.execute()
    except Fault:
        return None
    return cpu.regs, pages.all(state)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_the_cpu_of_the_tests(case, seed):
    rng = random.Random(f"{seed} {case.name}")
    for _ in range(12):
        state = draw(case, rng)
        assert emulated(case, state) == native(case, state) is not None
    state = draw(case, rng, spoil="unmapped")
    assert emulated(case, state) == native(case, state)


@pytest.mark.parametrize("case", [case for case in CASES if case.name.startswith(("I09", "I10", "I11"))], ids=lambda c: c.name)
def test_I09_I10_I11_every_condition_with_every_flag(case):
    state = draw(case, random.Random(case.name))
    seen = set()
    for number in range(32):
        state.regs.flags = 2 | sum(flag for bit, flag in enumerate((CF, PF, ZF, SF, OF)) if number >> bit & 1)
        after = emulated(case, state)
        assert after == native(case, state)
        seen.add(after[0].ip)
    assert seen == {case.insn.addr + len(case.insn.data), case.insn.addr + len(case.insn.data) + case.insn.branch}


class Hardware:
    """The model as an executor of one instruction."""

    def __init__(self, engine):
        self.engine, self.loaded = engine, None
        engine.write_mem(GDT, struct.pack(f"<{len(DESCRIPTORS)}Q", *DESCRIPTORS))
        self.reset()

    def reset(self):
        self.engine.reset()
        for name, value in {"gdt_base": GDT, "gdt_limit": 8 * len(DESCRIPTORS) - 1}.items():
            self.engine.write_reg(0, REGISTERS[name], value)

    def run(self, state):
        """Registers and memory after one instruction; None when it raised a trap."""
        engine = self.engine
        for start, data in state.memory.items():
            engine.write_mem(start, data)
        for field in FIELDS:
            if field not in ("ip", "cs", "ss", "orig_ax"):
                engine.write_reg(0, REGISTERS[hard(field)], getattr(state.regs, field))
        engine.write_reg(0, DebugReg.RIP, state.regs.ip)
        stopped = engine.run(2000, StopOn(trap=True, retired=1))
        engine.drain()
        if stopped.reason != StopReason.RETIRED:
            assert stopped.reason == StopReason.TRAP
            self.reset()
            return None
        regs = PtRegs(**{field: engine.read_reg(0, REGISTERS[hard(field)]) for field in FIELDS if field != "orig_ax"})
        regs.orig_ax = state.regs.orig_ax
        if regs.cs != CODE_SEL or regs.flags & TF:
            self.reset()
        return regs, {start: engine.read_mem(start, len(data)) for start, data in state.memory.items()}


def hard(field):
    """The hardware's name of a field of pt_regs."""
    return {"ip": "rip", "flags": "rflags", "cs": "cs", "ss": "ss"}.get(field, field if field[1:].isdigit() else f"r{field}")


@pytest.fixture
def hardware(engine):
    return Hardware(engine)


def test_I01_to_I27_as_the_hardware(hardware, seed):
    rng = random.Random(seed)
    refused = 0
    for case in CASES:
        for spoil in ("", "", "", "unmapped", "noncanonical", "target"):
            state = draw(case, rng, spoil=spoil)
            after = emulated(case, state)
            assert after == hardware.run(state), f"{case.name} {spoil}"
            refused += after is None
    assert refused > len(CASES) // 2


@pytest.mark.parametrize("code", ["48cb", "48ca2000", "cb", "ca1000", "66cb", "66ca0400"])
@pytest.mark.parametrize("cs", [CODE_SEL, ALIAS_SEL, USER_CODE, CODE_SEL | 1, 0, 3])
def test_I18_lret_to_every_level(hardware, code, cs):
    """To CPL 3 it takes SP and SS, too, and releases the parameters on both stacks; a null selector is the hardware's."""
    insn = decode(bytes.fromhex(code), CODE)
    width = {"48": 8, "66": 2}.get(code[:2], 4)
    words = [0x1234, cs]
    parameters = int(code[-4:-2], 16) if len(code) > 4 or code[:2] == "ca" else 0
    outer = [0x5670, USER_DATA]
    stack = b"".join(word.to_bytes(width, "little") for word in words) + bytes(parameters)
    stack += b"".join(word.to_bytes(width, "little") for word in outer)
    regs = PtRegs(ip=CODE, cs=CODE_SEL, ss=DATA_SEL, sp=STACK, flags=2)
    state = State(regs, {CODE: insn.data.ljust(4096, b"\x90"), STACK: stack.ljust(4096, b"\0")})
    case = Case(code, insn, {})
    after = emulated(case, state)
    assert after == hardware.run(state)
    assert (after is not None) is (cs in (CODE_SEL, ALIAS_SEL, USER_CODE))


#: What the reference says in so many words: code, registers before, what must be after (ip counts from the instruction).
LITERAL = [
    ("I12", "e210", {"cx": 1}, {"cx": 0, "ip": 2}),                           # the kernel's emulation jumps
    ("I13", "e210", {"cx": 0}, {"cx": MASK64, "ip": 0x12}),                   # the kernel's falls through
    ("I14", "67e210", {"cx": 0x1_0000_0001}, {"cx": 0, "ip": 3}),             # the kernel's leaves the upper half
    ("I14", "67e210", {"cx": 0xF_0000_0000}, {"cx": 0xFFFFFFFF, "ip": 0x13}),
    ("I14", "e110", {"cx": 2, "flags": ZF}, {"cx": 1, "ip": 0x12}), ("I14", "e110", {"cx": 2}, {"cx": 1, "ip": 2}),
    ("I14", "e010", {"cx": 2}, {"cx": 1, "ip": 0x12}), ("I14", "e010", {"cx": 2, "flags": ZF}, {"cx": 1, "ip": 2}),
    ("I15", "e310", {"cx": 1 << 32}, {"ip": 2}), ("I15", "67e310", {"cx": 1 << 32}, {"ip": 0x13}),
    ("I09", "7e10", {"flags": ZF | SF | OF}, {"ip": 0x12}), ("I09", "7f10", {"flags": ZF | SF | OF}, {"ip": 2}),
    ("I10", "74f0", {"flags": ZF}, {"ip": 2 - 0x10}),
    ("I05", "ffd4", {"sp": STACK + 0x80}, {"ip": STACK + 0x80 - CODE, "sp": STACK + 0x78}),
    ("I20", "9c", {"flags": 2 | IF, "sp": STACK + 8}, {"top": 2 | IF, "ip": 1}),
    ("I21", "9c", {"flags": 2, "sp": STACK + 8}, {"top": 2, "ip": 1}),
    ("I20", "9c", {"flags": 2 | TF | 0x30000, "sp": STACK + 8}, {"top": 2 | TF, "ip": 1}),
    ("I23", "9d", {"flags": 2 | IF, "sp": STACK, "top": 0}, {"flags": 2, "ip": 1}),
    ("I24", "9d", {"flags": 2, "sp": STACK, "top": IF}, {"flags": 2 | IF, "ip": 1}),
    ("I25", "9d", {"flags": 2, "sp": STACK, "top": TF}, {"flags": 2 | TF, "ip": 1}),
    ("I23", "9d", {"flags": 2 | 0x1A0000, "sp": STACK, "top": MASK64}, {"flags": 0x3E7FD7, "ip": 1}),
    ("I23", "9d", {"flags": 2 | 0x10000, "sp": STACK, "top": 0x10000}, {"flags": 2, "ip": 1}),
    ("I23", "669d", {"flags": 2 | 0x200000, "sp": STACK, "top": 0xFFFF}, {"flags": 0x207FD7, "sp": STACK + 2, "ip": 2}),
    ("I26", "fa", {"flags": 2 | IF | CF}, {"flags": 2 | CF, "ip": 1}), ("I27", "fb", {"flags": 2}, {"flags": 2 | IF, "ip": 1}),
    ("I17", "c21000", {"sp": STACK, "top": 0x1234}, {"ip": 0x1234 - CODE, "sp": STACK + 0x18}),
    ("I02", "66e800010000", {"sp": STACK + 8}, {"top": CODE + 6, "ip": 0x106}),
    ("I03", "ffd0", {"ax": 0x1234, "sp": STACK + 8}, {"top": CODE + 2, "ip": 0x1234 - CODE}),
    ("I04", "41ffd3", {"r11": 0x1234, "sp": STACK + 8}, {"top": CODE + 3, "ip": 0x1234 - CODE}),
    ("I01", "e800010000", {"sp": 0}, {"sp": MASK64 - 7, "ip": 0x105}),
]


@pytest.mark.parametrize(("scenario", "code", "before", "after"), LITERAL, ids=[f"{s}-{c}-{i}" for i, (s, c, *_) in enumerate(LITERAL)])
def test_by_the_letter_of_the_manual(scenario, code, before, after):
    insn = decode(bytes.fromhex(code), CODE)
    pages = Pages(State(PtRegs(), {STACK: bytes(4096), MASK64 - 4095: bytes(4096)}))
    pages.poke(STACK, before.get("top", 0).to_bytes(8, "little"))
    regs = PtRegs(**{name: value for name, value in before.items() if name != "top"})
    expected = regs.copy()
    emulator(insn)(regs, pages)
    for name, value in after.items():
        if name != "top":
            setattr(expected, name, CODE + value if name == "ip" else value)
    if "top" in after and "sp" not in after:
        expected.sp = STACK
    elif code in ("9d",):
        expected.sp = STACK + 8
    assert regs == expected
    if "top" in after:
        assert int.from_bytes(pages.peek(STACK, 8), "little") == after["top"]


def test_a_word_across_the_end_of_memory_is_not_half_written():
    state = State(PtRegs(sp=STACK + 4, flags=2), {STACK: b"\xaa" * 4096})
    assert emulated(Case("", decode(bytes.fromhex("e800000000"), CODE), {}), state) is None


REFUSED = [
    ("I18", "ff18", errno.EOPNOTSUPP, "far call"), ("I18", "48ff18", errno.EOPNOTSUPP, "far call"),
    ("I07", "ff28", errno.EOPNOTSUPP, "far jump"), ("I30", "cf", errno.EOPNOTSUPP, "iret"),
    ("I30", "48cf", errno.EOPNOTSUPP, "iret"), ("I06", "64ff10", errno.EOPNOTSUPP, "fs or gs"),
    ("I06", "65ff142500000000", errno.EOPNOTSUPP, "fs or gs"), ("I07", "65ff2510000000", errno.EOPNOTSUPP, "fs or gs"),
    ("", "0f01c0", errno.EOPNOTSUPP, "hypervisor"), ("", "0f01c1", errno.EOPNOTSUPP, "hypervisor"),
    ("", "0f01c2", errno.EOPNOTSUPP, "hypervisor"), ("", "0f01c3", errno.EOPNOTSUPP, "hypervisor"),
    ("", "0f01c4", errno.EOPNOTSUPP, "hypervisor"), ("", "c7f800000000", errno.EOPNOTSUPP, "transaction"),
    ("R37", "3e" * 12 + "488b07", errno.ENOSPC, "15 bytes"),
]


@pytest.mark.parametrize(("scenario", "code", "number", "word"), REFUSED, ids=[f"{s}-{c}" for s, c, *_ in REFUSED])
def test_I06_I07_I30_R37_what_int3_stepping_cannot_do(scenario, code, number, word):
    insn = decode(bytes.fromhex(code), CODE)
    assert emulator(insn) is None
    found, reason = refusal(insn)
    assert found == number and word in reason


@pytest.mark.parametrize("code", [
    "90", "f3a4", "ff00", "ff08", "ff30", "0f01f8", "0f0100", "0f01d0", "c7c000000000", "3e" * 11 + "488b07", "64ffd0", "c9",
    "3e" * 10 + "e800000000",
])
def test_everything_else_is_not_refused(code):
    """Among them: `call` through a register with a segment prefix, and an emulated call of 15 bytes."""
    assert refusal(decode(bytes.fromhex(code), CODE)) is None


def test_only_what_the_kernel_emulates_is_emulated():
    """All one-byte opcodes and all two-byte ones with an operand in memory."""
    found = set()
    for opcode in (*range(0x100), *range(0x0F00, 0x1000)):
        for modrm in range(0, 0x40, 8):
            head = bytes([opcode]) if opcode < 0x100 else bytes([0x0F, opcode & 0xFF])
            try:
                insn = decode(head + bytes([modrm]) + bytes(10), CODE)
            except DecodeError:
                continue
            if emulator(insn) is not None and Opcode.parse(insn.data).offset == 0:
                found.add(opcode if opcode != 0xFF else (opcode, modrm >> 3))
    near = {*range(0x70, 0x80), *range(0x0F80, 0x0F90), 0xE0, 0xE1, 0xE2, 0xE3, 0xE8, 0xE9, 0xEB, 0xC2, 0xC3, 0xCA, 0xCB}
    assert found == near | {0x9C, 0x9D, 0xFA, 0xFB, (0xFF, 2), (0xFF, 4)}
