"""The machine with several harts: what one does while another is waited for is not lost."""

import pytest

from sim.engine import StopReason

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
