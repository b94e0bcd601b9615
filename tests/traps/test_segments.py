"""Segment registers, far transfers and descriptor tables: rows of the scenarios that they belong to (see rows.py).

Accessed bits (36), lss in the shadow of mov ss (65, 66), segments of too much privilege on the way out (134), and what the
instructions that load, look at and leave through descriptors do besides.
"""

import struct

import pytest
from rows import ROW, TF, S, equal, regs, rsp_kept, run_row
from test_privilege import DPL3, END, ENDED, KERNEL, USER_CS, USER_SS, last_frame
from trapbench import CODE_CONFORMING, CODE_DPL3, DATA_DPL3, GDT, MISSING, NONCANONICAL, STACK, STEP, USER

INT33 = "start: int $33; n: hlt"
#: A data segment with a base, and descriptors of which the accessed bit is clear.
BASED, CODE_CLEAR, DATA_CLEAR, LDT, TSS_FREE = 0xA0, 0xA8, 0xB0, 0xC0, 0xD0
DESCRIPTORS = {
    BASED: 0x89CFF3ABCDEFFFFF,
    CODE_CLEAR: 0x00AF9A000000FFFF,
    DATA_CLEAR: 0x00CF92000000FFFF,
    LDT: 0x000082040000000F,
    TSS_FREE: 0x0000890500000067,
}
MEM = {GDT + selector: struct.pack("<Q", value) for selector, value in DESCRIPTORS.items()}
MEM |= {GDT + LDT + 8: bytes(8), GDT + TSS_FREE + 8: bytes(8), 0x40000: struct.pack("<QQ", 0, DESCRIPTORS[DATA_CLEAR] | 0x60 << 40)}
NO_GDT = dict(gdt_base=MISSING)


def access_byte(selector: int, value: int):
    """The access byte of a descriptor in memory."""
    return lambda bench: equal(hex(bench.engine.read_mem(GDT + selector + 5, 1)[0]), hex(value))


def far(offset: int | str, selector: int, size: str = "quad") -> str:
    """A far pointer in memory at the label p."""
    return f"p: .{size} {offset}; .word {selector};"


ACCESSED = [
    S(INT33, "v33@n", dict(gates={33: dict(sel=CODE_CLEAR)}, mem=MEM), access_byte(CODE_CLEAR, 0x9B), id="s036-delivery"),
    S(INT33, "v33@n; #GP(0)@start", dict(gates={33: dict(sel=CODE_CLEAR, offset=NONCANONICAL)}, mem=MEM),
      access_byte(CODE_CLEAR, 0x9B), id="s036-before-a-later-fault"),
    S(INT33, "v33@n; #NP(30)@start", dict(gates={33: dict(sel=0x30)}), access_byte(0x30, 0x1B), id="s036-not-if-refused"),
    S("start: iretq; l: nop; done: hlt", "", dict(stack=["l", CODE_CLEAR, 2, 0x7100, DATA_CLEAR], mem=MEM),
      [access_byte(CODE_CLEAR, 0x9B), access_byte(DATA_CLEAR, 0x93), regs(cs=CODE_CLEAR, ss=DATA_CLEAR)], id="s036-iretq"),
    *(S(f"start: mov %eax, %{reg}; done: hlt", "", dict(rax=DATA_CLEAR, mem=MEM), access_byte(DATA_CLEAR, 0x93),
        id=f"s036-mov-{reg}") for reg in ("ss", "ds", "es", "fs", "gs")),
    S("start: lar %ax, %ebx; lsl %ax, %ecx; verr %ax; done: hlt", "", dict(rax=DATA_CLEAR, mem=MEM), access_byte(DATA_CLEAR, 0x92),
      id="s036-not-if-looked-at"),
]

SHADOWS = [
    S(STEP + "start: rex.w lss p, %ecx; n: nop; done: hlt;" + far(0x1122, 16), "#DB@n TF; #DB@done", TF, regs(rcx=0x1122, ss=16),
      id="s065-lss"),
    S(STEP + "start: mov %eax, %ss; lss p, %ecx; n: nop; done: hlt;" + far(0x1122, 16, size="long"), "#DB@n TF; #DB@done",
      TF | dict(rax=16), regs(rcx=0x1122), id="s066-mov-ss-lss"),
]

