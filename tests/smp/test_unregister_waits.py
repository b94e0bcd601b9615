"""Removing a probe lets the harts run until none is inside it (H14, P20): in each cycle of a hit, in each way of executing it."""

import errno

import pytest

from kprobes import HandlerError, Jprobe, Kprobe, KprobeError, KprobeFlag, Options
from sim.coresync import PATIENCE as SYNC_PATIENCE
from sim.engine import Recording
from sim.events import Console, ProbePhase
from sim.guestbuild import RUNTIME_DIR, SMP, build_program, build_text
from sim.guestport import PATIENCE
from sim.machine import Machine

CALLS, OUTPUT = 10, b"patched: af0a1e82\n"

#: More cycles than a hit takes, from before its trap on.
HIT = 240
STEPS = [5, pytest.param(1, marks=pytest.mark.every_cycle)]
QUEUED = Options(optimize=True, optimize_delay=1 << 40)
WAYS = {
    "tf": Options(), "int3": Options(step="int3"), "boosted": Options(boost=True), "inline": Options(step="inline"),
    "queued": QUEUED, "optimised": QUEUED,
}


def planted(m, place="w_add", **fields):
    p = Kprobe(symbol_name=place, **{"pre_handler": lambda p, regs: 0} | fields)
    m.kprobes.register_kprobe(p)
    return p


def hits(m, hart):
    return [event.cycle for event in m.events.of(ProbePhase, hart) if event.phase == "hit"]


def pages(m):
    """What the runtime has for copies and detours."""
    return [int(line.split()[0], 16) for line in m.kprobes.files.kallsyms().splitlines()]


def nobody_is_inside(m):
    """No hart is in a slot or a detour, or inside a hit, and all slots are free."""
    for hart in m.harts:
        assert not m.kprobes.is_kprobe_insn_slot(hart.regs.rip) and not m.kprobes.is_kprobe_optinsn_slot(hart.regs.rip)
        assert m.kprobes.kprobe_running(hart.number) is None
    assert not any(any(m.mem.read(page, 4096)) for page in pages(m)), "they are all free"


def finished(m):
    assert m.run().exit == 1
    assert bytes(event.byte for event in m.events.of(Console)) == OUTPUT


def inside(m, hart=1, number=2):
    """Run a hart into a slot."""
    while len(hits(m, hart)) <= number or not m.kprobes.is_kprobe_insn_slot(m.harts[hart].regs.rip):
        m.run(1)


@pytest.fixture
def patched(engine_pool):
    """Makes machines with two harts on the compiled engine, which can save its state."""
    return lambda options=WAYS["tf"], **more: Machine(
        build_program("patched", n=CALLS), engine=engine_pool.borrow("compiled", harts=2), probes=options, **more)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", WAYS)
def test_H14_P20_in_each_cycle_of_a_hit(patched, way, step):
    """When the request has returned the probe is out of the text and everything is free, and the guest goes on as ever; a jump
    stays for its delay (P20), and `wait_for_optimizer` waits for those that are behind it."""
    m = patched(WAYS[way])
    code = m.mem.read(m.symbols.lookup("w_add"), 5)
    p = planted(m)
    m.run(600)
    while way == "optimised" and m.mem.read(p.addr, 1) != b"\xe9":
        m.run(20)
        m.kprobes.wait_for_optimizer()
    while len(hits(m, 1)) < 2:
        m.run(1)
    base, waited = m.snapshot(), 0
    for cycle in range(0, HIT, step):
        m.restore(base)
        m.run(cycle)
        began = m.cycle
        m.kprobes.unregister_kprobe(p)
        last = hits(m, 0) + hits(m, 1)
        if way == "optimised":
            assert m.cycle == began and m.mem.read(p.addr, 1) == b"\xe9"
            m.kprobes.wait_for_optimizer()
        nobody_is_inside(m)
        assert m.mem.read(p.addr, 5) == code
        waited += m.cycle - began > 70
        finished(m)
        assert hits(m, 0) + hits(m, 1) == last, "no handler runs after the request"
    assert waited or way == "optimised"


def test_no_cycle_runs_for_harts_that_are_elsewhere(patched):
    """Two serialisations of the harts, one for the byte and one for nothing else."""
    m = patched(sync="refetch")
    p = planted(m)
    m.run(300)
    assert not p.hits
    began = m.cycle
    m.kprobes.unregister_kprobe(p)
    assert m.cycle - began < 40
    began = m.cycle
    p = planted(m, flags=KprobeFlag.DISABLED)
    m.kprobes.unregister_kprobe(p)
    assert m.cycle == began


