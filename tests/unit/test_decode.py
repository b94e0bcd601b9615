"""Stage D: what an instruction's bytes become, judged by the table and by a small reading of prefixes, ModRM and SIB.

The constant part of a uop comes from the table's rows and routines (`hw.isa`); everything that depends on the bytes is
worked out here a second time.
"""

import functools
from typing import NamedTuple

import pytest
from amaranth.hdl import Cat
from amaranth.sim import Simulator

from hw.decode import Decode
from hw.isa.absent import ABSENT
from hw.isa.facts import STATUS_FLAGS, EventClass, Op, Reg, SysOp, SysReg, Vector
from hw.isa.opcodes import TABLE
from hw.isa.reference import Parts, absent, lookup, split
from hw.isa.routines import ROUTINES, asking
from hw.isa.rows import LOCK, AMode, Flow, Need, Priv, Raise, Sel, SizeRule, When
from hw.types import Address, AKind, BKind, Decoded, Fault, Insn, Modes, Uop
from tests.isa.instances import PLAIN, instance, near_miss
from tests.unit.opbench import M64

ALL_PREFIXES = (*PLAIN, 0xF0, 0xF2, 0xF3)
NO_FAULT = dict(valid=0)
UD = (Vector.UD, EventClass.FAULT, 0)
NM = (Vector.NM, EventClass.FAULT, 0)
GP0 = (Vector.GP, EventClass.FAULT, 1)


class Insns(NamedTuple):
    """An instruction as the length stage hands it on."""

    parts: Parts
    pc: int
    word: int


@functools.cache
def place(struct, name: str) -> tuple[int, int]:
    """Offset and width of a field."""
    field = struct.as_shape()[name]
    return field.offset, field.width


class Fields:
    """A struct's bits, read by field name: one access to the simulation for all of them."""

    nested: dict = {}

    def __init__(self, struct, word: int):
        self.struct, self.word = struct, word

    def __getattr__(self, name):
        offset, width = place(self.struct, name)
        bits = self.word >> offset & (1 << width) - 1
        return Fields(self.nested[name], bits) if name in self.nested else bits


Fields.nested = {"u": Uop, "g": Address, "fault": Fault}


def insn(code: bytes, pc: int = 0x1000, fault: dict | None = None) -> Insns:
    parts = split(code)
    assert parts is not None and parts.bytes == code and not parts.too_long, code.hex()
    fields = dict(pc=pc, next_pc=pc + len(code) & M64, length=len(code), bytes=int.from_bytes(code, "little"))
    for name in ("map", "opcode", "modrm", "sib", "imm", "rex", "has_rex", "vvvv", "long", "refused", "opsize", "asize", "lock", "rep", "seg"):
        fields[name] = getattr(parts, name)
    fields["disp"] = parts.disp & 0xFFFFFFFF
    fields["fault"] = fault or NO_FAULT
    return Insns(parts, pc, Insn.const(fields).as_value().value)


# --- a second reading of the bytes ---


def operand_size(rule: SizeRule, parts: Parts) -> int:
    wide, half = parts.rex >> 3, parts.opsize
    match rule:
        case SizeRule.V:
            return 3 if wide else 1 if half else 2
        case SizeRule.D64:
            return 1 if half and not wide else 3
        case SizeRule.Y:
            return 3 if wide else 2
        case SizeRule.Z:
            return 1 if half and not wide else 2
        case SizeRule.A:
            return 2 if parts.asize else 3
    return rule.value


def register(number: int, extension: int, byte: bool, parts: Parts) -> tuple[int, int]:
    """(register, high half) of a field and its REX bit."""
    if byte and not parts.has_rex and 4 <= number < 8:
        return number - 4, 1
    return number | extension << 3, 0


def operand(sel, byte: bool, memory: bool, parts: Parts):
    """("reg", number, high), "mem", "imm", "next", "addr" or None."""
    rex = parts.rex
    if not isinstance(sel, Sel):
        return "reg", int(sel), 0
    if sel == Sel.E:
        return "mem" if memory else ("reg", *register(parts.rm, rex & 1, byte, parts))
    if sel == Sel.G:
        return "reg", *register(parts.reg, rex >> 2 & 1, byte, parts)
    if sel == Sel.V:
        return "reg", parts.vvvv, 0
    if sel == Sel.Z:
        return "reg", *register(parts.opcode & 7, rex & 1, byte, parts)
    return {Sel.MEM: "mem", Sel.IMM: "imm", Sel.ADDR: "addr"}.get(sel)


class Effective(NamedTuple):
    base: int | None
    index: int | None
    scale: int
    disp: int
    rip: bool
    stack: bool


def effective(parts: Parts) -> Effective:
    """SDM vol. 2, tables 2-2 and 2-3 with 2.2.1.3 to 2.2.1.6."""
    base = index = None
    if parts.rm == 4:
        number = parts.sib >> 3 & 7 | (parts.rex & 2) << 2
        index = None if number == 4 else number
        if not (parts.sib & 7 == 5 and parts.mod == 0):
            base = parts.sib & 7 | (parts.rex & 1) << 3
    elif not (parts.rm == 5 and parts.mod == 0):
        base = parts.rm | (parts.rex & 1) << 3
    rip = parts.rm == 5 and parts.mod == 0
    return Effective(base, index, parts.sib >> 6, parts.disp, rip, base in (Reg.RSP, Reg.RBP) and not parts.seg)


