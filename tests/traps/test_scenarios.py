"""Scenarios of the trap semantics, by number: gates and frames, int3, single step, debug registers, iretq, faults of faults.

Tests are named by the number of the scenario in the reference. Interrupts are in test_interrupts.py.
"""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from trapbench import CODE, HALT, IST, MISSING, NONCANONICAL, RAM_END, STACK, STEP, Bench

from hw.bus import HIGH_BASE
from sim.engine import StopReason

#: Scenarios that are not tested yet, and why.
NOT_YET = {
    87: "CR4.DE is not looked at: dr4 and dr5 are always dr6 and dr7",
    36: "the accessed bit of a code descriptor is not written; tables must have it set",
    52: "syscall is not in the instruction table",
    53: "a matter of the runtime: tests/kprobes",
    **{n: "needs CPL 3" for n in (*range(11, 18), 24, 28, 29, 76, 77, 78, 79, 85, 121, 125, 129, 130, 131, 134, 136, 175, 189, 191)},
    **{n: "lss is not in the instruction table" for n in (65, 66)},
    **{n: "debug register breakpoints and general detect" for n in (*range(92, 121), 133)},
    135: "needs paging: an iretq frame on a page of its own",
    **{n: "needs a local APIC" for n in (146, 147, 148, *range(156, 163))},
    172: "a triple fault stops the hart for good; the run ends there",
    173: "needs paging",
    **{n: "several harts" for n in range(179, 185)},
    176: "reserved bits of cr4 are dropped",
    190: "sysret is not in the instruction table",
}

S = pytest.param
INT3, INT33 = "start: int3; n: hlt", "start: int $33; n: hlt"
UD = "start: ud2; n: hlt"
DE = "start: div %rcx; n: hlt"
BAD_LOAD = "start: mov (%rbx), %rax; n: nop; done: hlt;"
BAD_STACK = dict(rsp=0x10)
SHUT = dict(ends=StopReason.SHUTDOWN)


def frame_at(top: int, error: bool = False) -> Callable[[Bench], None]:
    """The frame of the first trap is in memory below `top`."""

    def check(bench: Bench) -> None:
        trap = bench.taken[0]
        assert trap.frame is not None
        start = bench.labels["start"]
        expected = [0x10, bench.before["rsp"], trap.frame.rflags, 8, trap.rip] + [trap.error] * error
        assert [bench.quad(top - 8 * (i + 1)) for i in range(len(expected))] == expected
        assert bench.reg("rsp") == trap.rsp == top - 8 * len(expected)
        assert trap.frame.rflags & 2, start

    return check


def regs(**wanted: int) -> Callable[[Bench], None]:
    """Registers at the end."""

    def check(bench: Bench) -> None:
        assert {name: hex(bench.reg(name)) for name in wanted} == {n: hex(v) for n, v in wanted.items()}

    return check


def dr6(*values: int) -> Callable[[Bench], None]:
    """DR6 as each trap left it."""
    return lambda bench: _equal([hex(t.dr6) for t in bench.taken], [hex(v) for v in values])


def cr2(*values: int) -> Callable[[Bench], None]:
    """CR2 as each trap left it; None: whatever."""
    return lambda bench: _equal([hex(t.cr2) for t in bench.taken if t.vector == 14], [hex(v) for v in values])


def rsp_kept(bench: Bench) -> None:
    """The last trap saved the rsp of the start."""
    assert bench.taken[-1].frame.rsp == bench.before["rsp"]


def _equal(got: Any, wanted: Any) -> None:
    assert got == wanted


BS, CLEAN = 0xFFFF4FF0, 0xFFFF0FF0

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
      lambda b: _equal(b.taken[0].frame.at, b.taken[1].frame.at), id="s034-same-ist"),
    S(INT3, "#BP@n", dict(fs_base=0x1234567, gs_base=0xFFFF888800000000, ds=0x10, es=0, fs=0x13, gs=0x2B),
      regs(fs_base=0x1234567, gs_base=0xFFFF888800000000, ds=0x10, es=0, fs=0x13, gs=0x2B, ss=0x10, cs=8),
      id="s035-segments"),
]

