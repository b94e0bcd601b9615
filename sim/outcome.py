"""What a run came to, in everything that must not depend on when something happened from outside; and how two runs differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hw.bus import HIGH_BASE
from hw.isa.facts import Vector
from sim.coresync import VECTOR as SYNC_VECTOR
from sim.deliveries import lost_text, shutdown_text
from sim.engine import StopReason
from sim.events import Console, Event, Exit, Lost, ProbePhase, Retire, Shutdown, Trap, TrapPortCall
from sim.machine import PAGE, SLOT_PAGES, STACK_BYTES, Door, Machine
from sim.misses import in_place
from sim.report import vector_name

#: Memory is compared in pieces of so many bytes.
PIECE = 1 << 16

#: Registers that tell the time.
CLOCKS = frozenset({"tsc"})

#: Traps that probes cause, which the runtime takes or refuses one by one, and what planting them sends to harts.
PROBE_TRAPS = (Vector.BP, Vector.DB, SYNC_VECTOR)

#: A finding shows so many registers and places in memory at most.
SHOWN = 4

Range = tuple[int, int]


@dataclass(frozen=True)
class Outcome:
    """The end of a run, and counts of its events.

    `executed`: by address, the instructions there that retired and those that a probe hit instead, for watched addresses.
    `traps`: by hart and vector, without those that probes cause. `refused`: by hart, vector and rip, traps that came to the
    runtime and were not its.
    """

    reason: StopReason
    exit: int | None
    console: bytes
    registers: tuple[dict[str, int], ...]
    memory: dict[int, bytes]
    traps: Counter[tuple[int | None, int]]
    refused: Counter[tuple[int | None, int, int]]
    executed: Counter[int]


def outcome(machine: Machine, reason: StopReason, events: Iterable[Event], watched: Mapping[int, bytes] = {}) -> Outcome:
    """Return what a run came to, from the machine as it stands and the events of the run.

    `watched`: the guest's code at the addresses whose executions count.
    """
    events = list(events)
    exits = [event.value for event in events if isinstance(event, Exit)]
    return Outcome(
        reason,
        exits[0] if exits else None,
        bytes(event.byte for event in events if isinstance(event, Console)),
        tuple({n: v for n, v in hart.regs.as_dict().items() if n not in CLOCKS} for hart in machine.harts),
        dict(_pieces(machine)),
        Counter((e.hart, e.vector) for e in events if isinstance(e, Trap) and e.vector not in PROBE_TRAPS),
        Counter((e.hart, e.vector, e.rip) for e in events if isinstance(e, TrapPortCall) and not e.handled),
        Counter(executions(events, watched)),
    )


def executions(events: Iterable[Event], watched: Mapping[int, bytes]) -> Iterator[int]:
    """Yield the address of each execution of a watched instruction, in place, as a probe's hit, or in a detour.

    A hit that only sends the guest back, because the probe is gone, is none. A jump or call in place of the instruction
    counts when it has reached the runtime, to which a temporary breakpoint may have led as well.
    """
    hits: dict[int | None, list[int]] = {}  # by hart: of the traps and doors that are being handled, innermost last
    for event in events:
        if isinstance(event, Retire):
            if event.pc in watched and in_place(event, event.pc, watched[event.pc][0]):
                yield event.pc
        elif isinstance(event, ProbePhase):
            came = hits.setdefault(event.hart, [])
            counted = event.phase == "detour" and event.address in came
            if event.address in watched and _executes(event) and not counted:
                came.append(event.address)
        elif isinstance(event, TrapPortCall):
            came = hits.get(event.hart, [])
            address = came[-1] if event.vector == Door.FENTRY and came else event.rip - 1
            if address in came:
                came.remove(address)
                yield address
    for came in hits.values():
        yield from came


def _executes(event: ProbePhase) -> bool:
    """Whether a phase stands for an execution: of the misses, only those of hits within hits do."""
    return event.phase in ("hit", "detour") or (event.phase == "miss" and event.reason == "re-entrant")


def differences(machine: Machine, mine: Outcome, wanted: Outcome, ignored: Iterable[Range] = ()) -> Iterator[str]:
    """Yield, in words, what of a run is not as it should be. `ignored`: physical ranges of memory that may differ."""
    if (mine.reason, mine.exit) != (wanted.reason, wanted.exit):
        yield f"it ended with {_end(mine)} instead of {_end(wanted)}"
    if mine.console != wanted.console:
        yield f"the console shows {mine.console!r} instead of {wanted.console!r}"
    for number, (have, want) in enumerate(zip(mine.registers, wanted.registers, strict=True)):
        wrong = [f"{name} is {have[name]:#x} instead of {want[name]:#x}" for name in want if have[name] != want[name]]
        if wrong:
            yield f"hart {number}: {_some(wrong)}"
    wrong = [
        f"{_place(machine, at)} is {have:#04x} instead of {want:#04x}"
        for at, have, want in _changed(mine.memory, wanted.memory, list(ignored))
    ]
    if wrong:
        yield f"memory: {_some(wrong)}"
    for key in sorted({*mine.traps, *wanted.traps}, key=str):
        if mine.traps[key] != wanted.traps[key]:
            hart, vector = key
            yield f"hart {hart} took {vector_name(vector)} {mine.traps[key]} times instead of {wanted.traps[key]}"
    for hart, vector, rip in sorted(mine.refused - wanted.refused, key=str):
        yield f"hart {hart}: nobody handled {vector_name(vector)} at {machine.symbols.describe(rip)}"
    for address in sorted(wanted.executed):
        if mine.executed[address] != wanted.executed[address]:
            yield (
                f"{machine.symbols.describe(address)} was executed {mine.executed[address]} times, hits included, "
                f"instead of {wanted.executed[address]}"
            )


def losses(machine: Machine, events: Iterable[Event]) -> Iterator[str]:
    """Yield what no run should have: lost interrupts, a triple fault."""
    for event in events:
        if isinstance(event, Lost):
            yield lost_text(event, machine.symbols)
        elif isinstance(event, Shutdown):
            yield f"hart {event.hart} {shutdown_text(event.chain, machine.symbols)}"


def runtime_text(machine: Machine) -> Range:
    """Return the physical addresses of the runtime's code."""
    start = machine.engine.config.ram_bytes - STACK_BYTES - SLOT_PAGES * PAGE
    return start, start + SLOT_PAGES * PAGE


