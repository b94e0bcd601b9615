"""Operand sizes of instructions with segment registers, selectors and far pointers, that silicon does not show at CPL 3 or
that compilers never write: what is written, what is kept, and how far the stack pointer moves (SDM vol. 2)."""

import struct

import pytest
from rows import ROW, S, equal, regs, run_row
from trapbench import CODE, GDT, STACK

M64 = (1 << 64) - 1
BASED, BASE = 0xA0, 0x89ABCDEF
MEM = {GDT + BASED: struct.pack("<Q", 0x89CFF3ABCDEFFFFF)}
#: A place that 16 bits of rip reach, with a hlt: behind the null descriptor's first bytes, which nothing reads.
LOW, AT_LOW = 0x2002, {0x2002: b"\xf4"}


def far(offset: int | str, selector: int, size: str) -> str:
    return f"p: .{size} {offset}; .word {selector};"


SIZES = [
    *(S(f"start: {rex}mov %ss, {reg}; done: hlt", "", dict(rbx=M64), regs(rbx=value), id=f"s192-mov-from-ss-{bits}")
      for bits, rex, reg, value in ((16, "", "%bx", M64 & ~0xFFFF | 16), (32, "", "%ebx", 16), (64, "rex.w ", "%ebx", 16))),
    *(S(f"start: {rex}sldt {reg}; done: hlt", "", dict(rbx=M64, ldtr=0x1234), regs(rbx=value), id=f"s192-sldt-{bits}")
      for bits, rex, reg, value in ((16, "", "%bx", M64 & ~0xFFFF | 0x1234), (64, "rex.w ", "%ebx", 0x1234))),
    *(S(f"start: {rex}str {reg}; done: hlt", "", dict(rbx=M64), regs(rbx=value), id=f"s192-str-{bits}")
      for bits, rex, reg, value in ((16, "", "%bx", M64 & ~0xFFFF | 24), (64, "rex.w ", "%ebx", 24))),
    S("start: lretw $6", "", dict(mem={0x7000: struct.pack("<2H", LOW, 8)} | AT_LOW, rsp=0x7000),
      regs(rip=LOW + 1, rsp=0x700A), id="s137-lretw-imm"),
    S("start: lret $16; .byte 0xcc; l: nop; done: hlt", "", dict(mem={0x7000: struct.pack("<2I", CODE + 4, 8)}, rsp=0x7000),
      regs(rsp=0x7018, cs=8), id="s122-lret-32-imm"),
    S("start: lcallw *p; n: nop;" + far(LOW, 8, "word"), "", dict(mem=AT_LOW),
      [regs(rip=LOW + 1, rsp=STACK - 4), lambda b: equal(b.engine.read_mem(STACK - 4, 4),
                                                         struct.pack("<2H", b.labels["n"] & 0xFFFF, 8))], id="s122-far-call-16"),
    S("start: ljmpw *p;" + far(LOW, 8, "word"), "", dict(mem=AT_LOW), regs(rip=LOW + 1, cs=8), id="s194-far-jmp-16"),
    S("start: popw %fs; done: hlt", "", dict(rsp=STACK - 2, mem=MEM | {STACK - 2: struct.pack("<H", BASED)}),
      regs(fs=BASED, fs_base=BASE, rsp=STACK), id="s192-pop-fs-16"),
    S("start: pushw %gs; done: hlt", "", dict(gs=BASED, mem=MEM | {STACK - 8: b"\xff" * 8}),
      [regs(rsp=STACK - 2), lambda b: equal(b.quad(STACK - 8), BASED << 48 | (1 << 48) - 1)], id="s192-push-gs-16"),
    S("start: wrfsbase %eax; rdgsbase %ebx; wrgsbase %rax; done: hlt", "", dict(cr4=0x10020, rax=BASE << 8, rbx=M64, gs_base=BASE << 4),
      regs(fs_base=(BASE << 8) & 0xFFFFFFFF, rbx=(BASE << 4) & 0xFFFFFFFF, gs_base=BASE << 8), id="s191-fsgsbase-sizes"),
    S("start: lss p, %ax; done: hlt;" + far(0x7788, 16, "word"), "", dict(rax=M64), regs(rax=M64 & ~0xFFFF | 0x7788, ss=16),
      id="s192-lss-16"),
    *(S(f"start: {rex}l{seg}s p, {reg}; done: hlt;" + far(offset, BASED, size), "", dict(rax=M64, mem=MEM),
        regs(rax=value, **{f"{seg}s": BASED, f"{seg}s_base": BASE}), id=f"s192-l{seg}s-{size}")
      for seg, rex, reg, size, offset, value in (
          ("f", "", "%ax", "word", 0x7788, M64 & ~0xFFFF | 0x7788), ("f", "", "%eax", "long", 0x55667788, 0x55667788),
          ("g", "", "%eax", "long", 0x55667788, 0x55667788), ("g", "rex.w ", "%eax", "quad", 0x1122334455667788, 0x1122334455667788))),
    S("start: .byte 0x66, 0x0f, 0x1c, 0x00; done: hlt", "", dict(rax=0x10), regs(rax=0x10), id="s191-nop-16"),
    S("start: stc; adcx %ebx, %ecx; shlx %eax, %ecx, %edx; done: hlt", "", dict(rax=36, rbx=M64, rcx=1),
      [regs(rcx=1, rdx=16), lambda b: equal(b.reg("rflags") & 1, 1)], id="s191-adcx-shlx-32"),
]


@pytest.mark.parametrize(ROW, SIZES)
def test_operand_sizes(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
