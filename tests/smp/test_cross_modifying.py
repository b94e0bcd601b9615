"""Scenarios of the trap semantics, 11.8, that need a second hart: one changes the code that the other runs."""

import pytest

from hw.bus import APIC_BASE
from hw.lapic import At
from tests.smp.smpbench import SmpBench

#: Lets the writer wait, so that the other hart is well in its loop.
WAIT = ".fill 40, 1, 0x90;"


@pytest.mark.parametrize("pad", (0, 5, 13))
def test_s179_poke_of_int3(smp, cases, pad):
    """s179: while hart 1 loops over A, hart 0 stores CC there, at any distance: it runs the old instruction or takes a #BP."""
    for distance in cases(range(16)):
        bench = smp()
        bench.load(
            f"start0: {WAIT} .fill {distance}, 1, 0x90; movb $0xcc, A; hlt; .balign 64;"
            "h3: inc %r13d; mov (%rsp), %r14; movq $out, (%rsp); iretq; .balign 4096;"
            f"start1: .balign 16; .fill {pad}, 1, 0x90; 1: inc %ecx; A: addl $0x01010101, %ebx; jmp 1b; out: hlt;"
        )
        bench.start(0, 0)
        (mine, others) = bench.traps()
        assert [trap.name for trap in others] == ["#BP"] and not mine
        assert bench.get(1, "r14") == bench.labels["A"] + 1
        done = bench.get(1, "rcx") - 1  # the last turn did not come past A
        assert done > 3 and bench.get(1, "rbx") == 0x01010101 * done & 0xFFFFFFFF


PATCHED = "mov $0x11111111, %eax", "mov $0x22222222, %eax"
NEW = ["b8", "22", "22", "22", "22"]


def victim(pad: int) -> str:
    """Hart 1 runs A again and again and notes in r8 what is neither the old nor the new value; r10 and r11 count these two."""
    return (
        f".balign 4096; start1: .balign 16; .fill {pad}, 1, 0x90; 1: xor %eax, %eax; A: {PATCHED[0]};"
        "cmp $0x11111111, %eax; jne 2f; inc %r10d; jmp 3f; 2: cmp $0x22222222, %eax; jne 4f; inc %r11d; jmp 3f;"
        "4: test %eax, %eax; jz 3f; mov %eax, %r8d; inc %r9d; 3: cmp $20, %r11d; jb 1b; hlt; .balign 4096;"
    )


APIC = f"mov ${APIC_BASE:#x}, %ebp; movl $0x1ff, {At.SVR:#x}(%rbp);"


def sync(number: int) -> str:
    """Hart 0 lets hart 1 serialise, by an interrupt whose handler returns with iretq, and waits until it has."""
    return f"movl $0x1000000, {At.ICR_HIGH:#x}(%rbp); movl $40, {At.ICR_LOW:#x}(%rbp); 1: cmpl ${number}, acks; jb 1b;"


@pytest.mark.parametrize("pad", (0, 9, 11, 12, 13, 14, 15))
def test_s180_text_poke(smp, cases, pad):
    """s180: int3, sync, the tail, sync, the first byte, sync: hart 1 never runs a mixture. At the int3 it waits for the end."""
    for distance in cases(range(0, 12, 3)):
        bench = smp()
        tail = "".join(f"movb $0x{byte}, A+{i};" for i, byte in enumerate(NEW) if i)
        bench.load(
            f"h40: incl acks; movl $0, {At.EOI:#x}(%rbp); iretq; h3: inc %r13d; decq (%rsp); iretq;"
            f"start0: {APIC} {WAIT} .fill {distance}, 1, 0x90; movb $0xcc, A; {sync(1)} {WAIT} {tail} {WAIT} {sync(2)}"
            f"movb $0x{NEW[0]}, A;"
            f"{sync(3)} hlt;" + victim(pad).replace("start1:", f"start1: {APIC} sti;") + "acks: .long 0;"
        )
        bench.start(0, 0, until=40_000)
        assert bench.get(1, "r9") == 0, hex(bench.get(1, "r8"))
        assert bench.get(1, "r10") > 0 and bench.get(1, "r11") == 20
        assert bench.get(1, "r13") > 0, "it has met the int3"


def mixtures(bench: SmpBench, write: str, pad: int, distances: list[int]) -> set[int]:
    """What hart 1 saw that was neither old nor new."""
    seen = set()
    for distance in distances:
        bench.load(f"start0: {WAIT} .fill {distance}, 1, 0x90; {write} hlt;" + victim(pad))
        bench.start(0, 0)
        if bench.get(1, "r9"):
            seen.add(bench.get(1, "r8"))
    return seen


def test_s181_bytes_one_by_one(smp, cases, whole):
    """s181: five bytes stored one by one: hart 1 runs mixtures of old and new bytes."""
    write = "".join(f"movb $0x{byte}, A+{i};" for i, byte in enumerate(NEW))
    seen = mixtures(smp(), write, 0, cases(range(24)))
    assert seen or not whole
    assert all(set(value.to_bytes(4, "little")) == {0x11, 0x22} for value in seen)


def test_s181_two_units(smp, cases, whole):
    """s181: even one store is seen in two parts if it crosses an aligned unit and the instruction two lines of the fetch."""
    write = "mov $0x22222222, %eax; mov %eax, A+1;"
    seen = mixtures(
        smp(), write, 16 - 2 - 3, range(40)
    )  # A at line + 13: the immediate's first two bytes are in its line
    assert seen <= {0x11112222, 0x22221111} and (seen or not whole)


