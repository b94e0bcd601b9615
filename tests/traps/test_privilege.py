"""Scenarios of the trap semantics, by number: privilege. CPL 3, gate DPL, stack switches, IOPL, iretq to outer privilege.

Programs start at CPL 3 (`USER`) unless the row says otherwise; the notation is that of trapbench.py. A program at CPL 3
ends with ``int $64``, whose gate has DPL 3 and whose handler sleeps.
"""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from rows import ROW, SHUT, TF, S, equal, regs, run_row
from trapbench import (
    CODE_CONFORMING,
    DATA_DPL3,
    DATA_DPL3_NP,
    NONCANONICAL,
    RAM_END,
    STACK,
    TSS,
    USER,
    Bench,
)

from hw.bus import APIC_BASE, DEVICE_VIRT  # fmt: skip

END, ENDED = "done: int $64; e: ud2;", "v64@e"
INT3, UD = "start: int3; n: ud2", "start: ud2"
USER_CS, USER_SS = USER["cs"], USER["ss"]
USER_STACK, ALIGNED = 0x7238, 0x7230
KERNEL = dict(cs=8, ss=0x10)
DPL3 = dict(dpl=3)

#: Single-step handler for CPL 3: as trapbench's STEP.
STEP = "h1: cmpq $done, (%rsp); jne 1f; andl $~0x100, 16(%rsp); 1: iretq;"


def last_frame(**wanted: int) -> Callable[[Bench], None]:
    """What the last trap's frame holds."""

    def check(bench: Bench) -> None:
        saved = bench.taken[-1].frame
        assert saved is not None
        assert {name: hex(getattr(saved, name)) for name in wanted} == {n: hex(v) for n, v in wanted.items()}

    return check


FROM_USER = last_frame(cs=USER_CS, ss=USER_SS, rsp=USER_STACK, at=STACK - 48)
AT_CPL_0 = regs(cpl=0, ss=0, cs=8)


def quad(value: int) -> bytes:
    """A quadword of memory."""
    return struct.pack("<Q", value)


GATES = [
    S(INT3, "#BP@n; #GP(1a)@start RF", {}, [FROM_USER, AT_CPL_0], id="s011-int3-dpl-0"),
    S(INT3, "#BP@n -RF", dict(gates={3: DPL3}, mem={TSS + 4: quad(0x7F9D)}),
      [last_frame(cs=USER_CS, ss=USER_SS, rsp=USER_STACK, at=0x7F90 - 40), AT_CPL_0], id="s012-int3-dpl-3"),
    S(INT3, "#BP@n IF IOPL / -IF IOPL", dict(gates={3: DPL3}, flags="IF IOPL"), AT_CPL_0, id="s012-flags"),
    S(INT3, "#BP@n", dict(gates={3: DPL3 | dict(ist=3)}), last_frame(at=0xB000 - 40, rsp=USER_STACK), id="s012-ist"),
    S(INT3, "#BP@n; #GP(1a)@start RF", dict(gates={3: dict(p=0)}), None, id="s013-dpl-before-present"),
    S(INT3, "#BP@n; #NP(1a)@start RF", dict(gates={3: dict(p=0, dpl=3)}), None, id="s013-not-present"),
    S("start: div %rcx", "#DE@start RF", {}, last_frame(cs=USER_CS, at=STACK - 40), id="s014-fault-ignores-dpl"),
    S("start: .byte 0xf1; n: ud2", "#DB@n -RF", {}, last_frame(cs=USER_CS), id="s015-int1-ignores-dpl"),
    S("start: int $1; n: ud2", "#DB@n; #GP(a)@start RF", {}, FROM_USER, id="s016-int-1-dpl-0"),
    S("start: int $1; n: ud2", "#DB@n", dict(gates={1: DPL3}), None, id="s016-int-1-dpl-3"),
    S("start: int $0x21; n: ud2", "v33@n; #GP(10a)@start RF", {}, FROM_USER, id="s017-int-dpl-0"),
    *(S(f"start: int ${v}; n: ud2", f"{name}@n; #GP({8 * v + 2:x})@start RF", {}, None, id=f"s017-int-{v:x}")
      for v, name in ((0x29, "v41"), (0x2C, "v44"), (0x81, "v129"), (0xFF, "v255"))),
    S("start: int $33; n: ud2; h33: int $64; m: ud2", "v33@n; v64@m", dict(gates={33: dict(dpl=3, sel=CODE_CONFORMING)}),
      [last_frame(cs=CODE_CONFORMING | 3, ss=USER_SS, rsp=ALIGNED - 40),
       lambda b: equal((b.taken[0].frame.at, b.taken[0].frame.rsp), (ALIGNED - 40, USER_STACK))], id="s024-conforming"),
    S(INT3, "#BP@n; #TS(18)@start; #DF(0)@start; #TS(19)@start", SHUT | dict(gates={3: DPL3}, tr_limit=10), None,
      id="s028-tss-limit"),
    S(UD, "#UD@start; #TS(19)@start; #DF(0)@start; #TS(19)@start", SHUT | dict(tr_limit=10), None, id="s028-tss-limit-fault"),
    S(INT3, "#BP@n", dict(gates={3: DPL3}, tr_limit=11), None, id="s028-tss-limit-enough"),
    S(INT3, "#BP@n; #SS(0)@start; #DF(0)@start", dict(gates={3: DPL3, 8: dict(ist=1)}, mem={TSS + 4: quad(NONCANONICAL)}),
      None, id="s029-rsp0-noncanonical"),
    S(INT3, "#BP@n; #SS(0)@start RF", dict(gates={3: DPL3, 12: dict(ist=1)}, mem={TSS + 4: quad(NONCANONICAL)}),
      last_frame(at=0x9000 - 48, cs=USER_CS), id="s029-gate-12-with-ist"),
    S(INT3, "#BP@n; #SS(0)@start; #DF(0)@start; #SS(1)@start", SHUT | dict(gates={3: DPL3}, mem={TSS + 4: quad(NONCANONICAL)}),
      None, id="s029-shutdown"),
    S("start: int $33; n: ud2", "v33@n; #PF(0)@start RF", dict(idt=RAM_END - 16 * 33), regs(cr2=RAM_END), id="s175-idt-missing"),
    S("start: int $33; n: ud2", "v33@n; #PF(2)@start RF",
      dict(gates={33: DPL3, 14: dict(ist=1)}, mem={TSS + 4: quad(0x10)}), regs(cr2=(1 << 64) - 8), id="s175-push-is-supervisor"),
    S("start: mov %rax, 0x1000000", "#PF(6)@start RF", {}, None, id="s175-user-store"),
    S("start: mov 0x1000000, %rax", "#PF(4)@start RF", {}, None, id="s175-user-load"),
    S(f"start: movabs {DEVICE_VIRT:#x}, %al", "#PF(5)@start RF", {}, regs(cr2=DEVICE_VIRT), id="s175-device-page"),
    S(f"start: movabs %al, {APIC_BASE:#x}", "#PF(7)@start RF", {}, regs(cr2=APIC_BASE), id="s175-interrupt-controller"),
    S("start: jmp 0x1000000", "#PF(4)@RAM_END RF", {}, None, id="s175-user-fetch"),
]

