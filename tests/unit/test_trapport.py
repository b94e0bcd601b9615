"""Guest functions that a handler calls, on the hardware: `regs.call` down to the TrapPort, from a trap and from a door."""

import pytest

from kprobes import Door, HandlerError, Kprobe
from kprobes.errors import GuestCallError
from sim.engine import Recording, StopOn, StopReason
from sim.events import GuestCall, Iret, TrapPortCall
from sim.guestbuild import build_text

SOURCE = """
#include "guest.h"
volatile unsigned long seen, ticks;
noinline long add6(long a, long b, long c, long d, long e, long f)
{
	seen++;
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f;
}
noinline long inner(long x) { return x + 1; }
noinline long outer(long x) { return 2 * inner(x); }
noinline void forever(void) { for (;;) ticks++; }
noinline void sleeps(void) { hlt(); }
noinline void ends(void) { exit(9); }
noinline long reads(long *p) { return *p; }
noinline long flags(void)
{
	unsigned long value;
	__asm__ volatile("pushf; pop %0" : "=r"(value));
	return value;
}
noinline long work(long a, long b) { return a * 3 + b; }
int main(void)
{
	long sum = 0;
	for (int i = 0; i < 3; i++)
		sum = work(sum, i);
	putdec(sum);
	return 5;
}
"""


@pytest.fixture
def guest(machine):
    """Makes machines with SOURCE, and gives `call` and `regs` to a handler of a probe on `work`."""
    made = []

    def make(handler=None, role="pre_handler", **options):
        m = machine(build_text(SOURCE), **options)
        made.append(m)
        if handler:
            def run(p, regs, *rest):
                return handler(regs.call, regs)

            m.kprobes.register_kprobe(Kprobe(symbol_name="work", **{role: run}))
        return m

    yield make
    for m in made:
        m.close()


def plain(guest):
    result = guest().run(100_000)
    return result.exit, result.console


@pytest.mark.parametrize("role", ["pre_handler", "post_handler"])
def test_a_handler_calls_a_function(guest, role):
    got = []

    def handler(call, regs):
        before = regs.copy()
        got.append(call("add6", 1, 2, 3, 4, 5, -1))
        got.append(call("flags") & 0x300)
        assert regs == before

    expected = plain(guest)
    machine = guest(handler, role)
    result = machine.run(200_000)
    assert (result.exit, result.console) == expected and not result.unhandled
    assert got == [49, 0] * 3
    calls = machine.events.of(GuestCall)
    assert [call.result for call in calls] == [49, 0x2] * 3
    assert all(20 < call.cycle - call.began < 400 for call in calls)
    assert machine.mem.read(machine.symbols.lookup("seen"), 8)[0] == 3


def test_every_engine_gives_the_same_events(machine_on, engine_name):
    if engine_name != "compiled":
        pytest.skip("compared once")
    digests = set()
    for name in ("pysim", "compiled"):
        with machine_on(name, build_text(SOURCE), latency=2, wait_seed=4) as machine:
            handler = lambda p, regs, *rest: regs.call("outer", 3) and None  # noqa: E731
            probe = Kprobe(symbol_name="work", pre_handler=handler, post_handler=handler)
            machine.kprobes.register_kprobe(probe)
            machine.kprobes.register_kprobe(Kprobe(symbol_name="inner"))
            machine.run(100_000)
            digests.add((machine.events.digest(), machine.cycle, len(machine.events.of(GuestCall))))
    assert len(digests) == 1 and digests.pop()[2] == 6


def test_a_probe_inside_the_function_is_missed(guest):
    expected = plain(guest)
    machine = guest(lambda call, regs: None if call("outer", 4) == 10 else 1 / 0)
    inner = Kprobe(symbol_name="inner", pre_handler=lambda p, regs: 1 / 0)
    machine.kprobes.register_kprobe(inner)
    result = machine.run(200_000)
    assert (result.exit, result.console) == expected
    assert inner.nmissed == 3


