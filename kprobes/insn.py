"""What an instruction is, as far as displacing it goes: length, class of fix-up, RIP-relative operand, refusals.

The only file that knows Capstone. Capstone is asked for lengths, text and the layout of operands; what an instruction
*does* to ip, stack and flags comes from the tables here, by opcode byte, because Capstone's data on implicit operands
has holes. Branches with a 66 prefix are taken to have a 32-bit displacement, as Intel defines it in 64-bit mode.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

import capstone
from capstone import x86

from kprobes.ptregs import IF, MASK64, TF_IF

MAX_INSN_SIZE = 15
BREAKPOINT = 0xCC

_PREFIXES = frozenset((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65))
_STRING = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))
_BRANCH8 = frozenset((*range(0x70, 0x80), *range(0xE0, 0xE4), 0xEB))


class DecodeError(ValueError):
    """The bytes are no instruction of 64-bit mode."""


class Fixup(Enum):
    """What has to be put right after the copy was stepped (resume_execution, arch/x86/kernel/kprobes.c)."""

    MOVE_IP = auto()      # ip is relative to the slot: straight-line code and relative branches
    CALL = auto()         # call rel32: so is ip, and so is the return address on the stack
    CALL_ABSOLUTE = auto()  # call through a register or memory: ip is right, the return address is not
    ABSOLUTE = auto()     # ret, lret, iret, jmp through a register or memory: ip is right
    PUSHF = auto()        # ip is relative, and the pushed image has the TF and IF of the step


@dataclass(frozen=True, slots=True)
class Insn:
    """One decoded instruction.

    ``rip_disp`` is the offset of the four displacement bytes of a RIP-relative operand, None without one; ``eip`` tells
    that a 67 prefix cuts its address to 32 bits. ``pushed`` is the width in bytes of the word that the fix-up has to
    change on the stack. ``owns`` are the bits among TF and IF whose value after the instruction is its own result
    (``is_IF_modifier``). ``branch`` is the displacement of a relative branch. ``repeats`` marks REP string
    instructions, which trap after each iteration with ip still at their start.
    """

    addr: int
    data: bytes
    text: str
    fixup: Fixup
    pushed: int = 8
    owns: int = 0
    rip_disp: int | None = None
    eip: bool = False
    branch: int | None = None
    repeats: bool = False
    refusal: tuple[int, str] | None = None  #: (errno, reason) when the instruction must not be probed

    def may_end_at(self, offset: int) -> bool:
        """Whether a step of the copy can end ``offset`` bytes from the slot's start (any ip, for absolute branches)."""
        if self.fixup in (Fixup.ABSOLUTE, Fixup.CALL_ABSOLUTE) or offset == len(self.data):
            return True
        return (self.repeats and offset == 0) or (
            self.branch is not None and offset == len(self.data) + self.branch)


@dataclass(frozen=True, slots=True)
class Opcode:
    """The parts of an instruction in front of its operands: prefixes, the REX in force, and the opcode's offset."""

    prefixes: frozenset[int]
    rex: int
    offset: int

    @classmethod
    def parse(cls, data: bytes) -> Opcode:
        """Skip all legacy prefixes; a REX counts only directly before the opcode (SDM Vol. 2, section 2.2.1)."""
        prefixes: set[int] = set()
        rex = offset = 0
        while offset < len(data) and (data[offset] in _PREFIXES or data[offset] & 0xF0 == 0x40):
            if data[offset] in _PREFIXES:
                prefixes.add(data[offset])
                rex = 0
            else:
                rex = data[offset]
            offset += 1
        return cls(frozenset(prefixes), rex, offset)

    def width(self, default: int) -> int:
        """Return the operand size in bytes: 8 with REX.W, else 2 with a 66 prefix, else ``default``."""
        return 8 if self.rex & 8 else 2 if 0x66 in self.prefixes else default


