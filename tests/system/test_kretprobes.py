"""Kretprobes on the hardware: pools by arithmetic, every function hooked, and interrupts at each place of the trampoline."""

import pytest

from hw.isa.reference import split
from kprobes import Kprobe, KprobeFlag, Kretprobe, Miss, Options
from sim.engine import Recording, StopReason
from sim.events import ProbePhase, Trap
from sim.explore import Explorer, irq, nmi
from sim.guestbuild import build_program, build_text
from sim.machine import Machine
from tests.system.everything import GUESTS, final_state, image_of

RECURSION = r"""
#include "guest.h"

volatile long depth = 1, times = 1;

noinline long triangle(long n)
{
	volatile long here = n;

	return n ? here + triangle(n - 1) : 0;
}

int main(void)
{
	for (long i = 0; i < times; i++)
		if (triangle(depth - 1) != depth * (depth - 1) / 2)
			return 1;
	return 0;
}
"""

TRACED = r"""
#include "guest.h"

noinline long third(long n) { return n + 1; }
noinline long second(long n) { return third(n) + 1; }
noinline long first(long n) { return second(n) + 1; }
int main(void) { return first(0) != 3; }
"""

COROUTINES = r"""
#include "guest.h"

static unsigned long stack[512], main_sp, worker_sp;

/* Saves the registers that a call keeps, and goes on where `to` stopped. */
__asm__(
".globl give_way\n.type give_way, @function\n"
"give_way:\n"
"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
"	mov %rsp, (%rdi)\n	mov (%rsi), %rsp\n	xor %eax, %eax\n"
"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n	ret\n"
".size give_way, .-give_way\n");
void give_way(unsigned long *from, unsigned long *to);

noinline long producer(void) { give_way(&worker_sp, &main_sp); return 1000; }
noinline long consumer(void) { give_way(&main_sp, &worker_sp); return 2000; }

void run_worker(void)
{
	for (;;)
		producer();
}

int main(void)
{
	long sum = 0;

	stack[504] = (unsigned long)run_worker;
	worker_sp = (unsigned long)&stack[504 - 6];
	for (int i = 0; i < 3; i++)
		sum += consumer();
	give_way(&main_sp, &worker_sp);
	return sum == 6000 ? 0 : 1;
}
"""

INTERRUPTED = r"""
#include "guest.h"

volatile unsigned long nmis;

static void nmi(struct pt_regs *regs, unsigned long vector) { nmis++; (void)regs; (void)vector; }

/* Changes all registers, returns with interrupts on, and then they are all looked at. */
__asm__(
".globl scramble\n.type scramble, @function\n"
"scramble:\n"
"	mov $1, %eax\n	mov $2, %ebx\n	mov $3, %ecx\n	mov $4, %edx\n	mov $5, %esi\n	mov $6, %edi\n	mov $7, %ebp\n"
"	mov $8, %r8\n	mov $9, %r9\n	mov $10, %r10\n	mov $11, %r11\n	mov $12, %r12\n	mov $13, %r13\n	mov $14, %r14\n"
"	mov $15, %r15\n	sti\n	cmp $5, %eax\n	ret\n"
".size scramble, .-scramble\n"
".globl digest\n.type digest, @function\n"
"digest:\n"
"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n	mov %rsp, saved_sp\n"
"	call scramble\n"
"back:\n"
"	pushf\n	cli\n"
"	push %r15\n	push %r14\n	push %r13\n	push %r12\n	push %r11\n	push %r10\n	push %r9\n	push %r8\n"
"	push %rbp\n	push %rdi\n	push %rsi\n	push %rdx\n	push %rcx\n	push %rbx\n	push %rax\n"
"	mov %rsp, %rsi\n	lea found, %rdi\n	mov $16, %ecx\n	rep movsq\n"
"	add $128, %rsp\n	mov %rsp, %rax\n	sub saved_sp, %rax\n"
"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n	ret\n"
".size digest, .-digest\n"
".lcomm saved_sp, 8\n");
unsigned long found[16];
unsigned long digest(void);

int main(void)
{
	set_trap_handler(2, nmi);
	if (digest())
		return 1;
	for (int i = 0; i < 15; i++)
		if (found[i] != i + 1u)
			return 2;
	if ((found[15] & 0xfd5) != 0x295) /* 1 - 5: carry, parity, adjust, sign; and interrupts on */
		return 3;
	return nmis + irq_count == 1 ? 0 : 4;
}
"""


