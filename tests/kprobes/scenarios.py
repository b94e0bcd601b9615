"""Which test holds which scenario of the catalogue: ``python -m tests.kprobes.scenarios`` writes docs/scenarios.md.

A test holds the scenarios that its name says (``test_R34_R35_...``, ``test_I01_to_I06_...``), or those that the values of
its parameters name (``("I29", "hlt", ...)``). It holds none when it, its module or all its parameters have a mark that lets a
run pass without it (`NOT_RUN`), and not those of parameters that have one.
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

#: Marks of tests that need not pass, and of those that no run has without an option of its own.
NOT_RUN = {"skip", "skipif", "xfail", "every_cycle"}

BOTH, HARDWARE, FAKE, NEITHER = "both", "hardware", "fake", "runtime"

HEAD = """# Scenarios

Written by `python -m tests.kprobes.scenarios` from the tests and `tests/kprobes/scenarios.txt`; a test holds the two equal.

Every scenario is held by a test that has its id in its name or among its parameters, is not marked as one that may be left
out or may fail, and passes; or the table says why not.
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
        for name, test in held_in(path.relative_to(ROOT), path.read_text()):
            found[name].add(test)
    return {name: sorted(tests) for name, tests in found.items()}


def held_in(path, text):
    """Yield the scenarios that the tests of a file hold, each with the test."""
    tree = ast.parse(text)
    lists = {node.targets[0].id: node.value for node in tree.body
             if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    if "pytestmark" in lists and _may_not_run(lists["pytestmark"], lists):
        return
    kinds = _kind(path, tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and _runs(node, lists):
            only = _only(node) or _only_of(lists.get("pytestmark"))
            test = Holder(str(path), node.name, FAKE if only and kinds == BOTH else kinds, only)
            for name in {*_ids(node.name), *_parameters(node, lists)}:
                yield name, test


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


def _parametrized(node):
    return [decorator for decorator in node.decorator_list
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("parametrize")]


def _parameters(node, lists):
    """Ids that stand alone among the values of a test's parameters."""
    for decorator in _parametrized(node):
        used = list(_walk(decorator, lists))
        for part in [lists[n.id] for n in used if isinstance(n, ast.Name) and n.id in lists]:
            used += _walk(part, lists)
        for item in used:
            if isinstance(item, ast.Constant) and isinstance(item.value, str) and ID.fullmatch(item.value):
                yield item.value


def _walk(node, lists):
    """The nodes of a tree, without the values that are left out."""
    if not _left_out(node, lists):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, lists)


def _runs(node, lists):
    """Whether every run has a test, with some of its parameters at least."""
    if any(_may_not_run(decorator, lists) for decorator in node.decorator_list):
        return False
    for decorator in _parametrized(node):
        values = decorator.args[1] if len(decorator.args) > 1 else None
        values = lists.get(values.id) if isinstance(values, ast.Name) else values
        if isinstance(values, (ast.List, ast.Tuple)) and values.elts and all(_left_out(item, lists) for item in values.elts):
            return False
    return True


def _left_out(item, lists):
    """Whether a value of a parameter has a mark of `NOT_RUN`."""
    return isinstance(item, ast.Call) and ast.unparse(item.func).endswith("param") and any(
        keyword.arg == "marks" and _may_not_run(keyword.value, lists) for keyword in item.keywords)


def _may_not_run(mark, lists):
    """Whether a mark, a list of marks, or what a name of the module stands for, has one of `NOT_RUN`."""
    if isinstance(mark, ast.Name):
        return mark.id in lists and _may_not_run(lists[mark.id], lists)
    if isinstance(mark, (ast.List, ast.Tuple)):
        return any(_may_not_run(item, lists) for item in mark.elts)
    mark = mark.func if isinstance(mark, ast.Call) else mark
    return isinstance(mark, ast.Attribute) and ast.unparse(mark.value).endswith("mark") and mark.attr in NOT_RUN


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
