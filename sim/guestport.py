"""The guest as the probe runtime sees it: `kprobes.port.Guest` over a machine."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from hw.bus import DEVICE_VIRT, HIGH_BASE
from hw.isa.facts import DebugReg, RFlag
from kprobes import Door, Module, Symbols
from kprobes import GuestMemoryError as KprobesMemoryError
from sim.engine import Recording, StopReason
from sim.memory import GuestMemoryError

if TYPE_CHECKING:
    from sim.machine import Machine

PAGE = 4096

#: While the runtime waits for harts, it looks at them each so many cycles, and gives up after so many.
CHUNK, PATIENCE = 16, 20_000


class GuestPort:
    """What the runtime asks of the machine (`kprobes.port.Guest` says what each member means)."""

    def __init__(self, machine: Machine, pages: list[int]):
        """`pages`: physical pages of RAM for the runtime's code."""
        self._machine, self._free_pages = machine, pages
        self._entries: tuple[object, frozenset[int]] = (None, frozenset())
        self._fixups: tuple[object, dict[int, int]] = (None, {})

    @property
    def cpus(self) -> int:
        """The number of harts."""
        return len(self._machine.harts)

    @property
    def symbols(self) -> Symbols:
        """The symbols of the image."""
        return cast(Symbols, self._machine.symbols)  # the same members, read-only here

    @property
    def now(self) -> int:
        """The current cycle."""
        return self._machine.cycle

    def read(self, addr: int, n: int) -> bytes:
        """Read guest memory by virtual address."""
        try:
            return self._machine.mem.read(addr, n)
        except GuestMemoryError as error:
            raise KprobesMemoryError(str(error)) from None

    def write(self, addr: int, data: bytes) -> None:
        """Harts fetch text again at `sync_cores`, which follows each write to it."""
        try:
            self._machine.mem.store(addr, data)
        except GuestMemoryError as error:
            raise KprobesMemoryError(str(error)) from None

    def sync_cores(self) -> None:
        """As `sim.coresync` does it."""
        self._machine.cores.sync()

    def wait(self, done: Callable[[], bool]) -> bool:
        """Run the harts as `CoreSync` does while it waits. They are not run if nobody records where traps return to, nor if
        harts are not made to see changes of code (sync "none"), which takes no time either.
        """
        machine = self._machine
        if not machine.idle or machine.cores.how == "none" or machine.record_mode == Recording.OFF:
            return done()
        last = machine.cycle + PATIENCE
        with machine.loop.request():
            for ended in machine.loop.pieces(CHUNK, done):
                if ended.reason == StopReason.HALTED or machine.cycle >= last:
                    break
        return done()

    def is_text(self, addr: int) -> bool:
        """Whether code of the image or of `Machine.load` lies there."""
        machine = self._machine
        return machine.symbols.is_text(addr) or any(start <= addr < end for start, end in machine.text)

    def alloc_text_page(self, near: int) -> int:
        """Return a zeroed page in the alias of RAM that `near` lies in."""
        if not self._free_pages:
            raise MemoryError("all pages for slots are in use")
        physical = self._free_pages.pop()
        self._machine.engine.write_mem(physical, bytes(PAGE))
        return physical + (HIGH_BASE if near >= HIGH_BASE else 0)

    def free_text_page(self, addr: int) -> None:
        """Take a page back."""
        self._free_pages.append(self._machine.mem.translate(addr, PAGE))

    def blacklist(self) -> Iterable[tuple[int, int, str]]:
        """Name the entry code of the traps, and code of the machine's own."""
        start, end = (self._machine.symbols.lookup(f"__entry_text_{edge}") for edge in ("start", "end"))
        if start is not None and end is not None:
            yield start, end, "the entry code of the traps"
        first, last = self._machine.port.code
        for alias in (0, HIGH_BASE):
            yield alias + first, alias + last, "the code of the machine itself"

    def stack_end(self, cpu: int, sp: int) -> int:
        """Return the end of the data object that `sp` points into (a stack in an array), else of RAM, where the first is."""
        symbol = self._machine.symbols.containing(sp)
        if symbol is not None and not self._machine.symbols.is_text(sp):
            return symbol.end
        ram = self._machine.engine.config.ram_bytes
        return ram + (HIGH_BASE if sp >= HIGH_BASE else 0)

    def door(self, number: Door) -> int:
        """Return the place in the device page."""
        return DEVICE_VIRT + 8 * number

    def call(self, cpu: int, addr: int, args: tuple[int, ...]) -> int:
        """Run a guest function on a hart whose handler is under way."""
        return self._machine.port.call(cpu, addr, args)

    def fixup(self, addr: int) -> int | None:
        """Entries are pairs of 32-bit offsets from their own places, between the symbols that the kernel uses. They are read
        once for an image."""
        table, targets = self._fixups
        if table is not self._machine.symbols:
            targets = {}
            for start, stop in self._tables("__ex_table"):
                pairs = struct.iter_unpack("<ii", self.read(start, stop - start))
                targets |= {at + insn: at + 4 + to for at, (insn, to) in zip(range(start, stop, 8), pairs, strict=True)}
            self._fixups = self._machine.symbols, targets
        return targets.get(addr)

    def fentry(self, addr: int) -> bool:
        """Look in the list that the compiler made, between the symbols that the kernel uses. It is read once for an image."""
        table, places = self._entries
        if table is not self._machine.symbols:
            spans = self._tables("mcount_loc")
            places = frozenset(
                place for start, stop in spans for place, in struct.iter_unpack("<Q", self.read(start, stop - start)))
            self._entries = self._machine.symbols, places
        return addr in places

    def module(self, addr: int) -> Module | None:
        """Ask the machine's modules."""
        return self._machine.modules.containing(addr)

    def _tables(self, name: str) -> Iterable[tuple[int, int]]:
        """Return where a table of the image lies, and those of the modules."""
        symbols = self._machine.symbols
        for where in ("", *(f"{module}:" for module in self._machine.modules.names())):
            start, stop = (symbols.lookup(f"{where}__{edge}_{name}") for edge in ("start", "stop"))
            if start is not None and stop is not None and start < stop:
                yield start, stop

    def settled(self, start: int, end: int) -> bool:
        """Ask each hart."""
        return all(self._settled(number, start, end) for number in range(len(self._machine.harts)))

    def _settled(self, number: int, start: int, end: int) -> bool:
        """A trap that saved an address in the range counts until its iretq, or until the hart is seen outside of handlers.

        Where a hart will go on that stands in a request is for the runtime to say.
        """
        machine, engine = self._machine, self._machine.engine
        state = engine.state(number)
        if start <= engine.read_reg(number, DebugReg.RIP) < end or (state.trap_request and machine.port.waits(number)):
            return False
        enabled = state.boundary and not state.trap_request and engine.read_reg(number, DebugReg.RFLAGS) >> RFlag.IF & 1
        if enabled or state.halted:
            machine.returns.forget(number)
        elif machine.record_mode == Recording.OFF:
            return False  # nobody has noted what this hart's traps saved
        return not machine.returns.any_in(number, start, end)
