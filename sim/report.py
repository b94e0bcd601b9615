"""Where the cycles of each probe hit went: from the events of a run to a table, and to an HTML file that needs no server.

The phases of a hit, by the cycles of its events: *delivery*, from the trap being taken to the last uop of its delivery;
*stub*, from there until the entry stub's store reaches the TrapPort; the runtime, which takes no cycle; *return*, from
there to the retirement of the stub's iretq; and *step*, from that iretq to the next trap, which is the displaced
instruction in its slot, or the jprobe's handler. The total reaches from the first trap to the last iretq.

A hit by a jump (an optimised probe) and the return of a hooked function come without a trap, and no event tells where
their cycles begin and end: they are counted, and `kphw bench` has their costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hw.isa.facts import VECTORS
from sim.events import Deliver, Event, Iret, ProbePhase, Trap, TrapPortCall

_NAMES = {row.number: row.mnemonic for row in VECTORS} | {3: "int3"}

#: Phases in the order in which a trap goes through them; the runtime comes before "return".
PHASES = ("delivery", "stub", "return", "step")


def vector_name(vector: int) -> str:
    """Return "int3", "#GP", "vector 32"."""
    return _NAMES.get(vector, f"vector {vector}")


@dataclass
class Leg:
    """One trap of a hit, with the cycles of its stations. `step`: cycles from its iretq to the next trap of the hit."""

    vector: int
    trap: int
    deliver: int
    call: int = 0
    back: int | None = None
    step: int = 0

    @property
    def name(self) -> str:
        """What raised it."""
        return vector_name(self.vector)

    def phases(self) -> dict[str, int]:
        """Return the cycles of each phase."""
        back = 0 if self.back is None else self.back - self.call
        return dict(zip(PHASES, (self.deliver - self.trap, self.call - self.deliver, back, self.step), strict=True))


@dataclass
class Hit:
    """One hit of one probe. `began`: the cycle in which the runtime got it. `returns`: calls of a hooked function that
    have returned since then and before its next hit."""

    hart: int | None
    symbol: str
    address: int
    began: int = 0
    kind: str = "kprobe"
    results: list[str] = field(default_factory=list)
    legs: list[Leg] = field(default_factory=list)
    ended: bool = False
    returns: int = 0

    @property
    def cycle(self) -> int:
        """The cycle in which the int3 was taken, or the jump's detour came to the runtime."""
        return self.legs[0].trap if self.legs else self.began

    @property
    def total(self) -> int | None:
        """Cycles from the int3 to the last iretq, None without a trap."""
        if not self.legs:
            return None
        last = self.legs[-1]
        return (last.call if last.back is None else last.back) - self.cycle

    def phases(self) -> dict[str, int]:
        """Return the cycles of each phase, all traps together."""
        return {name: sum(leg.phases()[name] for leg in self.legs) for name in PHASES}

    def as_dict(self) -> dict[str, object]:
        """Return the hit as JSON has it."""
        return {
            "cycle": self.cycle, "hart": self.hart, "symbol": self.symbol, "address": self.address, "kind": self.kind,
            "handlers": self.results, "returns": self.returns, "cycles": {**self.phases(), "total": self.total},
            "traps": [{"vector": leg.vector, "cycle": leg.trap, **leg.phases()} for leg in self.legs],
        }  # fmt: skip


def hits(events: Iterable[Event]) -> list[Hit]:
    """Return the hits of a run with their traps, in the order in which they began."""
    found: list[Hit] = []
    now: dict[int | None, Hit] = {}
    legs: dict[int | None, Leg] = {}
    latest: dict[int, Hit] = {}
    for event in events:
        hart = event.hart
        hit, leg = now.get(hart), legs.get(hart)
        if isinstance(event, Trap):
            legs[hart] = Leg(event.vector, event.cycle, event.cycle)
            if hit and hit.legs and hit.legs[-1].back is not None:
                hit.legs[-1].step = event.cycle - hit.legs[-1].back
        elif isinstance(event, Deliver) and leg:
            leg.deliver = event.cycle
        elif isinstance(event, ProbePhase):
            if event.phase == "hit":
                hit = now[hart] = latest[event.address] = Hit(hart, event.symbol, event.address, event.cycle)
                found.append(hit)
            if event.phase == "return":
                entry = latest.get(event.address)
                if entry:
                    entry.kind, entry.returns = "kretprobe", entry.returns + 1
            elif hit:
                _note(hit, event)
                if hit.ended and not leg:
                    del now[hart]
        elif isinstance(event, TrapPortCall) and leg:
            leg.call = event.cycle
            if hit:
                hit.legs.append(leg)
        elif isinstance(event, Iret) and leg:
            leg.back = event.cycle
            del legs[hart]
            if hit and hit.ended:
                del now[hart]
    return [hit for hit in found if hit.legs or hit.ended]


def _note(hit: Hit, event: ProbePhase) -> None:
    if event.phase == "jprobe_entry":
        hit.kind = "jprobe"
    elif event.phase == "miss":
        hit.results.append(f"missed {event.symbol}: {event.reason}")
    elif event.phase in ("pre", "fault"):
        hit.results.append(f"{event.phase} {event.result}")
    elif event.phase == "post":
        hit.results.append("post")
    elif event.phase == "resume":
        hit.ended = event.address == hit.address


def cells(hit: Hit) -> list[str]:
    """Return the cycles of each phase and the total as a table shows them: nothing for a hit without a trap."""
    return [str(n) for n in (*hit.phases().values(), hit.total)] if hit.legs else [""] * (len(PHASES) + 1)


def summary(found: Iterable[Hit]) -> Iterator[tuple[str, list[str]]]:
    """Yield for each probe a heading and a line for each of its traps, with the cycles of every phase."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[Hit]] = {}
    for hit in found:
        groups.setdefault((hit.symbol, hit.kind, tuple(leg.vector for leg in hit.legs)), []).append(hit)
    for (symbol, kind, _), group in groups.items():
        count = f"{len(group)} hit{'s' * (len(group) > 1)}"
        returns = sum(hit.returns for hit in group)
        lines = [f"{returns} return{'s' * (returns > 1)}, without a trap"] if returns else []
        for number, place in enumerate(zip(*(hit.legs for hit in group), strict=True)):
            spans = {name: span([leg.phases()[name] for leg in place]) for name in PHASES}
            line = f"{place[0].name:4} delivery {spans['delivery']}, stub {spans['stub']}, [runtime], return {spans['return']}"
            if any(leg.step for leg in place):
                # what runs before the last step, which is in the slot, is the handler
                after = "jprobe handler" if kind == "jprobe" and number < len(group[0].legs) - 2 else "step"
                line += f", then {after} {spans['step']}"
            lines.append(line)
        totals = [hit.total for hit in group if hit.total is not None]
        yield f"{symbol} ({kind}, {count}, {f'{span(totals)} cycles' if totals else 'by a jump, without a trap'})", lines


def span(values: list[int]) -> str:
    """Return "21", or "21-25" where values differ."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"
