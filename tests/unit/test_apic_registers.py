"""The local interrupt controller at its registers: priorities, IPIs to itself, the timer, errors, software and global enable."""

import pytest

from hw.lapic import ROWS, VERSION, At, Lapic
from tests.unit.opbench import simulate

MASKED = 1 << 16
SELF_FIXED, SELF_NMI = 1 << 18, 1 << 18 | 4 << 8


class Driver:
    """Register accesses and acknowledges, one a cycle."""

    def __init__(self, ctx, dut):
        self.ctx, self.dut = ctx, dut

    async def write(self, at, value):
        for name, v in (("offset", at), ("write", 1), ("wdata", value)):
            self.ctx.set(getattr(self.dut.registers, name), v)
        await self.ctx.tick()
        self.ctx.set(self.dut.registers.write, 0)

    def read(self, at):
        self.ctx.set(self.dut.registers.offset, at)
        return self.ctx.get(self.dut.registers.rdata)

    async def touch(self, at):
        """A load, with what it does to the error status."""
        self.ctx.set(self.dut.registers.read, 1)
        value = self.read(at)
        await self.ctx.tick()
        self.ctx.set(self.dut.registers.read, 0)
        return value

    def offered(self):
        """The vector offered to the hart, or None."""
        hart = self.dut.hart
        return self.ctx.get(hart.vector) if self.ctx.get(hart.valid) else None

    async def accept(self):
        vector = self.offered()
        self.ctx.set(self.dut.hart.ack, 1)
        await self.ctx.tick()
        self.ctx.set(self.dut.hart.ack, 0)
        return vector

    async def send(self, command):
        await self.write(At.ICR_LOW, command)
        await self.ctx.tick()


def lapic_test(test, number=0, on=True):
    dut = Lapic(number, number + 1)

    async def bench(ctx):
        ctx.set(dut.core.enable, 1)
        driver = Driver(ctx, dut)
        if on:
            await driver.write(At.SVR, 0x1FF)
        await test(driver)

    simulate(dut, bench, clock=True)


def test_registers_after_reset():
    async def test(d):
        assert d.read(At.ID) == 3 << 24
        assert d.read(At.VERSION) == VERSION
        assert d.read(At.TIMER_CURRENT) == d.read(At.PPR) == d.read(At.EOI) == d.read(At.ESR) == 0
        assert {row.at.name: d.read(row.at) for row in ROWS} == {row.at.name: row.reset for row in ROWS}

    lapic_test(test, number=3, on=False)


def test_registers_keep_what_they_may():
    async def test(d):
        for row in ROWS:
            if row.at not in (At.ICR_LOW, At.SVR):
                await d.write(row.at, 0xFFFFFFFF)
                assert d.read(row.at) == row.mask | row.ones, row.at.name
                await d.write(row.at, 0)
                assert d.read(row.at) == row.ones, row.at.name

    lapic_test(test)


def test_the_highest_vector_goes_first():
    """s145, s148: the highest is offered; a second request is kept while the first is in service, a third merges."""

    async def test(d):
        for vector in (0x31, 0x45, 0x33):
            await d.send(SELF_FIXED | vector)
        assert await d.accept() == 0x45
        assert d.offered() is None  # lower classes wait
        for _ in range(3):
            await d.send(SELF_FIXED | 0x45)
        assert d.offered() is None
        await d.write(At.EOI, 0)
        assert await d.accept() == 0x45
        await d.write(At.EOI, 0)
        assert await d.accept() == 0x33
        assert d.read(At.ISR + 0x10) == 1 << 0x13 and d.read(At.IRR + 0x10) == 1 << 0x11
        await d.write(At.EOI, 0)
        assert await d.accept() == 0x31
        await d.write(At.EOI, 0)
        assert d.offered() is None

    lapic_test(test)


def test_classes_in_service_hold_back_their_own():
    """s147: 0x5f waits for the end of 0x51, 0x61 does not."""

    async def test(d):
        await d.send(SELF_FIXED | 0x51)
        assert await d.accept() == 0x51
        await d.send(SELF_FIXED | 0x5F)
        assert d.offered() is None and d.read(At.PPR) == 0x50
        await d.send(SELF_FIXED | 0x61)
        assert await d.accept() == 0x61
        await d.write(At.EOI, 0)
        assert d.offered() is None
        await d.write(At.EOI, 0)
        assert await d.accept() == 0x5F

    lapic_test(test)


