"""Checks of gates, selectors and descriptors: which fault, with which error code, and which of several.

Each routine (delivery, iret, lret, ltr, mov to a segment register) is run over its own rows, so that the order of the rows
is judged too. A scenario is a legal state; a defect spoils one part of it; of every two defects the one that the manual
checks first is reported (trap semantics 1.3, 1.4 and 6).
"""

import itertools

import pytest
from amaranth.hdl import Cat

from hw.gates import Gates
from hw.isa.facts import EventClass, Op, Reg, Size, SysReg, Vector
from hw.isa.routines import ROUTINES
from hw.isa.rows import Sel
from tests.unit.opbench import M64, simulate

HOLE = 0x0000800000000000


def descriptor(kind=0xB, s=1, dpl=0, p=1, long=1, big=0, base=0, limit=0xFFFFF, g=1) -> int:
    """Low quadword of a descriptor; `kind` is the four type bits."""
    access = kind | s << 4 | dpl << 5 | p << 7
    flags = long << 1 | big << 2 | g << 3
    return limit & 0xFFFF | (base & 0xFFFFFF) << 16 | access << 40 | limit >> 16 << 48 | flags << 52 | (base >> 24 & 0xFF) << 56


def gate(kind=0xE, s=0, dpl=0, p=1, selector=8, ist=0, offset=0) -> tuple[int, int]:
    low = offset & 0xFFFF | selector << 16 | ist << 32 | (kind | s << 4 | dpl << 5 | p << 7) << 40 | (offset >> 16 & 0xFFFF) << 48
    return low, offset >> 32


class Machine:
    """Drives the unit row by row; holds what the rows read: registers, memory, and the state around."""

    def __init__(self, ctx, dut):
        self.ctx, self.dut = ctx, dut
        self.inputs = Cat(dut.a, dut.b, dut.bsize, dut.to_ss, dut.op)
        ctx.set(dut.valid, 1)
        self.outputs = Cat(dut.fault, dut.vector, dut.error, dut.result)

    async def op(self, op, a=0, b=0, bsize=Size.B, to_ss=0):
        """One row: (vector, error) of its fault, or its result."""
        ctx, dut = self.ctx, self.dut
        ctx.set(self.inputs, a & M64 | (b & M64) << 64 | bsize << 128 | to_ss << 130 | op << 131)
        seen = ctx.get(self.outputs)
        if seen & 1:
            return (Vector(seen >> 1 & 0xFF), seen >> 9 & 0xFFFF), None
        ctx.set(dut.fire, 1)
        await ctx.tick()
        ctx.set(dut.fire, 0)
        return None, seen >> 25

    def state(self, **values):
        for name, value in values.items():
            self.ctx.set(getattr(self.dut, name), value)

    async def routine(self, name, registers, loads, to_ss=0):
        """The rows of a routine that this unit has: the first fault, or None and the registers. Loads come in order."""
        registers, loads = dict(registers), list(loads)
        for uop in ROUTINES[name]:
            memory = loads.pop(0) if uop.load and not (uop.if_switch and not self.ctx.get(self.dut.switch)) else None
            if uop.op in (Op.MOV, Op.ADD, Op.WRSYS, Op.RDSYS, Op.JMPA):
                if memory is not None:
                    registers[int(uop.d)] = memory
                continue
            a, b = (memory or 0 if isinstance(sel, Sel) else registers.get(sel, 0) for sel in (uop.a, uop.b))
            fault, result = await self.op(uop.op, a, b, uop.bsize, to_ss)
            if fault:
                return fault, registers
            if isinstance(uop.d, int):
                registers[int(uop.d)] = result
        return None, registers


def run(test):
    dut = Gates()

    async def bench(ctx):
        await test(Machine(ctx, dut))

    simulate(dut, bench, clock=True)


def spoiled(defects):
    """Each defect alone, and every two that do not spoil the same thing: the earlier one's fault is due."""
    yield from defects
    for (one, changes, fault), (two, others, _) in itertools.combinations(defects, 2):
        if not set(changes) & set(others):
            yield f"{one}, {two}", changes | others, fault


GDT, GDT_LIMIT, TSS, TR = 0x3000, 0x57, 0x9000, 0x43
OFFSET = 0xFFFFFFFF81234567


