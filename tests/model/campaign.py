"""Random programs on the core beside the reference model, by the thousand; and one failing program made small.

    python -m tests.model.campaign --count 20000 --seed 7 --jobs 2
    python -m tests.model.campaign --seed 7 --number 123            # one program again, shrunk and listed
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from hw.config import Config, Vendor
from sim.engine import EngineUnavailable, open_engine
from tests.model.lockstep import KINDS
from tests.model.programs import Program, program
from tests.model.rig import Outcome, Rig

_TRIES = 400


@dataclass
class Result:
    """What a share of a campaign found."""

    programs: int = 0
    items: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    opcodes: Counter[tuple[int, int]] = field(default_factory=Counter)
    vectors: Counter[tuple[int, int]] = field(default_factory=Counter)
    unmodelled: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)


def share(seed: int, numbers: Sequence[int], rig: Rig, limit: int = 20) -> Result:
    """Run the programs with these numbers, until `limit` fail."""
    result = Result()
    for number in numbers:
        outcome = rig.run(program(f"{seed}/{number}"))
        result.programs += 1
        result.items += outcome.items
        result.ends[outcome.reason.name] += 1
        if outcome.lockstep:
            result.opcodes += outcome.lockstep.opcodes
            result.vectors += outcome.lockstep.vectors
        if outcome.unmodelled:
            result.unmodelled[outcome.unmodelled] += 1
        if outcome.mismatch:
            result.failures.append((number, f"{outcome.mismatch.what}: {outcome.mismatch}"))
            if len(result.failures) >= limit:
                break
    return result


def _halves(items: list, test: Callable[[list], bool], tries: list[int]) -> list:
    """Leave out as much as possible: large parts first, then single items."""
    size = max(len(items) // 2, 1)
    while size:
        at = 0
        while at < len(items) and tries[0]:
            less = items[:at] + items[at + size :]
            tries[0] -= 1
            if test(less):
                items = less
            else:
                at += size
        size //= 2
    return items


def shrink(rig: Rig, failing: Program, what: str) -> Program:
    """The smallest program found that differs in the same kind of thing."""
    tries = [_TRIES]

    def fails(candidate: Program) -> bool:
        found = rig.run(candidate).mismatch
        return found is not None and found.what == what

    if fails(fast := failing.smaller(failing.kept, failing.events, 0)):
        failing = fast
    events = _halves(failing.events, lambda e: fails(failing.smaller(failing.kept, e, failing.timing)), tries)
    failing = failing.smaller(failing.kept, events, failing.timing)
    kept = _halves(failing.kept, lambda k: fails(failing.smaller(k, failing.events, failing.timing)), tries)
    return failing.smaller(kept, failing.events, failing.timing)


def report(rig: Rig, seed: int, number: int) -> Iterator[str]:
    """Lines about one program: what differs, the smallest form of it, where to look."""
    whole = program(f"{seed}/{number}")
    outcome = rig.run(whole)
    if outcome.mismatch is None:
        yield f"program {number} of seed {seed}: {outcome.items} steps agree, ends with {outcome.reason.name}"
        if outcome.unmodelled:
            yield f"not compared to its end: the model does not know {outcome.unmodelled}"
        return
    yield f"program {number} of seed {seed} differs: {outcome.mismatch}"
    small = shrink(rig, whole, outcome.mismatch.what)
    outcome = rig.run(small)
    assert outcome.mismatch is not None and outcome.lockstep is not None
    yield f"smallest form ({len(small.kept)} of {len(whole.kept)} pieces): {outcome.mismatch}"
    yield f"where to look: {outcome.mismatch.look}"
    yield f"memory: latency and wait seed {rig.timing}; events (cycle, what): {small.events}"
    yield "initial: " + " ".join(f"{name}={value:#x}" for name, value in small.regs.items())
    last = list(outcome.lockstep.trail)
    for address, line in small.listing():
        yield f"  {address:#x}: {line}" + ("   <--" if last and last[-1] == address else "")
    yield "last steps of the model: " + ", ".join(f"{pc:#x}" for pc in last[-12:])
    yield repeat(seed, number, rig.model.vendor)


def repeat(seed: int, number: int, vendor: str) -> str:
    """Return the command that runs a program again."""
    option = "" if vendor == "intel" else f" --vendor {vendor}"
    return f"to repeat: python -m tests.model.campaign --seed {seed} --number {number}{option}"


def new_rig(vendor: str = "intel") -> Rig:
    """A rig on the compiled engine."""
    config = Config(vendor=Vendor(vendor))
    return Rig(lambda latency, seed: open_engine("compiled", config=config, latency=latency, wait_seed=seed), vendor=vendor)


def _worker(task: tuple[int, range, str]) -> Result:
    return share(task[0], task[1], new_rig(task[2]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 0: all agree, 1: some differ, 2: wrong usage or no compiled engine."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.campaign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="programs (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (default: 1)")
    parser.add_argument("--start", type=int, default=0, help="number of the first program (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--number", type=int, help="only this program, made smaller if it fails, and listed")
    parser.add_argument("--vendor", choices=[v.value for v in Vendor], default="intel", help="whose rules (default: intel)")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.jobs < 1:
        parser.error("--count and --jobs must be at least 1")
    try:
        rig = new_rig(options.vendor)
        rig.warm()
    except EngineUnavailable as reason:
        print(f"campaign: {reason}", file=sys.stderr)
        return 2
    if options.number is not None:
        lines = list(report(rig, options.seed, options.number))
        print("\n".join(lines))
        return int(len(lines) > 2)
    began = time.monotonic()
    numbers = range(options.start, options.start + options.count)
    if options.jobs == 1:
        results = [share(options.seed, numbers, rig)]
    else:
        tasks = [(options.seed, numbers[n :: options.jobs], options.vendor) for n in range(options.jobs)]
        with ProcessPoolExecutor(options.jobs) as pool:
            results = list(pool.map(_worker, tasks))
    return summary(results, options.seed, options.vendor, time.monotonic() - began)


def summary(results: Sequence[Result], seed: int, vendor: str, seconds: float) -> int:
    """Print what was found; the exit code."""
    failures = sorted(failure for result in results for failure in result.failures)
    for number, line in failures:
        print(f"program {number}: {line}")
        print(f"    {repeat(seed, number, vendor)}")
    programs, items = sum(r.programs for r in results), sum(r.items for r in results)
    ends = sum((r.ends for r in results), Counter[str]())
    unknown = sum((r.unmodelled for r in results), Counter[str]())
    print(f"{items:,} steps of {programs:,} programs in {seconds:.0f} s; ends: {dict(ends)}")
    opcodes = sum((r.opcodes for r in results), Counter[tuple[int, int]]())
    vectors = sum((r.vectors for r in results), Counter[tuple[int, int]]())
    taken = ", ".join(f"{KINDS[kind]} {vector}: {count}" for (kind, vector), count in sorted(vectors.items()) if vector < 32)
    print(f"{len(opcodes)} opcodes retired, {sum(opcodes[1, n] for n in (5, 7))} of them syscall and sysret; traps: {taken}")
    if unknown:
        print(f"not compared to the end, since the model does not know: {dict(unknown.most_common(10))}")
    print(f"{programs - len(failures)} passed, {len(failures)} failed")
    return int(bool(failures))


__all__ = ["Outcome", "Result", "main", "report", "share", "shrink"]

if __name__ == "__main__":
    sys.exit(main())
