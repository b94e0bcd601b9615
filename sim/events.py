"""What happened, as typed records with hart and cycle, and the log that holds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeVar

from sim.engine import Records, RetireFlag, RetireRecord

#: Version of the JSON lines that `EventLog.write_jsonl` writes; the first line carries it.
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a cycle; on hart None if on no one hart."""

    kind: ClassVar[str] = "event"
    hart: int | None
    cycle: int


@dataclass(frozen=True, slots=True)
class Retire(Event):
    """A uop retired; `hw.bus.RetirePort` says what each field means. `register`, `sp`, `load`, `store`: None without."""

    kind: ClassVar[str] = "retire"
    pc: int
    bytes: bytes
    first: bool
    last: bool
    again: bool
    delivery: bool
    next_pc: int
    rflags: int
    register: tuple[int, int] | None  # number, value
    sp: int | None
    load: tuple[int, int, int] | None  # address, bytes, value
    store: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Trap(Event):
    """A trap was taken, before its delivery. `error`: None where the vector has none. `rip`: the one that is saved."""

    kind: ClassVar[str] = "trap"
    vector: int
    error: int | None
    rip: int
    address: int
    event_class: int


@dataclass(frozen=True, slots=True)
class Deliver(Event):
    """A delivery ended; the next instruction is the handler's first, at `handler`."""

    kind: ClassVar[str] = "deliver"
    handler: int


@dataclass(frozen=True, slots=True)
class Iret(Event):
    """An iretq retired; the next instruction is at `rip`."""

    kind: ClassVar[str] = "iret"
    pc: int
    rip: int
    rflags: int


@dataclass(frozen=True, slots=True)
class TrapPortCall(Event):
    """The entry stub asked the runtime, which answered in this cycle. `rip` before and after it."""

    kind: ClassVar[str] = "trapport"
    vector: int
    regs: int
    rip: int
    resume: int
    handled: bool


@dataclass(frozen=True, slots=True)
class GuestCall(Event):
    """A handler has called the guest function at `address`, in cycle `began`, and has got `result`."""

    kind: ClassVar[str] = "call"
    address: int
    result: int
    began: int


@dataclass(frozen=True, slots=True)
class ProbePhase(Event):
    """A phase of a probe hit (`kprobes` names them), in the cycle of the TrapPortCall that it belongs to.

    `result` is what a handler returned, `reason` why handlers were not run.
    """

    kind: ClassVar[str] = "probe"
    phase: str
    address: int
    symbol: str
    ip: int
    result: int | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Console(Event):
    """A byte was written to the console."""

    kind: ClassVar[str] = "console"
    byte: int


@dataclass(frozen=True, slots=True)
class Exit(Event):
    """The guest ended the run; the exit status is (value << 1) | 1."""

    kind: ClassVar[str] = "exit"
    value: int


@dataclass(frozen=True, slots=True)
class Shutdown(Event):
    """A hart stopped on a triple fault. `chain`: the traps that led to it; each met the next in its delivery."""

    kind: ClassVar[str] = "shutdown"
    chain: tuple[Trap, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """An interrupt, NMI or debug trap was lost: its delivery met a fault, of vector `by`, and nothing repeats it."""

    kind: ClassVar[str] = "lost"
    vector: int
    event_class: int
    rip: int
    by: int


@dataclass(frozen=True, slots=True)
class Synced(Event):
    """A hart that was asked in cycle `asked` has serialised; `how`: by an "interrupt", or through the "debug port"."""

    kind: ClassVar[str] = "sync"
    asked: int
    how: str


E_ = TypeVar("E_", bound=Event)


def _retire(record: RetireRecord) -> Retire:
    flags = record.flags
    access = (record.mem_addr, 1 << record.mem_size, record.mem_data)
    return Retire(
        record.hart,
        record.cycle,
        record.pc,
        record.bytes[: record.length],
        bool(flags & RetireFlag.FIRST),
        bool(flags & RetireFlag.LAST),
        bool(flags & RetireFlag.AGAIN),
        bool(flags & RetireFlag.DELIVER),
        record.next_pc,
        record.rflags,
        (record.reg, record.reg_data) if flags & RetireFlag.REG_WE else None,
        record.sp if flags & RetireFlag.SP_WE else None,
        access if flags & RetireFlag.MEM_RE else None,
        access if flags & RetireFlag.MEM_WE else None,
    )


def from_records(records: Records, retires: bool | Container[int] = True) -> list[Event]:
    """Return the events of an engine's records, by cycle; Retire events only if asked for: all, or those at addresses."""
    events: list[Event] = []
    for record in records.retires:
        flags = record.flags
        if flags & RetireFlag.TRAP:
            error = record.trap_error if flags & RetireFlag.TRAP_HAS_ERROR else None
            where = record.hart, record.cycle
            what = record.trap_vector, error, record.trap_rip, record.trap_addr, record.trap_class
            events.append(Trap(*where, *what))
        if flags & RetireFlag.VALID:
            if retires is True or (retires and record.pc in retires):
                events.append(_retire(record))
            if flags & RetireFlag.LAST and flags & RetireFlag.DELIVER:
                events.append(Deliver(record.hart, record.cycle, record.next_pc))
            if flags & RetireFlag.LAST and flags & RetireFlag.IRET:
                events.append(Iret(record.hart, record.cycle, record.pc, record.next_pc, record.rflags))
    events += [Console(None, cycle, byte) for cycle, byte in records.console]
    events += [Exit(None, cycle, value) for cycle, value in records.exits]
    events.sort(key=lambda event: event.cycle)
    return events


def as_dict(event: Event) -> dict[str, object]:
    """Return an event as JSON has it: its kind, then its fields; bytes as hexadecimal text."""
    result: dict[str, object] = {"kind": event.kind}
    for item in fields(event):
        value = getattr(event, item.name)
        if isinstance(value, bytes):
            value = value.hex()
        elif isinstance(event, Shutdown) and item.name == "chain":
            value = [as_dict(trap) for trap in event.chain]
        result[item.name] = value
    return result


class EventLog:
    """Events in the order in which they happened."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def append(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def extend(self, events: Iterable[Event]) -> None:
        """Add events."""
        self._events.extend(events)

    def clear(self) -> None:
        """Drop all events."""
        self._events.clear()

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __getitem__(self, index: int) -> Event:
        return self._events[index]

    def of(self, kind: type[E_], hart: int | None = None) -> list[E_]:
        """Return the events of one type, of all harts or of one."""
        return [event for event in self._events if isinstance(event, kind) and hart in (None, event.hart)]

    def lines(self) -> Iterator[str]:
        """Yield the log as JSON, an object a line; the first names the version of the format."""
        yield json.dumps({"kind": "log", "schema": SCHEMA})
        for event in self._events:
            yield json.dumps(as_dict(event))

    def write_jsonl(self, path: str | Path) -> None:
        """Write the log to a file."""
        with open(path, "w") as file:
            file.writelines(line + "\n" for line in self.lines())

    def digest(self) -> str:
        """Return a SHA-256 of the log: equal logs have equal digests, on every engine."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()
