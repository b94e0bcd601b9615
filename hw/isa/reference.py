"""The table as a decoder, in plain Python: what the length stage and the decode stage are tested against.

`split` takes an instruction's bytes apart (it gives them no meaning), `lookup` finds their row, `absent` that of an instruction
which the core does not have. The rules that are not
in the table are here: which prefixes count, where an instruction ends, which row a mandatory prefix selects (SDM
vol. 2, chapter 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from hw.isa.absent import ABSENT, EVEX
from hw.isa.facts import Seg
from hw.isa.opcodes import TABLE
from hw.isa.rows import LOCK, MEM, NO66, NOREP, NOREXB, REG, REXB, RM, VEX, Raise, Row, TableError, check

#: No instruction is longer; one that would be is a general-protection fault.
MAX_LENGTH = 15

#: Legacy prefixes. ES, CS, SS and DS overrides mean nothing in 64-bit mode.
LEGACY = frozenset((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65))

#: Second bytes of the escapes to maps 2 and 3.
ESCAPES = {0x38: 2, 0x3A: 3}


class Attributes(NamedTuple):
    """What it takes to find the end of an instruction: a function of map and opcode alone."""

    defined: bool = False
    modrm: bool = False
    immediate: str = ""  # class, as `Row.immediate`
    low_regs: bool = False  # the immediate is there only if ModRM.reg is 0 or 1
    unsigned: bool = False  # the immediate is zero-extended
    registers: bool = False  # ModRM.mod is ignored: no SIB, no displacement (mov with control and debug registers)


@dataclass(frozen=True)
class Parts:
    """An instruction's bytes taken apart. Absent ModRM, SIB, displacement and immediate are 0."""

    bytes: bytes
    map: int = 0  # as `Row.map`
    opcode: int = 0
    opsize: bool = False
    asize: bool = False
    lock: bool = False
    rep: int = 0  # 0, 2 for F2, 3 for F3: the last of them
    seg: int = 0  # 0, 1 for FS, 2 for GS: the last of them
    has_rex: bool = False
    rex: int = 0
    vvvv: int = 0  # the register of VEX.vvvv
    long: bool = False  # VEX.L, or EVEX
    refused: bool = False  # prefixes, or a map, that VEX and EVEX do not have
    has_modrm: bool = False
    modrm: int = 0
    sib: int = 0
    disp: int = 0  # signed
    imm: int = 0  # 64 bits, extended
    imm_size: int = 0  # bytes encoded
    too_long: bool = False  # a general-protection fault; nothing but `bytes` (the first 15) is valid

    @property
    def length(self) -> int:
        """Bytes from the first prefix to the end."""
        return len(self.bytes)

    @property
    def mod(self) -> int:
        """ModRM.mod."""
        return self.modrm >> 6

    @property
    def reg(self) -> int:
        """ModRM.reg, without REX.R."""
        return self.modrm >> 3 & 7

    @property
    def rm(self) -> int:
        """ModRM.rm, without REX.B."""
        return self.modrm & 7


def _index(table: Sequence[Row]) -> dict[tuple[int, int], list[Row]]:
    rows: dict[tuple[int, int], list[Row]] = {}
    for row in table:
        for opcode in row.opcodes():
            rows.setdefault((row.map, opcode), []).append(row)
    return rows


_ROWS = _index(TABLE)
_ABSENT = _index(ABSENT)
_LEFT_OUT = frozenset(map(id, ABSENT))
check((*TABLE, *ABSENT))

#: Undefined opcodes of a map: the first two end there, the others have a ModRM byte, and those of map 3 an immediate byte.
_UNDEFINED = (Attributes(), Attributes(), Attributes(modrm=True), Attributes(modrm=True, immediate="b"))


@cache
def attributes(map_: int, opcode: int) -> Attributes:
    """Attributes of an opcode in map 0 to 3. With VEX or EVEX, an opcode of the same map has the same."""
    keys = ((map_, opcode), (map_ + VEX, opcode)) if map_ else ((map_, opcode),)
    rows = [row for index in (_ROWS, _ABSENT) for key in keys for row in index.get(key, ())]
    return derive(rows) if rows else _UNDEFINED[map_]