_NOT_READ = (Op.MOV, Op.MOVZX, Op.MOVSX, Op.SETCC, Op.RDFLAGS, Op.RDSYS, Op.IMUL3, Op.SIGN, Op.MOVBE)
_CONDITIONAL = (Op.JCC, Op.SETCC, Op.CMOV, Op.CMOVK, Op.REPNEXT)


def expect_uop(uop, rule, parts: Parts, delivering=False, locked=False, turn=0) -> tuple[dict, dict]:
    """Fields of `Uop` and of `Address` that this row must have; absent ones do not matter. ``rule`` sizes the instruction."""
    size = operand_size(rule if uop.size is None else uop.size, parts)
    memory = uop.amode == AMode.EA and parts.mod != 3
    extends = uop.op in (Op.MOVZX, Op.MOVSX, Op.CRC32B)
    a = operand(uop.a, size == 0, memory, parts)
    b = operand(uop.b, uop.bsize == 0 if extends else size == 0, memory, parts)
    d = operand(uop.d, size == 0, memory, parts)
    if a == "mem" and uop.a == Sel.E and uop.op in _NOT_READ:
        a = None
    u = dict(op=uop.op, size=size, sysop=uop.sysop, cl=uop.cl, probe=uop.probe, implicit=uop.implicit, touch=uop.touch, flags=sum(1 << STATUS_FLAGS.index(f) for f in uop.flags))
    u["a_kind"] = AKind.REG if isinstance(a, tuple) else AKind.MEM if a == "mem" else AKind.NONE
    kinds = {"mem": BKind.MEM, "imm": BKind.IMM, "addr": BKind.ADDR, None: BKind.NONE}
    u["b_kind"] = BKind.REG if isinstance(b, tuple) else kinds[b]
    for name, what in (("a", a), ("b", b), ("d", d)):
        if isinstance(what, tuple):
            u |= {f"{name}_reg": what[1], f"{name}_high": what[2]}
    u["d_we"] = isinstance(d, tuple)
    u["load"] = load = uop.load or a == "mem" or b == "mem"
    u["store"] = store = uop.store or d == "mem"
    u["lock"] = locked or (parts.lock and not delivering)
    u["sp_we"] = uop.amode in (AMode.PUSH, AMode.POP, AMode.LEAVE, AMode.SETSP)
    u["imm"] = 0 if delivering else 1 if uop.one else parts.imm
    u["bsize"] = size - 1 if uop.op == Op.MOVSX and uop.bsize == 3 else uop.bsize
    if uop.op == Op.STEP:
        u["bsize"] = 2 if parts.asize else 3
    if load or store or uop.probe:
        u["msize"] = uop.bsize if extends else size if uop.msize is None else uop.msize
    if uop.op in _CONDITIONAL or (uop.op == Op.LOOP and uop.bsize):
        u["cond"] = uop.cond if uop.cond is not None else parts.opcode & 15
        if uop.op == Op.REPNEXT:
            u["cond"] = 5 if parts.rep == 2 else 4
    if uop.sysreg is not None:
        reg, extended = parts.reg, parts.reg | (parts.rex & 4) << 1
        u["sysreg"] = int(uop.sysreg)
        if Sel.FIELD in (uop.a, uop.b):
            moved = {SysReg.ES: reg, SysReg.CR0: extended, SysReg.DR0: {4: 6, 5: 7}.get(reg, reg)}
            u["sysreg"] = int(uop.sysreg) + moved[uop.sysreg]
    g = {}
    if load or store or uop.probe or b == "addr" or u["sp_we"]:
        whole = operand_size(rule, parts) if uop.scaled else 0
        g = expect_address(uop, size, 1 << whole, turn, parts, delivering)
        g |= dict(intent=uop.intent or (load and store and not uop.touch), if_switch=uop.if_switch, align=uop.align)
    return u, g


def expect_address(uop, size: int, item: int, turn: int, parts: Parts, delivering: bool) -> dict:
    count, ea = 1 << size, effective(parts)
    base, index, disp, delta, seg, asize, stack = None, None, 0, 0, 0, 0, uop.stack
    g = {}
    own = (uop.disp - turn * uop.turn) * item if uop.scaled else uop.disp
    immediate = 0 if delivering else parts.imm & 0xFFFF
    match uop.amode:
        case AMode.EA:
            base, index, disp, seg, asize = ea.base, ea.index, ea.disp + own, parts.seg, parts.asize
            stack |= ea.stack
            g["rip"] = ea.rip
            if index is not None:
                g["scale"] = ea.scale
            if uop.bias and base == Reg.RSP:  # pop [rsp + n] counts from after the pop
                disp += count
        case AMode.PUSH:
            base, disp = Reg.RSP, -count
        case AMode.POP:
            base, delta = Reg.RSP, count + immediate
        case AMode.LEAVE:
            base, delta = Reg.RBP, count
        case AMode.SI:
            base, seg, asize = Reg.RSI, parts.seg, parts.asize
        case AMode.DI:
            base, asize = Reg.RDI, parts.asize
        case AMode.MOFFS:
            disp, seg, asize = parts.imm, parts.seg, parts.asize
        case AMode.BASE:
            base, disp = uop.base, own
            if uop.seg:
                seg, stack, asize = parts.seg, ea.stack, parts.asize
        case AMode.GATE:
            disp = uop.disp
        case AMode.SETSP:
            base, disp, delta = uop.base, own, immediate
    g |= dict(base_en=base is not None, index_en=index is not None, disp=disp & M64, sp_delta=delta, seg=seg, stack=stack)
    g |= dict(gate=uop.amode == AMode.GATE, asize=asize)
    if base is not None:
        g["base"] = int(base)
    if index is not None:
        g["index"] = index
    return g


