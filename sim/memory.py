"""Guest memory by virtual address: the static map of `hw.translate`, for code outside of the clock."""

from __future__ import annotations

from collections.abc import Callable

from hw.bus import HIGH_BASE
from sim.engine import Engine

_MASK = (1 << 64) - 1


class GuestMemoryError(ValueError):
    """A range of virtual addresses is not mapped, or not all of it."""


class GuestMemory:
    """RAM at 0 and again at `hw.bus.HIGH_BASE`.

    `changed` is called after each write: what a hart has fetched may be old then (see `Machine.run`).
    """

    def __init__(self, engine: Engine, changed: Callable[[], None] = lambda: None):
        self._engine, self._changed = engine, changed

    def translate(self, address: int, size: int = 1) -> int:
        """Return the physical address of `size` mapped bytes, or raise GuestMemoryError."""
        address &= _MASK
        physical = address - HIGH_BASE if address >= HIGH_BASE else address
        if size < 0 or physical + size > self._engine.config.ram_bytes:
            raise GuestMemoryError(
                f"{size} bytes at {address:#x} are not mapped: RAM is {self._engine.config.ram_bytes:#x} bytes at 0 and at "
                f"{HIGH_BASE:#x}"
            )
        return physical

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes, as the last store that retired left them."""
        return self._engine.read_mem(self.translate(address, size), size)

    def write(self, address: int, data: bytes) -> None:
        """Write all of `data`, or nothing if a byte of it is not mapped."""
        physical = self.translate(address, len(data))
        self._engine.write_mem(physical, bytes(data))
        self._changed()
