"""What is executed in software, because it cannot be stepped by an int3 behind its copy, and what cannot be executed at all.

Emulated are branches, and what reads or sets IF and TF: the kernel's ``prepare_emulation`` (arch/x86/kernel/kprobes/core.c,
since 5.13). Everything that an instruction says is read at registration; ``kprobes.emulators`` has what a hit runs.
"""

from __future__ import annotations

import errno

from kprobes.emulators import MAKERS, Emulator, Form
from kprobes.insn import MAX_INSN_SIZE, Insn, Opcode
from kprobes.ptregs import MASK64


def emulator(insn: Insn) -> Emulator | None:
    """Return what executes this instruction, None for one that is to be stepped (or refused, see ``refusal``)."""
    head = Opcode.parse(insn.data)
    opcode = insn.data[head.offset:]
    make = MAKERS.get(opcode[:2] if opcode[0] == 0x0F else opcode[:1])
    if make is None:
        return None
    following = (insn.addr + len(insn.data)) & MASK64
    return make(Form(insn, head, opcode, following, (following + (insn.branch or 0)) & MASK64))


def refusal(insn: Insn) -> tuple[int, str] | None:
    """Return errno and reason for what ``step="int3"`` cannot execute at all, None for everything else."""
    if emulator(insn) is not None:
        return None
    head = Opcode.parse(insn.data)
    opcode = insn.data[head.offset:]
    second = opcode[1] if len(opcode) > 1 else 0
    reason = _NOT_STEPPED.get((opcode[0], second >> 3 & 7)) if opcode[0] == 0xFF else None
    if opcode[0] == 0xCF:
        reason = "iret leaves for the address in its frame and does not reach an int3 behind its copy"
    elif opcode[0] == 0x0F and second == 0x01 and opcode[2] & 0xF8 == 0xC0:
        reason = "what calls a hypervisor may come back at an address that the copy does not have"
    elif opcode[:2] == b"\xc7\xf8":
        reason = "an aborted transaction goes on relative to the copy, and an int3 behind the copy aborts every one"
    if reason is not None:
        return errno.EOPNOTSUPP, f'{reason}; step="tf" can probe it' if opcode[0] in (0xFF, 0xCF) else reason
    if len(insn.data) >= MAX_INSN_SIZE:
        return errno.ENOSPC, 'it has 15 bytes, so its slot has no room for the int3 behind it; step="tf" can probe it'
    return None


#: Why a branch of the group FF is not stepped when it is not emulated, by its number in ModRM.
_NOT_STEPPED = {
    (0xFF, 2): "it calls through memory at fs or gs, whose bases are not among the registers of a trap",
    (0xFF, 3): "a far call loads CS and does not reach an int3 behind its copy",
    (0xFF, 4): "it jumps through memory at fs or gs, whose bases are not among the registers of a trap",
    (0xFF, 5): "a far jump loads CS and does not reach an int3 behind its copy",
}