#: What is switched on beside the privilege (`hw.types.Modes`), unless a test says otherwise.
MODES = frozenset({"sce", "fsgsbase"})
NEEDS = {Need.SCE: "sce", Need.FSGSBASE: "fsgsbase"}


def expect_fault(parts: Parts, row, cpl: int, iopl: int, fpu: frozenset = frozenset(), modes: frozenset = MODES) -> tuple | None:
    """(vector, kind, has_error) of what decoding finds; error codes are all 0."""
    raises = row.raises if row else absent(parts)
    if raises in UNAVAILABLE and UNAVAILABLE[raises](fpu):
        return NM
    if row is None or row.raises == Raise.UD or (row.need in NEEDS and NEEDS[row.need] not in modes):
        return UD
    refused = {
        Priv.CPL0: cpl,
        Priv.IOPL: cpl > iopl,
        Priv.NT: "nt" in modes,
        Priv.TSD: cpl and "tsd" in modes,
        Priv.UMIP: cpl and "umip" in modes,
    }
    if refused.get(row.priv) or row.raises == Raise.GP:
        return GP0
    return {
        Raise.INT3: (Vector.BP, EventClass.SOFT, 0),
        Raise.INTN: (parts.imm & 0xFF, EventClass.SOFT, 0),
        Raise.ICEBP: (Vector.DB, EventClass.ICEBP, 0),
    }.get(row.raises)


#: When an extension is refused with #NM and not #UD (SDM vol. 2, "exceptions" of each; vol. 3, table 2-2, 13.1).
UNAVAILABLE = {
    Raise.X87: lambda fpu: fpu & {"em", "ts"},
    Raise.WAIT: lambda fpu: fpu >= {"mp", "ts"},
    Raise.MMX: lambda fpu: "ts" in fpu and "em" not in fpu,
    Raise.SSE: lambda fpu: fpu >= {"ts", "osfxsr"} and "em" not in fpu,
    Raise.AVX: lambda fpu: fpu >= {"ts", "osxsave"},
}


def issued(row, parts: Parts, cpl=0, iopl=0) -> list:
    """The rows of the table or the routine that are issued, in order, each with the number of its turn."""
    routine = asking(row) if row.priv == Priv.IO and cpl > iopl else row.routine
    if not routine:
        return [(row.uop, 0)]
    level = parts.imm >> 16 & 31
    turns = [uop for uop in ROUTINES[routine] if uop.when == When.TURN]
    rows = []
    for uop in ROUTINES[routine]:
        if uop.when == When.ALWAYS or (uop.when == When.REP and parts.rep) or (uop.when == When.NESTED and level):
            rows.append((uop, max(level, 1)))
        elif uop.when == When.TURN and uop is turns[0]:
            rows += [(again, turn) for turn in range(1, level) for again in turns]
    return rows


# --- driving the stage ---


class Bench:
    def __init__(self, ctx, dut, rng, stall=0.0):
        self.ctx, self.dut, self.rng, self.stall = ctx, dut, rng, stall
        self.inputs = Cat(dut.cpl, dut.iopl, dut.i.payload)
        self.set_modes(MODES)
        self.output = dut.o.payload.as_value()
        self.redirects = []

    def set_modes(self, modes: frozenset):
        self.ctx.set(self.dut.modes, {name: name in modes for name in Modes.as_shape().members})

    def put(self, item: Insns | None, cpl=0, iopl=0):
        self.ctx.set(self.dut.i.valid, item is not None)
        if item is not None:
            self.ctx.set(self.inputs, cpl | iopl << 2 | item.word << 4)

    async def cycle(self):
        """One cycle: whether the instruction was taken, and the uop that left, or None."""
        ctx, dut = self.ctx, self.dut
        ready = self.rng.random() >= self.stall
        ctx.set(dut.o.ready, ready)
        taken = ctx.get(dut.i.ready)
        if ctx.get(dut.redirect.valid):
            self.redirects.append(ctx.get(dut.redirect.target))
        out = Fields(Decoded, ctx.get(self.output)) if ready and ctx.get(dut.o.valid) else None
        await ctx.tick()
        return taken, out

    async def run(self, item: Insns, cpl=0, iopl=0, limit=200) -> list:
        """All uops of an instruction, until the last; nothing more must follow."""
        self.put(item, cpl, iopl)
        self.redirects = []
        outs = []
        for _ in range(limit):
            taken, out = await self.cycle()
            if taken:
                self.put(None)
            if out is not None:
                outs.append(out)
                if out.u.last:
                    break
        else:
            raise AssertionError(f"no last uop: {item.parts.bytes.hex()}")
        row = lookup(item.parts)
        starts_over = row and row.routine and ROUTINES[row.routine][-1].loop and item.parts.rep
        if not starts_over or outs[-1].u.fault.valid:
            assert not self.ctx.get(self.dut.i.valid), "the last uop came and the instruction was not taken"
            assert not self.ctx.get(self.dut.o.valid)
        return outs

    async def kill(self):
        self.ctx.set(self.dut.kill, 1)
        assert not self.ctx.get(self.dut.i.ready)
        assert not self.ctx.get(self.dut.redirect.valid)
        await self.ctx.tick()
        self.ctx.set(self.dut.kill, 0)
        self.put(None)
        assert not self.ctx.get(self.dut.o.valid)


