"""Says whether and how an instruction would be probed, why not in a faster way, and what each way costs; without an ELF
file, in the demo.

The cycles are measured on the spot, on a small guest with an empty handler: they are those of the way, not of
your instruction. `--no-cost` leaves them out. Exit code 1: the place cannot be probed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sim import guestbuild
from sim.cli import common, probing
from sim.cli.common import FINDING, OK, UserError
from sim.cli.hitcost import way_cycles
from sim.elf import load_elf
from sim.engine import open_engine
from sim.machine import Machine

EXAMPLES = (
    "explain __blockdev_direct_IO+2",
    "explain guest.elf main+4",
    "explain guest.elf main+4 --step int3 --boost --optimize",
    "explain guest.elf memcpy --post --no-cost --json",
)

#: The option that opens each way.
_OPTIONS = {
    "optimised": "--optimize", "boosted": "--boost", "emulated": "--step int3", "int3": "--step int3", "tf": "--step tf",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "words", nargs="+", metavar="[ELF] SYM[+OFF]",
        help="a static x86-64 executable (default: the demo), and where a probe would be",
    )  # fmt: skip
    parser.add_argument("--post", action="store_true", help="a probe with a post_handler")
    parser.add_argument("--no-cost", action="store_true", help="measure no cycles")
    probing.add_options(parser)
    common.add_engine(parser)
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Explain each place; 1 if one of them cannot be probed."""
    common.check_engine(arguments.engine)
    elf, places = _guest(arguments.words)
    where = [probing.place(text) for text in places]
    image = load_elf(elf)
    engine = open_engine(arguments.engine)
    try:
        with Machine(image, engine=engine, probes=probing.options(arguments)) as machine:
            found = [machine.kprobes.explain(**probing.location(*place), post=arguments.post) for place in where]
        costs: dict[str, float] = {}
        if not arguments.no_cost and any(told.verdicts for told in found):
            with common.progress("measuring"):
                costs = way_cycles(engine)
    finally:
        engine.close()
    if arguments.json:
        common.print_json([told.as_dict() | {"cycles": costs} for told in found])
    else:
        for number, told in enumerate(found):
            print("\n" * bool(number), end="")
            _show(told, costs)
    return FINDING if any(told.way is None for told in found) else OK


def _guest(words: list[str]) -> tuple[Path, list[str]]:
    """Return the executable, that of the demo if the first word names none, and the places."""
    first = Path(words[0])
    if "/" not in words[0] and first.suffix != ".elf" and not first.is_file():
        return guestbuild.build_demo(), words
    if len(words) == 1:
        raise UserError(f"where in {first}? Give SYMBOL, SYMBOL+OFFSET or an address after it")
    return first, words[1:]


def _show(told: Any, costs: dict[str, float]) -> None:
    place = f"{told.name} ({told.addr:#x})" if told.addr is not None else told.name
    print(f"{place}: {told.way.about if told.way else 'cannot be probed'}")
    if told.refusal is not None:
        rule = f"rule: {told.refusal.rule}" if told.refusal.rule else ""
        print(f"\n{str(told.refusal).splitlines()[0]}\n{rule}".rstrip())
    if told.picture:
        print(f"\n{told.picture}")
    if told.probes:
        print(f"\nprobes there already: {', '.join(told.probes)}")
    if told.verdicts:
        _show_ways(told, costs)


def _show_ways(told: Any, costs: dict[str, float]) -> None:
    table = common.table("way", *(["cycles"] if costs else []), "", left=("way", ""))
    for verdict in told.verdicts:
        if verdict.way == "inline" != told.way:
            continue  # nobody should want it
        mark = " <-" if verdict.way == told.way else ""
        option = "" if verdict.way == told.way else f" ({_OPTIONS.get(verdict.way)})"
        about = f"not: {verdict.obstacle}" if verdict.obstacle else f"{verdict.way.about}{option}"
        cost = "" if verdict.obstacle or verdict.way not in costs else f"{costs[verdict.way]:.0f}"
        table.add_row(f"{verdict.way}{mark}", *([cost] if costs else []), about)
    print()
    common.console().print(table)
    if costs:
        print("cycles: of a hit with an empty handler, measured just now on a small guest")
