"""Every scenario of the trap semantics has a place: a row of a table here, or a reason."""

import re
from pathlib import Path

#: Scenarios that no row tests yet, and why.
NOT_YET = {
    162: "several harts",
    **{n: "several harts" for n in range(179, 185)},
}

#: Scenarios that rows test only in part, and what is missing.
PARTLY = {
    53: "only the image: the fix-up is a matter of the runtime (tests/kprobes)",
}

HERE = Path(__file__).parent
TESTED = {int(n) for file in HERE.glob("test_*.py") for n in re.findall(r"\bs(\d{3})-", file.read_text())}


def test_every_number_has_a_place():
    assert set(range(1, 195)) == TESTED | set(NOT_YET)


def test_no_reason_is_stale():
    assert not TESTED & set(NOT_YET)
    assert set(PARTLY) <= TESTED
