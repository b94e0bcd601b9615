"""Runs a guest with probes and shows every hit; without an ELF file, the demo.

The demo is built with gcc, probed by examples/demo/probes.py, run a second
time without probes, and recorded as a waveform around its first hit."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hw.config import Config
from sim import guestbuild
from sim.cli import common, htmlreport
from sim.cli.common import FINDING, OK, OUT, UserError
from sim.cli.probing import HandlerError, KprobePanic, Probing, add_options, add_probes, explain, options
from sim.cli.simulate import ending, simulate
from sim.elf import Image, load_elf
from sim.engine import DesignError, Engine, Recording, StopReason, open_engine
from sim.events import Trap, as_dict
from sim.gtkw import Around, around
from sim.machine import Machine, RunResult
from sim.misses import misses, told
from sim.report import Hit, cells, hits, summary
from sim.wave import WaveError, WaveRecorder

EXAMPLES = (
    "run",
    "run guest.elf --probe main+4 --jprobe ip_queue_xmit",
    "run guest.elf --script probes.py --compare",
    "run guest.elf --wave --wave-around trap:0",
    "run guest.elf --json",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "elf", nargs="?", type=Path, metavar="ELF", help="a static x86-64 executable (default: the demo)"
    )
    add_probes(parser)
    add_options(parser)
    common.add_engine(parser)
    common.add_harts(parser)
    parser.add_argument("--wave", nargs="?", const=True, metavar="FILE", help="record a waveform (.vcd, .vcd.gz, .fst)")
    parser.add_argument(
        "--wave-around", metavar="WHAT", help="trap:N, hit:N, cycle:N (from 0) or all; default the first hit"
    )
    parser.add_argument(
        "--events", nargs="?", const=True, metavar="FILE", help="write every event, retirement included"
    )
    parser.add_argument("--compare", action="store_true", help="run again without probes and compare")
    common.add_max_cycles(parser)
    common.add_ram(parser)
    common.add_json(parser)


@dataclass
class Report:
    """What a command line asked for, and what came of it."""

    name: str
    image: Image
    result: RunResult
    hits: list[Hit]
    findings: list[str] = field(default_factory=list)
    equal: bool | None = None
    files: dict[str, str] = field(default_factory=dict)


def main(arguments: argparse.Namespace) -> int:
    """Run; 1 if the guest did not end well or probes changed what it does."""
    common.check_engine(arguments.engine)
    _check_wave(arguments)
    probing = Probing.of(arguments)
    demo = arguments.elf is None
    if demo:
        if not probing:
            probing.script = guestbuild.DEMO_DIR / "probes.py"
        arguments.elf = guestbuild.build_demo()
        arguments.compare = True
        arguments.wave = arguments.wave or True
    name = "demo" if demo else arguments.elf.stem
    image = load_elf(arguments.elf)
    try:
        report = _run(name, image, probing, arguments)
    except HandlerError as error:
        raise UserError(explain(error)) from None
    except KprobePanic as error:
        common.note(f"kprobes panic: {error}")
        return FINDING
    except (WaveError, ValueError) as error:
        if isinstance(error, UnicodeError) or not _expected(error):
            raise
        raise UserError(str(error)) from None
    if arguments.json:
        common.print_json(_as_json(report))
    else:
        _show(report)
    return FINDING if report.findings else OK


def _check_wave(arguments: argparse.Namespace) -> None:
    """Refuse before a long run what cannot be recorded after it."""
    what, file = arguments.wave_around, arguments.wave
    if what is not None and not re.fullmatch(r"all|(trap|hit|cycle):\d+", what):
        raise UserError(f"{what!r} is no place in a run; say trap:N, hit:N, cycle:N (numbers from 0), or all")
    if isinstance(file, str) and not file.endswith((".vcd", ".vcd.gz", ".fst")):
        raise UserError(f"{file!r} is no waveform; call it .vcd, .vcd.gz or .fst")


def _expected(error: Exception) -> bool:
    """Whether a ValueError is one that `sim.gtkw`, `sim.wave` or the hardware's parameters mean for the user."""
    return isinstance(error, WaveError) or type(error) is ValueError


def _run(name: str, image: Image, probing: Probing, arguments: argparse.Namespace) -> Report:
    quiet = contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext()
    with quiet, contextlib.ExitStack() as lent:
        with common.progress(f"preparing the engine {arguments.engine}"):
            config = Config(ram_bytes=arguments.ram)
            engine = lent.enter_context(contextlib.closing(open_engine(arguments.engine, harts=arguments.harts, config=config)))
        with _machine(image, engine, arguments) as machine:
            probing.plant(machine)
            if not arguments.events:
                machine.watch = {p.addr for p in machine.kprobes.registered if p.addr is not None}
            try:
                result = simulate(machine, arguments.max_cycles, "with probes" if probing else "running")
            except DesignError as error:
                if arguments.wave or arguments.wave_around:
                    where = around(list(machine.events), arguments.wave_around or f"cycle:{error.cycle}")
                    common.note(f"wave: {_record(name, image, where, probing, engine, arguments)[0]}")
                raise
            report = Report(name, image, result, hits(machine.events), ending(machine, result) + _missed(machine))
            events = list(machine.events)
            if arguments.events:
                path = OUT / name / "events.jsonl" if arguments.events is True else Path(arguments.events)
                report.files["events"] = _written(path, machine.events.write_jsonl)
        if arguments.compare and probing:
            _compare(report, engine, arguments)
        if arguments.wave or arguments.wave_around:
            _wave(report, events, probing, engine, arguments)
    page = htmlreport.page(f"kphw run: {name}", _facts(report), _console(result), report.hits)
    report.files["report"] = _written(OUT / name / "report.html", lambda path: path.write_text(page))
    return report


