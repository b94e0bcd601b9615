"""System instructions, and plain ones that touch system flags: privilege, checks in the manual's order, effects.

An instruction raises its `Fault` before it changes anything but memory, which the caller takes back.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.model.decode import Insn
from tests.model.delivery import ICEBP, SOFT
from tests.model.effects import Effects, address, in_memory, length, put, read, write
from tests.model.msr import access_flag, base_register, clts, no_umip, rdmsr, syscall, sysret, to_control, wrmsr
from tests.model.returns import iret, lret
from tests.model.segments import far_pointer, from_segment, pop_segment, push_segment, to_segment, verify
from tests.model.state import (
    AC,
    DF,
    ID,
    IF,
    IOPL,
    M64,
    NT,
    RAX,
    RCX,
    RDX,
    RF,
    RSP,
    STATUS,
    TF,
    VM,
    Fault,
    State,
    Unmodelled,
    canonical,
    gp,
    ud,
)

RBX = 3


class Interrupt(Exception):
    """A software interrupt: vector and class; the instruction ends at rip + length."""

    def __init__(self, vector: int, kind: int, length: int):
        super().__init__(vector)
        self.vector, self.kind, self.length = vector, kind, length


class GeneralDetect(Exception):
    """MOV of a debug register while DR7.GD is set."""


def _cpl0(state: State) -> None:
    if state.cpl:
        raise gp()


def _iopl(state: State) -> None:
    if state.cpl > state.iopl:
        raise gp()


# --- flags


def _pushf(state: State, insn: Insn) -> Effects:
    size = insn.stack
    rsp = state.regs[RSP] - size & M64
    state.memory.store(rsp, size, state.rflags & ~(RF | VM), stack=True, user=state.cpl == 3)
    state.regs[RSP] = rsp
    state.rip += insn.at
    return Effects()


def _popf(state: State, insn: Insn) -> Effects:
    size = insn.stack
    image = state.memory.load(state.regs[RSP], size, stack=True, user=state.cpl == 3)
    loaded = STATUS | TF | DF | NT
    if size == 8:
        loaded |= AC | ID
    if state.cpl <= state.iopl:
        loaded |= IF
    if state.cpl == 0:
        loaded |= IOPL
    state.rflags = state.rflags & ~(loaded | RF) | image & loaded
    state.regs[RSP] = state.regs[RSP] + size & M64
    state.rip += insn.at
    return Effects()


def _cli(state: State, insn: Insn) -> Effects:
    _iopl(state)
    state.rflags &= ~IF
    state.rip += insn.at
    return Effects()


def _sti(state: State, insn: Insn) -> Effects:
    _iopl(state)
    was = state.rflags & IF
    state.rflags |= IF
    state.rip += insn.at
    return Effects(sti=not was)


def _hlt(state: State, insn: Insn) -> Effects:
    _cpl0(state)
    state.rip += insn.at
    return Effects(halt=True)


# --- software interrupts and returns


def _int3(state: State, insn: Insn) -> Effects:
    raise Interrupt(3, SOFT, insn.at)


def _int(state: State, insn: Insn) -> Effects:
    raise Interrupt(insn.data[insn.at], SOFT, insn.at + 1)


def _int1(state: State, insn: Insn) -> Effects:
    raise Interrupt(1, ICEBP, insn.at)


def _iret(state: State, insn: Insn) -> Effects:
    iret(state, insn)
    return Effects(iret=True)


def _lret(state: State, insn: Insn) -> Effects:
    lret(state, insn)
    return Effects()


# --- ports

_CONSOLE, _STATUS_PORT = 0xE9, 0x3FD


def _in(state: State, insn: Insn) -> Effects:
    _iopl(state)
    port = insn.data[insn.at] if insn.opcode < 0xE8 else state.regs[RDX] & 0xFFFF
    size = 1 if not insn.opcode & 1 else 2 if insn.has(0x66) else 4
    put(state, RAX, size, {_CONSOLE: 0xE9, _STATUS_PORT: 0x60}.get(port, 0xFFFFFFFF))
    state.rip += insn.at + (insn.opcode < 0xE8)
    return Effects(port=(port, size))


def _out(state: State, insn: Insn) -> Effects:
    _iopl(state)
    port = insn.data[insn.at] if insn.opcode < 0xE8 else state.regs[RDX] & 0xFFFF
    size = 1 if not insn.opcode & 1 else 2 if insn.has(0x66) else 4
    state.rip += insn.at + (insn.opcode < 0xE8)
    return Effects(port=(port, size))


# --- tables


def _store_table(state: State, insn: Insn, table: tuple[int, int]) -> Effects:
    where, stack = address(state, insn)
    state.memory.store(where, 2, table[1], stack=stack, user=state.cpl == 3)
    state.memory.store(where + 2 & M64, 8, table[0], stack=stack, user=state.cpl == 3)
    state.rip += length(insn)
    return Effects()


def _load_table(state: State, insn: Insn) -> tuple[int, int]:
    _cpl0(state)
    where, stack = address(state, insn)
    limit = state.memory.load(where, 2, stack=stack)
    base = state.memory.load(where + 2 & M64, 8, stack=stack)
    if not canonical(base):
        raise gp()
    state.rip += length(insn)
    return base, limit


def _group7(state: State, insn: Insn) -> Effects:
    which = insn.modrm >> 3 & 7
    if which == 4:
        no_umip(state)
        write(state, insn, 2 if in_memory(insn) else insn.operand, state.cr0)
        state.rip += length(insn)
        return Effects()
    if insn.modrm in (0xCA, 0xCB):
        return access_flag(state, insn)
    if in_memory(insn):
        if which in (0, 1):
            no_umip(state)
            return _store_table(state, insn, state.gdt if which == 0 else state.idt)
        if which == 2:
            state.gdt = _load_table(state, insn)
            return Effects()
        if which == 3:
            state.idt = _load_table(state, insn)
            return Effects()
        if which == 7:
            _cpl0(state)
            state.rip += length(insn)
            return Effects()
    elif insn.modrm == 0xF8:
        _cpl0(state)
        state.gs_base, state.kernel_gs_base = state.kernel_gs_base, state.gs_base
        state.rip += length(insn)
        return Effects()
    raise Unmodelled(insn.data.hex())


def _group6(state: State, insn: Insn) -> Effects:
    which = insn.modrm >> 3 & 7
    if which < 2:
        no_umip(state)
        write(state, insn, 2 if in_memory(insn) else insn.operand, state.tr if which else state.ldtr)
    elif which == 3:
        _cpl0(state)
        selector = read(state, insn, 2)
        error = selector & 0xFFFC
        if not error:
            raise gp()
        descriptor = state.descriptor(selector, 16)
        if descriptor is None or descriptor >> 40 & 0x1F != 9:
            raise gp(error)
        if not descriptor >> 47 & 1:
            raise Fault(11, error)
        base = descriptor >> 16 & 0xFFFFFF | descriptor >> 32 & 0xFF000000 | (descriptor >> 64 & 0xFFFFFFFF) << 32
        limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF0000
        limit = limit << 12 | 0xFFF if descriptor >> 55 & 1 else limit
        state.memory.store(state.gdt[0] + error & M64, 8, descriptor & M64 | 1 << 41)
        state.tr, state.tss = selector, (base, limit)
    elif which in (4, 5):
        return verify(state, insn)
    else:
        raise Unmodelled(insn.data.hex())
    state.rip += length(insn)
    return Effects()


# --- control and debug registers


def _from_control(state: State, insn: Insn) -> Effects:
    values = {0: state.cr0, 2: state.cr2, 3: state.cr3, 4: state.cr4, 8: state.cr8}
    if insn.reg not in values:
        raise ud()
    _cpl0(state)
    state.regs[insn.rm] = values[insn.reg]
    state.rip += insn.at + 1
    return Effects()


def _debug_number(state: State, insn: Insn) -> int:
    """Checks of MOV DR, and the register after the aliases of DR4 and DR5."""
    number = insn.reg
    if number > 7 or (number in (4, 5) and state.cr4 & 8):
        raise ud()
    _cpl0(state)
    if state.dr[7] & 1 << 13:
        raise GeneralDetect
    return number + 2 if number in (4, 5) else number


def _from_debug(state: State, insn: Insn) -> Effects:
    state.regs[insn.rm] = state.dr[_debug_number(state, insn)]
    state.rip += insn.at + 1
    return Effects()


def _to_debug(state: State, insn: Insn) -> Effects:
    number, value = _debug_number(state, insn), state.regs[insn.rm]
    if number >= 6 and value >> 32:
        raise gp()
    if number == 6:
        value = value & 0xE00F | 0xFFFF0FF0
    elif number == 7:
        value = value & 0xFFFF23FF | 0x400
    state.dr[number] = value
    state.rip += insn.at + 1
    return Effects()


# --- the rest


def _cpuid(state: State, insn: Insn) -> Effects:
    state.rip += insn.at
    return Effects(free=frozenset((RAX, RBX, RCX, RDX)))


def _rdtsc(state: State, insn: Insn) -> Effects:
    if state.cr4 & 4 and state.cpl:
        raise gp()
    state.rip += insn.at
    return Effects(free=frozenset((RAX, RDX)))


def _wbinvd(state: State, insn: Insn) -> Effects:
    _cpl0(state)
    state.rip += insn.at
    return Effects()


def _lahf(state: State, insn: Insn) -> Effects:
    state.regs[RAX] = state.regs[RAX] & ~0xFF00 | (state.rflags & 0xD5 | 2) << 8
    state.rip += insn.at
    return Effects()


def _sahf(state: State, insn: Insn) -> Effects:
    state.rflags = state.rflags & ~0xD5 | state.regs[RAX] >> 8 & 0xD5
    state.rip += insn.at
    return Effects()


def _fence(state: State, insn: Insn) -> Effects:
    """LFENCE, MFENCE, SFENCE; what else is in this group the model does not know."""
    if insn.modrm >= 0xC0 and insn.has(0xF3) and not insn.has(0xF2) and insn.modrm & 0x38 < 0x20:
        return base_register(state, insn)
    if insn.modrm < 0xC0 or insn.modrm & 0x38 < 0x28:
        raise Unmodelled(insn.data.hex())
    if any(map(insn.has, (0x66, 0xF2, 0xF3))):
        raise ud()
    state.rip += insn.at + 1
    return Effects()


#: Opcodes of map 1 that MMX and SSE have.
_VECTOR = (*range(0x10, 0x18), *range(0x28, 0x30), *range(0x50, 0x80), 0xC2, 0xC4, 0xC5, 0xC6, *range(0xD0, 0xFF))


def _float(state: State, insn: Insn) -> Effects:
    """x87: there is none, and CR0 may ask for it to be announced."""
    raise Fault(7) if state.cr0 & 0xC else ud()


def _wait(state: State, insn: Insn) -> Effects:
    if state.cr0 & 0xA == 0xA:
        raise Fault(7)
    state.rip += insn.at
    return Effects()


def _undefined(state: State, insn: Insn) -> Effects:
    raise ud()


def _unmodelled(state: State, insn: Insn) -> Effects:
    raise Unmodelled(insn.data.hex())


SYSTEM: dict[tuple[int, int], Callable[[State, Insn], Effects]] = {
    (0, 0x8C): from_segment,
    (0, 0x8E): to_segment,
    (0, 0x9C): _pushf,
    (0, 0x9D): _popf,
    (0, 0x9E): _sahf,
    (0, 0x9F): _lahf,
    (0, 0xCA): _lret,
    (0, 0xCB): _lret,
    (0, 0xCC): _int3,
    (0, 0xCD): _int,
    (0, 0xCF): _iret,
    **{(0, opcode): _in for opcode in (0xE4, 0xE5, 0xEC, 0xED)},
    **{(0, opcode): _out for opcode in (0xE6, 0xE7, 0xEE, 0xEF)},
    (0, 0xF1): _int1,
    (0, 0xF4): _hlt,
    (0, 0xFA): _cli,
    (0, 0xFB): _sti,
    (1, 0x00): _group6,
    (1, 0x01): _group7,
    (1, 0x09): _wbinvd,
    **{(1, opcode): _undefined for opcode in (0x0B, 0xB9, 0xFF, *_VECTOR)},
    (1, 0x20): _from_control,
    (1, 0x21): _from_debug,
    (1, 0x22): to_control,
    (1, 0x05): syscall,
    (1, 0x06): clts,
    (1, 0x07): sysret,
    (1, 0x30): wrmsr,
    (1, 0x32): rdmsr,
    (1, 0x23): _to_debug,
    (1, 0x31): _rdtsc,
    (1, 0xA2): _cpuid,
    (1, 0xAE): _fence,
    **{(0, opcode): _unmodelled for opcode in (0x6C, 0x6D, 0x6E, 0x6F)},
    **{(0, opcode): _float for opcode in range(0xD8, 0xE0)},
    (0, 0x9B): _wait,
    **{(1, opcode): _unmodelled for opcode in (0x02, 0x03, 0x08, 0x33, 0x34, 0x35)},
    **{(1, opcode): _unmodelled for opcode in (0xAA,)},
    (1, 0xA0): push_segment,
    (1, 0xA8): push_segment,
    (1, 0xA1): pop_segment,
    (1, 0xA9): pop_segment,
    **{(1, opcode): far_pointer for opcode in (0xB2, 0xB4, 0xB5)},
}
