"""Gathers from the records of every engine that tests borrow: instructions, flags, traps; from samples, the pipeline.

An engine of the pool is wrapped in `Covering`: in its first cycles after a reset it records everything and samples the
pipeline, whatever the test has asked for; the test is given what it has asked for. Data of several processes are merged, and
those of several runs, as long as the hardware is the same.
"""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hw.bus import STAGES
from hw.isa.opcodes import TABLE
from hw.isa.reference import find, split
from hw.isa.rows import SizeRule
from sim.build import source_key
from sim.engine import FOREVER, Engine, Recording, Records, RetireFlag, RetireRecord

FILE = Path(__file__).parents[2] / "out" / "coverage.json"

#: Everything is recorded for so many cycles after a reset, where a test does not ask for it itself.
RECORDED, SAMPLED = 3000, 600

#: The ports that are sampled: occupancy and stalls of each stage, redirects, and traps.
PIPE = [f"h0_pipe__{stage}_{what}" for stage in STAGES for what in ("valid", "stall")]
PORTS = [*PIPE, "h0_pipe__redirect", "h0_retire__trap"]

_STATUS = 0x8D5
_ENDS = RetireFlag.VALID | RetireFlag.LAST

_NUMBERS = {id(row): number for number, row in enumerate(TABLE)}


class Coverage:
    """Counts of what was seen.

    Members
    -------
    rows : of "row:size" (number of the row in the table, operand size in bits). ones, zeros : for each, the status flags that
    were 1, and 0, after it. traps : of "vector:class". pipe : of samples of `PORTS`, as bits.
    """

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.ones: Counter[str] = Counter()
        self.zeros: Counter[str] = Counter()
        self.traps: Counter[str] = Counter()
        self.pipe: Counter[str] = Counter()
        self._known: dict[bytes, str | None] = {}

    def take(self, records: Iterable[RetireRecord]) -> None:
        """Count records."""
        for record in records:
            flags = record.flags
            if flags & RetireFlag.TRAP:
                self.traps[f"{record.trap_vector}:{record.trap_class}"] += 1
            elif flags & _ENDS == _ENDS and not flags & RetireFlag.DELIVER:
                code = record.bytes[: record.length]
                key = self._known[code] if code in self._known else self._learn(code)
                if key is not None:
                    self.rows[key] += 1
                    self.ones[key] |= record.rflags & _STATUS
                    self.zeros[key] |= ~record.rflags & _STATUS

    def _learn(self, code: bytes) -> str | None:
        parts = split(code)
        row = find(parts) if parts else None
        key = None
        if row is not None and parts is not None:
            size = 64 if parts.rex & 8 else 16 if parts.opsize and row.uop.size != SizeRule.Y else 32
            key = f"{_NUMBERS[id(row)]}:{size}"
        self._known[code] = key
        return key

    def sampled(self, samples: Iterable[Sequence[int]]) -> None:
        """Count samples of `PORTS`, without their cycle."""
        for values, count in Counter(tuple(row[1:]) for row in samples).items():
            self.pipe[str(sum(value << bit for bit, value in enumerate(values)))] += count

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON keeps."""
        return {name: dict(getattr(self, name)) for name in ("rows", "ones", "zeros", "traps", "pipe")}

    def merge(self, other: dict[str, Any]) -> None:
        """Add what `as_dict` gave."""
        for name, values in other.items():
            mine: Counter[str] = getattr(self, name)
            for key, value in values.items():
                mine[key] = mine[key] | value if name in ("ones", "zeros") else mine[key] + value


def load(file: Path = FILE) -> Coverage:
    """Return what a file holds for the hardware as it is; nothing if there is none, or it is of other hardware."""
    result = Coverage()
    if file.exists():
        kept = json.loads(file.read_text())
        if kept.pop("key", None) == source_key():
            result.merge(kept)
    return result


def save(coverage: Coverage, file: Path = FILE) -> None:
    """Add to a file, which other processes may do at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = load(file)
        whole.merge(coverage.as_dict())
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps({"key": source_key()} | whole.as_dict()))
        draft.rename(file)


class Covering:
    """An engine that counts on the side; otherwise the engine that it wraps."""

    def __init__(self, engine: Engine, coverage: Coverage):
        self._engine, self._coverage = engine, coverage
        self._asked: tuple[Recording, int, int] = (Recording.TRAPS, 0, FOREVER)
        self._samples = False  # the test samples itself

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def start(self) -> None:
        """A test borrows the engine, which has been reset."""
        self.record(Recording.TRAPS)
        self.sample(())
        self._samples = False
        self._engine.sample(PORTS, 0, SAMPLED)

    def finish(self) -> None:
        """The test has ended."""
        if not self._samples:
            self._coverage.sampled(self._engine.drain_samples())
        self.drain()

    def record(self, mode: Recording, start: int = 0, end: int = FOREVER) -> None:
        """`Engine.record`."""
        self._asked = mode, start, end
        if mode == Recording.ALL:
            self._engine.record(mode, start, end)
        elif mode == Recording.TRAPS:
            self._engine.record(Recording.ALL, 0, RECORDED)
        else:
            self._engine.record(mode)

    def sample(self, names: Sequence[str], start: int = 0, end: int = FOREVER) -> None:
        """`Engine.sample`."""
        if not self._samples:
            self._coverage.sampled(self._engine.drain_samples())
        self._samples = True
        self._engine.sample(names, start, end)

    def drain(self) -> Records:
        """`Engine.drain`."""
        records = self._engine.drain()
        if records.retires:
            self._coverage.take(records.retires)
            if self._asked[0] == Recording.TRAPS:
                records.retires = [record for record in records.retires if _is_trap_record(record.flags)]
        return records


def _is_trap_record(flags: int) -> bool:
    """Whether Recording.TRAPS keeps a record."""
    if flags & RetireFlag.TRAP:
        return True
    return flags & _ENDS == _ENDS and bool(flags & (RetireFlag.IRET | RetireFlag.DELIVER))
