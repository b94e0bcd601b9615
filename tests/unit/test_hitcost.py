"""`kphw bench`: what hits and registrations cost, and that the cheaper ways are cheaper."""

import pytest

from sim.cli import hitcost
from sim.cli.hitcost import KINDS, hit_cycles, registration
from sim.engine import EngineUnavailable, open_engine


@pytest.fixture(scope="module")
def compiled():
    try:
        engine = open_engine("compiled")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    yield engine
    engine.close()


def test_a_hit_costs_less_the_less_is_done_for_it(compiled):
    cycles = hit_cycles(compiled)
    assert list(cycles) == [kind.name for kind in KINDS]
    kprobe, int3, emulated = cycles["kprobe"], cycles['kprobe, step="int3"'], cycles["kprobe, emulated (a jmp)"]
    boosted, optimised = cycles["kprobe, boosted"], cycles["kprobe, optimised"]
    assert optimised < min(emulated, boosted) and max(emulated, boosted) < 0.6 * min(kprobe, int3)  # one trap, not two
    assert kprobe < cycles["jprobe"]
    assert cycles["kretprobe, optimised"] < cycles["kretprobe, boosted"] < cycles["kretprobe"]
    returns = {way: cycles[f"kretprobe{way}"] - cycles[f"kprobe{way}"] for way in ("", ", boosted", ", optimised")}
    assert max(returns.values()) - min(returns.values()) < 10  # the return half is the same in all, as published
    assert cycles["kprobe and kretprobe"] == cycles["kretprobe"]  # one trap for both


def test_the_benchmark_of_registrations_names_what_it_measured(compiled, monkeypatch):
    monkeypatch.setattr(hitcost, "COUNTS", (100, 200))
    found = registration(compiled)
    assert list(found) == ["100", "200"]
    assert all(value > 0 for row in found.values() for value in row.values())
    assert set(found["100"]) == {"register", "unregister", "hit"}
