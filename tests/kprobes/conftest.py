"""Fixtures of the runtime's tests. Each test that makes a `FakeMachine` runs on that and, as `HardMachine`, on the hardware.

The hardware is on the engine of ``--engine``, the compiled one if there is a choice. A test that holds on the fake machine
only says why: ``@fake_only("reason")``.
"""

import gc
import weakref
import zlib

import pytest

from sim.engine import EngineUnavailable, open_engine
from tests.kprobes.fakemachine import MODES, FakeMachine
from tests.kprobes.hardmachine import HardMachine

#: One test in so many runs on pysim, which takes a second for each.
SAMPLE = 50

#: Engines that a test may hold before those of its dead machines are looked for.
MANY = 4


@pytest.fixture(params=MODES)
def every_mode(request, monkeypatch):
    """Run the test in each way of executing displaced instructions; return the options."""
    monkeypatch.setattr(FakeMachine, "mode", MODES[request.param])
    return MODES[request.param]


def pytest_configure(config):
    config.addinivalue_line("markers", "fake_only(reason): the hardware cannot do what this is about")


def pytest_generate_tests(metafunc):
    if getattr(metafunc.module, "FakeMachine", None) is FakeMachine and not metafunc.definition.get_closest_marker("fake_only"):
        metafunc.parametrize("where", ["fake", "hardware"], indirect=True)


class Engines:
    """Engines with one hart, lent to machines until these are gone."""

    def __init__(self, name):
        self.name, self._free, self._lent, self.missing = name, [], {}, ""
        try:
            self._free.append(open_engine(name))
        except EngineUnavailable as error:
            self.missing = str(error)

    def borrow(self, owner):
        """Return an engine for a machine."""
        if len(self._lent) >= MANY:
            gc.collect()
        engine = self._free.pop() if self._free else open_engine(self.name)
        self._lent[id(engine)] = engine
        weakref.finalize(owner, self._back, engine)
        return engine

    def _back(self, engine):
        if self._lent.pop(id(engine), None) is not None:
            self._free.append(engine)

    def close(self):
        """Free them all."""
        for engine in (*self._free, *self._lent.values()):
            engine.close()
        self._lent.clear()


@pytest.fixture(scope="session")
def _hardware(request):
    chosen = request.config.getoption("--engine")
    engines = Engines("compiled" if chosen in ("auto", "all") else chosen)
    yield engines
    engines.close()


@pytest.fixture(autouse=True)
def where(request, monkeypatch):
    """What the test runs on: "fake" or "hardware"."""
    kind = getattr(request, "param", "fake")
    if kind == "hardware":
        only = request.node.get_closest_marker("fake_only")
        if only:
            pytest.skip(f"on the fake machine only: {only.args[0]}")
        engines = request.getfixturevalue("_hardware")
        if engines.name == "pysim" and zlib.crc32(request.node.name.encode()) % SAMPLE:
            pytest.skip(f"one in {SAMPLE} on pysim; the compiled engine runs them all")
        if engines.missing:
            pytest.skip(engines.missing)
        monkeypatch.setattr(HardMachine, "borrow", engines.borrow)
        monkeypatch.setattr(request.module, "FakeMachine", HardMachine)
    return kind


def pytest_collection_modifyitems(items):
    """The hardware's tests come last: a fault of the runtime shows on the fake machine at once."""
    items.sort(key=lambda item: getattr(getattr(item, "callspec", None), "params", {}).get("where") == "hardware")