OUT = [USER_CS, 2, 0x7100, USER_SS]
OUTER = [
    S("start: mov %eax, %ds; mov %eax, %es; mov %eax, %fs; mov %eax, %gs; iretq; l: " + END, ENDED,
      KERNEL | dict(rax=16, stack=["l", *OUT]), regs(ds=0, es=0, fs=0, gs=0), id="s134-kernel-data"),
    S("start: mov %eax, %ds; mov %ebx, %es; mov %ecx, %fs; iretq; l: " + END, ENDED,
      KERNEL | dict(rax=DATA_DPL3 | 3, rbx=CODE_CONFORMING, rcx=CODE_DPL3 | 3, stack=["l", *OUT]),
      regs(ds=DATA_DPL3 | 3, es=CODE_CONFORMING, fs=CODE_DPL3 | 3), id="s134-those-that-stay"),
    S("start: mov %eax, %gs; iretq; l: " + END, ENDED,
      KERNEL | dict(rax=DATA_DPL3, stack=["l", *OUT]), regs(gs=DATA_DPL3), id="s134-dpl-not-rpl"),
    S("start: iretq; l: " + END, ENDED, KERNEL | dict(fs_base=0x1234, gs_base=1 << 40, stack=["l", *OUT]),
      regs(fs_base=0x1234, gs_base=1 << 40, ds=0), id="s134-bases-stay"),
    S("start: iretq; l: " + END, ENDED, USER | dict(ds=0x10, stack=["l", *OUT]), regs(ds=0x10), id="s134-not-from-cpl-3"),
    S("start: lretq; l: " + END, ENDED, KERNEL | dict(stack=["l", USER_CS, 0x7100, USER_SS]),
      [regs(ds=0, es=0), last_frame(cs=USER_CS, ss=USER_SS, rsp=0x7100)], id="s134-lret"),
    S("start: lretq $24; l: " + END, ENDED, KERNEL | dict(stack=["l", USER_CS, 0, 0, 0, 0x7100, USER_SS]),
      last_frame(cs=USER_CS, ss=USER_SS, rsp=0x7118), id="s134-lret-imm"),
    S("start: lretq", "#GP(0)@start RF", KERNEL | dict(stack=["start", USER_CS, 0x7100, 0]), rsp_kept, id="s129-lret-ss-null"),
    S("start: lretq", "#GP(8)@start RF", USER | dict(stack=["start", 8]), None, id="s125-lret"),
]

