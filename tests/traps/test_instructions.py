"""Faults and effects of instructions beyond the catalogue of the trap semantics: what is absent, and accesses of their own."""

import pytest
from rows import AMD, CLEAN, ROW, S, cr2, dr6, equal, regs, rsp_kept, run_row
from test_debug_registers import ANY, RETURN, WRITE, at, b
from trapbench import MISSING, NONCANONICAL, RAM_END, STACK, TSS, USER

from hw.devices import CONSOLE_PORT
from sim.engine import StopOn

DATA = 0x30000
CR0, EM, TS, MP = 0x80050033, 4, 8, 2
CR4, OSFXSR, OSXSAVE = 0x20, 1 << 9, 1 << 18
OFF = dict(cr0=CR0 & ~MP, cr4=CR4)
UD, NM = "#UD@start RF", "#NM@start RF"


def system(cr0: int = 0, cr4: int = 0) -> dict:
    """The set-up with these bits of CR0 and CR4 instead of those of reset."""
    return dict(cr0=CR0 & ~MP | cr0, cr4=CR4 | cr4)


def memory(address: int, data: bytes):
    """Memory at the end."""
    return lambda bench: equal(bench.engine.read_mem(address, len(data)), data)


ABSENT = [
    S(f"start: {code}; done: hlt", expect, setup, None, id=f"{code}-{name}")
    for code, name, setup, expect in (
        *((code, "off", system(), UD) for code in ("fninit", "fxsave (%rax)", "emms", "movaps %xmm0, %xmm1", "vzeroupper", "xsave (%rax)")),
        *((code, "em", system(EM), NM) for code in ("fninit", "fld1", "fxsave (%rax)")),
        *((code, "ts", system(TS), NM) for code in ("fninit", "fxrstor (%rax)", "emms", "movd %eax, %mm0")),
        ("emms", "em-ts", system(EM | TS), UD),
        ("movaps %xmm0, %xmm1", "ts", system(TS), UD),
        ("vzeroupper", "ts", system(TS), UD),
        (".byte 0xf0, 0x0f, 0xae, 0x00", "lock-ts", system(TS), UD),
        ("wait", "ts", system(TS), ""),
        ("wait", "mp", system(MP), ""),
        ("wait", "mp-ts", system(MP | TS), NM),
        ("fninit", "user", USER | system(TS), NM),
        # a memory operand is not looked at
        ("fldl (%rax)", "nowhere", system() | dict(rax=NONCANONICAL), UD),
        ("rdrand %eax", "never", system(), UD),
        ("vmcall", "never", system(), UD),
    )
]

LEVEL2 = "start: enter $16, $2; done: hlt"

