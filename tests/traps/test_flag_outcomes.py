"""Outcomes of flags that random operands reach too seldom: a sum of nothing, and overflows of a small immediate."""

import pytest
from rows import ROW, S, equal, run_row

ZF, OF, SF = 1 << 6, 1 << 11, 1 << 7
MAX, MIN = 0x7FFFFFFF, 0x80000000


def flag(mask: int):
    return lambda bench: equal(bench.reg("rflags") & mask, mask)


def _zero(text: str, name: str, **setup: int):
    return S(f"start: {text}; done: hlt", "", setup, flag(ZF), id=f"s191-zf-{name}")


def _over(text: str, name: str, **setup: int):
    return S(f"start: {text}; done: hlt", "", setup, flag(OF), id=f"s191-of-{name}")


OUTCOMES = [
    _zero("add $0, %al", "add-al", rax=0), _zero("or $0, %al", "or-al", rax=0), _zero(".byte 0x0d, 0, 0, 0, 0", "or-eax", rax=0),
    _zero("clc; .byte 0x15, 0, 0, 0, 0", "adc-eax", rax=0), _zero("clc; .byte 0x1d, 5, 0, 0, 0", "sbb-eax", rax=5),
    _zero("xor $9, %al", "xor-al", rax=9), _zero("add $0, %bl", "add-bl", rbx=0), _zero(".byte 0x81, 0xc3, 0, 0, 0, 0", "add-ebx", rbx=0),
    _zero(".byte 0x81, 0xcb, 0, 0, 0, 0", "or-ebx", rbx=0), _zero("clc; adc $0, %bl", "adc-bl", rbx=0),
    _zero("clc; .byte 0x81, 0xd3, 0, 0, 0, 0", "adc-ebx", rbx=0), _zero("clc; .byte 0x81, 0xdb, 5, 0, 0, 0", "sbb-ebx", rbx=5),
    _zero(".byte 0x81, 0xeb, 5, 0, 0, 0", "sub-ebx", rbx=5), _zero(".byte 0x81, 0xf3, 5, 0, 0, 0", "xor-ebx", rbx=5),
    _zero("add $0, %ebx", "add-ebx-8", rbx=0), _zero("or $0, %ebx", "or-ebx-8", rbx=0), _zero(".byte 0x2d, 5, 0, 0, 0", "sub-eax", rax=5),
    _zero(".byte 0x3d, 5, 0, 0, 0", "cmp-eax", rax=5), _zero("add (%rsp), %ebx", "add-memory", rbx=0), _zero("bsr %ebx, %ecx", "bsr", rbx=0),
    _zero("xadd %ecx, %ebx", "xadd", rbx=0, rcx=0),
    _over("add $1, %ebx", "add", rbx=MAX), _over("clc; adc $1, %ebx", "adc", rbx=MAX), _over("clc; sbb $1, %ebx", "sbb", rbx=MIN),
    _over("sub $1, %ebx", "sub", rbx=MIN), _over("cmp $1, %ebx", "cmp", rbx=MIN), _over("neg %ebx", "neg", rbx=MIN),
    _over("inc %bl", "inc-bl", rbx=0x7F), _over("dec %bl", "dec-bl", rbx=0x80), _over("inc %ebx", "inc", rbx=MAX), _over("dec %ebx", "dec", rbx=MIN),
    _over("cmpxchg %ecx, %ebx", "cmpxchg", rax=MIN, rbx=1, rcx=0),
    S("start: shr %cl, %ebx; done: hlt", "", dict(rbx=1, rcx=0, flags="SF"), flag(SF), id="s191-sf-shr-by-0"),
    S("start: mov $1, %eax; .byte 0xc4, 0xe2, 0x78, 0xf3, 0xdb; done: hlt", "", dict(rbx=MIN), flag(SF), id="s191-sf-blsi"),
]


@pytest.mark.parametrize(ROW, OUTCOMES)
def test_flag_outcomes(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
