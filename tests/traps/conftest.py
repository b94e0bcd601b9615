"""The bare machine of the trap tests."""

import pytest
from trapbench import Bench


@pytest.fixture
def bench(engine, assemble):
    return Bench(engine, assemble)