OPERANDS = [
    S("start: lock cmpxchg16b (%rbx); done: hlt", "#GP(0)@start RF", dict(rbx=DATA + 8), None, id="cmpxchg16b-misaligned"),
    S("start: cmpxchg16b 8(%rsp); done: hlt", "#GP(0)@start RF", {}, None, id="cmpxchg16b-misaligned-stack"),
    S("start: cmpxchg16b (%rbx); done: hlt", "#GP(0)@start RF", dict(rbx=RAM_END - 8), None, id="cmpxchg16b-misaligned-first"),
    S("start: cmpxchg16b (%rbx); done: hlt", "#PF(2)@start RF", dict(rbx=MISSING), cr2(MISSING), id="cmpxchg16b-missing"),
    S("start: cmpxchg16b (%rbp); done: hlt", "#SS(0)@start RF", dict(rbp=NONCANONICAL), None, id="cmpxchg16b-stack"),
    S("start: cmpxchg8b (%rbx); done: hlt", "#PF(2)@start RF", dict(rbx=RAM_END - 4, rax=7, rdx=9),
      [cr2(RAM_END), regs(rax=7, rdx=9)], id="cmpxchg8b-half-missing"),
    S("start: cmpxchg8b (%rbx); done: hlt", "", dict(rbx=DATA + 3, rcx=4, mem={DATA + 3: bytes(range(8))}),
      [regs(rax=0x03020100, rdx=0x07060504), memory(DATA + 3, bytes(range(8)))], id="cmpxchg8b-unequal"),
    S("start: clflush (%rbx); done: hlt", "#GP(0)@start RF", dict(rbx=NONCANONICAL), None, id="clflush-noncanonical"),
    S("start: clflush (%rbp); done: hlt", "#SS(0)@start RF", dict(rbp=NONCANONICAL), None, id="clflush-stack"),
    S("start: clflushopt (%rbx); done: hlt", "#PF(0)@start RF", dict(rbx=MISSING), cr2(MISSING), id="clflushopt-missing"),
    S("start: clwb (%rbx); done: hlt", "", dict(rbx=DATA), None, id="clwb"),
    S(f"start: clflush (%rbx); done: hlt; {RETURN}", "#DB@done", at(DATA, ANY) | dict(rbx=DATA), dr6(b(0)), id="clflush-is-a-read"),
    S(f"start: clflush (%rbx); done: hlt; {RETURN}", "", at(DATA, WRITE) | dict(rbx=DATA), regs(dr6=CLEAN), id="clflush-is-no-write"),
    S("start: prefetcht0 (%rbx); done: hlt", "", dict(rbx=NONCANONICAL), None, id="prefetch-nowhere"),
    S("start: xlat; done: hlt", "", dict(rbx=DATA - 2, rax=0xF02, mem={DATA: b"\x5a"}), regs(rax=0xF5A), id="xlat"),
    S("start: xlat %gs:(%rbx); done: hlt", "#GP(0)@start RF", dict(rbx=2, gs_base=1 << 46, rax=0) | dict(rbx=1 << 46), None, id="xlat-segment"),
    S("start: addr32 xlat; done: hlt", "", dict(rbx=DATA - 2 | 1 << 40, rax=2, mem={DATA: b"\x5a"}), regs(rax=0x5A), id="xlat-67"),
    S(LEVEL2, "", dict(rbp=0x6000, mem={0x5FF8: b"outer..."}),
      [regs(rbp=STACK - 8, rsp=STACK - 40), memory(STACK - 24, (STACK - 8).to_bytes(8, "little") + b"outer..." + b"\0\x60\0\0\0\0\0\0")],
      id="enter-2"),
    S("start: enter $65535, $0; done: hlt", "#PF(2)@start RF", dict(rsp=RAM_END + 8, gates={14: dict(ist=1)}),
      [rsp_kept, regs(rbp=0)], id="enter-no-stack"),
    S("start: enter $16, $0; done: hlt", "#SS(0)@start RF", dict(rsp=1 << 63 | 0x100, gates={12: dict(ist=1)}), rsp_kept, id="enter-noncanonical"),
    S("start: enter $0x1000, $0; done: hlt", "#PF(2)@start RF", dict(rsp=0xFFFFFFFF80000800, gates={14: dict(ist=1)}),
      [rsp_kept, cr2(0xFFFFFFFF80000800 - 8 - 0x1000)], id="enter-top-missing"),
    S(LEVEL2, "#PF(0)@start RF", dict(rbp=MISSING), [rsp_kept, cr2(MISSING - 8), regs(rbp=MISSING)], id="enter-frame-missing"),
    S("start: bextr %rax, (%rbx), %rcx; done: hlt", "#GP(0)@start RF", dict(rbx=NONCANONICAL), None, id="bextr-operand"),
    S("start: mulx (%rbx), %rcx, %rdx; done: hlt", "#PF(0)@start RF", dict(rbx=MISSING, rdx=3, rcx=5), regs(rcx=5, rdx=3), id="mulx-operand"),
]

#: At CPL 3 with a TSS that has no I/O permission bitmap.
REFUSED = USER | dict(mem={TSS + 0x66: b"\xff\xff"})

