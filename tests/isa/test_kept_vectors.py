"""Vectors that failed once, each as small as it could be made (tests/silicon/campaign.py): on every engine."""

from pathlib import Path

import pytest

from sim.vectorfile import load
from sim.vectors import Runner

FILES = sorted((Path(__file__).parents[1] / "vectors" / "kept").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kept(engine, file):
    assert [outcome.line() for outcome in Runner(engine).run(load(file)) if outcome.differences] == []


def test_there_are_some():
    assert FILES
