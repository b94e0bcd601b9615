"""Scenarios of the trap semantics, 11.4: debug registers."""

import pytest
from rows import CLEAN, ROW, S, regs, run_row

DEBUG_REGISTERS = [
    S("start: mov %rax, %db4; mov %db4, %rbx; mov %db6, %rcx; done: hlt", "", {}, regs(rbx=CLEAN, rcx=CLEAN), id="s086-dr4"),
    S("start: mov %rax, %db6; mov %db6, %rbx; done: hlt", "", dict(dr6=0xFFFFEFFF), regs(rbx=CLEAN), id="s088-dr6-0"),
    S("start: mov %rax, %db6; done: hlt", "", dict(rax=0xFFFFFFFF), regs(dr6=0xFFFFEFFF), id="s089-dr6-ones"),
    S("start: mov %rax, %db7; done: hlt", "#GP(0)@start RF", dict(rax=1 << 32), regs(dr7=0x400), id="s090-dr7-high"),
    S("start: mov %rax, %db6; done: hlt", "#GP(0)@start RF", dict(rax=1 << 32), regs(dr6=CLEAN), id="s090-dr6-high"),
    S("start: mov %rax, %db7; done: hlt", "", dict(rax=0xFFFFFFFF), regs(dr7=0xFFFF27FF), id="s091-dr7-ones"),
]


@pytest.mark.parametrize(ROW, DEBUG_REGISTERS)
def test_scenario(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
