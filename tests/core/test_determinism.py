"""Every engine shows the same records in the same cycles: they run the same hardware."""

import pytest

from sim.elf import load_elf
from sim.engine import ENGINES, Recording, StopReason
from sim.guestbuild import PROGRAMS, build_program


@pytest.fixture
def records(machine_on):
    """Runs a program on an engine; returns all that its ports showed."""

    def run(name: str, engine: str, **options):
        m = machine_on(engine, build_program(name, n=PROGRAMS[name].n_test), **options)
        m.engine.record(Recording.ALL)
        ended = m.engine.run(40_000)
        shown = m.engine.drain()
        return ended, m.cycle, shown.retires, shown.console, shown.exits

    return run


@pytest.mark.parametrize(
    ("name", "options"),
    [("linkedlist", {}), ("traps", {}), ("wide", {"wait_seed": 5}), ("strings", {"latency": 3})],
    ids=["linkedlist", "traps", "wide-wait-states", "strings-latency"],
)
def test_engines_agree(records, name, options, request):
    chosen = request.config.getoption("--engine")
    if chosen not in ("auto", "all"):
        pytest.skip(f"compares engines; only {chosen} is chosen")
    first, *others = ENGINES
    wanted = records(name, first, **options)
    assert wanted[0].reason in (StopReason.EXIT, StopReason.MAX_CYCLES)
    assert len(wanted[2]) > 1000
    for other in others:
        got = records(name, other, **options)
        for expected, shown in zip(wanted[2], got[2], strict=False):
            assert shown == expected, f"the first difference of {other} from {first}, in cycle {expected.cycle}"
        assert got == wanted


def test_one_engine_twice(machine, engine_name):
    """Reset forgets everything: a second run is the first one again."""
    shown = []
    image = load_elf(build_program("traps"))
    m = machine(image)
    for _ in range(2):
        m.engine.reset()
        m.engine.write_mem(0, bytes(m.engine.config.ram_bytes))
        m.load_image(image)
        m.engine.record(Recording.ALL)
        m.engine.run(6000)
        shown.append(m.engine.drain())
    assert shown[0] == shown[1]
    assert shown[0].retires
