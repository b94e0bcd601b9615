"""Random bytes as code on every engine, and that each kind of finding would be found."""

import pytest

from sim.engine import Records, Stop, StopReason
from tests.fuzz import runner
from tests.fuzz.campaign import main
from tests.fuzz.runner import Runner
from tests.fuzz.snippets import KINDS, STRIDE, fill

#: Snippets for each engine: as many as take some ten seconds.
COUNT = {"pysim": 60, "compiled": 8000}


@pytest.mark.parametrize("user", [False, True], ids=["cpl0", "cpl3"])
def test_random_bytes(engine_name, engine_pool, seed, user):
    count = COUNT[engine_name] // 2
    found = Runner(engine_pool.borrow(engine_name)).run(fill(seed, int(user), count), user, f"seed {seed}")
    command = f"to repeat: python -m tests.fuzz.campaign --seed {seed} --fill {int(user)}"
    assert not found.failures, "\n".join([*found.failures, command])
    assert found.snippets == count
    assert {6, 13, 14} <= set(found.traps)
    assert found.retired > 10 * count  # the handler alone retires more


@pytest.mark.parametrize("engine_name", ["compiled"], scope="session")
def test_an_instruction_that_should_not_retire_is_found(engine_name, engine_pool, monkeypatch):
    real = runner.lookup
    monkeypatch.setattr(runner, "lookup", lambda parts: None if parts.opcode == 0x90 else real(parts))
    found = Runner(engine_pool.borrow(engine_name)).run((b"\x90\x06").ljust(STRIDE, b"\x06") * 20, False, "planted")
    assert "90 retired: no row of the table" in found.failures[0]
    assert "planted, snippet 0 at 0x400000" in found.failures[0]


@pytest.mark.parametrize("engine_name", ["compiled"], scope="session")
def test_a_core_that_stands_still_is_found(engine_name, engine_pool):
    engine = engine_pool.borrow(engine_name)

    class Still:
        def __getattr__(self, name):
            return getattr(engine, name)

        def run(self, cycles, stop):
            return Stop(StopReason.MAX_CYCLES, None, cycles)

        def drain(self):
            return Records()

    found = Runner(Still()).run(bytes(STRIDE * 3), True, "still")
    assert "hangs" in found.failures[0]


@pytest.mark.parametrize("engine_name", ["compiled"], scope="session")
@pytest.mark.parametrize(
    "code",
    [b"\xeb\xfe", b"\xf4", b"\xf3\xaa", b"\x0f\x01\x1c\x25\x00\x00\x40\x00\xcc", b"\xe6\xf4\xeb\xfc", b"\xfa\xf4"],
    ids=["loop", "hlt", "rep", "lidt", "exits", "cli-hlt"],
)
def test_snippets_that_stop_or_spoil_the_hart_do_not_stop_the_fill(engine_name, engine_pool, code):
    bad = code.ljust(STRIDE, b"\x06")
    found = Runner(engine_pool.borrow(engine_name)).run(bad + b"\x06" * STRIDE * 5, False, "x")
    assert found.snippets == 6 and not found.failures


def test_fills_depend_on_seed_and_number_alone():
    assert fill(1, 2, 30) == fill(1, 2, 30) != fill(1, 3, 30)
    assert len(fill(1, 2, 30)) == 30 * STRIDE and len(KINDS) == 3


def test_bad_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--count", "0"])
    assert "at least 1" in capsys.readouterr().err
