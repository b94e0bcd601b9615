"""What the comparison with the model has found in the core, each as small as it gets; expectations are from silicon."""

import pytest

from sim.engine import RetireFlag, StopOn, StopReason
from sim.harts import REGISTERS

CODE = 0x11000


def trap_of(engine, code, regs):
    """The record of the first trap of an instruction."""
    engine.write_mem(CODE, bytes.fromhex(code))
    for name, value in {"rip": CODE, "rsp": 0x8000, **regs}.items():
        engine.write_reg(0, REGISTERS[name], value)
    engine.drain()
    assert engine.run(200, StopOn(trap=True)).reason == StopReason.TRAP
    return next(r for r in engine.drain().retires if r.flags & RetireFlag.TRAP)


@pytest.mark.parametrize(
    "code, regs, address",
    [
        # the address of a bit string is cut to 32 bits after the bit offset is added, not before
        pytest.param("670fa303", {"rbx": 0x40000, "rax": 0x80000000}, 0xF0040000, id="bt-67"),
        # of two pages that are missing, cmps reports that of [rdi], on processors of Intel and of AMD
        pytest.param("a6", {"rsi": 0x100000000, "rdi": 0x200000000}, 0x200000000, id="cmps"),
        pytest.param("f3a7", {"rsi": 0x100000000, "rdi": 0x200000000, "rcx": 4}, 0x200000000, id="rep-cmps"),
    ],
)
def test_page_faults_name_this_address(engine, code, regs, address):
    record = trap_of(engine, code, regs)
    assert (record.trap_vector, record.trap_error, record.trap_rip) == (14, 0, CODE)
    assert record.trap_addr == address
