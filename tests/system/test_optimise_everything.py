"""Compiled functions covered with jumps instead of breakpoints: nothing but time may change, and no trap is taken.

Compared as in `everything`. The jumps are in place before the guest starts, or come while it runs; one at a time they are
in `test_probe_everything`.
"""

import pytest

from kprobes import Options
from tests.system.everything import GUESTS, Runs


@pytest.fixture(scope="module")
def runs(engine_name):
    return Runs(engine_name)


@pytest.mark.parametrize("name", GUESTS)
def test_P01_jumps_side_by_side_and_no_trap(name, engine_name, runs):
    if engine_name == "pysim" and name != "demo":
        pytest.skip("hundreds of hits: on the compiled engine only")
    addresses = runs.disjoint(name)
    done = runs.probed(name, addresses, Options(boost=True, optimize=True))
    assert sum(done.hits.values()) > 20
    assert done.optimised == set(addresses)
    assert not done.traps


@pytest.mark.parametrize("name", GUESTS)
def test_P02_P12_jumps_that_come_while_the_guest_runs_among_breakpoints(name, engine_name, runs):
    if engine_name == "pysim":
        pytest.skip("thousands of hits: on the compiled engine only")
    done = runs.probed(name, runs.guest(name).addresses, Options(boost=True, optimize=True, optimize_delay=300), wait=False)
    assert done.optimised and done.optimised != set(done.hits)
