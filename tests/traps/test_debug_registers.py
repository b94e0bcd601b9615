"""Scenarios of the trap semantics, 11.4: debug registers."""

import struct

import pytest
from rows import AMD, BS, CLEAN, INT3, ROW, TF, S, dr6, equal, regs, rsp_kept, run_row
from trapbench import GDT, IDT, MISSING, RAM_END, STACK, STEP

BD = 0xFFFF2FF0

#: A variable to watch.
V = 0x30000

#: Handlers of #DB: one that returns to the instruction without its breakpoint, and one that just returns.
ONCE = "h1: orl $0x10000, 16(%rsp); iretq;"
RETURN = "h1: iretq;"

#: One that steps on as `STEP` does, and lets an instruction breakpoint that it sees in DR6 pass once.
STEP_ONCE = (
    "h1: mov %db6, %r8; mov $0xffff0ff0, %r9d; mov %r9, %db6; test $15, %r8b; jz 2f; orl $0x10000, 16(%rsp);"
    "2: cmpq $done, (%rsp); jne 1f; andl $~0x100, 16(%rsp); 1: iretq;"
)
EXECUTE, WRITE, PORT, ANY = range(4)
LENGTH = {1: 0, 2: 1, 4: 3, 8: 2}


def dr7(kind: int = EXECUTE, length: int = 1, n: int = 0) -> int:
    """DR7 with breakpoint n on (G)."""
    return 0x400 | 2 << 2 * n | kind << 16 + 4 * n | LENGTH[length] << 18 + 4 * n


def at(where: int | str, kind: int = EXECUTE, length: int = 1, **more) -> dict:
    """The set-up with breakpoint 0."""
    return dict(dr0=where, dr7=dr7(kind, length)) | more


def b(*numbers: int) -> int:
    """DR6 with these breakpoints met, from clean."""
    return CLEAN | sum(1 << n for n in numbers)


def stored(address: int, data: bytes):
    """Memory at the end."""
    return lambda bench: equal(bench.engine.read_mem(address, len(data)), data)


REGISTERS = [
    S("start: mov %rax, %db4; mov %db4, %rbx; mov %db6, %rcx; done: hlt", "", {}, regs(rbx=CLEAN, rcx=CLEAN), id="s086-dr4"),
    *(S(f"start: {text}; done: hlt", "#UD@start RF", dict(cr4=0x28), None, id=f"s087-{name}")
      for name, text in (("to-dr4", "mov %rax, %db4"), ("from-dr4", "mov %db4, %rax"),
                         ("to-dr5", "mov %rax, %db5"), ("from-dr5", "mov %db5, %rax"))),
    S("start: mov %rax, %db6; mov %db7, %rbx; done: hlt", "", dict(cr4=0x28), regs(rbx=0x400), id="s087-others-are-there"),
    S("start: mov %rax, %db6; mov %db6, %rbx; done: hlt", "", dict(dr6=0xFFFFEFFF), regs(rbx=CLEAN), id="s088-dr6-0"),
    S("start: mov %rax, %db6; done: hlt", "", dict(rax=0xFFFFFFFF), regs(dr6=0xFFFFEFFF), id="s089-dr6-ones"),
    S("start: mov %rax, %db7; done: hlt", "#GP(0)@start RF", dict(rax=1 << 32), regs(dr7=0x400), id="s090-dr7-high"),
    S("start: mov %rax, %db6; done: hlt", "#GP(0)@start RF", dict(rax=1 << 32), regs(dr6=CLEAN), id="s090-dr6-high"),
    S("start: mov %rax, %db5; done: hlt", "#GP(0)@start RF", dict(rax=1 << 32), regs(dr7=0x400), id="s090-dr5-high"),
    S("start: mov %rax, %db0; mov %db0, %rbx; done: hlt", "", dict(rax=1 << 63), regs(rbx=1 << 63), id="s090-dr0-anything"),
    S("start: mov %rax, %db7; done: hlt", "", dict(rax=0xFFFFDFFF), regs(dr7=0xFFFF07FF), id="s091-dr7-ones"),
]

