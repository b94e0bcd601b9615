"""One random instance of a table row: prefixes, operand forms, and addresses steered into mapped memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hw.isa.facts import Op
from hw.isa.rows import LOCK, MEM, NOREXB, REP, REXB, RM, VEX, AMode, Flow, Row, SizeRule
from tests.silicon.state import M64, RAX, RSP, Reject, State
from tests.silicon.table import operand_size, register_only, suffix_size

#: One-byte-escape opcodes on which F2/F3 means nothing on any processor.
_REP_IGNORED_0F = {*range(0x40, 0x50), *range(0x80, 0xA0), 0xAF, 0xB6, 0xB7, 0xBE, 0xBF, *range(0xC8, 0xD0)}
_NO_ACCESS = {"lea", "nop", "prefetch", "prefetchw", "ud0", "ud1"}
_SEGMENTS = {0x2E: None, 0x36: None, 0x3E: None, 0x26: None, 0x64: "fs_base", 0x65: "gs_base"}


@dataclass
class Draft:
    """An instruction while its bytes and the state it needs are being chosen."""

    row: Row
    state: State
    rng: Random
    opcode: int
    size: int
    wide: bool = False
    opsize: bool = False
    address32: bool = False
    rex: bool = False
    lock: bool = False
    rep: int | None = None
    segment: int | None = None
    reg: int = 0
    vvvv: int = 0  # the register of VEX.vvvv
    rm: int | None = None  # a register, when there is no memory operand
    address: int | None = None  # linear address of the memory operand
    skew: int = 0  # what the instruction adds to the address (bt with a register)
    imm: bytes = b""
    modrm: bytes = b""
    rip_target: int | None = None  # a rip-relative operand, solved when the length is known
    rex_x: int = 0
    rex_b: int = 0
    touched: set[int] = field(default_factory=set)  # registers that the instruction refers to

    @property
    def memory(self) -> bool:
        """Whether the ModRM operand is in memory and the instruction accesses it."""
        return self.row.modrm and self.rm is None and self.row.mnemonic not in _NO_ACCESS

    @property
    def segment_base(self) -> int:
        """What the segment prefix adds to the address; only FS and GS do."""
        name = _SEGMENTS.get(self.segment or 0)
        return self.state.regs[name] if name else 0

    @property
    def base_name(self) -> str | None:
        """The segment base in use."""
        return _SEGMENTS.get(self.segment or 0)

    def access_size(self) -> int:
        """Bytes of the ModRM operand."""
        operand = self.row.e_operand
        twice = 2 if self.row.mnemonic == "cmpxchg8b" else 1
        return twice * (suffix_size(operand, self.size) if operand else self.size)

    def byte_register(self, number: int) -> tuple[int, int]:
        """The full register and the shift of a byte register: without REX, 4 to 7 are ah ch dh bh."""
        return (number - 4, 8) if 4 <= number < 8 and not self.rex else (number, 0)

    def condition(self) -> int | None:
        """The condition code of a +cc row."""
        return self.opcode & 15 if self.row.span == 16 else None


def shape(row: Row, state: State) -> Draft:
    """Choose sizes, prefixes and registers."""
    rng = state.rng
    rule = row.uop.size or SizeRule.V
    branch = row.uop.flow is not Flow.NEXT
    variable = rule in (SizeRule.V, SizeRule.D64, SizeRule.Y)
    wide = rng.random() < (0.4 if variable else 0.1)
    # 66 on a near branch truncates rip on AMD and does nothing on Intel: never generated.
    narrow = not branch and rule not in (SizeRule.Q, SizeRule.W, SizeRule.D)
    opsize = narrow and rng.random() < (0.3 if variable else 0.05)
    if row.prefix == 0x66 or (rule is SizeRule.Y and not wide) or row.vex:
        opsize = False
    draft = Draft(row, state, rng, row.opcode + rng.randrange(row.span), operand_size(row, opsize, wide), wide, opsize)
    draft.rex = wide or rng.random() < 0.4 or row.vex  # REX or VEX: sixteen registers
    limit = 16 if draft.rex else 8
    opcode_register = any(name[0] == "Z" for name in row.operands)
    if opcode_register:
        draft.rex_b = rng.randrange(limit) >> 3
    if REXB in row.ok:
        draft.rex, draft.rex_b = True, 1
    elif NOREXB in row.ok:
        draft.rex_b = 0
    elif not row.modrm and not opcode_register and draft.rex and rng.random() < 0.1:
        draft.rex_b = 1
    if opcode_register:
        number = (draft.opcode & 7) | (draft.rex_b << 3)
        draft.touched.add(draft.byte_register(number)[0] if row.uop.size is SizeRule.B else number)
    draft.address32 = rng.random() < 0.08 and (not branch or row.modrm or row.mnemonic.startswith(("loop", "j")))
    if rng.random() < 0.12:
        draft.segment = rng.choice((0x64, 0x65, 0x64, 0x65, *_SEGMENTS))
    if row.modrm:
        _operands(draft, limit)
    if REP in row.ok:
        draft.rep = rng.choice((None, 0xF3, 0xF3, 0xF2))
    elif row.prefix is None and rng.random() < 0.03 and _rep_ignored(row, opsize):
        draft.rep = rng.choice((0xF2, 0xF3))
    if LOCK in row.ok and draft.memory:
        draft.lock = rng.random() < 0.2
    return draft


def _rep_ignored(row: Row, opsize: bool) -> bool:
    """Whether F2/F3 may be added for nothing; after 0F not beside 66, where disassemblers take either for mandatory."""
    if row.map == 0:
        # on loope and loopne F2 and F3 replace the condition (seen on Zen 3; the manuals give them no meaning)
        return row.opcode not in (0x90, 0x0F, 0xE0, 0xE1) and row.uop.amode not in (AMode.SI, AMode.DI)
    return row.map == 1 and not opsize and row.opcode in _REP_IGNORED_0F


def _operands(draft: Draft, limit: int) -> None:
    row, rng = draft.row, draft.rng
    draft.reg = row.reg if row.reg is not None else rng.randrange(limit)
    if row.reg is not None and draft.rex and rng.random() < 0.1 and not any(n[0] == "G" for n in row.operands):
        draft.reg |= 8  # REX.R without a register to extend
    for name in row.operands:
        if name[0] == "B":
            draft.vvvv = rng.randrange(16)
            draft.touched.add(draft.vvvv)
        if name[0] == "G":
            byte = suffix_size(name, draft.size) == 1
            draft.touched.add(draft.byte_register(draft.reg)[0] if byte else draft.reg)
    if register_only(row) or (MEM not in row.ok and "M" not in [n[0] for n in row.operands] and rng.random() < 0.45):
        fixed = next((n for n, mark in enumerate(RM) if mark in row.ok), None)
        draft.rm = rng.randrange(limit)
        draft.rm = draft.rm if fixed is None else draft.rm & 8 | fixed
        byte = draft.access_size() == 1
        draft.touched.add(draft.byte_register(draft.rm)[0] if byte else draft.rm)


def steer(draft: Draft) -> None:
    """Build ModRM, SIB and displacement; for an access, make the address land in mapped memory (or fault, rarely)."""
    state, rng = draft.state, draft.rng
    if draft.rm is not None:
        draft.modrm = bytes([0xC0 | (draft.reg & 7) << 3 | (draft.rm & 7)])
        draft.rex_b = draft.rm >> 3
        return
    if draft.memory:
        if draft.address is None:
            draft.address = state.bad_spot() if rng.random() < 0.015 else state.spot(draft.access_size())
        near = draft.address < 1 << 31
        if draft.base_name and state.free(draft.base_name):
            state.pin(draft.base_name, rng.choice((rng.randrange(0x8000), rng.getrandbits(46) if near else 0x1000)))
        target = (draft.address - draft.skew - draft.segment_base) & M64
        if draft.address32 and target >> 32:
            raise Reject("a 32-bit address does not reach")
    else:
        target = None
    form = rng.random()
    if form < 0.1:
        draft.rip_target = target if target is not None else rng.getrandbits(31)
        draft.modrm = bytes([0x05 | (draft.reg & 7) << 3, 0, 0, 0, 0])
        return
    mask = (1 << 32) - 1 if draft.address32 else M64
    base, index, scale = _registers(draft, form)
    disp, width = _solve(draft, base, index, scale, target, mask)
    _modrm(draft, base, index, scale, disp, width)


def _registers(draft: Draft, form: float) -> tuple[int | None, int | None, int]:
    """Base, index and scale of a form; None where there is none."""
    rng = draft.rng
    limit = 16 if draft.rex else 8
    pick = [n for n in range(limit) if n != RSP]
    free = [n for n in pick if draft.state.free(n) and n not in draft.touched] or pick
    base = rng.choice(free) if rng.random() < 0.7 else rng.randrange(limit)
    if form < 0.55:
        return base, None, 0
    index = rng.choice(pick)
    if form < 0.85:
        return base, index, rng.randrange(4)
    return (None, index, rng.randrange(4)) if form < 0.93 else (None, None, rng.randrange(4))


def _value(draft: Draft, number: int) -> int:
    """A register as the address sees it: pop computes its address with rsp already moved."""
    value = draft.state.reg(number)
    return value + draft.size if number == RSP and draft.row.mnemonic == "pop" else value


def _solve(
    draft: Draft, base: int | None, index: int | None, scale: int, target: int | None, mask: int
) -> tuple[int, int]:
    """Choose register values and a displacement that make the address; (displacement, its bytes)."""
    state, rng = draft.state, draft.rng
    draft.touched.update(n for n in (base, index) if n is not None)
    wanted = rng.choice((0, 1, 1, 4)) if base is not None else 4
    reach = {0: 0, 1: 1 << 7, 4: rng.choice((1 << 12, 1 << 31))}[wanted]
    disp = rng.randrange(-reach, reach) if reach else 0
    if target is None:
        return disp, wanted
    if base is not None and base != index and state.free(base):
        offset = _value(draft, index) << scale if index is not None else 0
        if index is not None:
            state.use([index])
        garbage = 0 if mask == M64 else rng.getrandbits(32) << 32
        state.pin(base, ((target - disp - offset) & mask) | garbage)
        return disp, wanted
    if index is not None and state.free(index):
        small = (target - (_value(draft, base) if base is not None and base != index else 0)) & mask
        value = min(small, rng.getrandbits(28)) >> scale if small < 1 << 31 or base == index else small >> scale
        garbage = 0 if mask == M64 else rng.getrandbits(32) << 32
        state.pin(index, value >> 1 | garbage if base == index else value | garbage)
    disp = target
    disp -= _value(draft, base) if base is not None else 0
    disp -= _value(draft, index) << scale if index is not None else 0
    disp &= mask
    sign = (mask + 1) >> 1
    disp = (disp ^ sign) - sign
    if not -(1 << 31) <= disp < 1 << 31:
        raise Reject("no displacement reaches")
    fits = -128 <= disp < 128 and base is not None
    return disp, 1 if fits and rng.random() < 0.8 else 4


def _modrm(draft: Draft, base: int | None, index: int | None, scale: int, disp: int, width: int) -> None:
    """The bytes of a memory operand."""
    if base is not None and base & 7 == 5 and width == 0:
        width = 1
    mod = {0: 0, 1: 1, 4: 2}[width] if base is not None else 0
    reg = (draft.reg & 7) << 3
    sib = b""
    if base is None or index is not None or base & 7 == 4 or draft.rng.random() < 0.1:
        low = 5 if base is None else base & 7
        sib = bytes([scale << 6 | (4 if index is None else index & 7) << 3 | low])
        rm = 4
    else:
        rm = base & 7
    draft.rex_b, draft.rex_x = (base or 0) >> 3, (index or 0) >> 3
    draft.modrm = bytes([mod << 6 | reg | rm]) + sib + disp.to_bytes(width, "little", signed=True)


def emit(draft: Draft) -> bytes:
    """The instruction's bytes: prefixes in random order, REX last, redundant ones sometimes."""
    row, rng = draft.row, draft.rng
    if row.vex:
        return _with_displacement(draft, _vex(draft))
    prefixes = [0x66] * draft.opsize + [0x67] * draft.address32 + [0xF0] * draft.lock
    prefixes += [draft.segment] if draft.segment else []
    if rng.random() < 0.04 and prefixes:
        prefixes.append(rng.choice(prefixes))
    if rng.random() < 0.04:
        prefixes.append(rng.choice((0x2E, 0x36, 0x3E, 0x26)))
    mandatory = row.prefix or draft.rep
    prefixes += [mandatory] if mandatory else []
    rng.shuffle(prefixes)
    rex = 0x40 | draft.wide << 3 | (draft.reg >> 3) << 2 | draft.rex_x << 1 | draft.rex_b if draft.rex else 0
    if not draft.rex and (draft.reg > 7 or draft.rex_b or draft.rex_x):
        raise Reject("needs REX")
    escape = {0: b"", 1: b"\x0f", 2: b"\x0f\x38", 3: b"\x0f\x3a"}[row.map]
    return _with_displacement(draft, bytes(prefixes) + (bytes([rex]) if rex else b"") + escape + bytes([draft.opcode]))