def access(byte: int, long=1, big=0) -> int:
    return descriptor(byte & 15, byte >> 4 & 1, byte >> 5 & 3, byte >> 7, long, big)


# --- delivery ---

VECTOR = 0x21
IN_IDT = 8 * VECTOR + 2

DELIVERY = [
    ("a task gate", dict(kind=5), (Vector.GP, IN_IDT)),
    ("a 16-bit gate", dict(kind=6), (Vector.GP, IN_IDT)),
    ("a call gate", dict(kind=0xC), (Vector.GP, IN_IDT)),
    ("not a system descriptor", dict(s=1), (Vector.GP, IN_IDT)),
    ("gate absent", dict(p=0), (Vector.NP, IN_IDT)),
    ("null selector", dict(selector=3), (Vector.GP, 0)),
    ("selector beyond the table", dict(selector=0x5B), (Vector.GP, 0x58)),
    ("selector of the LDT", dict(selector=0x0F), (Vector.GP, 0x0C)),
    ("a data segment", dict(code_kind=3), (Vector.GP, 8)),
    ("a system segment", dict(code_s=0), (Vector.GP, 8)),
    ("not 64-bit code", dict(long=0), (Vector.GP, 8)),
    ("64-bit and 32-bit code", dict(big=1), (Vector.GP, 8)),
    ("code absent", dict(code_p=0), (Vector.NP, 8)),
    ("TSS too short", dict(tr_limit=4 + 7 - 1), (Vector.TS, TR & ~3)),
    ("stack in the hole", dict(stack=HOLE + 0x17), (Vector.SS, 0)),
    ("target in the hole", dict(offset=HOLE), (Vector.GP, 0)),
]
USER_DPL = ("gate of the kernel", dict(dpl=0), (Vector.GP, IN_IDT))
OUTER_CODE = ("code of less privilege", dict(code_dpl=3), (Vector.GP, 8))


async def deliver(
    machine, *, cpl=3, event=EventClass.SOFT, vector=VECTOR, rsp=0x7FFF1, stack=0x8001,
    kind=0xE, s=0, dpl=3, p=1, selector=0x0B, ist=0, offset=OFFSET,
    code_kind=0xB, code_s=1, code_dpl=0, code_p=1, long=1, big=0, tr_limit=0x67,
):  # fmt: skip
    machine.state(
        cpl=cpl, event_vector=vector, event_kind=event, gdt_base=GDT, gdt_limit=GDT_LIMIT, tr=TR, tr_base=TSS, tr_limit=tr_limit
    )
    low, high = gate(kind, s, dpl, p, selector, ist, offset)
    code = descriptor(code_kind, code_s, code_dpl, code_p, long, big)
    return await machine.routine("deliver", {Reg.RSP: rsp}, (low, high, code, stack))


def test_delivery_from_user_mode():
    """int n: the whole list, with the gate's DPL between type and presence."""

    async def test(machine):
        defects = [*DELIVERY[:4], USER_DPL, *DELIVERY[4:]]
        for name, changes, fault in spoiled(defects):
            seen, _ = await deliver(machine, **changes)
            assert seen == fault, name

    run(test)


@pytest.mark.parametrize("event", [kind for kind in EventClass if kind != EventClass.SOFT])
def test_delivery_of_other_events_does_not_look_at_the_dpl(event):
    async def test(machine):
        assert (await deliver(machine, event=event, dpl=0))[0] is None
        for name, changes, fault in spoiled(DELIVERY):
            seen, _ = await deliver(machine, event=event, dpl=0, **changes)
            assert seen == fault, name

    run(test)


def test_delivery_within_the_kernel():
    """No stack is taken from the TSS, so its limit does not matter; code of less privilege cannot be entered."""

    async def test(machine):
        defects = [d for d in DELIVERY if "tr_limit" not in d[1]]
        defects = [(n, {"rsp" if k == "stack" else k: v for k, v in changes.items()}, f) for n, changes, f in defects]
        defects.insert(defects.index(DELIVERY[8]), OUTER_CODE)
        for name, changes, fault in spoiled(defects):
            seen, _ = await deliver(machine, cpl=0, dpl=0, tr_limit=0, **changes)
            assert seen == fault, name

    run(test)


