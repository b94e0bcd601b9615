"""The register or memory that a ModRM byte names, and its effective address.

Read from the bytes alone (Intel SDM Vol. 2, section 2.1.5, tables 2-2 and 2-3; 2.2.1 for REX), so that an instruction's
operand is known once, at registration, and its address costs a few additions on a hit.
"""

from __future__ import annotations

from dataclasses import dataclass

from kprobes.insn import Insn, Opcode
from kprobes.ptregs import MASK64, PtRegs

#: Fields of ``PtRegs`` by register number.
REGISTERS = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", *(f"r{n}" for n in range(8, 16)))

_FS_GS = frozenset((0x64, 0x65))


@dataclass(frozen=True, slots=True)
class Operand:
    """A register, or memory at ``base + index * scale + displacement``; every part may be missing.

    ``displacement`` of a RIP-relative operand already counts from address 0. ``mask`` cuts the sum to 32 bits under a 67
    prefix. ``segment`` tells that the base of fs or gs comes on top, which no pt_regs holds.
    """

    register: str | None = None
    base: str | None = None
    index: str | None = None
    scale: int = 1
    displacement: int = 0
    mask: int = MASK64
    segment: bool = False

    def address(self, regs: PtRegs) -> int:
        """Return the effective address with these registers, without a segment's base."""
        total = self.displacement
        if self.base is not None:
            total += getattr(regs, self.base)
        if self.index is not None:
            total += getattr(regs, self.index) * self.scale
        return total & self.mask


def operand(insn: Insn) -> Operand:
    """Return the r/m operand of an instruction whose one-byte opcode has a ModRM byte."""
    data, head = insn.data, Opcode.parse(insn.data)
    at = head.offset + 1
    mod, rm = data[at] >> 6, data[at] & 7
    if mod == 3:
        return Operand(register=REGISTERS[rm | (head.rex & 1) << 3])
    at += 1
    base: str | None = REGISTERS[rm | (head.rex & 1) << 3]
    index, scale = None, 1
    relative = 0
    if rm == 4:
        sib = data[at]
        at += 1
        number = sib >> 3 & 7 | (head.rex & 2) << 2
        index, scale = (REGISTERS[number], 1 << (sib >> 6)) if number != 4 else (None, 1)
        base = None if mod == 0 and sib & 7 == 5 else REGISTERS[sib & 7 | (head.rex & 1) << 3]
        size = 4 if base is None else (0, 1, 4)[mod]
    elif rm == 5 and mod == 0:
        base, size, relative = None, 4, insn.addr + len(data)
    else:
        size = (0, 1, 4)[mod]
    displacement = int.from_bytes(data[at:at + size], "little", signed=True) + relative
    mask = 0xFFFFFFFF if 0x67 in head.prefixes else MASK64
    return Operand(None, base, index, scale, displacement, mask, bool(head.prefixes & _FS_GS))