FAR = [
    S("start: ljmp *p; .byte 0xcc; l: nop; done: hlt;" + far("l", 8, size="long"), "", {}, regs(cs=8), id="s194-far-jmp-m16-32"),
    S("start: rex.w ljmp *p; .byte 0xcc; l: nop; done: hlt;" + far("l", CODE_CLEAR), "", dict(mem=MEM),
      [regs(cs=CODE_CLEAR), access_byte(CODE_CLEAR, 0x9B)], id="s194-far-jmp-m16-64"),
    S("start: rex.w ljmp *p;" + far(NONCANONICAL, 8), "#GP(0)@start RF", {}, regs(cs=8), id="s194-far-jmp-noncanonical"),
    *(S("start: ljmp *p;" + far("start", sel, size="long"), f"{expect}@start RF", {}, regs(cs=8), id=f"s124-far-jmp-{sel:x}")
      for sel, expect in ((3, "#GP(0)"), (16, "#GP(10)"), (0x28, "#GP(28)"), (0x30, "#NP(30)"), (CODE_DPL3, "#GP(38)"),
                          (11, "#GP(8)"), (0x1238, "#GP(1238)"), (0x18, "#GP(18)"))),
    S("start: ljmp *p; l: " + END + far("l", CODE_CONFORMING, size="long"), ENDED, USER,
      last_frame(cs=CODE_CONFORMING | 3), id="s124-far-jmp-to-conforming"),
    S("start: ljmp *p; l: " + END + far("l", CODE_DPL3, size="long"), ENDED, USER, last_frame(cs=USER_CS), id="s124-far-jmp-rpl-0"),
    S("start: rex.w lcall *p; n: nop; done: hlt; f: mov (%rsp), %rax; mov 8(%rsp), %rbx; lretq;" + far("f", 8), "", {},
      [lambda b: equal((b.reg("rax"), b.reg("rbx")), (b.labels["n"], 8)), regs(rsp=STACK)], id="s122-far-call"),
    S("start: lcall *p; n: nop; done: hlt; f: mov (%rsp), %rax; lret;" + far("f", 8, size="long"), "", {},
      [lambda b: equal(b.reg("rax"), b.labels["n"] | 8 << 32), regs(rsp=STACK)], id="s122-far-call-32"),
    S("start: rex.w lcall *p;" + far("start", 8), "#SS(0)@start RF", dict(rsp=NONCANONICAL, gates={12: dict(ist=1)}), rsp_kept,
      id="s193-far-call"),
    S("start: iretw", "", dict(mem={0x7000: struct.pack("<5H", 0x2002, 8, 0x46, 0x7100, 0x10), 0x2002: b"\xf4"},
      rsp=0x7000, flags="RF AC"), regs(rip=0x2003, rsp=0x7100, rflags=0x40046), id="s137-iretw"),
    S("start: lretw", "", dict(mem={0x7000: struct.pack("<2H", 0x2002, 8), 0x2002: b"\xf4"}, rsp=0x7000),
      regs(rip=0x2003, rsp=0x7004), id="s137-lretw"),
]

LOADS = [
    S("start: mov %eax, %fs; mov %eax, %gs; done: hlt", "", dict(rax=BASED, mem=MEM), regs(fs_base=0x89ABCDEF, gs_base=0x89ABCDEF),
      id="s192-base-from-the-descriptor"),
    S("start: mov %eax, %fs; done: hlt", "", dict(rax=2, fs_base=0x1234), regs(fs=2, fs_base=0), id="s192-null-clears-the-base"),
    S("start: mov %eax, %ds; mov %eax, %ss; done: hlt", "", NO_GDT | dict(rax=0), regs(ds=0, ss=0), id="s192-null-reads-nothing"),
    S("start: rex.w lfs p, %eax; done: hlt;" + far(0x1122334455667788, BASED), "", dict(mem=MEM),
      regs(rax=0x1122334455667788, fs=BASED, fs_base=0x89ABCDEF), id="s192-lfs"),
    S("start: lgs p, %ax; done: hlt;" + far(0x7788, BASED | 3, size="word"), "", dict(mem=MEM, rax=0x1111),
      regs(rax=0x7788, gs=BASED | 3), id="s192-lgs-16"),
    S("start: rex.w lgs p, %eax; done: hlt;" + far(0x7788, 0x50), "#NP(50)@start RF", dict(rax=5), regs(rax=5, gs=0), id="s192-lgs-not-present"),
    S("start: rex.w lss p, %eax; done: hlt;" + far(0x7788, 0x50), "#SS(50)@start RF", dict(rax=5), regs(rax=5, ss=16), id="s192-lss-not-present"),
    S("start: push %fs; push %gs; pop %fs; pop %gs; done: hlt", "", dict(fs=BASED, gs=16, mem=MEM),
      [regs(fs=16, gs=BASED, fs_base=0, gs_base=0x89ABCDEF, rsp=STACK), lambda b: equal(b.quad(STACK - 8), BASED)], id="s192-push-pop"),
    S("start: pushw %fs; popw %gs; done: hlt", "", dict(fs=BASED, mem=MEM | {STACK - 8: b"\xff" * 8}),
      [regs(gs=BASED, rsp=STACK), lambda b: equal(b.quad(STACK - 8), BASED << 48 | (1 << 48) - 1)], id="s192-push-pop-16"),
    S("start: pop %fs; done: hlt", "#NP(50)@start RF", dict(stack=[0x50], fs=16), [regs(fs=16), rsp_kept], id="s192-pop-not-present"),
    S("start: pop %gs; done: hlt", "#SS(0)@start RF", dict(rsp=NONCANONICAL, gates={12: dict(ist=1)}), rsp_kept, id="s192-pop-nowhere"),
    S(STEP + "start: push %fs; a: pop %gs; b: nop; done: hlt", "#DB@a; #DB@b; #DB@done", TF, None, id="s063-pop-gs-is-stepped"),
    S("start: lldt %ax; mov %ebx, %ds; sldt %ecx; done: hlt", "", dict(rax=LDT, rbx=0xF, mem=MEM, rcx=0),
      [regs(ds=0xF, rcx=LDT, ldtr=LDT, ldt_base=0x40000, ldt_limit=0xF), lambda b: equal(b.engine.read_mem(0x4000D, 1)[0], 0xF3)],
      id="s192-ldt"),
    S("start: lldt %ax; lldt %bx; mov %ecx, %ds", "#GP(c)@*", dict(rax=LDT, rcx=0xF, mem=MEM), regs(ldtr=0, ldt_limit=0),
      id="s192-no-ldt"),
    S("start: lldt %ax", "#GP(d0)@start RF", dict(rax=TSS_FREE, mem=MEM), None, id="s192-lldt-of-a-tss"),
    S("start: sldt 0x30000; str 0x30002; str %rbx; done: hlt", "", dict(ldtr=0x1234, mem={0x30000: b"\xff" * 8}, rbx=-1 & (1 << 64) - 1),
      [regs(rbx=24), lambda b: equal(b.engine.read_mem(0x30000, 6), b"\x34\x12\x18\0\xff\xff")], id="s192-sldt-str"),
]