def test_what_a_delivery_finds():
    """Target, descriptor, new privilege, and the stack: IST, else RSPn with a change of privilege, else the current one."""

    async def found(machine, cpl, conforming, code_dpl, new_cpl, ist, kind):
        fault, regs = await deliver(machine, cpl=cpl, code_kind=0xB | conforming << 2, code_dpl=code_dpl, ist=ist, kind=kind)
        switch = ist or new_cpl != cpl
        assert fault is None
        assert regs[Reg.T2] == OFFSET
        assert regs[Reg.T6] == (0x8000 if switch else 0x7FFF0), "aligned to 16 bytes"
        if switch:
            assert regs[Reg.T5] == TSS + (28 + 8 * ist if ist else 4 + 8 * new_cpl)
        kept = [machine.ctx.get(getattr(machine.dut, name)) for name in ("switch", "cs", "ss", "ss_we", "trap_gate")]
        assert kept == [bool(switch), 8 | new_cpl, new_cpl, new_cpl != cpl, kind == 0xF]

    async def test(machine):
        levels = ((0, 0, 0, 0), (3, 0, 0, 0), (3, 0, 1, 1), (3, 0, 3, 3), (3, 1, 0, 3), (0, 1, 0, 0))
        for level, ist, kind in itertools.product(levels, range(8), (0xE, 0xF)):
            await found(machine, *level, ist, kind)

    run(test)


def test_the_limit_of_the_tss():
    async def test(machine):
        for ist, offset in ((0, 4), (1, 0x24), (2, 0x2C), (7, 0x54)):
            for limit, good in ((offset + 7, True), (offset + 6, False), (0, False), (0xFFFFF, True)):
                fault, _ = await deliver(machine, ist=ist, tr_limit=limit)
                assert fault == (None if good else (Vector.TS, TR & ~3))

    run(test)


def test_the_limit_of_the_gdt():
    """A descriptor must lie within the limit with all its 8 bytes, that of a TSS with its 16."""

    async def test(machine):
        limits = (0, 6, 7, 8, 14, 15, 16, 0x16, 0x17, 0x1F, 0xFFFE, 0xFFFF)
        for limit, selector in itertools.product(limits, (8, 0x10, 0xFFF0, 0xFFF8)):
            machine.state(gdt_limit=limit, gdt_base=GDT, event_kind=EventClass.INTR, event_vector=VECTOR)
            for op, size in ((Op.GATE, 8), (Op.CSADDR, 8), (Op.SEGADDR, 8), (Op.TRADDR, 16)):
                a = gate(selector=selector)[0] if op == Op.GATE else selector
                fault, result = await machine.op(op, a)
                if selector + size - 1 > limit:
                    assert fault == (Vector.GP, selector), op
                else:
                    assert (fault, result) == (None, GDT + selector), op

    run(test)


def test_event_and_alignment(rng):
    async def test(machine):
        machine.state(event_rip=0x123, event_flags=0x10246, event_error=0x5678)
        machine.state(gdt_limit=GDT_LIMIT)
        for size, value in ((Size.B, 0x123), (Size.W, 0x10246), (Size.D, 0x5678)):
            assert await machine.op(Op.EVENT, bsize=size) == (None, value)
            assert machine.ctx.get(machine.dut.store) == value
        for _ in range(50):
            offset = rng.getrandbits(64) | rng.choice((0, M64 << 47 & M64))
            offset &= rng.choice((M64, M64 >> 17)) if offset >> 47 != 0x1FFFF else M64
            low, high = gate(offset=offset)
            junk = rng.getrandbits(32) << 32  # reserved, ignored
            await machine.op(Op.GATE, low | rng.getrandbits(8) << 35 & 0xF8 << 32, high | junk)
            good = offset >> 47 in (0, 0x1FFFF)
            assert await machine.op(Op.TARGET) == ((None, offset) if good else ((Vector.GP, 0), None))

    run(test)


def test_canonical():
    async def test(machine):
        for bits in (0, HOLE - 1, M64 + 1 - HOLE, M64):
            assert (await machine.op(Op.CANON, bits))[0] is None
        for bits in (HOLE, M64 - HOLE, 1 << 63, 1 << 48, M64 >> 1, M64 >> 16):
            assert (await machine.op(Op.CANON, bits))[0] == (Vector.GP, 0)

    run(test)


