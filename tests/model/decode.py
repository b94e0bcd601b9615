"""Where the parts of an instruction are: prefixes, opcode, ModRM. Enough to know system instructions, and why an access faults."""

from __future__ import annotations

from dataclasses import dataclass

from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from tests.model.state import RBP, RSP

_CAPSTONE = Cs(CS_ARCH_X86, CS_MODE_64)
#: Added to the map of an opcode behind a VEX prefix.
VEX = 16
_LEGACY = {0x66, 0x67, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0xF0, 0xF2, 0xF3}

#: Opcodes of map 0 and 1 whose memory operand is written; with a set, only for these ModRM.reg.
_WRITES: tuple[dict[int, frozenset[int] | None], ...] = (
    {
        **{8 * n + k: None for n in range(7) for k in (0, 1)},
        **dict.fromkeys((0x80, 0x81, 0x83), frozenset(range(7))),
        **dict.fromkeys((0x86, 0x87, 0x88, 0x89, 0x8C, 0x8F, 0xA2, 0xA3), None),
        **dict.fromkeys((0xC0, 0xC1, 0xC6, 0xC7, 0xD0, 0xD1, 0xD2, 0xD3), None),
        **dict.fromkeys((0xF6, 0xF7), frozenset((2, 3))),
        **dict.fromkeys((0xFE, 0xFF), frozenset((0, 1))),
    },
    {
        **dict.fromkeys(range(0x90, 0xA0), None),
        **dict.fromkeys((0xA4, 0xA5, 0xAB, 0xAC, 0xAD, 0xB3, 0xBB, 0xB0, 0xB1, 0xC0, 0xC1, 0xC3), None),
        0xBA: frozenset((5, 6, 7)),
        0xC7: frozenset((1,)),
    },
)

#: Of these, what LOCK may stand before.
_LOCKABLE = (
    frozenset((*(8 * n + k for n in range(7) for k in (0, 1)), 0x80, 0x81, 0x83, 0x86, 0x87, 0xF6, 0xF7, 0xFE, 0xFF)),
    frozenset((0xAB, 0xB3, 0xBB, 0xBA, 0xB0, 0xB1, 0xC0, 0xC1, 0xC7)),
)


@dataclass
class Insn:
    """An instruction's parts. `at`: bytes before what follows the opcode; `head`: bytes before the opcode and its escapes."""

    data: bytes
    prefixes: bytes
    rex: int
    map: int
    opcode: int
    at: int
    head: int

    def has(self, prefix: int) -> bool:
        """Whether a legacy prefix is there."""
        return prefix in self.prefixes

    @property
    def operand(self) -> int:
        """Operand size by prefixes alone."""
        return 8 if self.rex & 8 else 2 if self.has(0x66) else 4

    @property
    def wide(self) -> bool:
        """REX.W or VEX.W."""
        return bool(self.rex & 8)

    @property
    def stack(self) -> int:
        """Operand size of an instruction whose default is 64 bits."""
        return 2 if self.has(0x66) and not self.rex & 8 else 8

    @property
    def modrm(self) -> int:
        """The ModRM byte, if there is one."""
        return self.data[self.at]

    @property
    def reg(self) -> int:
        """ModRM.reg with REX.R."""
        return self.modrm >> 3 & 7 | (self.rex & 4) << 1

    @property
    def rm(self) -> int:
        """ModRM.rm with REX.B."""
        return self.modrm & 7 | (self.rex & 1) << 3

    @property
    def segment(self) -> int | None:
        """The last segment prefix that means something."""
        return next((p for p in reversed(self.prefixes) if p in (0x64, 0x65)), None)

    def address_parts(self) -> tuple[int | None, int | None, int, int, bool, int]:
        """Base, index, scale, displacement, rip-relative, and the length from ModRM to the displacement."""
        mod, rm = self.modrm >> 6, self.modrm & 7
        at = self.at + 1
        base: int | None = self.rm
        index: int | None = None
        scale = 0
        if rm == 4:
            sib = self.data[at]
            at += 1
            scale, index, base = sib >> 6, sib >> 3 & 7 | (self.rex & 2) << 2, sib & 7 | (self.rex & 1) << 3
            index = None if index == 4 else index
            if sib & 7 == 5 and mod == 0:
                base = None
        relative = rm == 5 and mod == 0
        base = None if relative else base
        width = {0: 4 if base is None else 0, 1: 1, 2: 4}[mod]
        disp = int.from_bytes(self.data[at : at + width], "little", signed=True)
        return base, index, scale, disp, relative, at + width - self.at

    @property
    def on_stack(self) -> bool:
        """Whether the memory operand is of the stack segment by its base register (#SS instead of #GP)."""
        return self.segment is None and self.address_parts()[0] in (RSP, RBP)

    @property
    def lockable(self) -> bool:
        """Whether LOCK is legal: a read-modify-write of memory, of those that the manual lists."""
        if self.map > 1 or self.opcode not in _LOCKABLE[self.map] or self.modrm >> 6 == 3:
            return False
        return self.writes

    @property
    def writes(self) -> bool:
        """Whether the memory operand is written (its fault says so even if it is read first)."""
        if self.map > 1 or self.opcode not in _WRITES[self.map]:
            return False
        only = _WRITES[self.map][self.opcode]
        return only is None or self.modrm >> 3 & 7 in only


def decode(data: bytes) -> Insn:
    """Split the bytes at an instruction pointer (padded to at least 16)."""
    at, rex, legacy = 0, 0, bytearray()
    while at < 15:
        if data[at] in _LEGACY:
            legacy.append(data[at])
            rex = 0  # one that is not right before the opcode means nothing
        elif data[at] & 0xF0 == 0x40:
            rex = data[at]
        else:
            break
        at += 1
    prefixes, head = bytes(legacy), at
    opcode, map = data[at], 0
    at += 1
    if opcode in (0xC4, 0xC5):  # its register bits are inverted
        first, rex = data[at], ~data[at] >> 5 & 4
        map = VEX + 1
        if opcode == 0xC4:
            map, rex = VEX + (first & 31), ~first >> 5 & 7 | data[at + 1] >> 4 & 8
            at += 1
        opcode = data[at + 1]
        at += 2
    elif opcode == 0x0F:
        opcode, map = data[at], 1
        at += 1
        if opcode in (0x38, 0x3A):
            map = 2 if opcode == 0x38 else 3
            opcode = data[at]
            at += 1
    return Insn(data, prefixes, rex, map, opcode, at, head)


def text(data: bytes, address: int = 0) -> tuple[int, str, str]:
    """Length, mnemonic and operands as a disassembler sees them; (1, "(bad)", "") for what is no instruction."""
    found = next(_CAPSTONE.disasm_lite(data, address, 1), None)
    return (1, "(bad)", "") if found is None else found[1:]


def length(data: bytes) -> int:
    """Bytes of the instruction."""
    return text(data)[0]
