"""Which test holds which scenario of the catalogue: ``python -m tests.kprobes.scenarios`` writes docs/scenarios.md.

A test holds the scenarios that its name says (``test_R34_R35_...``, ``test_I01_to_I06_...``), or those that the values of
its parameters name (``("I29", "hlt", ...)``).
"""

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = Path(__file__).with_name("scenarios.txt")
OUT = ROOT / "docs" / "scenarios.md"
ID = re.compile(r"[A-Z]\d\d")
NAMED = re.compile(r"(?<![A-Za-z0-9])([RHIFNAJKPE])(\d\d)(?:_to_\1(\d\d))?(?![A-Za-z0-9])")

BOTH, HARDWARE, FAKE, NEITHER = "both", "hardware", "fake", "runtime"

HEAD = """# Scenarios

Written by `python -m tests.kprobes.scenarios` from the tests and `tests/kprobes/scenarios.txt`; a test holds the two equal.

Every scenario is held by a test that has its id in its name or among its parameters, and passes; or the table says why not.
*On*: `hardware` is the core, on an engine; `fake` the machine of `tests/kprobes/fakemachine.py`; `both` the same test on each;
`runtime` needs no machine.
"""


@dataclass
class Scenario:
    """A row of the catalogue. ``reason``: why no test holds it."""

    name: str
    words: str
    reason: str = ""
    heading: str = ""


@dataclass(frozen=True, order=True)
class Holder:
    """A test function: its file, its name, what it runs on, and why on the fake machine only."""

    path: str
    name: str
    on: str
    only: str = ""


def read():
    """Return the scenarios in order."""
    rows, heading = [], ""
    for line in WORDS.read_text().splitlines():
        if line.startswith("="):
            heading = line[2:]
        elif line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            words, _, reason = rest.partition(" ! ")
            rows.append(Scenario(name, words, reason, heading))
    return rows


def holders():
    """Return the tests that hold each scenario."""
    found = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        lists = {node.targets[0].id: node.value for node in tree.body
                 if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
        kinds = _kind(path, tree)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                only = _only(node) or _only_of(lists.get("pytestmark"))
                test = Holder(str(path.relative_to(ROOT)), node.name, FAKE if only and kinds == BOTH else kinds, only)
                for name in {*_ids(node.name), *_parameters(node, lists)}:
                    found[name].add(test)
    return {name: sorted(tests) for name, tests in found.items()}


def _kind(path, tree):
    """What the tests of a file run on, unless they say otherwise."""
    if path.parent.name != "kprobes":
        return HARDWARE
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return BOTH if "FakeMachine" in names else NEITHER


def _ids(name):
    """The ids in a name: ``R34_R35``, and ``I01_to_I06`` for all between."""
    for letter, first, last in NAMED.findall(name.replace("_to_", "~").replace("_", " ").replace("~", "_to_")):
        for number in range(int(first), int(last or first) + 1):
            yield f"{letter}{number:02}"


def _parameters(node, lists):
    """Ids that stand alone among the values of a test's parameters."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("parametrize"):
            used = [decorator, *(lists[n.id] for n in ast.walk(decorator) if isinstance(n, ast.Name) and n.id in lists)]
            for part in used:
                for item in ast.walk(part):
                    if isinstance(item, ast.Constant) and isinstance(item.value, str) and ID.fullmatch(item.value):
                        yield item.value


def _only(node):
    return next((reason for reason in map(_only_of, node.decorator_list) if reason), "")


def _only_of(mark):
    if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("fake_only"):
        return ast.literal_eval(mark.args[0])
    return ""


def table():
    """Return the text of docs/scenarios.md."""
    held, lines, heading = holders(), [HEAD], ""
    scenarios = read()
    counts = defaultdict(int)
    for scenario in scenarios:
        if scenario.heading != heading:
            heading = scenario.heading
            lines.append(f"\n## {heading}\n\n| id | scenario | status | on | tests |\n| - | - | - | - | - |")
        tests = held.get(scenario.name, [])
        on = _on(tests)
        counts[on or "not"] += 1
        lines.append(f"| {scenario.name} | {scenario.words} | {_status(scenario, tests)} | {on} | {_named(tests)} |")
    figures = ", ".join(f"{count} {words}" for words, count in (
        ("on the hardware", counts[BOTH] + counts[HARDWARE]), ("on the fake machine only", counts[FAKE]),
        ("of the runtime alone", counts[NEITHER]), ("not held", counts["not"])) if count)
    lines.insert(1, f"\nOf {len(scenarios)} scenarios: {figures}.\n")
    return "".join(line + "\n" for line in lines).replace("\n\n\n", "\n\n")


def _status(scenario, tests):
    if not tests:
        return f"not: {scenario.reason}"
    if all(test.on == FAKE for test in tests):
        return f"pass; on the hardware not: {tests[0].only}"
    return "pass"


def _on(tests):
    kinds = {test.on for test in tests}
    if BOTH in kinds or {HARDWARE, FAKE} <= kinds:
        return BOTH
    return next((kind for kind in (HARDWARE, FAKE, NEITHER) if kind in kinds), "")


def _named(tests):
    shown = [f"`{Path(test.path).stem.removeprefix('test_')}::{test.name.removeprefix('test_')}`" for test in tests[:3]]
    return ", ".join(shown) + (f" and {len(tests) - 3} more" if len(tests) > 3 else "")


if __name__ == "__main__":
    OUT.write_text(table())
    print(f"wrote {OUT.relative_to(ROOT)}")