STEPS = [
    S(STEP + "start: int $32; n: nop;" + END + "h32: nop; nop; iretq", "v32@n TF / -TF; #DB@done TF; " + ENDED,
      TF | dict(gates={32: DPL3}), None, id="s085-int-from-cpl-3"),
    S("start: mov %db6, %rax", "#GP(0)@start RF", dict(dr7=0x2400), regs(dr7=0x2400), id="s121-privilege-before-detect"),
    S("start: nop; l: nop; n: ud2", "#DB@l -RF", dict(dr0="l", dr7=0x402), last_frame(cs=USER_CS), id="s092-at-cpl-3"),
    S(STEP + "start: nop; a: nop;" + END, "#DB@a TF; #DB@done TF; " + ENDED, TF, last_frame(cs=USER_CS), id="s085-steps"),
]


def _iret(expect: str, check: Any = None, setup: dict | None = None, **changes: int | str) -> tuple:
    """An iretq to CPL 3, from CPL 0 unless the setup says otherwise, of a frame of which something is changed."""
    parts = {"rip": "l", "cs": USER_CS, "flags": 2, "rsp": 0x7100, "ss": USER_SS} | changes
    return "start: iretq; l: nop;" + END, expect, KERNEL | dict(stack=list(parts.values())) | (setup or {}), check


IRETQ = [
    S(*_iret(ENDED, last_frame(cs=USER_CS, ss=USER_SS, rsp=0x7100)), id="s134-to-cpl-3"),
    S(*_iret("#GP(8)@start RF", None, USER, cs=8), id="s125-rpl-below-cpl"),
    S(*_iret("#GP(8)@start RF", None, USER, cs=0xB), id="s125-dpl-below-rpl"),
    S(*_iret("#GP(0)@start RF", None, ss=0), id="s129-ss-null"),
    S(*_iret("#GP(0)@start RF", None, ss=3), id="s129-ss-null-rpl-3"),
    S(*_iret("#GP(40)@start RF", None, ss=DATA_DPL3), id="s129-ss-rpl"),
    S(*_iret("#GP(10)@start RF", None, ss=0x13), id="s129-ss-dpl"),
    S(*_iret(f"#SS({DATA_DPL3_NP:x})@start RF", None, ss=DATA_DPL3_NP | 3), id="s130-ss-not-present"),
    S(*_iret(ENDED, lambda b: equal(b.taken[0].frame.rflags & 0x3200, 0), USER, flags=0x3202), id="s131-if-iopl"),
    S(*_iret(ENDED, lambda b: equal(b.taken[0].frame.rflags & 0x3200, 0x3200), flags=0x3202), id="s131-from-cpl-0"),
    S(*_iret(ENDED, lambda b: equal(b.taken[0].frame.rflags & 0x3200, 0x3200), USER | dict(flags="IOPL"), flags=0x202),
      id="s131-if-with-iopl-3"),
    S(*_iret(ENDED, last_frame(rsp=0x7100), USER), id="s136-cpl-3-to-cpl-3"),
    S(*_iret(ENDED, last_frame(cs=CODE_CONFORMING | 3, rsp=0x7100), USER, cs=CODE_CONFORMING | 3), id="s136-to-conforming"),
]