def test_R36_several_are_waited_for_once(patched):
    """Both harts are in a slot; none is in the slot of the third."""
    m = patched()
    probes = [planted(m), planted(m, "work"), planted(m, "main")]
    while not all(m.kprobes.is_kprobe_insn_slot(hart.regs.rip) for hart in m.harts):
        m.run(1)
    m.kprobes.unregister_kprobes(probes)
    nobody_is_inside(m)
    finished(m)


def test_the_same_on_every_engine(machine_on):
    digests = []
    for engine in ("compiled", "pysim"):
        with machine_on(engine, build_program("patched", n=CALLS), harts=2) as m:
            m.run(640)
            p = planted(m)
            inside(m, number=0)
            m.kprobes.unregister_kprobe(p)
            nobody_is_inside(m)
            m.run(40)
            digests.append((m.cycle, m.events.digest()))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("record", (Recording.TRAPS, Recording.OFF))
def test_without_serialising_nobody_is_waited_for(patched, record):
    """Nor on a machine that does not record its traps. What the hart is in stays until it has left."""
    m = patched(sync="none" if record else None, record=record)
    p = planted(m)
    slot = m.kprobes.slot_of(p)
    m.run(650)
    while not slot <= m.harts[1].regs.rip < slot + 15:
        m.run(1)
    m.kprobes.unregister_kprobe(p)
    if record:
        assert slot <= m.harts[1].regs.rip < slot + 15 and any(m.mem.read(slot, 15))
    finished(m)
    m.kprobes.wait_for_optimizer()
    nobody_is_inside(m)


def test_a_handler_that_raises_meanwhile(patched):
    """The error comes out of the next run; the probe is gone all the same."""
    m, trouble = patched(), []
    p = planted(m)

    def raises(p, regs):
        if trouble:
            raise ValueError(trouble.pop())

    planted(m, None, addr=p.addr + 5, pre_handler=raises)
    for _ in range(20):
        inside(m)
        trouble.append("no")
        m.kprobes.unregister_kprobe(p)
        if not trouble:
            break
        trouble.clear()
        p = planted(m)
    assert p not in m.kprobes.registered and not trouble
    with pytest.raises(HandlerError):
        m.run()
    finished(m)


def test_refused_inside_a_handler(patched):
    m, refused = patched(), []

    def remove(p, regs):
        try:
            m.kprobes.unregister_kprobe(p)
        except KprobeError as error:
            refused.append(error.errno)

    planted(m, pre_handler=remove)
    finished(m)
    assert len(refused) == 2 * CALLS and set(refused) == {errno.EDEADLK}


def guest(body):
    """A guest whose hart 1 runs `body`, and hart 0 for ever."""
    text = '#include "smp.h"\nnoinline void target(void) { __asm__ volatile("nop; nop"); }\n' \
        f"volatile unsigned turns; void handler(void) {{ {body} }}\n" \
        "static void body(unsigned hart) { (void)hart; target(); }\n" \
        "int main(void) { start_harts(2, body); for (;;) turns++; return 0; }"
    return build_text(text, name="unregister", beside=[RUNTIME_DIR / name for name in SMP])


@pytest.mark.parametrize("body", (
    "for (;;) turns++;", '__asm__ volatile("cli; 1: hlt; jmp 1b");',
    'static struct __attribute__((packed)) { uint16_t l; uint64_t b; } none; __asm__ volatile("lidt %0; ud2" : : "m"(none));',
), ids=("runs", "sleeps", "dead"))
def test_J13_a_hart_that_does_not_come_back(engine_pool, body):
    """It is inside a jprobe's handler for good: it is given up after a while, and its slot stays."""
    m = Machine(guest(body), engine=engine_pool.borrow("compiled", harts=2))
    jp = Jprobe(m.symbols.lookup("handler"), symbol_name="target")
    m.kprobes.register_jprobe(jp)
    slot = m.kprobes.slot_of(jp)
    m.run(3000)
    assert m.kprobes.kprobe_running(1) is jp.kp
    began = m.cycle
    m.kprobes.unregister_jprobe(jp)
    assert PATIENCE <= m.cycle - began < PATIENCE + 2 * SYNC_PATIENCE
    assert any(m.mem.read(slot, 15)) and m.kprobes.registered == ()
    began = m.cycle
    q = planted(m, "main")
    m.kprobes.unregister_kprobe(q)
    assert m.cycle - began < 2 * SYNC_PATIENCE + 500, "nobody is inside this one"


def test_on_one_hart_too(engine_pool):
    m = Machine(build_program("disturbed", n=4), engine=engine_pool.borrow("compiled"))
    p = planted(m, "kinds")
    wanted = None
    base = m.snapshot()
    for left in (False, True):
        m.restore(base)
        m.run(until=m.kprobes.slot_of(p))
        if left:
            m.kprobes.unregister_kprobe(p)
            nobody_is_inside(m)
        result = m.run()
        assert result.exit == 1 and wanted in (None, result.console)
        wanted = result.console
