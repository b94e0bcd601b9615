"""Scenarios of the trap semantics, 11.5: iretq."""

import struct
from typing import Any

import pytest
from rows import IRET_FRAME, ROW, S, cr2, regs, rsp_kept, run_row
from trapbench import CODE, NONCANONICAL, RAM_END


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


@pytest.mark.parametrize(ROW, IRETQ)
def test_scenario(bench, text, expect, setup, check):
    run_row(bench, text, expect, setup, check)
