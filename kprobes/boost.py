"""Boosting: a copy that needs no step, because a jump behind it goes on at the next instruction.

Whether an instruction may is the kernel's ``can_boost`` (arch/x86/kernel/kprobes/core.c, as of 6.9), and its copy and the
jump have to fit into a slot. Where a copy ends in the slot cannot be told from registers after a fault or a debug trap,
so nothing that is expected to fault is boosted.
"""

from __future__ import annotations

from kprobes.insn import MAX_INSN_SIZE, Fixup, Insn, Opcode
from kprobes.ptregs import TF
from kprobes.slots import distance

JUMP = 0xE9
JUMP_SIZE = 5  #: ``jmp rel32``
MAX_BOOSTED = MAX_INSN_SIZE - JUMP_SIZE


def can_boost(insn: Insn, has_fixup: bool) -> bool:
    """Whether a copy of this instruction can run without a step; ``has_fixup``: the guest expects it to fault."""
    return why_not(insn, has_fixup) is None


def boosted(insn: Insn, slot: int, copy: bytes) -> bytes:
    """Return what to place at ``slot``: the displaced ``copy`` of the instruction, and a jump to the one behind it.

    Slots are within 2 GiB of what they hold (``kprobes.slots``), so the jump reaches.
    """
    target = insn.addr + len(insn.data)
    jump = distance(target, slot + len(copy) + JUMP_SIZE).to_bytes(4, "little", signed=True)
    return copy + bytes([JUMP]) + jump


def why_not(insn: Insn, has_fixup: bool) -> str | None:
    """Return in words why this instruction is not boosted, None when it can be."""
    reason = unfit(insn, has_fixup)
    if reason is None and len(insn.data) > MAX_BOOSTED:
        return f"it has {len(insn.data)} bytes, and the jump behind its copy leaves a slot room for {MAX_BOOSTED}"
    return reason


def unfit(insn: Insn, has_fixup: bool) -> str | None:
    """Return in words why a copy of this instruction cannot run without a step, however much room there is for it."""
    if has_fixup:
        return "the exception table has an entry for it, which a fault in the slot would not find"
    if insn.branch is not None:  # the kernel's table has all of them but xbegin
        return "it is a branch relative to where it lies, so its copy would go astray"
    if insn.owns & TF and insn.fixup is Fixup.MOVE_IP:  # popf, which the kernel forgets
        return "it may set TF, and a debugger that steps from there would see the jump back"
    head = Opcode.parse(insn.data)
    opcode = insn.data[head.offset:]
    if opcode[0] == 0x0F:
        if opcode[1] in (0x38, 0x3A):
            return "its opcode has three bytes, and the kernel's table does not cover those"
        if not _TWO_BYTE[opcode[1]]:
            return f"opcode 0f {opcode[1]:02x} is not in the kernel's table of instructions that may run without a step"
    else:
        if head.prefixes & _UNBOOSTED:
            return "it has an address-size or CS prefix, and the kernel boosts no one-byte opcode with one of those"
        may = _ONE_BYTE[opcode[0]]
        if isinstance(may, frozenset):
            number = opcode[1] >> 3 & 7
            if number not in may:
                return f"opcode {opcode[0]:02x} /{number} is not one that the kernel lets run without a step"
        elif not may:
            return f"opcode {opcode[0]:02x} is not in the kernel's table of instructions that may run without a step"
    return None


def _table(text: str) -> tuple[bool, ...]:
    rows = [line.split()[1:] for line in text.strip().splitlines()[1:]]
    return tuple(cell == "+" for row in rows for cell in row)


#: Opcodes 0f 00 to 0f ff: + may run without a step.
_TWO_BYTE = _table("""
      0 1 2 3 4 5 6 7 8 9 a b c d e f
  0   . . + + . . + . + + . . . . . .
  1   . . . . . . . . . . . . . . . +
  2   + + + + . . . . . . . . . . . .
  3   . + . . . . . . . . . . . . . .
  4   + + + + + + + + + + + + + + + +
  5   . . . . . . . . . . . . . . . .
  6   + + + + + + + + + + + + . . + +
  7   . . . . + + + + . . . . . . + +
  8   . . . . . . . . . . . . . . . .
  9   + + + + + + + + + + + + + + + +
  a   + + . + + + . . + + . + + + . +
  b   + + + + + + + + . . . + + + + +
  c   + + . . . . . . + + + + + + + +
  d   . + + + . + . . + + . + + + . +
  e   . + + . . + . . + + . + + + . +
  f   . + + + . + . . + + + . + + + .
""")

#: Opcodes 00 to ff: + may run without a step; those with a group in ModRM are below. Prefixes are never looked up.
_ONE_BYTE_PLAIN = _table("""
      0 1 2 3 4 5 6 7 8 9 a b c d e f
  0   + + + + + + + + + + + + + + + +
  1   + + + + + + + + + + + + + + + +
  2   + + + + + + + + + + + + + + + +
  3   + + + + + + + + + + + + + + + +
  4   + + + + + + + + + + + + + + + +
  5   + + + + + + + + + + + + + + + +
  6   + + . + + + + + + + + + + + + +
  7   . . . . . . . . . . . . . . . .
  8   + + + + + + + + + + + + + + + +
  9   + + + + + + + + + + . + + + + +
  a   + + + + + + + + + + + + + + + +
  b   + + + + + + + + + + + + + + + +
  c   + + + + + + + + + + + + . . . +
  d   + + + + + + . + . . . . . . . .
  e   . . . . + + + + . . + . + + + +
  f   . . . . . + + + + + + + + + + +
""")

#: The numbers in ModRM that may run without a step.
_GROUPS = {
    **dict.fromkeys((0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3), frozenset(range(8)) - {6}),
    **dict.fromkeys((0xF6, 0xF7), frozenset(range(8)) - {1}),
    0xFE: frozenset((0, 1)),
    0xFF: frozenset((0, 1, 4)),
}

_ONE_BYTE: tuple[bool | frozenset[int], ...] = tuple(
    _GROUPS.get(opcode, plain) for opcode, plain in enumerate(_ONE_BYTE_PLAIN))

_UNBOOSTED = frozenset((0x2E, 0x67))
