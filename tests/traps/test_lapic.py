"""Scenarios of the local interrupt controller, by number: a program reaches it at its page, interrupts come to the hart."""

import pytest

from hw.bus import APIC_BASE
from hw.lapic import At
from sim.engine import StopReason

S = pytest.param
EOI = f"movl $0, {At.EOI:#x}(%rbp); iretq;"
RETURN = "".join(f"h{n}: {EOI} " for n in (0x20, 0x21, 0x3E))
ON = f"start: mov ${APIC_BASE:#x}, %ebp; movl $0x1ff, {At.SVR:#x}(%rbp);"


def send(*vectors: int) -> str:
    """Sends IPIs to itself."""
    return "".join(f"movl ${1 << 18 | vector:#x}, {At.ICR_LOW:#x}(%rbp);" for vector in vectors)


def put(at: At, value: int) -> str:
    return f"movl ${value:#x}, {at:#x}(%rbp);"


def get(at: int, register: str) -> str:
    return f"mov {at:#x}(%rbp), %{register};"


NMI = 4 << 8

SCENARIOS = [
    S(RETURN + ON + send(0x20, 0x21) + "sti; nop; c: cli; done: hlt", "v33@c; v32@c", {}, id="s145-higher-vector-first"),
    S(RETURN + ON + put(At.TPR, 0xF0) + send(62, 32) + "sti; nop; nop;" + put(At.TPR, 0x20) + "a: .fill 8, 1, 0x90; cli; done: hlt",
      "v62@a", {}, id="s146-tpr"),
    S("h95: " + EOI + "h81: sti;" + send(0x5F) + ".fill 8, 1, 0x90; cli; " + EOI + ON + send(0x51) + "sti; nop; a: nop; cli; done: hlt",
      "v81@a IF / -IF; v95@a IF", {}, id="s147-class-in-service"),
    S("h32: inc %ebx; cmp $1, %ebx; jne 1f;" + send(32, 32, 32) + "1:" + EOI + ON + send(32) + "sti; nop; a: nop; nop; cli; done: hlt",
      "v32@a; v32@a", {}, id="s148-at-most-one-more"),
    S("h80: inc %ebx; " + EOI + ON + put(At.TIMER_DIVIDE, 0xB) + put(At.LVT_TIMER, 80) + put(At.TIMER_INITIAL, 200)
      + "sti; 1: test %ebx, %ebx; jz 1b;" + get(At.TIMER_CURRENT, "ecx") + ".fill 99, 1, 0x90; cli; done: hlt", "v80@*",
      dict(regs=dict(rbx=1, rcx=0)), id="s156-one-shot"),
    S("h80: inc %ebx; " + EOI + ON + put(At.TIMER_DIVIDE, 0xB) + put(At.LVT_TIMER, 80 | 1 << 17) + put(At.TIMER_INITIAL, 300)
      + "sti; 1: cmp $3, %ebx; jb 1b;" + put(At.LVT_TIMER, 80) + "2: cmp $4, %ebx; jb 2b; cli; done: hlt", "v80@*; v80@*; v80@*; v80@*",
      dict(regs=dict(rbx=4)), id="s157-periodic-then-one-shot"),
    S(RETURN + ON + put(At.EOI, 0) + send(0x20) + "sti; nop; a: nop;" + put(At.EOI, 0) + "cli; done: hlt", "v32@a", {},
      id="s158-empty-eoi"),
    S(ON + "mov $0x90, %ecx; mov $9, %ecx; mov %rcx, %cr8;" + get(At.TPR, "eax") + put(At.TPR, 0x55) + "mov %cr8, %rbx; done: hlt", "",
      dict(regs=dict(rax=0x90, rbx=5)), id="s160-cr8-is-tpr"),
    S("h2: inc %ebx; iretq;" + RETURN + ON + "sti;" + send(NMI) + send(0x20) + "nop; nop; nop; cli; done: hlt", "NMI@*; v32@*", {},
      id="s161-nmi-not-later"),
    S("h2: iretq;" + ON + send(NMI) + ".fill 6, 1, 0x90; done: hlt", "NMI@*", {}, id="s151-nmi-to-itself"),
    S("h32: " + EOI + "start: mov $0xfee00000, %ebp;" + send(0x20) + "sti; nop; nop; cli; done: hlt", "", {}, id="s146-disabled-after-reset"),
]


@pytest.mark.parametrize(("text", "expect", "setup"), SCENARIOS)
def test_scenario(bench, text, expect, setup):
    bench.load(text)
    bench.run(max_cycles=20000)
    bench.expect(expect)
    assert bench.reason == StopReason.HALTED
    assert bench.reg("rip") == bench.labels["done"] + 1
    wanted = setup.get("regs", {})
    assert {name: bench.reg(name) for name in wanted} == wanted


@pytest.mark.parametrize("write", (True, False), ids=("store", "load"))
def test_the_page_ends_where_it_ends(bench, write):
    """An access that runs over its end is a page fault, as at the end of RAM."""
    move = "mov %rax, (%rbx)" if write else "mov (%rbx), %rax"
    bench.load(f"start: {move}; done: hlt", rbx=APIC_BASE + 0xFFC)
    bench.run()
    bench.expect(f"#PF({2 * write})@start")
    assert bench.taken[0].cr2 == APIC_BASE + 0x1000


@pytest.mark.parametrize(("flag", "expect"), (("sti", "v80@n"), ("cli", "")))
def test_the_timer_wakes_a_sleeping_hart(bench, flag, expect):
    """A run does not end while a timer will wake the hart; it does when interrupts are off."""
    timer = put(At.TIMER_DIVIDE, 0xB) + put(At.LVT_TIMER, 80) + put(At.TIMER_INITIAL, 1000)
    bench.load("h80: " + EOI + ON + timer + f"{flag}; hlt; n: cli; done: hlt")
    bench.run(max_cycles=20000)
    bench.expect(expect)
    assert bench.reason == StopReason.HALTED
