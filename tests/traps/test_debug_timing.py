"""Debug traps at bad moments: with an interrupt in every cycle, a memory that lets wait, and a refetch from outside."""

import pytest
from trapbench import STEP

from hw.isa.facts import DebugReg, SysReg
from sim.engine import StopOn, StopReason

V = 0x30000

#: Breakpoints 0 on ``l`` and 1 on four bytes of `V`; every #DB adds DR6 to a sum and one to a count.
TEXT = """
start:	mov $3, %ecx
l:	add $5, %rax
	mov %eax, 0x30002
	imul %rax, %rax
	mov %esi, %ss
	push %rax
	pop %rdx
	dec %ecx
	jnz l
	mov $2, %ecx
	mov $0x30002, %edi
	rep stosb
	cli
done:	hlt
	jmp done
h1:	push %rax
	mov %db6, %rax
	and $0xf, %eax
	add %rax, sum
	incq sum+8
	test $1, %al
	jz 1f
	orl $0x10000, 24(%rsp)
1:	pop %rax
	iretq
h32:	incl %cs:seen
	iretq
h2:	incl %cs:seen
	iretq
seen:	.quad 0
	.balign 16
sum:	.quad 0, 0
"""
SETUP = dict(flags="IF", dr0="l", dr1=V, dr7=0x402 | 2 << 2 | 0xD << 20, rax=7, rsi=0x10)


def load(bench):
    bench.engine.write_mem(V, bytes(64))
    bench.load(TEXT, **SETUP)


def outcome(bench):
    """Registers, the watched variable, what the handler saw of DR6, and how often."""
    names = ("rax", "rcx", "rdx", "rdi", "rsp", "rip", "rflags")
    sums = bench.quad(bench.labels["sum"]), bench.quad(bench.labels["sum"] + 8)
    return {name: bench.reg(name) for name in names}, bench.engine.read_mem(V, 16), sums


def reset(bench):
    bench.engine.set_irq(0, None)
    bench.engine.reset()


@pytest.mark.parametrize("what", [32, "nmi"], ids=["irq", "nmi"])
def test_interrupt_in_every_cycle(bench, what):
    """Whenever an interrupt comes, each breakpoint is met exactly as often as without it."""
    load(bench)
    bench.run()
    wanted, plain = outcome(bench), len(bench.taken)
    # three times the instruction and the store; two bytes of the rep
    assert wanted[2] == (3 * 1 + 3 * 2 + 2 * 2, 3 + 3 + 2)
    fast = "fast" in bench.engine.capabilities
    extra = 0
    for cycle in range(0, 560 if fast else 120, 1 if fast else 3):
        reset(bench)
        load(bench)
        bench.run([(cycle, what)])
        assert outcome(bench) == wanted, f"interrupt in cycle {cycle}: {[str(t) for t in bench.taken]}"
        extra += len(bench.taken) - plain
    assert extra > 20


def test_wait_states(bench, engine_name, engine_pool, assemble):
    load(bench)
    bench.run()
    wanted = outcome(bench)
    for options in (dict(wait_seed=7), dict(latency=3)):
        other = type(bench)(engine_pool.borrow(engine_name, **options), assemble)
        load(other)
        other.run(max_cycles=20000)
        assert outcome(other) == wanted, options


def test_a_refetch_keeps_what_is_pending(bench):
    """The debug port writes rip as it is, in any cycle at a boundary: no step is lost, and a sleeping hart sleeps on."""
    text = STEP + "start: nop; a: mov %ecx, %ss; nop; c: sti; d: nop; done: hlt"
    engine, met = bench.engine, 0
    for cycle in range(0, 300, 1 if "fast" in engine.capabilities else 7):
        reset(bench)
        bench.load(text, flags="TF", rcx=0x10)
        ended = engine.run(cycle)
        if engine.state(0).boundary:
            engine.refetch(0)
            met += 1
        bench.run()
        bench.expect("#DB@a TF; #DB@c TF; #DB@d TF; #DB@done TF")
        assert bench.reg("rip") == bench.labels["done"] + 1
        if ended.reason == StopReason.HALTED:
            break
    assert met > 8


def test_another_rip_drops_what_is_pending(bench):
    """Where the debug port sends the hart, nothing of before is waiting for it."""
    bench.load("start: nop; a: nop; l: nop; done: hlt", flags="TF")
    while bench.engine.run(100, StopOn(boundary=True)).reason == StopReason.BOUNDARY and bench.reg("rip") != bench.labels["a"]:
        bench.engine.run(1)
    bench.engine.write_reg(0, DebugReg.RFLAGS, 2)
    bench.engine.write_reg(0, DebugReg.RIP, bench.labels["l"])
    bench.run()
    bench.expect("")
    assert bench.engine.read_reg(0, DebugReg.SYS + SysReg.DR6) == 0xFFFF0FF0
