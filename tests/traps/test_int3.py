"""Scenarios of the trap semantics, 11.2: the int3 family."""

import pytest
from rows import BS, CLEAN, INT3, ROW, S, cr2, dr6, equal, regs, run_row
from trapbench import CODE, RAM_END, STACK

BREAKPOINTS = [
    S(INT3, "#BP@n -RF", {}, None, id="s037-int3"),
    S("start: .byte 0xcd, 3; n: hlt", "#BP@n", {}, lambda b: equal(b.taken[0].rip, CODE + 2), id="s038-int-3"),
    S("start: .byte 0x66, 0xcc; n: hlt", "#BP@n", {}, lambda b: equal(b.taken[0].rip, CODE + 2), id="s039-prefix"),
    S("start: .fill 14, 1, 0x2e; int3; n: hlt", "#BP@n", {}, lambda b: equal(b.taken[0].rip, CODE + 15),
      id="s039-14-prefixes"),
    S("start: .fill 15, 1, 0x2e; int3; n: hlt", "#GP(0)@start RF", {}, None, id="s040-too-long"),
    S("start: .byte 0xf0, 0xcc", "#UD@start RF", {}, None, id="s041-lock"),
    S("start: .byte 0xce", "#UD@start RF", {}, None, id="s042-into"),
    S("start: .byte 0xf1; n: hlt", "#DB@n -RF", {}, dr6(CLEAN), id="s043-int1"),
    S("start: .byte 0xf1; n: hlt", "#DB@n", dict(dr6=BS), dr6(BS), id="s044-int1-dr6"),
    S("start: .byte 0xf1; n: hlt", "#DB@n; #NP(b)@start", dict(gates={1: dict(p=0)}), None, id="s015-int1-ext"),
    S("start: .byte 0xcc, 0xc0; done: hlt; h3: movb $0xff, start; decq (%rsp); iretq", "#BP@start+1", {}, regs(rax=1),
      id="s045-restored"),
    S("start: int3; .zero 6; done: hlt; x: .quad 0x1122334455667788; h3: mov x, %rax; addq $6, (%rsp); iretq",
      "#BP@start+1", {}, regs(rax=0x1122334455667788), id="s046-emulated"),
    S("h3: iretq", "#BP@RAM_END; #PF(0)@RAM_END RF", dict(mem={RAM_END - 1: b"\xcc"}, rip=RAM_END - 1), cr2(RAM_END),
      id="s047-last-byte"),
    S("start: int3; int3; int3; done: hlt; h3: iretq", "#BP@start+1; #BP@start+2; #BP@start+3", {}, None, id="s048-three"),
    S("start: int3; n: inc %ecx; hlt; h3: inc %ebx; cmp $1, %ebx; jne 1f; int3; m: nop; 1: iretq", "#BP@n; #BP@m", {},
      regs(rbx=2, rcx=1, rsp=STACK), id="s049-nested"),
]


@pytest.mark.parametrize(ROW, BREAKPOINTS)
def test_scenario(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