def _written(path: Path, write: Callable[[Path], object]) -> str:
    """Write a file and its folder; return its path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose a place where you may write") from None
    return str(path)


def _machine(image: Image, engine: Engine, arguments: argparse.Namespace) -> Machine:
    """A fresh machine on the engine of the command; the engine stays open."""
    record = Recording.ALL if arguments.events or arguments.harts > 1 else Recording.TRAPS
    return Machine(image, engine=engine, record=record, probes=options(arguments))


def _missed(machine: Machine) -> list[str]:
    """Tell what probes have missed, where several harts could run past one."""
    found: list[str] = []
    for p in machine.kprobes.registered if len(machine.harts) > 1 else ():
        missed = [] if p.addr is None or p.disabled else list(misses(machine.events, p.addr, p.opcode))
        if missed:
            found.append(told(missed, p.hits + p.nmissed, machine.symbols.describe(missed[0].address)))
    return found


def _compare(report: Report, engine: Engine, arguments: argparse.Namespace) -> None:
    with _machine(report.image, engine, arguments) as machine:
        plain = simulate(machine, arguments.max_cycles, "without probes")
    probed = report.result
    report.equal = (plain.console, plain.exit, plain.reason) == (probed.console, probed.exit, probed.reason)
    if not report.equal:
        report.findings.append(f"without probes the guest prints {_console(plain)!r} and exits with {plain.exit}")


def _wave(report: Report, events: list, probing: Probing, engine: Engine, arguments: argparse.Namespace) -> None:
    """Run once more with a recorder on the chosen window: a run is the same every time."""
    what = arguments.wave_around
    if what is None:
        what = "hit:0" if report.hits else "trap:0" if any(isinstance(e, Trap) for e in events) else "all"
    report.files["wave"], report.files["gtkwave"], *_ = _record(
        report.name, report.image, around(events, what), probing, engine, arguments
    )


def _record(
    name: str, image: Image, window: Around, probing: Probing, engine: Engine, arguments: argparse.Namespace
) -> list[str]:
    """Run again, to the end of a window or to a failing invariant, and write the window; return the paths."""
    path = OUT / name / "wave.vcd" if arguments.wave in (True, None) else Path(arguments.wave)
    with _machine(image, engine, arguments) as machine, contextlib.redirect_stdout(io.StringIO()):
        probing.plant(machine)
        recorder = WaveRecorder(machine)
        recorder.window(window.start, window.end)
        with contextlib.suppress(DesignError):
            simulate(machine, min(window.end, arguments.max_cycles), "recording the waveform")
        try:
            return [str(written) for written in recorder.write(path, window.marks, window.focus)]
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another file with --wave") from None


def _console(result: RunResult) -> str:
    return result.console.decode(errors="replace")


def _facts(report: Report) -> list[tuple[str, object]]:
    result = report.result
    rate = result.cycles / result.seconds if result.seconds else 0
    facts: list[tuple[str, object]] = [
        ("engine", f"{result.engine}, {result.seconds:.1f} s, {rate:,.0f} cycles/s"),
        ("cycles", f"{result.cycles:,}"),
        ("retired", f"{result.retired:,} instructions ({result.cycles / max(1, result.retired):.2f} cycles each)"),
        (
            "ended",
            {StopReason.EXIT: f"status {(result.exit or 0) >> 1}"}.get(result.reason, result.reason.name.lower()),
        ),
    ]
    if report.equal is not None:
        facts.append(("unprobed run", "the same console and exit" if report.equal else "DIFFERENT"))
    return facts + [("found", finding) for finding in report.findings]


def _as_json(report: Report) -> dict[str, object]:
    result = report.result
    return {
        "guest": report.name, "engine": result.engine, "cycles": result.cycles, "retired": result.retired,
        "exit": result.exit, "reason": result.reason.name.lower(), "console": _console(result),
        "seconds": round(result.seconds, 3), "hits": [hit.as_dict() for hit in report.hits],
        "shutdown": [as_dict(trap) for trap in result.shutdown], "lost": [as_dict(lost) for lost in result.lost],
        "findings": report.findings, "same_without_probes": report.equal, "files": report.files,
    }  # fmt: skip


def _show(report: Report) -> None:
    console = common.console()
    if report.hits:
        console.print(hit_table(report.hits))
        for head, lines in summary(report.hits):
            print(head, *lines, sep="\n  ")
        print()
    text = _console(report.result)
    if text:
        print(f"{'console':14}{text.rstrip().replace(chr(10), chr(10) + 14 * ' ')}")
    for name, value in (*_facts(report), *report.files.items()):
        print(f"{name.upper() if name == 'found' else name:14}{str(value).replace(chr(10), chr(10) + 14 * ' ')}")


def hit_table(found: list[Hit]):
    """Return the table of hits, at most 80 columns wide; with the harts if there are several."""
    several = len({hit.hart for hit in found}) > 1
    table = common.table(
        *(("hart",) if several else ()), "cycle", "at", "handlers", "deliver", "stub", "return", "step", "total",
        left=("at", "handlers"),
        title=f"{len(found)} probe hit{'s' * (len(found) != 1)}, and the cycles in each phase",
    )  # fmt: skip
    for hit in found:
        where = (str(hit.hart),) if several else ()
        table.add_row(*where, str(hit.cycle), hit.symbol, ", ".join(hit.results) or hit.kind, *cells(hit))
    return table