def compare(seen, want: dict, where: str):
    want = {name: int(getattr(value, "value", value)) for name, value in want.items()}
    got = {name: getattr(seen, name) for name in want}
    if got != want:
        pytest.fail(where + ": " + ", ".join(f"{n} {got[n]:#x} not {want[n]:#x}" for n in want if got[n] != want[n]))


def check(outs, item: Insns, row, cpl=0, iopl=0, fpu: frozenset = frozenset(), modes: frozenset = MODES):
    """The uops of an instruction are what the table says, or the fault that is due."""
    parts = item.parts
    where = f"{parts.bytes.hex()} {row} cpl {cpl} iopl {iopl}"
    fault = expect_fault(parts, row, cpl, iopl, fpu, modes)
    if fault:
        check_fault(outs, fault, where)
        return
    rows = issued(row, parts, cpl, iopl)
    assert [out.u.op for out in outs] == [uop.op for uop, _ in rows], where
    for n, (out, (uop, turn)) in enumerate(zip(outs, rows, strict=True)):
        u, g = expect_uop(uop, row.uop.size, parts, locked=row.routine == "xchg_mem" or row.mnemonic == "mfence", turn=turn)
        u |= dict(first=n == 0, last=n == len(rows) - 1, deliver=0, iret=row.routine == "iret")
        u |= dict(pc=item.pc, next_pc=item.pc + parts.length & M64, length=parts.length)
        u |= dict(bytes=int.from_bytes(parts.bytes, "little"), branch=uop.flow != Flow.NEXT)
        compare(out.u, u, f"{where}, uop {n}")
        compare(out.g, g, f"{where}, uop {n}, address")
        assert not out.u.fault.valid, where


def check_fault(outs, fault: tuple, where: str, error=0):
    """One uop, that does nothing."""
    assert len(outs) == 1, where
    u = outs[0].u
    nothing = dict(load=0, store=0, d_we=0, sp_we=0, flags=0, sysop=SysOp.NONE, first=1, last=1, deliver=0)
    compare(u, nothing, where)
    f = u.fault
    assert (f.valid, f.vector, f.kind, f.has_error, f.error) == (1, *fault, error), where


class Shared:
    """One simulation for all tests here: to build the decoder takes longer than most of them."""

    def __init__(self):
        self.dut = Decode()
        self.test = self.used = None
        self.simulator = Simulator(self.dut)
        self.simulator.add_clock(1e-6)
        self.simulator.add_testbench(self.bench)

    async def bench(self, ctx):
        test, rng, stall = self.test
        await test(Bench(ctx, self.dut, rng, stall))


shared = functools.cache(Shared)


def run(test, rng, stall=0.0):
    one = shared()
    one.test = test, rng, stall
    if one.used:
        one.simulator.reset()
    one.used = True
    one.simulator.run()


# --- instructions ---


def test_every_row(rng):
    async def test(b):
        for row in (*TABLE, *TABLE):
            b.stall = rng.choice((0.0, 0.3))
            item = insn(instance(rng, row, prefixes=ALL_PREFIXES), rng.getrandbits(64))
            check(await b.run(item), item, row)
            if expect_fault(item.parts, row, 0, 0) is None and issued(row, item.parts)[-1][0].loop:
                await b.kill()

    run(test, rng)


def test_near_misses(rng):
    """Undefined encodings, misused LOCK and privileges: #UD before #GP(0), and one uop only."""

    async def test(b):
        seen = set()
        for _ in range(600):
            cpl, iopl = rng.choice(((0, 0), (3, 0), (3, 3), (1, 0)))
            code = near_miss(rng, rng.choice(TABLE))
            parts = split(code + bytes(15))
            if parts.too_long:
                continue
            item = insn(parts.bytes)
            row = lookup(parts)
            check(await b.run(item, cpl, iopl), item, row, cpl, iopl)
            seen.add(expect_fault(parts, row, cpl, iopl))
            if row and expect_fault(parts, row, cpl, iopl) is None and issued(row, parts, cpl, iopl)[-1][0].loop:
                await b.kill()
        assert {UD, GP0, None} <= seen

    run(test, rng)


def test_privilege(rng):
    """Every privileged row at every CPL and IOPL; with LOCK it is undefined first, whoever executes it."""

    async def test(b):
        rows = [row for row in TABLE if row.priv != Priv.ANY or row.need != Need.NOTHING]
        assert len(rows) > 20
        for row in rows:
            item = insn(instance(rng, row))
            for cpl, iopl in ((0, 0), (0, 3), (1, 0), (2, 2), (3, 2), (3, 3)):
                modes = frozenset(name for name in Modes.as_shape().members if rng.getrandbits(1))
                b.set_modes(modes)
                check(await b.run(item, cpl, iopl), item, row, cpl, iopl, modes=modes)
                if issued(row, item.parts, cpl, iopl)[-1][0].loop:
                    await b.kill()
            b.set_modes(MODES)
            code = instance(rng, row, prefixes=())
            check_fault(await b.run(insn(b"\xf0" + code), 3, 0), UD, str(row))

    run(test, rng)