# --- every access byte of a descriptor ---


@pytest.mark.parametrize("cpl", (0, 3))
def test_every_gate(cpl):
    async def test(machine):
        machine.state(cpl=cpl, gdt_limit=GDT_LIMIT, event_vector=3)
        for byte, event in itertools.product(range(256), (EventClass.SOFT, EventClass.FAULT)):
            machine.state(event_kind=event)
            dpl = byte >> 5 & 3
            want = None
            if byte & 0x1F not in (0xE, 0xF) or (event == EventClass.SOFT and dpl < cpl):
                want = (Vector.GP, 0x1A)
            elif byte < 0x80:
                want = (Vector.NP, 0x1A)
            assert (await machine.op(Op.GATE, byte << 40 | 8 << 16))[0] == want, hex(byte)

    run(test)


@pytest.mark.parametrize("level", (0, 3))
def test_every_code_segment(level):
    """As target of a gate (level is CPL) and of iretq (level is the selector's RPL)."""

    async def test(machine):
        machine.state(cpl=level, gdt_limit=GDT_LIMIT, event_kind=EventClass.INTR, tr_limit=0x67)
        assert (await machine.op(Op.CSADDR, 0x30 | level))[0] is None
        assert (await machine.op(Op.GATE, gate(selector=0x33)[0]))[0] is None
        for byte, long, big in itertools.product(range(256), (0, 1), (0, 1)):
            code, conforming, dpl = byte & 0x18 == 0x18, byte & 4, byte >> 5 & 3
            good = code and long and not big
            absent = (Vector.NP, 0x30) if byte < 0x80 else None
            what = access(byte, long, big)
            want = absent if good and dpl <= level else (Vector.GP, 0x30)
            assert (await machine.op(Op.CODE, what))[0] == want, hex(byte)
            reach = dpl <= level if conforming else dpl == level
            want = absent if good and reach else (Vector.GP, 0x30)
            assert (await machine.op(Op.CSCHK, what))[0] == want, hex(byte)
            reach = dpl <= level if conforming else dpl == level  # a jump, whose RPL may be less
            want = absent if good and reach else (Vector.GP, 0x30)
            assert (await machine.op(Op.FARCHK, what))[0] == want, hex(byte)

    run(test)


@pytest.mark.parametrize("cpl, rpl", ((0, 0), (0, 2), (0, 3), (3, 0), (3, 1), (3, 3)))
def test_every_data_segment(cpl, rpl):
    """Loaded by iretq into ss, by mov into ss, and by mov into another segment register."""

    async def test(machine):
        machine.state(cpl=cpl, gdt_limit=GDT_LIMIT)
        assert (await machine.op(Op.CSADDR, 0x30 | rpl, 0x28 | rpl))[0] is None
        returns = (await machine.op(Op.CSCHK, access(0x9B | rpl << 5), bsize=Size.W))[0]
        assert returns == (None if rpl >= cpl else (Vector.GP, 0x30))
        for byte in range(256):
            dpl, kind = byte >> 5 & 3, byte & 0x1F
            writable = kind in (0x12, 0x13, 0x16, 0x17)
            absent = byte < 0x80
            want = (Vector.GP, 0x28) if not writable or dpl != rpl else (Vector.SS, 0x28) if absent else None
            if not returns:
                assert (await machine.op(Op.SSCHK, access(byte)))[0] == want, hex(byte)
        assert (await machine.op(Op.SEGADDR, 0x28 | rpl))[0] is None
        for byte in range(256):
            dpl, kind = byte >> 5 & 3, byte & 0x1F
            writable = kind in (0x12, 0x13, 0x16, 0x17)
            absent = byte < 0x80
            want = (Vector.GP, 0x28) if not writable or dpl != cpl else (Vector.SS, 0x28) if absent else None
            assert (await machine.op(Op.SEGCHK, access(byte), to_ss=1))[0] == want, hex(byte)
            readable = kind in range(0x10, 0x18) or kind in (0x1A, 0x1B, 0x1E, 0x1F)
            reach = kind in (0x1E, 0x1F) or max(cpl, rpl) <= dpl
            want = (Vector.GP, 0x28) if not (readable and reach) else (Vector.NP, 0x28) if absent else None
            assert (await machine.op(Op.SEGCHK, access(byte)))[0] == want, hex(byte)

    run(test)


