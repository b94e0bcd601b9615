"""The detour of an optimised probe: where its jump goes.

    save                     a whole pt_regs on the stack, with ip at the probed address + 1
    mov %rsp, door           the runtime runs the pre_handlers; no trap, and IF as it was
    restore                  what they changed in the general registers and in flags; not ip, not sp
    copied instructions      all that the jump covers, RIP-relative operands rewritten for this place
    jmp                      to the first instruction behind them

A hit that was taken by the breakpoint, before the jump was there, goes on at the copied instructions.

Source: arch/x86/kernel/kprobes/opt.c (optprobe_template_func, arch_prepare_optimized_kprobe).
"""

from __future__ import annotations

from dataclasses import dataclass

from kprobes.boost import JUMP, JUMP_SIZE
from kprobes.ptregs import MASK64
from kprobes.region import MAX_REGION, Region
from kprobes.savearea import code, through
from kprobes.slots import distance
from kprobes.step import displaced


@dataclass(frozen=True, slots=True)
class Detour:
    """What belongs into a slot at ``start``; the copied instructions begin at ``copy``."""

    start: int
    copy: int
    data: bytes


#: An address whose halves both take 32 bits to write: no detour is longer than that of a region there.
_WIDE = 0x1234567812345678


def room(door: int) -> int:
    """Return the size of the slots that hold detours."""
    return len(_entrance(door, _WIDE)) + MAX_REGION + JUMP_SIZE


def detour(region: Region, start: int, door: int) -> Detour:
    """Make the detour of a region at ``start``, which is within 2 GiB of it.

    Raise ``KprobeError`` (EINVAL) when a RIP-relative target cannot be reached from there, and ``ValueError`` when the
    door cannot.
    """
    data = bytearray(_entrance(door, (region.addr + 1) & MASK64))
    copy = start + len(data)
    for insn in region.insns:
        data += displaced(insn, start + len(data))
    data += jump(start + len(data), region.end)
    return Detour(start, copy, bytes(data))


def jump(start: int, target: int) -> bytes:
    """Return ``jmp rel32`` from ``start`` to ``target``; ``OverflowError`` when it does not reach."""
    return bytes([JUMP]) + distance(target, (start + JUMP_SIZE) & MASK64).to_bytes(4, "little", signed=True)


def _entrance(door: int, ip: int) -> bytes:
    return code(through(door, ip=ip))
