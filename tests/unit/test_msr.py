"""MSRs and values of control registers: which there are, and what may be written (SDM vol. 3, 2.5; vol. 4)."""

import pytest

from hw.bus import APIC_BASE
from hw.isa.facts import SysReg
from hw.msr import MSRS, NOWHERE, Msrs
from tests.unit.opbench import M64, simulate

HOLE = 0x0000800000000000
ADDRESSES = (0xC0000082, 0xC0000083, 0xC0000100, 0xC0000101, 0xC0000102)

#: MSR: values that it takes, and values that it refuses.
VALUES = {
    0x10: ((0, M64), ()),
    0x17: ((0,), (1, M64)),
    0x1B: ((APIC_BASE | 0x900, APIC_BASE | 0x100), (APIC_BASE | 0x800, APIC_BASE | 0xD00, APIC_BASE + 0x1000 | 0x900, 0, M64)),
    0x8B: ((0, M64), ()),
    0x1A0: ((1,), (0, 3)),
    0x1D9: ((0,), (1, 2, 1 << 63)),
    0x277: ((0, 0x0007040600070406, 0x0606060606060606, 0x0105040706000105), (2, 3 << 8, 8 << 56, 0xFF)),
    0xC0000080: ((0x500, 0x501, 0xD01, 0x100), (0, 0x400, 0x502, 0x1500, 1 << 32 | 0x500)),
    0xC0000081: ((0, M64), ()),
    0xC0000084: ((0, 0xFFFFFFFF), (1 << 32, M64)),
    0xC0000103: ((0, 0xFFFFFFFF), (1 << 32, M64)),
    **{number: ((0, M64), ()) for number in ADDRESSES},
}

#: System register: the same for moves to it, and for MSRs that are addresses.
TARGETS = {
    SysReg.CR0: ((0x80050033, 0xE0050033, 0x80000001), (0x80050032, 0x00050033, 0xA0050033, 1 << 32 | 0x80050033)),
    SysReg.CR2: ((0, M64), ()),
    SysReg.CR3: ((0, 0xFFFFFFFF), (1 << 32, 1 << 63)),
    SysReg.CR4: ((0x20, 0x3108BC), (0, 0x1B, *(0x20 | 1 << bit for bit in (0, 1, 6, 8, 9, 10, 12, 13, 14, 17, 18, 22, 24, 32, 63)))),
    SysReg.CR8: ((0, 15), (16, M64)),
    SysReg.DR6: ((0, 0xFFFFFFFF), (1 << 32,)),
    SysReg.DR7: ((0, 0xFFFFFFFF), (1 << 32,)),
    **{
        reg: ((0, HOLE - 1, M64 + 1 - HOLE, M64), (HOLE, M64 - HOLE, 1 << 63))
        for reg in (SysReg.FS_BASE, SysReg.GS_BASE, SysReg.KERNEL_GS_BASE, SysReg.LSTAR, SysReg.CSTAR)
    },
}


def run(test):
    dut = Msrs()

    async def bench(ctx):
        test(ctx, dut)

    simulate(dut, bench)


def test_which_there_are(rng):
    def test(ctx, dut):
        for number in (*VALUES, *(number + n for number in VALUES for n in (-1, 1)), *(rng.getrandbits(32) for _ in range(200))):
            ctx.set(dut.number, number)
            assert ctx.get(dut.known) == (number in VALUES), hex(number)

    run(test)
    assert {row.number for row in MSRS} == set(VALUES)


@pytest.mark.parametrize("number", VALUES, ids=hex)
def test_values_of_msrs(number):
    def test(ctx, dut):
        ctx.set(dut.number, number)
        for refused, values in enumerate(VALUES[number]):
            for value in values:
                ctx.set(dut.data, value)
                assert ctx.get(dut.msr_refused) == refused, hex(value)
        (row,) = (row for row in MSRS if row.number == number)
        assert ctx.get(dut.reg) == (NOWHERE if row.reg is None else row.reg)
        assert (ctx.get(dut.constant), ctx.get(dut.value)) == (row.reg is None, row.value)

    run(test)


@pytest.mark.parametrize("reg", TARGETS, ids=lambda reg: reg.name)
def test_values_of_registers(reg):
    def test(ctx, dut):
        ctx.set(dut.target, reg)
        for refused, values in enumerate(TARGETS[reg]):
            for value in values:
                ctx.set(dut.data, value)
                assert ctx.get(dut.refused) == refused, hex(value)

    run(test)


def test_addresses_are_those_of_the_table():
    assert {row.number for row in MSRS if row.address} == set(ADDRESSES)
    assert NOWHERE not in set(SysReg)