def test_every_task_state_segment():
    """Only an available 64-bit TSS: not a busy one, not a 16-bit one."""

    async def test(machine):
        machine.state(gdt_limit=GDT_LIMIT)
        assert (await machine.op(Op.TRADDR, 0x40))[0] is None
        for byte in range(256):
            want = (Vector.GP, 0x40) if byte & 0x1F != 9 else (Vector.NP, 0x40) if byte < 0x80 else None
            assert (await machine.op(Op.TRCHK, access(byte)))[0] == want, hex(byte)

    run(test)


# --- iretq and lret ---

IRET_CS = [
    ("cs null", dict(cs=3), (Vector.GP, 0)),
    ("cs beyond the table", dict(cs=0x5B), (Vector.GP, 0x58)),
    ("cs of the LDT", dict(cs=0x37), (Vector.GP, 0x34)),
    ("cs is data", dict(cs_kind=3), (Vector.GP, 0x30)),
    ("cs is a system segment", dict(cs_s=0), (Vector.GP, 0x30)),
    ("cs not 64-bit", dict(long=0), (Vector.GP, 0x30)),
    ("cs 64-bit and 32-bit", dict(big=1), (Vector.GP, 0x30)),
    ("cs of another privilege", dict(cs_dpl=1), (Vector.GP, 0x30)),
    ("cs absent", dict(cs_p=0), (Vector.NP, 0x30)),
]
IRET_SS = [
    ("ss null", dict(ss=3), (Vector.GP, 0)),
    ("ss beyond the table", dict(ss=0x5B), (Vector.GP, 0x58)),
    ("ss of the LDT", dict(ss=0x2F), (Vector.GP, 0x2C)),
    ("ss of another RPL", dict(ss=0x28), (Vector.GP, 0x28)),
    ("ss is code", dict(ss_kind=0xB), (Vector.GP, 0x28)),
    ("ss read-only", dict(ss_kind=1), (Vector.GP, 0x28)),
    ("ss of another privilege", dict(ss_dpl=0), (Vector.GP, 0x28)),
    ("ss absent", dict(ss_p=0), (Vector.SS, 0x28)),
]
IRET_RIP = [("rip in the hole", dict(rip=HOLE), (Vector.GP, 0))]


async def give_back(
    machine, name="iret", *, cpl=0, rip=OFFSET, cs=0x33, ss=0x2B,
    cs_kind=0xB, cs_s=1, cs_dpl=3, cs_p=1, long=1, big=0, ss_kind=3, ss_dpl=3, ss_p=1,
):  # fmt: skip
    machine.state(cpl=cpl, gdt_base=GDT, gdt_limit=GDT_LIMIT)
    code, data = descriptor(cs_kind, cs_s, cs_dpl, cs_p, long, big), descriptor(ss_kind, 1, ss_dpl, ss_p, 0, 1)
    loads = (rip, cs, code, 0x7000, ss, data) if name == "lret" else (rip, cs, 0x246, 0x7000, ss, code, data)
    return await machine.routine(name, {}, loads)


@pytest.mark.parametrize("name, cpl", (("iret", 0), ("iret", 3), ("lret", 0)))
def test_returns_to_user_mode(name, cpl):
    async def test(machine):
        assert (await give_back(machine, name, cpl=cpl))[0] is None
        kept = [machine.ctx.get(getattr(machine.dut, name)) for name in ("cs", "ss", "ss_we")]
        assert kept == [0x33, 0x2B, 1]
        for what, changes, fault in spoiled([*IRET_CS, *IRET_SS, *IRET_RIP]):
            assert (await give_back(machine, name, cpl=cpl, **changes))[0] == fault, what

    run(test)


def test_lret_without_a_change_of_privilege():
    """Nothing of ss is read, let alone checked."""

    async def test(machine):
        for what, changes, fault in [("good", {}, None), *spoiled([*IRET_CS, *IRET_RIP])]:
            machine.state(ldt_limit=0)
            setup = dict(cpl=3, ss=0x1000, ss_p=0) | changes
            assert (await give_back(machine, "lret", **setup))[0] == fault, what
        assert machine.ctx.get(machine.dut.ss_we) == 0

    run(test)