CODE = [
    S("start: nop; l: inc %ecx; done: hlt", "#DB@l -RF", at("l"), [dr6(b(0)), regs(rcx=0)], id="s092-hit"),
    S("start: nop; l: inc %ecx; done: hlt", "#DB@l -RF", dict(dr3="l", dr7=0x440), dr6(b(3)), id="s092-local-enable"),
    S("start: mov %rax, %db7; l: inc %ecx; done: hlt", "#DB@l -RF", dict(rax=0x402, dr0="l"), dr6(b(0)),
      id="s092-from-the-next-instruction-on"),
    S("start: jmp l; ud2; l: inc %ecx; done: hlt", "#DB@l -RF", at("l"), None, id="s092-jump"),
    S("start: jmp *%rbx", "#DB@RAM_END -RF", at(RAM_END, rbx=RAM_END), dr6(b(0)), id="s092-before-the-fetch-fault"),
    S("start: jmp *%rbx", "#PF(0)@RAM_END RF", at(RAM_END + 1, rbx=RAM_END), dr6(CLEAN), id="s092-elsewhere"),
    S("h1: inc %ebx; cmp $3, %ebx; jne 1f; hlt; 1: iretq; start: nop; l: inc %ecx; hlt", "#DB@l -RF; #DB@l; #DB@l", at("l"),
      regs(rcx=0), id="s093-again"),
    S(ONCE + "start: nop; l: inc %ecx; cmp $2, %ecx; jne l; done: hlt", "#DB@l -RF; #DB@l -RF", at("l"), regs(rcx=2, rflags=0x46),
      id="s094-rf"),
    S(ONCE + "start: nop; l: ud2", "#DB@l -RF; #UD@l RF", at("l"), dr6(b(0), b(0)), id="s095-ud2"),
    S(ONCE + "start: nop; l: mov (%rbx), %rax", "#DB@l -RF; #PF(0)@l RF", at("l", rbx=MISSING), None, id="s095-load"),
    S("start: nop; l: inc %ecx; cli; done: hlt; h1: orl $0x10200, 16(%rsp); iretq; h32: iretq", "#DB@l -RF; v32@l RF IF",
      at("l", events=[("taken", 32)]), regs(rcx=1), id="s096-interrupt-in-between"),
    S("start: sti; nop; l: inc %ecx; cli; done: hlt; h1: orl $0x10000, 16(%rsp); iretq; h32: iretq", "v32@l -RF; #DB@l -RF",
      at("l", events=[("now", 32)]), regs(rcx=1), id="s096-interrupt-first"),
    S("start: nop; l: inc %ecx", "#DB@l", at("l", dr6=BS | 2), dr6(BS | 1), id="s097-stale-bits"),
    S("start: nop; l: .byte 0x66; m: inc %ecx; done: hlt", "#DB@l", at("l"), None, id="s117-first-byte"),
    S("start: nop; l: .byte 0x66; m: inc %ecx; done: hlt", "", at("m"), None, id="s117-opcode-byte"),
    S(STEP_ONCE + "start: nop; l: inc %ecx; done: hlt", "#DB@l TF -RF; #DB@l TF -RF; #DB@done", TF | at("l"),
      [dr6(BS, b(0), BS), regs(rcx=1)], id="s118-step-then-breakpoint"),
    S("start: nop; l: inc %ecx; done: hlt", "#DB@l", dict(dr0="l", dr1="l", dr2="l", dr3="l", dr7=0x488), dr6(b(1, 3)),
      id="s119-code"),
    S("start: iretq; l: nop; done: hlt", "", at("l", stack=["l", 8, 0x10002, 0x7100, 0x10]), None, id="s133-rf"),
    S("start: iretq; l: nop; done: hlt", "#DB@l -RF", at("l", stack=["l", 8, 2, 0x7100, 0x10]), None, id="s133-without-rf"),
    S("start: iretq; l: nop; m: nop; done: hlt", "#DB@m -RF", at("m", stack=["l", 8, 0x10002, 0x7100, 0x10]), None,
      id="s133-the-next-one"),
]