BREAKPOINTS = [
    S(INT3, "#BP@n -RF", {}, None, id="s037-int3"),
    S("start: .byte 0xcd, 3; n: hlt", "#BP@n", {}, lambda b: _equal(b.taken[0].rip, CODE + 2), id="s038-int-3"),
    S("start: .byte 0x66, 0xcc; n: hlt", "#BP@n", {}, lambda b: _equal(b.taken[0].rip, CODE + 2), id="s039-prefix"),
    S("start: .fill 14, 1, 0x2e; int3; n: hlt", "#BP@n", {}, lambda b: _equal(b.taken[0].rip, CODE + 15),
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

TF, IRET_FRAME = dict(flags="TF"), ["l", 8, 2, 0x7100, 0x10]

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
    S(STEP + "start: mov %ecx, %ds; n: nop; done: hlt", "#DB@n TF; #DB@done", TF | dict(rcx=0x10), None, id="s063-mov-ds"),
    S(STEP + "start: sti; a: and %eax, %eax; done: hlt", "#DB@a TF IF; #DB@done TF IF", TF, None, id="s067-sti"),
    S(STEP + "start: cli; done: hlt", "#DB@done TF -IF", dict(flags="TF IF"), None, id="s067-cli"),
    S(STEP + "start: rep movsb; done: hlt", "#DB@start RF TF; #DB@start RF; #DB@done -RF",
      TF | dict(rcx=3, rsi=0x30000, rdi=0x30100), lambda b: _equal([t.rcx for t in b.taken], [2, 1, 0]), id="s068-rep"),
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
    S("start: pushfq; done: hlt", "#DB@done TF", TF, lambda b: _equal(b.quad(STACK - 8), 0x102), id="s053-pushf-image"),
]

STRINGS = [
    S("start: rep stosb; done: hlt", "#PF(2)@start RF", dict(rcx=8, rdi=RAM_END - 3, rax=0x5A),
      [regs(rcx=5, rdi=RAM_END), cr2(RAM_END)], id="s149-rep-faults"),
    S("start: rep stosb; done: hlt; h14: mov $0x30000, %edi; add $8, %rsp; iretq", "#PF(2)@start RF",
      dict(rcx=8, rdi=RAM_END - 3, rax=0x5A), lambda b: _equal(b.engine.read_mem(0x30000, 6), b"ZZZZZ\0"), id="s149-rep-goes-on"),
    S(STEP + "start: rep stosb; done: hlt", "#DB@start RF; #DB@start RF; #PF(2)@start RF TF",
      TF | dict(rcx=8, rdi=RAM_END - 2), None, id="s072-rep-stepped-and-faulting"),
    S(STEP + "start: movsb; a: lodsq; b: stosw; c: scasb; d: cmpsl; done: hlt", "#DB@a; #DB@b; #DB@c; #DB@d; #DB@done",
      TF | dict(rsi=0x30000, rdi=0x30100), None, id="s068-without-rep"),
    S(STEP + "start: pushq (%rsp); a: popq (%rsp); b: mul %rcx; c: xadd %rax, (%rsp); d: call *t; done: hlt; t: .quad f;"
      "f: leave; g: ret $0", "#DB@a; #DB@b; #DB@c; #DB@d; #DB@f; #DB@g; #DB@done",
      TF | dict(rbp=STACK - 24, rsp=STACK - 8), None, id="s074-routines"),
]

#: A descriptor of a TSS that nobody uses yet, at 0x58, one not present at 0x68, and a busy one is 0x18.
_TSS = {0x2058: struct.pack("<QQ", 0x12CD89AB67899FFF | 1 << 55, 0xFFFF8000),
        0x2068: struct.pack("<QQ", 0x000009AB67890067, 0)}

TABLES = [
    S("start: mov $0x58, %eax; ltr %ax; done: hlt", "", dict(mem=_TSS),
      [regs(tr=0x58, tr_base=0xFFFF800012AB6789, tr_limit=0xD9FFFFFF),
       lambda b: _equal(b.quad(0x2058) >> 40 & 0xFF, 0x8B)], id="s027-ltr"),
    S("start: ltr %ax; done: hlt", "#GP(18)@start RF", dict(rax=0x18), regs(tr=0x18), id="s027-ltr-busy"),
    S("start: ltr %ax; done: hlt", "#GP(0)@start RF", dict(rax=3), None, id="s027-ltr-null"),
    S("start: ltr %ax; done: hlt", "#GP(10)@start RF", dict(rax=0x10), None, id="s027-ltr-data"),
    S("start: ltr %ax; done: hlt", "#GP(f8)@start RF", dict(rax=0xF8), None, id="s027-ltr-half-beyond"),
    S("start: ltr %ax; done: hlt", "#NP(68)@start RF", dict(rax=0x68, mem=_TSS), None, id="s027-ltr-not-present"),
    S("start: lidt x; lgdt y; sidt z; sgdt z+16; done: hlt; x: .word 0x123; .quad 0x1122; y: .word 0xff; .quad 0x2000;"
      "z: .zero 32", "", {}, [regs(idt_base=0x1122, idt_limit=0x123), lambda b: _equal(
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
      lambda b: _equal(b.reg("cr2"), MISSING + 8), id="s019-gdt-missing"),
    S("start: lretq; l: nop; done: hlt", "", dict(stack=["l", 8]), regs(rsp=0x7010, cs=8), id="s122-lret"),
    S("start: lretq $24; l: nop; done: hlt", "", dict(stack=["l", 8]), regs(rsp=0x7028), id="s122-lret-imm"),
    S("start: lretq", "#GP(10)@start RF", dict(stack=["start", 0x10]), rsp_kept, id="s124-lret-data"),
    S("start: lretq", "#GP(0)@start RF", dict(stack=[NONCANONICAL, 8]), rsp_kept, id="s126-lret-rip"),
]

DEBUG_REGISTERS = [
    S("start: mov %rax, %db4; mov %db4, %rbx; mov %db6, %rcx; done: hlt", "", {}, regs(rbx=CLEAN, rcx=CLEAN), id="s086-dr4"),
    S("start: mov %rax, %db6; mov %db6, %rbx; done: hlt", "", dict(dr6=0xFFFFEFFF), regs(rbx=CLEAN), id="s088-dr6-0"),
    S("start: mov %rax, %db6; done: hlt", "", dict(rax=0xFFFFFFFF), regs(dr6=0xFFFFEFFF), id="s089-dr6-ones"),
    S("start: mov %rax, %db7; done: hlt", "#GP(0)@start RF", dict(rax=1 << 32), regs(dr7=0x400), id="s090-dr7-high"),
    S("start: mov %rax, %db6; done: hlt", "#GP(0)@start RF", dict(rax=1 << 32), regs(dr6=CLEAN), id="s090-dr6-high"),
    S("start: mov %rax, %db7; done: hlt", "", dict(rax=0xFFFFFFFF), regs(dr7=0xFFFF27FF), id="s091-dr7-ones"),
]


def _iret(expect: str, check: Any = None, **changes: int | str) -> tuple:
    """An iretq of a frame of which something is changed."""
    parts = {"rip": "l", "cs": 8, "flags": 2, "rsp": 0x7100, "ss": 0x10} | changes
    return "start: iretq; l: nop; done: hlt", expect, dict(stack=list(parts.values())), check


IRETQ = [
    S(*_iret("", regs(rsp=0x7105, ss=0x10, rflags=0x46), rsp=0x7105, flags=0x46), id="s122-same-privilege"),
    S("start: iretq; l: hlt", "#GP(0)@start RF NT", dict(flags="NT", stack=IRET_FRAME), rsp_kept, id="s123-nt"),
    S(*_iret("#GP(0)@start RF", rsp_kept, cs=0), id="s124-cs-null"),
    S(*_iret("#GP(10)@start RF", rsp_kept, cs=0x10), id="s124-cs-data"),
    S(*_iret("#GP(1238)@start RF", rsp_kept, cs=0x1238), id="s124-cs-beyond"),
    S(*_iret("#NP(30)@start RF", rsp_kept, cs=0x30), id="s124-cs-not-present"),
    S(*_iret("#GP(28)@start RF", rsp_kept, cs=0x28), id="s124-cs-32-bit-with-l-0"),
    S(*_iret("#GP(8)@start RF", rsp_kept, cs=0xB), id="s124-cs-rpl-3-dpl-0"),
    S(*_iret("#GP(0)@start RF", rsp_kept, rip=NONCANONICAL), id="s126-rip"),
    S(*_iret("", regs(ss=0), ss=0), id="s127-ss-null"),
    S(*_iret("#GP(0)@start RF", rsp_kept, ss=3), id="s128-ss-null-rpl3"),
    S(*_iret("#GP(8)@start RF", rsp_kept, ss=8), id="s130-ss-code"),
    S(*_iret("#GP(48)@start RF", rsp_kept, ss=0x48), id="s130-ss-read-only"),
    S(*_iret("#SS(50)@start RF", rsp_kept, ss=0x50), id="s130-ss-not-present"),
    S(*_iret("", regs(rflags=2), flags=0x20002), id="s132-vm"),
    S("start: iretl; l: nop; done: hlt", "", dict(mem={0x7000: struct.pack("<5I", CODE + 1, 8, 0x46, 0x7100, 0x10)}, rsp=0x7000),
      regs(rsp=0x7100, rflags=0x46), id="s137-iretd"),
    S("start: iretq; l: int $33; n: hlt", "v33@n -RF", dict(stack=["l", 8, 0x10002, 0x7100, 0x10]), None,
      id="s133-rf-lasts-one-instruction"),
    S("start: iretq; l: ud2", "#SS(0)@start RF", dict(rsp=NONCANONICAL, gates={12: dict(ist=1)}), rsp_kept,
      id="s135-frame-noncanonical"),
    S("start: iretq; l: ud2", "#PF(0)@start RF", dict(rip=CODE, rsp=RAM_END - 32, gates={14: dict(ist=1)}),
      [rsp_kept, cr2(RAM_END)], id="s135-frame-missing"),
]

NP = dict(p=0)
DOUBLE = [
    S(DE, "#DE@start; #DF(0)@start", dict(gates={0: NP}), None, id="s163-de-np"),
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
    S(DE, "#DE@start; #DF(0)@start; #PF(0)@MISSING RF", dict(gates={0: NP, 8: dict(offset=MISSING)}), cr2(MISSING),
      id="s171-df-handler-faults"),
    S("start: mov %rax, (%rbx); n: hlt", "#PF(2)@start RF", dict(rbx=RAM_END - 4, rax=-1 & ((1 << 64) - 1)),
      [cr2(RAM_END), lambda b: _equal(b.engine.read_mem(RAM_END - 4, 4), bytes(4))], id="s174-split-store"),
    S("start: add %rax, (%rbx); n: hlt", "#PF(2)@start RF", dict(rbx=RAM_END - 1), cr2(RAM_END), id="s174-split-rmw"),
    S("start: mov (%rbx), %ax; n: hlt", "#PF(0)@start RF", dict(rbx=RAM_END - 1), cr2(RAM_END), id="s174-split-load"),
    S("h1: hlt", "#PF(0)@RAM_END+-1 RF", dict(mem={RAM_END - 1: b"\x0f"}, rip=RAM_END - 1), cr2(RAM_END), id="s174-split-fetch"),
]

OTHERS = [
    S("start: shl %cl, %eax; done: hlt", "", dict(rax=0x1234567890ABCDEF, rflags=0x8D7), regs(rax=0x90ABCDEF, rflags=0x8D7),
      id="s185-shl-0"),
    S("start: bsf %ebx, %eax; done: hlt", "", dict(rax=0x1234567890ABCDEF), lambda b: _equal(
        (b.reg("rflags") & 0x40, b.reg("rax")), (0x40, 0x1234567890ABCDEF)), id="s186-bsf-0"),
    S("start: and %ebx, %eax; done: hlt", "", dict(rax=0xFF00000001, rbx=3, rflags=0x8D7), lambda b: _equal(
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
    S("start: hlt; n: hlt", "", {}, lambda b: _equal(b.reg("rip"), CODE + 1), id="s141-hlt-sleeps"),
]


@pytest.mark.parametrize(
    ("text", "expect", "setup", "check"),
    [*FRAMES, *BREAKPOINTS, *STEPS, *STRINGS, *TABLES, *DEBUG_REGISTERS, *IRETQ, *DOUBLE, *OTHERS],
)
def test_scenario(bench, text, expect, setup, check):
    setup = dict(setup)
    ends = setup.pop("ends", StopReason.HALTED)
    bench.load(text, **{"rsp": 0x7000 if "stack" in setup else STACK} | setup)
    bench.before = {"rsp": bench.reg("rsp")}
    bench.run()
    bench.expect(expect)
    assert bench.reason == ends
    if ends == StopReason.HALTED and bench.labels["done"] >= 0 and "TF" not in setup.get("flags", ""):
        last = bench.taken[-1].vector if bench.taken else None
        if last is None or f"h{last}" in bench.labels:
            assert bench.reg("rip") == bench.labels["done"] + 1
        else:
            assert bench.reg("rip") == HALT + 16 * last + 1
    for one in check if isinstance(check, list) else [check] if check else []:
        one(bench)


SELF_MODIFYING = {
    "s177-next-instruction": "start: movb $5, l+1; l: mov $1, %eax; hlt",
    "s178-through-the-alias": f"start: mov ${HIGH_BASE:#x}, %rbx; movb $5, l+1(%rbx); l: mov $1, %eax; hlt",
    "s177-loop": "start: mov $5, %ecx; 1: incb l+1; l: mov $0, %eax; loop 1b; hlt",
    "s177-stos": "start: lea l+1(%rip), %rdi; mov $5, %eax; mov $1, %ecx; rep stosb; l: mov $1, %eax; hlt",
    "s177-push": "start: mov %rsp, %rbx; lea m(%rip), %rsp; push %rdx; l: mov $1, %eax; .fill 3, 1, 0x90; m: mov %rbx, %rsp; hlt",
    "s177-after-a-rep": "start: lea q(%rip), %rdi; mov $0x90, %eax; mov $4, %ecx; rep stosb; q: .fill 4, 1, 0xcc; mov $5, %eax; hlt",
}


@pytest.mark.parametrize("name", SELF_MODIFYING)
def test_self_modifying(bench, name):
    push = int.from_bytes(bytes([0xB8, 5, 0, 0, 0, 0x90, 0x90, 0x90]), "little")
    text = SELF_MODIFYING[name]
    bench.load(text, rdx=push)
    bench.run()
    bench.expect("")
    assert bench.reg("rax") == 5


@pytest.mark.parametrize("alias", [0, HIGH_BASE], ids=["low", "alias"])
@pytest.mark.parametrize("ahead", range(13))
def test_store_ahead(bench, ahead, alias):
    """s177: a store to an instruction that is so many instructions ahead."""
    nops = "nop; " * ahead
    text = f"start: mov ${alias:#x}, %rbx; movb $5, l+1(%rbx); {nops} l: mov $1, %eax; hlt"
    bench.load(text)
    bench.run()
    assert bench.reg("rax") == 5


def test_every_number_has_a_place():
    """Each scenario of the reference is tested here or in test_interrupts.py, or says why not."""
    import re
    from pathlib import Path

    here = Path(__file__).parent
    tested = {int(n) for file in here.glob("test_*.py") for n in re.findall(r"\bs(\d{3})-", file.read_text())}
    assert set(range(1, 195)) - tested - set(NOT_YET) == set()
