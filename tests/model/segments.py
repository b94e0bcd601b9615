"""Segment registers and selectors (SDM vol. 2, MOV, POP, LSS, VERR; vol. 3, 5)."""

from __future__ import annotations

from tests.model.decode import Insn
from tests.model.effects import Effects, address, in_memory, length, put, read, write
from tests.model.state import CS, FS, GS, M64, RSP, SS, ZF, Fault, State, gp, ud


def from_segment(state: State, insn: Insn) -> Effects:
    """MOV from a segment register."""
    if insn.modrm >> 3 & 7 > 5:
        raise ud()
    size = 2 if in_memory(insn) else insn.operand
    write(state, insn, size, state.selectors[insn.modrm >> 3 & 7])
    state.rip += length(insn)
    return Effects()


def check_segment(state: State, segment: int, selector: int) -> int | None:
    """The descriptor that a load of a segment register takes; None for a null selector."""
    error, cpl, rpl = selector & 0xFFFC, state.cpl, selector & 3
    if not error:
        if segment == SS and (cpl == 3 or rpl != cpl):
            raise gp()
        return None
    descriptor = state.descriptor(selector)
    if descriptor is None:
        raise gp(error)
    dpl, kind, present = descriptor >> 45 & 3, descriptor >> 40 & 0x1F, descriptor >> 47 & 1
    code = kind & 0x18 == 0x18
    if segment == SS:
        if rpl != cpl or dpl != cpl or kind & 0x1A != 0x12:
            raise gp(error)
        if not present:
            raise Fault(12, error)
        return descriptor
    if not kind & 0x10 or (code and not kind & 2):
        raise gp(error)
    if not (code and kind & 4) and (rpl > dpl or cpl > dpl):
        raise gp(error)
    if not present:
        raise Fault(11, error)
    return descriptor


def load_segment(state: State, segment: int, selector: int) -> None:
    """Load a segment register, with the base of FS and GS."""
    descriptor = check_segment(state, segment, selector)
    state.selectors[segment], state.cached[segment] = selector, descriptor
    if segment in (FS, GS) and not (descriptor is None and state.vendor == "amd"):  # AMD leaves the base to a null selector
        descriptor = descriptor or 0
        base = descriptor >> 16 & 0xFFFFFF | descriptor >> 32 & 0xFF000000
        if segment == FS:
            state.fs_base = base
        else:
            state.gs_base = base


def to_segment(state: State, insn: Insn) -> Effects:
    """MOV to a segment register."""
    segment = insn.modrm >> 3 & 7
    if segment > 5 or segment == CS:
        raise ud()
    load_segment(state, segment, read(state, insn, 2))
    state.rip += length(insn)
    return Effects(mov_ss=segment == SS)


def _named(insn: Insn) -> int:
    """FS or GS, of an opcode that names it."""
    return FS if insn.opcode < 0xA8 else GS


def push_segment(state: State, insn: Insn) -> Effects:
    """PUSH FS, PUSH GS."""
    size = insn.stack
    rsp = state.regs[RSP] - size & M64
    state.memory.store(rsp, size, state.selectors[_named(insn)], stack=True, user=state.cpl == 3)
    state.regs[RSP] = rsp
    state.rip += insn.at
    return Effects()


def pop_segment(state: State, insn: Insn) -> Effects:
    """POP FS, POP GS."""
    size = insn.stack
    value = state.memory.load(state.regs[RSP], size, stack=True, user=state.cpl == 3)
    load_segment(state, _named(insn), value & 0xFFFF)
    state.regs[RSP] = state.regs[RSP] + size & M64
    state.rip += insn.at
    return Effects()


def far_pointer(state: State, insn: Insn) -> Effects:
    """LSS, LFS, LGS: no shadow follows (trap semantics 3.6)."""
    if not in_memory(insn):
        raise ud()
    size, user = insn.operand, state.cpl == 3
    where, stack = address(state, insn)
    offset = state.memory.load(where, size, stack=stack, user=user)
    selector = state.memory.load(where + size & M64, 2, stack=stack, user=user)
    load_segment(state, {0xB2: SS, 0xB4: FS, 0xB5: GS}[insn.opcode], selector)
    put(state, insn.reg, size, offset)
    state.rip += length(insn)
    return Effects()


def verify(state: State, insn: Insn) -> Effects:
    """VERR, VERW: ZF says whether the segment could be read or written."""
    selector = read(state, insn, 2)
    descriptor = state.descriptor(selector) if selector & 0xFFFC else None
    good = False
    if descriptor is not None and descriptor >> 44 & 1:
        kind, dpl = descriptor >> 40 & 0xF, descriptor >> 45 & 3
        code, reach = kind & 8, dpl >= max(state.cpl, selector & 3)
        if insn.modrm & 8:  # verw
            good = not code and bool(kind & 2) and reach
        else:
            good = bool(not code or kind & 2) and (reach or kind & 0xC == 0xC)
    state.rflags = state.rflags & ~ZF | (ZF if good else 0)
    state.rip += length(insn)
    return Effects()
