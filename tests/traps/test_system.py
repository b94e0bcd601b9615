"""System instructions: rows of the scenarios that they belong to (see rows.py).

syscall and sysret (52, 76 to 79, 116, 190), control registers and MSRs (159, 176), the I/O permission bitmap and the checks of
the others at CPL 3 (191).
"""

import struct

import pytest
from rows import ROW, TF, S, equal, regs, rsp_kept, run_row
from test_privilege import DPL3, END, ENDED, KERNEL, STEP, USER_CS, USER_SS, last_frame
from trapbench import NONCANONICAL, STACK, STAR_USER, TSS, USER

from hw.msr import CR4_MAY

M64 = (1 << 64) - 1
CODE64, DATA = 8, 16
USER_STACK = 0x7000

#: What syscall and sysret need: SCE, the selectors, a kernel entry at a fixed place, and nothing masked.
SYS = dict(efer=0x501, star=STAR_USER << 48 | CODE64 << 32, lstar=0x18000)
ENTRY = ".org 0x8000; entry: "  # of the code at 0x10000
AT_USER = SYS | USER | dict(rsp=USER_STACK)
SYSRET = SYS | KERNEL | dict(rsp=USER_STACK)


def syscall(kernel: str, user: str = "start: syscall; n: ud2;") -> str:
    """A program at CPL 3, and the kernel's entry."""
    return user + ENTRY + kernel


BACK = "rex.w sysret;"
CALLS = [
    S(syscall("mov %rsp, %rbx; done: hlt"), "", AT_USER | dict(flags="IF AC", fmask=0x200),
      [regs(rbx=USER_STACK, r11=0x40202, cs=CODE64, ss=DATA, cpl=0, rflags=0x40002), lambda b: equal(b.reg("rcx"), b.labels["n"])],
      id="s076-syscall"),
    S(syscall("done: hlt"), "", AT_USER | dict(flags="AC IOPL NT DF", fmask=0xFFFFFFFF), regs(rflags=2), id="s076-all-masked"),
    S(syscall("done: hlt"), "#UD@start RF", AT_USER | dict(efer=0x500), None, id="s076-without-sce"),
    S(syscall("int3; m: hlt"), "#BP@m", AT_USER, last_frame(cs=CODE64, ss=DATA, rsp=USER_STACK, at=USER_STACK - 40),
      id="s052-user-stack"),
    S(syscall("int3; m: hlt"), "#BP@m", AT_USER | dict(gates={3: dict(ist=1)}), last_frame(rsp=USER_STACK, at=0x9000 - 40),
      id="s052-ist"),
    S(syscall("nop; done: hlt"), "", AT_USER | TF | dict(fmask=0x100), regs(r11=0x102, rflags=2), id="s076-tf-masked"),
    S(syscall("nop; m: hlt"), "#DB@entry TF", AT_USER | TF, last_frame(cs=CODE64, ss=DATA, rsp=USER_STACK), id="s077-tf-not-masked"),
    S("start: rex.w sysret; l: nop; m: nop;" + END, "#DB@l TF", SYSRET | dict(rcx="l", r11=0x102),
      last_frame(cs=STAR_USER + 16 | 3, ss=STAR_USER + 8 | 3, rsp=USER_STACK), id="s078-sysret-sets-tf"),
    S("start: rex.w sysret; l:" + END, ENDED, SYSRET | TF | dict(rcx="l", r11=2), None, id="s078-sysret-clears-tf"),
    S(STEP + syscall(f"mov %rsp, %rax; push ${USER_SS}; push %rax; push %r11; push ${USER_CS}; push %rcx; iretq",
                     "start: syscall; n: nop;" + END), "#DB@done TF; " + ENDED, AT_USER | TF | dict(fmask=0x100), None,
      id="s079-back-by-iretq"),
    S("start: rex.w sysret; l:" + END, "#DB@l", SYSRET | dict(rcx="l", r11=M64),
      lambda b: equal(hex(b.taken[0].frame.rflags), hex(0x3C7FD7)), id="s190-reserved-bits"),
    S("start: rex.w sysret; l:" + END, ENDED, SYSRET | dict(rcx="l", r11=0x202, ds=0x10),
      [last_frame(cs=STAR_USER + 16 | 3, ss=STAR_USER + 8 | 3, rsp=USER_STACK), regs(ds=0x10)], id="s190-sysret"),
    S("start: rex.w sysret", "#GP(0)@start RF", SYSRET | dict(rcx=NONCANONICAL), [rsp_kept, regs(cs=CODE64)], id="s190-noncanonical"),
    S("start: sysretl", "#GP(0)@start RF", SYSRET | dict(rcx=0x10000), regs(cs=CODE64), id="s190-to-compatibility-mode"),
    S("start: rex.w sysret", "#GP(0)@start RF", AT_USER | dict(rcx=0x10000), last_frame(cs=USER_CS), id="s190-at-cpl-3"),
    S("start: rex.w sysret", "#UD@start RF", AT_USER | dict(efer=0x500), None, id="s190-without-sce"),
    S(syscall("done: hlt", "start: mov (%rbx), %ss; syscall;"), "#DB@entry", AT_USER | dict(
        rbx=0x30000, mem={0x30000: struct.pack("<H", USER_SS)}, dr0=0x30000, dr7=0x000F0402),
      last_frame(cs=CODE64, rsp=USER_STACK), id="s116-pending-breakpoint"),
]


