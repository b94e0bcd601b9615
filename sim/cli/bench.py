"""Measures the core and the engines: cycles per instruction on compiled programs, cycles of int3, iretq and a
whole probe hit, simulated cycles per second; and compares with the bars of the design (section 9). Then the probes: cycles
of a hit of each kind beside those that the kernel publishes, and the time that registering takes."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sim.cli import common, size, smpbench
from sim.cli.common import FINDING, OK, UserError, note
from sim.cli.engines import engines
from sim.cli.hitcost import COUNTS, KINDS, HitError, hit_cycles, registration
from sim.cli.measure import FIGURES, QUICK, WORKLOADS, BenchError, rate, run_workload, trap_figures
from sim.engine import open_engine

EXAMPLES = ("bench", "bench --quick --engine pysim", "bench --save", "bench --json", "bench --size")

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results.jsonl"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    common.add_engine(parser)
    parser.add_argument("--quick", action="store_true", help="a few short workloads")
    parser.add_argument("--size", action="store_true", help="synthesise the core, too, unless its size is known (minutes)")
    parser.add_argument("--save", action="store_true", help="add the figures to bench/results.jsonl")
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a workload does not end well."""
    common.check_engine(arguments.engine)
    try:
        result = measure(arguments.engine, arguments.quick)
    except (BenchError, HitError) as error:
        note(f"bench: {error}")
        return FINDING
    result["size"] = size.measure() if arguments.size else size.known()
    if arguments.save:
        _save(result)
    if arguments.json:
        common.print_json(result)
    else:
        _show(result)
        size.show(result["size"])
    return OK


def measure(engine: str, quick: bool) -> dict[str, Any]:
    """Return everything that is measured. CPI and traps: on one engine; all engines agree on them."""
    with common.progress("preparing the engine"):
        opened = open_engine(engine)
    name, fast = opened.name, "fast" in opened.capabilities
    with common.progress("probes"):
        hits = hit_cycles(opened)
        registered = registration(opened) if fast and not quick else {}
    opened.close()
    names = QUICK if quick else WORKLOADS
    workloads: dict[str, dict[str, Any]] = {}
    with common.progress(f"workloads on {name}", len(names)) as show:
        for number, workload in enumerate(names, 1):
            run = run_workload(workload, name, quick)
            cpi = run.cycles / run.retired
            workloads[workload] = {"cycles": run.cycles, "retired": run.retired, "cpi": round(cpi, 3)}
            show(number)
    with common.progress("traps"):
        figures: dict[str, float] = trap_figures(name)
    cpis = [w["cpi"] for w in workloads.values()]
    figures["cpi"] = round(math.exp(sum(map(math.log, cpis)) / len(cpis)), 3)
    figures["cpi_worst"] = max(cpis)
    others = [e["name"] for e in engines() if e["available"] and e["name"] != name] if engine == "auto" else []
    for each in (name, *others):
        with common.progress(f"speed of {each}"):
            figures[each] = round(rate(each, quick))
    with common.progress("several harts"):
        harts = smpbench.measure(name) if fast and not quick else {}
    return {
        "commit": _commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "engine": name, "quick": quick,
        "machine": f"{platform.machine()}, {os.cpu_count()} cpus, Python {platform.python_version()}",
        "figures": figures, "workloads": workloads, "hits": hits, "registration": registered, "harts": harts,
    }  # fmt: skip


def _commit() -> str | None:
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def _save(result: dict[str, Any]) -> None:
    try:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(result) + "\n")
    except OSError as error:
        raise UserError(f"{RESULTS} cannot be written ({error.strerror}): run in a clone of the repository") from None
    note(f"added to {os.path.relpath(RESULTS)}")


def _show(result: dict[str, Any]) -> None:
    console = common.console()
    table = common.table("workload", "cycles", "instructions", "CPI", left=("workload",))
    for name, workload in result["workloads"].items():
        table.add_row(name, f"{workload['cycles']:,}", f"{workload['retired']:,}", f"{workload['cpi']:.2f}")
    console.print(table)
    table = common.table("figure", "measured", "first bar", "aim", "", left=("figure", ""))
    worst = max(result["workloads"], key=lambda name: result["workloads"][name]["cpi"])
    for figure in FIGURES:
        value = result["figures"].get(figure.key)
        if value is not None:
            good, best = (
                (value <= figure.bar, value <= figure.aim) if figure.low else (value >= figure.bar, value >= figure.aim)
            )
            verdict = "aim" if best else "bar" if good else "MISSED"
            about = figure.about + (f" ({worst})" if figure.key == "cpi_worst" else "")
            table.add_row(about, *map(number, (value, figure.bar, figure.aim)), verdict)
    console.print(table)
    _show_probes(result)
    if result["harts"]:
        smpbench.show(result["harts"])
    print(f"engine {result['engine']}; {result['machine']}; commit {result['commit'] or 'unknown'}")


def _show_probes(result: dict[str, Any]) -> None:
    """Cycles of hits, beside those of Documentation/trace/kprobes.rst; and the time of registrations."""
    console = common.console()
    table = common.table("a hit, cycles", "here", "Opteron 246", "Xeon E5410", left=("a hit, cycles",))
    for kind in KINDS:
        published = ("" if value is None else f"{value:,}" for value in kind.published)
        table.add_row(kind.name, f"{result['hits'][kind.name]:,.0f}", *published)
    console.print(table)
    if not result["registration"]:
        return
    columns = ("register one", "unregister one", "a hit")
    table = common.table("probes", *(f"{name}, µs" for name in columns))
    rows = [result["registration"][str(count)] for count in COUNTS]
    for count, row in zip(COUNTS, rows, strict=True):
        table.add_row(f"{count:,}", *(f"{value:.1f}" for value in row.values()))
    table.add_row("ratio", *(f"{last / first:.2f}" for first, last in zip(rows[0].values(), rows[-1].values(), strict=True)))
    console.print(table)


def number(value: float) -> str:
    """Return 1.23, 40, 100,000."""
    return f"{value:,.0f}" if value >= 100 or (value == int(value) and value > 5) else f"{value:.2f}"
