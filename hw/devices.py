"""What lies on the I/O ports and in the device page: what QEMU has at the same ports, and the TrapPort."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.bus import DEVICE_PHYS, TRAP_RESULT, DataBus, IoPort, TrapPort

CONSOLE_PORT = 0xE9
EXIT_PORT = 0xF4
UART_PORT = 0x3F8
UART_STATUS = UART_PORT + 5

#: Line status: transmitter empty.
UART_READY = 0x60


class Devices(Component):
    """The debug console, isa-debug-exit and the transmitting half of COM1; reads of other ports give all ones.

    Members
    -------
    io : a hart's port accesses. console_valid, console_data : a byte is written in this cycle.
    exit_valid, exit_code : the run ends with status (code << 1) | 1.
    """

    io: In(IoPort())
    console_valid: Out(1)
    console_data: Out(8)
    exit_valid: Out(1)
    exit_code: Out(32)

    def elaborate(self, platform):
        m = Module()
        io = self.io
        m.d.comb += [self.console_data.eq(io.data), self.exit_code.eq(io.data), io.rdata.eq(Const(0xFFFFFFFF, 32))]
        with m.If(io.valid & io.write), m.Switch(io.port):
            with m.Case(CONSOLE_PORT, UART_PORT):
                m.d.comb += self.console_valid.eq(1)
            with m.Case(EXIT_PORT):
                m.d.comb += self.exit_valid.eq(1)
        with m.Switch(io.port):
            with m.Case(CONSOLE_PORT):
                m.d.comb += io.rdata.eq(CONSOLE_PORT)
            with m.Case(UART_STATUS):
                m.d.comb += io.rdata.eq(UART_READY)
        return m


class DeviceBus(Component):
    """Splits a hart's data bus: the device page goes to the TrapPort, the rest to memory.

    A store to device page + 8 * vector raises the TrapPort and is held until ``trap.done``; a load of `TRAP_RESULT` gives
    what ``handled`` said. The core never has a load and a device store in flight at once.

    Members
    -------
    core : from the hart. memory : to RAM. trap : to the runtime.
    """

    core: In(DataBus())
    memory: Out(DataBus())
    trap: Out(TrapPort())

    def elaborate(self, platform):
        m = Module()
        core, memory, trap = self.core, self.memory, self.trap
        device = Signal()
        store, load = Signal(), Signal()
        handled, answer = Signal(), Signal()
        m.d.comb += [
            device.eq(core.req_addr[12:] == DEVICE_PHYS >> 12),
            store.eq(core.req_valid & device & core.req_write),
            load.eq(core.req_valid & device & ~core.req_write),
            memory.req_valid.eq(core.req_valid & ~device),
            memory.req_addr.eq(core.req_addr),
            memory.req_size.eq(core.req_size),
            memory.req_write.eq(core.req_write),
            memory.req_data.eq(core.req_data),
            memory.req_lock.eq(core.req_lock),
            core.req_ready.eq(Mux(device, Mux(core.req_write, trap.done, 1), memory.req_ready)),
            core.resp_valid.eq(memory.resp_valid | answer),
            core.resp_data.eq(Mux(answer, handled, memory.resp_data)),
            trap.req.eq(store),
            trap.vector.eq(core.req_addr[3:11]),
            trap.addr.eq(core.req_data),
        ]
        result = Signal()
        with m.If(trap.req & trap.done):
            m.d.sync += result.eq(trap.handled)
        m.d.sync += [answer.eq(load), handled.eq(result & (core.req_addr[:12] == TRAP_RESULT))]
        return m


