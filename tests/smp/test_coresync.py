"""How harts serialise when the runtime changes code: by interrupts, and where those do not reach."""

import pytest

from kprobes import HandlerError, Kprobe
from sim.coresync import PATIENCE
from sim.engine import Recording, StopReason
from sim.events import Synced, Trap
from sim.guestbuild import RUNTIME_DIR, SMP, build_program, build_text
from sim.machine import Machine

#: Both harts of the guest `patched` are in their loops from here on; it ends in cycle 1828.
LOOPS = 810


@pytest.fixture
def patched(machine):
    return machine(build_program("patched", n=10), harts=2)


def guest(body, main="start_harts(2, body); for (;;) work(0);"):
    """A guest whose hart 1 runs `body`."""
    text = f'#include "smp.h"\nnoinline void work(int x) {{ __asm__ volatile("nop" : : "r"(x)); }}\n' \
        f"static void body(unsigned hart) {{ (void)hart; {body} }}\nint main(void) {{ {main} return 0; }}"
    return build_text(text, name="coresync", beside=[RUNTIME_DIR / name for name in SMP])


@pytest.fixture
def deaf(machine, engine_name):
    """A machine whose hart 1 runs with interrupts off, for more than a request waits; hart 0 sleeps."""
    if engine_name == "pysim":
        pytest.skip("20,000 cycles of two harts; the compiled engine runs them")
    body = "cli(); for (int i = 0; i < 30000; i++) work(i); sti(); for (;;) work(0);"
    m = machine(guest(body, "start_harts(2, body); for (;;) hlt();"), harts=2)
    m.run(2000)
    return m


def how(m):
    return [(event.hart, event.how) for event in m.events.of(Synced)]


def planted(m, **fields):
    p = Kprobe(symbol_name="work", **fields)
    m.kprobes.register_kprobe(p)
    return p


def test_the_request_returns_when_all_have_answered(patched):
    patched.run(LOOPS)
    p = planted(patched)
    took = [event for event in patched.events.of(Trap) if event.vector == 0xFB]
    assert sorted(event.hart for event in took) == [0, 1] and sorted(how(patched)) == [(0, "interrupt"), (1, "interrupt")]
    assert LOOPS + 20 < patched.cycle < LOOPS + 60
    assert patched.run().exit == 1 and p.hits > 5


def test_the_same_on_every_engine(machine_on):
    """Requests take guest time; it is the same, to the cycle."""
    digests = []
    for engine in ("compiled", "pysim"):
        with machine_on(engine, build_program("patched", n=10), harts=2, record=Recording.TRAPS) as m:
            m.run(LOOPS)
            p = planted(m, pre_handler=lambda p, regs: 0)
            m.run(100)
            m.kprobes.unregister_kprobe(p)
            digests.append((m.cycle, m.events.digest()))
    assert digests[0] == digests[1]


def test_harts_that_have_not_started_are_left_alone(patched):
    patched.run(20)
    planted(patched)
    assert not how(patched) and patched.cycle < 40 and patched.harts[1].state.halted
    assert patched.run().exit == 1


def test_a_sleeping_hart_wakes_and_answers(machine):
    with machine(guest("for (;;) hlt();"), harts=2) as m:
        m.run(1500)
        assert m.harts[1].state.halted
        planted(m)
        assert sorted(how(m)) == [(0, "interrupt"), (1, "interrupt")]
        m.run(100)
        assert m.harts[1].state.halted


def test_a_hart_asleep_for_good_is_not_waited_for(machine):
    """With interrupts off it runs no code, and fetches anew."""
    with machine(guest("cli(); for (;;) hlt();"), harts=2) as m:
        m.run(1500)
        assert m.harts[1].state.halted
        planted(m)
        assert how(m) == [(0, "interrupt")]


def test_a_dead_hart_is_not_waited_for(machine):
    down = 'static struct __attribute__((packed)) { uint16_t l; uint64_t b; } none; __asm__ volatile("lidt %0; ud2" : : "m"(none));'
    with machine(guest(down), harts=2) as m:
        assert m.run(3000).reason == StopReason.SHUTDOWN
        planted(m)
        assert how(m) == [(0, "interrupt")]


