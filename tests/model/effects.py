"""What an instruction did beside its registers, and how it writes one."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.model.state import State


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
