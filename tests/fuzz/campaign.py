"""Millions of snippets of random bytes on the compiled engine.

    python -m tests.fuzz.campaign --count 2000000 --seed 3 --jobs 2
    python -m tests.fuzz.campaign --seed 3 --fill 17              # one fill again
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from sim.engine import EngineUnavailable, open_engine
from tests.fuzz.runner import Findings, Runner, fills
from tests.fuzz.snippets import fill

#: Snippets in one fill of memory.
EACH = 20_000


def one(runner: Runner, seed: int, number: int, count: int = EACH) -> Findings:
    """Run one fill; every other one at CPL 3."""
    return runner.run(fill(seed, number, count), bool(number % 2), f"seed {seed}, fill {number}")


def _worker(task: tuple[int, list[tuple[int, int]]]) -> Findings:
    seed, share = task
    runner, total = Runner(open_engine("compiled")), Findings()
    for number, count in share:
        found = one(runner, seed, number, count)
        total.add(found)
        print(*found.failures, sep="\n", end="", file=sys.stderr, flush=True)
        print(f"fill {number}: {total.snippets:,} snippets, {len(total.failures)} failures", file=sys.stderr, flush=True)
        if len(total.failures) >= 20:
            break
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 0: nothing found, 1: findings, 2: wrong usage or no compiled engine."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.campaign", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="snippets (default: 100000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all bytes (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--fill", type=int, help=f"only this fill of {EACH} snippets")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.jobs < 1:
        parser.error("--count and --jobs must be at least 1")
    try:
        open_engine("compiled").close()
    except EngineUnavailable as reason:
        print(f"fuzz: {reason}", file=sys.stderr)
        return 2
    began, total = time.monotonic(), Findings()
    shares = list(fills(options.count, EACH)) if options.fill is None else [(options.fill, EACH)]
    tasks = [(options.seed, shares[n :: options.jobs]) for n in range(options.jobs)]
    if options.jobs == 1:
        total = _worker(tasks[0])
    else:
        with ProcessPoolExecutor(options.jobs) as pool:
            for found in pool.map(_worker, tasks):
                total.add(found)
    seconds = time.monotonic() - began
    for failure in total.failures:
        print(failure)
    traps = ", ".join(f"{vector}: {count}" for vector, count in sorted(total.traps.items()) if vector < 32)
    print(f"{total.snippets:,} snippets, {total.retired:,} uops, {total.cycles:,} cycles in {seconds:.0f} s")
    print(f"{total.snippets / seconds:,.0f} snippets/s; loops {total.loops}, shutdowns {total.shutdowns}, restarts {total.restarts}")
    print(f"traps by vector: {traps}")
    print(f"{total.snippets - len(total.failures)} passed, {len(total.failures)} failed")
    return int(bool(total.failures))


if __name__ == "__main__":
    sys.exit(main())
