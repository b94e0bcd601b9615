"""Traces a guest with probe events, the kernel's text language for dynamic
probes, and prints the lines that ftrace would; without an ELF file, the demo.

An event is p[:[GRP/]EVENT] SYM[+OFF]|ADDR [NAME=]FETCH[:TYPE] ... or r... for
a function's return; docs/tracing.md has the whole grammar."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from hw.config import Config
from sim import guestbuild
from sim.cli import common
from sim.cli.common import FINDING, OK, UserError
from sim.cli.probing import KprobePanic, add_options, options
from sim.cli.simulate import ending, simulate
from sim.elf import load_elf
from sim.engine import open_engine
from sim.machine import Machine, RunResult

EXAMPLES = (
    "trace",
    "trace guest.elf -e 'p:open do_open path=+0(%di):string'",
    "trace guest.elf -e 'r:open do_open fd=$retval:s32' --filter 'open:fd < 0'",
    "trace guest.elf -e 'p f+0x10 %ax' --profile --json",
)

#: What is traced when nothing is said: both functions of the demo.
DEMO = (
    "p:dio __blockdev_direct_IO rw=%di:s32 sector=%dx:u64 segs=%cx:u64 first=+8(%si):symbol length=+16(%si):u32",
    "r:dio_done __blockdev_direct_IO bytes=$retval:s64 sector=$arg3:u64",
    "p:xmit ip_queue_xmit len=+8(%di):u32 id=+20(%di):x16 protocol=+22(%di):u8 fragok=%si:s32",
    "r:xmit_done ip_queue_xmit ret=$retval:s32",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "elf", nargs="?", type=Path, metavar="ELF", help="a static x86-64 executable (default: the demo)"
    )
    parser.add_argument(
        "-e", "--event", action="append", default=[], metavar="DEFINITION", help="a probe event; repeatable"
    )
    parser.add_argument(
        "--filter", action="append", default=[], metavar="EVENT:EXPR", help="keep records that EXPR is true for"
    )
    parser.add_argument("--profile", action="store_true", help="print hits and misses of each event, too")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the trace to a file instead")
    add_options(parser)
    common.add_engine(parser)
    common.add_max_cycles(parser)
    common.add_ram(parser)
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run; 1 if the guest did not end well."""
    common.check_engine(arguments.engine)
    filters = [_filter(text) for text in arguments.filter]
    demo = arguments.elf is None
    if not arguments.event and not demo:
        raise UserError("nothing to trace: give events with -e, such as -e 'p:NAME FUNCTION %di' (docs/tracing.md)")
    program = guestbuild.build_demo() if demo else arguments.elf
    _write(arguments.output, "")  # what cannot be written is refused before a long run
    image, name = load_elf(program), "demo" if demo else program.stem
    with common.progress(f"preparing the engine {arguments.engine}"):
        engine = open_engine(arguments.engine, config=Config(ram_bytes=arguments.ram))
    with contextlib.closing(engine), Machine(image, engine=engine, comm=name, probes=options(arguments)) as machine:
        machine.probe_events.write("\n".join(arguments.event or DEMO))
        for event, expression in filters:
            machine.probe_events.set_filter(event, expression)
        machine.probe_events.enable()
        try:
            result = simulate(machine, arguments.max_cycles, "tracing")
        except KprobePanic as error:
            common.note(f"kprobes panic: {error}")
            return FINDING
        findings = ending(machine, result)
        _show(machine, result, findings, arguments)
    return FINDING if findings else OK


def _filter(text: str) -> tuple[str, str]:
    event, colon, expression = text.partition(":")
    if not event or not colon:
        raise UserError(f"{text!r} is no filter: write EVENT:EXPRESSION, such as 'open:fd < 0'")
    return event, expression


def _write(path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another file") from None


def _show(machine: Machine, result: RunResult, findings: list[str], arguments: argparse.Namespace) -> None:
    events = machine.probe_events
    _write(arguments.output, events.trace())
    if arguments.json:
        common.print_json({
            "engine": result.engine, "cycles": result.cycles, "reason": result.reason.name.lower(),
            "definitions": events.read(), "records": [record.as_dict() for record in events.records],
            "written": events.written, "findings": findings,
            "profile": [
                {"event": event.name, "hits": event.hits, "misses": event.misses, "reasons": dict(event.reasons)}
                for event in events
            ],
        })  # fmt: skip
        return
    if arguments.output is None:
        print(events.trace(), end="")
    if arguments.profile:
        print(events.profile(), end="")
    for finding in findings:
        common.note(f"found: {finding}")
