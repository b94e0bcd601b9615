"""The machine with several harts: what one does while another is waited for is not lost."""

import pytest

from sim.engine import StopReason
from sim.events import Console

#: Hart 0 is inside a long instruction most of the time; hart 1 does something else.
BUSY = "start: mov $0x100000, %edi; mov $100, %ecx; rep stosb; jmp start; .balign 64; other: "


def two_harts(machine, code):
    m = machine(None, harts=2)
    m.load(code.address, code.data)
    m.harts[1].regs.rsp = 0x90000
    m.harts[1].regs.rip = code.labels["other"]
    return m


@pytest.mark.parametrize("synced", (False, True))
def test_the_end_of_the_run_while_a_hart_fetches_again(machine, assemble, synced):
    code = assemble(BUSY + ".fill 12, 1, 0x90; out %al, $0xf4; 1: jmp 1b")
    with two_harts(machine, code) as m:
        end = m.run(2000).cycles
    assert end < 2000
    for moment in range(end - 12, end):
        with two_harts(machine, code) as m:
            m.run(moment)
            m.mem.write(0x500, b"x")
            if synced:
                m.sync()
            assert m.run(2000).reason == StopReason.EXIT, moment
            assert m.cycle < end + 20


def test_nothing_of_other_harts_is_lost_while_one_fetches_again(machine, assemble, engine_name):
    """The edge of a write through the debug port is one for the other harts too: their instructions and ports are recorded."""
    code = assemble(
        "start: nop; jmp start; .balign 64; other: .fill 60, 1, 0x90; mov $65, %al; out %al, $0xe9; out %al, $0xf4; hlt"
    )
    with two_harts(machine, code) as m:
        wanted = m.run(2000)
        retired = m.harts[1].retired
    assert wanted.console == b"A" and retired == 63
    for moment in range(wanted.cycles - 40, wanted.cycles, 1 if engine_name == "compiled" else 13):
        with two_harts(machine, code) as m:
            m.run(moment)
            for _ in range(10):
                m.mem.write(0x500, b"x")
                m.sync()
            result = m.run(2000)
            assert (result.reason, m.harts[1].retired) == (StopReason.EXIT, retired), moment
            assert [event.byte for event in m.events.of(Console)] == [65], moment
