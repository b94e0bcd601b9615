"""The probes that a user writes: ``Kprobe`` and ``Jprobe``, with the kernel's field names.

A struct is filled in, registered, and read afterwards; the runtime fills in the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag, StrEnum
from typing import NoReturn

from kprobes.ptregs import PtRegs


class KprobeFlag(IntFlag):
    """Bits of ``Kprobe.flags`` (include/linux/kprobes.h). Only ``DISABLED`` may be passed to register_kprobe."""

    GONE = 1
    DISABLED = 2
    OPTIMIZED = 4
    FTRACE = 8
    ON_FUNC_ENTRY = 16


class Status(IntEnum):
    """How far a hit has come (``kprobe_status``)."""

    HIT_ACTIVE = 1  # between the int3 and the step: pre_handler, or a jprobe's handler
    HIT_SS = 2      # the guest is in the slot
    REENTER = 4     # the guest is in the slot of a probe that was hit inside another hit
    HIT_SSDONE = 8  # after the step: post_handler


class Miss(StrEnum):
    """Why handlers of a probe did not run although its instruction was executed."""

    REENTRANT = "re-entrant"   # the cpu was inside another hit, or in a busy section (counted in nmissed)
    FAULT = "handler fault"    # a handler of the probe faulted (counted in nmissed, as kernels did from 2.6.18 to 5.13)
    MAXACTIVE = "maxactive"    # every instance of a kretprobe was in use (counted in its own nmissed)
    DISABLED = "disabled"      # another probe at the address was hit, this one is disabled
    ABANDONED = "abandoned"    # the function was left by other ways than a return (longjmp), so no return handler ran
    REMOVED = "removed"        # the breakpoint was taken out while its trap was under way


@dataclass(eq=False)
class Kprobe:
    """A probe on one instruction, given by ``symbol_name`` or by ``addr``; ``offset`` bytes are added to either.

    * ``pre_handler(p, regs)`` runs before the instruction, with ``regs.ip`` at addr + 1 and everything else as the
      instruction will find it. None or 0: the instruction is then stepped. Anything else: the handler has arranged the
      registers itself, ``regs.ip`` included, and the guest continues there; no step, no post_handler.
    * ``post_handler(p, regs, flags)`` runs after the instruction, with ``regs.ip`` at the next one. ``flags`` is 0.
    * ``fault_handler(p, regs, trapnr)`` runs when the instruction faults while it is stepped (``regs.ip`` at addr), or
      when guest code that a handler of this probe runs faults (``regs.ip`` there). None or 0: the guest's own fault
      handling follows. Anything else: handled; the instruction is tried again, or, when the handler moved ``regs.ip``,
      the guest continues there and the hit is over.

    TF and IF of the interrupted program are kept over the hit; what a handler writes to these two is lost (IF, TF in a
    pre_handler that lets the instruction be stepped). Registers other than those are the handler's to change.

    Several probes may sit at one address. The newest runs first; a pre_handler that does not return 0 ends the hit for
    the older ones, too.

    After registration ``addr`` is the resolved address, as in the kernel; so a struct given by symbol_name needs
    ``addr = None`` before it can be registered again.
    """

    symbol_name: str | None = None
    offset: int = 0
    addr: int | None = None
    pre_handler: Callable[[Kprobe, PtRegs], int | None] | None = None
    post_handler: Callable[[Kprobe, PtRegs, int], object] | None = None
    fault_handler: Callable[[Kprobe, PtRegs, int], int | None] | None = None
    flags: int = 0
    opcode: int = field(default=0, init=False)   #: the first byte of the instruction, saved under the int3
    nmissed: int = field(default=0, init=False)  #: hits inside another hit of the same cpu, whose handlers did not run
    hits: int = field(default=0, init=False)     #: hits whose handlers ran
    misses: Counter[Miss] = field(default_factory=Counter, init=False, repr=False)  #: the same and more, by reason
    jprobe: Jprobe | None = field(default=None, init=False, repr=False)  #: the jprobe that this is a part of
    retprobe: Kretprobe | None = field(default=None, init=False, repr=False)  #: the kretprobe that this is a part of

    @property
    def name(self) -> str:
        """``symbol+0xoffset``, or the address when the probe was given by one."""
        if self.symbol_name is not None:
            return f"{self.symbol_name}+{self.offset:#x}" if self.offset else self.symbol_name
        return "?" if self.addr is None else hex(self.addr)

    @property
    def disabled(self) -> bool:
        """Whether the flags keep the breakpoint out of the text."""
        return bool(self.flags & (KprobeFlag.DISABLED | KprobeFlag.GONE))


@dataclass(eq=False)
class Jprobe:
    """A probe on a function's entry whose handler has the function's own parameters.

    ``entry`` is a Python function, or a guest address or symbol name. The guest leaves the trap to the handler with the
    function's registers and stack and with interrupts off; at ``jprobe_return`` all registers, and up to 64 bytes of
    the stack from ``sp`` up, are put back and the function runs as if nothing had happened.

    * A Python function's parameters are the arguments by the C ABI, as unsigned 64-bit integers, or as the annotated
      type when that is one of ``kprobes.ctypes_like`` (``s32``, ``u8``, ...), an integer of ``ctypes``, or bool. A
      keyword-only parameter ``regs`` receives the registers. It may end with ``jprobe_return()`` as in C; returning
      means the same.
    * A guest function must end in ``jprobe_return``: the guest's symbol of that name, or ``Kprobes.jprobe_return``.
      ``sp`` is forced back there, so it may have pushed and called. One that returns instead is caught as it does, as a
      ``KprobePanic``: while it runs, the return address on the stack is the runtime's.

    ``kp`` is the embedded probe, with the counters; its ``post_handler`` and ``fault_handler`` may be set.
    """

    entry: Callable[..., object] | int | str
    symbol_name: str | None = None
    offset: int = 0
    addr: int | None = None
    kp: Kprobe = field(init=False)
    entry_addr: int | None = field(default=None, init=False)  #: the guest address of a guest handler
    parameters: tuple[tuple[object, ...], bool] = field(default=((), False), init=False, repr=False)  #: of a Python one

    def __post_init__(self) -> None:
        self.kp = Kprobe(self.symbol_name, self.offset, self.addr)
        self.kp.jprobe = self

    @property
    def entry_name(self) -> str:
        """The handler's name, for messages."""
        if callable(self.entry):
            return getattr(self.entry, "__qualname__", repr(self.entry))
        return self.entry if isinstance(self.entry, str) else hex(self.entry)


