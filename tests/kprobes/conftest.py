"""Fixtures of the runtime's tests. Each test that makes a `FakeMachine` runs on that and, as `HardMachine`, on the hardware.

The hardware is on the engine of ``--engine``, the compiled one if there is a choice. ``--hardware all``, which ``make test``
gives, runs every such test there; else one in a few, so that a quick run stays quick. A test that holds on the fake machine
only says why: ``@pytest.mark.fake_only("reason")``.
"""

import gc
import weakref
import zlib

import pytest

from kprobes import ProbeEvents
from sim.engine import EngineUnavailable, open_engine
from tests.kprobes.fakemachine import MODES, FakeMachine
from tests.kprobes.hardmachine import HardMachine

#: One test in so many runs on the hardware without ``--hardware all``, and on pysim, which takes a second for each, ever.
SOME, ON_PYSIM = 8, 50

#: Engines that a test may hold before those of its dead machines are looked for.
MANY = 12


@pytest.fixture(params=MODES)
def every_mode(request, monkeypatch):
    """Run the test in each way of executing displaced instructions; return the options."""
    monkeypatch.setattr(FakeMachine, "mode", MODES[request.param])
    return MODES[request.param]


@pytest.fixture
def events(m):
    """Probe events on the guest ``m`` of the test's module."""
    return ProbeEvents(m.kprobes, m, "guest")


def pytest_generate_tests(metafunc):
    if getattr(metafunc.module, "FakeMachine", None) is FakeMachine and not metafunc.definition.get_closest_marker("fake_only"):
        metafunc.parametrize("where", ["fake", "hardware"], indirect=True)


class Engines:
    """Engines with one hart, lent to machines until the end of a test."""

    def __init__(self, name):
        self.name, self._free, self._lent, self.missing = name, [], [], ""
        try:
            self._free.append(open_engine(name))
        except EngineUnavailable as error:
            self.missing = str(error)

    def borrow(self, owner):
        """Return an engine for a machine: that of one that is gone, if the test has made many."""
        if not self._free and len(self._lent) >= MANY:
            gc.collect()
            self._free = [engine for machine, engine in self._lent if machine() is None]
            self._lent = [(machine, engine) for machine, engine in self._lent if machine() is not None]
        engine = self._free.pop() if self._free else open_engine(self.name)
        self._lent.append((weakref.ref(owner), engine))
        return engine

    def take_back(self):
        """End of a test."""
        self._free += [engine for _, engine in self._lent]
        self._lent = []

    def close(self):
        """Free them all."""
        self.take_back()
        for engine in self._free:
            engine.close()


@pytest.fixture(scope="session")
def _hardware(request):
    chosen = request.config.getoption("--engine")
    engines = Engines("compiled" if chosen in ("auto", "all") else chosen)
    yield engines
    engines.close()


@pytest.fixture(autouse=True)
def where(request, monkeypatch):
    """What the test runs on: "fake" or "hardware"."""
    kind, engines = getattr(request, "param", "fake"), None
    if kind == "hardware":
        only = request.node.get_closest_marker("fake_only")
        if only:
            pytest.skip(f"on the fake machine only: {only.args[0]}")
        if request.config.getoption("--hardware") == "none":
            pytest.skip("--hardware none")
        engines = request.getfixturevalue("_hardware")
        sample = ON_PYSIM if engines.name == "pysim" else 1 if request.config.getoption("--hardware") == "all" else SOME
        if zlib.crc32(request.node.name.encode()) % sample:
            pytest.skip(f"one in {sample} on the hardware; all with --hardware all, as make test does, on the compiled engine")
        if engines.missing:
            pytest.skip(engines.missing)
        monkeypatch.setattr(HardMachine, "borrow", engines.borrow)
        monkeypatch.setattr(request.module, "FakeMachine", HardMachine)
    yield kind
    if engines:
        engines.take_back()


def pytest_collection_modifyitems(items):
    """The hardware's tests come last: a fault of the runtime shows on the fake machine at once."""
    items.sort(key=lambda item: getattr(getattr(item, "callspec", None), "params", {}).get("where") == "hardware")
