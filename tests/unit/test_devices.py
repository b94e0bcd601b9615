"""Devices on the I/O ports, and the bus that splits the TrapPort from memory."""

import pytest

from hw.bus import APIC_BASE, DEVICE_PHYS, TRAP_RESULT
from hw.devices import CONSOLE_PORT, EXIT_PORT, UART_PORT, UART_READY, UART_STATUS, DeviceBus, Devices
from tests.unit.opbench import simulate

ALL_ONES = 0xFFFFFFFF


@pytest.mark.parametrize("valid", (0, 1))
@pytest.mark.parametrize("write", (0, 1))
def test_ports(valid, write):
    """Console and transmitter take a byte, the exit port a word, each only from a write that is valid."""
    dut = Devices()
    known = (CONSOLE_PORT, EXIT_PORT, UART_PORT, UART_STATUS)
    ports = {near for port in known for near in (port - 1, port, port + 1)} | {0, 0x20, 0x64, 0xFFFF}

    async def bench(ctx):
        io = dut.io
        ctx.set(io.valid, valid)
        ctx.set(io.write, write)
        for port in sorted(ports):
            for size in range(3):
                ctx.set(io.port, port)
                ctx.set(io.size, size)
                ctx.set(io.data, 0x12345678)
                assert ctx.get(dut.console_valid) == (valid and write and port in (CONSOLE_PORT, UART_PORT))
                assert ctx.get(dut.exit_valid) == (valid and write and port == EXIT_PORT)
                if ctx.get(dut.console_valid):
                    assert ctx.get(dut.console_data) == 0x78
                if ctx.get(dut.exit_valid):
                    assert ctx.get(dut.exit_code) == 0x12345678
                if not write:
                    read = {CONSOLE_PORT: CONSOLE_PORT, UART_STATUS: UART_READY}.get(port, ALL_ONES)
                    assert ctx.get(io.rdata) == read, hex(port)

    simulate(dut, bench)


def test_the_ports_are_those_of_qemu():
    assert (CONSOLE_PORT, EXIT_PORT, UART_PORT, UART_STATUS) == (0xE9, 0xF4, 0x3F8, 0x3FD)
    assert UART_READY == 0x60  # transmitter empty, and its holding register


def request(ctx, dut, addr=None, write=0, data=0, size=3, lock=0):
    """Puts a request on the hart's side; none without an address."""
    core = dut.core
    ctx.set(core.req_valid, addr is not None)
    ctx.set(core.req_addr, addr or 0)
    for name, value in (("write", write), ("data", data), ("size", size), ("lock", lock)):
        ctx.set(getattr(core, f"req_{name}"), value)


def test_device_loads_wait_for_memory():
    """An answer that memory owes, if only to a dropped load, comes before a device's."""

    async def test(ctx, dut):
        ctx.set(dut.memory.req_ready, 1)
        request(ctx, dut, 0x1000)
        await ctx.tick()
        request(ctx, dut, APIC_BASE + 0x30)
        ctx.set(dut.apic.rdata, 0x50014)
        for _ in range(5):
            assert not ctx.get(dut.core.req_ready) and not ctx.get(dut.apic.read) and not ctx.get(dut.core.resp_valid)
            await ctx.tick()
        ctx.set(dut.memory.resp_valid, 1)
        ctx.set(dut.memory.resp_data, 7)
        assert ctx.get(dut.core.resp_data) == 7
        assert ctx.get(dut.core.req_ready) and ctx.get(dut.apic.read)
        await ctx.tick()
        ctx.set(dut.memory.resp_valid, 0)
        request(ctx, dut)
        assert ctx.get(dut.core.resp_valid) and ctx.get(dut.core.resp_data) == 0x50014

    bus_test(test)


def test_the_interrupt_controller_takes_stores_at_once():
    async def test(ctx, dut):
        request(ctx, dut, APIC_BASE + 0xB0, 1, 0x1_0000_0005, 2)
        assert ctx.get(dut.core.req_ready) and ctx.get(dut.apic.write) and not ctx.get(dut.memory.req_valid)
        assert not ctx.get(dut.trap.req)
        assert (ctx.get(dut.apic.offset), ctx.get(dut.apic.wdata)) == (0xB0, 5)
        request(ctx, dut)
        assert not ctx.get(dut.apic.write)

    bus_test(test)


def bus_test(test):
    dut = DeviceBus()

    async def bench(ctx):
        await test(ctx, dut)

    simulate(dut, bench, clock=True)


