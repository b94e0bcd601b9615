"""Windows around traps and probe hits."""

import pytest

from sim.engine import FOREVER
from sim.events import Deliver, Iret, ProbePhase, Trap, TrapPortCall
from sim.gtkw import around

EVENTS = [
    Trap(0, 500, 3, None, 0x1001, 0, 2), Deliver(0, 520, 0x40), ProbePhase(0, 540, "hit", 0x1000, "f", 0x1001, None),
    ProbePhase(0, 540, "step", 0x1000, "f", 0x9000, None), TrapPortCall(0, 540, 3, 0, 0x1001, 0x9000, True),
    Trap(1, 550, 14, 2, 0x1, 0, 0), Iret(0, 560, 0x50, 0x9000, 2), Trap(0, 566, 1, None, 0x9001, 0, 1), Deliver(0, 580, 0x80),
    ProbePhase(0, 600, "resume", 0x1000, "f", 0x1001, None), TrapPortCall(0, 600, 1, 0, 0x9001, 0x1001, True),
    Iret(0, 620, 0x50, 0x1001, 2), Iret(0, 900, 0x50, 0, 2),
]  # fmt: skip


def test_around():
    marks = {"int3": 500, "handler": 520, "iretq": 560}
    assert around(EVENTS, "trap:0") == (380, 681, 500, marks)
    assert around(EVENTS, "trap:1", margin=5) == (545, 556, 550, {"pf": 550}), "of another hart, which never returns"
    marks |= {"db": 566, "handler_2": 580, "iretq_2": 620}
    assert around(EVENTS, "hit:0", margin=600) == (0, 1221, 500, marks)
    assert around(EVENTS, "cycle:560", margin=10) == (550, 571, 560, {"pf": 550, "iretq": 560, "db": 566})
    assert around(EVENTS, "all")[:3] == (0, FOREVER, 500)
    assert around([], "all") == (0, FOREVER, None, {})


@pytest.mark.parametrize(
    "what, message",
    [("trap:3", r"no trap:3: the run had traps: 3 \(numbered from 0\)"), ("hit:1", "probe hits: 1"), ("trap:-1", "say trap:N"),
     ("trap", "say trap:N"), ("nowhere:1", "say trap:N")],
)  # fmt: skip
def test_around_refuses(what, message):
    with pytest.raises(ValueError, match=message):
        around(EVENTS, what)
    with pytest.raises(ValueError, match="had probe hits: none"):
        around([], "hit:0")