def decode(data: bytes, addr: int) -> Insn:
    """Decode the instruction at the start of ``data``, 1 to 15 bytes that lie at ``addr``; raise ``DecodeError``."""
    raw = next(_disassembler(True).disasm(data[:MAX_INSN_SIZE], addr, 1), None)
    length = _undefined_length(data) or (raw.size if raw else 0)
    if not raw or not length:
        raise DecodeError(f"{data[:MAX_INSN_SIZE].hex(' ')} is not an instruction")
    data = data[:length]
    head = Opcode.parse(data)
    rest = data[head.offset:]
    fixup, pushed, owns = _classify(head, rest)
    return Insn(
        addr, data, f"{raw.mnemonic} {raw.op_str}".strip(), fixup, pushed, owns,
        rip_disp=_rip_displacement(raw, data), eip=0x67 in head.prefixes,
        branch=_branch(rest), repeats=bool(head.prefixes & {0xF2, 0xF3}) and rest[0] in _STRING,
        refusal=_refusal(head, rest),
    )


def walk(code: bytes, start: int) -> tuple[tuple[int, int, str], ...]:
    """Decode ``code`` linearly: ``(address, length, text)`` of each instruction, up to the first that is none."""
    found: list[tuple[int, int, str]] = []
    offset = 0
    while offset < len(code):
        before = offset
        for addr, size, mnemonic, operands in _disassembler(False).disasm_lite(code[offset:], start + offset):
            at = addr - start
            if mnemonic in ("ud0", "ud1"):
                size = _undefined_length(code[at:at + MAX_INSN_SIZE])
            found.append((addr, size, f"{mnemonic} {operands}".strip()))
            offset = at + size
            if mnemonic in ("ud0", "ud1"):
                break  # Capstone goes on behind its own, shorter length: start over
        if offset == before:
            break
    return tuple(found)


def never_falls_through(code: bytes) -> bool:
    """Whether control does not go on behind this instruction, so that padding may follow it."""
    head = Opcode.parse(code)
    rest = code[head.offset:]
    return (
        rest[0] in (0xC2, 0xC3, 0xCA, 0xCB, 0xCF, 0xE8, 0xE9, 0xEB, 0xF4, BREAKPOINT)  # call: of a noreturn function
        or (rest[0] == 0xFF and len(rest) > 1 and rest[1] >> 3 & 7 in (2, 3, 4, 5))
        or rest[:2] in (b"\x0f\x0b", b"\x0f\xb9", b"\x0f\xff", b"\x0f\x05", b"\x0f\x07", b"\x0f\x35")
    )


def jump_target(code: bytes, addr: int) -> int | None:
    """Return where the instruction at ``addr`` may jump to: jmp, jcc, loop, jrcxz, xbegin; None for any other, calls too."""
    rest = code[Opcode.parse(code).offset:]
    branch = None if rest[0] == 0xE8 else _branch(rest)
    return None if branch is None else (addr + len(code) + branch) & MASK64


def jumps_anywhere(code: bytes) -> bool:
    """Whether the instruction jumps through a register or memory: near (FF /4), far (FF /5, EA), or to what is on the
    stack by a far return (CA, CB, CF). The kernel forgets those; no compiler returns to a caller by one of them."""
    rest = code[Opcode.parse(code).offset:]
    return rest[0] in (0xCA, 0xCB, 0xCF, 0xEA) or (rest[0] == 0xFF and rest[1] >> 3 & 7 in (4, 5))


@lru_cache(maxsize=2)
def _disassembler(detail: bool) -> capstone.Cs:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = detail
    return engine


def _undefined_length(data: bytes) -> int:
    """Return the length of UD0 and UD1, or 0: they have a ModRM byte, which Capstone leaves out."""
    head = Opcode.parse(data)
    opcode = data[head.offset:head.offset + 2]
    if opcode not in (b"\x0f\xb9", b"\x0f\xff"):
        return 0
    twin = data[:head.offset] + b"\x0f\xaf" + data[head.offset + 2:]  # imul r, r/m: the same layout
    return next((size for _, size, _, _ in _disassembler(False).disasm_lite(twin, 0, 1)), head.offset + 2)