def hook(machine, name, log=None, **more):
    rp = Kretprobe(lambda ri, regs: log.append(regs.ax) if log is not None else None, symbol_name=name, **more)
    machine.kprobes.register_kretprobe(rp)
    return rp


@pytest.mark.parametrize("depth", [1, 2, 5, 9])
@pytest.mark.parametrize("maxactive", [0, 1, 2, 3, 8])
def test_K07_recursion_misses_depth_minus_maxactive(machine, depth, maxactive):
    times = 2
    m = machine(build_text(RECURSION, name="triangle"))
    for name, value in (("depth", depth), ("times", times)):
        m.mem.write(m.symbols.lookup(name), value.to_bytes(8, "little"))
    log = []
    rp = hook(m, "triangle", log, maxactive=maxactive)
    result = m.run()
    assert (result.reason, result.exit) == (StopReason.EXIT, 1), result
    missed = max(0, depth - (maxactive or 10))
    assert rp.nmissed == rp.kp.misses[Miss.MAXACTIVE] == times * missed
    assert log == times * [n * (n + 1) // 2 for n in range(missed, depth)]
    assert (rp.kp.hits, rp.kp.nmissed, m.kprobes.in_flight(rp)) == (times * depth, 0, 0)


@pytest.mark.parametrize("depth, maxactive", [(1, 1), (5, 3), (9, 0), (13, 0)])
def test_K24_recursion_through_an_optimised_entry(machine, depth, maxactive):
    """As K07, and no trap at all."""
    m = machine(build_text(RECURSION, name="triangle"), probes=Options(optimize=True))
    m.mem.write(m.symbols.lookup("depth"), depth.to_bytes(8, "little"))
    log = []
    rp = hook(m, "triangle", log, maxactive=maxactive)
    m.kprobes.wait_for_optimizer()
    assert rp.kp.flags & KprobeFlag.OPTIMIZED and m.mem.read(m.symbols.lookup("triangle"), 1) == b"\xe9"
    result = m.run()
    assert (result.reason, result.exit) == (StopReason.EXIT, 1), result
    missed = max(0, depth - (maxactive or 10))
    assert (rp.nmissed, rp.kp.hits) == (missed, depth)
    assert log == [n * (n + 1) // 2 for n in range(missed, depth)]
    assert not list(m.events.of(Trap))


def test_K20_back_trace_through_hooked_functions(machine):
    """With frame pointers, from the entry and from the return, with both callers hooked."""
    m = machine(build_text(TRACED, name="traced", opt="-O0"))
    traces = []
    for name in ("first", "second", "third"):
        rp = Kretprobe(lambda ri, regs, name=name: traces.append((name, m.kprobes.stack_trace(regs))), symbol_name=name)
        m.kprobes.register_kretprobe(rp)
    m.kprobes.register_kprobe(Kprobe(
        symbol_name="third", pre_handler=lambda p, regs: traces.append(("entry", m.kprobes.stack_trace(regs)))))
    assert m.run().exit == 1
    named = [(name, [m.kprobes.describe(addr).split("+")[0] for addr in trace]) for name, trace in traces]
    up = ["second", "first", "main", "_start"]
    assert named == [("entry", ["third", *up]), ("third", up), ("second", up[1:]), ("first", up[2:])]


def test_K13_two_stacks(machine):
    """Coroutines on stacks of their own, each inside a hooked function when it gives way to the other."""
    m = machine(build_text(COROUTINES, name="coroutines"))
    log = []
    probes = [hook(m, name, log) for name in ("producer", "consumer", "give_way", "run_worker")]
    result = m.run()
    assert (result.reason, result.exit) == (StopReason.EXIT, 1), result
    assert [rp.kp.hits - rp.nmissed for rp in probes[:2]] == [4, 3] and not any(rp.nmissed for rp in probes)
    assert log.count(1000) == 3 and log.count(2000) == 3
    assert not any(rp.kp.misses.total() for rp in probes), "each stack has its own order"
    assert [m.kprobes.in_flight(rp) for rp in probes[:2]] == [1, 0]
    worker = m.symbols.lookup("stack")
    assert m.kprobes.flush_task(worker, worker + 4096) == 3  # run_worker, producer, give_way
    assert not m.kprobes.in_flight(probes[0])


def trampoline(m):
    """Return the addresses of its instructions, up to the ret."""
    places = [m.kprobes.kretprobe_trampoline]
    while (code := m.mem.read(places[-1], 15))[0] != 0xC3:
        places.append(places[-1] + split(code).length)
    return places


@pytest.mark.parametrize("kind", ["irq", "nmi"])
def test_K21_K22_interrupted_at_each_instruction_of_the_trampoline(machine, engine_name, kind):
    """All registers, flags, IF and the stack are what the function left, and the handler ran."""
    image = build_text(INTERRUPTED, name="interrupted")
    number, count = 0, 1
    while number < count:
        m = machine(image)
        log = []
        hook(m, "scramble", log)
        m.run(until="scramble")
        places = trampoline(m)
        count = len(places)
        at = places[number]
        number += 1 if engine_name != "pysim" else 20
        assert m.run(until=at).reason is StopReason.REACHED
        if kind == "nmi":
            m.harts[0].nmi()
        else:
            m.harts[0].irq(0x21)
            m.run(until="irq_handler")
            m.harts[0].irq(None)
        result = m.run()
        assert (result.reason, result.exit, log) == (StopReason.EXIT, 1, [1]), (hex(at), result)


@pytest.mark.parametrize("name", [name for name in GUESTS if name != "forms"])  # which looks at its return addresses
def test_K12_every_function_hooked(engine_name, name):
    """Console, registers and memory as without, and a return for each entry."""
    if engine_name == "pysim" and name != "demo":
        pytest.skip("thousands of hits: on the compiled engine only")
    image = image_of(name)
    states = []
    for hooked in (False, True):
        with Machine(image, engine=engine_name) as m:
            low, high = (m.symbols.lookup(f"__entry_text_{edge}") for edge in ("start", "end"))
            names = [s.name for s in m.symbols.symbols() if s.size and m.symbols.is_text(s.start) and not low <= s.start < high]
            log = []
            probes = [hook(m, function, log, maxactive=100) for function in names if hooked]
            result = m.run(3_000_000)
            assert result.reason is StopReason.EXIT
            assert len(log) == sum(rp.kp.hits - rp.nmissed - m.kprobes.in_flight(rp) for rp in probes)
            assert not hooked or (len(names) > 3 and len(log) > 3 and not any(rp.kp.nmissed for rp in probes))
            m.kprobes.unregister_kretprobes(probes)
            states.append(final_state(m, result))
    assert states[0] == states[1]


#: Each how many cycles of a window something comes: all of them takes its time.
STEPS = [7, pytest.param(1, marks=pytest.mark.every_cycle)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("options", [Options(), Options(step="int3", boost=True)], ids=["tf", "int3-boost"])
def test_K21_interrupt_and_nmi_in_every_cycle_from_entry_to_return(machine_on, options, step):
    """Two hooked functions, one inside the other: nothing but time may change, and all returns are seen."""
    def make():
        m = machine_on("compiled", build_program("disturbed", n=2), record=Recording.ALL, probes=options)
        log = []
        m.keep(log)
        for name in ("kinds", "k_leaf"):
            hook(m, name, log)
        return m

    explorer = Explorer(make)
    phases = [e for e in explorer.undisturbed().events if isinstance(e, ProbePhase) and e.phase in ("hit", "return")]
    assert [e.phase for e in phases] == ["hit", "hit", "return", "return"] * 2
    window = range(phases[0].cycle - 60, phases[3].cycle + 40, step)
    for disturbance in (irq(), nmi()):
        found = explorer.explore(disturbance, window)
        assert not found.findings, found.findings[0]
        assert found.runs == len(window)


@pytest.mark.parametrize("step", STEPS)
def test_K24_interrupt_and_nmi_in_every_cycle_from_an_optimised_entry_to_the_return(machine_on, step):
    """The detour's code and the trampoline's may be interrupted anywhere."""
    with machine_on("compiled", build_program("disturbed", n=2), probes=Options(optimize=True)) as m:
        log = []
        m.keep(log)
        for name in ("kinds", "k_leaf"):
            hook(m, name, log)
        m.kprobes.wait_for_optimizer()
        m.run(until="kinds")
        base = m.snapshot()
        wanted, returns = m.run(), list(log)
        phases = [e for e in m.events.of(ProbePhase) if e.phase in ("detour", "return")]
        assert [e.phase for e in phases] == ["detour", "detour", "return", "return"] * 2 and len(returns) == 4
        window = range(phases[0].cycle - 40, phases[3].cycle + 60, step)
        for disturbance in (irq(), nmi()):
            for cycle in window:
                m.restore(base)
                m.run(cycle - m.cycle)
                disturbance.apply(m)
                got = m.run()
                assert (got.reason, got.exit, got.console, log) == (wanted.reason, wanted.exit, wanted.console, returns), cycle
                assert m.mem.read(m.symbols.lookup("nmi_count" if disturbance.name[:3] == "nmi" else "irq_count"), 1) == b"\1"


@pytest.mark.parametrize("options", [Options(), Options(optimize=True, optimize_delay=1)], ids=repr)
def test_K06_K13_two_harts_in_one_hooked_function(machine_on, options):
    with machine_on("compiled", build_program("harts", n=40), harts=2) as m:
        plain = m.run()
    with machine_on("compiled", build_program("harts", n=40), harts=2, probes=options) as m:
        calls = []
        rp = Kretprobe(
            lambda ri, regs: calls.append((ri.user, regs.return_value & 0xFFFFFFFF)), symbol_name="work",
            entry_handler=lambda ri, regs: setattr(ri, "user", (regs.di & 0xFFFFFFFF, regs.si & 0xFFFFFFFF)))
        body = hook(m, "body", [])
        m.kprobes.register_kretprobe(rp)
        result = m.run()
        assert (result.console, result.exit) == (plain.console, plain.exit)
        assert len(calls) == rp.kp.hits == 80 and rp.nmissed == 0 and body.kp.hits == 2 and rp.maxactive == 10
        assert all(result == (x << 5 | x >> 27) & 0xFFFFFFFF ^ y for (x, y), result in calls)
        assert not m.kprobes.in_flight(rp) and not m.kprobes.in_flight(body)


def test_a_snapshot_inside_hooked_calls(machine_on):
    """Pools, calls under way and counters come back with it."""
    with machine_on("compiled", build_text(RECURSION, name="triangle")) as m:
        m.mem.write(m.symbols.lookup("depth"), (6).to_bytes(8, "little"))
        log = []
        rp = hook(m, "triangle", log, maxactive=4)
        m.keep(log)
        ends = set()
        m.run(until="triangle")
        for _ in range(12):
            m.run(97)
            snapshot, under_way = m.snapshot(), m.kprobes.in_flight(rp)
            for _ in range(2):
                assert m.run().exit == 1
                ends.add((m.cycle, m.events.digest(), rp.nmissed, rp.kp.hits, tuple(log)))
                m.restore(snapshot)
                assert m.kprobes.in_flight(rp) == under_way
        assert len(ends) == 1 and ends.pop()[2:] == (2, 6, (3, 6, 10, 15))
