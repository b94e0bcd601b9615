"""Interrupts, NMIs, arming and disarming in every cycle of a window: nothing else may change. And what exploration finds."""

import re

import pytest

from hw.isa.facts import Vector
from kprobes import Kprobe
from sim.__main__ import main
from sim.engine import Recording
from sim.events import Trap
from sim.explore import Disturbance, Explorer, arm, disarm, explore, ipi, irq, nmi
from sim.gtkw import around
from sim.guestbuild import build_program, build_text
from sim.machine import Machine

#: Labels in the guest: an instruction of each kind that a step has to treat in its own way.
FEW = ("k_push", "k_pushf", "k_call")
OTHERS = ("k_load", "k_cli", "k_popf", "k_rep", "k_sti", "k_branch", "k_pop", "k_ret")
KINDS = [*FEW, *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)]


@pytest.fixture
def guest(machine_on):
    """Makes the factory of machines with the guest and a probe on a place, or without one."""

    def factory(place=None, n=2, sync=None):
        def make():
            machine = machine_on("compiled", build_program("disturbed", n=n), record=Recording.ALL, sync=sync)
            if place:
                seen = []
                machine.keep(seen)
                machine.kprobes.register_kprobe(
                    Kprobe(
                        symbol_name=place,
                        pre_handler=lambda p, regs: seen.append(regs.flags),
                        post_handler=lambda p, regs, flags: seen.append(regs.flags),
                    )
                )
            return machine

        return make

    return factory


def whole_hit(explorer, what="hit:0"):
    """The cycles from a probe's int3 to the end of its last iretq, and some on either side."""
    where = around(explorer.undisturbed().events, what, margin=0)
    assert 140 < where.end - where.start < 190
    return range(where.start - 5, where.end + 8)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupt_and_nmi_in_every_cycle_of_a_hit(guest, kind):
    explorer = Explorer(guest(kind))
    window = whole_hit(explorer)
    for disturbance in (irq(), ipi(), nmi()):
        found = explorer.explore(disturbance, window)
        assert not found.findings, found.findings[0]
        assert (found.runs, found.note) == (len(window), "")


@pytest.mark.parametrize("options", (["--step", "int3"], ["--boost"], ["--optimize"], ["--step", "inline"]), ids=" ".join)
def test_every_way_of_execution(capsys, options):
    """The same by the command, for the other ways in which a probed instruction is executed."""
    code, out, _ = run(capsys, *options)
    assert code == 0 and len(re.findall(r"(?:irq:32|ipi:40|nmi)@0 .* 0 *$", out, re.MULTILINE)) == 3


def test_arming_and_disarming_in_every_cycle(guest):
    for make, disturbance in ((guest(n=8), arm("k_load")), (guest("k_load", n=4), disarm("k_load"))):
        found = explore(make, disturbance, range(100, 610))
        assert not found.findings, found.findings[0]
        assert found.runs == 510


def test_without_refetching_a_probe_is_missed(guest):
    """The hart goes on with what it has fetched: exploration has to find the cycles in which that is the probed instruction."""
    found = explore(guest(n=8, sync="none"), arm("k_load"), range(100, 610), most=None)
    assert 5 < len(found.findings) < 200
    for finding in found.findings:
        (problem,) = finding.problems
        ran = re.fullmatch(r"hart 0 ran kinds\+0x1 in cycle (\d+), and the probe there missed it", problem)
        assert ran and finding.cycle <= int(ran[1]) < finding.cycle + 30


WRONG = """
#include "guest.h"
volatile unsigned seen;
int main(void) {
    sti();
    for (int i = 0; i < 9; i++)
        seen = irq_count ? 5 + i : 3;
    putc('0' + seen);
    int3();
    if (irq_count)
        int3();
    return 0;
}
void trap_unhandled(struct pt_regs *regs, unsigned long vector) { (void)regs, (void)vector; }
"""


