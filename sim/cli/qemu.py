"""Runs a guest on QEMU's emulator of a PC, for another opinion; with --compare on the core as well.

The guest is entered as on the core. There is no TrapPort, so it has to handle
its traps itself (sim/guest/guest.h: set_trap_handler)."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from hw.config import Config
from sim import qemu
from sim.cli import common
from sim.cli.common import FINDING, OK
from sim.elf import load_elf
from sim.engine import StopReason
from sim.machine import Machine

EXAMPLES = ("qemu guest.elf", "qemu guest.elf --compare", "qemu guest.elf --timeout 5 --json")

#: Lines that --compare shows at most.
SHOWN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("elf", type=Path, metavar="ELF", help="a static x86-64 executable")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for QEMU; default 60")
    parser.add_argument("--compare", action="store_true", help="run on the core too: the same console and ending?")
    common.add_max_cycles(parser, "of the core; ")
    common.add_engine(parser)
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run; 1 if the guest does not end itself with 0, or the core differs."""
    common.check_engine(arguments.engine)
    image = load_elf(arguments.elf)
    other = qemu.run(image, timeout=arguments.timeout)
    report = {"console": other.console.decode("latin-1"), "exit": other.exit, "ending": other.ending, "qemu": qemu.version()}
    differences: list[str] | None = None
    if arguments.compare:
        with Machine(image, engine=arguments.engine, config=Config(ram_bytes=qemu.RAM_BYTES)) as machine:
            core = machine.run(max_cycles=arguments.max_cycles)
        differences = compare(core.console, _ending(core.reason, core.exit), other)
        report |= {"engine": core.engine, "differences": differences}
    if arguments.json:
        common.print_json(report)
    else:
        print(report["console"], end="" if report["console"].endswith("\n") else "\n")
        print(f"qemu {qemu.version()}: {other.ending}")
        if differences:
            print(*differences[:SHOWN], sep="\n")
            print(f"{len(differences)} differences" if differences[SHOWN:] else "the core differs")
        elif differences is not None:
            print("the core does the same")
    return FINDING if differences or other.exit != 1 else OK


def compare(console: bytes, ending: str, other: qemu.QemuResult) -> list[str]:
    """Return the lines in which a run on the core differs from one on QEMU, and their endings if these do."""
    found = []
    pairs = itertools.zip_longest(*(text.decode("latin-1").splitlines() for text in (console, other.console)))
    for number, (ours, theirs) in enumerate(pairs, 1):
        if ours != theirs:
            found.append(f"line {number}: core {ours or 'nothing'!r}, qemu {theirs or 'nothing'!r}")
    if ending != other.ending:
        found.append(f"end: core {ending}, qemu {other.ending}")
    return found


def _ending(reason: StopReason, status: int | None) -> str:
    """The end of a run on the core, in the words of QemuResult.ending."""
    if status is not None:
        return f"status {status}"
    return "triple fault" if reason == StopReason.SHUTDOWN else "does not end"