def test_extensions_that_are_not_there(rng):
    """x87, MMX, SSE, AVX and wait in every state of CR0.MP, EM, TS and CR4.OSFXSR, OSXSAVE."""
    bits = ("mp", "em", "ts", "osfxsr", "osxsave")

    async def test(b):
        wait = next(row for row in TABLE if row.raises == Raise.WAIT)
        evex = bytes.fromhex("62f1650872c310")
        for raises in UNAVAILABLE:
            rows = [row for row in ABSENT if row.raises == raises] or [wait]
            for state in range(32):
                fpu = frozenset(bit for n, bit in enumerate(bits) if state >> n & 1)
                b.ctx.set(b.dut.fpu, {bit: bit in fpu for bit in bits})
                codes = [instance(rng, rng.choice(rows)) for _ in range(2)] + [evex] * (raises == Raise.AVX)
                for code in codes:
                    item = insn(code)
                    check(await b.run(item), item, lookup(item.parts), 3, 0, fpu)
                if len(codes[0]) < 15:
                    check_fault(await b.run(insn(b"\xf0" + codes[0])), UD, codes[0].hex())
        b.ctx.set(b.dut.fpu, 0)

    run(test, rng)


@pytest.mark.parametrize("level", (0, 1, 2, 3, 31, 32, 255))
def test_enter(rng, level):
    """The frame of every nesting level: so many pointers copied, and everything at its place."""

    async def test(b):
        for prefix in (b"", b"\x66", b"\x66\x48"):
            item = insn(prefix + b"\xc8\x10\x20" + bytes((level,)))
            outs = await b.run(item)
            check(outs, item, lookup(item.parts))
            depth = level % 32
            assert sum(out.u.store for out in outs) == 1 + depth
            item = insn(b"\x90")
            check(await b.run(item), item, lookup(item.parts))

    run(test, rng)


def test_lock(rng):
    """LOCK is legal on the rows that say so, with memory; else #UD."""

    async def test(b):
        for row in rng.sample(TABLE, 150):
            item = insn(b"\xf0" + instance(rng, row, prefixes=()))
            legal = LOCK in row.ok and item.parts.mod != 3
            outs = await b.run(item)
            if legal:
                assert all(out.u.lock and not out.u.fault.valid for out in outs), row
            else:
                check_fault(outs, UD, str(row))

    run(test, rng)


EVENTS = (
    ("cc", 3, EventClass.SOFT),
    ("66cc", 3, EventClass.SOFT),
    ("2e" * 14 + "cc", 3, EventClass.SOFT),
    ("cd03", 3, EventClass.SOFT),
    ("cd80", 0x80, EventClass.SOFT),
    ("cdff", 0xFF, EventClass.SOFT),
    ("f3cd0e", 14, EventClass.SOFT),
    ("f1", 1, EventClass.ICEBP),
    ("0f0b", 6, EventClass.FAULT),
    ("0fffc0", 6, EventClass.FAULT),
    ("0fb900", 6, EventClass.FAULT),
    ("ce", 6, EventClass.FAULT),  # into
    ("f0cc", 6, EventClass.FAULT),
    ("f0f1", 6, EventClass.FAULT),
    ("f0cd03", 6, EventClass.FAULT),
    ("48c4e2f8f2c3", 6, EventClass.FAULT),  # VEX after REX
    ("c4e2fcf2c3", 6, EventClass.FAULT),  # andn with VEX.L
    ("62f1650872c310", 6, EventClass.FAULT),  # EVEX
    ("8ec8", 6, EventClass.FAULT),  # mov cs, ax
    ("8ef0", 6, EventClass.FAULT),  # a segment register that does not exist
    ("0f20c8", 6, EventClass.FAULT),  # cr1
    ("440f21c0", 6, EventClass.FAULT),  # dr8
    ("8dc0", 6, EventClass.FAULT),  # lea without memory
)


def test_events(rng):
    """Breakpoints and undefined opcodes, the same at every privilege: what of it is allowed, the gate decides."""

    async def test(b):
        for code, vector, kind in EVENTS:
            for cpl in (0, 3):
                check_fault(await b.run(insn(bytes.fromhex(code)), cpl), (vector, kind, 0), code)

    run(test, rng)


def test_a_fault_of_fetching_passes_through(rng):
    """Whatever the bytes mean: not even #UD goes before it."""
    page = dict(valid=1, vector=Vector.PF, kind=EventClass.FAULT, has_error=1, error=0x14, addr=0xDEAD000)
    too_long = dict(valid=1, vector=Vector.GP, kind=EventClass.FAULT, has_error=1)

    async def test(b):
        for code in ("90", "0f0b", "cc", "fa", "f3a4", "0fa2", "ebfe", "c3", "cf", "f048ff00"):
            outs = await b.run(insn(bytes.fromhex(code), fault=page), 3)
            check_fault(outs, (Vector.PF, EventClass.FAULT, 1), code, 0x14)
            assert outs[0].u.fault.addr == 0xDEAD000 and not b.redirects
            check_fault(await b.run(insn(bytes.fromhex(code), fault=too_long)), GP0, code)

    run(test, rng)


