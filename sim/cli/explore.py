"""Runs a guest again and again, with one event from outside in every cycle of a window, and compares each run with the
undisturbed one. Without an ELF file: a guest with a probed function, disturbed at every cycle of a whole probe hit.

Events: irq:VECTOR@HART, ipi:VECTOR@HART (through the interrupt controller, which the guest has to have enabled), nmi@HART,
arm:SYM+OFF, disarm:SYM+OFF (of a probe by --probe or the script). Handlers of a script that remember something tell the
machine, so that it starts anew in each run: setup(machine), in which machine.keep(object)."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hw.config import Config
from sim import explore, guestbuild
from sim.cli import common
from sim.cli.common import FINDING, OK, OUT, UserError
from sim.cli.probing import Probing, add_options, options, place
from sim.elf import load_elf
from sim.engine import Recording, open_engine
from sim.explore import Disturbance, Exploration, Explorer
from sim.gtkw import around
from sim.machine import Machine
from sim.wave import WaveError, WaveRecorder

EXAMPLES = (
    "explore",
    "explore guest.elf --probe work+4 --around hit:2 --event irq:33 --event nmi",
    "explore guest.elf --event arm:work --window 2000:2500",
    "explore guest.elf --event arm:work --only 2104 --wave out/miss.vcd",
    "explore guest.elf --harts 2 --stale-lines 16 --sync none --event arm:work --window 810:1330",
)

#: What comes unless it is said.
DEFAULT = ("irq:32", "ipi:40", "nmi")

#: Cycles that a waveform shows before the event and after it.
BEFORE, AFTER = 120, 600


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("elf", nargs="?", type=Path, metavar="ELF", help="a static x86-64 executable")
    parser.add_argument(
        "--probe", action="append", default=[], metavar="SYM[+OFF]", help="a probe that is there all the time"
    )
    parser.add_argument("--script", type=Path, metavar="FILE.py", help="probes with handlers in Python")
    parser.add_argument(
        "--event", action="append", default=[], metavar="EVENT", help="what comes; default irq:32, ipi:40, nmi"
    )
    parser.add_argument("--window", metavar="FROM:TO", help="cycles in which it comes, TO not included")
    parser.add_argument(
        "--around", metavar="WHAT", help="a window by what happens in it: hit:N or trap:N; default hit:0"
    )
    parser.add_argument("--only", type=common.cycles, metavar="CYCLE", help="one cycle")
    parser.add_argument("--wave", metavar="FILE", help="record a waveform of it (with --only)")
    parser.add_argument("--until", metavar="SYM", help="end each run where this begins, instead of at the guest's end")
    parser.add_argument("--ignore", action="append", default=[], metavar="SYM", help="memory that may differ")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="stop after N findings; default 10")
    common.add_engine(parser)
    common.add_harts(parser)
    common.add_sync(parser)
    add_options(parser)
    common.add_max_cycles(parser, "of a run; ")
    common.add_ram(parser)
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Explore; 1 if a run differs."""
    common.check_engine(arguments.engine)
    if arguments.wave and arguments.only is None:
        raise UserError("--wave shows one run: say which with --only CYCLE")
    if arguments.elf is None:
        arguments.elf = guestbuild.build_program("disturbed", n=4)
        if not arguments.probe and not arguments.script and not arguments.event:
            arguments.probe, arguments.around = ["kinds"], arguments.around or "hit:1"
    events = [event(text) for text in arguments.event or DEFAULT]
    config = Config(ram_bytes=arguments.ram, stale_lines=arguments.stale_lines)
    with contextlib.closing(open_engine(arguments.engine, harts=arguments.harts, config=config)) as engine:
        make = _maker(arguments, engine)
        explorer = Explorer(make, until=arguments.until, ignore=arguments.ignore, max_cycles=arguments.max_cycles)
        try:
            found = [_explore(explorer, each, arguments) for each in events]
            if arguments.wave:
                common.note(f"wave: {_record(make, events[0], arguments)}")
        except ValueError as error:
            raise UserError(str(error)) from None
    if arguments.json:
        common.print_json([_as_json(each, arguments) for each in found])
    else:
        _show(found, arguments)
    return FINDING if any(each.findings for each in found) else OK


def event(text: str) -> Disturbance:
    """Read an event as the command line writes it."""
    if found := re.fullmatch(r"(irq|ipi):(\d+)(?:@([0-3]))?", text):
        if not 32 <= int(found[2]) < 256:
            raise UserError(f"{text!r}: vectors of interrupts are 32 to 255")
        return {"irq": explore.irq, "ipi": explore.ipi}[found[1]](int(found[2]), int(found[3] or 0))
    if found := re.fullmatch(r"nmi(?:@([0-3]))?", text):
        return explore.nmi(int(found[1] or 0))
    if found := re.fullmatch(r"(arm|disarm):(.+)", text):
        return {"arm": explore.arm, "disarm": explore.disarm}[found[1]](*place(found[2]))
    raise UserError(f"{text!r} is no event; say irq:VECTOR@HART, ipi:VECTOR@HART, nmi@HART, arm:SYM+OFF or disarm:SYM+OFF")