def derive(rows: Sequence[Row]) -> Attributes:
    """Attributes of an opcode that has these rows; `TableError` if they differ in what the length stage needs."""
    if not rows:
        return Attributes()
    where = "; ".join(map(str, rows))
    classes = {row.immediate for row in rows}
    unsigned = {not row.signed_immediate or row.immediate == "a" for row in rows if row.immediate}
    registers = {(row.e_operand or "")[:1] == "R" and REG not in row.ok for row in rows}
    if len({row.modrm for row in rows}) > 1 or len(unsigned) > 1 or len(registers) > 1:
        raise TableError(f"rows disagree on ModRM or on the extension of the immediate: {where}")
    common = Attributes(True, rows[0].modrm, unsigned=True in unsigned, registers=True in registers)
    if len(classes) == 1:
        return common._replace(immediate=classes.pop())
    present = {row.reg for row in rows if row.immediate}
    if present != {0, 1} or len(classes) > 2:
        raise TableError(f"an immediate that depends on ModRM.reg must be there for /0 and /1 alone: {where}")
    return common._replace(immediate=max(classes), low_regs=True)


def immediate_size(kind: str, opsize: bool, rex_w: bool, asize: bool) -> int:
    """Bytes of an immediate of a class (`Row.immediate`) under prefixes; REX.W wins over 66."""
    half = opsize and not rex_w
    fixed = {"": 0, "b": 1, "w": 2, "wb": 3, "d": 4}
    sizes = fixed | {"z": 2 if half else 4, "v": 8 if rex_w else 2 if half else 4, "a": 4 if asize else 8}
    return sizes[kind]


def displacement_size(modrm: int, sib: int) -> int:
    """Bytes of displacement that ModRM and SIB ask for."""
    mod, rm = modrm >> 6, modrm & 7
    if mod == 0:
        return 4 if rm == 5 or (rm == 4 and sib & 7 == 5) else 0
    return (0, 1, 4, 0)[mod]


def split(data: bytes) -> Parts | None:
    """Takes the instruction at the start of `data` apart; None if it takes more bytes to know."""
    data = bytes(data)
    try:
        parts = _split(data)
    except IndexError:
        parts = None
    if parts is not None and parts.length <= MAX_LENGTH:
        return parts
    return Parts(data[:MAX_LENGTH], too_long=True) if len(data) >= MAX_LENGTH else None


def _split(data: bytes) -> Parts:
    """As `split` without the length limit; IndexError where the bytes end."""
    at = 0
    while data[at] in LEGACY or data[at] >> 4 == 4:
        at += 1
    legacy = [byte for byte in data[:at] if byte in LEGACY]
    has_rex = at > 0 and data[at - 1] >> 4 == 4  # an earlier one is ignored
    rex = data[at - 1] & 15 if has_rex else 0
    opsize, asize = 0x66 in legacy, 0x67 in legacy
    half, wide = opsize, rex >= 8  # what decides the size of an immediate: never a VEX prefix
    prefix = _vector_prefix(data, at)
    map_ = lengths = 0
    refused = False
    if prefix:
        refused = not prefix.known or has_rex or bool({0x66, 0xF0, 0xF2, 0xF3} & set(legacy))
        map_, lengths, at, has_rex, rex = prefix.map, prefix.lengths, at + prefix.size, False, prefix.rex
        legacy = [byte for byte in legacy if byte not in (0x66, 0xF2, 0xF3)] + [(0x2E, 0x66, 0xF3, 0xF2)[prefix.pp]]
        opsize = prefix.pp == 1
    elif data[at] == 0x0F:
        map_ = lengths = ESCAPES.get(data[at + 1], 1)
        at += 1 if map_ == 1 else 2
    opcode = data[at]
    at += 1
    what = attributes(lengths, opcode)
    modrm = sib = disp = 0
    if what.modrm:
        modrm = data[at]
        at += 1
        if modrm >> 6 != 3 and modrm & 7 == 4 and not what.registers:
            sib = data[at]
            at += 1
        size = 0 if what.registers else displacement_size(modrm, sib)
        disp = _take(data, at, size, signed=True)
        at += size
    size = 0
    if not what.low_regs or modrm >> 3 & 7 < 2:
        size = immediate_size(what.immediate, half, wide, asize)
    imm = _take(data, at, size, signed=not what.unsigned and size != 3)
    return Parts(
        data[: at + size],
        map_,
        opcode,
        opsize,
        asize,
        0xF0 in legacy,
        next((byte - 0xF0 for byte in reversed(legacy) if byte in (0xF2, 0xF3)), 0),
        next((byte - 0x63 for byte in reversed(legacy) if byte in (0x64, 0x65)), 0),
        has_rex,
        rex,
        prefix.vvvv if prefix else 0,
        prefix.long if prefix else False,
        refused,
        what.modrm,
        modrm,
        sib,
        disp,
        imm & (1 << 64) - 1,
        size,
    )


