"""Loads and stores of several harts: only outcomes that x86's total store order allows (SDM vol. 3, 8.2.3), from every start.

Each litmus test runs with the harts started at all distances in a range, cycle by cycle, on memories with and without waits.
What a test forbids must not be seen; what it calls relaxed is allowed, and must be seen, so that the distances are known to reach
the point where the order is decided.
"""

from typing import NamedTuple

import pytest

#: On a page of its own: a store to a page with code makes its hart fetch again, and its loads wait that long.
DATA = "; .balign 4096; x: .long 0; .balign 64; y: .long 0; .balign 64"
SEEDS = (None, 3, 4)


class Litmus(NamedTuple):
    """Programs of the harts; what is looked at in the end: ``0:eax`` is a register of hart 0, ``x`` memory."""

    programs: tuple[str, ...]
    looks: tuple[str, ...]
    forbidden: set[tuple[int, ...]]
    relaxed: set[tuple[int, ...]] = set()


def store(where: str, value: int = 1) -> str:
    return f"movl ${value}, {where}(%rip);"


def load(where: str, register: str = "eax") -> str:
    return f"mov {where}(%rip), %{register};"


def exchange(where: str, value: int = 1) -> str:
    return f"mov ${value}, %edx; xchg %edx, {where}(%rip);"


BOTH = ("0:eax", "1:eax")
LITMUS = {
    "store-buffering": Litmus((store("x") + load("y"), store("y") + load("x")), BOTH, set(), {(0, 0)}),
    "store-buffering-mfence": Litmus(
        (store("x") + "mfence;" + load("y"), store("y") + "mfence;" + load("x")), BOTH, {(0, 0)}
    ),
    "store-buffering-one-mfence": Litmus(
        (store("x") + "mfence;" + load("y"), store("y") + load("x")), BOTH, set(), {(0, 0)}
    ),
    "store-buffering-xchg": Litmus((exchange("x") + load("y"), exchange("y") + load("x")), BOTH, {(0, 0)}),
    "store-buffering-locked": Litmus(
        (store("x") + "lock orl $0, (%rsp);" + load("y"), store("y") + "lock orl $0, (%rsp);" + load("x")),
        BOTH,
        {(0, 0)},
    ),
    "store-buffering-then-locked-load": Litmus(
        (store("x") + "lock xadd %eax, y(%rip);", store("y") + "lock xadd %eax, x(%rip);"), BOTH, {(0, 0)}
    ),
    "store-buffering-cpuid": Litmus(
        (store("x") + "xor %eax, %eax; cpuid;" + load("y"), store("y") + "xor %eax, %eax; cpuid;" + load("x")),
        BOTH,
        {(0, 0)},
    ),
    "store-forwarding": Litmus(  # each sees its own store before the other's
        (store("x") + load("x") + load("y", "ebx"), store("y") + load("y") + load("x", "ebx")),
        ("0:eax", "1:eax", "0:ebx", "1:ebx"),
        {(a, b, c, d) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1) if not (a and b)},
    ),
    "message-passing": Litmus((store("x") + store("y"), load("y") + load("x", "ebx")), ("1:eax", "1:ebx"), {(1, 0)}),
    "message-passing-rep": Litmus(  # the string instruction's stores are in order here
        ("lea x(%rip), %rdi; mov $1, %eax; mov $17, %ecx; rep stosl;", load("y") + load("x", "ebx")),
        ("1:eax", "1:ebx"),
        {(1, 0)},
    ),
    "load-buffering": Litmus((load("x") + store("y"), load("y") + store("x")), BOTH, {(1, 1)}),
    "two-and-two-writes": Litmus((store("x") + store("y", 2), store("y") + store("x", 2)), ("x", "y"), {(1, 1)}),
    "store-after-load": Litmus((store("x", 2) + store("y"), load("y") + store("x")), ("1:eax", "x"), {(1, 2)}),
    "read-after-write": Litmus((store("x") + store("y"), store("y", 2) + load("x")), ("y", "1:eax"), set(), {(2, 0)}),
    "read-after-write-mfence": Litmus(
        (store("x") + store("y"), store("y", 2) + "mfence;" + load("x")), ("y", "1:eax"), {(2, 0)}
    ),
    "independent-reads": Litmus(
        (store("x"), store("y"), load("x") + load("y", "ebx"), load("y") + load("x", "ebx")),
        ("2:eax", "2:ebx", "3:eax", "3:ebx"),
        {(1, 0, 1, 0)},
    ),
}
TWO = {name: test for name, test in LITMUS.items() if len(test.programs) == 2}


def outcome(bench, looks):
    value = []
    for look in looks:
        hart, _, register = look.rpartition(":")
        value.append(bench.get(int(hart), "r" + register[1:]) if hart else bench.long(look))
    return tuple(value)


def run(bench, test, distances):
    """Outcomes over all distances; the harts after the first two start with them, in turn."""
    text = "".join(f"start{i}: {program} hlt; .balign 64;" for i, program in enumerate(test.programs)) + DATA
    seen = {}
    for distance in distances:
        bench.load(text)
        first = (max(0, -distance), max(0, distance))
        bench.start(*(first[i % 2] for i in range(len(test.programs))))
        seen.setdefault(outcome(bench, test.looks), []).append(distance)
    return seen


def check(test, seen):
    assert not test.forbidden & set(seen), f"forbidden: {seen}"


@pytest.mark.parametrize("name", TWO)
def test_litmus(smp, name, cases, whole):
    test, seen = TWO[name], {}
    for seed in SEEDS if whole else SEEDS[:1]:
        for found, distances in run(smp(wait_seed=seed), test, cases(range(-24, 25))).items():
            seen.setdefault(found, []).append((seed, distances))
    check(test, seen)
    assert test.relaxed <= set(seen) or not whole
    if whole and name != "store-forwarding":
        assert len(seen) > 1, f"the distances decide nothing: {seen}"


@pytest.mark.slow
def test_independent_reads(smp, cases, whole):
    """Four harts: two that read two stores agree on their order."""
    test, seen = LITMUS["independent-reads"], {}
    for seed in SEEDS if whole else SEEDS[:1]:
        seen |= run(smp(harts=4, wait_seed=seed), test, cases(range(-12, 13)))
    check(test, seen)
    assert len(seen) > 1