def _maker(arguments: argparse.Namespace, engine: Any) -> Callable[[], Machine]:
    image = load_elf(arguments.elf)
    probing = Probing([place(p) for p in arguments.probe], script=arguments.script)

    def make() -> Machine:
        machine = Machine(image, engine=engine, record=Recording.ALL, probes=options(arguments), sync=arguments.sync)
        probing.plant(machine)
        return machine

    return make


def _explore(explorer: Explorer, disturbance: Disturbance, arguments: argparse.Namespace) -> Exploration:
    with contextlib.redirect_stdout(io.StringIO()):  # handlers may print
        window = _window(explorer, arguments)
        with common.progress(disturbance.name, len(window)) as show:
            return explorer.explore(disturbance, window, most=arguments.most, progress=show)


def _window(explorer: Explorer, arguments: argparse.Namespace) -> range:
    if arguments.only is not None:
        return range(arguments.only, arguments.only + 1)
    if arguments.window:
        found = re.fullmatch(r"(\d+):(\d+)", arguments.window)
        if not found or int(found[1]) >= int(found[2]):
            raise UserError(f"{arguments.window!r} is no window: say FROM:TO in cycles, for example 2000:2500")
        return range(int(found[1]), int(found[2]))
    machine = explorer.undisturbed()
    with contextlib.closing(machine):
        try:
            where = around(machine.events, arguments.around or "hit:0", margin=0)
        except ValueError as error:
            raise UserError(f"{error}; choose another --around, or a --window FROM:TO") from None
    return range(where.start, where.end)


def _record(make: Callable[[], Machine], disturbance: Disturbance, arguments: argparse.Namespace) -> Path:
    """Run from reset with a recorder, to see the cycles around the event."""
    cycle = arguments.only
    with make() as machine, contextlib.redirect_stdout(io.StringIO()):
        recorder = WaveRecorder(machine)
        recorder.window(max(0, cycle - BEFORE), cycle + AFTER)
        explore.advance(machine, cycle)
        disturbance.apply(machine)
        machine.run(AFTER, arguments.until)
        try:
            return recorder.write(arguments.wave, {"event": cycle}, cycle)[0]
        except OSError as error:
            raise UserError(f"{arguments.wave} cannot be written ({error.strerror}): choose another file") from None
        except WaveError as error:
            raise UserError(str(error)) from None


def command(cycle: int, name: str, arguments: argparse.Namespace) -> str:
    """Return the command that repeats one run, with a waveform."""
    words = [str(arguments.elf)]
    for option in ("probe", "ignore"):
        words += [word for value in getattr(arguments, option) for word in (f"--{option}", value)]
    usually = {"script": None, "until": None, "engine": "auto", "harts": 1, "ram": 16 << 20, "step": "tf", "sync": None}
    for option, usual in usually.items():
        value = getattr(arguments, option)
        words += [] if value == usual else [f"--{option}", str(value)]
    words += [f"--{option}" for option in ("boost", "optimize") if getattr(arguments, option)]
    words += ["--optimize-delay", str(arguments.optimize_delay)] if arguments.optimize else []
    words += ["--stale-lines", str(arguments.stale_lines)] if arguments.stale_lines else []
    wave = OUT / "explore" / f"{re.sub('[^a-z0-9]+', '-', name)}-{cycle}.vcd"
    words += ["--event", name, "--only", str(cycle), "--wave", str(wave)]
    return f"{common.program()} explore {shlex.join(words)}"


def _as_json(found: Exploration, arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "event": found.disturbance, "from": found.window.start, "to": found.window.stop, "runs": found.runs,
        "cycles": found.simulated, "seconds": round(found.seconds, 3), "note": found.note,
        "findings": [
            {"cycle": f.cycle, "problems": f.problems, "repeat": command(f.cycle, f.disturbance, arguments)}
            for f in found.findings
        ],
    }  # fmt: skip


def _show(found: list[Exploration], arguments: argparse.Namespace) -> None:
    table = common.table("event", "window", "runs", "runs/s", "cycles", "findings", left=("event",))
    for each in found:
        window = f"{each.window.start}:{each.window.stop}"
        rate = f"{each.runs / max(each.seconds, 1e-9):,.0f}"
        table.add_row(each.disturbance, window, str(each.runs), rate, f"{each.simulated:,}", str(len(each.findings)))
    common.console().print(table)
    for note in {each.note for each in found if each.note}:
        print(f"note: {note}")
    for finding in (finding for each in found for finding in each.findings):
        print(f"FOUND {finding.disturbance} in cycle {finding.cycle}")
        for problem in finding.problems:
            print(f"  {problem}")
        print(f"  repeat: {command(finding.cycle, finding.disturbance, arguments)}")
