"""Random programs: pieces of code, each an instruction or a few that belong together, laid one behind the other.

A program is a function of its seed. Pieces refer to each other by number, so that some can be left out when a failing
program is made smaller.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random

from hw.isa.opcodes import TABLE
from hw.isa.rows import Flow, Row
from tests.isa.instances import instance
from tests.model import layout
from tests.model.decode import VEX, decode, length, text
from tests.model.state import AC, DF, HIGH, ID, IF, IOPL, NT, RF, STATUS, TF
from tests.model.system import SYSTEM
from tests.silicon.state import interesting

#: Registers that usually point to data; without REX only the first four can be a base.
_POINTERS = (3, 5, 6, 7, 12, 13, 14, 15)
_INVALID = bytes.fromhex("06 07 0E 16 17 1E 1F 27 2F 37 3F 60 61 82 9A CE D4 D5 EA")
_MISSING = (0x1_0000_0000, 0x12_3456_7000, 0x0FFF_FFFF_F000, 0xFFFF_8800_0000_0000, 0x0000_7FFF_FFFF_F000)
_NONCANONICAL = (0x8000_0000_0000_0000, 0x0001_0000_0000_0000, 0x7FFF_8000_0000_0000)


@dataclass
class Fix:
    """Bytes of a piece that depend on where another piece lies: `width` bytes at `at`."""

    at: int
    width: int
    target: int
    addend: int = 0
    relative: bool = True
    high: bool = False  # the address in the alias


@dataclass
class Piece:
    """Code with the offsets of its instructions."""

    code: bytes
    starts: list[int]
    fixes: list[Fix] = field(default_factory=list)


@dataclass
class Program:
    """A memory image, initial registers, and what is injected when."""

    seed: str
    image: bytearray
    regs: dict[str, int]
    events: list[tuple[int, int | str]]
    pieces: list[Piece]
    kept: list[int]
    timing: int  # which of `rig.TIMINGS` the memory has

    def smaller(self, kept: list[int], events: list[tuple[int, int | str]], timing: int) -> Program:
        """The same program with these pieces and events only."""
        made = replace(self, image=bytearray(self.image), kept=kept, events=events, timing=timing)
        made.lay()
        return made

    def listing(self) -> list[tuple[int, str]]:
        """Address and text of every instruction."""
        code, lines = self.lay(), []
        starts = [at for at in range(len(code)) if self.image[layout.SKIP + at]]
        for at in starts:
            data = code[at : at + self.image[layout.SKIP + at]]
            _, name, operands = text(data.ljust(16, b"\0"), layout.CODE + at)
            lines.append((layout.CODE + at, f"{data.hex():<24} {name} {operands}".rstrip()))
        return lines

    def lay(self) -> bytes:
        """Put the kept pieces into the image."""
        at, where = layout.CODE, {}
        for number in self.kept:
            where[number] = at
            at += len(self.pieces[number].code)
        end = at
        code, skip = bytearray(), bytearray(layout.CODE_BYTES)
        for number in self.kept:
            piece, start = self.pieces[number], where[number]
            data = bytearray(piece.code)
            for fix in piece.fixes:
                target = next((where[n] for n in self.kept if n >= fix.target), end) + fix.addend
                if fix.high:
                    target += HIGH
                value = target - (start + fix.at + fix.width) if fix.relative else target
                data[fix.at : fix.at + fix.width] = (value & ((1 << 8 * fix.width) - 1)).to_bytes(fix.width, "little")
            for n, first in enumerate(piece.starts):
                last = piece.starts[n + 1] if n + 1 < len(piece.starts) else len(data)
                skip[start + first - layout.CODE] = last - first
            code += data
        code += bytes([0xCD, layout.EXIT_VECTOR, 0xEB, 0xFC])  # int; jmp back to it
        skip[end - layout.CODE] = 2
        self.image[layout.CODE : layout.CODE + layout.CODE_BYTES] = bytes(code).ljust(layout.CODE_BYTES, b"\0")
        self.image[layout.SKIP : layout.SKIP + layout.CODE_BYTES] = skip
        return bytes(code)


def piece(*codes: bytes, fixes: list[Fix] | None = None) -> Piece:
    """A piece of whole instructions."""
    starts, at = [], 0
    for code in codes:
        starts.append(at)
        at += len(code)
    return Piece(b"".join(codes), starts, fixes or [])


def _imm32(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


def _set(register: int, value: int) -> bytes:
    """mov register, value"""
    rex, opcode = 0x48 | register >> 3, 0xB8 | register & 7
    return bytes([rex, opcode]) + struct.pack("<Q", value & (1 << 64) - 1)


def pointer(rng: Random) -> int:
    """An address of data: anywhere, at a page's edge, at the end of RAM, in the alias."""
    address = layout.DATA + 0x400 + rng.randrange(layout.DATA_BYTES - 0x800)
    kind = rng.random()
    if kind < 0.3:
        address &= ~7
    elif kind < 0.5:
        address = (address | 0xFFF) + 1 - rng.randrange(1, 9)
    elif kind < 0.53:
        address = (16 << 20) - rng.randrange(1, 20)
    elif kind < 0.55:
        address = rng.choice((*_MISSING, *_NONCANONICAL)) + rng.randrange(64)
    return address + HIGH if address < 1 << 24 and rng.random() < 0.15 else address


