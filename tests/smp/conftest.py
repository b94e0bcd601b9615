"""Benches with several harts. On pysim one test in five runs, on a part of its cases: `test_engines.py` holds the engines equal."""

import zlib

import pytest

from tests.smp.smpbench import SmpBench


@pytest.fixture
def smp(engine_name, engine_pool, assemble, config, request):
    """Makes a bench: ``smp(harts=2, wait_seed=3)``."""
    if engine_name == "pysim" and zlib.crc32(request.node.name.encode()) % 5:
        pytest.skip("one in five on pysim; the compiled engine runs them all")

    def make(harts=2, **options):
        return SmpBench(engine_pool.borrow(engine_name, harts=harts, config=config, **options), assemble)

    return make


@pytest.fixture
def whole(engine_name):
    """Whether all cases of a test run, so that it may ask that each outcome is among them."""
    return engine_name != "pysim"


@pytest.fixture
def cases(whole):
    """The cases of a test that run: ``for distance in cases(range(40))``."""
    return lambda all_of_them: list(all_of_them) if whole else list(all_of_them)[:: (len(all_of_them) + 2) // 3]
