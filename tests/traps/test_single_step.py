"""Scenarios of the trap semantics, 11.3: single step."""

import pytest
from rows import AMD, BAD_LOAD, BS, CLEAN, DE, IRET_FRAME, ROW, TF, UD, S, cr2, dr6, equal, regs, run_row
from trapbench import MISSING, RAM_END, STACK, STEP

STEPS = [
    S(STEP + "start: pushfq; orl $0x100, (%rsp); popfq; nop; a: nop; done: hlt", "#DB@a TF -RF / -TF; #DB@done TF", {},
      dr6(BS, BS), id="s054-popf"),
    S(STEP + "start: iretq; l: nop; done: hlt", "#DB@done TF", dict(stack=["l", 8, 0x102, 0x7100, 0x10]),
      regs(rsp=0x7100), id="s055-iretq-sets"),
    S(STEP + "start: popfq; n: nop; done: hlt", "#DB@n -TF", TF | dict(stack=[2]), None, id="s056-popf-clears"),
    S(STEP + "start: iretq; l: nop; done: hlt", "#DB@l -TF", TF | dict(stack=IRET_FRAME), None, id="s057-iretq-clears"),
    S(STEP + "start: jmp l; int3; l: nop; done: hlt", "#DB@l TF; #DB@done", TF, None, id="s058-jump"),
    S(STEP + "start: call f; r: nop; done: hlt; f: nop; g: ret", "#DB@f; #DB@g; #DB@r; #DB@done", TF, None, id="s059-call"),
    S(STEP + "start: int3; n: nop; done: hlt; h3: iretq", "#BP@n TF; #DB@done TF", TF, None, id="s060-int3"),
    S(STEP + "start: int $64; n: nop; done: hlt; h64: nop; nop; iretq", "v64@n TF; #DB@done TF", TF, None, id="s061-int"),
    S(STEP + "start: .byte 0xf1; n: nop; done: hlt", "#DB@n TF; #DB@done", TF, dr6(CLEAN, BS), id="s062-int1"),
    S(STEP + "start: mov %ecx, %ss; m: nop; done: hlt", "#DB@done TF", TF | dict(rcx=0x10), None, id="s063-mov-ss"),
    S(STEP + "start: mov %ecx, %ss; mov %ecx, %ss; n: nop; done: hlt", "#DB@n TF; #DB@done", TF | dict(rcx=0x10), None,
      id="s064-two-mov-ss"),
    S(STEP + "start: mov %ecx, %ss; mov %ecx, %ss; mov %ecx, %ss; n: nop; done: hlt", "#DB@done TF", TF | dict(rcx=0x10), None,
      id="s064-three-mov-ss-amd", marks=AMD),
    S(STEP + "start: mov %ecx, %ss; mov %ecx, %ss; mov %ecx, %ss; n: nop; done: hlt", "#DB@start+4 TF; #DB@done",
      TF | dict(rcx=0x10), None, id="s064-three-mov-ss"),
    S(STEP + "start: mov %ecx, %ds; n: nop; done: hlt", "#DB@n TF; #DB@done", TF | dict(rcx=0x10), None, id="s063-mov-ds"),
    S(STEP + "start: sti; a: and %eax, %eax; done: hlt", "#DB@a TF IF; #DB@done TF IF", TF, None, id="s067-sti"),
    S(STEP + "start: cli; done: hlt", "#DB@done TF -IF", dict(flags="TF IF"), None, id="s067-cli"),
    S(STEP + "start: rep movsb; done: hlt", "#DB@start RF TF; #DB@start RF; #DB@done -RF",
      TF | dict(rcx=3, rsi=0x30000, rdi=0x30100), lambda b: equal([t.rcx for t in b.taken], [2, 1, 0]), id="s068-rep"),
    S(STEP + "start: rep movsb; done: hlt", "#DB@start -RF TF; #DB@start -RF; #DB@done -RF",
      TF | dict(rcx=3, rsi=0x30000, rdi=0x30100), None, id="s068-rep-amd", marks=AMD),
    S(STEP + "start: rep movsb; done: hlt", "#DB@done -RF", TF | dict(rsi=0x30000, rdi=0x30100), None, id="s069-rep-0"),
    S(STEP + "start: repe cmpsb; done: hlt", "#DB@start RF; #DB@done -RF",
      TF | dict(rcx=5, rsi=0x30000, rdi=0x30100, mem={0x30000: b"ab", 0x30100: b"ac"}), regs(rcx=3), id="s070-cmps"),
    S(UD, "#UD@start TF RF", TF, dr6(CLEAN), id="s071-ud2"),
    S(STEP + BAD_LOAD + "h14: mov $0x8000, %ebx; add $8, %rsp; iretq", "#PF(0)@start TF RF; #DB@n TF; #DB@done",
      TF | dict(rbx=MISSING), None, id="s072-restarted"),
    S(DE, "#DE@start TF RF", TF, dr6(CLEAN), id="s073-de"),
    S(STEP + "start: cpuid; a: in $0x80, %al; b: rdtsc; c: mfence; d: pause; e: xchg %rax, (%rsp); f: leave; done: hlt",
      "#DB@a; #DB@b; #DB@c; #DB@d; #DB@e; #DB@f; #DB@done", TF | dict(rbp=STACK), None, id="s074-odd-ones"),
    S(STEP + "start: hlt; n: nop; done: hlt", "#DB@n TF; #DB@done", TF, None, id="s075-hlt"),
    S(STEP + "start: nop; a: nop; b: nop; c: nop; done: hlt", "#DB@a; #DB@b; #DB@c; #DB@done", TF, None, id="s082-on"),
    S("h1: iretq", "#DB@RAM_END TF -RF; #PF(0)@RAM_END TF RF",
      TF | dict(mem={RAM_END - 1: b"\x90"}, rip=RAM_END - 1), cr2(RAM_END), id="s083-fetch-fault"),
    S(STEP + "start: loop start; done: hlt", "#DB@start; #DB@start; #DB@done", TF | dict(rcx=3), None, id="s084-loop"),
    S("start: pushfq; done: hlt", "#DB@done TF", TF, lambda b: equal(b.quad(STACK - 8), 0x102), id="s053-pushf-image"),
]

