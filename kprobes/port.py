"""Where the runtime meets the machine: what it needs (``Guest``) and what it takes (``Trap``).

The machine supplies a ``Guest``, calls ``Kprobes.on_trap`` with a ``Trap`` whenever a trap reached it, and may watch
the phases of each hit (``kprobes.events``). Nothing else passes between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from kprobes.ptregs import PtRegs

PAGE_SIZE = 4096


class Door(IntEnum):
    """Ways to the runtime without a trap: code of the runtime builds a ``pt_regs`` and stores its address to a door.

    ``Trap.vector`` then holds one of these numbers, which are beyond those of exceptions. ``orig_ax`` is -1, ``cs`` the
    cpu's, and flags, TF and IF are as the code was entered with: no gate has cleared them.
    """

    TRAMPOLINE = 0x80  # a function with a kretprobe has returned
    DETOUR = 0x81      # an optimised probe was reached by its jump
    FENTRY = 0x82      # a function's entry nop, turned into a call


class GuestMemoryError(OSError):
    """Guest virtual memory at this address is not mapped."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named range of guest memory: ``size`` bytes from ``start``."""

    name: str
    start: int
    size: int

    @property
    def end(self) -> int:
        """The first address after the symbol."""
        return self.start + self.size


class Symbols(Protocol):
    """The guest's symbol table (``kallsyms``)."""

    def lookup(self, name: str) -> int | None:
        """Return the address of ``name``, or None."""
        ...

    def addresses(self, name: str) -> Sequence[int]:
        """Return the addresses of all symbols of this name, for those that must not be ambiguous."""
        ...

    def containing(self, addr: int) -> Symbol | None:
        """Return the symbol whose range contains ``addr``, or None.

        A symbol without a size reaches to the next symbol or to the end of its section.
        """
        ...

    def names(self) -> Iterable[str]:
        """Return all names, for suggestions."""
        ...


class ModuleState(IntEnum):
    """Where a module is in its life (enum module_state)."""

    LIVE = 0    # its init text is gone
    COMING = 1  # its text is there, and its init text runs or is about to
    GOING = 2   # its text is about to vanish


@dataclass(frozen=True, slots=True)
class Module:
    """Code that was loaded later. ``text`` and ``init`` are ranges ``(start, end)``, not overlapping; init may be empty.

    Its symbols are called ``module:symbol`` in the symbol table.
    """

    name: str
    state: ModuleState
    text: tuple[int, int]
    init: tuple[int, int] = (0, 0)


class Guest(Protocol):
    """What the outside must supply. Addresses are guest virtual addresses, unsigned 64-bit.

    Guest code that is probed must be compiled with -mno-red-zone, as kernels are: a trap's frame lies right below sp.
    """

    @property
    def cpus(self) -> int:
        """The number of cpus; ``Trap.cpu`` is below it."""
        ...

    @property
    def symbols(self) -> Symbols:
        """The symbol table of what is loaded."""
        ...

    def read(self, addr: int, n: int) -> bytes:
        """Return ``n`` bytes; raise ``GuestMemoryError`` when one of them is not mapped."""
        ...

    def write(self, addr: int, data: bytes) -> None:
        """Write all of ``data``, to text also; or raise ``GuestMemoryError`` and write nothing."""
        ...

    def is_text(self, addr: int) -> bool:
        """Whether ``addr`` lies in code of the guest that may be probed."""
        ...

    def alloc_text_page(self, near: int) -> int:
        """Return the address of 4096 zero bytes, executable, page-aligned, within 2 GiB of ``near``.

        Raise ``MemoryError`` when there is none. The guest must never use the page for anything else.
        """
        ...

    def free_text_page(self, addr: int) -> None:
        """Take a page of ``alloc_text_page`` back."""
        ...

    def blacklist(self) -> Iterable[tuple[int, int, str]]:
        """Return ranges that must not be probed, ``(start, end, reason)``, such as the entry stubs of the traps."""
        ...

    def stack_end(self, cpu: int, sp: int) -> int:
        """Return the first address above the stack that ``sp`` points into."""
        ...

    def sync_cores(self) -> None:
        """Make every cpu execute a serialising instruction, and wait until all have: called after each write to text.

        Cpus run meanwhile, and their traps come to ``on_trap`` inside the request that wrote. No other request may be made,
        nor ``Kprobes.work`` be called, before this returns.
        """
        ...

    def wait(self, done: Callable[[], bool]) -> bool:
        """Let the cpus run until ``done``, which may ask ``settled``; return whether it is.

        No cpu runs when it is at once. Traps come to ``on_trap`` meanwhile, as in ``sync_cores``. Return False when time is no
        help: a handler is under way, the cpus sleep, or have run for long enough.
        """
        ...

    @property
    def now(self) -> int:
        """The time in cycles, which never goes back."""
        ...

    def door(self, number: Door) -> int:
        """Return the guest virtual address of a door, which a sign-extended 32-bit displacement reaches.

        A store of a pt_regs's address there calls ``on_trap`` before the next instruction, which then finds the
        registers changed in memory.
        """
        ...

    def call(self, cpu: int, addr: int, args: tuple[int, ...]) -> int:
        """Run a guest function from inside ``on_trap`` for this cpu, and return its rax.

        It runs on the stack below the trap's frame, with the flags of a handler (IF and TF clear), and with up to six
        arguments in registers. Its traps come to ``on_trap`` as any others, before this returns.
        """
        ...

    def fixup(self, addr: int) -> int | None:
        """Return where the guest's exception table sends a fault of the instruction at ``addr``; None without entry."""
        ...

    def fentry(self, addr: int) -> bool:
        """Whether ``addr`` is where the compiler has left a nop of five bytes at a function's entry, for tracing.

        Guests are compiled with -pg -mfentry -mrecord-mcount -mnop-mcount for that.
        """
        ...

    def module(self, addr: int) -> Module | None:
        """Return the module whose text or init text contains ``addr``, None for that of the image.

        Before the text of one vanishes, the machine calls ``Kprobes.module_live`` or ``Kprobes.module_going``.
        """
        ...

    def settled(self, start: int, end: int) -> bool:
        """Whether no cpu is at an instruction in [start, end) or will come back to one from a trap."""
        ...


@dataclass(slots=True)
class Trap:
    """One trap as the guest's entry stub saw it.

    ``regs`` is changed in place, and the machine writes it back *whatever* ``on_trap`` returned: a fault of an
    instruction that was being stepped is moved back to the probed address, and is then the guest's to handle.

    ``error`` is the error code of vectors that have one; ``cr2`` belongs to vector 14, ``dr6`` to vector 1: its value
    at the trap, from which the runtime removes the bits that it consumed. The register itself, whose BS is sticky, is
    cleared by who handles the trap: by the entry stub if the runtime did. None means unknown.
    """

    cpu: int
    vector: int
    regs: PtRegs
    error: int | None = None
    cr2: int | None = None
    dr6: int | None = None