class _Vector(NamedTuple):
    """A VEX or EVEX prefix: bytes, `Row.map` of the opcode, the map whose lengths it has, whether that exists, and fields."""

    size: int
    map: int
    lengths: int
    known: bool
    rex: int
    vvvv: int
    long: bool
    pp: int


def _vector_prefix(data: bytes, at: int) -> _Vector | None:
    """The VEX (C4, C5) or EVEX (62) prefix there, if any (SDM vol. 2, 2.3.5 and 2.7.1). Register bits are inverted."""
    match data[at]:
        case 0xC5:
            last = data[at + 1]
            return _Vector(2, VEX + 1, 1, True, ~last >> 5 & 4, ~last >> 3 & 15, bool(last & 4), last & 3)
        case 0xC4:
            first, last = data[at + 1], data[at + 2]
            map_, known, rex = first & 3, first & 31 in (1, 2, 3), (~first >> 5 & 7) | last >> 4 & 8
            return _Vector(3, VEX + map_, map_, known, rex, ~last >> 3 & 15, bool(last & 4), last & 3)
        case 0x62:
            first, last = data[at + 1], data[at + 2]
            known, rex = first & 7 in (1, 2, 3, 5, 6), (~first >> 5 & 7) | last >> 4 & 8
            return _Vector(4, EVEX, first & 3, known, rex, ~last >> 3 & 15, True, last & 3)
    return None


def _take(data: bytes, at: int, size: int, signed: bool) -> int:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size], "little", signed=signed)


def lookup(parts: Parts) -> Row | None:
    """The row of an instruction, or None: an invalid opcode, or a LOCK prefix where there may be none."""
    row = find(parts)
    return None if id(row) in _LEFT_OUT else row


def absent(parts: Parts) -> Raise | None:
    """How an instruction that the core does not have is refused (`hw.isa.absent`); None for one that nobody has."""
    if parts.map == EVEX:
        return None if parts.refused or parts.lock else Raise.AVX
    row = find(parts)
    return row.raises if row is not None and id(row) in _LEFT_OUT else None


def find(parts: Parts) -> Row | None:
    """The row of an instruction, in the table or among those that the core does not have; None if there is no such."""
    if parts.too_long or parts.refused:
        return None
    rows = [row for index in (_ROWS, _ABSENT) for row in index.get((parts.map, parts.opcode), ()) if _fits(row, parts)]
    # A mandatory prefix goes before; the last of F2 and F3 is the one that counts, and 66 only without either.
    wanted = parts.rep | 0xF0 if parts.rep else 0x66 if parts.opsize else None
    plain = [row for row in rows if row.prefix is None and (not row.vex or wanted is None or row.raises is Raise.AVX)]
    rows = [row for row in rows if row.prefix == wanted] or plain
    if not rows:
        return None
    (row,) = rows
    memory = parts.has_modrm and parts.mod != 3
    if parts.lock and not (LOCK in row.ok and memory):
        return None
    return row


def uses_vvvv(row: Row) -> bool:
    """True if VEX.vvvv names a register of the instruction; if not, it must be 1111."""
    return any(operand[0] == "B" for operand in row.operands)


_SEGMENTS = frozenset(Seg)
_CONTROL = frozenset((0, 2, 3, 4, 8))


def _fits(row: Row, parts: Parts) -> bool:
    marks = {
        REG: parts.mod == 3,
        MEM: parts.mod != 3,
        REXB: bool(parts.rex & 1),
        NOREXB: not parts.rex & 1,
        NO66: not parts.opsize,
        NOREP: not parts.rep,
        **{mark: parts.rm == n for n, mark in enumerate(RM)},
    }
    if row.reg not in (None, parts.reg) or not all(marks.get(mark, True) for mark in row.ok):
        return False
    if row.raises is not Raise.AVX and (parts.long or (parts.vvvv and not uses_vvvv(row))):
        return False
    field = parts.reg | (parts.rex & 4) << 1
    if "Sw" in row.operands:  # REX.R is ignored; nothing moves to CS
        return parts.reg in _SEGMENTS and not (row.operands[0] == "Sw" and parts.reg == Seg.CS)
    return ("Cq" not in row.operands or field in _CONTROL) and ("Dq" not in row.operands or field < 8)
