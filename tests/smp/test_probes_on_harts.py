"""Several harts through one kprobe: stepping out of line misses none; stepping in line does, and the report says where."""

import pytest

from kprobes import Kprobe, Options
from sim.__main__ import main
from sim.engine import Recording, StopReason
from sim.events import ProbePhase, Retire
from sim.guestbuild import build_program
from sim.machine import Machine
from sim.misses import misses

#: Harts and calls of each; the long ones make 10 000 hits.
CASES = [
    (2, 150),
    (4, 60),
    pytest.param(2, 5000, marks=pytest.mark.slow),
    pytest.param(4, 2500, marks=pytest.mark.slow),
]


def run(engine, harts, calls, step=None):
    """A run of a machine with a probe on work, or without; returns machine, probe and result."""
    machine = Machine(
        build_program("harts", n=calls, harts=harts),
        engine=engine,
        record=Recording.ALL,
        probes=Options(step=step or "tf"),
    )
    probe = Kprobe(symbol_name="work", pre_handler=lambda p, regs: 0, post_handler=lambda p, regs, flags: None)
    machine.watch = {machine.symbols.lookup("work")}
    if step:
        machine.kprobes.register_kprobe(probe)
    result = machine.run(20_000_000)
    assert result.reason == StopReason.EXIT
    return machine, probe, result


@pytest.fixture
def engine(engine_pool):
    return lambda harts: engine_pool.borrow("compiled", harts=harts)


@pytest.mark.parametrize("step", ("tf", "int3"))
@pytest.mark.parametrize(("harts", "calls"), CASES)
def test_hits_equal_executions(engine, harts, calls, step):
    if calls > 1000 and step == "int3":
        pytest.skip("once is enough for the long runs")
    lent = engine(harts)
    machine, _, plain = run(lent, harts, calls)
    executed = len(machine.events.of(Retire))
    assert executed == harts * calls
    machine, probe, probed = run(lent, harts, calls, step)
    assert (probe.hits, probe.nmissed) == (executed, 0)
    assert not machine.events.of(Retire), "none ran in place"
    assert probed.console == plain.console


def test_handlers_run_in_the_order_of_cycles_and_harts(engine):
    machine, _, _ = run(engine(4), 4, 60, "tf")
    phases = [(event.cycle, event.hart) for event in machine.events.of(ProbePhase)]
    assert phases == sorted(phases)
    assert len({cycle for cycle, _ in phases}) < len(set(phases)), "some harts came in the same cycle"


@pytest.mark.parametrize(("harts", "calls"), CASES)
def test_stepping_in_line_misses_hits(engine, harts, calls):
    """The teaching mode: each execution is a hit or named as missed, while another hart was inside a hit."""
    lent = engine(harts)
    _, _, plain = run(lent, harts, calls)
    machine, probe, probed = run(lent, harts, calls, "inline")
    missed = list(misses(machine.events, probe.addr, probe.opcode))
    assert probe.hits + len(missed) == harts * calls and not probe.nmissed
    assert len(missed) > harts * calls // 50
    assert all(m.stepping and (m.late or m.hart not in m.stepping) for m in missed)
    assert sum(m.late for m in missed) < len(missed) // 3
    assert probed.console == plain.console
    machine.kprobes.unregister_kprobe(probe)
    assert machine.mem.read(machine.symbols.lookup("work"), 1)[0] == probe.opcode


def test_on_one_hart_stepping_in_line_misses_nothing(engine):
    _, probe, _ = run(engine(1), 1, 20, "inline")
    assert probe.hits == 20


def test_what_cannot_go_with_it():
    for more in ({"boost": True}, {"optimize": True}):
        with pytest.raises(ValueError, match='step is "inline", which uses no copies'):
            Options(step="inline", **more)


def test_the_command_reports_what_was_missed(capsys):
    elf = str(build_program("harts", n=60))
    words = ["run", elf, "--harts", "2", "--engine", "compiled", "--probe", "work"]
    assert main(words) == 0
    assert "FOUND" not in capsys.readouterr().out
    assert main([*words, "--step", "inline"]) == 1
    out = capsys.readouterr().out
    assert "the probe on work missed" in out and "of 120 executions" in out and "was inside a hit" in out


def test_bench_of_harts(monkeypatch, capsys, engine_pool):
    """Each figure is there; arming is seen by all harts after some cycles, with several harts only."""
    from sim.cli import smpbench

    engine_pool.borrow("compiled", harts=2)  # skips where there is none
    monkeypatch.setattr(smpbench, "HARTS", (1, 2))
    monkeypatch.setattr(smpbench, "CALLS", 200)
    monkeypatch.setattr(smpbench, "ARMINGS", 5)
    figures = smpbench.measure()
    for row in figures.values():
        assert min(row[name] for name in ("cycles", "instructions", "arm", "disarm")) > 0
    assert 0 < max(figures["2"]["arm_cycles"], figures["2"]["disarm_cycles"]) < 300
    smpbench.show(figures)
    assert len(capsys.readouterr().out.strip().splitlines()) == 4
