"""An event and its probes: what runs on a hit.

All parsing is done when the probe is defined; a hit counts, reads the arguments through compiled programs, asks the
compiled filter, and hands one record on.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kprobes.port import Guest, GuestMemoryError
from kprobes.probes import Kprobe, KprobeFlag, Kretprobe, KretprobeInstance
from kprobes.ptregs import MASK64, PtRegs
from kprobes.runtime import Kprobes
from kprobes.tracing.argument import Argument
from kprobes.tracing.command import Location
from kprobes.tracing.fetch import Program
from kprobes.tracing.filter import Predicate
from kprobes.tracing.record import Field, Layout, TraceRecord

#: What tells the probes of one event apart: the place, and the arguments as they were written.
Key = tuple[Location, tuple[str, ...]]


@dataclass(eq=False, slots=True)
class Event:
    """One or more probes under one name, enabled, filtered and counted together.

    ``filter`` is the text of the filter, empty without one; ``emit`` takes the records that pass it.
    """

    layout: Layout
    emit: Callable[[TraceRecord], object]
    probes: dict[Key, TraceProbe] = field(default_factory=dict["Key", "TraceProbe"])
    enabled: bool = False
    filter: str = ""
    keeps: Predicate | None = None

    @property
    def name(self) -> str:
        """GROUP/EVENT."""
        return f"{self.layout.group}/{self.layout.event}"

    @property
    def hits(self) -> int:
        """How often a probe of this event ran, filtered or not."""
        return sum(probe.hits for probe in self.probes.values())

    @property
    def misses(self) -> int:
        """How often a probe of this event was passed without being run."""
        return sum(probe.misses for probe in self.probes.values())

    @property
    def reasons(self) -> Counter[str]:
        """Why its probes were not run, and how often; more than ``misses`` counts."""
        return sum((probe.reasons for probe in self.probes.values()), Counter())

    def add(self, record: TraceRecord) -> None:
        """Hand a record on, unless the filter drops it."""
        if self.keeps is None or self.keeps(record):
            self.emit(record)


@dataclass(eq=False, slots=True)
class TraceProbe:
    """One probed place. ``probe`` is the registered struct, None while the place's module is not loaded."""

    event: Event
    location: Location
    arguments: tuple[Argument, ...]
    maxactive: int = 0
    saved: tuple[Program, ...] = ()
    probe: Kprobe | Kretprobe | None = None
    hits: int = 0
    missed: int = 0  # by structs that are no longer registered
    past: Counter[str] = field(default_factory=Counter[str])  # the same by reason

    def __str__(self) -> str:
        """As it is read back from ``kprobe_events``."""
        kind = f"r{self.maxactive or ''}" if self.event.layout.is_return else "p"
        return " ".join((f"{kind}:{self.event.name}", str(self.location), *map(str, self.arguments)))

    @property
    def key(self) -> Key:
        """What no other probe of the event has."""
        return self.location, tuple(argument.body for argument in self.arguments)

    @property
    def misses(self) -> int:
        """Hits inside another hit, and calls for which no instance was free."""
        probe = self.probe
        if probe is None:
            return self.missed
        return self.missed + (probe.kp.nmissed + probe.nmissed if isinstance(probe, Kretprobe) else probe.nmissed)

    @property
    def reasons(self) -> Counter[str]:
        """Why it was not run, and how often (``kprobes.probes.Miss``)."""
        p = self._kprobe()
        return self.past + Counter({str(reason): count for reason, count in p.misses.items()} if p is not None else {})

    def _kprobe(self) -> Kprobe | None:
        return self.probe.kp if isinstance(self.probe, Kretprobe) else self.probe

    def register(self, kprobes: Kprobes, guest: Guest) -> None:
        """Plant the probe, armed if the event is enabled; raise ``KprobeError``."""
        where = self.location
        flags = 0 if self.event.enabled else int(KprobeFlag.DISABLED)
        if self.event.layout.is_return:
            rp = Kretprobe(
                handler=self._on_return(kprobes, guest), entry_handler=self._on_call(kprobes) if self.saved else None,
                maxactive=self.maxactive, data_size=8 * len(self.saved),
                symbol_name=where.symbol, offset=where.offset, addr=where.addr)
            rp.kp.flags = flags
            kprobes.register_kretprobe(rp)
            self.probe = rp
        else:
            p = Kprobe(where.symbol, where.offset, where.addr, self._on_hit(kprobes, guest), flags=flags)
            kprobes.register_kprobe(p)
            self.probe = p

    def unregister(self, kprobes: Kprobes) -> None:
        """Take the probe out, if there is one."""
        if isinstance(self.probe, Kretprobe):
            kprobes.unregister_kretprobe(self.probe)
        elif self.probe is not None:
            kprobes.unregister_kprobe(self.probe)
        self.missed, self.past = self.misses, self.reasons
        self.probe = None

    def set_enabled(self, kprobes: Kprobes, on: bool) -> None:
        """Arm or disarm, if the probe is planted."""
        p = self._kprobe()
        if p is not None:
            (kprobes.enable_kprobe if on else kprobes.disable_kprobe)(p)

    def _on_hit(self, kprobes: Kprobes, guest: Guest) -> Callable[[Kprobe, PtRegs], int]:
        event, layout = self.event, self.event.layout
        readers = [argument.read for argument in self.arguments]

        def pre_handler(p: Kprobe, regs: PtRegs) -> int:
            self.hits += 1
            cpu = kprobes.cpu
            assert p.addr is not None
            values = tuple([read(regs, cpu, ()) for read in readers])
            event.add(TraceRecord(layout, cpu, guest.now, regs.flags, p.addr, None, values))
            return 0

        return pre_handler

    def _on_call(self, kprobes: Kprobes) -> Callable[[KretprobeInstance, PtRegs], int]:
        """Save what the arguments want of the function's entry."""
        programs, packed = self.saved, struct.Struct(f"<{len(self.saved)}Q")

        def value(program: Program, regs: PtRegs, cpu: int) -> int:
            try:
                return program(regs, cpu, ()) & MASK64
            except GuestMemoryError:
                return 0

        def entry_handler(ri: KretprobeInstance, regs: PtRegs) -> int:
            cpu = kprobes.cpu
            packed.pack_into(ri.data, 0, *[value(program, regs, cpu) for program in programs])
            return 0

        return entry_handler

    def _on_return(self, kprobes: Kprobes, guest: Guest) -> Callable[[KretprobeInstance, PtRegs], None]:
        event, layout = self.event, self.event.layout
        readers, packed = [argument.read for argument in self.arguments], struct.Struct(f"<{len(self.saved)}Q")

        def handler(ri: KretprobeInstance, regs: PtRegs) -> None:
            self.hits += 1
            if not event.enabled or ri.rp is None or ri.rp.kp.addr is None:
                return
            cpu, saved = kprobes.cpu, packed.unpack_from(ri.data)
            values = tuple([read(regs, cpu, saved) for read in readers])
            event.add(TraceRecord(layout, cpu, guest.now, regs.flags, ri.rp.kp.addr, ri.ret_addr, values))

        return handler


def layout_of(group: str, event: str, is_return: bool, arguments: tuple[Argument, ...]) -> Layout:
    """Return the layout of an event's records."""
    fields = tuple(Field(argument.name, argument.type, argument.count) for argument in arguments)
    return Layout(group, event, is_return, fields)
