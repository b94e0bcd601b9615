"""Runs functions of a Linux kernel image on the core, and compares them with an emulator and with Python.

The kernel is fetched through apt (and kept in build/kernel), or is the --image that you give. Its functions run at their
link addresses with arguments from a table; then probes are planted in them, and they run again.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from sim.cli import common
from sim.cli.common import FINDING, OK, UserError
from sim.kernel import fetch
from sim.kernel.cases import TOPICS

EXAMPLES = (
    "kernel",
    "kernel --flavour amd64 --probes all",
    "kernel --function strlen --function sha256",
    "kernel --image /boot/vmlinuz --json",
    "kernel --list",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--image", type=Path, metavar="FILE", help="a .deb, vmlinuz or vmlinux (default: apt's newest)")
    parser.add_argument("--flavour", choices=fetch.FLAVOURS, default=fetch.FLAVOURS[0], help="which package apt fetches")
    parser.add_argument("--fetch", action="store_true", help="fetch the newest even if there is one in build/kernel")
    parser.add_argument("--function", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    probes = "plant kprobes and run again: nothing, one case for each function, everything (default: some)"
    parser.add_argument("--probes", choices=("none", "some", "all"), default="some", help=probes)
    parser.add_argument("--list", action="store_true", help="list the functions of the table and stop")
    common.add_engine(parser)
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run; 1 if something differs."""
    common.check_engine(arguments.engine)
    names = [name for cases in TOPICS.values() for name in _functions(cases())]
    for name in arguments.function:
        if name not in names:
            raise UserError(f"there is no case for {name!r}{common.suggest(name, names)} (kernel --list)")
    if arguments.list:
        return _list(arguments.json)
    if importlib.util.find_spec("unicorn") is None:
        raise UserError("the emulator to compare with is missing: pip install unicorn (the extra `kernel`)")
    from sim.kernel import campaign
    from sim.kernel.image import load_kernel
    from sim.kernel.unpack import UnpackError

    try:
        path = arguments.image or fetch.fetch(arguments.flavour, again=arguments.fetch)
        kernel = load_kernel(path)
    except (fetch.FetchError, UnpackError) as error:
        raise UserError(str(error)) from None
    cases = campaign.table(arguments.function)
    rounds = 2 if arguments.probes == "all" else 1
    with common.progress(f"cases of {kernel.name}", rounds * sum(map(len, cases.values()))) as show:
        report = campaign.run(kernel, cases, engine=arguments.engine, probes=arguments.probes, show=show)
    if arguments.json:
        summary = {"run": len(report.run), "equal": len(report.equal), "symbols": kernel.origin}
        common.print_json({**summary, **asdict(report), "functions": list(map(asdict, report.functions.values()))})
    else:
        _print(report, kernel.origin, bool(arguments.function))
    return OK if report.fine else FINDING


def _functions(cases: object) -> list[str]:
    return list(dict.fromkeys(name for case in cases for name in case.functions))  # type: ignore[attr-defined]


def _list(json: bool) -> int:
    """Print the functions of the table with their numbers of cases."""
    listed = {topic: Counter(name for case in cases() for name in case.functions) for topic, cases in TOPICS.items()}
    if json:
        common.print_json(listed)
        return OK
    for topic, functions in listed.items():
        print(f"{topic}: " + ", ".join(f"{name} ({count})" for name, count in functions.items()))
    print(f"{sum(map(len, listed.values()))} functions (number of cases)")
    return OK


def _print(report: object, origin: str, each: bool) -> None:
    from sim.kernel.campaign import Report

    assert isinstance(report, Report)
    print(f"{report.kernel} (symbols from {origin}), engine {report.engine}")
    first = "function" if each else "topic"
    table = common.table(first, "functions", "cases", "instructions", "CPI", "equal", left=(first,))
    rows = Counter(function.name if each else function.topic for function in report.run)
    for key, count in rows.items():
        part = [f for f in report.run if key in (f.name, f.topic)]
        cases, instructions, cycles = (sum(getattr(f, n) for f in part) for n in ("cases", "instructions", "cycles"))
        cpi = f"{cycles / instructions:.2f}" if instructions else "-"
        equal = sum(not f.differences for f in part)
        table.add_row(key, str(count), f"{cases:,}", f"{instructions:,}", cpi, str(equal))
    common.console().print(table)
    missing = [function.name for function in report.functions.values() if function.missing]
    if missing:
        print(f"not in this kernel: {', '.join(missing)}")
    for function in report.run:
        for difference in function.differences[:1]:
            print(difference)
    for difference in report.differences:
        print(difference)
    if report.probes:
        print(
            f"probes: {report.probes:,} planted, {report.hits:,} hits in {report.probed_cases} cases; "
            f"{len(report.refused)} refused; among them {', '.join(report.seeds) or 'no seed'}"
        )
    rate = report.cycles / report.instructions if report.instructions else 0
    print(
        f"{report.cases:,} cases, {report.instructions:,} instructions in {report.cycles:,} cycles (CPI {rate:.2f}), "
        f"{report.seconds:.0f} s"
    )
    print(f"{len(report.run)} run, {len(report.equal)} equal")
