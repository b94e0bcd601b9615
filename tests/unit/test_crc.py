"""The checksum unit against a bit-by-bit reference, and that against the host."""

from amaranth.sim import Simulator

from hw.crc import Crc32c
from hw.isa.facts import Op
from tests.unit.opbench import cases, check_reference


def test_unit():
    dut = Crc32c()

    async def bench(ctx):
        ctx.set(dut.en, 1)
        for case in cases((Op.CRC32,), range(4), 200, "crc"):
            ctx.set(dut.size, case.size)
            ctx.set(dut.crc, case.a & 0xFFFFFFFF)
            ctx.set(dut.data, case.b)
            assert ctx.get(dut.result) == case.expected().result, case
        ctx.set(dut.en, 0)
        assert ctx.get(dut.result) == 0

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()


def test_known_value():
    """The check value of CRC-32C: "123456789" gives E3069283H."""
    crc = 0xFFFFFFFF
    dut = Crc32c()

    async def bench(ctx):
        nonlocal crc
        ctx.set(dut.en, 1)
        for size, data in ((3, b"12345678"), (0, b"9")):
            ctx.set(dut.size, size)
            ctx.set(dut.crc, crc)
            ctx.set(dut.data, int.from_bytes(data, "little"))
            crc = ctx.get(dut.result)

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    assert crc ^ 0xFFFFFFFF == 0xE3069283


def test_reference(tmp_path):
    check_reference(list(cases((Op.CRC32,), range(4), 500, "crc")), tmp_path)
