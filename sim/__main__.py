"""The command line of the project: ``python -m sim``, also installed as ``kphw``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from sim.cli import COMMANDS
from sim.cli.common import FINDING, USAGE, Parser, UserError, note, program, suggest

_EPILOG = """examples:
  {p} run                                   the demo: two probes on a guest from gcc
  {p} run guest.elf --probe main+4          a probe on an instruction of yours
  {p} run guest.elf --script probes.py      probes with handlers in Python
  {p} vectors tests.json --engine pysim     compare with what silicon does
  {p} doctor                                what is missing on this machine

exit codes: 0 all is well, 1 something was found (a failed vector, a trap that
nobody handled), 2 the request was wrong. `{p} COMMAND --help` tells more.
"""


def _parser(chosen: str | None) -> Parser:
    """Return the parser; only the chosen command's own options are filled in."""
    parser = Parser(
        prog=program(),
        description="Linux-style kprobes on a pipelined x86-64 core that you can see inside.",
        epilog=_EPILOG.format(p=program()),
        usage=f"{program()} COMMAND ...",
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", prog=program(), parser_class=Parser
    )
    for name, about in COMMANDS.items():
        if name != chosen:
            commands.add_parser(name, help=about)
            continue
        module = importlib.import_module(f"sim.cli.{name}")
        examples = "examples:\n" + "\n".join(f"  {program()} {line}" for line in module.EXAMPLES)
        command = commands.add_parser(name, help=about, description=module.__doc__, epilog=examples)
        module.configure(command)
        command.set_defaults(main=module.main, parser=command)
    return parser


def _errors() -> tuple[type[Exception], ...]:
    """Return the exceptions whose message is meant for the user."""
    from sim.cli.probing import REFUSALS
    from sim.elf import ImageError
    from sim.engine import EngineUnavailable
    from sim.guestbuild import GuestBuildError
    from sim.memory import GuestMemoryError
    from sim.qemu import QemuError

    return UserError, *REFUSALS, ImageError, EngineUnavailable, GuestBuildError, GuestMemoryError, QemuError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code (or leave with it, when the parser does)."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if not word.startswith("-")), None)
    if chosen is not None and chosen not in COMMANDS:
        note(f"{program()}: there is no command {chosen!r}{suggest(chosen, COMMANDS)}\n(see {program()} --help)")
        return USAGE
    parser = _parser(chosen)
    try:
        arguments, left = parser.parse_known_args(words)
        if left:
            getattr(arguments, "parser", parser).error(f"unrecognized arguments: {' '.join(left)}")
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else USAGE
    if chosen is None:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        return arguments.main(arguments)
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from sim.engine import DesignError

        if isinstance(error, DesignError):
            note(f"{program()} {chosen}: {error}")
            return FINDING
        if not isinstance(error, _errors()):
            raise
        rule = getattr(error, "rule", None)  # of a probe that was refused
        note(f"{program()} {chosen}: {error}" + (f"\nrule: {rule}" if rule else ""))
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
