"""Exploration: the same program again and again, with one event from outside shifted over every cycle of a window.

Nothing of what a program computes may depend on the cycle in which an interrupt comes, or in which a probe is armed. So
each run is compared with the undisturbed one (`sim.outcome`). Runs begin at a snapshot that moves on with the window; an
engine that cannot save runs each from reset instead, which `Exploration.note` says::

    found = explore(lambda: Machine("guest.elf", record=Recording.ALL), nmi(), range(4000, 4200))
    assert not found.findings, found.findings[0]

A probe is missed if its instruction runs in place after the request that armed it has returned. No hart may ever run a
mixture of old and new bytes. For both runs need ``record=Recording.ALL``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hw.bus import HIGH_BASE
from hw.isa.facts import Vector
from sim.engine import DesignError, StopReason
from sim.events import Event, ProbePhase
from sim.machine import HandlerError, Kprobe, KprobePanic, Machine, Snapshot
from sim.misses import misses
from sim.outcome import Outcome, Range, dead_memory, differences, losses, outcome
from sim.probedtext import JUMP_SIZE, left, original, torn

#: A new snapshot is taken after so many cycles of the window: it costs as much as running a thousand.
SPACING = 128

#: A run may take so many cycles more than the undisturbed one, and twice its length.
PATIENCE = 20_000

NO_SNAPSHOT = "the engine {} cannot save its state: each run started at reset, which the compiled engine does not need"


@dataclass(frozen=True)
class Disturbance:
    """An event from outside, as ``name`` writes it.

    `apply` lets it happen in the current cycle. `trap`: hart and vector of the trap that it causes, once. `ignore`: symbols
    whose memory it may change. `arms`, `disarms`: the probed place, as for a Kprobe.
    """

    name: str
    apply: Callable[[Machine], object]
    trap: tuple[int, int] | None = None
    ignore: tuple[str, ...] = ()
    arms: tuple[str, int] | None = None
    disarms: tuple[str, int] | None = None


def irq(vector: int = 32, hart: int = 0) -> Disturbance:
    """An external interrupt. The guests of the project count it in irq_count."""
    return Disturbance(f"irq:{vector}@{hart}", lambda m: m.harts[hart].irq(vector), (hart, vector), ("irq_count",))


def ipi(vector: int = 40, hart: int = 0) -> Disturbance:
    """An interprocessor interrupt from outside. The guests of the project count it in ipi_count."""
    return Disturbance(f"ipi:{vector}@{hart}", lambda m: m.harts[hart].ipi(vector), (hart, vector), ("ipi_count",))


def nmi(hart: int = 0) -> Disturbance:
    """A non-maskable interrupt."""
    return Disturbance(f"nmi@{hart}", lambda m: m.harts[hart].nmi(), (hart, int(Vector.NMI)), ("nmi_count",))


def arm(symbol: str, offset: int = 0, make: Callable[[], Kprobe] | None = None) -> Disturbance:
    """A probe is registered; `make` returns it, with handlers, or it only counts."""

    def apply(machine: Machine) -> None:
        machine.kprobes.register_kprobe(make() if make else Kprobe(symbol_name=symbol, offset=offset))

    return Disturbance(f"arm:{symbol}+{offset:#x}", apply, arms=(symbol, offset))


def disarm(symbol: str, offset: int = 0) -> Disturbance:
    """The probe there is unregistered."""

    def apply(machine: Machine) -> None:
        probe = machine.kprobes.get_kprobe(address_of(machine, (symbol, offset)))
        assert probe is not None  # the explorer has looked
        machine.kprobes.unregister_kprobe(probe)

    return Disturbance(f"disarm:{symbol}+{offset:#x}", apply, disarms=(symbol, offset))


def address_of(machine: Machine, place: tuple[str, int]) -> int:
    """Return the address of a symbol and an offset. ValueError if there is no such symbol."""
    base = machine.symbols.lookup(place[0])
    if base is None:
        raise ValueError(f"there is no symbol {place[0]!r} in the guest")
    return base + place[1]


class Finding(NamedTuple):
    """What went wrong when the event came in this cycle."""

    cycle: int
    disturbance: str
    problems: list[str]

    def __str__(self) -> str:
        return f"{self.disturbance} in cycle {self.cycle}: " + "; ".join(self.problems)


@dataclass
class Exploration:
    """All runs over a window. `simulated`: cycles, of all runs together. `note`: what made it slow, if anything."""

    disturbance: str
    window: range
    findings: list[Finding] = field(default_factory=list)
    runs: int = 0
    simulated: int = 0
    seconds: float = 0.0
    note: str = ""


class Explorer:
    """One program and one window of its run; `explore` is its short form.

    `make` returns a machine, always the same, with its standing probes; it is closed here. `until` ends a run, as for
    `Machine.run`. `ignore`: symbols, or ranges of physical addresses, whose memory may differ; what is dead at the end, and
    the runtime's slots, may always.
    """

    def __init__(
        self,
        make: Callable[[], Machine],
        *,
        until: str | int | None = None,
        ignore: Iterable[str | Range] = (),
        max_cycles: int = 10_000_000,
    ):
        self._make, self._until, self._ignore, self._max_cycles = make, until, tuple(ignore), max_cycles

    def explore(
        self,
        disturbance: Disturbance,
        window: range,
        *,
        most: int | None = 10,
        progress: Callable[[int], object] = lambda runs: None,
    ) -> Exploration:
        """Let the event come in each cycle of the window; stop after `most` findings (None: never)."""
        found, began = Exploration(disturbance.name, window), time.perf_counter()
        machine = self._make()
        try:
            for cycle, problems in self._runs(machine, disturbance, window, found):
                if problems:
                    found.findings.append(Finding(cycle, disturbance.name, problems))
                found.runs += 1
                progress(found.runs)
                if most is not None and len(found.findings) >= most:
                    break
        finally:
            machine.close()
        found.seconds = time.perf_counter() - began
        return found

    def undisturbed(self) -> Machine:
        """Return a machine after a whole run without the event, to choose a window by its events; the caller closes it."""
        machine = self._make()
        machine.run(self._max_cycles, self._until)
        return machine

    def _runs(
        self, machine: Machine, disturbance: Disturbance, window: range, found: Exploration
    ) -> Iterator[tuple[int, list[str]]]:
        can_save = "snapshot" in machine.engine.capabilities
        place = disturbance.arms or disturbance.disarms
        probed = {p.addr for p in machine.kprobes.registered if p.addr is not None}
        watched = {at: original(machine, at) for at in probed | ({address_of(machine, place)} if place else set())}
        if disturbance.disarms and address_of(machine, disturbance.disarms) not in probed:
            raise ValueError(f"{disturbance.name}: there is no probe there to remove; plant it first")
        if disturbance.trap and disturbance.trap[0] >= len(machine.harts):
            raise ValueError(f"{disturbance.name}: there is no such hart; the machine has {len(machine.harts)} (--harts N)")
        machine.watch = watched
        advance(machine, window.start)
        base = machine.snapshot() if can_save else None
        found.note = "" if base else NO_SNAPSHOT.format(machine.engine.name)
        first = len(machine.events)
        wanted = self._finish(machine, first, watched)
        if disturbance.trap:
            wanted.traps[disturbance.trap] += 1
        limit = 2 * (machine.cycle - window.start) + PATIENCE
        covered = JUMP_SIZE if machine.kprobes.options.optimize else 1  # a jump, or a breakpoint
        ignored = [*self._ranges(machine, disturbance), *((a % HIGH_BASE, a % HIGH_BASE + covered) for a in watched)]
        if window[-1] >= machine.cycle:
            raise ValueError(f"the undisturbed run ends in cycle {machine.cycle}: the window has to end before")
        for cycle in window:
            machine, base = self._back(machine, base, cycle)
            before = machine.cycle
            yield cycle, self._disturbed(machine, disturbance, first, watched, wanted, ignored, limit)
            found.simulated += machine.cycle - before

    def _back(self, machine: Machine, base: Snapshot | None, cycle: int) -> tuple[Machine, Snapshot | None]:
        """The machine in a cycle of the undisturbed run, by the last snapshot, and a newer snapshot if that is old."""
        if base is None:
            machine.close()
            watched, machine = machine.watch, self._make()
            machine.watch = watched
            advance(machine, cycle)
            return machine, None
        machine.restore(base)
        advance(machine, cycle)
        return machine, machine.snapshot() if cycle - base.cycle >= SPACING else base

    def _disturbed(
        self,
        machine: Machine,
        disturbance: Disturbance,
        first: int,
        watched: dict[int, bytes],
        wanted: Outcome,
        ignored: Sequence[Range],
        limit: int,
    ) -> list[str]:
        began = len(machine.events)
        try:
            disturbance.apply(machine)
            machine.sync()
            synced = len(machine.events)
            mine = self._finish(machine, first, watched, limit)
        except (HandlerError, KprobePanic, DesignError) as error:
            return [str(error)]
        events = list(machine.events)
        problems = [*differences(machine, mine, wanted, ignored), *losses(machine, events[first:])]
        place = disturbance.arms or disturbance.disarms
        moved = address_of(machine, place) if place else None
        for address, code in sorted(watched.items()):
            start, end = first, len(events)
            if address == moved:  # from its beginning until all harts have synced, either is right
                start, end = (synced, end) if disturbance.arms else (first, began)
                removed = events[synced:] if disturbance.disarms else []
                problems += _stray(machine, removed, address)
                problems += left(machine, address, code) if disturbance.disarms else ()
            problems += _missed(machine, events[:end], address, code[0], start)
            problems += torn(machine, events[first:], address, code)
        return problems

    def _finish(self, machine: Machine, first: int, watched: dict[int, bytes], limit: int | None = None) -> Outcome:
        result = machine.run(self._max_cycles if limit is None else limit, self._until)
        events = (machine.events[i] for i in range(first, len(machine.events)))
        return outcome(machine, result.reason, events, watched)

    def _ranges(self, machine: Machine, disturbance: Disturbance) -> Iterator[Range]:
        yield from dead_memory(machine)
        for item in (*self._ignore, *disturbance.ignore):
            if not isinstance(item, str):
                yield item
                continue
            start = machine.symbols.lookup(item)
            symbol = None if start is None else machine.symbols.containing(start)
            if symbol is not None:
                yield symbol.start % HIGH_BASE, symbol.end % HIGH_BASE
            elif item in self._ignore:
                raise ValueError(f"there is no symbol {item!r} in the guest to ignore")


def explore(
    make: Callable[[], Machine], disturbance: Disturbance, window: range, *, most: int | None = 10,
    until: str | int | None = None, ignore: Iterable[str | Range] = (),
) -> Exploration:  # fmt: skip
    """Let an event come in each cycle of a window of a program's run; see `Explorer`."""
    return Explorer(make, until=until, ignore=ignore).explore(disturbance, window, most=most)


