"""Scenarios of interrupts, NMI and hlt, by number; and interrupts in every cycle of what must not be disturbed."""

import pytest
from trapbench import MISSING, STACK, STEP

from hw.isa.facts import EventClass
from sim.engine import RetireFlag, StopReason

S = pytest.param
RETURN = "h32: iretq; h33: iretq; h2: iretq; h3: iretq;"

#: Text, traps, set-up, events (when, what).
SCENARIOS = [
    S("start: int $2; n: hlt; h2: inc %ebx; cmp $1, %ebx; jne 1f; l: .fill 12, 1, 0x90; 1: iretq", "NMI@n; NMI@*", {},
      [("l", "nmi")], id="s033-int-2-does-not-block"),
    S(RETURN + "start: popfq; l: int3; n: cli; done: hlt", "v32@l IF -RF; #BP@n IF", dict(stack=[0x202]), [("now", 32)],
      id="s050-before-int3"),
    S(RETURN + "start: sti; int3; n: cli; done: hlt", "#BP@n IF / -IF; v32@n IF", {}, [("now", 32)], id="s051-int3-in-shadow"),
    S(RETURN + STEP + "start: popfq; a: nop; done: hlt", "#DB@a TF IF; v32@a TF IF / -TF -IF; #DB@done TF IF",
      dict(flags="TF", stack=[0x302]), [("now", 32)], id="s080-db-first"),
    S(RETURN + STEP + "start: popfq; a: nop; done: hlt", "#DB@a TF IF / -TF IF; v32@h1 -TF IF; #DB@done TF IF",
      dict(flags="TF", stack=[0x302], gates={1: dict(type=0xF)}), [("now", 32)], id="s081-db-trap-gate"),
    S(RETURN + "start: sti; a: nop; b: nop; done: hlt", "v32@b IF", {}, [("now", 32)], id="s138-sti-shadow"),
    S(RETURN + "start: nop; l: sti; a: nop; b: nop; done: hlt", "v32@a IF", dict(flags="IF"), [("a", 32)], id="s139-sti-again"),
    S(RETURN + "start: sti; cli; nop; done: hlt", "", {}, [("now", 32)], id="s140-sti-cli"),
    S(RETURN + "start: sti; hlt; n: cli; done: hlt", "v32@n IF", {}, [("now", 32)], id="s141-sti-hlt"),
    S(RETURN + "start: sti; hlt; n: cli; done: hlt", "v32@n IF", {}, [("asleep", 32)], id="s141-wakes"),
    S("start: cli; hlt; n: nop; done: hlt; h2: iretq", "NMI@n -IF", {}, [("asleep", "nmi")], id="s142-nmi-wakes"),
    S("start: cli; hlt; n: nop", "", {}, [("asleep", 32)], id="s142-irq-does-not-wake"),
    S(RETURN + "start: popfq; n: nop; cli; done: hlt", "v32@n IF", dict(stack=[0x202]), [("now", 32)], id="s143-popf"),
    S(RETURN + "start: iretq; n: nop; cli; done: hlt", "v32@n IF", dict(stack=["n", 8, 0x202, 0x7100, 0x10]), [("now", 32)],
      id="s143-iretq"),
    S(RETURN + "start: sti; int $33; n: cli; done: hlt", "v33@n IF; v32@n IF", {}, [("now", 32)], id="s144-sti-int"),
    S(RETURN + "start: sti; nop; c: cli; done: hlt", "v33@c; v32@c", {}, [("now", 33), ("taken", 32)], id="s145-two-pending"),
    S(RETURN + "start: sti; mov %ecx, %ss; b: nop; c: nop; cli; done: hlt", "v32@c", dict(rcx=0x10), [("now", 32)],
      id="s150-mov-ss"),
    S(RETURN + "start: sti; mov %ecx, %ss; mov %ecx, %ss; c: nop; cli; done: hlt", "v32@c", dict(rcx=0x10), [("now", 32)],
      id="s150-two-mov-ss"),
    S(RETURN + "start: nop; l: .fill 12, 1, 0x90; done: hlt", "NMI@* -IF -RF / -IF", {}, [("l", "nmi")],
      id="s151-nmi-without-if"),
    S("start: nop; l: .fill 12, 1, 0x90; done: hlt;"
      "h2: inc %ebx; cmp $1, %ebx; jne 1f; mov $10, %ecx; k: nop; nop; nop; nop; loop k; 1: iretq", "NMI@*; NMI@*", {},
      [("l", "nmi"), *[("k", "nmi")] * 10], id="s152-ten-in-one"),
    S("start: nop; l: .fill 12, 1, 0x90; done: hlt;"
      f"h2: inc %ebx; cmp $1, %ebx; jne 1f; k: nop; nop; nop; nop; nop; nop; g: mov {MISSING:#x}, %eax; p: nop; nop; 1: iretq;"
      "h14: add $8, %rsp; addq $7, (%rsp); iretq", "NMI@*; #PF(0)@g; NMI@p", {}, [("l", "nmi"), ("k", "nmi")],
      id="s153-fault-unblocks"),
    S("start: nop; l: .fill 12, 1, 0x90; done: hlt; h2: inc %ebx; cmp $1, %ebx; jne 1f; k: .fill 9, 1, 0x90;"
      "movl $0, 8(%rsp); g: iretq; 1: iretq; h13: nop; hlt", "NMI@*; #GP(0)@g; NMI@h13",
      {}, [("l", "nmi"), ("k", "nmi")], id="s153-faulting-iretq-unblocks"),
]