def test_iretq_to_a_null_stack_segment():
    table = (
        (0, 0x30, 0, None),  # a null ss is fine in the kernel
        (0, 0x31, 1, None),
        (0, 0x32, 2, None),
        (0, 0x33, 3, (Vector.GP, 0)),  # and nowhere else
        (0, 0x30, 3, (Vector.GP, 0)),  # if its RPL fits
        (0, 0x31, 0, (Vector.GP, 0)),
        (3, 0x30, 0, (Vector.GP, 0x30)),  # iretq does not go inwards
        (3, 0x32, 2, (Vector.GP, 0x30)),
        (1, 0x30, 0, (Vector.GP, 0x30)),
    )

    async def test(machine):
        for cpl, cs, ss, fault in table:
            assert (await give_back(machine, cpl=cpl, cs=cs, ss=ss, cs_dpl=cs & 3))[0] == fault

    run(test)


# --- ltr and mov to a segment register ---

LTR = [
    ("null", dict(selector=3), (Vector.GP, 0)),
    ("beyond the table", dict(selector=0x53), (Vector.GP, 0x50)),  # the upper half would be
    ("of the LDT", dict(selector=0x47), (Vector.GP, 0x44)),
    ("a busy TSS", dict(kind=0xB), (Vector.GP, 0x40)),
    ("a 16-bit TSS", dict(kind=1), (Vector.GP, 0x40)),
    ("a code segment", dict(s=1), (Vector.GP, 0x40)),
    ("with a type in the upper half", dict(upper=1 << 8), (Vector.GP, 0x40)),
    ("absent", dict(p=0), (Vector.NP, 0x40)),
]


def test_ltr():
    async def test(machine):
        machine.state(gdt_base=GDT, gdt_limit=GDT_LIMIT)

        async def ltr(selector=0x43, kind=9, s=0, p=1, limit=0x67, g=0, upper=0xFFFFE0FF):
            low = descriptor(kind, s, 0, p, 0, 0, 0x81234567, limit, g)
            return low, *await machine.routine("ltr", {Reg.T0: selector}, (low, 0xFFFFFFFF | upper << 32))

        for name, changes, fault in spoiled(LTR):
            assert (await ltr(**changes))[1] == fault, name
        for limit, g, value in ((0x67, 0, 0x67), (0xFFFFF, 0, 0xFFFFF), (0, 1, 0xFFF), (0xFFFFF, 1, 0xFFFFFFFF)):
            low, fault, registers = await ltr(limit=limit, g=g)
            assert fault is None
            assert registers[Reg.T5] == GDT + 0x40
            assert registers[Reg.T3] == 0xFFFFFFFF81234567
            assert registers[Reg.T4] == value
            await machine.op(Op.TRBUSY, low)
            assert machine.ctx.get(machine.dut.store) == low | 2 << 40, "type 11: busy"

    run(test)


SS_LOAD = [
    ("beyond the table", dict(selector=0x5B), (Vector.GP, 0x58)),
    ("of the LDT", dict(selector=0x2F), (Vector.GP, 0x2C)),
    ("of another RPL", dict(selector=0x2A), (Vector.GP, 0x28)),
    ("null", dict(selector=3), (Vector.GP, 0)),
    ("read-only", dict(kind=1), (Vector.GP, 0x28)),
    ("code", dict(kind=0xB), (Vector.GP, 0x28)),
    ("of another privilege", dict(dpl=0), (Vector.GP, 0x28)),
    ("absent", dict(p=0), (Vector.SS, 0x28)),
]
DS_LOAD = [
    ("beyond the table", dict(selector=0x5B), (Vector.GP, 0x58)),
    ("of the LDT", dict(selector=0x2F), (Vector.GP, 0x2C)),
    ("a code segment that cannot be read", dict(kind=9), (Vector.GP, 0x28)),
    ("of more privilege", dict(dpl=2), (Vector.GP, 0x28)),
    ("absent", dict(p=0), (Vector.NP, 0x28)),
]