def flags(rng: Random) -> int:
    """An image for popf and iret."""
    value = rng.getrandbits(12) & (STATUS | DF if rng.random() < 0.3 else STATUS) | 2
    for bit, chance in ((TF, 0.3), (IF, 0.7), (NT, 0.04), (AC, 0.1), (ID, 0.1), (RF, 0.2), (IOPL, 0.3)):
        if rng.random() < chance:
            value |= bit & rng.choice((bit, rng.getrandbits(64)))
    return value


@cache
def _rows() -> tuple[tuple[Row, ...], tuple[float, ...]]:
    """Rows that need no setup of their own, each mnemonic with the same weight."""
    left = {(0, 0xC2), (0, 0xC3), (0, 0xC9), (0, 0xE3), (0, 0x9B), *((0, n) for n in range(0xA4, 0xB0) if n not in (0xA8, 0xA9))}
    rows = [
        row
        for row in TABLE
        if (row.map, row.opcode) not in SYSTEM and (row.map, row.opcode) not in left and row.uop.flow is Flow.NEXT
        and not (row.map == 0 and row.opcode == 0xFF and row.reg in (2, 3, 4, 5))
    ]  # fmt: skip
    names = [row.mnemonic for row in rows]
    return tuple(rows), tuple(1 / names.count(name) for name in names)


def _steer(rng: Random, code: bytes, immediates: int) -> bytes:
    """The instruction with its memory operand based on a pointer."""
    insn = decode(code.ljust(16, b"\0"))
    rest = code[insn.at + insn.address_parts()[5] :] if immediates else b""
    head = bytearray(code[: insn.at])
    base = rng.choice(_POINTERS if insn.rex and insn.map < VEX else _POINTERS[:4])
    if insn.map >= VEX:
        if head[insn.head] == 0xC4:
            head[insn.head + 1] |= 0x60
    elif insn.rex:
        at = len(insn.prefixes)
        head[at] = head[at] & ~3 | base >> 3
    reg = insn.modrm & 0x38
    disp = rng.randrange(-128, 128)
    sib = b"\x24" if base & 7 == 4 else b""
    if rng.random() < 0.7:
        tail = bytes([0x40 | reg | base & 7]) + sib + struct.pack("<b", disp)
    else:
        tail = bytes([0x80 | reg | base & 7]) + sib + struct.pack("<i", disp)
    return bytes(head) + tail + rest