def _vex(draft: Draft) -> bytes:
    """Prefixes that a VEX prefix may follow, it and the opcode. Register bits are inverted."""
    row, rng = draft.row, draft.rng
    head = [0x67] * draft.address32 + ([draft.segment] if draft.segment else [])
    head += [rng.choice((0x2E, 0x36, 0x3E, 0x26))] * (rng.random() < 0.04)
    rng.shuffle(head)
    if head and rng.random() < 0.04:
        head.insert(0, rng.randrange(0x40, 0x50))  # a REX that does not stand last means nothing
    extended = (draft.reg >> 3) << 7 | draft.rex_x << 6 | draft.rex_b << 5
    pp = (None, 0x66, 0xF3, 0xF2).index(row.prefix)
    last = draft.wide << 7 | (draft.vvvv ^ 15) << 3 | pp
    return bytes((*head, 0xC4, (extended ^ 0xE0) | (row.map - VEX), last, draft.opcode))


def _with_displacement(draft: Draft, code: bytes) -> bytes:
    """The instruction: its ModRM with the displacement, known now that the length is, and the immediate."""
    modrm = draft.modrm
    if draft.rip_target is not None:
        end = draft.state.regs["rip"] + len(code) + len(modrm) + len(draft.imm)
        disp = draft.rip_target - end
        if draft.address32:
            disp = ((disp & 0xFFFF_FFFF) ^ (1 << 31)) - (1 << 31)
        if not -(1 << 31) <= disp < 1 << 31:
            raise Reject("rip-relative does not reach")
        modrm = modrm[:1] + disp.to_bytes(4, "little", signed=True)
    code += modrm + draft.imm
    if len(code) > 15:
        raise Reject("longer than 15 bytes")
    return code


def implicit(row: Row) -> set[int]:
    """Registers that the operand names alone imply."""
    names = {"AL": RAX, "AH": RAX, "rAX": RAX, "eAX": RAX, "CL": 1, "DX": 2, "rDX": 2}
    return {names[name] for name in row.operands if name in names} | ({RSP} if row.uop.op is Op.CALL else set())