LITERAL = (
    # bytes, what is expected of the one uop
    ("88e0", dict(b_reg=0, b_high=1, d_reg=0, d_high=0, size=0, load=0, store=0)),  # mov al, ah
    ("4088e0", dict(b_reg=4, b_high=0, d_reg=0, d_high=0)),  # mov al, spl
    ("88f9", dict(b_reg=3, b_high=1, d_reg=1, d_high=0)),  # mov cl, bh
    ("4488f9", dict(b_reg=15, b_high=0, d_reg=1)),  # mov cl, r15b
    ("b7ff", dict(d_reg=3, d_high=1, imm=M64, b_kind=BKind.IMM)),  # mov bh, -1
    ("41b7ff", dict(d_reg=15, d_high=0)),  # mov r15b, -1
    ("0fb6c4", dict(b_reg=0, b_high=1, d_reg=0, d_high=0, size=2, bsize=0)),  # movzx eax, ah
    ("4c0fbee4", dict(b_reg=4, b_high=0, d_reg=12, size=3)),  # movsx r12, spl
    ("6601d8", dict(size=1, a_reg=0, b_reg=3, d_reg=0, flags=0x3F)),  # add ax, bx
    ("664801d8", dict(size=3)),  # REX.W wins over 66
    ("4d01c8", dict(size=3, a_reg=8, b_reg=9, d_reg=8)),  # add r8, r9
    ("0303", dict(a_kind=AKind.REG, a_reg=0, b_kind=BKind.MEM, load=1, store=0, d_we=1, msize=2)),  # add eax, [rbx]
    ("0103", dict(a_kind=AKind.MEM, b_reg=0, load=1, store=1, d_we=0)),  # add [rbx], eax
    ("3903", dict(load=1, store=0, d_we=0)),  # cmp [rbx], eax
    ("8903", dict(load=0, store=1, d_we=0)),  # mov [rbx], eax
    ("8d03", dict(load=0, store=0, d_we=1, b_kind=BKind.ADDR)),  # lea eax, [rbx]
    ("50", dict(size=3, msize=3, store=1, sp_we=1, b_reg=0)),  # push rax
    ("6650", dict(size=1, msize=1, store=1)),  # push ax
    ("4157", dict(b_reg=15)),  # push r15
    ("c3", dict(load=1, sp_we=1, branch=1, size=3)),  # ret
    ("0f95c4", dict(d_reg=0, d_high=1, cond=5, size=0)),  # setne ah
    ("d3e0", dict(cl=1, size=2)),  # shl eax, cl
    ("d1e0", dict(cl=0, imm=1)),  # shl eax, 1
    ("0f20e0", dict(sysreg=SysReg.CR4, d_reg=0, size=3)),  # mov rax, cr4
    ("440f22c0", dict(sysreg=SysReg.CR8, b_reg=0, d_we=0, sysop=SysOp.WRITE)),  # mov cr8, rax
    ("0f21e0", dict(sysreg=SysReg.DR6)),  # mov rax, dr4
    ("0f21e8", dict(sysreg=SysReg.DR7)),  # mov rax, dr5
    ("8cd8", dict(sysreg=SysReg.DS, d_reg=0, size=2)),  # mov eax, ds
    ("448cd8", dict(sysreg=SysReg.DS, d_reg=0, size=2)),  # REX.R is ignored
    ("8c18", dict(sysreg=SysReg.DS, store=1, size=1, msize=1)),  # mov [rax], ds: 16 bits always
    ("668c18", dict(msize=1)),
    ("488c18", dict(msize=1)),
    ("90", dict(d_we=0, load=0, store=0, op=Op.MOV)),  # nop
    ("0f1f00", dict(d_we=0, load=0, store=0)),  # nop [rax]
)


def test_literal_cases(rng):
    async def test(b):
        for code, want in LITERAL:
            (out,) = await b.run(insn(bytes.fromhex(code)))
            compare(out.u, want, code)

    run(test, rng)


ADDRESSES = (
    # bytes, what is expected of the address
    ("8b03", dict(base_en=1, base=3, index_en=0, disp=0, seg=0, stack=0, asize=0, rip=0)),  # [rbx]
    ("8b45f8", dict(base=5, disp=M64 - 7, stack=1)),  # [rbp - 8]
    ("418b45f8", dict(base=13, stack=0)),  # [r13 - 8]
    ("8b0424", dict(base=4, index_en=0, stack=1)),  # [rsp]
    ("418b0424", dict(base=12, index_en=0, stack=0)),  # [r12]
    ("658b0424", dict(base=4, seg=2, stack=0)),  # gs:[rsp]
    ("2e8b0424", dict(seg=0, stack=1)),  # cs: means nothing
    ("8b0500000080", dict(rip=1, base_en=0, index_en=0, disp=M64 - 0x7FFFFFFF)),  # [rip - 2**31]
    ("8b042578563412", dict(rip=0, base_en=0, index_en=0, disp=0x12345678)),  # [0x12345678]
    ("8b04cd00100000", dict(base_en=0, index_en=1, index=1, scale=3, disp=0x1000)),  # [rcx * 8 + 0x1000]
    ("428b0420", dict(base=0, index_en=1, index=12, scale=0)),  # [rax + r12]
    ("8b44ed01", dict(base=5, index=5, index_en=1, scale=3, disp=1, stack=1)),  # [rbp + rbp * 8 + 1]
    ("678b03", dict(asize=1)),  # [ebx]
    ("64a18877665544332211", dict(base_en=0, disp=0x1122334455667788, seg=1)),  # fs:[moffs]
    ("50", dict(base=4, disp=M64 - 7, sp_delta=0, stack=1)),  # push rax
    ("6650", dict(base=4, disp=M64 - 1)),  # push ax
    ("6750", dict(asize=0)),  # 67 does not make the stack narrow
    ("58", dict(base=4, disp=0, sp_delta=8)),  # pop rax
    ("c20800", dict(base=4, disp=0, sp_delta=16)),  # ret 8
    ("c2ffff", dict(sp_delta=0x10007)),  # ret 0xffff
    ("c9", dict(base=5, disp=0, sp_delta=8)),  # leave
)


