"""Random instances of table rows: legal prefixes, REX, ModRM, SIB, displacement and immediate forms."""

from random import Random

from hw.isa.absent import ABSENT
from hw.isa.opcodes import TABLE
from hw.isa.reference import attributes, displacement_size, find, immediate_size, split, uses_vvvv
from hw.isa.rows import LOCK, MEM, NOREXB, REG, REXB, RM, VEX, Raise, Row

ESCAPE = {0: b"", 1: b"\x0f", 2: b"\x0f\x38", 3: b"\x0f\x3a"}


def siblings(row: Row) -> list[Row]:
    """The rows that share an opcode with this one."""
    return [other for other in (*TABLE, *ABSENT) if other.map == row.map and set(other.opcodes()) & set(row.opcodes())]


#: Prefixes that change no row: sizes and segments.
PLAIN = (0x66, 0x67, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)


def instance(rng: Random, row: Row, *, prefixes: tuple[int, ...] = PLAIN, dead_rex: bool = True) -> bytes:
    """Bytes that the reference finds this row for, never longer than 15."""
    taken = {other.prefix for other in siblings(row)} - {None, row.prefix}
    while True:
        legacy = [rng.choice(prefixes) for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3)))] if prefixes else []
        if row.prefix is not None:
            legacy.append(row.prefix)
        rng.shuffle(legacy)
        if row.vex:
            legacy = [byte for byte in legacy if byte not in (0x66, 0xF0, 0xF2, 0xF3)]
        head = bytes(byte for byte in legacy if byte not in taken)
        if dead_rex and head and rng.random() < 0.1:
            head = bytes((rng.randrange(0x40, 0x50),)) + head
        rex = _rex(rng, row)
        opcode = rng.choice(row.opcodes())
        tail = _modrm(rng, row) if row.modrm else b""
        w = bool(rex) and rex[0] >= 0x48
        size = immediate_size(row.immediate, 0x66 in head, w, 0x67 in head)
        start = _vex(rng, row) if row.vex else rex + ESCAPE[row.map]
        code = head + start + bytes((opcode,)) + tail + _immediate(rng, size)
        if is_instance(code, row):  # not longer than 15 bytes, and a register that exists
            return code


def _rex(rng: Random, row: Row) -> bytes:
    if REXB in row.ok:
        return bytes((rng.randrange(0x40, 0x50) | 1,))
    rex = rng.randrange(0x40, 0x50) & (0xFE if NOREXB in row.ok else 0xFF)
    return bytes((rex,)) if rng.random() < 0.6 else b""


def _vex(rng: Random, row: Row) -> bytes:
    """A VEX prefix; of two bytes where that is possible, half the time."""
    wide = row.raises is Raise.AVX
    vvvv = rng.choice((15, rng.randrange(16))) if wide or uses_vvvv(row) else 15
    pp = rng.randrange(4) if wide else (None, 0x66, 0xF3, 0xF2).index(row.prefix)
    last = vvvv << 3 | (rng.randrange(2) << 2 if wide else 0) | pp
    if row.map == VEX + 1 and rng.random() < 0.5:
        return bytes((0xC5, rng.randrange(2) << 7 | last))
    return bytes((0xC4, rng.randrange(8) << 5 | row.map - VEX, rng.randrange(2) << 7 | last))


def _modrm(rng: Random, row: Row) -> bytes:
    mod = rng.choice((3,) if REG in row.ok else (0, 1, 2) if MEM in row.ok else (0, 1, 2, 3))
    reg = rng.randrange(8) if row.reg is None else row.reg
    rm = next((n for n, mark in enumerate(RM) if mark in row.ok), rng.choice((*range(8), 4, 4, 5)))
    modrm, sib = mod << 6 | reg << 3 | rm, rng.choice((rng.randrange(256), rng.randrange(256) & ~7 | 5))
    has_sib = mod != 3 and rm == 4
    if attributes(row.map % VEX, row.opcode).registers:  # mod is ignored
        return bytes((modrm,))
    size = displacement_size(modrm, sib)
    return bytes((modrm, sib)[: 1 + has_sib]) + _immediate(rng, size)


def _immediate(rng: Random, size: int) -> bytes:
    return rng.choice((b"\x00" * size, b"\xff" * size, *(rng.randbytes(size) for _ in range(6))))


def near_miss(rng: Random, row: Row) -> bytes:
    """An instance with something changed: a prefix more, a byte altered, the end cut off."""
    code = bytearray(instance(rng, row))
    match rng.randrange(4):
        case 0:
            code.insert(0, rng.choice((0xF0, 0xF2, 0xF3, 0x66)))
        case 1:
            code[rng.randrange(len(code))] = rng.randrange(256)
        case 2:
            code[:0] = bytes(rng.choice((0x66, 0x2E, 0x48, 0xF3)) for _ in range(rng.randrange(15)))
        case 3:
            del code[rng.randrange(len(code)) :]
    return bytes(code)


def is_instance(code: bytes, row: Row) -> bool:
    """True if the reference finds this row for exactly these bytes."""
    parts = split(code)
    return parts is not None and parts.bytes == code and find(parts) is row


def can_lock(row: Row) -> bool:
    """True if LOCK is legal with a memory destination."""
    return LOCK in row.ok