@pytest.mark.parametrize("sysreg, defects", ((SysReg.SS, SS_LOAD), (SysReg.DS, DS_LOAD)))
def test_mov_to_a_segment_register(sysreg, defects):
    async def test(machine):
        machine.state(cpl=3, gdt_base=GDT, gdt_limit=GDT_LIMIT)

        async def load(selector=0x2B, kind=3, dpl=3, p=1):
            what = descriptor(kind, 1, dpl, p)
            return (await machine.routine("mov_seg", {Reg.T0: selector}, (what,), sysreg == SysReg.SS))[0]

        assert await load() is None
        for name, changes, fault in spoiled(defects):
            assert await load(**changes) == fault, name

    run(test)


def test_a_null_selector():
    """Into ss only outside user mode with RPL = CPL; into the others always; its descriptor is not looked at."""

    async def test(machine):
        for cpl, rpl, to_ss in itertools.product(range(4), range(4), range(2)):
            machine.state(cpl=cpl, gdt_base=GDT, gdt_limit=GDT_LIMIT)
            seen, _ = await machine.routine("mov_seg", {Reg.T0: rpl}, (0,), to_ss)
            assert seen == (None if not to_ss or cpl == rpl != 3 else (Vector.GP, 0))

    run(test)


def test_lldt():
    """A null selector means that there is no LDT: nothing lies within its limit."""

    async def test(machine):
        machine.state(gdt_base=GDT, gdt_limit=GDT_LIMIT)
        low = descriptor(2, 0, 0, 1, 0, 0, 0x81234567, 0x1F, 0)
        fault, registers = await machine.routine("lldt", {Reg.T0: 0x40}, (low, 0xFFFFFFFF))
        assert (fault, registers[Reg.T3], registers[Reg.T4]) == (None, 0xFFFFFFFF81234567, 0x1F)
        for kind, want in ((9, (Vector.GP, 0x40)), (2, None)):
            low = descriptor(kind, 0, 0, 1, 0, 0)
            assert (await machine.routine("lldt", {Reg.T0: 0x40}, (low, 0)))[0] == want
        fault, registers = await machine.routine("lldt", {Reg.T0: 3}, ())
        assert (fault, registers[Reg.T4]) == (None, 0)
        assert (await machine.routine("lldt", {Reg.T0: 0x44}, ()))[0] == (Vector.GP, 0x44)

    run(test)


def test_selectors_of_the_ldt():
    async def test(machine):
        machine.state(gdt_base=GDT, gdt_limit=0, ldt_base=0x5000, ldt_limit=0x17)
        assert await machine.op(Op.SEGADDR, 0x14) == (None, 0x5010)
        assert await machine.op(Op.CSADDR, 4) == (None, 0x5000), "index 0 of the LDT is no null selector"
        assert (await machine.op(Op.SEGADDR, 0x1C))[0] == (Vector.GP, 0x1C)
        assert (await machine.op(Op.SEGADDR, 0x10))[0] == (Vector.GP, 0x10)

    run(test)


@pytest.mark.parametrize("routine, wanted", (("deliver", Op.CODE), ("iret", Op.CSCHK), ("iret", Op.SSCHK), ("mov_seg", Op.SEGCHK)))
def test_the_accessed_bit(routine, wanted):
    """Written only where it is clear, and only after a load: not of a null selector."""
    uop = next(uop for uop in ROUTINES[routine] if uop.op == wanted)
    assert uop.load and uop.store and uop.touch and uop.implicit

    async def test(machine):
        machine.state(gdt_limit=GDT_LIMIT, tr_limit=0x67, event_kind=EventClass.INTR)
        await machine.op(Op.GATE, gate(selector=0x30)[0])
        await machine.op(Op.CSADDR, 0x30, 0x28)
        await machine.op(Op.CSCHK, access(0x9B), bsize=Size.W)
        await machine.op(Op.SEGADDR, 0x28)
        byte = 0x93 if wanted in (Op.SSCHK, Op.SEGCHK) else 0x9B
        for clear in (0, 1):
            what = access(byte ^ clear)
            assert (await machine.op(wanted, what))[0] is None
            assert machine.ctx.get(machine.dut.keep_memory) == 1 - clear
            assert machine.ctx.get(machine.dut.store) == access(byte)
        await machine.op(Op.SEGADDR, 0)
        await machine.op(Op.SEGCHK, access(0x92))
        assert machine.ctx.get(machine.dut.keep_memory)

    run(test)