def dead_memory(machine: Machine) -> list[Range]:
    """Return what a program may not rely on: below each hart's stack pointer, stacks of NMI and #DF, the slot pages."""
    ram = machine.engine.config.ram_bytes
    ranges = [runtime_text(machine)]
    for name in ("nmi_stack", "fault_stack", *(f"hart{hart.number}_nmi_stack" for hart in machine.harts)):
        start, end = (machine.symbols.lookup(symbol) for symbol in (name, f"{name}_top"))
        if start is not None and end is not None:
            ranges.append((start % HIGH_BASE, end % HIGH_BASE))
    for hart in machine.harts:
        sp = hart.regs.rsp
        symbol = machine.symbols.containing(sp - 1)
        start = symbol.start % HIGH_BASE if symbol is not None and "stack" in symbol.name else ram - STACK_BYTES
        if start <= sp % HIGH_BASE <= ram:
            ranges.append((start, sp % HIGH_BASE))
    return ranges


def _pieces(machine: Machine) -> Iterator[tuple[int, bytes]]:
    """RAM, without pieces that are all 0."""
    size, nothing = machine.engine.config.ram_bytes, bytes(PIECE)
    for start in range(0, size, PIECE):
        piece = machine.engine.read_mem(start, min(PIECE, size - start))
        if piece != nothing[: len(piece)]:
            yield start, piece


def _changed(mine: dict[int, bytes], wanted: dict[int, bytes], ignored: list[Range]) -> Iterator[tuple[int, int, int]]:
    """Address and the two values of bytes that differ."""
    nothing = bytes(PIECE)
    for start in sorted({*mine, *wanted}):
        pair = [bytearray(memory.get(start, nothing)) for memory in (mine, wanted)]
        if pair[0] == pair[1]:
            continue
        for low, high in ignored:
            low, high = max(low - start, 0), min(high - start, len(pair[0]))
            if low < high:
                for piece in pair:
                    piece[low:high] = bytes(high - low)
        if pair[0] != pair[1]:
            yield from ((start + i, a, b) for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b)


def _place(machine: Machine, physical: int) -> str:
    for address in (physical, physical + HIGH_BASE):
        if machine.symbols.containing(address) is not None:
            return f"{machine.symbols.describe(address)} ({physical:#x})"
    return hex(physical)


def _end(run: Outcome) -> str:
    return run.reason.name.lower() + ("" if run.exit is None else f" {run.exit}")


def _some(items: list[str]) -> str:
    more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