def _plain(rng: Random) -> bytes:
    """An instance of a row of the table, its memory operand mostly on data, rarely spoiling the stack pointer."""
    rows, weights = _rows()
    while True:
        row = rng.choices(rows, weights)[0]
        code = instance(rng, row, prefixes=(0x66, 0x67, 0x2E, 0x3E, 0x64, 0x65))
        insn = decode(code.ljust(16, b"\0"))
        if row.modrm and insn.modrm >> 6 != 3 and rng.random() < 0.93:
            code = _steer(rng, code, row.immediate is not None)
            insn = decode(code.ljust(16, b"\0"))
        touches = {insn.reg, insn.rm} if row.modrm and insn.modrm >> 6 == 3 else {insn.reg} if row.modrm else {insn.opcode & 7}
        if row.modrm and insn.modrm & 0xC7 == 5 and -32 < insn.address_parts()[3] < 32:
            continue  # an instruction that stores into itself is more than the model can tell
        if insn.opcode == 0x90 and insn.has(0xF3) and insn.rex & 1:
            continue  # PAUSE on processors of Intel, XCHG on AMD's
        if 4 in touches and rng.random() < 0.9:
            continue
        if len(code) <= 15 and length(code.ljust(16, b"\0")) == len(code):
            return code


# --- kinds of pieces: (rng, number of this piece, number of pieces) -> Piece


def _p_plain(rng: Random, me: int, all: int) -> Piece:
    return piece(_plain(rng))


def _p_pointer(rng: Random, me: int, all: int) -> Piece:
    return piece(_set(rng.choice(_POINTERS), pointer(rng)))


def _p_value(rng: Random, me: int, all: int) -> Piece:
    return piece(_set(rng.choice((0, 1, 2, 8, 9, 10, 11)), interesting(rng)))


def _p_stack(rng: Random, me: int, all: int) -> Piece:
    kind = rng.randrange(6)
    low = rng.choice((0, 1, 2, 3, 5, 6, 7))
    if kind == 0:
        return piece(_set(4, layout.STACK + rng.choice((0, 0, 8, -8, 3))))
    if kind == 1:
        return piece(bytes([0x50 | low]), bytes([0x58 | rng.choice((0, 1, 2))]))
    if kind == 2:
        return piece(b"\x68" + rng.randbytes(4))
    if kind == 3:
        return piece(b"\x9c", b"\x58")  # pushf; pop rax
    if kind == 4:
        return piece(b"\xff\x33", b"\x8f\x03")  # push [rbx]; pop [rbx]
    enter = b"\xc8\x10\x00\x00" if rng.random() < 0.3 and any(row.mnemonic == "enter" for row in TABLE) else b"\x55"
    return piece(enter, b"\x48\x89\xe5", b"\xc9")


def _forward(rng: Random, me: int, all: int) -> int:
    return me + rng.randrange(1, 6)


def _p_branch(rng: Random, me: int, all: int) -> Piece:
    to = _forward(rng, me, all)
    match rng.randrange(8):
        case 0:
            return piece(bytes([0x0F, 0x80 | rng.randrange(16)]) + bytes(4), fixes=[Fix(2, 4, to)])
        case 1:
            return piece(b"\xe9" + bytes(4), fixes=[Fix(1, 4, to)])
        case 2:
            return piece(b"\xe8" + bytes(4), fixes=[Fix(1, 4, to)])
        case 3:  # push target; ret
            release = rng.choice((b"\xc3", b"\xc2\x08\x00"))
            return piece(b"\x68" + bytes(4), release, fixes=[Fix(1, 4, to, relative=False)])
        case 4:  # mov eax, target; jmp or call rax
            return piece(b"\xb8" + bytes(4), rng.choice((b"\xff\xe0", b"\xff\xd0")), fixes=[Fix(1, 4, to, relative=False)])
        case 5:  # the same in the alias: sign-extended
            return piece(
                b"\x48\xc7\xc0" + bytes(4), rng.choice((b"\xff\xe0", b"\xff\xd0")), fixes=[Fix(3, 4, to, 0, False, True)]
            )
        case 6:  # mov dword [data], target; jmp or call [data]
            where = struct.pack("<I", layout.COUNTS + 0x900)
            zero = b"\xc7\x04\x25" + struct.pack("<I", layout.COUNTS + 0x904) + bytes(4)
            go = rng.choice((b"\xff\x24\x25", b"\xff\x14\x25")) + where
            return piece(zero, b"\xc7\x04\x25" + where + bytes(4), go, fixes=[Fix(len(zero) + 7, 4, to, relative=False)])
        case _:  # pushes 8; target; far return
            return piece(b"\x6a\x08", b"\x68" + bytes(4), b"\x48\xcb", fixes=[Fix(3, 4, to, relative=False)])