def _control(reg: str, value: int, fault: bool, before: int | None = None) -> pytest.param:
    setup = dict(rax=value) if before is None else {"rax": value, reg: before}
    return S(f"start: mov %rax, %{reg}; done: hlt", "#GP(0)@start RF" if fault else "", setup, None,
             id=f"s176-{reg}-{value:x}")


CR0 = 0x80050033
CONTROL = [
    *(_control("cr4", 0x20 | 1 << bit, not CR4_MAY >> bit & 1) for bit in range(64)),
    _control("cr4", 0, True),
    *(_control("cr0", value, fault) for value, fault in (
        (CR0, False), (CR0 & ~1, True), (CR0 & ~(1 << 31), True), (CR0 | 1 << 29, True), (CR0 | 3 << 29, False),
        (CR0 | 1 << 30, False), (CR0 | 1 << 32, True), (CR0 | 0x1FFAFFC0, False))),
    _control("cr3", 1 << 32, True), _control("cr3", 1 << 63, True), _control("cr3", 0xFFF, False),
    _control("cr8", 0x10, True), _control("cr8", 5, False),
    S("start: clts; mov %cr0, %rbx; done: hlt", "", dict(cr0=CR0 | 8), regs(rbx=CR0), id="s176-clts"),
    S("start: lmsw %ax; smsw %rbx; smsw %cx; done: hlt", "", dict(rax=0xFFFE, rcx=0, rbx=0), regs(rbx=CR0 | 0xE, rcx=0x3F),
      id="s176-lmsw-keeps-pe"),
    S("start: smsw 0x30000; done: hlt", "", dict(mem={0x30000: b"\xff" * 4}), lambda b: equal(
        b.engine.read_mem(0x30000, 4), b"\x33\0\xff\xff"), id="s176-smsw-memory"),
    S("start: clac; pushfq; stac; pushfq; done: hlt", "", dict(flags="AC"), lambda b: equal(
        (b.quad(STACK - 8), b.quad(STACK - 16)), (2, 0x40002)), id="s176-clac-stac"),
    S("start: .byte 0x66; clac", "#UD@start RF", {}, None, id="s176-clac-66"),
    S("start: .byte 0xf; .byte 1, 0xe8; invd; wbinvd; done: hlt", "", {}, None, id="s176-serialising"),
]


def rdmsr(number: int, value: int, **setup: int) -> pytest.param:
    return S("start: rdmsr; done: hlt", "", dict(rcx=0xFFFFFFFF00000000 | number, rax=M64, rdx=M64) | setup,
             regs(rax=value & 0xFFFFFFFF, rdx=value >> 32), id=f"s159-rdmsr-{number:x}")


def wrmsr(number: int, value: int, reg: str | None = None, after: int | None = None) -> pytest.param:
    fault = reg is None
    check = [] if fault else regs(**{reg: value if after is None else after})
    return S("start: wrmsr; done: hlt", "#GP(0)@start RF" if fault else "",
             dict(rcx=number, rax=value & 0xFFFFFFFF | 0xABC << 32, rdx=value >> 32 | 0xDEF << 32), check,
             id=f"s159-wrmsr-{number:x}-{value:x}")


