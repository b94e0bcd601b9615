"""How each instruction is executed in software: one closure, made at registration, which a hit runs.

These are the architecture's results where the kernel's differ: far returns pop CS, ``ret n`` frees its n bytes, ``loop``
counts before it tests, a prefixed call pushes the address behind its prefixes, ``call *%rsp`` goes where rsp pointed before
the push, branches through memory are taken, a 16-bit pushf or popf leaves the rest alone. Near branches ignore a 66 prefix,
as Intel defines it.

One exception: an emulated ``sti`` has no interrupt shadow. An interrupt that waits is taken before the instruction behind
it, so it may come between the two of ``sti; hlt``, and the hlt then sleeps until the next one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from kprobes.insn import Insn, Opcode
from kprobes.operand import operand
from kprobes.port import Guest, GuestMemoryError
from kprobes.ptregs import IF, MASK64, Flag, PtRegs

#: Executes one instruction: registers, ip, flags and stack become those after it, whatever ip was before. TF and IF of
#: ``regs.flags`` are those at the hit. Where the instruction faults, or does something that only the hardware can judge,
#: ``GuestMemoryError`` is raised and nothing has changed: a copy that is stepped raises the genuine fault.
Emulator = Callable[[PtRegs, Guest], None]

_CF, _PF, _ZF, _SF, _OF = (int(flag) for flag in (Flag.CF, Flag.PF, Flag.ZF, Flag.SF, Flag.OF))
_RF, _VM = int(Flag.RF), int(Flag.VM)

#: What popf loads at CPL 0; VM, VIF and VIP stay, RF becomes 0 (SDM Vol. 2, POPF).
_POPPED = int(
    Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF | Flag.TF | Flag.IF | Flag.DF | Flag.OF | Flag.IOPL | Flag.NT | Flag.AC
    | Flag.ID)


def _less(flags: int) -> bool:
    return bool(flags & _SF) != bool(flags & _OF)


#: The condition of the even code 2 * i; the odd one behind it is its inverse (SDM Vol. 2, appendix B.1.4.7).
_CONDITIONS: tuple[Callable[[int], object], ...] = (
    lambda flags: flags & _OF,
    lambda flags: flags & _CF,
    lambda flags: flags & _ZF,
    lambda flags: flags & (_CF | _ZF),
    lambda flags: flags & _SF,
    lambda flags: flags & _PF,
    _less,
    lambda flags: flags & _ZF or _less(flags),
)


@dataclass(frozen=True, slots=True)
class Form:
    """An instruction, cut at its opcode; ``next`` is the address behind it, ``target`` where a relative branch goes."""

    insn: Insn
    head: Opcode
    opcode: bytes
    next: int
    target: int


def _load(guest: Guest, addr: int, width: int) -> int:
    return int.from_bytes(guest.read(addr & MASK64, width), "little")


def _push(regs: PtRegs, guest: Guest, value: int, width: int = 8) -> None:
    sp = (regs.sp - width) & MASK64
    guest.write(sp, value.to_bytes(width, "little"))
    regs.sp = sp


def _canonical(target: int) -> int:
    """Return a branch target; one that is not canonical faults at the branch (SDM Vol. 1, section 3.3.7.1)."""
    if target + (1 << 47) & MASK64 >= 1 << 48:
        raise GuestMemoryError(f"the branch target {target:#x} is not canonical")
    return target


def _jump(form: Form) -> Emulator:
    target = form.target

    def jump(regs: PtRegs, guest: Guest) -> None:
        regs.ip = target

    return jump


def _jcc(form: Form) -> Emulator:
    code = form.opcode[form.opcode[0] == 0x0F]
    holds, wanted = _CONDITIONS[code >> 1 & 7], not code & 1
    target, following = form.target, form.next

    def jcc(regs: PtRegs, guest: Guest) -> None:
        regs.ip = target if bool(holds(regs.flags)) == wanted else following

    return jcc


def _loop(form: Form) -> Emulator:
    """The counter has the width of addresses; a 32-bit one clears the upper half. Flags stay."""
    mask = 0xFFFFFFFF if 0x67 in form.head.prefixes else MASK64
    ends = {0xE0: _ZF, 0xE1: 0}.get(form.opcode[0])  # loopne, loope: the value of ZF that ends the loop early
    target, following = form.target, form.next

    def loop(regs: PtRegs, guest: Guest) -> None:
        regs.cx = (regs.cx - 1) & mask
        regs.ip = target if regs.cx and regs.flags & _ZF != ends else following

    return loop


def _jrcxz(form: Form) -> Emulator:
    mask = 0xFFFFFFFF if 0x67 in form.head.prefixes else MASK64
    target, following = form.target, form.next

    def jrcxz(regs: PtRegs, guest: Guest) -> None:
        regs.ip = following if regs.cx & mask else target

    return jrcxz


def _call(form: Form) -> Emulator:
    target, following = form.target, form.next

    def call(regs: PtRegs, guest: Guest) -> None:
        _push(regs, guest, following)
        regs.ip = target

    return call


def _indirect(form: Form) -> Emulator | None:
    """FF /2 and /4: the target is read before the return address is pushed."""
    kind = form.opcode[1] >> 3 & 7
    if kind not in (2, 4):
        return None
    rm = operand(form.insn)
    if rm.segment and rm.register is None:
        return None
    following = form.next
    if rm.register is not None:
        register = operator.attrgetter(rm.register)

        def read(regs: PtRegs, guest: Guest) -> int:
            return register(regs)
    else:
        def read(regs: PtRegs, guest: Guest) -> int:
            return _load(guest, rm.address(regs), 8)

    def call(regs: PtRegs, guest: Guest) -> None:
        target = _canonical(read(regs, guest))
        _push(regs, guest, following)
        regs.ip = target

    def jump(regs: PtRegs, guest: Guest) -> None:
        regs.ip = _canonical(read(regs, guest))

    return call if kind == 2 else jump


def _ret(form: Form) -> Emulator:
    released = 8 + _immediate(form)

    def ret(regs: PtRegs, guest: Guest) -> None:
        regs.ip = _canonical(_load(guest, regs.sp, 8))
        regs.sp = (regs.sp + released) & MASK64

    return ret


def _lret(form: Form) -> Emulator:
    """A return to an outer level takes sp and ss from behind the parameters, and releases those of both stacks.

    The descriptor of the new CS is checked by the iretq that ends the trap; a selector that no lret takes is left to the
    hardware.
    """
    width, parameters = form.head.width(4), _immediate(form)

    def lret(regs: PtRegs, guest: Guest) -> None:
        sp = regs.sp
        target, cs = _canonical(_load(guest, sp, width)), _load(guest, sp + width, width) & 0xFFFF
        if not cs & ~3 or cs & 3 < regs.cs & 3:
            raise GuestMemoryError(f"lret does not take the selector {cs:#x}")
        sp += 2 * width + parameters
        if cs & 3 > regs.cs & 3:
            outer, ss = _load(guest, sp, width), _load(guest, sp + width, width) & 0xFFFF
            if not ss & ~3 or ss & 3 != cs & 3:
                raise GuestMemoryError(f"lret does not take the stack selector {ss:#x}")
            sp, regs.ss = outer + parameters, ss
        regs.ip, regs.cs, regs.sp = target, cs, sp & MASK64

    return lret


def _immediate(form: Form) -> int:
    return int.from_bytes(form.opcode[1:3], "little")


def _pushf(form: Form) -> Emulator:
    """The image has RF and VM clear (SDM Vol. 2, PUSHF); TF and IF are those that the trap saved."""
    width = form.head.width(8)
    mask = (1 << 8 * width) - 1 & ~(_RF | _VM)
    following = form.next

    def pushf(regs: PtRegs, guest: Guest) -> None:
        _push(regs, guest, regs.flags & mask, width)
        regs.ip = following

    return pushf


def _popf(form: Form) -> Emulator:
    width = form.head.width(8)
    loaded = _POPPED & (1 << 8 * width) - 1
    kept = MASK64 & ~loaded & ~_RF
    following = form.next

    def popf(regs: PtRegs, guest: Guest) -> None:
        regs.flags = _load(guest, regs.sp, width) & loaded | regs.flags & kept
        regs.sp = (regs.sp + width) & MASK64
        regs.ip = following

    return popf


def _cli(form: Form) -> Emulator:
    following = form.next

    def cli(regs: PtRegs, guest: Guest) -> None:
        regs.flags &= ~IF
        regs.ip = following

    return cli


def _sti(form: Form) -> Emulator:
    following = form.next

    def sti(regs: PtRegs, guest: Guest) -> None:
        regs.flags |= IF
        regs.ip = following

    return sti


#: What makes the emulator, by the opcode; None is made for those of its instructions that are to be stepped.
MAKERS: dict[bytes, Callable[[Form], Emulator | None]] = {
    **{bytes([code]): _jcc for code in range(0x70, 0x80)},
    **{bytes([0x0F, code]): _jcc for code in range(0x80, 0x90)},
    b"\x9c": _pushf,
    b"\x9d": _popf,
    b"\xc2": _ret,
    b"\xc3": _ret,
    b"\xca": _lret,
    b"\xcb": _lret,
    b"\xe0": _loop,
    b"\xe1": _loop,
    b"\xe2": _loop,
    b"\xe3": _jrcxz,
    b"\xe8": _call,
    b"\xe9": _jump,
    b"\xeb": _jump,
    b"\xfa": _cli,
    b"\xfb": _sti,
    b"\xff": _indirect,
}
