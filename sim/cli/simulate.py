"""A run of a guest under a command: piece by piece, with progress; and what is wrong with how it ended."""

from __future__ import annotations

from hw.isa.facts import Vector
from sim.cli import common
from sim.deliveries import lost_text, trap_text
from sim.engine import StopReason
from sim.events import Trap
from sim.machine import Machine, RunResult

#: The run is cut into pieces of so many cycles to show progress.
PIECE, FAST_PIECE = 2_000, 2_000_000


def simulate(machine: Machine, max_cycles: int, what: str) -> RunResult:
    """Run to the end, piece by piece; return the result of the whole."""
    piece = FAST_PIECE if "fast" in machine.engine.capabilities else PIECE
    parts: list[RunResult] = []
    with common.progress(what) as show:
        while not parts or (parts[-1].reason == StopReason.MAX_CYCLES and machine.cycle < max_cycles):
            parts.append(machine.run(min(piece, max_cycles - machine.cycle)))
            show(machine.cycle)
    last = parts[-1]
    return RunResult(
        last.reason, sum(p.cycles for p in parts), sum(p.retired for p in parts), last.exit,
        b"".join(p.console for p in parts), sum(p.hits for p in parts), last.engine, sum(p.seconds for p in parts),
        [call for p in parts for call in p.unhandled], [lost for p in parts for lost in p.lost], last.shutdown, last.why,
    )  # fmt: skip


def ending(machine: Machine, result: RunResult) -> list[str]:
    """Name what is wrong with how a run ended: traps, a guest without an IDT, no end, a status that is not 0."""
    found = _traps(machine, result)
    if result.reason == StopReason.SHUTDOWN:
        if result.shutdown and result.shutdown[0].vector in (Vector.BP, Vector.DB):
            found.append("the guest has no IDT to take traps with: link sim/guest (python -m sim.guestbuild)")
    elif not result.unhandled and result.reason == StopReason.MAX_CYCLES:
        found.append(f"the guest did not end in {result.cycles:,} cycles: give it more with --max-cycles")
    elif not result.unhandled and result.exit is not None and result.exit >> 1:
        found.append(f"the guest ended with status {result.exit >> 1}")
    return found


def _traps(machine: Machine, result: RunResult) -> list[str]:
    """Those that led to a shutdown, one that nobody handled, and lost interrupts."""
    lines = [result.why] if result.why else []
    if not lines and result.unhandled:
        before = [e for e in machine.events.of(Trap) if e.cycle <= result.unhandled[0].cycle]
        lines = [f"a trap that nobody handled: {trap_text(trap, machine.symbols)}" for trap in before[-1:]]
    return lines + [lost_text(lost, machine.symbols) for lost in result.lost]
