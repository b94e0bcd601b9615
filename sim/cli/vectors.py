"""Runs architectural test vectors (JSON; docs and design, section 8) on the hardware and compares."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from hw.config import Config
from sim.cli.common import FINDING, OK, UserError, add_engine, add_json, check_engine, note, print_json, progress
from sim.engine import ENGINES, EngineUnavailable, open_engine
from sim.vectorfile import RAM_BYTES, Vector, VectorsError, load
from sim.vectors import Outcome, Runner

EXAMPLES = (
    "vectors silicon.json",
    "vectors silicon.json --engine all",
    "vectors silicon.json --only imul --json",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("file", nargs="+", metavar="FILE.json", help="lists of vectors")
    add_engine(parser, "all")
    parser.add_argument("--only", metavar="TEXT", help="only vectors with this in their names")
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the vectors of all files on one engine or on all; 1 if one failed."""
    check_engine(arguments.engine, "all")
    try:
        vectors = [vector for file in arguments.file for vector in load(file)]
    except VectorsError as error:
        raise UserError(str(error)) from None
    if arguments.only is not None:
        vectors = [vector for vector in vectors if arguments.only in vector.name]
        if not vectors:
            raise UserError(f"no vector has {arguments.only!r} in its name")
    results = []
    names = list(ENGINES) if arguments.engine == "all" else [arguments.engine]
    for name in names:
        try:
            engine = open_engine(name, config=Config(ram_bytes=RAM_BYTES))
        except EngineUnavailable as error:
            if arguments.engine != "all":
                raise
            note(f"skipped: {error}")
            continue
        with progress(f"vectors on {engine.name}", len(vectors)) as show:
            began = time.perf_counter()
            failures = _run(Runner(engine), vectors, show)
        seconds = time.perf_counter() - began
        results.append(
            {
                "engine": engine.name,
                "passed": len(vectors) - len(failures),
                "failed": len(failures),
                "seconds": round(seconds, 3),
                "failures": [{"name": f.name, "differences": f.differences, "passes_alone": f.alone} for f in failures],
            }
        )
        if not arguments.json:
            for failure in failures:
                print((f"{engine.name}: " if len(names) > 1 else "") + failure.line())
        engine.close()
    if not results:
        raise UserError("no engine is available here: see kphw engines")
    passed, failed = (sum(result[key] for result in results) for key in ("passed", "failed"))
    if arguments.json:
        print_json({"passed": passed, "failed": failed, "engines": results})
    else:
        print(f"{passed} passed, {failed} failed")
    return FINDING if failed else OK


def _run(runner: Runner, vectors: list[Vector], show: Callable[[float], None]) -> list[Outcome]:
    failures = []
    for number, outcome in enumerate(runner.run(vectors), 1):
        show(number)
        if outcome.differences:
            failures.append(outcome)
    return failures