DATA = [
    S("start: mov %rax, (%rbx); n: hlt", "#DB@n -RF", dict(dr1=V, dr7=0x00D0040A, rax=0x1122334455667788, rbx=V),
      [dr6(b(1)), stored(V, struct.pack("<Q", 0x1122334455667788))], id="s098-store"),
    S("start: lock cmpxchg %rcx, (%rbx); n: hlt", "#DB@n", at(V, WRITE, 8, rbx=V, rax=5), [dr6(b(0)), regs(rax=0)],
      id="s098-cmpxchg-that-fails"),
    S("start: incb (%rbx); n: hlt", "#DB@n", at(V, WRITE, rbx=V), dr6(b(0)), id="s098-read-and-write"),
    S("start: push %rax; n: hlt", "#DB@n", at(STACK - 8, WRITE, 8), dr6(b(0)), id="s098-push"),
    S("start: call f; f: hlt", "#DB@f", at(STACK - 8, WRITE, 8), dr6(b(0)), id="s098-call"),
    S(INT3, "#BP@n", at(STACK - 8, WRITE, 8), dr6(CLEAN), id="s098-not-the-frame"),
    S(INT3, "#BP@n", at(IDT + 48, ANY, 8), dr6(CLEAN), id="s098-not-the-gate"),
    S("start: mov %ecx, %ds; done: hlt", "", at(GDT + 16, ANY, 8, rcx=16), None, id="s098-not-the-descriptor"),
    S("start: iretq; l: hlt", "#DB@l", at(0x7000, ANY, 8, stack=["l", 8, 2, 0x7100, 0x10]), dr6(b(0)), id="s100-iretq-pops"),
    S("start: mov (%rbx), %rax; prefetcht0 (%rbx); lea (%rbx), %rcx; done: hlt", "", at(V, WRITE, 4, rbx=V), None, id="s099-load"),
    S("start: prefetcht0 (%rbx); lea (%rbx), %rcx; done: hlt", "", at(V, ANY, 4, rbx=V), None, id="s100-prefetch"),
    *(S(f"start: {name} (%rbx); n: hlt", "#DB@n", at(V, ANY, 4, rbx=V + 3), dr6(b(0)), id=f"s100-{name}")
      for name in ("clflush", "clflushopt", "clwb")),
    S("start: clflush (%rbx); done: hlt", "", at(V, WRITE, 4, rbx=V), None, id="s099-clflush"),
    S("start: lock cmpxchg16b (%rbx); n: hlt", "#DB@n", at(V + 8, WRITE, 8, rbx=V, rax=1), dr6(b(0)),
      id="s098-cmpxchg16b-that-fails"),
    S("start: enter $8, $0; n: hlt", "#DB@n", at(STACK - 8, WRITE, 8), dr6(b(0)), id="s098-enter"),
    S("start: movbe %rax, (%rbx); n: hlt", "#DB@n", at(V + 4, WRITE, 4, rbx=V), dr6(b(0)), id="s098-movbe"),
    S("start: bts %rcx, (%rbx); n: hlt", "#DB@n", at(V + 8, WRITE, 8, rbx=V, rcx=64), dr6(b(0)), id="s098-bit-string"),
    S("start: mov (%rbx), %rax; n: hlt", "#DB@n", at(V, ANY, 4, rbx=V), dr6(b(0)), id="s100-load"),
    S("start: movb $1, (%rbx); n: hlt", "#DB@n", at(V, WRITE, 4, rbx=V + 3), dr6(b(0)), id="s101-last-byte"),
    S("start: movl $1, (%rbx); n: hlt", "#DB@n", at(V, WRITE, 4, rbx=V - 2), dr6(b(0)), id="s102-across-the-start"),
    S("start: movl $1, (%rbx); done: hlt", "", at(V, WRITE, 4, rbx=V - 4), None, id="s103-before"),
    S("start: movl $1, (%rbx); done: hlt", "", at(V, WRITE, 4, rbx=V + 4), None, id="s103-behind"),
    S("start: movb $1, (%rbx); n: hlt", "#DB@n", at(V, WRITE, 8, rbx=V + 7), dr6(b(0)), id="s104-eight"),
    S("start: movb $1, (%rbx); n: hlt", "#DB@n", at(V + 6, WRITE, 8, rbx=V + 1), dr6(b(0)), id="s104-low-bits-ignored"),
    S(RETURN + "start: rep movsb; done: hlt", "#DB@start RF; #DB@start RF; #DB@start RF; #DB@done -RF",
      at(V, WRITE, 4, rcx=4, rsi=0x8000, rdi=V), lambda bench: equal([t.rcx for t in bench.taken], [3, 2, 1, 0]), id="s105-rep"),
    S(RETURN + "start: rep movsb; done: hlt", "#DB@start -RF; #DB@done -RF", at(V, WRITE, 2, rcx=2, rsi=0x8000, rdi=V), None,
      id="s105-rep-amd", marks=AMD),
    S("start: mov %al, (%rbx); n: hlt; h14: mov $0x30000, %ebx; add $8, %rsp; iretq", "#PF(2)@start RF; #DB@n -RF",
      dict(dr0=MISSING, dr1=V, dr7=dr7(WRITE) | dr7(WRITE, n=1), rbx=MISSING), dr6(CLEAN, b(1)), id="s106-fault"),
    S("start: pushq (%rbx); n: hlt", "#PF(2)@start RF", at(V, ANY, 8, rbx=V, rsp=0, gates={14: dict(ist=1)}), [dr6(CLEAN), rsp_kept],
      id="s106-fault-after-the-hit"),
    S(STEP + "start: mov %rax, (%rbx); n: nop; done: hlt", "#DB@n TF; #DB@done", TF | at(V, WRITE, 8, rbx=V), dr6(BS | 1, BS),
      id="s107-step-and-store"),
    S("start: mov %rax, (%rbx); n: hlt", "#DB@n", dict(dr0=V, dr1=V, dr7=dr7(WRITE, n=1) | WRITE << 16, rbx=V), dr6(b(1)),
      id="s119-disabled"),
]

