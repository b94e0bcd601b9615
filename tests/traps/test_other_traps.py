"""Scenarios of the trap semantics, 11.9: flags, segment loads, non-canonical addresses."""

import pytest
from rows import ROW, S, equal, regs, rsp_kept, run_row
from trapbench import CODE, NONCANONICAL

OTHERS = [
    S("start: shl %cl, %eax; done: hlt", "", dict(rax=0x1234567890ABCDEF, rflags=0x8D7), regs(rax=0x90ABCDEF, rflags=0x8D7),
      id="s185-shl-0"),
    S("start: bsf %ebx, %eax; done: hlt", "", dict(rax=0x1234567890ABCDEF), lambda b: equal(
        (b.reg("rflags") & 0x40, b.reg("rax")), (0x40, 0x1234567890ABCDEF)), id="s186-bsf-0"),
    S("start: and %ebx, %eax; done: hlt", "", dict(rax=0xFF00000001, rbx=3, rflags=0x8D7), lambda b: equal(
        (b.reg("rflags") & 0x8C5, b.reg("rax")), (0, 1)), id="s187-and"),
    S("start: shld $20, %bx, %ax; done: hlt", "", {}, None, id="s188-shld-16"),
    S("start: mov %ecx, %ss; done: hlt", "", dict(rcx=0), regs(ss=0), id="s192-ss-null"),
    S("start: mov %ecx, %ss; done: hlt", "#GP(0)@start RF", dict(rcx=3), regs(ss=0x10), id="s192-ss-null-rpl3"),
    *(S(f"start: mov %ecx, %{reg}; done: hlt", expect, dict(rcx=sel), regs(**{reg: after}), id=f"s192-{reg}-{sel:x}")
      for reg, sel, expect, after in (
          ("ss", 0x10, "", 0x10), ("ss", 0x48, "#GP(48)@start RF", 0x10), ("ss", 0x50, "#SS(50)@start RF", 0x10),
          ("ss", 8, "#GP(8)@start RF", 0x10), ("ss", 0x13, "#GP(10)@start RF", 0x10), ("ss", 0x43, "#GP(40)@start RF", 0x10),
          ("ss", 0x14, "#GP(14)@start RF", 0x10), ("ss", 0x1000, "#GP(1000)@start RF", 0x10), ("ds", 0, "", 0), ("ds", 3, "", 3),
          ("es", 0x43, "", 0x43), ("es", 0x13, "#GP(10)@start RF", 0x10), ("ds", 0x50, "#NP(50)@start RF", 0x10),
          ("fs", 8, "", 8), ("gs", 0x48, "", 0x48), ("ds", 0x18, "#GP(18)@start RF", 0x10))),
    S("start: mov %eax, %cs", "#UD@start RF", {}, None, id="s192-cs"),
    S("start: orb $0, (%rsp)", "#SS(0)@start RF", dict(rsp=NONCANONICAL, gates={12: dict(ist=1)}), None, id="s193-rsp"),
    S("start: orb $0, (%rbp)", "#SS(0)@start RF", dict(rbp=NONCANONICAL), None, id="s193-rbp"),
    S("start: orb $0, (%rax)", "#GP(0)@start RF", dict(rax=NONCANONICAL), None, id="s193-rax"),
    S("start: push %rax", "#SS(0)@start RF", dict(rsp=NONCANONICAL, gates={12: dict(ist=1)}), rsp_kept, id="s193-push"),
    S("start: jmp *%rax", "#GP(0)@start RF", dict(rax=NONCANONICAL), None, id="s194-jump"),
    S("start: call *%rax", "#GP(0)@start RF", dict(rax=NONCANONICAL), rsp_kept, id="s194-call"),
    S("start: ret", "#GP(0)@start RF", dict(stack=[NONCANONICAL]), rsp_kept, id="s194-ret"),
    S("start: hlt; n: hlt", "", {}, lambda b: equal(b.reg("rip"), CODE + 1), id="s141-hlt-sleeps"),
]


@pytest.mark.parametrize(ROW, OTHERS)
def test_scenario(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
