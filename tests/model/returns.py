"""IRET and far RET in 64-bit mode: checks in their order, and what is loaded (manual, part 6)."""

from __future__ import annotations

from tests.model.decode import Insn
from tests.model.state import (
    AC,
    CS,
    DF,
    DS,
    ES,
    FS,
    GS,
    ID,
    IF,
    IOPL,
    M64,
    NT,
    RF,
    RSP,
    SS,
    STATUS,
    TF,
    VIF,
    VIP,
    Fault,
    State,
    canonical,
    gp,
)


def _code(state: State, selector: int) -> int:
    """Check 3: the code segment that is returned to; its descriptor."""
    error = selector & 0xFFFC
    if not error:
        raise gp()
    descriptor = state.descriptor(selector)
    if descriptor is None:
        raise gp(error)
    rpl, dpl = selector & 3, descriptor >> 45 & 3
    if descriptor >> 43 & 3 != 3:
        raise gp(error)
    if descriptor >> 53 & 3 != 1:
        raise gp(error)  # L and D both set; compatibility mode does not exist in this core
    if rpl < state.cpl:
        raise gp(error)
    if dpl > rpl if descriptor >> 42 & 1 else dpl != rpl:
        raise gp(error)
    if not descriptor >> 47 & 1:
        raise Fault(11, error)
    return descriptor


def _stack(state: State, selector: int, rpl: int) -> int | None:
    """Check 4: the stack segment; its descriptor, None for a null selector."""
    error = selector & 0xFFFC
    if not error:
        if rpl == 3 or selector & 3 != rpl:
            raise gp()
        return None
    descriptor = state.descriptor(selector)
    if descriptor is None or selector & 3 != rpl:
        raise gp(error)
    if descriptor >> 43 & 3 != 2 or not descriptor >> 41 & 1 or descriptor >> 45 & 3 != rpl:
        raise gp(error)
    if not descriptor >> 47 & 1:
        raise Fault(12, error)
    return descriptor


def _outward(state: State) -> None:
    """A return to an outer level leaves no data segment of an inner one."""
    for segment in (ES, DS, FS, GS):
        descriptor = state.cached[segment]
        if descriptor is None:
            continue
        conforming = descriptor >> 42 & 3 == 3
        if descriptor >> 45 & 3 < state.cpl and not conforming:
            state.selectors[segment], state.cached[segment] = 0, None


def iret(state: State, insn: Insn) -> None:
    """Execute IRET, IRETD or IRETQ; raise its fault with nothing changed."""
    if state.rflags & NT:
        raise gp()
    size = insn.operand
    rsp, user = state.regs[RSP], state.cpl == 3
    items = [state.memory.load(rsp + size * n & M64, size, stack=True, user=user) for n in range(5)]
    rip, cs, image, new_rsp, ss = items[0], items[1] & 0xFFFF, items[2], items[3], items[4] & 0xFFFF
    _code(state, cs)
    stack = _stack(state, ss, cs & 3)
    if not canonical(rip):
        raise gp()
    old = state.cpl
    loaded = STATUS | TF | DF | NT
    if size > 2:
        loaded |= RF | AC | ID
    if old <= state.iopl:
        loaded |= IF
    if old == 0:
        loaded |= IOPL | (VIF | VIP if size > 2 else 0)
    state.rflags = state.rflags & ~(loaded | RF) | image & loaded
    state.rip, state.regs[RSP] = rip, new_rsp
    state.selectors[CS], state.selectors[SS], state.cached[SS] = cs, ss, stack
    if state.cpl > old:
        _outward(state)


def lret(state: State, insn: Insn) -> None:
    """Execute a far RET, with or without bytes to release."""
    size = insn.operand
    extra = int.from_bytes(insn.data[insn.at : insn.at + 2], "little") if insn.opcode == 0xCA else 0
    rsp, user = state.regs[RSP], state.cpl == 3
    rip, cs = (state.memory.load(rsp + size * n & M64, size, stack=True, user=user) for n in range(2))
    cs &= 0xFFFF
    _code(state, cs)
    after = rsp + 2 * size + extra
    old = state.cpl
    if cs & 3 > old:
        new_rsp, ss = (state.memory.load(after + size * n & M64, size, stack=True, user=user) for n in range(2))
        stack = _stack(state, ss & 0xFFFF, cs & 3)
        after = new_rsp + extra
        if not canonical(rip):
            raise gp()
        state.selectors[SS], state.cached[SS] = ss & 0xFFFF, stack
    elif not canonical(rip):
        raise gp()
    state.rip, state.regs[RSP] = rip, after & M64
    state.selectors[CS] = cs
    if state.cpl > old:
        _outward(state)
