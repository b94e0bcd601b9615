"""What several harts cost: cycles per second of the compiled engine, and arming one probe while they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import mean, median

from sim.cli import common
from sim.cli.measure import PATIENCE, BenchError
from sim.cli.probing import kprobe
from sim.engine import StopReason, open_engine
from sim.guestbuild import build_program
from sim.machine import Machine

HARTS = (1, 2, 4)
CALLS = 4_000
ARMINGS = 60

Figures = dict[str, dict[str, float]]


def measure(engine: str = "compiled") -> Figures:
    """Return, by number of harts: cycles and instructions of all harts per second; of arming a probe and of disarming it,
    microseconds of wall time, and cycles until every hart has serialised."""
    return {str(harts): _one(engine, harts) for harts in HARTS}


def _one(engine: str, harts: int) -> dict[str, float]:
    opened = open_engine(engine, harts=harts)
    try:
        elf = build_program("harts", n=CALLS, harts=harts)
        machine = Machine(elf, engine=opened)
        result = machine.run(PATIENCE)
        if result.reason != StopReason.EXIT or result.exit != 1:
            raise BenchError(f"harts did not end well on {harts} ({result.reason.name.lower()}, exit {result.exit})")
        rates = {"cycles": result.cycles / result.seconds, "instructions": result.retired / result.seconds}
        return {name: round(value, 1) for name, value in (rates | _arming(Machine(elf, engine=opened))).items()}
    finally:
        opened.close()


def _arming(machine: Machine) -> dict[str, float]:
    """Arm and disarm a probe again and again while all harts call the probed function."""
    probe = kprobe("work")
    machine.run(2_000)
    machine.kprobes.register_kprobe(probe)
    times: dict[str, list[float]] = {"arm": [], "disarm": [], "arm_cycles": [], "disarm_cycles": []}

    def timed(name: str, change: Callable[[], None]) -> None:
        machine.run(97)  # somewhere else each time
        began, cycle = time.perf_counter(), machine.cycle
        change()
        times[name].append((time.perf_counter() - began) * 1e6)
        machine.sync()
        times[f"{name}_cycles"].append(machine.cycle - cycle)

    for _ in range(ARMINGS):
        timed("disarm", lambda: machine.kprobes.disable_kprobe(probe))
        timed("arm", lambda: machine.kprobes.enable_kprobe(probe))
    return {name: (mean if name.endswith("cycles") else median)(values) for name, values in times.items()}


def show(figures: Figures) -> None:
    """Print a table."""
    columns = ("cycles/s", "instr./s", "arm, µs", "disarm, µs", "seen after")
    table = common.table("harts", *columns)
    for harts, row in figures.items():
        seen = f"{max(row['arm_cycles'], row['disarm_cycles']):,.1f} cycles"
        rates = (f"{row[name]:,.0f}" for name in ("cycles", "instructions"))
        table.add_row(harts, *rates, f"{row['arm']:,.0f}", f"{row['disarm']:,.0f}", seen)
    common.console().print(table)
