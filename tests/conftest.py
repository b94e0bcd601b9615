"""What every test may use: engines to run on, machines, assembled bytes, a seed; and failures that say how to repeat them.

``--engine`` chooses what a test with the fixture `engine_name` runs on: auto (the default: pysim, and the compiled engine
where it can be built), all (an engine that is missing is a visible skip either way), or one name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from hw.config import Config
from hw.isa.facts import DebugReg
from sim.engine import (
    ENGINES,
    NEVER,
    Engine,
    EngineUnavailable,
    RetireFlag,
    Stop,
    StopOn,
    StopReason,
    open_engine,
)
from sim.guestbuild import CACHE_DIR, RUNTIME_DIR
from tests.coverage.collect import Coverage, Covering, save

#: An engine that retires nothing and takes no trap for so many cycles, without being asleep, hangs.
PATIENCE = 1500

_SHORT = ("pysim", "compiled")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hardware")
    group.addoption("--engine", default="auto", help=f"auto, all, or one of {', '.join(ENGINES)} (default: auto)")
    group.addoption("--hardware", default="some", choices=("none", "some", "all"),
                    help="how many of tests/kprobes run there, too (default: some)")
    group.addoption("--seed", type=int, default=1, help="seed of the tests that draw random numbers (default: 1)")
    group.addoption("--every-cycle", action="store_true",
                    help="explore windows cycle by cycle, not each so many cycles (a quarter of an hour)")
    group.addoption("--every-probe", action="store_true", help="probe every instruction one at a time, too, not a sample of them")


def pytest_configure(config: pytest.Config) -> None:
    chosen = config.getoption("--engine")
    if chosen not in ("auto", "all", *ENGINES):
        raise pytest.UsageError(f"there is no engine {chosen!r}: use auto, all, {', '.join(ENGINES)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--every-cycle"):
        return
    for item in items:
        if item.get_closest_marker("every_cycle"):
            item.add_marker(pytest.mark.skip(reason="every cycle of a window takes minutes: --every-cycle; a part of them runs always"))


def pytest_report_header(config: pytest.Config) -> str:
    return f"engine: {config.getoption('--engine')}, seed: {config.getoption('--seed')}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine_name" not in metafunc.fixturenames:
        return
    if any("engine_name" in str(mark.args[0]).split(",") for mark in metafunc.definition.iter_markers("parametrize")):
        return
    chosen = metafunc.config.getoption("--engine")
    names = [name for name in _SHORT if name in ENGINES] + [name for name in ENGINES if name not in _SHORT]
    metafunc.parametrize("engine_name", names if chosen in ("auto", "all") else [chosen], scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if report.failed:
        options = f"--engine {item.config.getoption('--engine')} --seed {item.config.getoption('--seed')}"
        report.sections.append(("to repeat", f"python -m pytest '{item.nodeid}' {options}"))
    return report


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--seed")


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test alone: the same with every engine, whatever other tests run."""
    return random.Random(f"{seed} {request.node.nodeid.split('[')[0]}")


# --- engines ---


class Watched:
    """An engine whose `run` fails the test when the hardware hangs, with the last traps and where it stands.

    Everything else is the engine's own.
    """

    def __init__(self, engine: Engine):
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, max_cycles: int, stop: StopOn = NEVER) -> Stop:
        """`Engine.run`, watched."""
        engine, cycles, left = self._engine, 0, stop.retired
        while True:
            before, traps = self._retired(), self._traps()
            ended = engine.run(min(PATIENCE, max_cycles - cycles), StopOn(**vars(stop) | {"retired": left}))
            cycles += ended.cycles
            if ended.reason != StopReason.MAX_CYCLES or cycles >= max_cycles:
                return Stop(ended.reason, ended.hart, cycles)
            if self._retired() == before and self._traps() == traps and not self._asleep():
                pytest.fail(f"nothing retired for {PATIENCE} cycles\n{describe_state(engine)}", pytrace=False)
            if left is not None:
                now = self._retired()
                left -= sum(now) - sum(before) if stop.hart is None else now[stop.hart] - before[stop.hart]

    def _retired(self) -> list[int]:
        return [self._engine.retired(hart) for hart in range(self._engine.harts)]

    def _traps(self) -> list[int]:
        # rip moves when instructions retire or a delivery ends, also within a long string instruction
        return [self._engine.read_reg(hart, index) for hart in range(self._engine.harts) for index in (16, 1, 4)]

    def _asleep(self) -> bool:
        return all(self._engine.state(hart).halted for hart in range(self._engine.harts))


def describe_state(engine: Engine) -> str:
    """Return where the harts stand, and the last traps of the records, which this takes."""
    lines = [f"engine {engine.name}, cycle {engine.cycle}"]
    for hart in range(engine.harts):
        lines.append(f"hart {hart}: rip {engine.read_reg(hart, DebugReg.RIP):#x}, {engine.state(hart)}")
    for record in [r for r in engine.drain().retires if r.flags & RetireFlag.TRAP][-8:]:
        error = f", error {record.trap_error:#x}" if record.flags & RetireFlag.TRAP_HAS_ERROR else ""
        lines.append(f"cycle {record.cycle}: vector {record.trap_vector}{error}, rip {record.trap_rip:#x}")
    return "\n".join(lines)


