"""What all commands share: the parser with its suggestions, user errors, consoles, options and progress."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

#: Exit codes: all is well; something was found (a failed vector, an unhandled trap); the request was wrong.
OK, FINDING, USAGE = 0, 1, 2

#: Where the commands write files, below the current folder.
OUT = Path("out")

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class UserError(Exception):
    """A request that cannot be met; the message names the cause and the next step. Exit code 2."""


def program() -> str:
    """Return how the user has called us, for messages."""
    return "python -m sim" if Path(sys.argv[0]).name in ("__main__.py", "-m", "-c") else Path(sys.argv[0]).name


class Parser(argparse.ArgumentParser):
    """A parser that suggests what a mistyped command or option may have been."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(
            *arguments, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        """Print one line, where help is, and leave with code 2."""
        known = [name for action in self._actions for name in action.option_strings]
        for word in re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []:
            close = difflib.get_close_matches(word, known, 2)
            message += f"; did you mean {' or '.join(close)}?" if close else ""
        message = message.replace("unrecognized arguments", "there is no such option or argument")
        self.exit(USAGE, f"{self.prog}: {message}\n(see {self.prog} --help)\n")


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" or nothing."""
    close = difflib.get_close_matches(word, list(known), 2, 0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def console() -> Console:
    """Return the console for results: 80 columns when it is not a terminal."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
    return Console(width=width, highlight=False, soft_wrap=False)


def note(text: str) -> None:
    """Print a line for people to the error output."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, indent=2))


def table(*columns: str, title: str | None = None, left: Iterable[str] = ()) -> Table:
    """Return an empty table; columns are right-aligned but for those in `left`."""
    result = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        result.add_column(column, justify="left" if column in left else "right", overflow="fold")
    return result


@contextmanager
def progress(what: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Show progress on the error output if it is a terminal; the body calls the result with how far it is."""
    err = Console(stderr=True)
    if not err.is_terminal:
        yield lambda done: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.completed:,.0f}"))
    with Progress(*columns, console=err, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def add_engine(parser: argparse.ArgumentParser, *more: str, default: str = "auto") -> None:
    """Add --engine; `more` are values beside the engines and auto."""
    choices = ", ".join(("auto", *more))
    parser.add_argument("--engine", default=default, metavar="NAME", help=f"an engine, or {choices}; default {default}")


def add_harts(parser: argparse.ArgumentParser) -> None:
    """Add --harts."""
    parser.add_argument("--harts", type=int, choices=range(1, 5), default=1, metavar="N", help="1 to 4; default 1")


def add_sync(parser: argparse.ArgumentParser) -> None:
    """Add --sync and --stale-lines: how harts come to see code that has changed."""
    group = parser.add_argument_group("how harts see code that has changed")
    group.add_argument(
        "--sync", choices=("ipi", "refetch", "none"), help="interrupts to all harts, the debug port, or nothing; "
        "default ipi with several harts")  # fmt: skip
    group.add_argument(
        "--stale-lines", type=int, choices=[0, *(1 << n for n in range(1, 9))], default=0, metavar="N",
        help="lines of old code that a hart keeps until it serialises: 0, 2, 4 to 256; default 0")  # fmt: skip


def add_max_cycles(parser: argparse.ArgumentParser, what: str = "") -> None:
    """Add --max-cycles. `what`: how its help begins."""
    parser.add_argument("--max-cycles", type=cycles, default=10_000_000, metavar="N", help=f"{what}default 10M")


def add_ram(parser: argparse.ArgumentParser, where: str = "of the machine") -> None:
    """Add --ram. `where`: what has it."""
    parser.add_argument("--ram", type=size, default=16 << 20, metavar="SIZE", help=f"RAM {where}; default 16M")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def check_engine(name: str, *more: str) -> None:
    """Raise UserError unless an engine of this name exists, here or elsewhere."""
    from sim.engine import ENGINES

    known = ("auto", *more, *ENGINES)
    if name not in known:
        raise UserError(f"there is no engine {name!r}{suggest(name, known)} (engines: {', '.join(known)})")


def cycles(text: str) -> int:
    """Read a count: 20000, 20_000, 20k, 5M."""
    found = re.fullmatch(r"([\d_]+)([kM]?)", text)
    if not found or not found[1].strip("_"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a count (20000, 20k, 5M)")
    return int(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]]


def size(text: str) -> int:
    """Read a size of memory: 16M, 0x1000000."""
    found = re.fullmatch(r"(0[xX][\da-fA-F]+|\d+)([kKmMgG]?)(?:i?B)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size (64M, 1G)")
    return int(found[1], 0) * _SIZES[found[2].lower()]