def _p_loop(rng: Random, me: int, all: int) -> Piece:
    """A counter in memory that is set when it is 0, counted down, and jumps back until it is 0 again."""
    where = struct.pack("<I", layout.COUNTS + 0xA00 + 4 * me)
    back = max(0, me - rng.randrange(1, 6))
    start = b"\x83\x3c\x25" + where + b"\x00"  # cmp dword [counter], 0
    init = b"\xc7\x04\x25" + where + _imm32(rng.randrange(2, 5))
    skip = b"\x75" + bytes([len(init)])
    down = b"\xff\x0c\x25" + where
    jump = b"\x0f\x85" + bytes(4)
    at = len(start) + len(skip) + len(init) + len(down) + 2
    return piece(start, skip, init, down, jump, fixes=[Fix(at, 4, back)])


def _p_string(rng: Random, me: int, all: int) -> Piece:
    codes = [_set(6, pointer(rng)), _set(7, pointer(rng)), b"\xb9" + _imm32(rng.choice((0, 1, 2, 3, 5, 9)))]
    rng.shuffle(codes)
    if rng.random() < 0.2:
        codes.append(rng.choice((b"\xfc", b"\xfd")))
    prefix = rng.choice((b"", b"\xf3", b"\xf3", b"\xf2")) + rng.choice((b"", b"", b"\x48", b"\x67"))
    if prefix[-1:] == b"\x48":
        prefix = prefix if rng.random() < 0.8 else b"\x66" + prefix
    return piece(*codes, prefix + bytes([rng.choice((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF))]))


def _p_trap(rng: Random, me: int, all: int) -> Piece:
    kind = rng.random()
    if kind < 0.35:
        return piece(b"\xcc")
    if kind < 0.7:
        return piece(bytes([0xCD, rng.choice((3, 1, 0x20, 0x21, 0x22, rng.randrange(256)))]))
    if kind < 0.8:
        return piece(b"\xf1")
    if kind < 0.9:
        return piece(b"\x0f\x0b")
    return piece(bytes([rng.choice(_INVALID)]))


def _p_popf(rng: Random, me: int, all: int) -> Piece:
    return piece(b"\x68" + _imm32(flags(rng)), b"\x66\x9d\x48\x83\xc4\x06" if rng.random() < 0.05 else b"\x9d")


def _p_interrupt_flag(rng: Random, me: int, all: int) -> Piece:
    return piece(*rng.choice(((b"\xfb",), (b"\xfa",), (b"\xfb", b"\xfa"), (b"\xfb", b"\xf4"), (b"\xfb",))))


