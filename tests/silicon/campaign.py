"""Runs fresh vectors from the processor of this machine on the core, as many as wanted, and keeps what fails.

    python -m tests.silicon.campaign --count 200000 --seed 7
    python -m tests.silicon.campaign --seed 7 --only 1234            # one of them again

Each process grows vectors, runs them on an engine of its own and forgets them. The first instruction of a vector goes through
the table row by row, so that rare rows get their share. A failure is shrunk and written as a vector, which the test
suite runs on every engine from then on. The last line is "N passed, N failed"; exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from sim.engine import ENGINES, Engine, EngineUnavailable, open_engine
from sim.vectorfile import parse
from sim.vectors import STRAY, Outcome, Runner
from tests.silicon.capture import title
from tests.silicon.executor import Unavailable, available
from tests.silicon.generate import Snippet, grow
from tests.silicon.shrink import shrink
from tests.silicon.table import rows

_MD = Cs(CS_ARCH_X86, CS_MODE_64)

KEPT = Path(__file__).resolve().parents[1] / "vectors" / "kept"

#: Vectors that a process grows and runs at a time.
CHUNK = 400

#: Failures that are shrunk; the others are only counted.
SHRUNK = 20

#: Where there is no terminal, progress is told every so many vectors.
TOLD = 10_000

#: Rows that the report lists, the rarest first.
LISTED = 8


@dataclass(frozen=True)
class Plan:
    """What all processes are told. `rows`: mnemonics, all when there are none."""

    seed: int
    max_insns: int
    engine: str
    rows: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line that repeats it, but for how many vectors."""
        more = f" --rows {','.join(self.rows)}" if self.rows else ""
        return f"python -m tests.silicon.campaign --seed {self.seed} --max-insns {self.max_insns} --engine {self.engine}{more}"


@dataclass
class Failure:
    """A vector that failed: the number that repeats it, the line that says what is wrong, the vector made small.

    `masks`: flags that each instruction defines and leaves undefined.
    """

    number: int
    line: str
    vector: dict
    masks: list[tuple[int, int]]
    small: dict | None = None


@dataclass
class Result:
    """What came of some vectors. `retired`: instructions by row and operand size in bytes."""

    vectors: int = 0
    failures: list[Failure] = field(default_factory=list)
    retired: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, other: Result) -> None:
        """Take in what another process has done."""
        self.vectors += other.vectors
        self.failures += other.failures
        self.retired += other.retired


_engine: Engine | None = None


def _open(name: str) -> None:
    """Give this process its engine."""
    global _engine
    _engine = open_engine(name)


def run(plan: Plan, numbers: range) -> Result:
    """Grow the vectors with these numbers, run them, and make the failures small."""
    if _engine is None:
        _open(plan.engine)
    assert _engine is not None
    runner = Runner(_engine)
    snippets = list(grow(plan.seed, numbers, plan.max_insns, plan.rows))
    vectors = [snippet.vector(str(snippet.number)) for snippet in snippets]
    result = Result(len(vectors))
    for snippet, vector, outcome in zip(snippets, vectors, runner.run(parse(vectors)), strict=True):
        for piece in snippet.pieces:
            result.retired[str(piece.row) if piece.row else "refused", piece.size] += 1
        if outcome.differences:
            result.failures.append(_failure(snippet, vector, outcome))
    for failure in result.failures[:SHRUNK]:
        failure.small = _shrink(runner, failure)
        wrong = _differences(runner, failure.small)
        failure.small["name"] = f"{_text(failure.small)}: {'; '.join(wrong)}"
    return result


def _shrink(runner: Runner, failure: Failure) -> dict:
    """Make a failing vector small; what is wrong stays of a kind, so that no other failure takes its place."""
    known = _kinds(_differences(runner, failure.vector))

    def fails(smaller: dict) -> bool:
        found = _kinds(_differences(runner, smaller))
        return bool(found) and found <= known

    return shrink(failure.vector, fails, failure.masks)