class EnginePool:
    """Engines that tests borrow. Opening one costs seconds, so they are kept for the session."""

    def __init__(self) -> None:
        self._free: dict[tuple, list[Engine]] = {}
        self._lent: list[tuple[tuple, Engine, Covering]] = []
        self._coverage = Coverage()
        self._missing: dict[str, EngineUnavailable] = {}

    def borrow(self, name: str, **options: Any) -> Engine:
        """Return an engine as after reset, with RAM all 0; skip the test if there is none here."""
        options = {"config": Config()} | options
        key = (name, *sorted(options.items()))
        if name in self._missing:
            pytest.skip(str(self._missing[name]))
        if self._free.get(key):
            engine = self._free[key].pop()
        else:
            try:
                engine = open_engine(name, **options)
            except EngineUnavailable as error:
                self._missing[name] = error
                pytest.skip(str(error))
        for hart in range(engine.harts):
            engine.set_irq(hart, None)
        engine.reset()
        engine.write_mem(0, bytes(engine.config.ram_bytes))
        covering = Covering(engine, self._coverage)
        covering.start()
        self._lent.append((key, engine, covering))
        return cast(Engine, covering)

    def take_back(self) -> None:
        """End of a test."""
        for key, engine, covering in self._lent:
            covering.finish()
            self._free.setdefault(key, []).append(engine)
        self._lent.clear()

    def close(self) -> None:
        """End of the session."""
        for engines in self._free.values():
            for engine in engines:
                engine.close()
        if self._free:
            save(self._coverage)


@pytest.fixture(scope="session")
def _engines() -> Iterator[EnginePool]:
    pool = EnginePool()
    yield pool
    pool.close()


@pytest.fixture
def engine_pool(_engines: EnginePool) -> Iterator[EnginePool]:
    """Lends engines until the end of the test, for example ``engine_pool.borrow("pysim", wait_seed=3)``."""
    yield _engines
    _engines.take_back()


@pytest.fixture
def config(request: pytest.FixtureRequest) -> Config:
    """The hardware of the test: the default, or what its mark says: ``@pytest.mark.config(vendor=Vendor.AMD)``.

    Another configuration is another build of the compiled engine.
    """
    mark = request.node.get_closest_marker("config")
    return Config(**mark.kwargs) if mark else Config()


@pytest.fixture
def engine(engine_name: str, engine_pool: EnginePool, config: Config) -> Watched:
    """An engine with one hart, as after reset, RAM cleared."""
    return Watched(engine_pool.borrow(engine_name, config=config))


class Lent(Watched):
    """An engine that belongs to a pool."""

    def close(self) -> None:
        """The pool closes it."""


@pytest.fixture
def lend(engine_pool: EnginePool) -> Callable[..., Any]:
    """What stands in for `sim.engine.open_engine` where a test's engines are to be those of the pool."""
    usual = {"latency": 1, "wait_seed": None, "harts": 1}

    def borrow(name: str, *, soc_factory: Any = None, **options: Any) -> Any:
        return Lent(engine_pool.borrow(name, **{k: v for k, v in options.items() if v != usual.get(k, ...)}))

    return borrow


@pytest.fixture
def machine_on(lend: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A factory of `sim.Machine` on engines of the pool: ``machine_on("pysim", "guest.elf", wait_seed=3)``."""
    import sim.machine

    def make(name: str, image: Any = None, **options: Any) -> Any:
        return sim.machine.Machine(image, engine=name, **options)

    monkeypatch.setattr(sim.machine, "open_engine", lend)
    return make


@pytest.fixture
def machine(engine_name: str, machine_on: Callable[..., Any], config: Config) -> Callable[..., Any]:
    """A factory of `sim.Machine` on the engine and with the `config` of the test: ``machine("guest.elf")``."""
    return functools.partial(machine_on, engine_name, config=config)


# --- code ---


class Code(NamedTuple):
    """Assembled bytes, where they belong, and the labels."""

    address: int
    data: bytes
    labels: dict[str, int]


@pytest.fixture(scope="session")
def assemble() -> Callable[..., Code]:
    """Turns text for the GNU assembler into bytes: ``assemble("int3; nop", at=0x10000)``."""
    return assemble_text


@functools.cache
def assemble_text(text: str, at: int = 0x10000) -> Code:
    """Assemble and link at an address; kept on disk, so that asking again costs nothing."""
    name = hashlib.sha256(f"{at:#x}\n{text}".encode()).hexdigest()[:20]
    kept = CACHE_DIR / "snippets" / f"{name}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            made = _assemble(text, at, Path(scratch))
            whole = Path(scratch) / "code.json"
            whole.write_text(json.dumps([made.data.hex(), made.labels]))
            os.replace(whole, kept)
    data, labels = json.loads(kept.read_text())
    return Code(at, bytes.fromhex(data), labels)


def _assemble(text: str, at: int, scratch: Path) -> Code:
    source, linked, raw = scratch / "code.S", scratch / "code.elf", scratch / "code.bin"
    source.write_text(f"\t.text\n{text}\n")
    for command in (
        ["gcc", "-c", "-nostdlib", f"-I{RUNTIME_DIR}", source, "-o", scratch / "code.o"],
        ["ld", "-static", "-e", "0", f"-Ttext={at:#x}", scratch / "code.o", "-o", linked],
        ["objcopy", "-O", "binary", "-j", ".text", linked, raw],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"the snippet does not assemble:\n{done.stderr}\n{text}", pytrace=False)
    table = subprocess.run(["nm", linked], capture_output=True, text=True, check=True).stdout
    labels = {}
    for line in table.splitlines():
        value, _, label = line.split()
        labels[label] = int(value, 16)
    return Code(at, raw.read_bytes(), labels)