def _p_segment(rng: Random, me: int, all: int) -> Piece:
    selector = rng.choice((16, 16, 16, 16, 0, 0x3B, 0x10, 0x48, 0x50, 8, 0x1F8, 4, rng.getrandbits(16)))
    if rng.random() < 0.25:  # verr, verw, push and pop
        codes = [b"\x0f\x00\xe0", b"\x0f\x00\xe8"]
        if any((row.map, row.opcode) == (1, 0xA0) for row in TABLE):
            codes += [b"\x0f\xa0", b"\x66\x0f\xa8", b"\x0f\xa1", b"\x0f\xa9"]
        return piece(b"\xb8" + _imm32(selector), b"\x50", rng.choice(codes))
    if rng.random() < 0.1:
        where = _imm32(layout.COUNTS + 0x800)
        store = b"\xc7\x04\x25" + _imm32(layout.COUNTS + 0x804) + _imm32(selector)
        return piece(store, b"\x0f" + rng.choice((b"\xb2", b"\xb4", b"\xb5")) + b"\x04\x25" + where)
    register = rng.choice((2, 2, 2, 3, 0, 4, 5))
    load = bytes([0x8E, 0xC0 | register << 3])
    extra = (load,) if rng.random() < 0.15 else ()
    return piece(b"\xb8" + _imm32(selector), load, *extra)


def _p_self_modifying(rng: Random, me: int, all: int) -> Piece:
    """Stores into the immediate of an instruction a few bytes further on."""
    fillers = [rng.choice((b"\x90", b"\xff\xc0", b"\x0f\x1f\x00")) for _ in range(rng.randrange(4))]
    between = sum(map(len, fillers))
    changed = b"\xba" + rng.randbytes(4)  # mov edx, imm32
    store = b"\xc6\x04\x25" + bytes(4) + rng.randbytes(1)
    high = rng.random() < 0.3
    fix = Fix(3, 4, me, len(store) + between + rng.randrange(1, 5), False, high)
    return piece(store, *fillers, changed, fixes=[fix])


def _p_iret(rng: Random, me: int, all: int) -> Piece:
    head = [b"\x48\x89\xe0", b"\x6a\x10", b"\x50", b"\x68" + _imm32(flags(rng)), b"\x6a\x08"]
    if rng.random() < 0.15:  # to CPL 3
        head[1], head[4] = bytes([0x6A, layout.DATA3 | 3]), bytes([0x6A, layout.CODE3 | 3])
    elif rng.random() < 0.1:
        head[rng.choice((1, 4))] = b"\x68" + _imm32(rng.choice((0, 0x28, 0x30, 0x3B, 0x48, 0x50, 0x1F8, 11)))
    at = sum(map(len, head)) + 1
    return piece(*head, b"\x68" + bytes(4), b"\x48\xcf", fixes=[Fix(at, 4, _forward(rng, me, all), relative=False)])


def _p_wild(rng: Random, me: int, all: int) -> Piece:
    bad = rng.choice((*_NONCANONICAL, *_MISSING)) + rng.randrange(0xF00)
    match rng.randrange(5):
        case 0:
            return piece(_set(0, rng.choice(_NONCANONICAL)), rng.choice((b"\xff\xe0", b"\xff\xd0")))
        case 1:
            return piece(_set(3, bad), rng.choice((b"\x48\x8b\x03", b"\x48\x01\x03", b"\x88\x03", b"\xff\x33", b"\x8f\x03")))
        case 2:
            return piece(_set(5, bad), rng.choice((b"\x48\x8b\x45\x00", b"\x48\x89\x45\x00")))
        case 3:
            return piece(b"\x66" * rng.randrange(10, 16) + rng.choice((b"\x90", b"\x01\xc0", b"\x89\xd8")))
        case _:
            return piece(b"\xf0" + rng.choice((b"\x90", b"\x01\xc0", b"\x8b\x03", b"\x00\x03", b"\xcc", b"\xff\xc0")))


