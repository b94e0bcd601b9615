"""Trap scenarios as guests: the core writes what the reference says, and so does QEMU but where it is known to be wrong."""

import re

import pytest

from sim import qemu
from sim.engine import StopReason
from tests.system.scenario import faults, frames, int3, iretq, step, syscall, user, watch
from tests.system.scenario.row import QUIRKS, Row, apply, image

SECTIONS = {"frames": frames, "int3": int3, "step": step, "iretq": iretq, "faults": faults, "user": user, "watch": watch, "syscall": syscall}
ALONE = [row for section in SECTIONS.values() for row in getattr(section, "ALONE", [])]

MAX_CYCLES = 2_000_000

#: What runs on an engine of a few thousand cycles a second.
SHORT = ("int3", "iretq")

#: QEMU sleeps for so many seconds where it should not.
PATIENCE = 3

#: Numbers of the reference's section 11 that no guest can tell by itself, and why.
NOT_HERE = {
    28: "the fault cannot be delivered either: a triple fault",
    **{n: "needs interrupts, and the firmware does not map their controller" for n in (33, 50, 51, 80, 81, 96, *range(138, 163), 172)},
    173: "needs paging",
    **{n: "several harts" for n in range(179, 185)},
}

def on_core(machine, guest) -> qemu.QemuResult:
    result = machine(guest).run(max_cycles=MAX_CYCLES)
    return qemu.QemuResult(result.console, result.exit, result.reason == StopReason.SHUTDOWN)


def lines(result: qemu.QemuResult) -> list[str]:
    return [line.rstrip() for line in result.console.decode().splitlines()]


def compare(found: list[str], expected: list[str]) -> None:
    wrong = [f"found    {a}\nexpected {b}" for a, b in zip(found, expected, strict=False) if a != b]
    assert not wrong, "\n".join(wrong)
    assert len(found) == len(expected), f"the last line is {found[-1]!r}"


@pytest.mark.parametrize("name", SECTIONS)
def test_core(machine, engine_name, name):
    """What the core does is what the reference says."""
    if engine_name == "pysim" and name not in SHORT:
        pytest.skip("too long for this engine: the compiled one runs it")
    rows = SECTIONS[name].ROWS
    result = on_core(machine, image(rows, name))
    compare(lines(result), [row.line for row in rows])
    assert result.ending == "status 1"


@pytest.mark.parametrize("row", ALONE, ids=lambda row: row.name)
def test_core_alone(machine, engine_name, row):
    result = on_core(machine, image([row], row.name))
    assert (lines(result), result.ending) == ([row.line], row.ends)


needs_qemu = pytest.mark.skipif(qemu.missing() is not None, reason=str(qemu.missing()))


@needs_qemu
@pytest.mark.parametrize("name", SECTIONS)
def test_qemu(name):
    """What QEMU does is what the reference says, but for the differences in the tables, which have to be there."""
    rows = SECTIONS[name].ROWS
    result = qemu.run(image(rows, name), timeout=20)
    if qemu.version().startswith("7.2"):
        compare(lines(result), [row.qemu_line for row in rows])
    else:  # a later one may have mended some
        wrong = [(found, row.line) for found, row in zip(lines(result), rows, strict=True) if found not in (row.line, row.qemu_line)]
        assert not wrong
    assert result.ending == "status 1"


@needs_qemu
@pytest.mark.parametrize("row", ALONE, ids=lambda row: row.name)
def test_qemu_alone(row):
    result = qemu.run(image([row], row.name), timeout=PATIENCE)
    found = (lines(result), result.ending)
    known = ([row.qemu_line], row.qemu.ends if row.qemu else row.ends)
    assert found == known or (not qemu.version().startswith("7.2") and found == ([row.line], row.ends))


def every_row() -> list[Row]:
    return [row for section in SECTIONS.values() for row in section.ROWS] + ALONE


def test_every_number_has_a_place():
    numbers = {int(row.name[:3]) for row in every_row()}
    assert numbers | set(NOT_HERE) == set(range(1, 195))
    assert not numbers & set(NOT_HERE)


def test_names_are_unique():
    names = [row.name for row in every_row()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"\d{3}-[a-z0-9-]+", name) for name in names)


def test_every_known_difference_is_one():
    for row in every_row():
        if row.qemu:
            assert (row.qemu_line, row.qemu.ends) != (apply(QUIRKS, row.line), row.ends), row.name
    for quirk in QUIRKS:
        assert any(apply([quirk], row.line) != row.line for row in every_row()), quirk.why
