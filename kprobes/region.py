"""Whether a jump may replace a breakpoint: the region of code that it would cover, or the reason against it.

A jump of five bytes covers several instructions, of which every one but the first may be somebody's target. So the whole
function is read, and the rules are the kernel's (can_optimize and copy_optimized_instructions,
arch/x86/kernel/kprobes/opt.c), with its bound for jumps that is one byte wider than it has to be; but the part of a
function that a compiler has moved away (``f.cold``) is read with it, since it jumps back into the middle. Nothing here
writes anything; where a jump is not possible the breakpoint stays, so that no refusal is an error.

What concerns a function as a whole is found once for each and remembered as long as its code is the same.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from kprobes.boost import JUMP_SIZE, unfit
from kprobes.fentry import NOP
from kprobes.insn import MAX_INSN_SIZE, DecodeError, Insn, decode, jump_target, jumps_anywhere
from kprobes.port import Guest, Symbol
from kprobes.text import Function, Text

MAX_REGION = JUMP_SIZE - 1 + MAX_INSN_SIZE  #: a jump covers all but one byte, and then an instruction of 15

_COLD = ".cold"


@dataclass(frozen=True, slots=True)
class Region:
    """The instructions that the jump at ``addr`` covers, whole ones, 5 to 19 bytes."""

    addr: int
    insns: tuple[Insn, ...]
    end: int

    @property
    def size(self) -> int:
        """The number of bytes of its instructions."""
        return self.end - self.addr


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why there is no region: the errno that the kernel has inside for it, and the reason in words."""

    code: int
    reason: str


class JumpState(Enum):
    """How far a jump has come (``kprobes.optimizer``)."""

    IDLE = auto()     # it is not in memory, and not wanted now
    QUEUED = auto()   # it is to be written; hits by the breakpoint go on in the detour
    WRITTEN = auto()  # it is in memory
    LEAVING = auto()  # it is in memory, and to be taken out


@dataclass(eq=False, slots=True)
class Jump:
    """The jump of one probed address, once it has a detour, at ``start``, with the copied instructions at ``copy``."""

    region: Region
    start: int
    copy: int
    state: JumpState = JumpState.IDLE


@dataclass(frozen=True, slots=True)
class _Facts:
    """What holds in a whole function: where its jumps go, in order, and what forbids every region in it."""

    function: Function
    targets: tuple[tuple[int, int], ...]  # (target, address of the jump)
    obstacle: Obstacle | None


class Regions:
    """The regions of one guest. ``forbidden`` are ranges that a jump must not touch, with the reason."""

    def __init__(self, guest: Guest, text: Text, forbidden: Iterable[tuple[int, int, str]]):
        self._guest = guest
        self._text = text
        self._forbidden = forbidden
        self._facts: dict[int, _Facts] = {}  # by the start of the function

    def find(self, addr: int, symbol: Symbol) -> Region | Obstacle:
        """Return the region of a jump at ``addr``, an instruction of the function ``symbol``."""
        if symbol.end - addr < JUMP_SIZE:
            return Obstacle(errno.EINVAL, (
                f"only {symbol.end - addr} bytes are left in '{symbol.name}', and a jump has {JUMP_SIZE}"))
        parts = [self._of(part) for part in (symbol, *self._elsewhere(symbol))]
        for facts in parts:
            if facts.obstacle is not None:
                return facts.obstacle
            at = bisect_left(facts.targets, (addr + 1, 0))
            if at < len(facts.targets) and facts.targets[at][0] <= addr + JUMP_SIZE:
                target, source = facts.targets[at]
                return Obstacle(errno.EINVAL, (
                    f"the jump at {_place(source, facts.function.symbol)} goes to {_place(target, symbol)}, which the "
                    f"kernel's rule counts as inside the {JUMP_SIZE} bytes of a jump at {_place(addr, symbol)}"))
        region = self._collect(addr, parts[0].function)
        if isinstance(region, Obstacle):
            return region
        for start, end, reason in self._forbidden:
            if start < region.end and addr < end:
                return Obstacle(errno.EBUSY, f"a jump would cover {_place(max(start, addr), symbol)}: {reason}")
        return region

    def _collect(self, addr: int, function: Function) -> Region | Obstacle:
        """Decode whole instructions until a jump fits, each of which must be able to run elsewhere."""
        insns: list[Insn] = []
        at = addr
        while at < addr + JUMP_SIZE:
            offset = at - function.symbol.start
            try:
                insn = decode(function.code[offset:offset + MAX_INSN_SIZE], at)
            except DecodeError as exc:  # pragma: no cover - the whole function was decoded
                return Obstacle(errno.EILSEQ, f"{_place(at, function.symbol)}: {exc}")
            reason = insn.refusal[1] if insn.refusal else unfit(insn, False)
            if insn.data == NOP and self._guest.fentry(at):
                return Obstacle(errno.EBUSY, (
                    f"a jump would cover {_place(at, function.symbol)}, the function's tracing nop, where a call may come"))
            if reason:
                return Obstacle(errno.EINVAL, (
                    f"the jump would displace '{insn.text}' at {_place(at, function.symbol)}, and {reason}"))
            insns.append(insn)
            at += len(insn.data)
        return Region(addr, tuple(insns), at)

    def _elsewhere(self, symbol: Symbol) -> list[Symbol]:
        """Return the other part of a function that was split in two."""
        name = symbol.name.removesuffix(_COLD) if symbol.name.endswith(_COLD) else symbol.name + _COLD
        start = self._guest.symbols.lookup(name)
        other = None if start is None else self._guest.symbols.containing(start)
        return [] if other is None or other.name != name else [other]

    def _of(self, symbol: Symbol) -> _Facts:
        function = self._text.function(symbol)
        facts = self._facts.get(symbol.start)
        if facts is None or facts.function is not function:
            facts = self._facts[symbol.start] = self._look(function)
        return facts

    def _look(self, function: Function) -> _Facts:
        symbol = function.symbol
        targets: list[tuple[int, int]] = []

        def never(code: int, reason: str) -> _Facts:
            return _Facts(function, (), Obstacle(code, reason))

        if function.foreign is not None:
            return never(errno.EILSEQ, (
                f"{_place(function.foreign, symbol)} holds an int3 that is not a probe's, so what jumps from there is unknown"))
        end = symbol.start
        for addr, size, text in function.insns:
            end = addr + size
            code = function.code[addr - symbol.start:end - symbol.start]
            if self._guest.fixup(addr) is not None:
                return never(errno.EINVAL, (
                    f"'{text}' at {_place(addr, symbol)} has an exception-table entry, and control may come from there to "
                    "any place of the function"))
            if jumps_anywhere(code):
                return never(errno.EINVAL, (
                    f"'{text}' at {_place(addr, symbol)} may jump to any instruction of '{symbol.name}'"))
            target = jump_target(code, addr)
            if target is not None:
                targets.append((target, addr))
        if end < symbol.end:
            return never(errno.EILSEQ, f"{_place(end, symbol)} cannot be decoded, so what jumps from there is unknown")
        return _Facts(function, tuple(sorted(targets)), None)


def _place(addr: int, symbol: Symbol) -> str:
    return f"{symbol.name}+{addr - symbol.start:#x}"