@pytest.mark.parametrize("pad", (6, 14))
def test_s181_an_aligned_unit_is_whole(smp, cases, pad):
    """s181: a store within an aligned unit of 8 bytes is seen whole, wherever the unit lies in the line."""
    write = "movabs $0x22222222, %rax; mov %eax, A+1;"  # `xor` before A: 2 bytes
    seen = mixtures(smp(), write, pad - 2 + 1 & 15, cases(range(40)))
    assert not seen


def test_s183_both_hit_the_same_int3(smp):
    """s183: each has its own #BP, with its own frame."""
    bench = smp()
    text = "start0: mov $0, %eax; jmp A; start1: mov $1, %eax; jmp A; .balign 64; A: int3; hlt; h3: inc %ebx; iretq"
    for distance in (0, 1, 2, 3):
        bench.load(text)
        bench.start(distance, 1)
        both = bench.traps()
        assert [[trap.name for trap in traps] for traps in both] == [["#BP"], ["#BP"]]
        for hart in bench.harts:
            frame = both[hart][0].frame
            assert frame.rip == bench.labels["A"] + 1 and frame.rsp == 0x8000 - 0x800 * hart
            assert (bench.get(hart, "rax"), bench.get(hart, "rbx")) == (hart, 1)


def test_s184_removed_while_in_the_handler(smp):
    """s184: hart 0 takes the int3 out while hart 1 is in its handler: A runs again, and is the original instruction."""
    bench = smp()
    bench.load(
        "start0: 1: cmpl $1, there; jne 1b; movb $0xff, A; movl $1, gone; hlt; .balign 4096;"
        "h3: decq (%rsp); movl $1, there; 1: cmpl $1, gone; jne 1b; iretq; .balign 4096;"
        "start1: mov $5, %eax; A: .byte 0xcc, 0xc0; hlt;"  # inc %eax without its first byte
        ".balign 4096; there: .long 0; .balign 64; gone: .long 0"
    )
    bench.start(0, 0)
    assert [trap.name for trap in bench.traps()[1]] == ["#BP"]
    assert bench.get(1, "rax") == 6 and bench.get(1, "rip") == bench.labels["A"] + 3


#: Hart 1 loops over A and counts in ecx; after `turns` it does something, then loops on until it meets a new A.
STALE = (
    ".weak B; .balign 4096; .fill 48, 1, 0x90; start1: xor %eax, %eax; cpuid; xor %ecx, %ecx; 1: inc %ecx; cmp ${turns}, %ecx; jne 2f; {does}; mov %ecx, %r8d;"
    "2: xor %ebx, %ebx; A: mov $1, %ebx; cmp $1, %ebx; jne 3f; cmp ${limit}, %ecx; jne 1b; 3: hlt; .balign 4096;"
    "here: .quad B, 8, 0x202, 0x7000, 16; zero: .quad 0, 0;"
)
TURNS, LIMIT = 200, 400
SERIALISING = {
    "cpuid": "push %rcx; xor %eax, %eax; cpuid; pop %rcx",
    "iretq": "mov %rsp, %r9; lea here, %rsp; iretq; B: mov %r9, %rsp",
    "mov to cr3": "mov %cr3, %rax; mov %rax, %cr3",
    "invlpg": "invlpg (%rsp)",
    "lidt": "sidt zero; lidt zero",
}
OTHERWISE = {
    "a fence": "mfence",
    "a locked instruction": "lock incl zero",
    "a jump": "jmp 9f; 9:",
    "sti": "sti; nop; cli",
    "an int3": "int3",
}


def stale(smp, does: str) -> tuple[int, int]:
    """Turns with the old A, and the value of the new one, after hart 0 has changed A once hart 1 was well in its loop."""
    bench = smp()
    bench.load(
        ".fill 160, 1, 0x90; h3: mov (%rsp), %rax; mov 24(%rsp), %rsp; jmp *%rax; .balign 64;"  # no iretq, and no line of the loop's
        f"start0: {WAIT} {WAIT} movl $2, A+1; hlt;" + STALE.format(turns=TURNS, limit=LIMIT, does=does)
    )
    bench.start(0, 0, until=60_000)
    return bench.get(1, "rcx"), bench.get(1, "rbx")


@pytest.mark.config(stale_lines=16)
@pytest.mark.parametrize("name", SERIALISING)
def test_s182_new_after_serialising(smp, name):
    """s182, stale mode: hart 1 runs the old code until it serialises, and then the new."""
    assert stale(smp, SERIALISING[name]) == (TURNS, 2)


@pytest.mark.config(stale_lines=16)
@pytest.mark.parametrize("name", OTHERWISE)
def test_s182_old_without(smp, name):
    """s182, stale mode: fences, locked instructions, jumps and traps by themselves serialise nothing."""
    assert stale(smp, OTHERWISE[name]) == (LIMIT, 1)


def test_s182_natural(smp):
    """s182 without kept lines: the branch of the loop fetches A again, so the new code comes within a turn or two."""
    turns, value = stale(smp, "nop")
    assert value == 2 and turns < TURNS


@pytest.mark.config(stale_lines=16)
@pytest.mark.parametrize("distance", range(0, 9, 2))
def test_s182_own_stores_are_seen(smp, distance):
    """Kept lines do not hide a hart's own stores from it."""
    bench = smp()
    nops = ".fill 5, 1, 0x90;"
    bench.load(
        f".balign 64; start0: mov $8, %ecx; 1: incb A+1; .fill {distance}, 1, 0x90; {nops} A: mov $0, %al; add %al, %bl; dec %ecx;"
        "jnz 1b; hlt; start1: hlt"
    )
    bench.start(0, 0)
    assert bench.get(0, "rbx") == sum(range(1, 9))