DETECT = [
    S("start: mov %rax, %db6; n: hlt", "#DB@start RF", dict(dr7=0x2400, rax=0xFFFF), [dr6(BD), regs(dr7=0x400)], id="s108-write"),
    S("start: mov %db0, %rax; n: hlt", "#DB@start RF", dict(dr7=0x2400, rax=5), [dr6(BD), regs(dr7=0x400, rax=5)], id="s108-read"),
    S("start: mov %rax, %db7; n: hlt", "#DB@start RF", dict(dr7=0x2400, rax=1 << 32), dr6(BD), id="s108-before-the-high-half"),
    S("start: mov %rax, %db4; n: hlt", "#UD@start RF", dict(dr7=0x2400, cr4=0x28), regs(dr7=0x2400), id="s108-after-ud"),
    S("start: mov %rax, %db6; n: hlt", "#DB@start RF", dict(dr7=0x2400, dr6=b(2, 3)), dr6(BD), id="s108-stale-bits"),
    S(RETURN + "start: mov %rax, %db6; done: hlt", "#DB@start RF", dict(dr7=0x2400), regs(dr6=CLEAN), id="s108-goes-on"),
    *(S(f"start: {text}; n: hlt", expect, dict(dr7=0x2400), regs(dr7=0x2400), id=f"s108-{name}-leaves-gd")
      for name, text, expect in (("int-1", "int $1", "#DB@n"), ("int1", ".byte 0xf1", "#DB@n"))),
    S(STEP + "start: mov %ecx, %ss; g: mov %rdx, %db6; n: nop; done: hlt", "#DB@g TF RF; #DB@n TF -RF; #DB@done",
      TF | dict(rcx=0x10, dr7=0x2400), dr6(BD, BS, BS), id="s109-mov-ss-then-detect"),
]

SHADOWS = [
    S("start: mov %ecx, %ss; l: inc %eax; done: hlt", "", at("l", rcx=0x10), regs(rax=1), id="s110-intel"),
    S("start: mov %ecx, %ss; l: inc %eax; n: hlt", "#DB@l -RF", at("l", rcx=0x10), [dr6(b(0)), regs(rax=0)], id="s110-amd", marks=AMD),
    S("start: mov %ecx, %ss; nop; l: inc %eax; n: hlt", "#DB@l -RF", at("l", rcx=0x10), None, id="s110-one-later"),
    S("start: mov (%rbx), %ss; m: nop; n: hlt", "#DB@n", at(V, ANY, 2, rbx=V), dr6(b(0)), id="s111-nop"),
    S(STEP + "start: mov (%rbx), %ss; m: nop; n: nop; done: hlt", "#DB@n; #DB@done", TF | at(V, ANY, 2, rbx=V), dr6(BS | 1, BS),
      id="s111-stepped"),
    S(RETURN + "start: sti; mov (%rbx), %ss; m: nop; n: cli; done: hlt; h32: iretq", "#DB@n; v32@n",
      at(V, ANY, 2, rbx=V, events=[("now", 32)]), None, id="s111-interrupt-after-it"),
    S("start: mov (%rbx), %ss; mov %ecx, %ss; m: nop; n: hlt", "#DB@m", at(V, ANY, 2, rbx=V), dr6(b(0)), id="s111-two-mov-ss"),
    S("start: mov (%rbx), %ss; mov %ecx, %ss; m: nop; n: hlt", "#DB@n", at(V, ANY, 2, rbx=V), dr6(b(0)), id="s111-two-mov-ss-amd",
      marks=AMD),
    S("start: mov (%rbx), %ss; l: nop; n: hlt", "#DB@l", dict(dr0=V, dr1="l", dr7=dr7(ANY, 2) | dr7(n=1), rbx=V), dr6(b(1)),
      id="s111-breakpoint-on-the-next-amd", marks=AMD),
    S(RETURN + "start: mov (%rbx), %ss; int3; n: inc %eax; done: hlt; h3: inc %ecx; iretq", "#BP@n / -TF; #DB@h3 -RF",
      at(V, ANY, 2, rbx=V), [dr6(CLEAN, b(0)), regs(rcx=1, rax=1), lambda bench: equal(bench.taken[1].frame.cs, 8)],
      id="s112-int3"),
    S(RETURN + "start: mov (%rbx), %ss; int $33; n: nop; done: hlt; h33: iretq", "v33@n; #DB@h33", at(V, ANY, 2, rbx=V),
      dr6(CLEAN, b(0)), id="s112-int-33"),
    S(RETURN + "start: mov (%rbx), %ss; l: int3; n: nop; done: hlt", "#BP@n; #NP(1a)@l RF",
      at(V, ANY, 2, rbx=V, gates={3: dict(p=0)}), dr6(CLEAN, CLEAN), id="s112-delivery-faults"),
    S(RETURN + "start: mov (%rbx), %ss; int $1; n: nop; done: hlt", "#DB@n; #DB@h1", at(V, ANY, 2, rbx=V), dr6(CLEAN, b(0)),
      id="s113-int-1"),
    S(RETURN + "start: mov (%rbx), %ss; .byte 0xf1; n: nop; done: hlt", "#DB@n", at(V, ANY, 2, rbx=V), dr6(CLEAN), id="s114-int1"),
    S(RETURN + "start: mov (%rbx), %ss; l: ud2; n: nop; done: hlt; h6: addq $2, (%rsp); iretq", "#UD@l RF", at(V, ANY, 2, rbx=V),
      dr6(CLEAN), id="s115-ud2"),
    S(RETURN + "start: mov (%rbx), %ss; l: mov (%rcx), %eax; n: nop; done: hlt; h14: add $8, %rsp; addq $2, (%rsp); iretq",
      "#PF(0)@l RF", at(V, ANY, 2, rbx=V, rcx=MISSING), dr6(CLEAN), id="s115-load"),
    S(RETURN + "start: mov (%rbx), %ss; mov %rax, %db6; done: hlt", "#DB@start+2 RF", at(V, ANY, 2, rbx=V) | dict(dr7=dr7(ANY, 2) | 0x2000),
      dr6(BD), id="s109-watched-then-detect"),
]

