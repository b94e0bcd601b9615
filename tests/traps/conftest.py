"""The bare machine of the trap tests."""

import zlib

import pytest
from trapbench import Bench


@pytest.fixture
def bench(engine, assemble):
    return Bench(engine, assemble)


@pytest.fixture
def sampled(engine_name, request):
    """Of a large set of tests, pysim runs one in ten."""
    if engine_name == "pysim" and zlib.crc32(request.node.name.encode()) % 10:
        pytest.skip("one in ten on pysim; the compiled engine runs them all")
