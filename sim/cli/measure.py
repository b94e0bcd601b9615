"""The figures of `bench`: each is counted from the events of a run, and means what `FIGURES` says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from hw.isa.facts import Vector
from sim.cli.probing import kprobe
from sim.elf import load_elf
from sim.engine import Recording, StopReason
from sim.events import Deliver, Event, Iret, Retire, Trap
from sim.guestbuild import PROGRAMS, build_program
from sim.machine import Machine, RunResult

#: A run of a workload gives up after so many cycles.
PATIENCE = 50_000_000

#: Programs that measure the pipeline on ordinary compiled code.
WORKLOADS = tuple(name for name, program in PROGRAMS.items() if program.host and name != "demo")
RATE_WORKLOAD = "mix"
QUICK = ("linkedlist", "tokeniser", "crc", "mix")


@dataclass(frozen=True)
class Figure:
    """A figure of the design, section 9: its key, what is counted, the first bar, the aim, and which way is good."""

    key: str
    about: str
    bar: float
    aim: float
    low: bool = True


FIGURES = (
    Figure("cpi_worst", "CPI, the worst workload", 2.0, 1.2),
    Figure("cpi", "CPI, mean of the workloads", 2.0, 1.2),
    Figure("int3", "int3 to its first handler instruction", 40, 12),
    Figure("iretq", "iretq to its target's first instruction", 30, 8),
    Figure("hit", "probe hit, int3 to the next instruction", 400, 120),
    Figure("compiled", "simulated cycles/s, engine compiled", 100_000, 1_000_000, low=False),
    Figure("pysim", "simulated cycles/s, engine pysim", 500, 3_000, low=False),
)  # fmt: skip


class BenchError(RuntimeError):
    """A workload that did not end as it should."""


def run_workload(name: str, engine: str, quick: bool) -> RunResult:
    """Run a workload to its end; short on a slow engine."""
    program = PROGRAMS[name]
    with Machine(engine=engine) as machine:
        slow = quick or "fast" not in machine.engine.capabilities
        machine.load_image(load_elf(build_program(name, n=program.n_test if slow else program.n_bench)))
        result = machine.run(PATIENCE)
    if result.reason != StopReason.EXIT or result.exit != 1:
        raise BenchError(
            f"{name} did not end well on {result.engine} ({result.reason.name.lower()}, exit {result.exit})"
        )
    return result


def rate(engine: str, quick: bool) -> float:
    """Return the cycles that an engine simulates in a second of wall time, over some seconds."""
    with Machine(engine=engine) as machine:
        fast = "fast" in machine.engine.capabilities
        size = PROGRAMS[RATE_WORKLOAD].n_bench * (30 if fast and not quick else 1 if fast else 0)
        machine.load_image(load_elf(build_program(RATE_WORKLOAD, n=size or PROGRAMS[RATE_WORKLOAD].n_test)))
        result = machine.run(PATIENCE)
    return result.cycles / result.seconds


def trap_figures(engine: str) -> dict[str, float]:
    """Return the cycles of int3, of iretq, and of a whole hit: medians over the hits of a kprobe on the demo."""
    with Machine(build_program("demo", n=2), engine=engine, record=Recording.ALL) as machine:
        machine.kprobes.register_kprobe(kprobe("__blockdev_direct_IO"))
        machine.run(PATIENCE)
        return count(machine.events)


def count(events: Iterable[Event]) -> dict[str, float]:
    """Count the figures of traps in a log with retire events of one hart, whose traps are all hits of kprobes."""
    found: dict[str, list[int]] = {"int3": [], "iretq": [], "hit": []}
    trap: Trap | None = None
    hit = began = iret = 0  # cycles: of the last int3, of the first uop of the last instruction, of the last iretq
    waiting = ""  # what the next instruction to retire is: the handler's first, or the target of an iretq
    for event in events:
        if isinstance(event, Trap):
            trap, waiting = event, ""
            hit = event.cycle if event.vector == Vector.BP else hit
        elif isinstance(event, Deliver):
            waiting = "handler"
        elif isinstance(event, Iret):  # comes after the Retire of its last uop
            waiting, iret = "target", began
        elif isinstance(event, Retire) and not event.delivery:
            began = event.cycle if event.first else began
            if not event.last or trap is None:
                continue
            if waiting == "handler" and trap.vector == Vector.BP:
                found["int3"].append(event.cycle - trap.cycle)
            elif waiting == "target":
                found["iretq"].append(event.cycle - iret)
                if trap.vector == Vector.DB:
                    found["hit"].append(event.cycle - hit)
            waiting = ""
    return {name: median(values) for name, values in found.items() if values}