@dataclass(eq=False)
class Kretprobe:
    """A probe on a function's returns, at its entry: given by ``symbol_name`` or ``addr``, and ``offset``.

    * ``entry_handler(ri, regs)`` runs as a pre_handler does, with ``ri.ret_addr`` known. None or 0: the return of this
      call is hooked. Anything else: it is not; nothing is counted.
    * ``handler(ri, regs)`` runs when a hooked call has returned: ``regs`` are the caller's, with ``regs.ip`` at the return
      address, ``regs.sp`` above it, ``regs.return_value`` the result, and IF as the function left it. General registers
      and flags are the handler's to change; what it writes to ``ip`` and ``sp`` is lost.
    * ``maxactive`` calls can be hooked at a time; 0 or less: 10, or twice the number of cpus if that is more. A call
      beyond that is not hooked and counts in ``nmissed``.
    * ``data_size`` bytes, up to 4096, are ``ri.data``, for the entry_handler to leave something in.

    ``kp`` is the embedded probe at the entry: its flags, its counters, its own ``nmissed`` of hits inside another hit. Its
    pre_handler is the runtime's, and a post_handler is ignored; ``fault_handler`` may be set.
    """

    handler: Callable[[KretprobeInstance, PtRegs], object] | None = None
    symbol_name: str | None = None
    offset: int = 0
    addr: int | None = None
    entry_handler: Callable[[KretprobeInstance, PtRegs], int | None] | None = None
    maxactive: int = 0
    data_size: int = 0
    nmissed: int = field(default=0, init=False)  #: calls that were not hooked because all instances were in use
    kp: Kprobe = field(init=False)
    unhook: Callable[[int], None] | None = field(default=None, init=False, repr=False)
    #: the runtime's: take the hook of the call at this fp back, since its hit is undone and will happen again

    def __post_init__(self) -> None:
        self.kp = Kprobe(self.symbol_name, self.offset, self.addr)
        self.kp.retprobe = self


@dataclass(eq=False, slots=True)
class KretprobeInstance:
    """One hooked call of a function, from its entry to its return.

    ``rp`` is None once the kretprobe is unregistered (get_kretprobe). ``ret_addr`` is the real return address, ``fp`` the
    address of the stack slot that it belongs in. ``data`` is not cleared between calls; ``user`` is, and holds any object.
    """

    rp: Kretprobe | None
    data: bytearray
    ret_addr: int = 0
    fp: int = 0
    user: object = None


class JprobeReturn(BaseException):
    """Leaves a Python jprobe handler; never seen by users."""


def jprobe_return() -> NoReturn:
    """End a jprobe's Python handler; the probed function then runs."""
    raise JprobeReturn
