"""docs/scenarios.md, and that nothing of the catalogue is left out."""

from pathlib import Path

import pytest

from tests.kprobes.scenarios import OUT, held_in, holders, read, table

FUNCTION = "def test_R01_R02_x(row):\n    pass\n"
CASES = {
    "": "R01 R02",
    "@pytest.mark.slow": "R01 R02",
    '@pytest.mark.skip(reason="not yet")': "",
    '@pytest.mark.skipif(True, reason="not here")': "",
    "@pytest.mark.xfail": "",
    "@pytest.mark.every_cycle": "",
    "needs = pytest.mark.skipif(True, reason='')\n\n@needs": "",
    "pytestmark = pytest.mark.skip": "",
    "pytestmark = [pytest.mark.slow, pytest.mark.xfail(strict=True)]": "",
    'pytestmark = pytest.mark.usefixtures("every_mode")': "R01 R02",
    "@pytest.mark.parametrize('row', ['R03', pytest.param('R04', marks=pytest.mark.xfail), pytest.param('R05')])":
        "R01 R02 R03 R05",
    "R = 'R03'\n\n@pytest.mark.parametrize('row', [pytest.param(R, marks=pytest.mark.skip), 'R04'])": "R01 R02 R04",
    "@pytest.mark.parametrize('row', [pytest.param('R03', marks=pytest.mark.skip)])": "",
    "ROWS = (pytest.param('R03', marks=[pytest.mark.skip]), 'R04')\n\n@pytest.mark.parametrize('row', ROWS)":
        "R01 R02 R04",
    "ROWS = (pytest.param('R03', marks=[pytest.mark.skip]),)\n\n@pytest.mark.parametrize('row', ROWS)": "",
}


@pytest.mark.parametrize(("before", "expected"), CASES.items())
def test_a_test_that_may_be_left_out_holds_nothing(before, expected):
    assert {name for name, _ in held_in(Path("tests/kprobes/test_x.py"), f"{before}\n{FUNCTION}")} == set(expected.split())


def test_every_scenario_has_a_test_or_a_reason():
    held = holders()
    scenarios = read()
    assert len(scenarios) == 262 and held.keys() <= {s.name for s in scenarios}
    for scenario in scenarios:
        assert held.get(scenario.name) or scenario.reason, f"{scenario.name}: neither a test that is run nor a reason"


def test_the_table_is_current():
    assert OUT.read_text() == table(), "run: python -m tests.kprobes.scenarios"
