"""Locked read-modify-writes of two harts: none is lost, nobody waits for ever, and what drops one gives the lock up."""

import pytest

from tests.unit.pagetables import Builder

N = 12
LOOP = "1: {}; dec %ecx; jnz 1b; hlt;"
#: On a page of its own: a store to a page with code makes its hart fetch again.
DATA = ".balign 4096; x: .long 0; y: .long 0; .balign 64"

#: One increment of x.
LOCKED = {
    "inc": "lock incl x(%rip)",
    "add": "lock addl $1, x(%rip)",
    "xadd": "mov $1, %eax; lock xadd %eax, x(%rip)",
    "cmpxchg": "mov x(%rip), %eax; 2: lea 1(%rax), %edx; lock cmpxchg %edx, x(%rip); jnz 2b",
    "spinlock": "2: mov $1, %eax; xchg %eax, y(%rip); test %eax, %eax; jnz 2b; incl x(%rip); movl $0, y(%rip)",
    "bitlock": "2: lock btsl $0, y(%rip); jc 2b; incl x(%rip); lock btrl $0, y(%rip)",
}  # fmt: skip


def both(step):
    return "".join(f"start{i}: mov ${N}, %ecx; {LOOP.format(step)} .balign 64;" for i in (0, 1)) + DATA


@pytest.mark.parametrize("seed", (None, 5), ids=("fast", "waits"))
@pytest.mark.parametrize("kind", LOCKED)
def test_counter(smp, cases, kind, seed):
    bench = smp(wait_seed=seed)
    for distance in cases(range(9)):
        bench.load(both(LOCKED[kind]))
        bench.start(distance, 0)
        assert bench.long("x") == 2 * N


def test_a_counter_without_lock_loses(smp):
    """The distances reach the point: without the lock, increments are lost."""
    bench, totals = smp(), set()
    for distance in range(9):
        bench.load(both("incl x(%rip)"))
        bench.start(distance, 0)
        totals.add(bench.long("x"))
    assert min(totals) < 2 * N


def test_plain_stores_do_not_come_between(smp, cases, whole):
    """The other hart's stores are before the read or after the write of the locked instruction: x is even in the end."""
    text = (
        f"start0: mov $8, %ecx; {LOOP.format('lock addl $2, x(%rip)')} .balign 64; start1: movl $100, x(%rip); hlt;"
        + DATA
    )
    bench, totals = smp(), set()
    for distance in cases(range(100)):
        bench.load(text)
        bench.start(10, distance)
        totals.add(bench.long("x"))
    assert totals <= set(range(100, 117, 2)) and (len(totals) == 9 or not whole)


def test_interrupts_between_load_and_store(smp, cases, whole):
    """An interrupt in any cycle of a locked loop: the lock is given up, the instruction is repeated, no count is lost."""
    bench = smp()
    at = set()
    for cycle in cases(range(60)):
        bench.load("h40: inc %ebx; iretq;" + both(LOCKED["xadd"]), flags="")
        for hart in (0, 1):
            bench.set(hart, "rflags", 0x202)
            bench.set(hart, "rip", bench.labels[f"start{hart}"])
        bench.engine.run(cycle)
        bench.engine.set_irq(0, 40)
        bench.finish()
        assert bench.get(0, "rbx") == 1
        assert bench.long("x") == 2 * N
        at |= {trap.rip - bench.labels["start0"] for traps in bench.traps() for trap in traps}
    assert len(at) >= 3 or not whole


def test_a_hart_that_stops_holds_nothing(smp, cases):
    """A locked load that was made for nothing, on a path not taken, behind hlt, or dropped from outside: the other hart goes on."""
    other = f"start1: mov ${N}, %ecx; {LOOP.format(LOCKED['inc'])} .balign 64;" + DATA
    stops = {
        "behind hlt": "start0: hlt; lock incl y(%rip); hlt;",
        "not taken": "start0: xor %eax, %eax; jz 1f; lock incl y(%rip); 1: hlt;",
        "mispredicted": "start0: mov $3, %eax; 2: dec %eax; jnz 1f; hlt; lock incl y(%rip); 1: test %eax, %eax; jnz 2b; hlt;",
        "fault": "h13: hlt; start0: mov $-1, %rax; shr $1, %rax; lock incl (%rax);",
        "triple fault": "start0: ud2; lock incl y(%rip); hlt;",
    }  # fmt: skip
    for name, text in stops.items():
        for distance in cases(range(12)):
            bench = smp()
            bench.load(text + ".balign 64;" + other)
            if name == "triple fault":
                bench.set(0, "idt_limit", 0)
                for hart in (1, 0):
                    bench.set(hart, "rip", bench.labels[f"start{hart}"])
                    bench.engine.run(distance)
                while not bench.engine.state(1).halted:
                    assert bench.engine.run(1).cycles and bench.engine.cycle < 2000, name
            else:
                bench.start(distance, 0)
            assert bench.long("x") == N, name
            assert bench.long("y") == 0, name


