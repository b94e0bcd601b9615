"""Operands of the instructions that the model executes itself, and what they do beside registers and memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.model.decode import Insn
from tests.model.state import M64, State


@dataclass
class Effects:
    """What an instruction did beside its registers: for the boundary after it, and for whoever compares."""

    sti: bool = False  # interrupts were off and are on
    mov_ss: bool = False
    halt: bool = False
    iret: bool = False
    free: frozenset[int] = field(default_factory=frozenset)  # registers whose low half nobody can know
    single_step: bool | None = None  # whether it ends in one; None: as TF was at its start
    port: tuple[int, int] | None = None  # an I/O access: port, bytes


def put(state: State, number: int, size: int, value: int) -> None:
    """Write a register as instructions do: 32 bits clear the upper half, fewer leave the rest."""
    mask = (1 << 8 * size) - 1
    keep = 0 if size >= 4 else state.regs[number] & ~mask
    state.regs[number] = keep | value & mask


def address(state: State, insn: Insn, trailing: int = 0) -> tuple[int, bool]:
    """Linear address of the memory operand, and whether it is of the stack segment. `trailing`: bytes of immediates."""
    base, index, scale, disp, relative, length = insn.address_parts()
    total = disp
    if relative:
        total += state.rip + insn.at + length + trailing
    if base is not None:
        total += state.regs[base]
    if index is not None:
        total += state.regs[index] << scale
    total &= 0xFFFFFFFF if insn.has(0x67) else M64
    total += {0x64: state.fs_base, 0x65: state.gs_base}.get(insn.segment or 0, 0)
    return total & M64, insn.on_stack


def length(insn: Insn, immediate: int = 0, modrm: bool = True) -> int:
    """Bytes of an instruction, with a ModRM byte or without."""
    if not modrm:
        return insn.at + immediate
    return insn.at + (1 if insn.modrm >> 6 == 3 else insn.address_parts()[5]) + immediate


def in_memory(insn: Insn) -> bool:
    return insn.modrm >> 6 != 3


def read(state: State, insn: Insn, size: int) -> int:
    """The value of a register or memory operand."""
    if not in_memory(insn):
        return state.regs[insn.rm] & ((1 << 8 * size) - 1)
    where, stack = address(state, insn)
    return state.memory.load(where, size, stack=stack, user=state.cpl == 3)


def write(state: State, insn: Insn, size: int, value: int) -> None:
    if in_memory(insn):
        where, stack = address(state, insn)
        state.memory.store(where, size, value, stack=stack, user=state.cpl == 3)
    else:
        put(state, insn.rm, size, value)
