"""Code that two to four harts run is changed in every cycle of a window: breakpoints and jumps, with the protocol and without it
(P24, R16, H16 and the claims of docs/architecture.md)."""

import functools
import shlex

import pytest

from hw.config import Config
from kprobes import Kprobe, Options
from sim.__main__ import main
from sim.engine import Recording
from sim.explore import arm, disarm, explore
from sim.guestbuild import build_program
from sim.machine import Machine

#: Both harts are in their loops, of 33 and 41 cycles a turn at least.
WINDOW = (810, 1330)
#: The same with more harts, which start one after the other.
MORE = {3: (1180, 1700), 4: (1530, 2050)}
STEPS = [7, pytest.param(1, marks=pytest.mark.every_cycle)]
NARROW, WIDE = Config(), Config(stale_lines=16)
CONFIGS = pytest.mark.parametrize("config", (NARROW, WIDE), ids=("narrow", "wide"))
CHANGES = pytest.mark.parametrize("change", (arm("w_add"), disarm("w_add")), ids=("arm", "disarm"))

#: A jump is written, or taken out, so many cycles after the request: within the window's runs.
BREAKPOINTS, JUMPS = Options(), Options(optimize=True, optimize_delay=60)


@pytest.fixture
def explored(engine_pool):
    """Explores a change, from a machine that has the probe if it is to be removed."""

    def make(change, engine, options, sync):
        harts = engine.harts
        elf = build_program("patched", n=10) if harts == 2 else build_program("patched", n=20, harts=harts)
        machine = Machine(elf, engine=engine, record=Recording.ALL, probes=options, sync=sync)
        if change.disarms:
            machine.kprobes.register_kprobe(Kprobe(symbol_name="w_add", pre_handler=lambda p, regs: 0))
        return machine

    def run(change, window, config=NARROW, options=BREAKPOINTS, sync=None, harts=2, **limits):
        engine = engine_pool.borrow("compiled", harts=harts, config=config)
        return explore(functools.partial(make, change, engine, options, sync), change, window, **limits)

    return run


@CONFIGS
@CHANGES
@pytest.mark.parametrize("options", (BREAKPOINTS, JUMPS), ids=("breakpoints", "jumps"))
@pytest.mark.parametrize("step", STEPS)
def test_H16_P24_R16_nothing_is_missed_or_torn(explored, change, config, options, step):
    window = range(*WINDOW, step)
    found = explored(change, window, config, options)
    assert not found.findings, found.findings[0]
    assert found.runs == len(window)


@CHANGES
@pytest.mark.parametrize("options", (BREAKPOINTS, JUMPS), ids=("breakpoints", "jumps"))
@pytest.mark.parametrize("harts", MORE)
@pytest.mark.parametrize("step", [43, pytest.param(1, marks=pytest.mark.every_cycle)])
def test_H16_P24_R16_with_more_harts(explored, change, options, harts, step):
    window = range(*MORE[harts], step)
    found = explored(change, window, WIDE, options, harts=harts)
    assert not found.findings, found.findings[0]
    assert found.runs == len(window)


@CHANGES
def test_P24_through_the_debug_port(explored, change):
    found = explored(change, range(*WINDOW, 13), WIDE, JUMPS, sync="refetch")
    assert not found.findings, found.findings[0]


@CONFIGS
def test_harts_that_do_not_serialise_miss_probes(explored, config):
    """The window is some cycles wide, and with old lines kept, as wide as the loop."""
    found = explored(arm("w_add"), range(*WINDOW, 3), config, sync="none", most=6)
    assert len(found.findings) == 6
    for finding in found.findings:
        assert all("ran work+0x2 in cycle" in problem and "missed it" in problem for problem in finding.problems)
        often = [" times to cycle " in problem for problem in finding.problems]
        assert any(often) == (config is WIDE), finding


def test_harts_that_do_not_serialise_jump_to_where_nothing_is_left(explored):
    """A detour is freed when its jump is gone; harts that still have the jump run into what is there then."""
    found = explored(disarm("w_add"), range(*WINDOW, 60), WIDE, JUMPS, sync="none", most=None)
    assert len(found.findings) == found.runs
    for finding in found.findings:
        assert "it ended with exit 127" in finding.problems[0] and "nobody handled #PF" in str(finding)


def test_the_command_finds_it_and_says_how_to_repeat_it(capsys, engine_pool):
    engine_pool.borrow("compiled", harts=2, config=WIDE)  # skips where there is none
    elf = str(build_program("patched", n=10))
    words = ["explore", elf, "--harts", "2", "--engine", "compiled", "--stale-lines", "16", "--event", "arm:w_add"]
    assert main([*words, "--only", "820"]) == 0
    capsys.readouterr()
    assert main([*words, "--only", "820", "--sync", "none"]) == 1
    out = capsys.readouterr().out
    repeat = shlex.split(out.split("repeat: ")[1])
    assert "--sync none" in " ".join(repeat) and "--stale-lines 16" in " ".join(repeat)
    again = repeat[repeat.index("explore"): repeat.index("--wave")]
    assert main(again) == 1 and capsys.readouterr().out.split("FOUND")[1] == out.split("FOUND")[1]
