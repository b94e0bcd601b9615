"""From what the user wrote (--probe, --jprobe, --kretprobe, a script) to probes on a machine.

The command line is a user of the runtime as scripts are.
"""

from __future__ import annotations

import argparse
import re
import runpy
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.cli.common import UserError, cycles
from sim.machine import (
    HandlerError,
    Jprobe,
    Kprobe,
    KprobeError,
    KprobePanic,
    Kretprobe,
    KretprobeInstance,
    Machine,
    Options,
    PtRegs,
)

#: What the runtime refuses, or raises for a handler: the messages are for the user.
REFUSALS = (KprobeError, HandlerError)

__all__ = [
    "REFUSALS", "HandlerError", "KprobePanic", "Probing", "add_options", "add_probes", "explain", "kprobe", "location",
    "options", "place",
]


@dataclass
class Probing:
    """The probes of a run, planted anew on each machine. `notes`: what a handler saw, by cycle."""

    probes: list[tuple[str, int]] = field(default_factory=list)
    jprobes: list[tuple[str, int]] = field(default_factory=list)
    kretprobes: list[tuple[str, int]] = field(default_factory=list)
    script: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.probes or self.jprobes or self.kretprobes or self.script)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Probing:
        """Return what the options of `add_probes` said."""
        return cls(
            [place(text) for text in arguments.probe], [place(text) for text in arguments.jprobe],
            [place(text) for text in arguments.kretprobe], arguments.script,
        )  # fmt: skip

    def plant(self, machine: Machine) -> None:
        """Register everything on a machine; raise UserError or KprobeError with the next step."""
        for symbol, offset in self.probes:
            machine.kprobes.register_kprobe(kprobe(symbol, offset))
        for symbol, offset in self.jprobes:
            machine.kprobes.register_jprobe(_jprobe(symbol, offset))
        for symbol, offset in self.kretprobes:
            machine.kprobes.register_kretprobe(_kretprobe(symbol, offset))
        if self.script:
            _run_script(self.script, machine)


def add_probes(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is probed."""
    parser.add_argument(
        "--probe", action="append", default=[], metavar="SYM[+OFF]", help="count hits of an instruction"
    )
    parser.add_argument(
        "--jprobe", action="append", default=[], metavar="SYM", help="show a function's first arguments"
    )
    parser.add_argument("--kretprobe", action="append", default=[], metavar="SYM", help="show a function's results")
    parser.add_argument("--script", type=Path, metavar="FILE.py", help="probes with handlers in Python")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how probed instructions are executed."""
    group = parser.add_argument_group("how probed instructions are executed")
    group.add_argument(
        "--step", choices=("tf", "int3", "inline"), default="tf",
        help="step the copy with TF (kernels to 5.12), or up to an int3 behind it, branches emulated (since 5.13); "
        "inline: the original, its breakpoint taken out meanwhile, so that other harts' hits are missed")  # fmt: skip
    group.add_argument("--boost", action="store_true", help="where it can be, let the copy jump back by itself")
    group.add_argument("--optimize", action="store_true", help="where it can be, put a jump in place of the int3")
    group.add_argument(
        "--optimize-delay", type=cycles, default=Options().optimize_delay, metavar="N",
        help=f"cycles until it is put there; default {Options().optimize_delay}")  # fmt: skip


def options(arguments: argparse.Namespace) -> Options:
    """Return what the options of `add_options` said."""
    return Options(
        step=arguments.step, boost=arguments.boost, optimize=arguments.optimize, optimize_delay=arguments.optimize_delay
    )


def place(text: str) -> tuple[str, int]:
    """Read SYMBOL, SYMBOL+OFFSET, or an address."""
    found = re.fullmatch(r"([^+\s]+)(?:\+(0[xX][\da-fA-F]+|\d+))?", text)
    if not found:
        raise UserError(
            f"{text!r} is no place to probe: write SYMBOL, SYMBOL+OFFSET (main+4, main+0x1c) or an address (0x1000)"
        )
    return found[1], int(found[2] or "0", 0)


def location(name: str, offset: int) -> dict[str, Any]:
    """Return a place as arguments of Kprobe and its kin."""
    if re.fullmatch(r"0[xX][\da-fA-F]+", name):
        return {"addr": int(name, 16), "offset": offset}
    return {"symbol_name": name, "offset": offset}


def _pre(p: Kprobe, regs: PtRegs) -> int:
    return 0


def kprobe(name: str, offset: int = 0) -> Kprobe:
    """Return a probe that counts, for machine.kprobes.register_kprobe."""
    return Kprobe(**location(name, offset), pre_handler=_pre)


def _jprobe(name: str, offset: int) -> Jprobe:
    def entry(a: int, b: int, c: int) -> None:
        print(f"jprobe {name}: {a:#x}, {b:#x}, {c:#x}")

    return Jprobe(entry, **location(name, offset))


def _kretprobe(name: str, offset: int) -> Kretprobe:
    def handler(ri: KretprobeInstance, regs: PtRegs) -> None:
        print(f"kretprobe {name}: {regs.return_value:#x}, to {ri.ret_addr:#x}")

    return Kretprobe(handler, **location(name, offset))


def _run_script(path: Path, machine: Machine) -> None:
    """Run a probe script: `setup(machine)` if it has one, else every Kprobe, Jprobe and Kretprobe in it is registered."""
    names = _guarded(path, lambda: runpy.run_path(str(path), run_name="probes"))
    setup = names.get("setup")
    if callable(setup):
        _guarded(path, lambda: setup(machine))
        return
    probes = list({id(v): v for v in names.values() if isinstance(v, (Kprobe, Jprobe, Kretprobe))}.values())
    if not probes:
        raise UserError(f"{path} registers nothing: define setup(machine), or hold a probe in a variable")
    for probe in probes:
        if isinstance(probe, Jprobe):
            machine.kprobes.register_jprobe(probe)
        elif isinstance(probe, Kretprobe):
            machine.kprobes.register_kretprobe(probe)
        else:
            machine.kprobes.register_kprobe(probe)


def _guarded(path: Path, call: Callable[[], Any]) -> Any:
    """Run a part of a script; what it raises becomes a UserError with its line."""
    try:
        return call()
    except (KprobeError, UserError):
        raise
    except FileNotFoundError as error:
        if not path.exists():
            raise UserError(f"{path} does not exist: check the name of the script") from None
        raise UserError(f"{path}{_line(error, path)}: {error}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory: give a Python file") from None
    except (Exception, SystemExit) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else _line(error, path)
        text = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"{path}{line}: {type(error).__name__}: {text}; correct the script") from None


def _line(error: BaseException, path: Path) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f", line {frames[-1].lineno}" if frames else ""


def explain(error: HandlerError) -> str:
    """Return the message of a handler that raised, with its file and line, and the next step."""
    frames = traceback.extract_tb(error.__cause__.__traceback__) if error.__cause__ else []
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{error}{where}; correct the handler and run again"