def advance(machine: Machine, cycle: int) -> None:
    """Run to a cycle. ValueError if the program ends before."""
    while machine.cycle < cycle:
        ended = machine.run(cycle - machine.cycle)
        if ended.reason not in (StopReason.MAX_CYCLES, StopReason.HALTED):
            reason = ended.reason.name.lower()
            raise ValueError(f"the run ends before cycle {cycle}, in cycle {machine.cycle} ({reason}): no window there")


def _missed(machine: Machine, events: Iterable[Event], address: int, opcode: int, start: int) -> Iterator[str]:
    """Executions of a probed instruction in place while its probe was armed."""
    ran: dict[int | None, list[int]] = {}
    for missed in misses(events, address, opcode, start):
        ran.setdefault(missed.hart, []).append(missed.cycle)
    where = machine.symbols.describe(address)
    for hart, cycles in sorted(ran.items(), key=str):
        more = f", {len(cycles)} times to cycle {cycles[-1]}" if len(cycles) > 1 else ""
        yield f"hart {hart} ran {where} in cycle {cycles[0]}{more}, and the probe there missed it"


def _stray(machine: Machine, events: Iterable[Event], address: int) -> Iterator[str]:
    """Hits of a probe that was removed."""
    for event in events:
        if isinstance(event, ProbePhase) and (event.phase, event.address) == ("hit", address):
            where = machine.symbols.describe(address)
            yield f"hart {event.hart} hit the probe on {where} in cycle {event.cycle}, after it was removed"