def _classify(head: Opcode, rest: bytes) -> tuple[Fixup, int, int]:
    """Return the fix-up, the width of the pushed word, and the flags among TF and IF that the instruction decides."""
    group = rest[1] >> 3 & 7 if len(rest) > 1 else 0
    match rest[0]:
        case 0xE8:
            return Fixup.CALL, 8, 0
        case 0xFF if group == 2:
            return Fixup.CALL_ABSOLUTE, 8, 0
        case 0xFF if group == 3:
            return Fixup.CALL_ABSOLUTE, head.width(4), 0
        case 0xFF if group in (4, 5):
            return Fixup.ABSOLUTE, 8, 0
        case 0xC2 | 0xC3 | 0xCA | 0xCB:
            return Fixup.ABSOLUTE, 8, 0
        case 0xCF:
            return Fixup.ABSOLUTE, 8, TF_IF
        case 0x9C:
            return Fixup.PUSHF, head.width(8), 0
        case 0x9D:
            return Fixup.MOVE_IP, 8, TF_IF
        case 0xFA | 0xFB:
            return Fixup.MOVE_IP, 8, IF
        case _:
            return Fixup.MOVE_IP, 8, 0


def _branch(rest: bytes) -> int | None:
    """Return the displacement of a relative branch, None for anything else."""
    if rest[0] in _BRANCH8:
        return int.from_bytes(rest[1:2], "little", signed=True)
    if rest[0] in (0xE8, 0xE9):
        return int.from_bytes(rest[1:5], "little", signed=True)
    if (rest[0] == 0x0F and rest[1] & 0xF0 == 0x80) or rest[:2] == b"\xc7\xf8":  # jcc rel32; xbegin
        return int.from_bytes(rest[2:6], "little", signed=True)
    return None


def _rip_displacement(raw: capstone.CsInsn, data: bytes) -> int | None:
    """Return the offset of the displacement of a RIP-relative operand.

    The size is always four bytes: Capstone reports two when there is a 66 prefix (capstone #1640, #1775, #2077, #2613).
    Its other answers are held against the bytes; a disagreement raises ``DecodeError`` rather than corrupt a copy.
    """
    bases = (x86.X86_REG_RIP, x86.X86_REG_EIP)
    operand = next((op for op in raw.operands if op.type == x86.X86_OP_MEM and op.mem.base in bases), None)
    at = raw.modrm_offset
    by_bytes = at > 0 and data[at] & 0xC7 == 0x05
    if operand is None:
        moves_control_register = data[at - 2:at] in (b"\x0f\x20", b"\x0f\x21", b"\x0f\x22", b"\x0f\x23")  # mod ignored
        if by_bytes and not moves_control_register:
            raise DecodeError(f"{data.hex(' ')} has a RIP-relative ModRM byte that the disassembler does not report")
        return None
    value = int.from_bytes(data[raw.disp_offset:raw.disp_offset + 4], "little", signed=True)
    if not by_bytes or raw.disp_offset != at + 1 or value != operand.mem.disp:
        raise DecodeError(f"the disassembler contradicts the bytes of {data.hex(' ')} about its RIP-relative operand")
    return raw.disp_offset


def _refusal(head: Opcode, rest: bytes) -> tuple[int, str] | None:
    """Return the errno and the reason when this instruction cannot be probed, None when it can."""
    second = rest[1] if len(rest) > 1 else -1
    match rest[0], second:
        case (0xCC | 0xCD | 0xCE | 0xF1), _:
            return errno.EILSEQ, "a software interrupt has its own trap handling"
        case 0x0F, (0x0B | 0xB9 | 0xFF):
            return errno.EILSEQ, "an undefined instruction is there to trap at its own address"
        case 0x8E, _ if second >> 3 & 7 == 2:
            return errno.EINVAL, "mov to ss holds back the single-step trap, so what follows the copy would run"
        case 0xF4, _:
            return errno.EOPNOTSUPP, "hlt would be stepped with interrupts off; probe the instruction after it"
        case 0x0F, (0x05 | 0x07 | 0x34 | 0x35 | 0xAA):
            return errno.EOPNOTSUPP, "control does not come back to the slot with the step trap; probe its target"
        case _:
            return None
