"""Scenarios of the trap semantics, 11.1: gates, frames, descriptor tables."""

import struct

import pytest
from rows import BAD_STACK, INT3, INT33, ROW, SHUT, UD, S, cr2, equal, frame_at, regs, rsp_kept, run_row
from trapbench import IST, MISSING, NONCANONICAL, RAM_END

FRAMES = [
    S(INT3, "#BP@n -RF", dict(rsp=0x7238), frame_at(0x7230), id="s001-frame"),
    S(INT3, "#BP@n", dict(rsp=0x7230), frame_at(0x7230), id="s002-aligned-stack"),
    S("start: mov (%rbx), %rax", "#GP(0)@start RF", dict(rsp=0x7238, rbx=NONCANONICAL), frame_at(0x7230, True),
      id="s003-error-code"),
    S(INT3, "#BP@n IF / -IF", dict(flags="IF"), None, id="s004-interrupt-gate"),
    S(INT3, "#BP@n IF / IF", dict(flags="IF", gates={3: dict(type=0xF)}), None, id="s005-trap-gate"),
    S(INT3, "#BP@n TF NT AC DF IOPL -RF / -TF -NT -RF AC DF IOPL", dict(flags="TF NT AC DF IOPL"), None, id="s006-flags"),
    S(INT33, "v33@n; #GP(10a)@start RF", dict(idt_limit=16 * 33 + 14), rsp_kept, id="s007-limit"),
    S(INT3, "#BP@n; #GP(1a)@start; #DF(0)@start; #GP(43)@start", SHUT | dict(idt_limit=16 * 3 + 14), None,
      id="s007-limit-of-everything"),
    S(INT3, "#BP@n", dict(idt_limit=16 * 3 + 15), None, id="s008-limit-enough"),
    *(S(INT3, "#BP@n; #GP(1a)@start RF", dict(gates={3: what}), rsp_kept, id=f"s009-{name}")
      for name, what in (("task-gate", dict(type=5)), ("16-bit", dict(type=6)), ("16-bit-trap", dict(type=7)),
                         ("call-gate", dict(type=0xC)), ("s-bit", dict(s=1)), ("type-0", dict(type=0)))),
    S(INT3, "#BP@n; #NP(1a)@start RF", dict(gates={3: dict(p=0)}), None, id="s010-not-present"),
    S(INT33, "v33@n; #GP(0)@start RF", dict(gates={33: dict(sel=0)}), None, id="s018-null-selector"),
    S(INT33, "v33@n; #GP(0)@start RF", dict(gates={33: dict(sel=3)}), None, id="s018-null-selector-rpl3"),
    S(UD, "#UD@start; #GP(1)@start RF", dict(gates={6: dict(sel=0)}), None, id="s018-null-selector-fault"),
    S(INT33, "v33@n; #GP(1238)@start", dict(gates={33: dict(sel=0x123B)}), None, id="s019-beyond-gdt"),
    S(UD, "#UD@start; #GP(1239)@start", dict(gates={6: dict(sel=0x123B)}), None, id="s019-beyond-gdt-fault"),
    S(INT33, "v33@n; #GP(10)@start", dict(gates={33: dict(sel=0x10)}), None, id="s020-data-segment"),
    S(INT33, "v33@n; #GP(28)@start", dict(gates={33: dict(sel=0x28)}), None, id="s021-32-bit-code"),
    S(INT33, "v33@n; #NP(30)@start", dict(gates={33: dict(sel=0x30)}), None, id="s022-code-not-present"),
    S(UD, "#UD@start; #NP(31)@start", dict(gates={6: dict(sel=0x30)}), None, id="s022-code-not-present-fault"),
    S(INT33, "v33@n; #GP(38)@start", dict(gates={33: dict(sel=0x38)}), None, id="s023-dpl-3-code"),
    S(INT33, "v33@n; #GP(0)@start", dict(gates={33: dict(offset=NONCANONICAL)}), rsp_kept, id="s025-offset"),
    S(UD, "#UD@start; #GP(1)@start", dict(gates={6: dict(offset=NONCANONICAL)}), rsp_kept, id="s025-offset-fault"),
    S(INT3, "#BP@n", dict(gates={3: dict(ist=2)}, rsp=0x7238, mem={0x302C: struct.pack("<Q", 0x9F88)}), frame_at(0x9F80),
      id="s026-ist"),
    S(INT3, "#BP@n; #TS(18)@start RF", dict(gates={3: dict(ist=7)}, tr_limit=0x5A), rsp_kept, id="s027-tss-limit"),
    S(UD, "#UD@start; #TS(19)@start RF", dict(gates={6: dict(ist=7)}, tr_limit=0x5A), None, id="s027-tss-limit-fault"),
    S(INT3, "#BP@n", dict(gates={3: dict(ist=7)}, tr_limit=0x5B), frame_at(IST[7]), id="s027-tss-limit-enough"),
    S(INT3, "#BP@n; #PF(2)@start RF", BAD_STACK | dict(gates={14: dict(ist=1)}),
      [cr2((1 << 64) - 8), rsp_kept], id="s030-push-faults"),
    S(INT33, "v33@n; #PF(0)@start RF", dict(idt=RAM_END - 16 * 33), cr2(RAM_END), id="s031-gate-missing"),
    S(INT33, "v33@n; #PF(0)@start RF", dict(idt=RAM_END - 16 * 33 - 8), cr2(RAM_END), id="s031-half-a-gate-missing"),
    S(INT3, "#BP@n; #PF(0)@start; #DF(0)@start; #PF(0)@start", SHUT | dict(idt_base=MISSING),
      cr2(MISSING + 3 * 16, MISSING + 8 * 16), id="s031-idt-missing"),
    S(INT3, "#BP@n; #GP(0)@start; #DF(0)@start; #GP(1)@start", SHUT | dict(idt_base=NONCANONICAL), None,
      id="s031-idt-noncanonical"),
    S("start: int $14; n: hlt", "#PF@n -RF", dict(rsp=0x7230), frame_at(0x7230), id="s032-int-14"),
    S("start: int $8; n: hlt", "#DF@n -RF", dict(rsp=0x7230), frame_at(0x7230), id="s032-int-8"),
    S("start: int3; n: hlt; h3: int $33; m: hlt", "#BP@n; v33@m", dict(gates={3: dict(ist=1), 33: dict(ist=1)}),
      lambda b: equal(b.taken[0].frame.at, b.taken[1].frame.at), id="s034-same-ist"),
    S(INT3, "#BP@n", dict(fs_base=0x1234567, gs_base=0xFFFF888800000000, ds=0x10, es=0, fs=0x13, gs=0x2B),
      regs(fs_base=0x1234567, gs_base=0xFFFF888800000000, ds=0x10, es=0, fs=0x13, gs=0x2B, ss=0x10, cs=8),
      id="s035-segments"),
]