FLAGS = [
    S("start: popfq; pushfq;" + END, ENDED, dict(stack=[0x3A02 | 0x144000]),
      lambda b: equal(b.quad(0x7000), 0x44802), id="s189-popf"),
    S("start: popfq;" + END, ENDED + " IF IOPL", dict(stack=[0x202], flags="IOPL"), None, id="s189-popf-with-iopl-3"),
    S("start: popfq;" + END, ENDED + " -IF IOPL", dict(stack=[2], flags="IOPL IF"), None, id="s189-popf-iopl-stays"),
    S("start: cli", "#GP(0)@start RF IF", dict(flags="IF"), None, id="s191-cli"),
    S("start: sti", "#GP(0)@start RF -IF", {}, None, id="s191-sti"),
    S("start: sti; nop;" + END, ENDED + " IF", dict(flags="IOPL"), None, id="s191-sti-with-iopl-3"),
    S("start: cli;" + END, ENDED + " -IF", dict(flags="IOPL IF"), None, id="s191-cli-with-iopl-3"),
]

#: What only CPL 0 may execute, whatever IOPL is.
PRIVILEGED = (
    "hlt", "mov %cr0, %rax", "mov %cr2, %rax", "mov %rax, %cr3", "mov %cr4, %rax", "mov %rax, %cr8",
    "lgdt 0x30000", "lidt 0x30000", "ltr %ax", "invlpg 0x30000", "swapgs", "wbinvd",
)  # fmt: skip

REFUSED = [
    *(S(f"start: {text}", "#GP(0)@start RF IOPL", dict(flags="IOPL"), FROM_USER,
        id=f"s191-{text.replace(' ', '-').replace(',', '')}") for text in PRIVILEGED),
    *(S(f"start: {text}", "#GP(0)@start RF", {}, FROM_USER, id=f"s121-{text.replace(' ', '-').replace(',', '')}")
      for text in ("mov %db7, %rax", "mov %rax, %db7", "mov %rax, %db0")),
    S("start: .byte 0xf0; hlt", "#UD@start RF", {}, None, id="s191-ud-before-gp"),
]


AC, AT_1 = dict(flags="AC"), dict(rbx=0x30001)
ALIGNMENT = [
    S("start: mov (%rbx), %eax;" + END, "#AC(0)@start RF AC", AC | AT_1, FROM_USER, id="s173-ac-load"),
    S("start: mov %ax, (%rbx);" + END, "#AC(0)@start RF AC", AC | AT_1, lambda b: equal(b.engine.read_mem(0x30000, 4), bytes(4)),
      id="s173-ac-store"),
    S("start: lock incl (%rbx);" + END, "#AC(0)@start RF AC", AC | AT_1, None, id="s173-ac-locked"),
    S("start: cmpxchg8b 3(%rbx);" + END, "#AC(0)@start RF AC", AC | AT_1, None, id="s173-ac-of-both-halves"),
    S("start: cmpxchg8b 7(%rbx);" + END, ENDED + " AC", AC | AT_1, None, id="s173-ac-aligned-halves"),
    S("start: push %rax;" + END, "#AC(0)@start RF AC", AC | dict(rsp=USER_STACK + 4), last_frame(rsp=USER_STACK + 4), id="s173-ac-push"),
    S("start: mov (%rbx), %al; mov 1(%rbx), %ax; mov 3(%rbx), %ecx; mov 7(%rbx), %rcx;" + END, ENDED + " AC", AC | AT_1, None,
      id="s173-ac-aligned"),
    S("start: mov (%rbx), %eax;" + END, ENDED, AT_1, None, id="s173-without-ac"),
    S("start: mov (%rbx), %eax;" + END, ENDED + " AC", AC | AT_1 | dict(cr0=0x80010033), None, id="s173-without-am"),
    S("start: mov (%rbx), %eax; done: hlt", "", AC | AT_1 | KERNEL, None, id="s173-no-ac-at-cpl-0"),
    S("start: pop %rax", "#SS(0)@start RF AC", AC | dict(rsp=NONCANONICAL | 1), None, id="s193-before-ac"),
]


@pytest.mark.parametrize(ROW, [*GATES, *STEPS, *IRETQ, *FLAGS, *REFUSED, *ALIGNMENT])
def test_privilege(bench, text, expect, setup, check):
    stack = 0x7000 if "stack" in setup else USER_STACK
    gates = {64: DPL3} | setup.get("gates", {})
    run_row(bench, text, expect, {"rsp": stack} | USER | setup | {"gates": gates}, check)