PORTS = [
    S("start: out %al, $0x80; n: hlt", "#DB@n", at(0x80, PORT, cr4=0x28), dr6(b(0)), id="s120-out"),
    S("start: in $0x80, %al; n: hlt", "#DB@n", at(0x80, PORT, cr4=0x28), dr6(b(0)), id="s120-in"),
    S("start: in (%dx), %ax; n: hlt", "#DB@n", at(0x80, PORT, cr4=0x28, rdx=0x7F), dr6(b(0)), id="s120-second-byte"),
    S("start: out %eax, (%dx); n: hlt", "#DB@n", at(0x82, PORT, 2, cr4=0x28, rdx=0x80), dr6(b(0)), id="s120-last-bytes"),
    S("start: in (%dx), %ax; done: hlt", "", at(0x80, PORT, cr4=0x28, rdx=0x7E), None, id="s120-before"),
    S("start: out %al, $0x80; done: hlt", "", at(0x80, PORT), None, id="s120-without-de"),
    S("start: mov %al, 0x80; mov 0x80, %al; done: hlt", "", at(0x80, PORT, cr4=0x28), None, id="s120-memory"),
    S(RETURN + "start: rep outsb; done: hlt", "#DB@start RF; #DB@done -RF", at(0x80, PORT, cr4=0x28, rcx=2, rdx=0x80, rsi=V), None,
      id="s120-rep-outs"),
    S("start: insb; n: hlt", "#DB@n", at(0x80, PORT, cr4=0x28, rdx=0x80, rdi=V), dr6(b(0)), id="s120-ins"),
    S("start: out %al, $0x80; in $0x80, %al; done: hlt", "", at(0x80, ANY, cr4=0x28), None, id="s120-not-a-data-breakpoint"),
]

STRINGS = [
    S(ONCE + "start: rep movsb; done: hlt", "#DB@start -RF", at("start", rcx=3, rsi=0x8000, rdi=V), regs(rcx=0),
      id="s094-once-for-all-iterations"),
    S(STEP_ONCE + "start: rep movsb; done: hlt", "#DB@start -RF; #DB@start RF; #DB@start RF; #DB@done -RF",
      TF | at("start", rcx=3, rdi=V, rsi=0x8000), None, id="s118-rep"),
]


@pytest.mark.parametrize(ROW, [*REGISTERS, *CODE, *DATA, *DETECT, *SHADOWS, *PORTS, *STRINGS])
def test_scenario(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