@pytest.mark.parametrize(("text", "expect", "setup", "events"), SCENARIOS)
def test_scenario(bench, text, expect, setup, events):
    bench.load(text, **{"rsp": 0x7000 if "stack" in setup else STACK} | setup)
    bench.run(events)
    bench.expect(expect)
    assert bench.reason == StopReason.HALTED


def test_external_vector_14_has_no_error_code(bench):
    """An interrupt with the vector of a fault is none: no error code, CR2 untouched."""
    bench.load("start: nop; l: nop; nop; done: hlt; h14: iretq", flags="IF", cr2=0x123)
    bench.run([("l", 14)])
    bench.expect("#PF@l IF")
    assert bench.taken[0].kind == EventClass.INTR
    assert bench.reg("cr2") == 0x123


@pytest.mark.parametrize("cycles", [8, 21, 34, 47, 60])
def test_s149_rep_interrupted(bench, cycles):
    """s149-rep: rip at the rep, rcx partial, RF=1; it goes on."""
    bench.load("start: rep stosb; n: cli; done: hlt; h32: iretq", flags="IF", rcx=20, rdi=0x30000, rax=0x5A)
    bench.run([(cycles, 32)])
    bench.expect("v32@start IF RF")
    assert 0 < bench.taken[0].rcx < 20
    assert bench.engine.read_mem(0x30000, 21) == b"\x5a" * 20 + b"\0"


SHADOWS = {
    "s154-nmi-sti": ("start: .fill 6, 1, 0x90; sti; a: nop; b: .fill 6, 1, 0x90; done: hlt; jmp done; h2: iretq", {}),
    "s155-nmi-mov-ss": ("start: .fill 6, 1, 0x90; mov %ecx, %ss; a: nop; b: .fill 6, 1, 0x90; done: hlt; jmp done; h2: iretq", dict(rcx=0x10)),
}


@pytest.mark.parametrize("name", SHADOWS)
def test_nmi_is_held_in_shadows(bench, name):
    """s154, s155: an NMI in any cycle is taken before every instruction but the one in the shadow."""
    text, setup = SHADOWS[name]
    taken = set()
    for cycle in range(32):
        reset(bench)
        bench.load(text, **setup)
        bench.run([(cycle, "nmi")])
        assert len(bench.taken) == 1
        taken.add(bench.taken[0].rip)
    a = bench.labels["a"]
    assert a not in taken
    assert {a - 1 - ("ss" in name), a + 1} <= taken


def reset(bench) -> None:
    """Power-on, with what is in RAM."""
    bench.engine.set_irq(0, None)
    bench.engine.reset()


# --- an interrupt in every cycle ---

ROUND_TRIP = """
start:	add %rcx, %rax
	int3
	push %rax
	imul $7, %rax, %rax
	pop %rdx
	lea 1(%rdx,%rax), %rbx
	mov %rbx, x(%rip)
	dec %ecx
	jnz start
	cli
done:	hlt
	jmp done
x:	.quad 0
h3:	push %rax
	incl y(%rip)
	mov 24(%rsp), %rsi
	pop %rax
	iretq
y:	.quad 0
"""
COPY = """
start:	rep movsb
	mov %rcx, %rdx
	cli
done:	hlt
	jmp done
"""
COUNTING = "h32: incl %cs:z(%rip); iretq; h2: incl %cs:z(%rip); iretq; z: .quad 0"

UNDISTURBED = {
    "int3-round-trip": (ROUND_TRIP, dict(rax=5, rcx=1), 84),
    "rep-movsb": (COPY, dict(rcx=9, rsi=0x30000, rdi=0x30003, mem={0x30000: bytes(range(1, 17))}), 64),
}
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip", "rflags", "cs", "ss")


def final_state(bench):
    return {name: bench.reg(name) for name in REGISTERS}, bench.engine.read_mem(0x30000, 64), [
        bench.quad(bench.labels[label]) for label in "xy" if label in bench.labels
    ]