def test_task_priority():
    """s146, s160: a class at or below the task priority waits; CR8 is its upper half, both ways."""

    async def test(d):
        await d.write(At.TPR, 0xF0)
        await d.send(SELF_FIXED | 62)
        await d.send(SELF_FIXED | 32)
        assert d.offered() is None and d.read(At.PPR) == 0xF0
        await d.write(At.TPR, 0x20)
        assert await d.accept() == 62
        await d.write(At.EOI, 0)
        assert d.offered() is None
        d.ctx.set(d.dut.core.cr8, 1)
        d.ctx.set(d.dut.core.cr8_we, 1)
        await d.ctx.tick()
        d.ctx.set(d.dut.core.cr8_we, 0)
        assert d.read(At.TPR) == d.ctx.get(d.dut.core.tpr) == 0x10
        assert d.offered() == 32

    lapic_test(test)


def test_an_empty_eoi_is_ignored():
    """s158."""

    async def test(d):
        await d.write(At.EOI, 0)
        await d.send(SELF_FIXED | 0x40)
        assert await d.accept() == 0x40
        await d.write(At.EOI, 0)
        await d.write(At.EOI, 0)
        assert d.offered() is None and d.read(At.PPR) == 0

    lapic_test(test)


@pytest.mark.parametrize(
    ("high", "low", "hit"),
    [
        (0, 0, True), (5, 0, False), (0xFF, 0, True),  # physical
        (0, 1 << 18, True), (5, 2 << 18, True), (0, 3 << 18, False),  # self, all, all but self
        (4, 1 << 11, True), (3, 1 << 11, False),  # logical: LDR is 4
    ],
)  # fmt: skip
def test_destinations(high, low, hit):
    async def test(d):
        await d.write(At.LDR, 4 << 24)
        await d.write(At.ICR_HIGH, high << 24)
        await d.send(low | 0x77)
        assert d.offered() == (0x77 if hit else None)
        assert d.read(At.ICR_LOW) == low | 0x77  # delivery status, bit 12, is never set

    lapic_test(test)


@pytest.mark.parametrize("number", (0, 2))
def test_ipis_from_outside(number):
    """One a cycle may come, each to whom its destination names; they are kept and served as those of harts."""

    async def test(d):
        async def send(vector, destination, **fields):
            for name, value in (dict(valid=1, vector=vector, destination=destination, mode=0) | fields).items():
                d.ctx.set(getattr(d.dut.remote, name), value)
            await d.ctx.tick()
            d.ctx.set(d.dut.remote.valid, 0)

        await send(0x44, number)
        assert d.offered() == 0x44
        await send(0x99, number ^ 1)
        assert d.offered() == 0x44
        await send(0x66, 0xFF)
        assert await d.accept() == 0x66 and d.offered() is None and d.read(At.ISR + 0x30) == 1 << 6
        await d.write(At.EOI, 0)
        assert await d.accept() == 0x44
        await d.write(At.EOI, 0)
        await d.write(At.LDR, 4 << 24)
        await send(0x55, 4, logical=1, mode=1)
        assert d.offered() == 0x55, "of the lowest priority"
        d.ctx.set(d.dut.remote.valid, 1)
        d.ctx.set(d.dut.remote.mode, 4)
        assert d.ctx.get(d.dut.core.nmi)
        d.ctx.set(d.dut.remote.mode, 6)
        assert d.ctx.get(d.dut.core.start) and d.ctx.get(d.dut.core.page) == 0x55 and not d.ctx.get(d.dut.core.nmi)

    lapic_test(test, number)


def test_nmi_to_itself_comes_before_a_later_interrupt():
    """s161, with one hart: the NMI is seen not later than the interrupt that was sent after it."""

    async def test(d):
        core = d.dut.core
        await d.write(At.ICR_LOW, SELF_NMI)
        assert d.ctx.get(core.nmi)
        await d.write(At.ICR_LOW, SELF_FIXED | 0x44)
        assert not d.ctx.get(core.nmi) and d.offered() is None
        await d.ctx.tick()
        assert d.offered() == 0x44

    lapic_test(test)


def test_modes_for_other_harts_do_nothing():
    """SMI, INIT and start-up to itself."""

    async def test(d):
        for mode in (2, 5, 6):
            await d.write(At.ICR_LOW, 2 << 18 | mode << 8 | 0x44)
            assert not d.ctx.get(d.dut.core.nmi)
            await d.ctx.tick()
            assert d.offered() is None

    lapic_test(test)


@pytest.mark.parametrize(("divide", "cycles"), [(0xB, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128)])
def test_timer_divides(divide, cycles):
    """s156: one interrupt after exactly N ticks, and the count stays at 0."""

    async def test(d):
        await d.write(At.TIMER_DIVIDE, divide)
        await d.write(At.LVT_TIMER, 0x50)
        await d.write(At.TIMER_INITIAL, 5)
        waited = 0
        while d.offered() is None:
            await d.ctx.tick()
            waited += 1
            assert waited <= 5 * cycles
        assert waited == 5 * cycles
        assert await d.accept() == 0x50 and d.read(At.TIMER_CURRENT) == 0
        await d.write(At.EOI, 0)
        for _ in range(12 * cycles):
            await d.ctx.tick()
        assert d.offered() is None

    lapic_test(test)


