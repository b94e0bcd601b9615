"""With tables, who fetches matters: the kernel's page is the supervisor's, the user's cannot be executed at CPL 0 (SMEP).

A fetch with the privilege of before or after would fault in each of these transfers (scenarios 12, 76, 134, 190).
"""

import pytest
from test_paging import PAGE, P, W, paged, tables
from test_privilege import DPL3, USER_CS, USER_SS
from test_system import SYS
from trapbench import CODE, USER

from sim.engine import StopReason

SMEP = 0x20 | 1 << 20
HANDLER = PAGE + 0x800
END = "l: int $64; ud2"

TRANSFERS = {
    "s012-int": ("start: nop; int $64; ud2", "", {}, []),
    "s076-syscall": ("start: syscall; int $64; ud2", "rex.w sysret", {}, []),
    "s190-sysret": (END, "start: rex.w sysret", dict(rcx="l"), []),
    "s134-iretq": (END, "iretq", {}, ["l", USER_CS, 2, 0x7100, USER_SS]),
    "s134-lretq": (END, "lretq", {}, ["l", USER_CS, 0x7100, USER_SS]),
}


@pytest.mark.parametrize("name", TRANSFERS)
def test_privilege_of_fetches(bench, assemble, name):
    user, kernel, more, stack = TRANSFERS[name]
    code = assemble(f"{kernel}; ud2", at=PAGE).data
    builder = tables((PAGE, PAGE, P | W))
    starts = {} if user.startswith("start") else dict(rip=PAGE, cs=8, ss=0x10)
    setup = SYS | USER | dict(rsp=0x7000, lstar=PAGE, cr4=SMEP, stack=stack) | starts | more
    bench.load(user, gates={64: DPL3 | dict(offset=HANDLER)}, **paged(builder, **setup, mem={PAGE: code, HANDLER: b"\xf4"}))
    bench.run()
    assert [trap.vector for trap in bench.taken] == [64], list(map(str, bench.taken))
    assert bench.taken[0].frame.cs & 3 == 3
    assert (bench.reason, bench.reg("rip"), bench.reg("cpl")) == (StopReason.HALTED, HANDLER + 1, 0)


#: Transfers to a page that the new privilege must not execute, though the old one has just executed there.
WRONG = {
    "s190-sysret": (END, "start: rex.w sysret", dict(rcx=PAGE + 0x10), [], 0x15),
    "s134-iretq": (END, "iretq", {}, [PAGE + 0x10, USER_CS, 2, 0x7100, USER_SS], 0x15),
    "s134-lretq": (END, "lretq", {}, [PAGE + 0x10, USER_CS, 0x7100, USER_SS], 0x15),
    "s076-syscall": ("start: syscall; e: hlt", "ud2", dict(lstar="e"), [], 0x11),
    "s012-int": ("start: int $65; e: hlt", "ud2", {}, [], 0x11),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_new_privilege_must_not_fetch(bench, assemble, name):
    user, kernel, more, stack, error = WRONG[name]
    code = assemble(f"{kernel}; ud2; .org 0x10; nop; hlt", at=PAGE).data
    builder = tables((PAGE, PAGE, P | W))
    starts = {} if user.startswith("start") else dict(rip=PAGE, cs=8, ss=0x10)
    setup = SYS | USER | dict(rsp=0x7000, cr4=SMEP, stack=stack) | starts | more
    place = assemble(user, at=CODE).labels.get("e", 0)
    gates = {65: DPL3 | dict(offset=place), 14: dict(offset=HANDLER)}
    bench.load(user, gates=gates, **paged(builder, **setup, mem={PAGE: code, HANDLER: b"\xf4"}))
    bench.run()
    where = PAGE + 0x10 if error & 4 else place
    last = bench.taken[-1]
    assert (last.vector, last.error, last.rip, last.cr2) == (14, error, where, where), list(map(str, bench.taken))
    assert (bench.reason, bench.reg("rip")) == (StopReason.HALTED, HANDLER + 1)
