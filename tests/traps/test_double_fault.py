"""Scenarios of the trap semantics, 11.7: double and triple fault, page faults."""

import struct

import pytest
from rows import BAD_LOAD, BAD_STACK, DE, INT3, NP, ROW, SHUT, UD, S, cr2, equal, regs, rsp_kept, run_row
from trapbench import MISSING, RAM_END

DOUBLE = [
    S(DE, "#DE@start; #DF(0)@start -RF", dict(gates={0: NP}), None, id="s163-de-np"),
    S("start: div %rcx; n: hlt; h14: movq $0x7000, 32(%rsp); add $8, %rsp; iretq", "#DE@start; #PF(2)@start RF; #DE@start RF",
      BAD_STACK | dict(gates={14: dict(ist=1)}), None, id="s164-de-pf-serial"),
    S("start: int $33; n: hlt; h14: movq $0x7000, 32(%rsp); add $8, %rsp; iretq",
      "v33@n; #NP(30)@start; #PF(2)@start RF; v33@n; #NP(30)@start RF",
      BAD_STACK | dict(gates={14: dict(ist=1), 33: dict(sel=0x30)}), None, id="s165-np-pf-serial"),
    S(BAD_LOAD, "#PF(0)@start; #DF(0)@start", dict(rbx=MISSING, gates={14: NP}), cr2(MISSING), id="s166-pf-np"),
    S(BAD_LOAD, "#PF(0)@start; #DF(0)@start", BAD_STACK | dict(rbx=MISSING, gates={8: dict(ist=1)}),
      [regs(cr2=(1 << 64) - 8), rsp_kept], id="s167-pf-pf"),
    S(UD, "#UD@start; #NP(33)@start RF", dict(gates={6: NP}), None, id="s168-ud-np"),
    S(INT3, "#BP@n; #NP(1a)@start RF", dict(gates={3: NP}), None, id="s169-bp-np"),
    S(DE, "#DE@start; #DF(0)@start; #NP(43)@start", SHUT | dict(gates={0: NP, 8: NP}), None, id="s170-triple"),
    S(DE, "#DE@start; #DF(0)@start; #PF(2)@start", SHUT | dict(gates={0: NP, 8: dict(ist=1)}, mem={0x3024: struct.pack("<Q", MISSING)}),
      None, id="s170-triple-page-fault"),
    S("start: div %rcx; done: hlt; h2: movq $done, (%rsp); iretq", "#DE@start; #DF(0)@start; #NP(43)@start; NMI@start -RF",
      dict(gates={0: NP, 8: NP}, events=[("down", "nmi")]), None, id="s172-nmi-ends-a-shutdown"),
    S("start: nop; l: .fill 12, 1, 0x90; done: hlt; h2: div %rcx", "NMI@*; #DE@h2; #DF(0)@h2; #NP(43)@h2",
      SHUT | dict(gates={0: NP, 8: NP}, events=[("l", "nmi"), ("down", "nmi")]), None, id="s172-not-while-one-is-in-service"),
    S("start: div %rcx; h2: hlt", "#DE@start; #DF(0)@start; #NP(43)@start; NMI@start; #NP(13)@start RF",
      dict(gates={0: NP, 2: NP, 8: NP}, events=[("down", "nmi")]), None, id="s172-nmi-that-faults"),
    S(DE, "#DE@start; #DF(0)@start; #PF(0)@MISSING RF", dict(gates={0: NP, 8: dict(offset=MISSING)}), cr2(MISSING),
      id="s171-df-handler-faults"),
    S("start: mov %rax, (%rbx); n: hlt", "#PF(2)@start RF", dict(rbx=RAM_END - 4, rax=-1 & ((1 << 64) - 1)),
      [cr2(RAM_END), lambda b: equal(b.engine.read_mem(RAM_END - 4, 4), bytes(4))], id="s174-split-store"),
    S("start: add %rax, (%rbx); n: hlt", "#PF(2)@start RF", dict(rbx=RAM_END - 1), cr2(RAM_END), id="s174-split-rmw"),
    S("start: mov (%rbx), %ax; n: hlt", "#PF(0)@start RF", dict(rbx=RAM_END - 1), cr2(RAM_END), id="s174-split-load"),
    S("h1: hlt", "#PF(0)@RAM_END+-1 RF", dict(mem={RAM_END - 1: b"\x0f"}, rip=RAM_END - 1), cr2(RAM_END), id="s174-split-fetch"),
]


@pytest.mark.parametrize(ROW, DOUBLE)
def test_scenario(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