STRINGS = [
    S("start: rep stosb; done: hlt", "#PF(2)@start RF", dict(rcx=8, rdi=RAM_END - 3, rax=0x5A),
      [regs(rcx=5, rdi=RAM_END), cr2(RAM_END)], id="s149-rep-faults"),
    S("start: rep stosb; done: hlt; h14: mov $0x30000, %edi; add $8, %rsp; iretq", "#PF(2)@start RF",
      dict(rcx=8, rdi=RAM_END - 3, rax=0x5A), lambda b: equal(b.engine.read_mem(0x30000, 6), b"ZZZZZ\0"), id="s149-rep-goes-on"),
    S(STEP + "start: rep stosb; done: hlt", "#DB@start RF; #DB@start RF; #PF(2)@start RF TF",
      TF | dict(rcx=8, rdi=RAM_END - 2), None, id="s072-rep-stepped-and-faulting"),
    S(STEP + "start: movsb; a: lodsq; b: stosw; c: scasb; d: cmpsl; done: hlt", "#DB@a; #DB@b; #DB@c; #DB@d; #DB@done",
      TF | dict(rsi=0x30000, rdi=0x30100), None, id="s068-without-rep"),
    S(STEP + "start: pushq (%rsp); a: popq (%rsp); b: mul %rcx; c: xadd %rax, (%rsp); d: call *t; done: hlt; t: .quad f;"
      "f: leave; g: ret $0", "#DB@a; #DB@b; #DB@c; #DB@d; #DB@f; #DB@g; #DB@done",
      TF | dict(rbp=STACK - 24, rsp=STACK - 8), None, id="s074-routines"),
]


@pytest.mark.parametrize(ROW, [*STEPS, *STRINGS])
def test_scenario(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