def test_literal_addresses(rng):
    async def test(b):
        for code, want in ADDRESSES:
            (out,) = await b.run(insn(bytes.fromhex(code)))
            compare(out.g, want, code)

    run(test, rng)


# --- the sequencer ---


def test_rep_starts_over_until_killed(rng):
    """A string instruction stays in the stage: its rows again and again, each time as a whole."""

    async def repeat(b, code):
        item = insn(bytes.fromhex(code))
        row = lookup(item.parts)
        b.put(item)
        for _ in range(4):
            outs = []
            while not outs or not outs[-1].u.last:
                taken, out = await b.cycle()
                assert not taken
                outs += [] if out is None else [out]
            check(outs, item, row)
        await b.kill()
        item = insn(b"\x90")
        check(await b.run(item), item, lookup(item.parts))

    async def test(b):
        for code in ("f3a4", "f3aa", "f2ae", "f3a6", "f248ad", "f367a5"):
            await repeat(b, code)

    run(test, rng, 0.3)


def test_kill_at_any_cycle(rng):
    """Nothing is left of the uop in the register nor of the routine: the next instruction begins at its beginning."""
    rows = [row for row in TABLE if row.priv == Priv.ANY and "Sw" not in row.operands]

    async def kill(b, code, cycles):
        for after in range(cycles):
            b.stall = rng.choice((0.0, 0.5))
            b.put(insn(bytes.fromhex(code)))
            for _ in range(after):
                taken, _ = await b.cycle()
                if taken:
                    b.put(rng.choice((None, insn(b"\xf3\xa5"))))
            b.ctx.set(b.dut.o.ready, rng.random() < 0.5)
            await b.kill()
            for _ in range(rng.randrange(3)):
                assert await b.cycle() == (0, None)
            row = rng.choice(rows)
            item = insn(instance(rng, row))
            check(await b.run(item), item, row)
            await b.kill()

    async def test(b):
        for code, cycles in (("f3a4", 9), ("480fa2", 9), ("48cf", 20), ("f00fc103", 7), ("90", 4), ("ebfe", 4), ("0f0b", 4)):
            await kill(b, code, cycles)

    run(test, rng)


def test_delivery(rng):
    """The routine follows `deliver`, for itself: what lies at the input is neither looked at nor taken."""

    async def deliver(b, waiting, fault):
        with_error = rng.getrandbits(1)
        skipped = When.NOERROR if with_error else When.ERROR
        rows = [uop for uop in ROUTINES["deliver"] if uop.when != skipped]
        item = insn(waiting, fault=fault)
        b.put(item, rng.choice((0, 3)))
        for _ in range(rng.randrange(5)):
            await b.cycle()
        b.put(item)
        if not rng.randrange(3):
            b.ctx.set(b.dut.i.valid, 0)
        b.ctx.set(b.dut.deliver, 1)
        b.ctx.set(b.dut.deliver_error, with_error)
        b.ctx.set(b.dut.kill, 1)
        await b.ctx.tick()
        b.ctx.set(Cat(b.dut.deliver, b.dut.kill), 0)
        b.ctx.set(b.dut.deliver_error, rng.getrandbits(1))
        assert b.ctx.get(b.dut.delivering) and not b.ctx.get(b.dut.o.valid)
        b.redirects, outs = [], []
        while not outs or not outs[-1].u.last:
            taken, out = await b.cycle()
            assert not taken or not b.ctx.get(b.dut.delivering), "an instruction is taken by a delivery"
            outs += [] if out is None else [out]
            b.ctx.set(b.dut.i.valid, b.ctx.get(b.dut.delivering) and rng.getrandbits(1))
        assert not b.redirects, "a delivery predicts nothing"
        assert [out.u.op for out in outs] == [uop.op for uop in rows]
        for n, (out, uop) in enumerate(zip(outs, rows, strict=True)):
            u, g = expect_uop(uop, None, item.parts, delivering=True)
            u |= dict(first=0, last=n == len(rows) - 1, deliver=1, iret=0)
            where = f"uop {n} before {waiting.hex()}"
            compare(out.u, u, where)
            compare(out.g, g, where)
            assert not out.u.fault.valid
        assert not b.ctx.get(b.dut.delivering)

    async def test(b):
        page = dict(valid=1, vector=Vector.PF, kind=EventClass.FAULT, has_error=1, error=0x14, addr=0xDEAD000)
        for fault in (None, page):
            for row in rng.sample(TABLE, 12):
                b.stall = rng.choice((0.0, 0.4))
                await deliver(b, instance(rng, row, prefixes=ALL_PREFIXES), fault)
                await b.kill()
        for code in ("f0ff03", "6748a5", "c20800", "cc", "0f0b", "ebfe", "e800000000", "c3", "f3a4", "650fa2"):
            await deliver(b, bytes.fromhex(code), None)
            await b.kill()

    run(test, rng)


