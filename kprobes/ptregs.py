"""The saved registers of a trap, and the architecture facts that the runtime needs.

The numbers here are what a kernel's headers would hold. The hardware model holds the same numbers in its own file; the
two are written twice on purpose, as a CPU and a kernel do, and a test keeps them equal.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import IntEnum, IntFlag
from operator import attrgetter

from kprobes.errors import GuestCallError

MASK64 = (1 << 64) - 1


class Vector(IntEnum):
    """Exception vectors of x86-64 (Intel SDM Vol. 3, table 6-1), by their mnemonics."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XM = 19


#: Exceptions of fault class: the saved ip is that of the instruction that failed, and it may be restarted.
FAULTS = frozenset({
    Vector.DE, Vector.BR, Vector.UD, Vector.NM, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.MF,
    Vector.AC, Vector.XM,
})


class Flag(IntFlag):
    """Bits of RFLAGS (Intel SDM Vol. 1, figure 3-8). ``IOPL`` is a mask of two bits."""

    CF = 1 << 0
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    IOPL = 3 << 12
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18
    VIF = 1 << 19
    VIP = 1 << 20
    ID = 1 << 21


#: The two bits that stepping out of line has to borrow and give back, as plain numbers, which registers hold.
TF, IF = int(Flag.TF), int(Flag.IF)
TF_IF = TF | IF

#: DR6 bits: a single step (BS), and the four address matches (B0 to B3).
DR6_BS = 1 << 14
DR6_B = 0xF

#: The registers that carry the first six integer arguments (System V ABI for x86-64, section 3.2.3).
ARGUMENT_REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")


@dataclass(slots=True)
class PtRegs:
    """The registers of an interrupted program, in the order in which they lie in guest memory.

    21 little-endian quadwords, 168 bytes, lowest address first (``struct pt_regs``, arch/x86/include/asm/ptrace.h).
    Every value is an unsigned 64-bit integer. A handler changes the guest by assigning to the fields.
    ``caller`` is no register: it does what ``call`` promises, and is there while a handler runs.
    """

    r15: int = 0
    r14: int = 0
    r13: int = 0
    r12: int = 0
    bp: int = 0
    bx: int = 0
    r11: int = 0
    r10: int = 0
    r9: int = 0
    r8: int = 0
    ax: int = 0
    cx: int = 0
    dx: int = 0
    si: int = 0
    di: int = 0
    orig_ax: int = 0
    ip: int = 0
    cs: int = 0
    flags: int = 0
    sp: int = 0
    ss: int = 0
    caller: Callable[[str | int, tuple[int, ...]], int] | None = field(default=None, repr=False, compare=False)

    def pack(self) -> bytes:
        """Return the 168 bytes of the guest's ``pt_regs``; values are taken modulo 2**64, as registers are."""
        return _LAYOUT.pack(*[value & MASK64 for value in _values(self)])

    @classmethod
    def unpack(cls, data: bytes) -> PtRegs:
        """Read 168 bytes; raise ``ValueError`` on any other number of bytes."""
        if len(data) != _LAYOUT.size:
            raise ValueError(f"pt_regs is {_LAYOUT.size} bytes, not {len(data)}")
        return cls(*_LAYOUT.unpack(data))

    def copy(self) -> PtRegs:
        """Return an independent copy."""
        return PtRegs(*_values(self))

    def assign(self, other: PtRegs) -> None:
        """Take every value of ``other``."""
        for name in FIELDS:
            setattr(self, name, getattr(other, name))

    @property
    def user_mode(self) -> bool:
        """Whether the trap came from a privilege level other than 0."""
        return bool(self.cs & 3)

    @property
    def return_value(self) -> int:
        """The integer result of a function that has just returned (``regs_return_value``)."""
        return self.ax

    @return_value.setter
    def return_value(self, value: int) -> None:
        self.ax = value & MASK64

    def argument(self, n: int) -> int:
        """Return the ``n``-th integer argument, 0 to 5, as it is at a function's first instruction.

        Further arguments lie on the guest's stack at ``stack_argument(n)``; reading them needs the guest's memory.
        """
        if not 0 <= n < len(ARGUMENT_REGISTERS):
            raise IndexError(f"argument {n} is not in a register; it is in memory at regs.stack_argument({n})")
        return getattr(self, ARGUMENT_REGISTERS[n])

    def stack_argument(self, n: int) -> int:
        """Return the address of argument ``n`` >= 6 at a function's first instruction (above the return address)."""
        if n < len(ARGUMENT_REGISTERS):
            raise IndexError(f"argument {n} is in register {ARGUMENT_REGISTERS[n]}")
        return (self.sp + 8 * (n - len(ARGUMENT_REGISTERS) + 1)) & MASK64

    def call(self, function: str | int, *args: int) -> int:
        """Run a guest function, given by symbol or address, on the cpu that was hit, and return its rax.

        Only inside a handler, up to six integer arguments, on the stack below the trap, with interrupts off. Probes that
        it hits count as missed. These registers do not change. Raise ``GuestCallError`` when there is no such symbol,
        and when it does not return.
        """
        if self.caller is None:
            raise GuestCallError("regs.call works inside a handler only, with the regs that it was given")
        return self.caller(function, args)

    def dump(self) -> str:
        """Return all registers as text, four to a line."""
        cells = [f"{name:>7} {getattr(self, name) & MASK64:016x}" for name in FIELDS]
        return "\n".join("  ".join(cells[i:i + 4]) for i in range(0, len(cells), 4))


#: Field names in memory order.
FIELDS = tuple(item.name for item in fields(PtRegs) if item.name != "caller")
_values = attrgetter(*FIELDS)
_LAYOUT = struct.Struct(f"<{len(FIELDS)}Q")
