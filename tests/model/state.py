"""Architectural state of one hart and its memory. Constants are written here once more, as a second reader of the manual."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

M64 = (1 << 64) - 1
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
ES, CS, SS, DS, FS, GS = range(6)

CF, PF, AF, ZF, SF, TF, IF, DF, OF = (1 << n for n in (0, 2, 4, 6, 7, 8, 9, 10, 11))
IOPL, NT, RF, VM, AC, VIF, VIP, ID = 3 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21
STATUS = CF | PF | AF | ZF | SF | OF

#: The same RAM again, where kernels are linked; and the page of devices, for the supervisor.
HIGH = 0xFFFF_FFFF_8000_0000
DEVICES = 0xFFFF_FFFF_FE00_0000


class Fault(Exception):
    """An exception that an instruction, or a delivery, raises. `error`: None where the vector has no error code."""

    def __init__(self, vector: int, error: int | None = None, cr2: int | None = None):
        super().__init__(f"vector {vector}, error {error}, cr2 {cr2}")
        self.vector, self.error, self.cr2 = vector, error, cr2


class Unmodelled(Exception):
    """The model does not know this: the comparison ends here, and says so."""


def ud() -> Fault:
    """#UD"""
    return Fault(6)


def gp(error: int = 0) -> Fault:
    """#GP(error)"""
    return Fault(13, error)


def canonical(address: int) -> bool:
    """Whether bits 63 to 47 are equal."""
    return address >> 47 in (0, (1 << 17) - 1)


class Memory:
    """RAM at 0 and at `HIGH`; everything else is missing. Stores are kept until `settle` or `undo`."""

    def __init__(self, size: int):
        self.size = size
        self.buffer = (ctypes.c_uint8 * size)()
        self.bytes = memoryview(self.buffer).cast("B")
        self.written: list[tuple[int, bytes]] = []  # offset, bytes before
        self.stores: list[tuple[int, int]] = []  # linear address, size
        self.loads: list[tuple[int, int]] = []
        self.dirty: set[int] = set()  # pages stored to, for whoever cleans up
        self.aligned = False  # CPL 3 asks for aligned accesses: CR0.AM and RFLAGS.AC

    def offset(self, address: int) -> int | None:
        """Where a linear address lies in RAM."""
        if address < self.size:
            return address
        if HIGH <= address < HIGH + self.size:
            return address - HIGH
        return None

    def first_missing(self, address: int, size: int) -> int | None:
        """The first byte of an access that is not there."""
        for byte in range(address, address + size):
            if self.offset(byte & M64) is None:
                return byte & M64
        return None

    def peek(self, address: int, size: int) -> bytes:
        """Bytes for whoever looks from outside; IndexError outside RAM."""
        at = self.offset(address)
        if at is None or at + size > self.size:
            raise IndexError(f"{address:#x}")
        return bytes(self.bytes[at : at + size])

    def put(self, offset: int, data: bytes) -> None:
        """Change bytes from outside."""
        self.bytes[offset : offset + len(data)] = data

    def load(self, address: int, size: int, *, stack: bool = False, user: bool = False, quiet: bool = False) -> int:
        """A load as an instruction makes it. `quiet`: an implicit one, of a table."""
        self.check(address, size, 0, stack, user)
        if not quiet:
            self.loads.append((address, size))
        at = self.offset(address)
        assert at is not None
        return int.from_bytes(self.bytes[at : at + size], "little")

    def store(self, address: int, size: int, value: int, *, stack: bool = False, user: bool = False) -> None:
        """A store as an instruction makes it."""
        self.check(address, size, 2, stack, user)
        at = self.offset(address)
        assert at is not None
        self.note(address, at, size)
        self.bytes[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def check(self, address: int, size: int, write: int, stack: bool, user: bool) -> None:
        """Raise the fault of an access: canonical first (#SS on the stack, else #GP), then missing (manual 1.7)."""
        if not canonical(address):
            raise Fault(12 if stack else 13, 0)
        if self.aligned and user and address % size:
            raise Fault(17, 0)
        missing = self.first_missing(address, size)
        if missing is not None:
            raise Fault(14, write | user << 2, missing)

    def note(self, address: int, at: int, size: int) -> None:
        """A store is about to happen at this offset."""
        self.written.append((at, bytes(self.bytes[at : at + size])))
        self.stores.append((address, size))
        self.dirty.update((at >> 12, at + size - 1 >> 12))

    def undo(self) -> None:
        """Take back the stores since `settle`."""
        for at, before in reversed(self.written):
            self.bytes[at : at + len(before)] = before
        self.settle()

    def settle(self) -> None:
        """The stores and loads until now belong to the past."""
        self.written.clear()
        self.stores.clear()
        self.loads.clear()


@dataclass
class State:
    """Registers of a hart, as the core has them after reset."""

    memory: Memory
    regs: list[int] = field(default_factory=lambda: [0] * 16)
    rip: int = 0
    rflags: int = 2
    selectors: list[int] = field(default_factory=lambda: [0x10, 8, 0x10, 0x10, 0, 0])
    #: Descriptors of the data segments as they were loaded; None: null.
    cached: list[int | None] = field(default_factory=lambda: [0x00CF93000000FFFF, None, None, 0x00CF93000000FFFF, None, None])
    cr0: int = 0x80050033
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0x20
    cr8: int = 0
    dr: list[int] = field(default_factory=lambda: [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400])
    idt: tuple[int, int] = (0, 0xFFFF)
    gdt: tuple[int, int] = (0, 0)
    tr: int = 0
    tss: tuple[int, int] = (0, 0)
    ldtr: int = 0
    fs_base: int = 0
    gs_base: int = 0
    kernel_gs_base: int = 0
    vendor: str = "intel"
    msrs: dict[int, int] = field(default_factory=dict)  # those that have no name here, once they were written

    @property
    def cpl(self) -> int:
        """Current privilege level."""
        return self.selectors[CS] & 3

    @property
    def iopl(self) -> int:
        """I/O privilege level."""
        return self.rflags >> 12 & 3

    def descriptor(self, selector: int, size: int = 8) -> int | None:
        """The descriptor (a 16-byte one with `size` 16) of a selector; None outside the table, or if an LDT is asked for."""
        base, limit = self.gdt
        if selector & 4 or (selector & 0xFFF8) + size - 1 > limit:
            return None
        return self.memory.load(base + (selector & 0xFFF8) & M64, size, quiet=True)