PORTS = [
    S("start: insb; done: hlt", "", dict(rdx=CONSOLE_PORT, rdi=DATA), [memory(DATA, bytes([CONSOLE_PORT])), regs(rdi=DATA + 1)], id="insb"),
    S("start: std; rep insl; done: hlt", "", dict(rdx=CONSOLE_PORT, rdi=DATA, rcx=2),
      [memory(DATA - 4, bytes([CONSOLE_PORT, 0, 0, 0] * 2)), regs(rdi=DATA - 8, rcx=0)], id="rep-insl-down"),
    S("start: rep insw; done: hlt", "", dict(rdx=CONSOLE_PORT, rdi=DATA, rcx=0), regs(rdi=DATA), id="rep-insw-0"),
    S("start: insb; done: hlt", "#PF(2)@start RF", dict(rdx=CONSOLE_PORT, rdi=MISSING), [cr2(MISSING), regs(rdi=MISSING)], id="insb-missing"),
    S("start: rep insb; done: hlt", "#PF(2)@start RF", dict(rdx=CONSOLE_PORT, rdi=RAM_END - 3, rcx=5),
      [cr2(RAM_END), regs(rdi=RAM_END, rcx=2), memory(RAM_END - 3, bytes([CONSOLE_PORT] * 3))], id="rep-insb-missing"),
    S("start: outsb; done: hlt", "#GP(0)@start RF", dict(rdx=0x80, rsi=NONCANONICAL), None, id="outsb-noncanonical"),
    S("start: rep outsb; done: hlt", "", dict(rdx=CONSOLE_PORT, rsi=DATA, rcx=3, mem={DATA: b"abc"}),
      regs(rsi=DATA + 3, rcx=0), id="rep-outsb"),
    S("start: outsl; done: hlt", "", dict(rdx=0x80, rsi=DATA), regs(rsi=DATA + 4), id="outsl"),
    S("start: insb; done: hlt", "#GP(0)@start RF", REFUSED | dict(rdx=CONSOLE_PORT, rdi=DATA, rcx=1), None, id="insb-user"),
    S("start: rep outsb; done: hlt", "#GP(0)@start RF", REFUSED | dict(rdx=CONSOLE_PORT, rsi=DATA, rcx=1), None, id="outsb-user"),
    S("start: rep insb; done: nop; int $33", "v33@*; #GP(10a)@done+1 RF", USER | dict(rdx=CONSOLE_PORT, rdi=DATA, rcx=2),
      [memory(DATA, bytes([CONSOLE_PORT] * 2)), regs(rcx=0)], id="insb-user-allowed"),  # the bitmap begins at 0, all zeros
]  # fmt: skip


_LOOP = "start: cmp %eax, %ebx; .byte {}; {} l; inc %edx; l: nop; done: hlt"

VENDORS = [
    S("start: .byte 0xf3, 0x41, 0x90; done: hlt", "", dict(rax=1, r8=2), regs(rax=1, r8=2), id="pause-rexb"),
    S("start: .byte 0xf3, 0x41, 0x90; done: hlt", "", dict(rax=1, r8=2), regs(rax=2, r8=1), id="pause-rexb-amd", marks=AMD),
    *(S(_LOOP.format(prefix, name), "", dict(rbx=equal_, rax=1, rcx=2), lambda bench, taken=taken: equal(bench.reg("rdx"), 1 - taken),
        id=f"{name}-{prefix}-{equal_}-{'amd' if marks else 'intel'}", marks=marks)
      for marks, name, prefix, equal_, taken in (
          ((), "loope", 0xF2, 0, 0), ((), "loope", 0xF2, 1, 1), ((), "loopne", 0xF3, 0, 1), ((), "loopne", 0xF3, 1, 0),
          (AMD, "loope", 0xF2, 0, 1), (AMD, "loope", 0xF2, 1, 0), (AMD, "loopne", 0xF3, 0, 0), (AMD, "loopne", 0xF3, 1, 1),
          (AMD, "loope", 0x2E, 1, 1), (AMD, "loop", 0xF2, 1, 1))),
]  # fmt: skip


@pytest.mark.parametrize(ROW, [*ABSENT, *OPERANDS, *PORTS, *VENDORS])
def test_instruction(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)


def test_rep_outsb_says_every_byte_once(bench):
    """Interrupted between the iterations, and resumed."""
    text = "start: rep outsb; done: hlt; h32: inc %ebx; iretq"
    bench.load(text, flags="IF", rdx=CONSOLE_PORT, rsi=DATA, rcx=20, mem={DATA: bytes(range(65, 85))})
    said = []
    for _ in range(60):
        bench.engine.run(61, StopOn())
        said += bench.engine.drain().console
        bench.engine.set_irq(0, 32)
    assert bytes(byte for _, byte in said) == bytes(range(65, 85))
    assert bench.reg("rcx") == 0 and bench.reg("rbx") > 2
