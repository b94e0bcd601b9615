"""Benches with several harts."""

import pytest

from tests.smp.smpbench import SmpBench


@pytest.fixture
def smp(engine_name, engine_pool, assemble, config):
    """Makes a bench: ``smp(harts=2, wait_seed=3)``."""

    def make(harts=2, **options):
        return SmpBench(engine_pool.borrow(engine_name, harts=harts, config=config, **options), assemble)

    return make
