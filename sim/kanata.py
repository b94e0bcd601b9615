"""Instructions on their way through the pipeline: followed from samples, as a diagram, and as a log for Konata.

The traces are those of `sim.wave.WaveRecorder.trace`, with the set "pipe" or more.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hw.bus import STAGES
from sim.disasm import Trace, vector_name

_RETIRE = ("valid", "last", "deliver", "trap", "pc")


@dataclass
class Operation:
    """An instruction in the pipeline, or the delivery of a trap (`pc` None).

    `stages`: by cycle, the stages that it was in, first to last; an instruction of several uops can be in many. `stalled`: the
    cycles in which the last of them could not advance. `end`: the cycle in which it retired; None if it did not. `trap`: the
    vector of the trap taken on it, or delivered by it.
    """

    number: int
    pc: int | None
    text: str
    place: str
    stages: dict[int, str] = field(default_factory=dict)
    stalled: set[int] = field(default_factory=set)
    end: int | None = None
    trap: int | None = None

    @property
    def start(self) -> int:
        """The cycle in which it was first seen."""
        return next(iter(self.stages))

    @property
    def gone(self) -> int:
        """The cycle after the last one in which it was seen."""
        return max(self.stages) + 1


class _Follower:
    """Gives what each stage holds in a cycle to the operation that it belongs to."""

    def __init__(self, trace: Trace, hart: int):
        self._trace, self._hart = trace, hart
        self.operations: list[Operation] = []
        self._before: dict[str, Operation] = {}
        self._stalled: set[str] = set()

    def _new(self, index: int, pc: int) -> Operation:
        text, place = self._trace.text_at(self._hart, index, pc), self._trace.describe(pc)
        self.operations.append(Operation(len(self.operations), pc, text, place))
        return self.operations[-1]

    def deliver(self, vector: int) -> Operation:
        """Begin the delivery of a trap."""
        text = f"deliver {vector_name(vector)}"
        self.operations.append(Operation(len(self.operations), None, text, "", trap=vector))
        return self.operations[-1]

    def cycle(self, index: int, held: dict[str, tuple[int, bool]], delivery: Operation | None) -> dict[str, Operation]:
        """Return the operation in each stage. `held`: pc and stall of those that hold something.

        It stayed, or came from the stage before, or is new.
        """
        now: dict[str, Operation] = {}
        for number, stage in enumerate(STAGES):
            if stage not in held or (stage == "f" and "l" in held):
                continue  # while bytes wait in L, F fetches what has no address yet
            pc, _ = held[stage]
            if delivery is not None and stage not in "fl":
                now[stage] = delivery
                continue
            candidates = [self._before.get(stage) if stage in self._stalled or stage == "f" else None]
            if number:
                candidates.append(self._before.get(STAGES[number - 1]))
            now[stage] = next((c for c in candidates if c is not None and c.pc == pc), None) or self._new(index, pc)
        for stage, operation in now.items():
            cycle = self._trace.cycles[index]
            operation.stages[cycle] = operation.stages.get(cycle, "") + stage.upper()
            operation.stalled.discard(cycle)
            if held[stage][1]:
                operation.stalled.add(cycle)
        self._before, self._stalled = now, {stage for stage in now if held[stage][1]}
        return now


def follow(trace: Trace, hart: int = 0) -> list[Operation]:
    """Return the operations of a trace in the order of the program, those on a wrong path included."""
    follower = _Follower(trace, hart)
    columns = [[trace.port(hart, f"pipe__{s}_{what}") for what in ("valid", "pc", "stall")] for s in STAGES]
    retire = [trace.port(hart, f"retire__{name}") for name in (*_RETIRE, "trap_vector")]
    current: Operation | None = None
    for index, (cycle, delivery) in enumerate(zip(trace.cycles, trace.deliveries(hart), strict=True)):
        held = {s: (pc[index], bool(stall[index])) for s, (v, pc, stall) in zip(STAGES, columns, strict=True) if v[index]}
        if delivery is None:
            current = None
        now = follower.cycle(index, held, current)
        valid, last, deliver, trap, pc, vector = (column[index] for column in retire)
        if trap:
            if "w" in now and now["w"].pc == pc and current is None:
                now["w"].trap = vector
            current = follower.deliver(vector)
        elif valid and last and "w" in now and (not deliver or now["w"].pc is None):
            now["w"].end = cycle
    return [operation for operation in follower.operations if operation.stages]


def pipeview(trace: Trace, start: int, end: int, hart: int = 0) -> str:
    """Return a diagram of the cycles from `start` to `end` - 1: a row for each operation, a column for each cycle.

    The letter is the last stage that it is in, small where it cannot advance; ``*`` ends what retires, ``!`` what traps,
    ``-`` what was dropped.
    """
    first, last = trace.between(start, end)
    cycles = trace.cycles[first:last]
    if not cycles:
        return "no cycle of the window was sampled\n"
    shown = [op for op in follow(trace, hart) if op.start <= cycles[-1] and op.gone > cycles[0]]
    width = max((len(op.place) for op in shown), default=0)
    ruler = "".join(f"{cycle:<10}" for cycle in range(cycles[0] // 10 * 10, cycles[-1] + 1, 10))[cycles[0] % 10 :]
    lines = [f"{'cycle':<{width}}  {ruler[: len(cycles) + 1].rstrip()}"]
    for op in shown:
        row = ""
        for cycle in (*cycles, cycles[-1] + 1):
            if cycle in op.stages:
                letter = op.stages[cycle][-1]
                row += letter.lower() if cycle in op.stalled else letter
            elif cycle == op.gone:
                row += "*" if op.end is not None else "!" if op.trap is not None else "-"
            else:
                row += " " if not op.start < cycle < op.gone else "."
        lines.append(f"{op.place:<{width}}  {row:<{len(cycles) + 1}}  {op.text}")
    return "\n".join(lines) + "\n"


def _spans(op: Operation) -> Iterator[tuple[int, str]]:
    """The cycles in which an operation enters a stage, by its last uop."""
    before = ""
    for cycle, stages in sorted(op.stages.items()):
        if stages[-1] != before:
            before = stages[-1]
            yield cycle, before


def kanata_text(trace: Trace, hart: int = 0) -> str:
    """Return a Kanata log, version 0004, of a trace: lane 0 the stages, lane 1 stalls, lane 2 traps."""
    lines: list[tuple[int, int, str]] = []
    retired = 0
    for op in follow(trace, hart):
        n = op.number
        where = f"{op.pc:#x} {op.place}: " if op.pc is not None else ""
        lines += [(op.start, n, f"I\t{n}\t{n}\t{hart}"), (op.start, n, f"L\t{n}\t0\t{where}{op.text}")]
        lane = 0 if op.pc is not None else 2
        for cycle, stage in _spans(op):
            name = stage if lane == 0 else f"T{stage}"
            lines.append((cycle, n, f"S\t{n}\t{lane}\t{name}"))
        for cycle in sorted(op.stalled):
            if cycle - 1 not in op.stalled:
                lines.append((cycle, n, f"S\t{n}\t1\tstall"))
            if cycle + 1 not in op.stalled:
                lines.append((cycle + 1, n, f"E\t{n}\t1\tstall"))
        if op.trap is not None and op.pc is not None:
            lines.append((op.gone, n, f"L\t{n}\t1\ttrap {vector_name(op.trap)}"))
        flushed = op.end is None
        if op.gone <= trace.cycles[-1] or not flushed:  # the window leaves the others on their way
            lines.append((op.gone, n, f"R\t{n}\t{retired}\t{int(flushed)}"))
        retired += not flushed
    lines.sort(key=lambda line: line[:2])
    result = ["Kanata\t0004"]
    now: int | None = None
    for cycle, _, text in lines:
        if now is None:
            result.append(f"C=\t{cycle}")
        elif cycle > now:
            result.append(f"C\t{cycle - now}")
        now = cycle
        result.append(text)
    return "\n".join(result) + "\n"


def write_kanata(trace: Trace, path: str | Path, hart: int = 0) -> Path:
    """Write a log for Konata, compressed if the name ends in .gz; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = kanata_text(trace, hart).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path
