"""Stepping a displaced instruction: the copy with its operand rewritten, the way into the slot, and the way out.

The algebra, with ``delta`` = probed address - slot:

    into the slot     ip = slot; TF = 1; IF = 0                 exactly one instruction, no interrupt can see the slot
    relative          ip += delta                               straight-line code, relative branches, REP iterations
    call              [sp] += delta                             and ip += delta when the target was relative
    pushf             TF, IF of the image at [sp] = as at the hit
    flags             TF, IF = as at the hit, except those that the instruction itself decides (cli, sti, popf, iret)
    fault             ip = probed address; TF, IF = as at the hit; nothing on the stack, since nothing was executed

Sources: prepare_singlestep and resume_execution, arch/x86_64/kernel/kprobes.c, 2004, with the later corrections.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from kprobes.errors import KprobeError
from kprobes.insn import Fixup, Insn
from kprobes.port import Guest
from kprobes.probes import Kprobe
from kprobes.ptregs import IF, MASK64, TF, TF_IF, PtRegs
from kprobes.slots import distance


@dataclass(eq=False, slots=True)
class Site:
    """A probed address: the saved byte, the decoded instruction, its slot, and the probe that sits there.

    One probe to an address for now; several at one address would hang here, sharing opcode and slot. A hit holds on to
    its site, so that it can be finished when the probe is unregistered meanwhile (``registered`` is then False).
    """

    addr: int
    insn: Insn
    slot: int
    probe: Kprobe
    armed: bool = False
    registered: bool = False

    @property
    def opcode(self) -> int:
        """The byte that the int3 covers."""
        return self.insn.data[0]


def displaced(insn: Insn, slot: int) -> bytes:
    """Return the bytes that do at ``slot`` what ``insn`` does at its own address; relative branches are left alone.

    Raise ``KprobeError`` (EINVAL) when a RIP-relative target cannot be reached from there.
    """
    if insn.rip_disp is None:
        return insn.data
    field = slice(insn.rip_disp, insn.rip_disp + 4)
    old = int.from_bytes(insn.data[field], "little", signed=True)
    new = distance((insn.addr + old) & MASK64, slot)
    if insn.eip:  # the sum is cut to 32 bits anyway
        new = (new + (1 << 31)) % (1 << 32) - (1 << 31)
    if not -(1 << 31) <= new < 1 << 31:
        raise KprobeError(errno.EINVAL, (
            f"'{insn.text}' at {insn.addr:#x} reaches {old:+#x} from there, which is not within 2 GiB of its copy at "
            f"{slot:#x}; give the guest a text page nearer to the data"))
    copy = bytearray(insn.data)
    copy[field] = new.to_bytes(4, "little", signed=True)
    return bytes(copy)


def enter_slot(site: Site, regs: PtRegs) -> None:
    """Make the return from the trap execute the copy, and only that."""
    regs.ip = site.slot
    regs.flags = (regs.flags | TF) & ~IF


def leave_slot(site: Site, regs: PtRegs, old_flags: int, guest: Guest) -> None:
    """Make registers and stack those after the original; ``old_flags`` are TF and IF at the hit."""
    insn = site.insn
    delta = site.addr - site.slot
    if insn.fixup is Fixup.PUSHF:
        image = _read(guest, regs.sp, insn.pushed)
        _write(guest, regs.sp, insn.pushed, image & ~TF_IF | old_flags)
    elif insn.fixup in (Fixup.CALL, Fixup.CALL_ABSOLUTE):
        _write(guest, regs.sp, insn.pushed, _read(guest, regs.sp, insn.pushed) + delta)
    if insn.fixup not in (Fixup.ABSOLUTE, Fixup.CALL_ABSOLUTE):
        regs.ip = (regs.ip + delta) & MASK64
    kept = TF_IF & ~insn.owns
    regs.flags = regs.flags & ~kept | old_flags & kept


def rewind(site: Site, regs: PtRegs, old_flags: int) -> None:
    """Make a fault of the copy a fault of the original."""
    regs.ip = site.addr
    regs.flags = regs.flags & ~TF_IF | old_flags


def _read(guest: Guest, addr: int, width: int) -> int:
    return int.from_bytes(guest.read(addr, width), "little")


def _write(guest: Guest, addr: int, width: int, value: int) -> None:
    guest.write(addr, (value & ((1 << 8 * width) - 1)).to_bytes(width, "little"))
