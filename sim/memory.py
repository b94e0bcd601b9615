"""Guest memory by virtual address, for code outside of the clock: the static map of `hw.translate`, or CR3's tables."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from hw.bus import HIGH_BASE
from hw.isa.facts import DebugReg, SysReg
from hw.paging import LARGE, PRESENT
from sim.engine import Engine

_MASK = (1 << 64) - 1
_FRAME = 0x000F_FFFF_FFFF_F000
_PAGE = 4096


class GuestMemoryError(ValueError):
    """A range of virtual addresses is not mapped, or not all of it."""


class GuestMemory:
    """RAM at 0 and again at `hw.bus.HIGH_BASE`; once CR3 of hart 0 points to tables, whatever they map, rights aside.

    `changed` is called after each write: what a hart has fetched may be old then (see `Machine.run`).
    """

    def __init__(self, engine: Engine, changed: Callable[[], None] = lambda: None):
        self._engine, self._changed = engine, changed

    def translate(self, address: int, size: int = 1) -> int:
        """Return the physical address of `size` mapped bytes in one piece, or raise GuestMemoryError."""
        pieces = list(self._pieces(address, size))
        start = pieces[0][0]
        if any(at != start + done for at, done, _ in pieces):
            raise GuestMemoryError(f"{size} bytes at {address & _MASK:#x} do not lie in one piece of physical memory")
        return start

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes, as the last store that retired left them."""
        return b"".join(self._engine.read_mem(at, n) for at, _, n in self._pieces(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Write all of `data`, or nothing if a byte of it is not mapped."""
        self.store(address, data)
        self._changed()

    def store(self, address: int, data: bytes) -> None:
        """Write what no hart has fetched as code."""
        data = bytes(data)
        for at, done, n in list(self._pieces(address, len(data))):
            self._engine.write_mem(at, data[done : done + n])

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield physical address, offset and length of the pieces in which the bytes lie."""
        address &= _MASK
        root = self._engine.read_reg(0, DebugReg.SYS + SysReg.CR3) & _FRAME
        if not root or size < 0:
            yield self._static(address, size), 0, size
            return
        done = 0
        while True:
            here = address + done & _MASK
            n = min(size - done, _PAGE - here % _PAGE)
            yield self._walk(root, here), done, n
            done += n
            if done >= size:
                return

    def _static(self, address: int, size: int) -> int:
        ram = self._engine.config.ram_bytes
        physical = address - HIGH_BASE if address >= HIGH_BASE else address
        if size < 0 or physical + size > ram:
            raise GuestMemoryError(
                f"{size} bytes at {address:#x} are not mapped: RAM is {ram:#x} bytes at 0 and at {HIGH_BASE:#x}"
            )
        return physical

    def _walk(self, table: int, address: int) -> int:
        """The physical address of one byte, by the tables (SDM vol. 3, 4.5)."""
        ram = self._engine.config.ram_bytes
        for level in (3, 2, 1, 0):
            where = table + 8 * (address >> 12 + 9 * level & 511)
            entry = struct.unpack("<Q", self._engine.read_mem(where, 8))[0] if where + 8 <= ram else 0
            table = entry & _FRAME
            if not entry >> PRESENT & 1:
                break
            if level == 0 or (level < 3 and entry >> LARGE & 1):
                mask = (1 << 12 + 9 * level) - 1
                physical = (table & ~mask) | (address & mask)
                if physical < ram:
                    return physical
                break
        raise GuestMemoryError(f"{address:#x} is not mapped to RAM by the tables that CR3 points to")