def test_a_program_that_depends_on_the_time(machine_on):
    """What differs is named: console, memory, and a trap that nobody handled."""
    elf = build_text(WRONG, name="wrong")
    found = explore(lambda: machine_on("compiled", elf, record=Recording.ALL), irq(), range(60, 64))
    assert [finding.cycle for finding in found.findings] == [60, 61, 62, 63]
    text = str(found.findings[0])
    assert "irq:32@0 in cycle 60: the console shows b'=' instead of b'3'" in text
    assert re.search(r"memory: seen \(0x1[0-9a-f]+\) is 0x0d instead of 0x03", text)
    assert re.search(r"hart 0: nobody handled int3 at main\+0x[0-9a-f]+$", text)


def test_lost_and_stray_interrupts(guest):
    """An event that brings one trap too many, and one that brings none."""
    twice = Disturbance(
        "twice", lambda m: (m.harts[0].nmi(), m.harts[0].irq(33)), (0, Vector.NMI), ("irq_count", "nmi_count")
    )
    none = Disturbance("none", lambda m: None, (0, Vector.NMI))
    for disturbance, problem in ((twice, "vector 33 1 times instead of 0"), (none, "NMI 0 times instead of 1")):
        (finding,) = explore(guest(), disturbance, range(180, 181)).findings
        assert [p.removeprefix("hart 0 took ") for p in finding.problems] == [problem]


def test_a_run_from_a_snapshot_is_the_run_from_reset(guest):
    make, disturbed = guest("k_call"), []
    explorer = Explorer(make)
    start = whole_hit(explorer).start
    spy = Disturbance("spy", lambda m: (m.harts[0].irq(32), disturbed.append(m)), (0, 32), ("irq_count",))
    assert not explorer.explore(spy, range(start, start + 140, 139)).findings  # the second begins at a newer snapshot
    again = make()
    again.watch = disturbed[1].watch
    again.run(start + 139)
    again.harts[0].irq(32)
    again.run()
    assert again.events.digest() == disturbed[1].events.digest()
    assert [e.vector for e in again.events.of(Trap)].count(32) == 1


def test_an_engine_without_snapshots_runs_from_reset(engine_pool):
    engine, elf = engine_pool.borrow("pysim"), build_program("disturbed", n=1)
    found = explore(lambda: Machine(elf, engine=engine, record=Recording.ALL), nmi(), range(150, 152))
    assert not found.findings and found.runs == 2
    assert "pysim cannot save its state: each run started at reset" in found.note


def test_windows_that_cannot_be(guest):
    for window in (range(50, 5000), range(4000, 5000)):
        with pytest.raises(ValueError, match="ends"):
            explore(guest(n=1), nmi(), window)
    with pytest.raises(ValueError, match="no probe there to remove"):
        explore(guest(n=1), disarm("k_push"), range(150, 151))


# --- the command ---


def run(capsys, *words):
    code = main(["explore", "--engine", "compiled", *words])
    return code, *capsys.readouterr()


def test_the_command_prints_how_to_repeat_a_finding(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elf = str(build_text(WRONG, name="wrong"))
    code, out, _ = run(capsys, elf, "--event", "irq:32", "--window", "60:70", "--most", "1")
    assert code == 1 and "FOUND irq:32@0 in cycle 60" in out
    repeat = re.search(r"repeat: \S+(?: -m sim)? explore (.*)", out)
    assert repeat
    code, out, err = run(capsys, *repeat[1].split())
    assert code == 1 and "FOUND irq:32@0 in cycle 60" in out
    assert "wave: out/explore/irq-32-0-60.vcd" in err and (tmp_path / "out/explore/irq-32-0-60.gtkw").exists()


def test_mistakes(capsys):
    for words, message in (
        (("--event", "storm"), "is no event"),
        (("--event", "irq:3"), "32 to 255"),
        (("--event", "ipi:40@1", "--window", "50:60"), "there is no such hart; the machine has 1"),
        (("--window", "9:9"), "is no window"),
        (("--wave", "x.vcd"), "say which with --only CYCLE"),
        (("--event", "nmi", "--around", "hit:0"), "there is no hit:0"),
        (("--event", "disarm:kinds", "--window", "50:60"), "no probe there to remove"),
        (("--event", "arm:kindz", "--window", "50:60"), "no symbol 'kindz'"),
    ):
        code, _, err = run(capsys, *words)
        assert code == 2 and message in err, (words, err)
