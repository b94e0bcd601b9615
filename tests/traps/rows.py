"""What the tables of scenarios share: programs, set-ups, checks of the end, and how a row runs.

A row is text for the assembler, the traps in the notation of `trapbench`, the set-up (`Bench.load`; ``ends``: how the run
ends if not asleep; ``events``: of `Bench.run`), and a check of the end, or several. Its id begins with the number of the scenario in the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from trapbench import HALT, STACK, Bench

from hw.config import Vendor
from sim.engine import StopReason

S = pytest.param

#: The parameters of a row, for `pytest.mark.parametrize`.
ROW = ("text", "expect", "setup", "check")

INT3, INT33 = "start: int3; n: hlt", "start: int $33; n: hlt"
UD = "start: ud2; n: hlt"
DE = "start: div %rcx; n: hlt"
BAD_LOAD = "start: mov (%rbx), %rax; n: nop; done: hlt;"
BAD_STACK = dict(rsp=0x10)
SHUT = dict(ends=StopReason.SHUTDOWN)
TF, IRET_FRAME = dict(flags="TF"), ["l", 8, 2, 0x7100, 0x10]
NP = dict(p=0)

#: A row whose machine follows AMD.
AMD = pytest.mark.config(vendor=Vendor.AMD)

#: DR6 after a single step and after reset.
BS, CLEAN = 0xFFFF4FF0, 0xFFFF0FF0


def run_row(bench: Bench, text: str, expect: str, setup: dict[str, Any], check: Any) -> None:
    """Run a row and compare."""
    setup = dict(setup)
    ends, events = setup.pop("ends", StopReason.HALTED), setup.pop("events", ())
    bench.load(text, **{"rsp": 0x7000 if "stack" in setup else STACK} | setup)
    bench.before = {"rsp": bench.reg("rsp")}
    bench.run(events)
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
    return lambda bench: equal([hex(t.dr6) for t in bench.taken], [hex(v) for v in values])


def cr2(*values: int) -> Callable[[Bench], None]:
    """CR2 as each trap left it; None: whatever."""
    return lambda bench: equal([hex(t.cr2) for t in bench.taken if t.vector == 14], [hex(v) for v in values])


def rsp_kept(bench: Bench) -> None:
    """The last trap saved the rsp of the start."""
    assert bench.taken[-1].frame.rsp == bench.before["rsp"]


def equal(got: Any, wanted: Any) -> None:
    assert got == wanted