#: A descriptor of a TSS that nobody uses yet, at 0x58, one not present at 0x68, and a busy one is 0x18.
_TSS = {0x2058: struct.pack("<QQ", 0x12CD89AB67899FFF | 1 << 55, 0xFFFF8000),
        0x2068: struct.pack("<QQ", 0x000009AB67890067, 0)}

TABLES = [
    S("start: mov $0x58, %eax; ltr %ax; done: hlt", "", dict(mem=_TSS),
      [regs(tr=0x58, tr_base=0xFFFF800012AB6789, tr_limit=0xD9FFFFFF),
       lambda b: equal(b.quad(0x2058) >> 40 & 0xFF, 0x8B)], id="s027-ltr"),
    S("start: ltr %ax; done: hlt", "#GP(18)@start RF", dict(rax=0x18), regs(tr=0x18), id="s027-ltr-busy"),
    S("start: ltr %ax; done: hlt", "#GP(0)@start RF", dict(rax=3), None, id="s027-ltr-null"),
    S("start: ltr %ax; done: hlt", "#GP(10)@start RF", dict(rax=0x10), None, id="s027-ltr-data"),
    S("start: ltr %ax; done: hlt", "#GP(f8)@start RF", dict(rax=0xF8), None, id="s027-ltr-half-beyond"),
    S("start: ltr %ax; done: hlt", "#NP(68)@start RF", dict(rax=0x68, mem=_TSS), None, id="s027-ltr-not-present"),
    S("start: lidt x; lgdt y; sidt z; sgdt z+16; done: hlt; x: .word 0x123; .quad 0x1122; y: .word 0xff; .quad 0x2000;"
      "z: .zero 32", "", {}, [regs(idt_base=0x1122, idt_limit=0x123), lambda b: equal(
          b.engine.read_mem(b.labels["z"], 26), struct.pack("<HQ6xHQ", 0x123, 0x1122, 0xFF, 0x2000))], id="s007-lidt-sidt"),
    S("start: lidt x; done: hlt; x: .word 0x123; .quad 1 << 63", "#GP(0)@start RF", {}, regs(idt_base=0x1000, idt_limit=0xFFF),
      id="s031-lidt-noncanonical"),
    S("start: lgdt x; done: hlt; x: .word 0x123; .quad 1 << 63", "#GP(0)@start RF", {}, regs(gdt_base=0x2000), id="s019-lgdt"),
    S(INT3, "#BP@n; #SS(0)@start RF", dict(gates={3: dict(ist=2)}, mem={0x302C: struct.pack("<Q", NONCANONICAL)}), rsp_kept,
      id="s026-ist-noncanonical"),
    S(UD, "#UD@start; #SS(1)@start RF", dict(gates={6: dict(ist=2)}, mem={0x302C: struct.pack("<Q", NONCANONICAL)}), rsp_kept,
      id="s026-ist-noncanonical-fault"),
    S(INT3, "#BP@n; #PF(0)@start RF", dict(gates={3: dict(ist=2)}, tr_base=MISSING), cr2(MISSING + 0x2C), id="s026-tss-missing"),
    S(INT33, "v33@n; #PF(0)@start; #DF(0)@start; #PF(0)@start", SHUT | dict(gdt_base=MISSING),
      lambda b: equal(b.reg("cr2"), MISSING + 8), id="s019-gdt-missing"),
    S("start: lretq; l: nop; done: hlt", "", dict(stack=["l", 8]), regs(rsp=0x7010, cs=8), id="s122-lret"),
    S("start: lretq $24; l: nop; done: hlt", "", dict(stack=["l", 8]), regs(rsp=0x7028), id="s122-lret-imm"),
    S("start: lretq", "#GP(10)@start RF", dict(stack=["start", 0x10]), rsp_kept, id="s124-lret-data"),
    S("start: lretq", "#GP(0)@start RF", dict(stack=[NONCANONICAL, 8]), rsp_kept, id="s126-lret-rip"),
]


@pytest.mark.parametrize(ROW, [*FRAMES, *TABLES])
def test_scenario(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