def test_kill_ends_a_delivery(rng):
    async def test(b):
        for after in range(20):
            b.put(None)
            b.ctx.set(Cat(b.dut.deliver, b.dut.kill), 3)
            await b.ctx.tick()
            b.ctx.set(Cat(b.dut.deliver, b.dut.kill), 0)
            for _ in range(after):
                await b.cycle()
            await b.kill()
            assert not b.ctx.get(b.dut.delivering)
            item = insn(b"\xf0\x48\x0f\xc1\x03")
            check(await b.run(item), item, lookup(item.parts))

    run(test, rng, 0.2)


# --- prediction ---


def test_conditional_branches(rng):
    """Backward taken and forward not, until the branch does otherwise; then as it did."""
    codes = ("75fe", "7510", "0f84f0ffffff", "0f8400010000", "e2f0", "e310", "e120", "e080")

    async def resolve(b, pc, agreed):
        b.ctx.set(b.dut.resolved_pc, pc)
        b.ctx.set(b.dut.agreed, agreed)
        b.ctx.set(b.dut.resolved, 1)
        await b.ctx.tick()
        b.ctx.set(b.dut.resolved, 0)

    async def test(b):
        for n, code in enumerate(codes):
            item = insn(bytes.fromhex(code), 0xFFFFFFFF80001000 + 16 * n)
            near = item.pc + item.parts.length + item.parts.imm & M64
            after = item.pc + item.parts.length
            backward = near < item.pc + item.parts.length
            for history, agrees in ((), 1), ((0,), 0), ((1,), 1), ((0, 0, 0), 0), ((1,), 0), ((1, 1), 1):
                for agreed in history:
                    await resolve(b, item.pc, agreed)
                (out,) = await b.run(item)
                taken = backward == bool(agrees)
                assert out.u.branch and out.u.predicted == (near if taken else after), code
                assert b.redirects == ([near] if taken else []), code

    run(test, rng)


def test_jumps_and_calls(rng):
    """Direct ones redirect as they are issued; indirect ones to where they went last."""

    async def test(b):
        for code in ("ebfe", "eb10", "e9f0ffff7f", "e900000080", "e800100000", "66e900100000"):
            item = insn(bytes.fromhex(code), 0x7FFFFFF0)
            (out,) = await b.run(item)
            near = item.pc + item.parts.length + item.parts.imm & M64
            assert out.u.branch and out.u.predicted == near and b.redirects == [near], code
        for code in ("ffe0", "ff20", "ffd0"):
            item = insn(bytes.fromhex(code))
            outs = await b.run(item)
            assert outs[-1].u.branch and b.redirects == [outs[-1].u.predicted]
        for code in ("90", "cc", "0fa2", "f0ebfe"):
            outs = await b.run(insn(bytes.fromhex(code)))
            assert not b.redirects, code

    run(test, rng)


def test_returns_follow_calls(rng):
    """Direct, indirect and memory calls push; returns, with and without an immediate, pop; each once, however it stalls."""
    calls = ("e800100000", "ffd0", "ff10", "41ff542410")

    async def test(b):
        for _ in range(5):
            depth = rng.randrange(1, 9)
            pending = []
            for _ in range(depth):
                item = insn(bytes.fromhex(rng.choice(calls)), rng.getrandbits(47))
                await b.run(item)
                pending.append(item.pc + item.parts.length)
                await b.run(insn(b"\x90"))
            for target in reversed(pending):
                (out,) = await b.run(insn(bytes.fromhex(rng.choice(("c3", "c20800", "f3c3")))))
                assert out.u.branch and out.u.predicted == target and b.redirects == [target]

    run(test, rng, 0.4)


def test_a_call_that_is_not_issued_pushes_nothing(rng):
    """Neither a killed one nor an undefined one."""

    async def test(b):
        await b.run(insn(bytes.fromhex("e800000000"), 0x5000))
        b.put(insn(bytes.fromhex("e800000000"), 0x6000))
        await b.kill()
        await b.run(insn(bytes.fromhex("f0e800000000"), 0x7000))
        assert not b.redirects
        (out,) = await b.run(insn(b"\xc3"))
        assert out.u.predicted == 0x5005

    run(test, rng)


def test_one_uop_a_cycle(rng):
    """Without stalls nothing is lost: n single-uop instructions in n cycles, and routines one row a cycle."""

    async def test(b):
        for code, rows in (("4801d8", 1), ("488b03", 1), ("8703", 3), ("480fa2", 6), ("48a5", 3)):
            item = insn(bytes.fromhex(code))
            cycles = outs = 0
            b.put(item)
            while outs < 10 * rows:
                _, out = await b.cycle()
                cycles += 1
                outs += out is not None
            # the REP rows that a plain string instruction skips cost a cycle each
            skipped = sum(u.when == When.REP for u in ROUTINES.get(lookup(item.parts).routine, ()))
            assert cycles <= 10 * (rows + skipped) + 1, code
            await b.kill()

    run(test, rng)
