"""Page tables built and walked in Python, from the manual (SDM vol. 3, 4.5 to 4.8): what the hardware is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from hw.bus import APIC_BASE, DEVICE_PHYS, DEVICE_VIRT, HIGH_BASE

P, W, U, A, D, PS = (1 << bit for bit in (0, 1, 2, 5, 6, 7))
NX = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
RAM = 16 << 20
DEVICES = (0xFE000000, 0xFEE00000)


@dataclass(frozen=True)
class Who:
    """An access, and the control bits that decide about it."""

    write: bool = False
    user: bool = False
    fetch: bool = False
    wp: bool = True
    nxe: bool = True
    smep: bool = False
    smap: bool = False


@dataclass
class Walk:
    """The end of a walk: a physical address, or the error code of a page fault; the entries as it leaves them."""

    pa: int | None
    error: int | None
    marks: dict[int, int]


def walk(memory: dict[int, int], root: int, la: int, who: Who, ram: int = RAM) -> Walk:
    """Walk the quadwords of `memory` for the linear address."""
    code = who.write << 1 | who.user << 2 | (who.fetch and (who.nxe or who.smep)) << 4
    marks: dict[int, int] = {}
    table, writable, user, executable = root & ADDRESS, True, True, True
    for level in (3, 2, 1, 0):
        if table >= ram:
            return Walk(None, code | 9, marks)
        where = table + 8 * (la >> 12 + 9 * level & 511)
        entry = memory.get(where, 0)
        if not entry & P:
            return Walk(None, code, marks)
        size = 1 << 12 + 9 * level
        leaf = level == 0 or (level < 3 and bool(entry & PS))
        base = entry & ADDRESS
        reserved = entry >> 32 & 0xFFFFF or (entry & NX and not who.nxe) or (level == 3 and entry & PS)
        if leaf and level:
            reserved = reserved or base & (size - 1) & ~0x1000  # bit 12 is PAT
            base &= ~(size - 1)
        physical = base | la & (size - 1) if leaf else base
        if physical >= ram and not (leaf and physical & ~0xFFF in DEVICES):
            reserved = 1
        if reserved:
            return Walk(None, code | 9, marks)
        writable &= bool(entry & W)
        user &= bool(entry & U)
        executable &= not entry & NX
        if leaf and not allowed(who, writable, user, executable):
            return Walk(None, code | 1, marks)
        marks[where] = entry | A | (D if leaf and who.write else 0)
        if leaf:
            return Walk(physical, None, marks)
        table = base
    raise AssertionError


def allowed(who: Who, writable: bool, user: bool, executable: bool) -> bool:
    """SDM vol. 3, 4.6.1."""
    if who.fetch:
        return executable and (user if who.user else not (user and who.smep))
    if who.user:
        return user and (writable or not who.write)
    if user and who.smap:
        return False
    return not who.write or writable or not who.wp


class Builder:
    """Makes tables in physical memory from `at` on; `memory` holds the quadwords that are not 0."""

    def __init__(self, at: int):
        self.memory: dict[int, int] = {}
        self._next = at
        self.root = self._table()

    def _table(self) -> int:
        self._next += 0x1000
        return self._next - 0x1000

    def map(self, la: int, pa: int, rights: int = P | W | U, level: int = 0, above: int = P | W | U) -> int:
        """Map the page of `la` (4 KiB, 2 MiB or 1 GiB by level) to `pa`; return where its entry lies."""
        table = self.root
        for here in range(3, level, -1):
            where = table + 8 * (la >> 12 + 9 * here & 511)
            if where not in self.memory:
                self.memory[where] = self._table() | above
            table = self.memory[where] & 0xFFFFF000
        where = table + 8 * (la >> 12 + 9 * level & 511)
        self.memory[where] = pa | rights | (PS if level else 0)
        return where

    def like_the_static_map(self, ram: int = RAM) -> None:
        """RAM at 0 and in the top 2 GiB, for everybody; pages of devices, for the supervisor."""
        for pa in range(0, ram, 1 << 21):
            self.map(pa, pa, level=1)
            self.map(HIGH_BASE + pa, pa, level=1)
        self.map(APIC_BASE, APIC_BASE, P | W)
        self.map(DEVICE_VIRT, DEVICE_PHYS, P | W)
