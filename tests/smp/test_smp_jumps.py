"""Jumps that come and go in every cycle of a window while two harts run through them (P18, P20, P22, P24)."""

import pytest

from kprobes import Kprobe, Options, Region
from sim.engine import Recording
from sim.explore import Disturbance, arm, disarm, explore
from sim.guestbuild import build_program
from sim.guestport import GuestPort
from sim.machine import Machine

#: Both harts are in their loops, which takes 14 cycles a turn without a probe and 60 with a jump.
WINDOW = (640, 1160)
STEPS = [13, pytest.param(1, marks=pytest.mark.every_cycle)]
DELAY = 40


@pytest.fixture
def two_harts(engine_pool):
    """Makes the factory of machines on two harts: with a jump in place, with one that is queued, or without a probe."""

    def factory(probed=False, written=False, delay=DELAY):
        elf = build_program("harts", n=60)
        engine = engine_pool.borrow("compiled", harts=2)

        def make():
            machine = Machine(
                elf, engine=engine, record=Recording.ALL, probes=Options(optimize=True, optimize_delay=delay))
            if probed:
                machine.kprobes.register_kprobe(Kprobe(symbol_name="work"))
            if written:
                machine.kprobes.wait_for_optimizer()
                assert machine.mem.read(machine.symbols.lookup("work"), 1) == b"\xe9"
            return machine

        return make

    return factory


def switch(on):
    """The optimization switch is turned."""

    def apply(machine):
        machine.kprobes.optimization = on

    return Disturbance(f"optimization:{on}", apply)


def post_handler():
    """A probe with a post_handler joins, so that the jump has to go at once."""
    return Kprobe(symbol_name="work", post_handler=lambda p, regs, flags: None)


def at_once():
    """The worker does what is queued, whatever the harts are at."""
    return Disturbance("worker", lambda machine: machine.kprobes.wait_for_optimizer())


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("disturbance", "written"), [
    (arm("work"), None), (disarm("work"), True), (switch(False), True), (arm("work", make=post_handler), True),
], ids=["comes", "goes", "switched-off", "post-handler"])
def test_P20_P22_P24_no_execution_is_lost(two_harts, disturbance, written, step):
    found = explore(two_harts(written is not None, bool(written)), disturbance, range(*WINDOW, step))
    assert not found.findings, found.findings[0]
    assert found.runs == len(range(*WINDOW, step))


@pytest.mark.parametrize("step", STEPS)
def test_P18_the_worker_comes_at_any_moment(two_harts, step):
    """The region has two instructions: a hart on the second, or in a trap that leads there, is waited for."""
    make = two_harts()

    def queued():
        machine = make()
        machine.kprobes.optimization = False
        machine.kprobes.register_kprobe(Kprobe(symbol_name="work"))
        return machine

    def now(machine):
        machine.kprobes.optimization = True
        machine.kprobes.wait_for_optimizer()

    found = explore(queued, Disturbance("queued and written", now), range(*WINDOW, step))
    assert not found.findings, found.findings[0]


def test_the_region_has_more_than_one_instruction(two_harts):
    machine = two_harts(True, True)()
    p, = machine.kprobes.registered
    region = machine.kprobes.region_of(p)
    assert isinstance(region, Region) and len(region.insns) > 1


@pytest.mark.parametrize("cycles", [1, 2, 5, 9, 17, 33])
def test_P24_P25_harts_run_between_the_steps_of_writing_and_removing(two_harts, monkeypatch, cycles):
    """Nothing is torn, and nobody passes unseen: old with a breakpoint, the breakpoint as a jump, the jump, and back."""
    plain = two_harts()()
    wanted = plain.run().console
    calls = 2 * 60
    passed = set()
    for start in (700, 713, 727):
        machine = two_harts(True, delay=1 << 40)()
        (p,), work = machine.kprobes.registered, machine.symbols.lookup("work")
        machine.run(start)
        sync = GuestPort.sync_cores

        def between(port, machine=machine, sync=sync, work=work):
            sync(port)
            passed.add(bytes([machine.mem.read(work, 1)[0]]))
            machine.run(cycles)

        with monkeypatch.context() as patched:
            patched.setattr(GuestPort, "sync_cores", between)
            while machine.mem.read(work, 1) != b"\xe9":
                machine.run(3)
                machine.kprobes.wait_for_optimizer()
            machine.run(100)
            machine.kprobes.optimization = False
            assert machine.mem.read(work, 1) == b"\xcc"
        assert machine.run().console == wanted and p.hits == calls
    assert passed == {b"\xcc", b"\xe9"}