def _p_debug(rng: Random, me: int, all: int) -> Piece:
    """A breakpoint on code or data; now and then general detect."""
    number = rng.randrange(4)
    kind, size = rng.choice(((0, 0), (0, 0), (1, rng.randrange(4)), (3, rng.randrange(4)), (1, 0), (2, 0)))
    fixes = []
    if kind == 0:
        address, fixes = 0, [Fix(2, 4, _forward(rng, me, all), rng.choice((0, 0, 0, 1)), False)]
    elif kind == 2:
        address = rng.choice((0xE9, 0x40, 0x3FD))
    else:
        address = rng.choice((pointer(rng), layout.STACK - rng.randrange(64), layout.COUNTS + rng.randrange(0x100)))
    control = 3 << 2 * number | (kind | size << 2) << 16 + 4 * number | 0x400 | (rng.random() < 0.1) << 13
    if rng.random() < 0.2:
        control |= 1 << 2 * rng.randrange(4)
    load = b"\x0f\x23" + bytes([0xC0 | number << 3])
    last = b"\x0f\x23\xf8" if rng.random() < 0.9 else rng.choice((b"\x0f\x23\xe8", b"\x0f\x21\xe0", b"\x44\x0f\x23\xc0"))
    return piece(_set(0, address), load, b"\xb8" + _imm32(control), last, fixes=fixes)


def _p_msr(rng: Random, me: int, all: int) -> Piece:
    """MSRs, and the way into the kernel and out of it."""
    match rng.randrange(7):
        case 0:
            number = rng.choice((*range(0xC0000080, 0xC0000085), *range(0xC0000100, 0xC0000104), 0x12345))
            return piece(b"\xb9" + _imm32(number), b"\x0f\x32")
        case 1:  # EFER.SCE
            return piece(b"\xb9" + _imm32(0xC0000080), b"\xb8" + _imm32(0x501), b"\x31\xd2", b"\x0f\x30")
        case 2:
            codes = b"\xb9" + _imm32(0xC0000081), b"\xba" + _imm32(layout.STAR >> 32), b"\x31\xc0", b"\x0f\x30"
            return piece(*codes)
        case 3:  # LSTAR
            codes = b"\xb9" + _imm32(0xC0000082), b"\x31\xd2", b"\xb8" + bytes(4), b"\x0f\x30"
            return piece(*codes, fixes=[Fix(8, 4, _forward(rng, me, all), relative=False)])
        case 4:  # FMASK, or a base
            number = rng.choice((0xC0000084, 0xC0000084, 0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103))
            low = rng.choice((0, TF, IF | TF, flags(rng), rng.getrandbits(32)) if number == 0xC0000084 else (0, 0x40, 0x100))
            high = rng.choice((0, 0, 0, 1 << 20))
            return piece(b"\xb9" + _imm32(number), b"\xb8" + _imm32(low), b"\xba" + _imm32(high), b"\x0f\x30")
        case 5:
            return piece(b"\x0f\x05")
        case _:
            codes = b"\xb9" + bytes(4), b"\x41\xbb" + _imm32(flags(rng)), b"\x48\x0f\x07"
            return piece(*codes, fixes=[Fix(1, 4, _forward(rng, me, all), relative=False)])


def _p_control(rng: Random, me: int, all: int) -> Piece:
    """Control registers: what only tells which instructions are allowed, and values that are refused."""
    if rng.random() < 0.5:
        value = 0x80050033 ^ rng.choice((0, 2, 4, 8, 8, 1 << 16, 1 << 18, 1 << 29, 1 << 31, 1))
        return piece(b"\xb8" + _imm32(value), b"\x0f\x22\xc0")
    value = 0x20 ^ rng.choice((0, 4, 8, 0x800, 0x10000, 0x10800, 0x80, 0x20, 0x200, 1 << 13))
    return piece(b"\xb8" + _imm32(value), b"\x0f\x22\xe0")