@pytest.mark.parametrize("what", [32, "nmi"], ids=["irq", "nmi"])
@pytest.mark.parametrize("name", UNDISTURBED)
def test_interrupt_in_every_cycle(bench, engine_name, name, what):
    """Whenever an interrupt comes, the end is that of the run without it."""
    text, setup, span = UNDISTURBED[name]
    text += COUNTING
    if "fast" in bench.engine.capabilities:
        setup, span = setup | dict(rcx=setup["rcx"] * 3), 3 * span
    bench.load(text, flags="IF", **setup)
    bench.run()
    wanted, plain = final_state(bench), len(bench.taken)
    met, extra = set(), 0
    for cycle in range(span):
        bench.engine.write_mem(0x30000, bytes(64))
        reset(bench)
        bench.load(text, flags="IF", **setup)
        bench.run([(cycle, what)])
        assert final_state(bench) == wanted, f"interrupt in cycle {cycle}: {[str(t) for t in bench.taken]}"
        assert plain <= len(bench.taken) <= plain + 1, f"interrupt in cycle {cycle}"  # none after the cli
        extra += len(bench.taken) - plain
        met |= {trap.rip for trap in bench.taken}
    assert extra > 0.6 * span
    assert len(met) >= 2, "interrupts met only these"


@pytest.mark.parametrize("name", UNDISTURBED)
def test_wait_states(bench, engine_name, engine_pool, assemble, name):
    """Memory that answers when it likes changes cycles and nothing else."""
    text, setup, _ = UNDISTURBED[name]
    text += COUNTING
    bench.load(text, flags="IF", **setup)
    bench.run()
    wanted = final_state(bench)
    for options in (dict(wait_seed=7), dict(latency=3)):
        other = type(bench)(engine_pool.borrow(engine_name, **options), assemble)
        for cycle in range(10, 70, 20):
            other.engine.write_mem(0x30000, bytes(64))
            reset(other)
            other.load(text, flags="IF", **setup)
            other.run([(cycle, 32)], max_cycles=20000)
            assert final_state(other) == wanted, (options, cycle)


def test_shutdown_is_reported(bench):
    """A triple fault ends the run, and every later one at once; reset leaves the state."""
    bench.load("start: ud2", idt_limit=0)
    bench.run()
    assert bench.reason == StopReason.SHUTDOWN
    assert bench.engine.state(0).shutdown
    assert bench.engine.run(100).reason == StopReason.SHUTDOWN
    bench.engine.set_irq(0, 32)
    assert bench.engine.run(100).reason == StopReason.SHUTDOWN, "an interrupt does not end it"
    reset(bench)
    bench.load("start: inc %eax; hlt")
    bench.run()
    assert (bench.reason, bench.reg("rax")) == (StopReason.HALTED, 1)


def test_interrupt_request_taken_back(bench):
    """A request that is gone before IF is set leaves no trace."""
    bench.load("start: nop; a: nop; b: sti; nop; nop; cli; done: hlt")
    bench.run([("a", 32), ("b", None)])
    bench.expect("")


def test_int3_in_every_gate_and_flag_state(bench, rng):
    """Random flags: what int3 saves is what was, and iretq brings it back."""
    for _ in range(8):
        image = 2 | rng.getrandbits(22) & ~((1 << 17) | (1 << 19) | (1 << 20) | (1 << 8) | 0x8028 | (1 << 16))
        reset(bench)
        bench.load("start: int3; n: nop; done: hlt; h3: mov %rsp, %rbx; iretq", rflags=image)
        bench.run()
        bench.expect("#BP@n -RF")
        assert bench.taken[0].frame.rflags == image
        assert bench.reg("rflags") == image
        assert bench.taken[0].rflags == image & ~((1 << 14) | (1 << 9))


@pytest.mark.parametrize("what", [32, "nmi"], ids=["irq", "nmi"])
def test_hlt_never_misses_its_wake(bench, what):
    """s141, s142: an interrupt in any cycle before, at or after hlt wakes it, once."""
    for cycle in range(30):
        reset(bench)
        bench.load("start: nop; nop; sti; hlt; n: cli; done: hlt; jmp done; h32: iretq; h2: iretq")
        bench.run([(cycle, what), ("asleep", what)] if what == "nmi" else [(cycle, what)])
        assert bench.reg("rip") == bench.labels["done"] + 1, cycle
        if what == 32:
            bench.expect("v32@n IF")


def test_delivery_and_iretq_are_quick(bench):
    """Cycles from int3 at retirement to the first instruction of the handler, and of iretq: the first bars of the design."""
    bench.load("start: nop; int3; n: hlt; h3: nop; iretq")
    records = []
    bench._read, read = lambda found, seen: records.extend(found) or read(found, seen), bench._read
    bench.run()
    cycle = {(r.pc, bool(r.flags & RetireFlag.DELIVER)): r.cycle for r in records}
    handler = bench.labels["h3"]
    assert cycle[handler, False] - bench.taken[0].cycle <= 40
    assert cycle[bench.labels["n"], False] - cycle[handler, False] <= 30