def test_the_hart_stands_where_it_stood(guest):
    """Every register and every byte but those below the stack pointer, at the same request."""
    seen = []

    def handler(call, regs):
        def look():
            hart = machine.harts[0]
            ram = machine.engine.read_mem(0, machine.engine.config.ram_bytes)
            top = hart.regs.rsp - 0xFFFFFFFF80000000
            return hart.regs.as_dict() | {"tsc": 0}, machine.engine.trap_request(0), ram[:top - 400], ram[top:]

        before = look()
        call("inner", 1)
        seen.append(before == look())

    for role in ("pre_handler", "post_handler"):
        machine = guest(handler, role)
        machine.run(100_000)
    assert seen == [True] * 6


@pytest.mark.parametrize("function, why", [("forever", "has not returned after 3000 cycles"),
                                           ("sleeps", "halted with interrupts off"),
                                           ("ends", "halted with interrupts off")])
def test_a_function_that_does_not_return(guest, function, why):
    expected = plain(guest)
    machine = guest(lambda call, regs: call(function))
    machine.port.patience = 3000
    with pytest.raises(HandlerError, match=f"GuestCallError: the called guest function {why}; the hart was at "):
        machine.run(100_000)
    (probe,) = machine.kprobes.registered
    machine.kprobes.unregister_kprobe(probe)
    result = machine.run(100_000)
    assert (result.exit, result.console) == expected, "it has run on from the probed instruction"


def test_a_handler_may_get_over_a_function_that_does_not_return(guest):
    def handler(call, regs):
        with pytest.raises(GuestCallError):
            call("forever")
        got.append(call("inner", 5))

    got, expected = [], plain(guest)
    machine = guest(handler, "post_handler")
    machine.port.patience = 500
    result = machine.run(100_000)
    assert (result.exit, result.console, got) == (*expected, [6, 6, 6])


def test_an_error_in_a_trap_of_the_function_leaves_the_hart_where_it_was(guest):
    """A fault_handler that raises: the call has no end, and the hit that made it is undone."""
    machine = guest()

    def fault_handler(p, regs, vector):
        raise ZeroDivisionError("in the fault handler")

    probe = Kprobe(
        symbol_name="work", pre_handler=lambda p, regs: regs.call("reads", 1 << 62) and None, fault_handler=fault_handler
    )
    machine.kprobes.register_kprobe(probe)
    with pytest.raises(HandlerError, match="in the fault handler"):
        machine.run(100_000)
    machine.kprobes.unregister_kprobe(probe)
    result = machine.run(100_000)
    assert (result.exit, result.console) == plain(guest)


def test_an_exit_within_a_call_ends_the_run_after_the_handler(guest):
    def handler(call, regs):
        with pytest.raises(GuestCallError):
            call("ends")

    machine = guest(handler)
    result = machine.run(100_000)
    assert (result.reason, result.exit, result.hits) == (StopReason.EXIT, 9 * 2 + 1, 1)


def test_a_fault_in_the_function_is_the_guests(guest):
    """Nobody fixes it, so the guest's own handler says so, and halts."""
    machine = guest(lambda call, regs: call("reads", 1 << 62))
    with pytest.raises(HandlerError, match="halted with interrupts off; the hart was at trap_unhandled"):
        machine.run(100_000)
    assert machine.run(0).reason == StopReason.MAX_CYCLES
    assert b"unhandled trap 13" in bytes(e.byte for e in machine.events if e.kind == "console")


def test_a_call_counts_in_the_limits_of_a_run(guest):
    machine = guest(lambda call, regs: call("add6", 1, 2, 3, 4, 5, 6))
    result = machine.run(max_cycles=100_000, until="inner")
    assert result.reason == StopReason.EXIT
    machine = guest(lambda call, regs: call("forever"))
    machine.port.patience = 5000
    with pytest.raises(HandlerError):
        machine.run(max_cycles=3000)
    assert machine.cycle > 3000


def test_a_step_over_a_call(guest):
    machine = guest(lambda call, regs: call("outer", 1))
    machine.run(until="work")
    steps = []
    while machine.run(until=StopOn(retired=5, hart=0)).reason == StopReason.RETIRED:
        steps.append(machine.harts[0].retired - sum(steps))
    assert steps[1:].count(5) > 20, "five instructions at a time"
    longer = [step for step in steps[1:] if step != 5]
    assert len(longer) <= 3 and all(5 < step < 90 for step in longer), "but a handler is not interrupted"