def test_a_hart_that_dies_meanwhile(machine):
    """It is asked, and shuts down before it takes the interrupt."""
    down = 'static struct __attribute__((packed)) { uint16_t l; uint64_t b; } none;' \
        'cli(); for (int i = 0; i < 2000; i++) __asm__ volatile("nop"); __asm__ volatile("lidt %0; ud2" : : "m"(none));'
    with machine(guest(down), harts=2) as m:
        assert m.run(2000).reason == StopReason.MAX_CYCLES
        p = planted(m)
        assert sorted(how(m)) == [(0, "interrupt"), (1, "debug port")] and m.harts[1].state.shutdown
        assert m.run(1000).reason == StopReason.SHUTDOWN and m.kprobes.registered == (p,)


def test_a_hart_with_interrupts_off(deaf):
    """It is given up after a while; the next request does not ask it again, until its interrupts are on."""
    with deaf as m:
        p = planted(m, pre_handler=lambda p, regs: 0)
        assert PATIENCE <= m.cycle - 2000 < PATIENCE + 1000 and p.hits > 50, "the breakpoint is hit while the others wait"
        assert sorted(how(m)) == [(0, "interrupt"), (1, "debug port")]
        began = m.cycle
        m.kprobes.unregister_kprobe(p)
        assert m.cycle - began < 500
        while not m.harts[1].regs.rflags >> 9 & 1:
            m.run(10_000)
        m.events.clear()
        planted(m)
        assert sorted(how(m)) == [(0, "interrupt"), (1, "interrupt")]


def test_a_late_answer_is_not_taken_for_a_new_one(deaf):
    """A hart that was given up is in the handler, has serialised, and has not said so, when the next request comes."""
    with deaf as m:
        p = planted(m)
        assert sorted(how(m)) == [(0, "interrupt"), (1, "debug port")]
        m.run(until=m.symbols.lookup("sync_core_entry") + 3)
        hart = m.harts[1]
        assert m.symbols.describe(hart.regs.rip) == "sync_core_entry+0x3" and not hart.state.trap_request
        m.events.clear()
        m.kprobes.disable_kprobe(p)
        assert how(m) == [(0, "interrupt")], "hart 1 has fetched anew"
        m.run(100)
        m.kprobes.enable_kprobe(p)
        assert sorted(how(m))[1:] == [(0, "interrupt"), (1, "interrupt")], "its answer has come, and it is asked again"


def test_an_interrupt_of_the_user_is_not_lost(patched):
    """What comes on the line from outside passes before the controller's own."""
    patched.run(LOOPS)
    for hart in patched.harts:
        hart.irq(33)
    planted(patched)
    took = [(event.hart, event.vector) for event in patched.events.of(Trap) if event.vector in (33, 0xFB)]
    assert took.index((0, 33)) < took.index((0, 0xFB)) and took.index((1, 33)) < took.index((1, 0xFB)) and len(took) == 4


def test_a_handler_may_request_an_interrupt_meanwhile(patched):
    patched.run(LOOPS)
    planted(patched, pre_handler=lambda p, regs: patched.harts[patched.kprobes.cpu].irq(34))
    patched.run()
    assert {(event.hart, event.vector) for event in patched.events.of(Trap) if event.vector == 34} == {(0, 34), (1, 34)}


def test_what_a_handler_raises_comes_out_of_the_next_run(machine):
    """The request is done: raising it there would leave a probe half planted."""
    with machine(guest("cli(); work(1); work(2); sti(); for (;;) hlt();"), harts=2) as m:
        m.run(until="work")

        def broken(p, regs):
            raise ZeroDivisionError("broken")

        p = planted(m, pre_handler=broken)
        assert p.addr == m.symbols.lookup("work") and m.kprobes.registered == (p,)
        with pytest.raises(HandlerError, match="broken"):
            m.run(5000)


def test_the_end_of_the_guest_while_a_request_is_under_way(patched):
    """The request is answered, and the next run says that it is over."""
    end = patched.run().cycles
    for before in range(0, 40, 8):
        with Machine(build_program("patched", n=10), engine=patched.engine) as m:
            m.run(end - before)
            planted(m)
            assert m.run(1000).reason in (StopReason.EXIT, StopReason.HALTED)


def test_no_such_way(machine):
    with pytest.raises(ValueError, match="sync is 'magic'; it must be one of 'ipi', 'refetch', 'none'"):
        machine(None, harts=2, sync="magic")