def test_memory_requests_pass_through(rng):
    async def test(ctx, dut):
        owed = 0
        for _ in range(300):
            fields = dict(
                addr=rng.choice((rng.getrandbits(24), DEVICE_PHYS - 8, DEVICE_PHYS + 4096, 0)),
                write=rng.getrandbits(1),
                data=rng.getrandbits(64),
                size=rng.getrandbits(2),
                lock=rng.getrandbits(1),
            )
            request(ctx, dut, **fields)
            ready, answer, data = rng.getrandbits(1), owed > 0 and rng.getrandbits(1), rng.getrandbits(64)
            owed += (ready and not fields["write"]) - answer
            ctx.set(dut.memory.req_ready, ready)
            ctx.set(dut.memory.resp_valid, answer)
            ctx.set(dut.memory.resp_data, data)
            ctx.set(dut.trap.done, rng.getrandbits(1))
            assert ctx.get(dut.memory.req_valid) and not ctx.get(dut.trap.req)
            assert all(ctx.get(getattr(dut.memory, f"req_{name}")) == value for name, value in fields.items())
            assert ctx.get(dut.core.req_ready) == ready
            assert ctx.get(dut.core.resp_valid) == answer
            assert not answer or ctx.get(dut.core.resp_data) == data
            await ctx.tick()

    bus_test(test)


@pytest.mark.parametrize("handled", (0, 1))
@pytest.mark.parametrize("wait", (0, 1, 7))
def test_a_trap_is_held_until_done(handled, wait):
    """The store raises the port with its vector and data, memory sees nothing, and the result word says what happened."""

    async def test(ctx, dut):
        vectors = (0, 1, 3, 14, 32, 255)
        for vector in vectors:
            ctx.set(dut.memory.req_ready, 1)
            request(ctx, dut, DEVICE_PHYS + 8 * vector, 1, 0xFFFFFFFF80001000 + vector)
            for _ in range(wait):
                assert ctx.get(dut.trap.req) and not ctx.get(dut.core.req_ready)
                assert not ctx.get(dut.memory.req_valid)
                ctx.set(dut.trap.handled, 1 - handled)  # of no meaning before done
                await ctx.tick()
            ctx.set(dut.trap.done, 1)
            ctx.set(dut.trap.handled, handled)
            assert ctx.get(dut.trap.req) and ctx.get(dut.core.req_ready)
            assert ctx.get(dut.trap.vector) == vector
            assert ctx.get(dut.trap.addr) == 0xFFFFFFFF80001000 + vector
            await ctx.tick()
            ctx.set(dut.trap.done, 0)
            ctx.set(dut.trap.handled, 1 - handled)
            request(ctx, dut)
            assert not ctx.get(dut.trap.req) and not ctx.get(dut.core.resp_valid)
            await ctx.tick()
            assert await load(ctx, dut, TRAP_RESULT) == handled
            assert await load(ctx, dut, TRAP_RESULT) == handled  # reading does not clear it

    bus_test(test)


async def load(ctx, dut, offset):
    """A load of the device page: taken at once, whatever memory does, and answered in the next cycle."""
    ctx.set(dut.memory.req_ready, 0)
    request(ctx, dut, DEVICE_PHYS + offset)
    assert ctx.get(dut.core.req_ready) and not ctx.get(dut.memory.req_valid) and not ctx.get(dut.trap.req)
    await ctx.tick()
    request(ctx, dut)
    assert ctx.get(dut.core.resp_valid)
    value = ctx.get(dut.core.resp_data)
    await ctx.tick()
    assert not ctx.get(dut.core.resp_valid)
    return value


def test_other_words_of_the_page_read_as_zero():
    async def test(ctx, dut):
        request(ctx, dut, DEVICE_PHYS + 8 * 3, 1, 0x1000)
        ctx.set(dut.trap.done, 1)
        ctx.set(dut.trap.handled, 1)
        await ctx.tick()
        ctx.set(dut.trap.done, 0)
        assert await load(ctx, dut, TRAP_RESULT) == 1
        for offset in (0, 8, 8 * 255, TRAP_RESULT - 8, TRAP_RESULT + 8, 0xFF8):
            assert await load(ctx, dut, offset) == 0

    bus_test(test)


def test_done_without_a_request_changes_nothing():
    async def test(ctx, dut):
        ctx.set(dut.trap.done, 1)
        ctx.set(dut.trap.handled, 1)
        await ctx.tick()
        ctx.set(dut.trap.done, 0)
        assert await load(ctx, dut, TRAP_RESULT) == 0

    bus_test(test)


def test_a_device_load_behind_loads_of_memory():
    """The answer of memory and that of the device come in order, in cycles of their own."""

    async def test(ctx, dut):
        ctx.set(dut.memory.req_ready, 1)
        request(ctx, dut, 0x1000)
        await ctx.tick()
        request(ctx, dut, DEVICE_PHYS + TRAP_RESULT)
        ctx.set(dut.memory.resp_valid, 1)
        ctx.set(dut.memory.resp_data, 0xABCD)
        assert ctx.get(dut.core.resp_valid) and ctx.get(dut.core.resp_data) == 0xABCD
        await ctx.tick()
        request(ctx, dut)
        ctx.set(dut.memory.resp_valid, 0)
        assert ctx.get(dut.core.resp_valid) and ctx.get(dut.core.resp_data) == 0

    bus_test(test)