def test_outside_of_a_handler(guest):
    machine = guest()
    with pytest.raises(GuestCallError, match="in no handler"):
        machine.port.call(0, machine.symbols.lookup("inner"), (1,))
    with pytest.raises(HandlerError, match="7 arguments"):
        guest(lambda call, regs: call("inner", *range(7))).run(100_000)


def test_returns_are_followed(guest):
    """What a trap saved counts until its iretq; with interrupts on, the hart has come back some other way."""
    machine = guest(lambda call, regs: asked.append((call("inner", 1), settled("work"), settled("main"))), "post_handler")
    asked = []

    def settled(name):
        found = machine.symbols.containing(machine.symbols.lookup(name))
        return machine.guest.settled(found.start, found.end)

    machine.run(until="work")
    assert not settled("work") and settled("main"), "the hart is at its first instruction"
    between = []
    while machine.step().reason == StopReason.RETIRED:
        state = machine.harts[0].state
        inside = machine.symbols.describe(machine.harts[0].regs.rip).startswith("work")
        between.append((inside, settled("work")))
        assert state.boundary
    assert asked == [(2, False, False)] * 3, "from within a handler"
    assert between.count((True, True)) == 0
    assert between.count((False, False)) > 100, "in the stubs, and in the slot"
    assert settled("work")


DOOR = """
	.globl f
f:
	lgdt	pointer
	mov	$0x10, %ecx
	mov	%ecx, %ss
	movq	$0x1234, %r12
	movq	$7, %rbx
	sti
	push	%rbx
	push	$0x10
	push	%rsp
	pushf
	push	$8
	push	$0
	push	$-1
	.rept 15
	push	$3
	.endr
	mov	%rsp, 0xfffffffffe000408
after:
	mov	$1, %ecx
	add	$168, %rsp
	pop	%rbx
	cmp	$0x1234, %r12
	jne	1f
	mov	$0, %al
	out	%al, $0xf4
1:	hlt
g:
	lea	(%rdi, %rdi), %rax
	mov	$5, %r12
	mov	$6, %rbx
	ret
fatal:
	ud2
late:
	dec	%edx
	jnz	late
	jmp	f
	.balign	8
gdt:
	.quad	0, 0x00af9b000000ffff, 0x00cf93000000ffff
pointer:
	.word	23
	.quad	gdt
"""


@pytest.fixture
def door(machine, assemble):
    """A machine that goes through Door.DETOUR once, and what its runtime does then."""

    def make(on_trap):
        code = assemble(DOOR, at=0x4000)
        m = machine(record=Recording.ALL)
        m.load(0x4000, code.data)
        m.kprobes.on_trap = lambda trap: on_trap(m, trap, code.labels)
        return m

    return make


def test_a_door_has_no_trap(door):
    seen = []

    def on_trap(m, trap, labels):
        seen.append((trap.vector, trap.regs.r15, trap.regs.cs, trap.regs.orig_ax, trap.error))
        return True

    machine = door(on_trap)
    assert machine.run(10_000).exit == 1
    assert seen == [(Door.DETOUR, 3, 8, (1 << 64) - 1, None)]
    assert machine.guest.door(Door.DETOUR) == 0xFFFFFFFFFE000408
    (call,) = machine.events.of(TrapPortCall)
    assert call.vector == Door.DETOUR and call.handled


def test_a_call_from_a_door_comes_back_to_it(door):
    """The code behind a door leaves by no iretq, and finds its registers, flags and stack as they were."""
    got = []

    def on_trap(m, trap, labels):
        before = m.harts[0].regs.as_dict() | {"tsc": 0}
        got.extend([m.port.call(0, labels["g"], (21,)), m.port.call(0, labels["g"], (4,))])
        assert m.harts[0].regs.as_dict() | {"tsc": 0} == before
        return True

    machine = door(on_trap)
    assert machine.run(10_000).exit == 1
    assert got == [42, 8]
    assert len(machine.events.of(Iret)) == 4, "out and back, twice"
    assert machine.harts[0].regs.rbx == 7