def _look(name: str, text: str, sel: int, zero: int, **after: int):
    setup = dict(rax=sel, rbx=0x1111222233334444, mem=MEM, rflags=2 if zero else 0x42)
    return S(f"start: {text}; done: hlt", "", setup, regs(rflags=0x42 if zero else 2, **after), id=f"s188-{name}-{sel:x}")


LOOKS = [
    _look("lar", "lar %ax, %rbx", 8, 1, rbx=0xAF9B00),
    _look("lar", "lar %ax, %bx", 16, 1, rbx=0x1111222233339300),
    _look("lar", "lar %ax, %ebx", 0x18, 1, rbx=0x8B00),
    _look("lar", "lar %ax, %ebx", 3, 0, rbx=0x1111222233334444),
    _look("lar", "lar %ax, %ebx", 0x1000, 0, rbx=0x1111222233334444),
    _look("lar", "lar %ax, %ebx", 0x13, 0, rbx=0x1111222233334444),
    _look("lsl", "lsl %ax, %rbx", BASED, 1, rbx=0xFFFFFFFF),
    _look("lsl", "lsl %ax, %ebx", 0x18, 1, rbx=0x67),
    _look("lsl", "lsl %ax, %bx", 0, 0, rbx=0x1111222233334444),
    _look("verr", "verr %ax", 8, 1),
    _look("verr", "verr %ax", 0x18, 0),
    _look("verw", "verw %ax", 8, 0),
    _look("verw", "verw %ax", 16, 1),
    _look("verw", "verw %ax", 0x48, 0),
    S("start: lar p, %ebx; lsl p, %ecx; verw p; setz %al; done: hlt; p: .word 16", "", dict(mem={}), regs(rbx=0xCF9300, rcx=0xFFFFFFFF, rax=1),
      id="s188-of-memory"),
    S("start: lar %ax, %ebx; setz %cl;" + END, ENDED, USER | dict(rax=16, rbx=7), regs(rbx=7, rcx=0), id="s188-lar-at-cpl-3"),
]


@pytest.mark.parametrize(ROW, [*ACCESSED, *SHADOWS, *OUTER, *FAR, *LOADS, *LOOKS])
def test_segments(bench, text, expect, setup, check):
    gates = {64: DPL3} | setup.get("gates", {})
    run_row(bench, text, expect, setup | {"gates": gates}, check)
