"""Lists the engines that run the hardware, what each can do, and why one cannot be had here."""

from __future__ import annotations

import argparse
import importlib

from sim.cli import common
from sim.cli.common import OK
from sim.engine import ENGINES, EngineUnavailable

EXAMPLES = ("engines", "engines --json")

_ABOUT = {
    "compiled": "the design as a shared library, built by the C++ compiler",
    "pysim": "the design in Python; needs nothing but pip",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the list."""
    found = engines()
    if arguments.json:
        common.print_json(found)
        return OK
    for engine in found:
        print(f"{engine['name']:10}{'available' if engine['available'] else 'NOT available'}: {engine['about']}")
        print(f"{'':10}capabilities: {', '.join(engine['capabilities']) or 'none beside running'}")
        if engine["reason"]:
            print(f"{'':10}{engine['reason']}")
    first = next((engine["name"] for engine in found if engine["available"]), None)
    print(f"\n--engine auto takes {first}, the first that is available.")
    return OK


def engines() -> list[dict]:
    """Return what is known of each engine. Nothing is built: of a compiled engine only the tools are looked for."""
    found = []
    for name, module in ENGINES.items():
        reason = _missing(name)
        capabilities = _capabilities(module)
        found.append(
            {
                "name": name,
                "available": reason is None,
                "about": _ABOUT.get(name, ""),
                "capabilities": capabilities,
                "reason": reason,
            }
        )
    return found


def _capabilities(module: str) -> list[str]:
    classes = vars(importlib.import_module(module)).values()
    sets = [getattr(c, "capabilities", None) for c in classes if isinstance(c, type) and c.__module__ == module]
    return sorted(next((s for s in sets if isinstance(s, frozenset)), frozenset()))


def _missing(name: str) -> str | None:
    """Return why an engine cannot be had here, or None."""
    if name != "compiled":
        return None
    build = importlib.import_module("sim.build")
    try:
        cxx = build.compiler()
        build._tools(cxx)
    except EngineUnavailable as error:
        return f"{error.reason}. {error.step}"
    return None