def _text(vector: dict) -> str:
    """The instructions, as a disassembler has them."""
    rip = vector["initial"]["regs"].get("rip", 0)
    code = next((bytes.fromhex(text)[rip - at :] for at, text in vector["initial"]["mem"] if at <= rip < at + len(text) // 2), b"")
    found = [f"{i.mnemonic} {i.op_str}".strip() for i in _MD.disasm(code, rip, vector["insns"])]
    return "; ".join(found) if len(found) == vector["insns"] else code.hex()


def _kinds(differences: list[str]) -> set[str]:
    """What differs: flags by name, registers, memory, stores outside of the vector, traps."""
    kinds: set[str] = set()
    for difference in differences:
        flags = re.findall(r"\b([A-Z]{2}) is \d", difference) if difference.startswith("rflags") else []
        kinds |= {*flags} or {STRAY if STRAY in difference else difference.split()[0]}
    return kinds


def _failure(snippet: Snippet, vector: dict, outcome: Outcome) -> Failure:
    outcome.name = vector["name"] = title(snippet)
    masks = [(piece.defined, piece.unknown) for piece in snippet.pieces]
    return Failure(snippet.number, outcome.line(), vector, masks)


def _differences(runner: Runner, vector: dict) -> list[str]:
    return next(runner.run(parse([vector]))).differences


def campaign(plan: Plan, wanted: int, jobs: int) -> Iterator[Result]:
    """Yield results, in order of the vectors' numbers, until `wanted` vectors have run."""
    with ProcessPoolExecutor(jobs, initializer=_open, initargs=(plan.engine,)) as pool:
        numbers = (range(first, first + CHUNK) for first in count(0, CHUNK))
        under_way: list[Future[Result]] = []
        done = idle = 0
        while done < wanted:
            while len(under_way) < min(2 * jobs, (wanted - done) // CHUNK + 1):
                under_way.append(pool.submit(run, plan, next(numbers)))
            result = under_way.pop(0).result()
            done += result.vectors
            idle = 0 if result.vectors else idle + 1
            if idle == 50:
                raise ValueError("nothing can be generated from these rows")
            yield result


def keep(small: dict, folder: Path) -> Path:
    """Write a vector where the suite finds it; the name is made of its instructions and its contents."""
    what = "-".join(re.findall(r"\w+", small["name"].partition(":")[0])[:3])
    digest = hashlib.sha256(json.dumps({**small, "name": ""}, sort_keys=True).encode()).hexdigest()[:8]
    file = folder / f"{what}-{digest}.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([small], indent=1) + "\n")
    return file


def report(retired: Counter[tuple[str, int]], only: tuple[str, ...]) -> str:
    """Say how often rows came up, and which did least."""
    by_row: Counter[str] = Counter({str(row): 0 for row in rows(only)})
    for (row, _), times in retired.items():
        by_row[row] += times
    by_row.pop("refused", None)
    least = [f"  {times:8,}  {row}" for row, times in by_row.most_common()[: -LISTED - 1 : -1]]
    head = f"{sum(map(bool, by_row.values()))} of {len(by_row)} rows, {len(retired)} with their operand sizes; the least often:"
    return "\n".join([head, *least])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.silicon.campaign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="vectors to run; default 100000")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--max-insns", type=int, default=4, help="instructions in a vector: 1 to this, at random; default 4")
    parser.add_argument("--rows", default="", help="only these mnemonics of the table, separated by commas")
    parser.add_argument("--engine", default="compiled", choices=list(ENGINES), help="default compiled")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default one for each processor")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run one vector again, and print it")
    parser.add_argument("--keep", type=Path, default=KEPT, metavar="FOLDER", help="where failures go; default tests/vectors/kept")
    parser.add_argument("--coverage", type=Path, metavar="FILE.csv", help="write how often each row and size came up")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    plan = Plan(options.seed, options.max_insns, options.engine, tuple(filter(None, options.rows.split(","))))
    try:
        reason = available()
        if reason:
            raise Unavailable(reason)
        if options.only is not None:
            return _again(plan, options.only, options.keep)
        print(f"{plan.command} --count {options.count}", flush=True)
        began, total = time.monotonic(), Result()
        for result in campaign(plan, options.count, options.jobs):
            for failure in result.failures[: max(0, SHRUNK - len(total.failures))]:
                _show(failure, plan, options.keep)
            before = total.vectors
            total.add(result)
            if sys.stderr.isatty() or before // TOLD != total.vectors // TOLD:
                rate = total.vectors / (time.monotonic() - began)
                end = "\r" if sys.stderr.isatty() else "\n"
                print(f"{total.vectors:,} vectors, {rate:,.0f} a second", end=end, file=sys.stderr, flush=True)
    except (Unavailable, EngineUnavailable, ValueError, OSError) as reason:
        print(f"campaign: {reason}", file=sys.stderr)
        return 2
    seconds = time.monotonic() - began
    print(report(total.retired, plan.rows))
    if options.coverage:
        lines = [f'"{row}",{size},{times}' for (row, size), times in sorted(total.retired.items())]
        options.coverage.write_text("row,size,times\n" + "\n".join(lines) + "\n")
    print(f"{seconds:.0f} s, {total.vectors / seconds:,.0f} vectors a second on {options.jobs} processes")
    failed = len(total.failures)
    print(f"{total.vectors - failed} passed, {failed} failed")
    return 1 if failed else 0


def _again(plan: Plan, number: int, folder: Path) -> int:
    result = run(plan, range(number, number + 1))
    for failure in result.failures:
        print(json.dumps(failure.vector))
        _show(failure, plan, folder)
    print(f"{result.vectors - len(result.failures)} passed, {len(result.failures)} failed")
    return 1 if result.failures else 0


def _show(failure: Failure, plan: Plan, folder: Path) -> None:
    print(failure.line)
    print(f"  again: {plan.command} --only {failure.number}")
    if failure.small:
        file = keep(failure.small, folder)
        print(f"  small: {failure.small['name']}")
        print(f"  kept: python -m sim vectors {os.path.relpath(file)} --engine {plan.engine}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
