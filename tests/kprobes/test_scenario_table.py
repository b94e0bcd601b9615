"""docs/scenarios.md, and that nothing of the catalogue is left out."""

from tests.kprobes.scenarios import OUT, holders, read, table


def test_every_scenario_has_a_test_or_a_reason():
    held = holders()
    scenarios = read()
    assert len(scenarios) == 262 and held.keys() <= {s.name for s in scenarios}
    for scenario in scenarios:
        assert held.get(scenario.name) or scenario.reason, f"{scenario.name}: neither a test nor a reason"


def test_the_table_is_current():
    assert OUT.read_text() == table(), "run: python -m tests.kprobes.scenarios"