def test_timer_periodic_and_mode_changes():
    """s157: the period repeats; a change of mode reloads nothing; 0 stops."""

    async def test(d):
        await d.write(At.TIMER_DIVIDE, 0xB)
        await d.write(At.LVT_TIMER, 1 << 17 | 0x50)
        await d.write(At.TIMER_INITIAL, 10)
        for _ in range(3):
            for _ in range(9):
                assert d.offered() is None
                await d.ctx.tick()
            await d.ctx.tick()
            assert await d.accept() == 0x50
            await d.write(At.EOI, 0)
            assert d.read(At.TIMER_CURRENT) == 8
            await d.write(At.TIMER_INITIAL, 10)
        before = d.read(At.TIMER_CURRENT)
        await d.write(At.LVT_TIMER, 0x50)  # one shot
        assert d.read(At.TIMER_CURRENT) == before - 1
        for _ in range(40):
            await d.ctx.tick()
        assert await d.accept() == 0x50 and d.read(At.TIMER_CURRENT) == 0
        await d.write(At.EOI, 0)
        await d.write(At.TIMER_INITIAL, 10)
        await d.write(At.TIMER_INITIAL, 0)
        for _ in range(40):
            await d.ctx.tick()
        assert d.offered() is None

    lapic_test(test)


def test_a_masked_timer_counts_silently():
    async def test(d):
        await d.write(At.TIMER_DIVIDE, 0xB)
        await d.write(At.LVT_TIMER, MASKED | 0x50)
        await d.write(At.TIMER_INITIAL, 4)
        for _ in range(8):
            await d.ctx.tick()
        assert d.offered() is None and d.read(At.TIMER_CURRENT) == 0

    lapic_test(test)


def test_software_disable():
    """SVR bit 8: nothing fixed is accepted, the local vector table is masked; NMIs still come."""

    async def test(d):
        await d.write(At.LVT_TIMER, 0x50)
        assert d.read(At.LVT_TIMER) == 0x50
        await d.write(At.SVR, 0xFF)
        assert d.read(At.LVT_TIMER) == MASKED | 0x50
        await d.write(At.LVT_TIMER, 0x51)
        assert d.read(At.LVT_TIMER) == MASKED | 0x51
        await d.send(SELF_FIXED | 0x44)
        assert d.offered() is None
        await d.write(At.ICR_LOW, SELF_NMI)
        assert d.ctx.get(d.dut.core.nmi)
        await d.write(At.SVR, 0x1FF)
        assert d.offered() is None

    lapic_test(test)


def test_global_disable():
    """s159: reads are all ones, writes are ignored, and what comes back is the reset state."""

    async def test(d):
        await d.write(At.TPR, 0x30)
        await d.send(SELF_FIXED | 0x88)
        d.ctx.set(d.dut.core.enable, 0)
        await d.ctx.tick()
        assert d.read(At.TPR) == d.read(At.VERSION) == 0xFFFFFFFF and d.offered() is None
        await d.write(At.TPR, 0x50)
        d.ctx.set(d.dut.core.enable, 1)
        assert d.read(At.TPR) == 0 and d.read(At.SVR) == 0xFF
        await d.write(At.SVR, 0x1FF)
        await d.send(SELF_FIXED | 0x77)
        assert await d.accept() == 0x77

    lapic_test(test)


def test_errors():
    """An illegal vector is reported by ESR and by the error interrupt; ESR shows what was found before it was written."""

    async def test(d):
        await d.write(At.LVT_ERROR, 0xE1)
        await d.send(SELF_FIXED | 15)
        assert d.read(At.ESR) == 0
        assert await d.accept() == 0xE1
        await d.write(At.ESR, 0)
        assert d.read(At.ESR) == 0x60
        await d.write(At.ESR, 0)
        assert d.read(At.ESR) == 0
        assert await d.touch(0x3C0) == 0
        await d.write(At.ESR, 0)
        assert d.read(At.ESR) == 0x80

    lapic_test(test)


def test_the_outside_passes_first():
    async def test(d):
        outside, hart = d.dut.outside, d.dut.hart
        await d.send(SELF_FIXED | 0xF0)
        d.ctx.set(outside.valid, 1)
        d.ctx.set(outside.vector, 0x20)
        assert d.offered() == 0x20
        d.ctx.set(hart.ack, 1)
        assert d.ctx.get(outside.ack)
        await d.ctx.tick()
        d.ctx.set(outside.valid, 0)
        assert not d.ctx.get(outside.ack) and d.offered() == 0xF0
        await d.ctx.tick()
        d.ctx.set(hart.ack, 0)
        assert d.offered() is None and d.read(At.ISR + 0x70) == 1 << 0x10
        d.ctx.set(outside.nmi, 1)
        assert d.ctx.get(hart.nmi)

    lapic_test(test)
