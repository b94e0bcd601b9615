"""MSRs, SYSCALL and SYSRET, and writes of control registers (SDM vol. 3, 2.5; vol. 2, SYSCALL, SYSRET, WRMSR)."""

from __future__ import annotations

from tests.model.decode import Insn
from tests.model.effects import Effects, put
from tests.model.state import AC, CS, M64, RAX, RCX, RDX, RF, SS, TF, State, Unmodelled, canonical, gp, ud

R11 = 11
EFER, STAR, LSTAR, CSTAR, FMASK, FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX = (
    0xC0000080, 0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084, 0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103,
)  # fmt: skip
TSC = 0x10
SCE, LME, LMA, NXE = 1, 1 << 8, 1 << 10, 1 << 11
_BASES = {FS_BASE: "fs_base", GS_BASE: "gs_base", KERNEL_GS_BASE: "kernel_gs_base"}
_KEPT = (STAR, LSTAR, CSTAR, FMASK, TSC_AUX)
#: No processor has these.
NOWHERE = (0x12345, 0xC0001234, 0x7FFFFFFF)

CR0_PE, CR0_TS, CR0_NW, CR0_CD, CR0_PG = 1, 1 << 3, 1 << 29, 1 << 30, 1 << 31
#: CR4 bits of what the core has: TSD DE PSE PAE PGE UMIP FSGSBASE SMEP SMAP.
CR4_TSD, CR4_UMIP, CR4_FSGSBASE = 1 << 2, 1 << 11, 1 << 16
CR4_KNOWN = CR4_TSD | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | CR4_UMIP | CR4_FSGSBASE | 1 << 20 | 1 << 21
#: What SYSRET takes of R11.
SYSRET_FLAGS = 0x3C7FD7


def _cpl0(state: State) -> None:
    if state.cpl:
        raise gp()


def rdmsr(state: State, insn: Insn) -> Effects:
    """RDMSR"""
    _cpl0(state)
    number = state.regs[RCX] & 0xFFFFFFFF
    if number in NOWHERE:
        raise gp()
    state.rip += insn.at
    if number == TSC:
        return Effects(free=frozenset((RAX, RDX)))
    if number in _BASES:
        value = getattr(state, _BASES[number])
    elif number == EFER or number in _KEPT:
        value = state.msrs.get(number, LME | LMA if number == EFER else 0)
    else:
        raise Unmodelled(f"rdmsr {number:#x}")
    state.regs[RAX], state.regs[RDX] = value & 0xFFFFFFFF, value >> 32
    return Effects()


def wrmsr(state: State, insn: Insn) -> Effects:
    """WRMSR"""
    _cpl0(state)
    number = state.regs[RCX] & 0xFFFFFFFF
    value = state.regs[RAX] & 0xFFFFFFFF | (state.regs[RDX] & 0xFFFFFFFF) << 32
    if number in NOWHERE:
        raise gp()
    if (number in _BASES or number in (LSTAR, CSTAR)) and not canonical(value):
        raise gp()
    if number in (FMASK, TSC_AUX) and value >> 32:
        raise gp()
    if number in _BASES:
        setattr(state, _BASES[number], value)
    elif number == EFER:
        if value & ~(SCE | LME | LMA | NXE) or not value & LME:
            raise gp()
        state.msrs[EFER] = value | LMA
    elif number in _KEPT:
        state.msrs[number] = value
    else:
        raise Unmodelled(f"wrmsr {number:#x}")
    state.rip += insn.at
    return Effects()


def _enabled(state: State) -> None:
    if not state.msrs.get(EFER, 0) & SCE:
        raise ud()


def syscall(state: State, insn: Insn) -> Effects:
    """SYSCALL: whether a single step is due is decided by the new TF (trap semantics 3.3)."""
    _enabled(state)
    star = state.msrs.get(STAR, 0)
    state.regs[RCX] = state.rip + insn.at & M64
    state.regs[R11] = state.rflags & ~RF
    state.rip = state.msrs.get(LSTAR, 0)
    state.rflags = state.rflags & ~state.msrs.get(FMASK, 0) & ~RF | 2
    state.selectors[CS], state.selectors[SS] = star >> 32 & 0xFFFC, (star >> 32 & 0xFFFC) + 8 & 0xFFFF
    return Effects(single_step=bool(state.rflags & TF))


def sysret(state: State, insn: Insn) -> Effects:
    """SYSRET to 64-bit code."""
    _enabled(state)
    _cpl0(state)
    if not insn.rex & 8:
        raise Unmodelled("sysret to compatibility mode")
    if not canonical(state.regs[RCX]):
        raise gp()
    base = state.msrs.get(STAR, 0) >> 48
    state.rip = state.regs[RCX]
    state.rflags = state.regs[R11] & SYSRET_FLAGS | 2
    state.selectors[CS], state.selectors[SS] = base + 16 & 0xFFFF | 3, base + 8 & 0xFFFF | 3
    return Effects(single_step=bool(state.rflags & TF))


def to_control(state: State, insn: Insn) -> Effects:
    """MOV to a control register."""
    if insn.reg not in (0, 2, 3, 4, 8):
        raise ud()
    _cpl0(state)
    value = state.regs[insn.rm]
    if insn.reg == 0:
        if value >> 32 or not value & CR0_PE or not value & CR0_PG or (value & CR0_NW and not value & CR0_CD):
            raise gp()
        state.cr0 = value & 0xE005003F | 0x10
    elif insn.reg == 2:
        state.cr2 = value
    elif insn.reg == 4:
        if value & ~CR4_KNOWN or not value & 1 << 5:
            raise gp()
        state.cr4 = value
    elif insn.reg == 8:
        if value >> 4:
            raise gp()
        state.cr8 = value
    elif value:
        raise Unmodelled("page tables")
    state.rip += insn.at + 1
    return Effects()


def clts(state: State, insn: Insn) -> Effects:
    """CLTS"""
    _cpl0(state)
    state.cr0 &= ~CR0_TS
    state.rip += insn.at
    return Effects()


def access_flag(state: State, insn: Insn) -> Effects:
    """CLAC and STAC."""
    if any(map(insn.has, (0x66, 0xF2, 0xF3))):
        raise ud()
    _cpl0(state)
    state.rflags = state.rflags & ~AC | (AC if insn.modrm & 1 else 0)
    state.rip += insn.at + 1
    return Effects()


def base_register(state: State, insn: Insn) -> Effects:
    """RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE."""
    if not state.cr4 & CR4_FSGSBASE:
        raise ud()
    which, name = insn.modrm >> 3 & 7, "gs_base" if insn.modrm & 8 else "fs_base"
    size = insn.operand if insn.operand == 8 else 4
    if which < 2:
        put(state, insn.rm, size, getattr(state, name))
    else:
        value = state.regs[insn.rm] & ((1 << 8 * size) - 1)
        if not canonical(value):
            raise gp()
        setattr(state, name, value)
    state.rip += insn.at + 1
    return Effects()


def no_umip(state: State) -> None:
    """CR4.UMIP refuses what shows the tables, outside CPL 0."""
    if state.cr4 & CR4_UMIP and state.cpl:
        raise gp()