BASE, APIC = 0xFFFF888012345678, 0xFEE00900
MSRS = [
    rdmsr(0xC0000100, BASE, fs_base=BASE), rdmsr(0xC0000101, BASE, gs_base=BASE), rdmsr(0xC0000102, BASE, kernel_gs_base=BASE),
    rdmsr(0xC0000080, 0x500), rdmsr(0xC0000081, 0x23001000000000, star=0x23001000000000), rdmsr(0xC0000082, BASE, lstar=BASE),
    rdmsr(0xC0000083, BASE, cstar=BASE), rdmsr(0xC0000084, 0x47700, fmask=0x47700), rdmsr(0xC0000103, 7, tsc_aux=7),
    rdmsr(0x1B, APIC), rdmsr(0x277, 0x0007040600070406), rdmsr(0x17, 0), rdmsr(0x8B, 0), rdmsr(0x1A0, 1), rdmsr(0x1D9, 0),
    wrmsr(0xC0000100, BASE, "fs_base"), wrmsr(0xC0000101, BASE, "gs_base"), wrmsr(0xC0000102, 0, "kernel_gs_base"),
    wrmsr(0xC0000082, BASE, "lstar"), wrmsr(0xC0000083, BASE, "cstar"), wrmsr(0xC0000081, BASE, "star"),
    *(wrmsr(number, NONCANONICAL) for number in (0xC0000100, 0xC0000101, 0xC0000102, 0xC0000082, 0xC0000083)),
    wrmsr(0xC0000084, 0xFFFFFFFF, "fmask"), wrmsr(0xC0000084, 1 << 32), wrmsr(0xC0000103, 9, "tsc_aux"), wrmsr(0xC0000103, 1 << 32),
    wrmsr(0xC0000080, 0x501, "efer"), wrmsr(0xC0000080, 0x101, "efer", 0x501), wrmsr(0xC0000080, 0xD01, "efer"),
    wrmsr(0xC0000080, 0x401), wrmsr(0xC0000080, 0x502), wrmsr(0xC0000080, 0x1500), wrmsr(0xC0000080, 1 << 32 | 0x500),
    wrmsr(0x1B, APIC & ~0x800, "apic_base"), wrmsr(0x1B, APIC, "apic_base"), wrmsr(0x1B, APIC | 0x400), wrmsr(0x1B, 0x800),
    wrmsr(0x277, 0x0606060606060606, "pat"), wrmsr(0x277, 2), wrmsr(0x277, 3 << 56), wrmsr(0x277, 8),
    wrmsr(0x8B, 5, "rcx", 0x8B), wrmsr(0x1A0, 1, "rcx", 0x1A0), wrmsr(0x1A0, 0), wrmsr(0x17, 1), wrmsr(0x1D9, 2),
    wrmsr(0x1D9, 0, "rcx", 0x1D9), wrmsr(0x12345, 0),
    S("start: rdmsr", "#GP(0)@start RF", dict(rcx=0x12345, rax=1, rdx=2), regs(rax=1, rdx=2), id="s159-rdmsr-unknown"),
    S("start: wrmsr; rdtsc; done: hlt", "", dict(rcx=0x10, rax=0, rdx=5), lambda b: equal(
        (b.reg("rdx"), b.reg("rax") < 100), (5, True)), id="s159-tsc"),
    S("start: cpuid; mov %edx, %r8d; mov $0x1b, %ecx; rdmsr; and $~0x800, %eax; wrmsr; mov $1, %eax; cpuid; mov %edx, %r9d;"
      "mov $0x1b, %ecx; rdmsr; or $0x800, %eax; wrmsr; mov $1, %eax; cpuid; done: hlt", "", dict(rax=1),
      lambda b: equal([b.reg(r) >> 9 & 1 for r in ("r8", "r9", "rdx")], [1, 0, 1]), id="s159-cpuid-follows"),
    S("start: swapgs; swapgs; swapgs; done: hlt", "", dict(gs_base=5, kernel_gs_base=BASE), regs(gs_base=BASE, kernel_gs_base=5),
      id="s159-swapgs"),
]

TSD = 0x20 | 1 << 2
PERMITTED, REFUSED = bytes(12), b"\xff" * 12


def _io(name: str, text: str, bitmap: bytes, ok: bool, base: int = 0x68, limit: int = 0x68 + 11, **more) -> pytest.param:
    mem = {TSS + 0x66: struct.pack("<H", base) + bitmap, STACK: b""}
    setup = USER | dict(rsp=USER_STACK, tr_limit=limit, mem=mem) | more
    return S("start: " + text + "; " + END, ENDED if ok else "#GP(0)@start RF", setup, None, id=f"s191-io-{name}")


def _bits(*ports: int) -> bytes:
    """A bitmap in which all but these are refused."""
    return (~sum(1 << port for port in ports) & (1 << 96) - 1).to_bytes(12, "little")


