"""Executions of a probed instruction that its probe did not see: who made them, when, and who was being stepped meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sim.events import Event, ProbePhase, Retire

#: So many are told one by one.
SHOWN = 3


@dataclass(frozen=True)
class Missed:
    """A hart executed the instruction at `address` in place; `stepping`: harts that were inside a hit of its probe.

    `late`: the last of them had just left it, and the breakpoint was back, but the hart had fetched what was there before.
    """

    hart: int | None
    cycle: int
    address: int
    stepping: tuple[int | None, ...]
    late: bool = False

    def __str__(self) -> str:
        harts = " and ".join(map(str, self.stepping))
        why = f", {'just after' if self.late else 'while'} hart {harts} was inside a hit" if harts else ""
        return f"hart {self.hart} in cycle {self.cycle}{why}"


def misses(events: Iterable[Event], address: int, opcode: int, start: int = 0) -> Iterator[Missed]:
    """Yield what a probe that is armed all the time has missed. `events`: with Retire events of its address.

    `opcode`: the first byte of the instruction, which is not that of a jump or call in its place (`Kprobe.opcode`).
    `start`: events before this one are looked at for hits only.

    The step of the original in its place (``Options(step="inline")``) belongs to the hit of its own hart.
    """
    inside: dict[int | None, None] = {}
    last: tuple[int | None, ...] = ()
    for number, event in enumerate(events):
        if isinstance(event, ProbePhase) and event.address == address:
            if event.phase == "hit":
                inside[event.hart] = None
            elif event.phase == "resume":
                inside.pop(event.hart, None)
                last = (event.hart,)
        elif (
            number >= start
            and isinstance(event, Retire)
            and in_place(event, address, opcode)
            and event.hart not in inside
        ):
            yield Missed(event.hart, event.cycle, address, tuple(inside) or last, not inside)


def in_place(event: Retire, address: int, opcode: int | None) -> bool:
    """Whether the original instruction at an address has retired with this; `opcode`: see `misses`."""
    return event.pc == address and event.last and not event.again and not event.delivery and event.bytes[0] == opcode


def told(found: list[Missed], hits: int, symbol: str) -> str:
    """Return what was missed at a place in words, the first ones with cycles."""
    lines = [f"the probe on {symbol} missed {len(found)} of {len(found) + hits} executions:"]
    lines += [f"  {missed}" for missed in found[:SHOWN]]
    return "\n".join(lines + ([f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []))
