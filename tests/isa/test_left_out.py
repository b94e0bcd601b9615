"""docs/instructions.md tells the truth about what is left out: the encodings that it names are refused, as it says."""

import re
from pathlib import Path

import pytest

from hw.isa.absent import ABSENT
from hw.isa.reference import absent, lookup, split
from hw.isa.rows import Raise

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "instructions.md").read_text()

#: Names of the classes in the page.
CLASSES = {"x87": Raise.X87, "MMX": Raise.MMX, "SSE": Raise.SSE, "AVX": Raise.AVX, "": Raise.UD}


def rows() -> list[list[str]]:
    """The cells of the table of what is left out."""
    table = PAGE.split("## What is left out")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_what_is_left_out_is_refused(row):
    name, examples, kind, count, why = row
    assert name and why and count.isdigit()
    for code in examples.split():
        parts = split(bytes.fromhex(code))
        assert parts is not None and lookup(parts) is None, f"{code}: {parts and lookup(parts)}"
        assert parts.bytes == bytes.fromhex(code) or kind == "", f"{code} is longer or shorter"
        assert (absent(parts) or Raise.UD) == CLASSES[kind], code


def test_every_class_stands_there():
    assert {CLASSES[row[2]] for row in rows()} == {row.raises for row in ABSENT}


def test_numbers_agree():
    """The instances that are left out, by class, as the measurement has them."""
    by_class = dict.fromkeys(CLASSES, 0)
    for row in rows():
        by_class[row[2]] += int(row[3])
    assert by_class == {"x87": 26, "MMX": 1, "SSE": 94, "AVX": 90, "": 110}
    assert re.search(r"2,744,344", PAGE)