PORTS = [
    _io("refused", "in $0x21, %al", REFUSED, False),
    _io("permitted", "in $0x21, %al", _bits(0x21), True),
    _io("its-neighbour", "in $0x22, %al", _bits(0x21), False),
    _io("two", "in $0x21, %ax", _bits(0x21, 0x22), True),
    _io("one-of-two", "in $0x21, %ax", _bits(0x21), False),
    _io("four-over-bytes", "in $0x25, %eax", _bits(0x25, 0x26, 0x27, 0x28), True),
    _io("three-of-four", "in $0x25, %eax", _bits(0x25, 0x26, 0x27), False),
    _io("dx", "in (%dx), %al", _bits(0x30), True, rdx=0x30),
    _io("out", "out %al, (%dx)", _bits(0x30), True, rdx=0x30),
    _io("out-refused", "out %eax, (%dx)", _bits(0x30), False, rdx=0x30),
    _io("out-imm", "out %al, $0x21", _bits(0x21), True),
    _io("beyond-the-limit", "in $0x21, %al", PERMITTED, False, limit=0x68 + 4),
    _io("last-byte-in-the-limit", "in $0x21, %al", PERMITTED, True, limit=0x68 + 5),
    _io("no-map", "in $0x21, %al", PERMITTED, False, limit=0x66),
    _io("map-beyond", "in $0x21, %al", PERMITTED, False, base=0xFFFF, limit=0x67),
    _io("iopl-3", "in $0x21, %al", REFUSED, True, flags="IOPL"),
    _io("outs", "outsb", _bits(0x30), True, rdx=0x30, rsi=0x30000),
    _io("outs-refused", "rep outsb", _bits(0x31), False, rdx=0x30, rsi=0x30000, rcx=3),
    _io("outs-count-0", "rep outsb", REFUSED, True, rdx=0x30, rsi=0x30000),
    _io("ins", "rep insw", _bits(0x30, 0x31), True, rdx=0x30, rdi=0x30000, rcx=3),
    _io("ins-refused", "insl", _bits(0x30, 0x31), False, rdx=0x30, rdi=0x30000),
]

CHECKED = [
    *(S(f"start: {text}", "#GP(0)@start RF IOPL", USER | dict(flags="IOPL"), last_frame(cs=USER_CS),
        id=f"s191-{text.split()[0]}")
      for text in ("rdmsr", "wrmsr", "clts", "lmsw %ax", "lldt %ax", "invd", "clac", "stac", "rdpmc")),
    S("start: rdpmc", "#GP(0)@start RF", KERNEL, None, id="s191-rdpmc-at-cpl-0"),
    *(S(f"start: {text};" + END, "#GP(0)@start RF", USER | dict(cr4=TSD), None, id=f"s191-tsd-{text}") for text in ("rdtsc", "rdtscp")),
    *(S(f"start: {text}; done: hlt", "", KERNEL | dict(cr4=TSD), None, id=f"s191-tsd-{text}-at-cpl-0") for text in ("rdtsc", "rdtscp")),
    S("start: rdtscp; done: hlt", "", dict(tsc_aux=0x89ABCDEF, rcx=M64), regs(rcx=0x89ABCDEF), id="s159-rdtscp"),
    *(S(f"start: {text};" + END, fault, USER | dict(cr4=0x20 | on << 11), None, id=f"s191-umip-{on}-{text.split()[0]}")
      for text in ("sgdt 0x30000", "sidt 0x30000", "sldt %eax", "str %eax", "smsw %eax")
      for on, fault in ((0, ENDED), (1, "#GP(0)@start RF"))),
    *(S(f"start: {text};" + END, "#UD@start RF", USER, None, id=f"s191-fsgsbase-off-{text.split()[0]}")
      for text in ("rdfsbase %rax", "rdgsbase %eax", "wrfsbase %rax", "wrgsbase %eax")),
    S("start: wrfsbase %rax; wrgsbase %ebx; rdfsbase %rcx; rdgsbase %rdx; rdfsbase %ebp;" + END, ENDED,
      USER | dict(cr4=0x10020, rax=BASE, rbx=BASE), regs(fs_base=BASE, gs_base=BASE & 0xFFFFFFFF, rcx=BASE, rdx=BASE & 0xFFFFFFFF,
                                                         rbp=BASE & 0xFFFFFFFF), id="s191-fsgsbase"),
    S("start: wrgsbase %rax", "#GP(0)@start RF", dict(cr4=0x10020, rax=NONCANONICAL), regs(gs_base=0), id="s191-wrgsbase-noncanonical"),
    S("start: lock swapgs".replace("lock ", ".byte 0xf0; "), "#UD@start RF", {}, None, id="s191-lock"),
    *(S(f"start: .byte {code}", "#UD@start RF", KERNEL, None, id=f"s191-absent-{name}") for name, code in (
        ("monitor", "0x0f, 1, 0xc8"), ("mwait", "0x0f, 1, 0xc9"), ("xgetbv", "0x0f, 1, 0xd0"), ("xsetbv", "0x0f, 1, 0xd1"),
        ("vmcall", "0x0f, 1, 0xc1"), ("vmmcall", "0x0f, 1, 0xd9"), ("encls", "0x0f, 1, 0xcf"), ("rdpkru", "0x0f, 1, 0xee"),
        ("sysenter", "0x0f, 0x34"), ("sysexit", "0x0f, 0x35"), ("getsec", "0x0f, 0x37"), ("rsm", "0x0f, 0xaa"))),
]


@pytest.mark.parametrize(ROW, [*CALLS, *CONTROL, *MSRS, *PORTS, *CHECKED])
def test_system(bench, text, expect, setup, check):
    gates = {64: DPL3} | setup.get("gates", {})
    run_row(bench, text, expect, setup | {"gates": gates}, check)
