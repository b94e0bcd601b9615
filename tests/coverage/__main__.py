"""Prints what the tests have covered: ``python -m tests.coverage [--json] [--missing N] [VECTORS.json ...]``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sim.cli import common
from sim.engine import open_engine
from sim.vectorfile import RAM_BYTES, load
from sim.vectors import Runner
from tests.coverage import collect
from tests.coverage.report import groups


def main() -> int:
    """Print the report; 1 if nothing has been collected."""
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__)
    parser.add_argument("vectors", nargs="*", type=Path, help="vectors to run first; they count like tests")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--missing", type=int, default=10, metavar="N", help="list so many of what is missing of each kind")
    arguments = parser.parse_args()
    for path in arguments.vectors:
        _run(path)
    coverage = collect.load()
    if not coverage.rows:
        print("nothing has been collected for this hardware: run the tests first (make test)", file=sys.stderr)
        return 1
    found = groups(coverage)
    if arguments.json:
        rows = [{"name": g.name, "seen": g.seen, "total": g.total, "missing": g.missing} for g in found]
        print(json.dumps(rows, indent=2))
        return 0
    table = common.table("covered", "seen", "of", "%", left=("covered",))
    for group in found:
        table.add_row(group.name, f"{group.seen:,}", f"{group.total:,}", f"{100 * group.seen / max(1, group.total):.1f}")
    common.console().print(table)
    for group in found:
        for what in group.missing[: arguments.missing]:
            print(f"missing: {what}")
        if len(group.missing) > arguments.missing:
            print(f"missing: {len(group.missing) - arguments.missing} more {group.name} (--missing {len(group.missing)})")
    return 0


def _run(path: Path) -> None:
    from hw.config import Config

    coverage = collect.Coverage()
    engine = collect.Covering(open_engine(config=Config(ram_bytes=RAM_BYTES)), coverage)
    failed = [outcome.name for outcome in Runner(engine).run(load(path)) if outcome.differences]  # type: ignore[arg-type]
    engine.drain()
    collect.save(coverage)
    if failed:
        print(f"{path}: {len(failed)} vectors fail, {failed[0]} first", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
