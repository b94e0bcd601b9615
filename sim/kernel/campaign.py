"""All cases of a kernel, and a part of them again under probes; what was found, by function."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hw.bus import HIGH_BASE
from sim.engine import Engine
from sim.kernel import guest
from sim.kernel.cases import TOPICS
from sim.kernel.cases.base import Case
from sim.kernel.image import KernelImage
from sim.kernel.probes import SEEDS, Planted, places
from sim.kernel.runner import Outcome, Runner

#: Instructions probed in each function, beside its entry.
INNER = 3

#: Under probes, for each function its longest case of at most so many instructions.
SHORT = 1500


@dataclass
class Function:
    """What became of a function."""

    name: str
    topic: str
    cases: int = 0
    calls: int = 0
    checked: int = 0  # cases of which Python knows something
    cycles: int = 0
    instructions: int = 0
    differences: list[str] = field(default_factory=list)
    missing: bool = False


@dataclass
class Report:
    """What a campaign found. `differences` beyond those of functions: memory as a whole, hits of probes."""

    kernel: str
    engine: str
    functions: dict[str, Function] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    cases: int = 0
    cycles: int = 0
    instructions: int = 0
    seconds: float = 0.0
    probes: int = 0
    seeds: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    hits: int = 0
    probed_cases: int = 0

    @property
    def run(self) -> list[Function]:
        """The functions that were run."""
        return [function for function in self.functions.values() if not function.missing]

    @property
    def equal(self) -> list[Function]:
        """Those of them that did not differ anywhere."""
        return [function for function in self.run if not function.differences]

    @property
    def fine(self) -> bool:
        """Whether nothing differs."""
        return len(self.equal) == len(self.run) and not self.differences


def table(only: Iterable[str] = ()) -> dict[str, list[Case]]:
    """Return all cases by topic, or those that call one of the functions named."""
    wanted = set(only)
    return {
        topic: [case for case in cases() if not wanted or wanted.intersection(case.functions)]
        for topic, cases in TOPICS.items()
    }


def run(
    kernel: KernelImage,
    cases: dict[str, list[Case]],
    *,
    engine: str | Engine = "auto",
    probes: str = "some",
    show: Callable[[float], None] = lambda done: None,
) -> Report:
    """Run cases and report. `probes`: "none", "some" (one case for each function again, probed) or "all" cases."""
    began = time.perf_counter()
    layout = guest.layout_of(kernel, HIGH_BASE)
    with guest.start(kernel, layout, engine) as machine:
        runner = Runner(machine, layout, HIGH_BASE)
        report = Report(kernel.name, machine.engine.name)
        named = dict.fromkeys(name for listed in cases.values() for case in listed for name in case.functions)
        wanted = []
        if probes != "none":
            wanted = [address for name in (*SEEDS, *named) for address in places(machine, name, INNER)]
            runner.emulator.count(wanted)
        outcomes = []
        for topic, listed in cases.items():
            for case in listed:
                outcome = runner.run(case)
                outcomes.append(outcome)
                _enter(report, topic, outcome)
                show(len(outcomes))
        if probes != "none":
            again = outcomes if probes == "all" else list(short_cases(outcomes))
            chosen = [outcome.case for outcome in again if outcome.equal]
            _probe(runner, report, wanted, chosen, lambda done: show(len(outcomes) + done))
        whole = runner.compare_all()
        report.differences += [whole] if whole else []
    report.seconds = time.perf_counter() - began
    return report


def short_cases(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return for each function the longest of the short cases that call it; each case once."""
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.equal and outcome.instructions <= SHORT:
            for name in outcome.case.functions:
                if name not in best or outcome.instructions > best[name].instructions:
                    best[name] = outcome
    return list({id(outcome): outcome for outcome in best.values()}.values())


def _enter(report: Report, topic: str, outcome: Outcome) -> None:
    case = outcome.case
    for name in case.functions:
        function = report.functions.setdefault(name, Function(name, topic))
        if outcome.missing is not None:
            function.missing |= name == outcome.missing and not function.cases
            continue
        function.cases += 1
        function.calls += sum(call.function == name for call in case.calls)
        function.checked += case.checked
        if case.functions[-1] == name:  # each cycle once, though a case may call several
            function.cycles += outcome.cycles
            function.instructions += outcome.instructions
        if outcome.difference is not None:
            function.differences.append(f"{name}({case.name}): {outcome.difference}")
    if outcome.missing is None:
        report.cases += 1
        report.cycles += outcome.cycles
        report.instructions += outcome.instructions


def _probe(
    runner: Runner, report: Report, addresses: list[int], cases: list[Case], show: Callable[[float], None]
) -> None:
    machine, executed = runner.machine, Counter[int]()
    planted = Planted(machine)
    planted.plant(addresses)
    for number, case in enumerate(cases, 1):
        outcome = runner.run(case, stack=False)
        show(number)
        executed += outcome.executed
        if outcome.difference is not None:
            for name in case.functions:
                report.functions[name].differences.append(f"{name}({case.name}), probed: {outcome.difference}")
    found = planted.difference(executed)
    report.differences += [found] if found else []
    report.probes, report.hits, report.probed_cases = len(planted.probes), planted.hits, len(cases)
    describe = machine.symbols.describe
    report.refused = {describe(address): reason for address, reason in planted.refused.items()}
    probed = {describe(address).partition("+")[0] for address in planted.probes}
    report.seeds = [name for name in SEEDS if name in probed]
    planted.remove()