def test_a_function_that_shuts_the_hart_down(door):
    """It has no IDT here."""

    def on_trap(m, trap, labels):
        with pytest.raises(GuestCallError, match="shut the hart down by a triple fault"):
            m.port.call(0, labels["fatal"], ())
        return True

    machine = door(on_trap)
    result = machine.run(10_000)
    assert result.reason == StopReason.SHUTDOWN and "#UD" in result.why


def test_text_written_from_a_door_is_fetched_anew(door):
    """The instruction behind the store had been fetched."""

    def on_trap(m, trap, labels):
        guest = m.guest
        guest.write(labels["after"], bytes.fromhex("b90d000000"))
        guest.sync_cores()
        return True

    machine = door(on_trap)
    assert machine.run(10_000).exit == 1
    assert machine.harts[0].regs.rcx == 13


def test_the_runtime_works_at_its_deadline(guest):
    """In the cycle that it wants, or at the next boundary; nothing of the guest changes."""
    expected, cycles = plain(guest), []
    machine = guest()

    class Clock:
        deadline = 60

    def work():
        cycles.append(machine.cycle)
        assert machine.harts[0].state.boundary
        Clock.deadline = None if len(cycles) == 3 else machine.cycle + 30

    type(machine).deadline, kept = property(lambda self: Clock.deadline), type(machine).deadline
    machine.kprobes.work = work
    try:
        result = machine.run(100_000)
    finally:
        type(machine).deadline = kept
    assert (result.exit, result.console) == expected
    assert len(cycles) == 3 and all(0 <= got - want < 25 for got, want in zip(cycles, (60, 90, 120), strict=True))


TABLE = """
#include "guest.h"
noinline long try_read(const long *p)
{
	long value = -1;
	__asm__ volatile("1: mov (%1), %0\\n2:\\n" EX_TABLE(1b, 2b) : "+r"(value) : "r"(p));
	return value;
}
int main(void)
{
	long x = 7;
	return try_read(&x) == 7 && try_read((long *)(1L << 62)) == -1 ? 3 : 4;
}
"""


def test_the_guests_exception_table(machine):
    with machine(build_text(TABLE)) as m:
        port, at = m.guest, m.symbols.lookup("try_read")
        found = [addr for addr in range(at, at + 32) if port.fixup(addr)]
        assert len(found) == 1 and port.fixup(found[0]) == found[0] + 3
        assert port.fixup(at - 1) is None
        assert m.run(100_000).exit == 7
    with machine(build_text(SOURCE)) as m:
        assert m.guest.fixup(m.symbols.lookup("work")) is None


def test_two_harts_call_at_the_same_time(machine_on, engine_name, assemble):
    """Each handler calls a function through which the other hart comes, too; neither waits for the other."""
    code = assemble(DOOR.replace("out	%al, $0xf4", "hlt"), at=0x4000)
    sent = []
    for delay in (10, 20) if engine_name == "pysim" else range(60):
        machine = machine_on(engine_name, harts=2)
        machine.load(0x4000, code.data)
        second = machine.harts[1].regs
        second.rip, second.rsp, second.rdx = code.labels["late"], 0x20000, 10 + 2 * delay
        got, send = [], machine.port._send

        def on_trap(trap, machine=machine, got=got):
            got.append((trap.cpu, [machine.port.call(trap.cpu, code.labels["g"], (n,)) for n in range(3)]))
            return True

        machine.port._send = lambda call, begin, send=send: sent.append(call.ends) or send(call, begin)
        machine.kprobes.on_trap = on_trap
        assert machine.run(20_000).reason == StopReason.HALTED
        assert sorted(got) == [(0, [0, 2, 4]), (1, [0, 2, 4])]
        assert [hart.regs.r12 for hart in machine.harts] == [0x1234] * 2
    assert True in sent or engine_name == "pysim", "a hart that was back had to be sent away again"
