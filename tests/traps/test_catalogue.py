"""Every scenario of the trap semantics has a place: a row of a table here, or a reason."""

import re
from pathlib import Path

#: Scenarios that no row tests yet, and why.
NOT_YET: dict[int, str] = {}

#: Scenarios that rows test only in part, and what is missing.
PARTLY = {
    53: "only the image: the fix-up is a matter of the runtime (tests/kprobes)",
}

#: Rows have a name that begins with the number; tests that are functions have it in theirs.
FOLDERS = Path(__file__).parent, Path(__file__).parents[1] / "smp"
NUMBER = re.compile(r"\bs(\d{3})-|\btest_s(\d{3})_")
TESTED = {
    int("".join(match.groups("")))
    for folder in FOLDERS
    for file in folder.glob("test_*.py")
    for match in NUMBER.finditer(file.read_text())
}


def test_every_number_has_a_place():
    assert set(range(1, 195)) == TESTED | set(NOT_YET)


def test_no_reason_is_stale():
    assert not TESTED & set(NOT_YET)
    assert set(PARTLY) <= TESTED
