"""How a run of a machine ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sim.deliveries import shutdown_text
from sim.elf import SymbolTable
from sim.engine import StopReason
from sim.events import Console, Event, Exit, Lost, ProbePhase, Shutdown, Trap, TrapPortCall


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `exit` is the status that QEMU would give, None if the guest did not end itself.

    `unhandled`: TrapPort requests that the runtime did not take. `lost`: interrupts that a fault in their delivery lost.
    `shutdown`: the traps that ended in a triple fault, and `why`: the same in words, with what to look at.
    """

    reason: StopReason
    cycles: int
    retired: int
    exit: int | None
    console: bytes
    hits: int
    engine: str
    seconds: float
    unhandled: list[TrapPortCall] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    shutdown: list[Trap] = field(default_factory=list)
    why: str = ""


def run_result(
    reason: StopReason, events: Sequence[Event], symbols: SymbolTable, *,
    cycles: int, retired: int, engine: str, seconds: float,
) -> RunResult:
    """Return the result of a run with these events. `engine`: its name; `seconds`: of real time."""
    exits = [event.value for event in events if isinstance(event, Exit)]
    down = events[-1] if events else None
    chain = list(down.chain) if isinstance(down, Shutdown) else []
    return RunResult(
        reason=reason,
        cycles=cycles,
        retired=retired,
        exit=((exits[0] << 1) | 1) & 0xFF if exits else None,
        console=bytes(event.byte for event in events if isinstance(event, Console)),
        hits=sum(isinstance(event, ProbePhase) and event.phase == "hit" for event in events),
        engine=engine,
        seconds=seconds,
        unhandled=[event for event in events if isinstance(event, TrapPortCall) and not event.handled],
        lost=[event for event in events if isinstance(event, Lost)],
        shutdown=chain,
        why=f"hart {down.hart} {shutdown_text(chain, symbols)}" if isinstance(down, Shutdown) else "",
    )