def test_registers_written_from_outside_drop_the_lock(smp, cases):
    """The debug port drops what is in flight, a locked load among it."""
    text = both(LOCKED["inc"]) + "; away: hlt"
    bench = smp()
    for cycle in cases(range(40)):
        bench.load(text)
        for hart in (0, 1):
            bench.set(hart, "rip", bench.labels[f"start{hart}"])
        bench.engine.run(cycle)
        if bench.engine.state(0).boundary:
            left = bench.get(0, "rcx")
            bench.set(0, "rip", bench.labels["away"])
            bench.finish()
            done = 0 if not left else N - left
            assert bench.long("x") - N in (done, done + 1)


def test_nobody_starves(smp):
    """One hart does nothing but locked instructions; the other's plain loop goes on at a rate that does not depend on luck."""
    lock = "start0: 1: lock incl x(%rip); lock incl x(%rip); lock incl x(%rip); jmp 1b; .balign 64;"
    for step in ("mov y(%rip), %eax", "movl $1, y(%rip)", LOCKED["inc"]):
        bench = smp()
        bench.load(lock + f"start1: mov $50, %ecx; {LOOP.format(step)}" + DATA)
        for hart in (0, 1):
            bench.set(hart, "rip", bench.labels[f"start{hart}"])
        while not bench.engine.state(1).halted:
            bench.engine.run(10)
            assert bench.engine.cycle < 50 * 25, step
        assert bench.long("x") > 50


#: Two pages side by side whose frames are not, and where an access lies that crosses from one to the other.
PAGE, FRAMES, ACROSS = 0x40000000, (0x300000, 0x500000), 0x40001000 - 2
SPLIT = {
    "inc": f"lock incl {ACROSS:#x}",
    "cmpxchg8b": (
        f"push %rcx; mov {ACROSS - 2:#x}, %eax; mov {ACROSS + 2:#x}, %edx; 2: lea 0x10000(%rax), %ebx; lea 1(%rdx), %ecx;"
        f"lock cmpxchg8b {ACROSS - 2:#x}; jnz 2b; pop %rcx"
    ),
}


@pytest.mark.parametrize("interrupted", (False, True), ids=("alone", "interrupted"))
@pytest.mark.parametrize("kind", SPLIT)
def test_across_two_pages(smp, cases, kind, interrupted):
    """Locked accesses in two frames, each in pieces on the bus, with walks that mark the tables that both harts share."""
    for distance in cases(range(0, 40, 1 if interrupted else 5)):
        bench = smp()
        builder = Builder(0xC00000)
        builder.like_the_static_map()
        marks = [builder.map(PAGE + 0x1000 * i, frame) for i, frame in enumerate(FRAMES)]
        memory = {where: entry.to_bytes(8, "little") for where, entry in builder.memory.items()}
        bench.load(
            "h40: incl %r13d; iretq;" + both(SPLIT[kind]), mem=memory, regs={h: dict(cr3=builder.root) for h in (0, 1)}
        )
        for hart in (0, 1):
            bench.set(hart, "rflags", 0x202)
        if interrupted:
            for hart in (0, 1):
                bench.set(hart, "rip", bench.labels[f"start{hart}"])
            bench.engine.run(4 * distance)
            bench.engine.set_irq(1, 40)
            bench.finish()
            assert bench.get(1, "r13") == 1
        else:
            bench.start(distance, 0)
        low, high = bench.engine.read_mem(FRAMES[0] + 0xFFE, 2), bench.engine.read_mem(FRAMES[1], 4)
        if kind == "inc":
            assert int.from_bytes(low + high[:2], "little") == 2 * N
        else:  # both halves count, each in its own place
            assert int.from_bytes(low, "little") == 2 * N
            assert int.from_bytes(high, "little") == 2 * N
        assert all(bench.quad(where) & 0x60 == 0x60 for where in marks), "accessed and dirty"
