"""Executing a displaced instruction: the copy with its operand rewritten, the way into the slot, and the way out.

The algebra, with ``delta`` = probed address - slot:

    into the slot     ip = slot; IF = 0                         no interrupt can see the slot
      step "tf"       TF = 1                                    exactly one instruction, then #DB
      step "int3"     TF = 0                                    up to the int3 behind the copy
    relative          ip += delta                               straight-line code, relative branches, REP iterations
      step "int3"     ip += delta - 1
    call              [sp] += delta                             and ip += delta when the target was relative
    pushf             TF, IF of the image at [sp] = as at the hit
    flags             TF, IF = as at the hit, except those that the instruction itself decides (cli, sti, popf, iret)
    fault             ip = probed address; TF, IF = as at the hit; nothing on the stack, since nothing was executed

Sources: prepare_singlestep and resume_execution, arch/x86_64/kernel/kprobes.c, 2004, with the later corrections;
setup_singlestep and kprobe_post_process, arch/x86/kernel/kprobes/core.c, since 5.13.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from kprobes.errors import KprobeError, Rule
from kprobes.insn import Fixup, Insn
from kprobes.port import Guest
from kprobes.probes import Kprobe
from kprobes.ptregs import MASK64, TF, TF_IF, PtRegs
from kprobes.region import Jump, JumpState, Obstacle, Region
from kprobes.slots import distance

NO_SLOT = -1  #: the slot of a site that needs none; no address is equal to it


@dataclass(eq=False, slots=True)
class Site:
    """A probed address: the decoded instruction, its slot, and the probes that sit there, the newest first.

    A hit holds on to its site, so that it can be finished when the probes are unregistered meanwhile. ``boosted``: the
    copy in the slot is followed by a jump back, else by int3. ``emulate`` does what the instruction does, in the
    registries that step by int3. ``posts`` are the probes that were registered with a post_handler. ``region`` is what a
    jump would cover, or why there can be none, once that was asked; ``jump`` is there once it has a detour. ``fentry``: the
    instruction is a function's tracing nop, which a call replaces, and there is no slot.
    """

    addr: int
    insn: Insn
    slot: int
    boosted: bool = False
    emulate: Callable[[PtRegs, Guest], None] | None = None
    probes: list[Kprobe] = field(default_factory=list[Kprobe])
    posts: set[Kprobe] = field(default_factory=set[Kprobe])
    armed: bool = False
    gone: bool = False
    region: Region | Obstacle | None = None
    jump: Jump | None = None
    fentry: bool = False

    @property
    def opcode(self) -> int:
        """The byte that the int3 covers."""
        return self.insn.data[0]

    @property
    def leaving(self) -> bool:
        """Whether its jump is still in memory although no probe wants it."""
        return self.jump is not None and self.jump.state is JumpState.LEAVING

    @property
    def enabled(self) -> bool:
        """Whether one of its probes wants to be hit."""
        return any(not p.disabled for p in self.probes)


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
            f"{slot:#x}; give the guest a text page nearer to the data"), Rule.INSTRUCTION)
    copy = bytearray(insn.data)
    copy[field] = new.to_bytes(4, "little", signed=True)
    return bytes(copy)


def enter_slot(at: int, regs: PtRegs, single: bool) -> None:
    """Make the return from the trap execute the copy at ``at``: with ``single``, only that, by TF."""
    regs.ip = at
    regs.flags = regs.flags & ~TF_IF | (TF if single else 0)


def leave_slot(site: Site, at: int, regs: PtRegs, old_flags: int, guest: Guest) -> None:
    """Make registers and stack those after the original; ``old_flags`` are TF and IF at the hit, ``at`` is the copy.

    ``regs.ip`` is where the copy has led, as if there were no int3 behind it.
    """
    insn = site.insn
    delta = site.addr - at
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
