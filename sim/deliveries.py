"""What became of deliveries: interrupts that one lost, the chain of events that ends in a triple fault, in words, and where
handlers will return to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from hw.isa.facts import EventClass, Vector
from sim.elf import SymbolTable
from sim.events import Deliver, Event, Iret, Lost, Trap, TrapPortCall
from sim.report import vector_name

#: What nothing repeats when its delivery meets a fault: the handler of the fault returns to where the event came, not to it.
UNREPEATED = (EventClass.TRAP, EventClass.INTR, EventClass.NMI)


class Deliveries:
    """Follows the events of each hart: what has been taken and not yet delivered."""

    def __init__(self) -> None:
        self._open: dict[int | None, list[Trap]] = defaultdict(list)

    def chain(self, hart: int | None) -> list[Trap]:
        """Return the traps that a hart has taken since the last one was delivered: each met the next in its delivery."""
        return list(self._open[hart])

    def follow(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield the events, and a `Lost` after a trap that made one be lost."""
        for event in events:
            yield event
            traps = self._open[event.hart]
            if isinstance(event, Deliver):
                traps.clear()
            elif isinstance(event, Trap):
                if event.event_class in UNREPEATED:
                    traps.clear()  # an NMI that ends a shutdown; else there are none
                if traps and traps[-1].event_class in UNREPEATED:
                    first = traps[-1]
                    yield Lost(event.hart, event.cycle, first.vector, first.event_class, first.rip, event.vector)
                traps.append(event)


class Returns:
    """Follows the events of each hart: the addresses that traps saved and no iretq has returned to."""

    def __init__(self) -> None:
        self._saved: dict[int | None, list[int]] = defaultdict(list)

    def follow(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Trap):
            self._saved[event.hart].append(event.rip)
        elif isinstance(event, Iret):
            self._remove(event.hart, event.rip)
        elif isinstance(event, TrapPortCall) and event.resume != event.rip and self._remove(event.hart, event.rip):
            self._saved[event.hart].append(event.resume)

    def _remove(self, hart: int | None, address: int) -> bool:
        saved = self._saved[hart]
        found = address in saved
        if found:
            del saved[len(saved) - 1 - saved[::-1].index(address)]
        return found

    def forget(self, hart: int) -> None:
        """Drop what a hart has saved: it has returned in ways of its own."""
        self._saved[hart].clear()

    def any_in(self, hart: int, start: int, end: int) -> bool:
        """Whether a hart may return into [start, end)."""
        return any(start <= address < end for address in self._saved[hart])


def trap_text(trap: Trap, symbols: SymbolTable) -> str:
    """Return a trap on one line: vector, error code, saved rip, CR2 of a page fault, cycle."""
    error = "" if trap.error is None else f"({trap.error:#x})"
    cr2 = f", cr2 {trap.address:#x}" if trap.vector == Vector.PF and trap.event_class == EventClass.FAULT else ""
    return f"{vector_name(trap.vector)}{error} at {symbols.describe(trap.rip)}{cr2}, cycle {trap.cycle}"


def lost_text(lost: Lost, symbols: SymbolTable) -> str:
    """Return what was lost and why, on one line."""
    names = {EventClass.INTR: f"interrupt {lost.vector}", EventClass.NMI: "an NMI"}
    what = names.get(EventClass(lost.event_class), f"a debug trap at {symbols.describe(lost.rip)}")
    return (
        f"{what} was lost: its delivery met {vector_name(lost.by)} (cycle {lost.cycle}), and nothing repeats it; "
        f"look at the gate of vector {lost.vector} and at the stack that it uses"
    )


def shutdown_text(chain: Sequence[Trap], symbols: SymbolTable) -> str:
    """Return the chain of a triple fault, an event a line, and what to look at next. `chain`: as `Deliveries.chain`."""
    lines = ["shut down on a triple fault:"]
    for number, trap in enumerate(chain):
        met = f", in the delivery of {vector_name(chain[number - 1].vector)}" if number else ""
        lines.append(f"  {trap_text(trap, symbols)}{met}")
    if chain:
        lines.append(f"next: {_advice(chain)}")
    return "\n".join(lines)


def _advice(chain: Sequence[Trap]) -> str:
    """What the last event says about the tables: that of the double fault's own delivery."""
    last = chain[-1]
    error, delivered = last.error or 0, chain[-2].vector if len(chain) > 1 else int(Vector.DF)
    if last.vector == Vector.PF:
        if error & 2:
            return f"the stack that vector {delivered} uses is not mapped; give its gate a stack of its own (IST)"
        return f"the IDT, the GDT or the TSS is not mapped at {last.address:#x}"
    if error & 2:  # the index is a vector
        gate = f"the gate of vector {error >> 3}"
        if last.vector == Vector.NP:
            return f"{gate} is not present"
        return f"{gate} lies beyond the limit of the IDT, or is no interrupt or trap gate; has lidt been done?"
    if last.vector == Vector.TS:
        return f"the TSS (selector {error & 0xFFF8:#x}) is too short for the stack that vector {delivered} uses"
    if last.vector == Vector.SS:
        return f"the stack pointer in the TSS that vector {delivered} uses is not canonical"
    if error >> 3:
        return f"descriptor {error & 0xFFF8:#x}, which the gate of vector {delivered} names, is no 64-bit code segment"
    return f"the gate of vector {delivered} has a null selector or an offset that is not canonical"