def _p_system(rng: Random, me: int, all: int) -> Piece:
    return piece(
        rng.choice((
            b"\x0f\x21\xf0", b"\x0f\x21\xfa", b"\x0f\x20\xd0", b"\x0f\x20\xc0", b"\x0f\x20\xe1", b"\x44\x0f\x20\xc0",
            b"\x0f\x22\xd0", b"\x0f\x00\xc8", b"\x0f\x01\x03", b"\x0f\x01\x0b", b"\x0f\x31", b"\x0f\xa2", b"\x8c\xd8",
            b"\x8c\xd0", b"\x8c\xc8", b"\x66\x8c\xd1", b"\x8c\x1b", b"\xe4\x40", b"\xe5\xe9", b"\xec", b"\xe6\xe9",
            b"\x66\xe7\xe9", b"\x0f\x01\x3b", b"\x0f\x01\xf8", b"\x0f\x09", b"\x0f\x00\xd9", b"\xf4", b"\x0f\xae\xf0",
            b"\x0f\x06", b"\x0f\x01\xca", b"\x0f\x01\xcb", b"\x0f\x01\xe0", b"\x0f\x01\x23", b"\x0f\x00\xc0", b"\xd9\xe8", b"\x9b",
            b"\xf3\x48\x0f\xae\xc0", b"\xf3\x0f\xae\xc8", b"\xf3\x48\x0f\xae\xd3", b"\xf3\x0f\xae\xd8",
        ))
    )  # fmt: skip


#: Kinds with their weights.
KINDS: dict[Callable[[Random, int, int], Piece], float] = {
    _p_plain: 10, _p_pointer: 3, _p_value: 2, _p_stack: 2, _p_branch: 3, _p_loop: 1, _p_string: 1.5, _p_trap: 1, _p_popf: 0.8,
    _p_interrupt_flag: 1.2, _p_segment: 0.6, _p_self_modifying: 0.6, _p_iret: 0.6, _p_wild: 0.5, _p_system: 0.7,
    _p_debug: 0.8, _p_msr: 1, _p_control: 0.4,
}  # fmt: skip


def program(seed: str) -> Program:
    """The program of this seed."""
    rng = Random(seed)
    image = layout.tables(rng)
    count = rng.randrange(8, 70)
    weights = [weight * rng.choice((0.3, 1, 1, 3)) for weight in KINDS.values()]
    kinds = rng.choices(list(KINDS), weights, k=count)
    pieces = [kind(rng, number, count) for number, kind in enumerate(kinds)]
    user = rng.random() < 0.25
    regs = {f"r{n}": interesting(rng) for n in range(8, 16)}
    regs |= {name: interesting(rng) for name in ("rax", "rcx", "rdx")}
    regs |= {name: pointer(rng) for name in ("rbx", "rbp", "rsi", "rdi", "r12", "r13", "r14", "r15")}
    regs |= {
        "rsp": layout.STACK, "rip": layout.CODE, "rflags": flags(rng) & ~(RF | NT) & (~IOPL if user and rng.random() < 0.6 else -1),
        "cs": layout.CODE3 | 3 if user else layout.CODE64, "ss": layout.DATA3 | 3 if user else layout.DATA64,
        "fs_base": rng.choice((0, 0, 0x40)), "gs_base": rng.choice((0, 0, 0x100)), "kernel_gs_base": rng.choice((0, 0x200)),
        "idt_base": layout.IDT, "idt_limit": 0xFFF, "gdt_base": layout.GDT, "gdt_limit": layout.GDT_LIMIT,
        "tr": layout.TR, "tr_base": layout.TSS, "tr_limit": layout.TSS_LIMIT,
        "cr4": rng.choice((0x20, 0x20, 0x28)), "efer": rng.choice((0x500, 0x501, 0x501)), "star": layout.STAR,
        "lstar": layout.ENTRY, "fmask": rng.choice((0, TF | IF, TF, 0xFFFFFFFF)),
    }  # fmt: skip
    events: list[tuple[int, int | str]] = []
    gap = rng.choice((0, 0, 30, 100, 400))
    cycle = 0
    while gap and len(events) < 60:
        cycle += rng.randrange(1, 2 * gap)
        events.append((cycle, "nmi" if rng.random() < 0.25 else rng.choice((0x20, 0x21, 0x2E, rng.randrange(16, 256)))))
    made = Program(seed, image, regs, events, pieces, list(range(count)), rng.randrange(8))
    made.lay()
    return made
