"""Plants probes on a guest and prints what the kernel would show in debugfs: kprobes/list, or kprobes/blacklist.

Nothing runs, unless --run asks for it: then the list is printed at the end, and --json counts hits and misses."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from sim import guestbuild
from sim.cli import common, probing
from sim.cli.common import OK, UserError
from sim.cli.probing import HandlerError, Probing, explain
from sim.elf import load_elf
from sim.machine import Machine

EXAMPLES = (
    "list",
    "list guest.elf --probe main+4 --kretprobe work",
    "list guest.elf --script probes.py --run --json",
    "list guest.elf --blacklist",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "elf", nargs="?", type=Path, metavar="ELF", help="a static x86-64 executable (default: the demo, with its probes)"
    )
    probing.add_probes(parser)
    parser.add_argument("--blacklist", action="store_true", help="print what must not be probed")
    parser.add_argument("--run", action="store_true", help="run the guest first")
    common.add_max_cycles(parser)
    probing.add_options(parser)
    common.add_engine(parser)
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Plant, run if asked to, and print."""
    common.check_engine(arguments.engine)
    planted = Probing.of(arguments)
    if arguments.elf is None:
        arguments.elf = guestbuild.build_demo()
        if not planted:
            planted.script = guestbuild.DEMO_DIR / "probes.py"
    quiet = contextlib.redirect_stdout(sys.stderr)
    with Machine(load_elf(arguments.elf), engine=arguments.engine, probes=probing.options(arguments)) as machine:
        try:
            with quiet:
                planted.plant(machine)
                if arguments.run:
                    machine.run(arguments.max_cycles)
        except HandlerError as error:
            raise UserError(explain(error)) from None
        files = machine.kprobes.files
        if arguments.json:
            common.print_json(files.as_dict())
        else:
            print(files.blacklist() if arguments.blacklist else files.list(), end="")
    return OK