def test_what_a_segment_register_gets():
    async def test(machine):
        machine.state(gdt_limit=GDT_LIMIT)
        await machine.op(Op.SEGADDR, 0x2A)
        what = descriptor(0xE, 1, 2, 1, base=0x89ABCDEF)
        assert await machine.op(Op.SEGCHK, what) == (None, 0x89ABCDEF << 32 | 1 << 18 | 2 << 16 | 0x2A)
        await machine.op(Op.SEGADDR, 3)
        assert await machine.op(Op.SEGCHK, what) == (None, 3), "of a null selector nothing but itself"

    run(test)


@pytest.mark.parametrize("cpl, rpl", ((0, 0), (0, 3), (3, 0), (3, 3)))
def test_every_descriptor_looked_at(cpl, rpl):
    """lar, lsl, verr, verw: the zero flag, and a register that stays without it."""

    async def test(machine):
        machine.state(cpl=cpl, gdt_limit=GDT_LIMIT)
        assert (await machine.op(Op.SELADDR, 0x28 | rpl))[0] is None
        for byte in range(256):
            kind, visible = byte & 0x1F, byte & 0x1C == 0x1C or byte >> 5 & 3 >= max(cpl, rpl)
            segment = kind >= 0x10
            good = {
                Op.LAR: segment or kind in (2, 9, 0xB, 0xC),
                Op.LSL: segment or kind in (2, 9, 0xB),
                Op.VERR: segment and (kind < 0x18 or bool(kind & 2)),
                Op.VERW: kind in (0x12, 0x13, 0x16, 0x17),
            }
            for op, fits in good.items():
                what = access(byte) & ~(0xFFFF | 0xF << 48) | 0x56789 & 0xFFFF | 5 << 48
                fault, result = await machine.op(op, b=what)
                zero = machine.ctx.get(machine.dut.zero)
                assert fault is None and zero == (fits and visible), f"{op.name} {byte:#x}"
                if op in (Op.LAR, Op.LSL):
                    assert machine.ctx.get(machine.dut.keep_register) == 1 - zero
                    assert result == (what >> 32 & 0xFFFF00 if op == Op.LAR else 0x56789FFF)
        for selector in (3, 0x58, 0x2C):
            await machine.op(Op.SELADDR, selector)
            for op in good:
                await machine.op(op, b=access(0xF3))
                assert not machine.ctx.get(machine.dut.zero), "null, beyond the table, of no LDT"

    run(test)


# --- the I/O permission bitmap ---


@pytest.mark.parametrize("size, width", ((Size.B, 1), (Size.W, 2), (Size.D, 4)))
def test_bits_of_ports(size, width):
    """Every port of the access must be permitted; bits of others do not matter."""

    async def test(machine):
        machine.state(size=size)
        for port, bits in itertools.product(range(0x3F8, 0x400), (1 << n for n in range(16))):
            wanted = (1 << width) - 1 << (port & 7)
            for word in (bits, ~bits & 0xFFFF):
                fault, _ = await machine.op(Op.IOBITS, word, port)
                assert fault == ((Vector.GP, 0) if word & wanted else None), f"port {port:#x}, bits {word:016b}"

    run(test)


def test_place_of_the_bitmap():
    """The map base, then the byte of the port and the next one, lie within the limit of the TSS."""

    async def test(machine):
        for limit, good in ((0x67, True), (0x66, False), (0x65, False), (0, False), (0xFFFFF, True)):
            machine.state(tr_base=TSS, tr_limit=limit)
            assert await machine.op(Op.IOBASE) == ((None, TSS + 0x66) if good else ((Vector.GP, 0), None))
        for base, port, last in ((0x68, 0, 0x69), (0x68, 0x3F8, 0xE8), (0x68, 0xFFFF, 0x2068), (0xFFFF, 0xFFFF, 0x11FFF)):
            for limit, good in ((last, True), (last - 1, False)):
                machine.state(tr_limit=limit)
                wanted = (None, TSS + last - 1) if good else ((Vector.GP, 0), None)
                assert await machine.op(Op.IOMAP, base, port) == wanted, f"{base:#x} {port:#x} {limit:#x}"

    run(test)
