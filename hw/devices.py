"""What lies on the I/O ports and in the device page: what QEMU has at the same ports, and the TrapPort."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.bus import APIC_BASE, DEVICE_PHYS, TRAP_RESULT, DataBus, IoPort, RegisterPort, TrapPort

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
    exit_valid, exit_code : the run ends with status (code << 1) | 1. turn : an `out` may be made in this cycle.
    """

    io: In(IoPort())
    turn: In(1, init=1)
    console_valid: Out(1)
    console_data: Out(8)
    exit_valid: Out(1)
    exit_code: Out(32)

    def elaborate(self, platform):
        m = Module()
        io = self.io
        m.d.comb += [
            self.console_data.eq(io.data),
            self.exit_code.eq(io.data),
            io.ready.eq(self.turn),
            io.rdata.eq(Const(0xFFFFFFFF, 32)),
        ]
        with m.If(io.valid & io.write & self.turn), m.Switch(io.port):
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


#: Loads that memory may owe at once, those of dropped paths included: what its longest latency and the core's shortest
#: time between two dropped loads allow, generously.
_OWED = 63


class DeviceBus(Component):
    """Splits a hart's data bus: the device page goes to the TrapPort, the page of the interrupt controller to its registers,
    the rest to memory.

    A store to device page + 8 * vector raises the TrapPort and is held until ``trap.done``; a load of `TRAP_RESULT` gives
    what ``handled`` said. A load from a device waits until memory owes no answer, so that answers keep their order.

    Members
    -------
    core : from the hart. memory : to RAM. trap : to the runtime. apic : to the interrupt controller.
    """

    core: In(DataBus())
    memory: Out(DataBus())
    trap: Out(TrapPort())
    apic: Out(RegisterPort())

    def elaborate(self, platform):
        m = Module()
        core, memory, trap, apic = self.core, self.memory, self.trap, self.apic
        page = core.req_addr[12:]
        to_trap, to_apic, device = Signal(), Signal(), Signal()
        owed, free, ready, loads = Signal(range(_OWED + 1)), Signal(), Signal(), Signal()
        m.d.comb += [
            to_trap.eq(page == DEVICE_PHYS >> 12),
            to_apic.eq(page == APIC_BASE >> 12),
            device.eq(to_trap | to_apic),
            memory.req_valid.eq(core.req_valid & ~device),
            memory.req_addr.eq(core.req_addr),
            memory.req_size.eq(core.req_size),
            memory.req_write.eq(core.req_write),
            memory.req_data.eq(core.req_data),
            memory.req_lock.eq(core.req_lock & ~device),
            free.eq(owed == memory.resp_valid),  # what is owed comes in this cycle
            ready.eq(Mux(core.req_write, to_apic | trap.done, free)),
            core.req_ready.eq(Mux(device, ready, memory.req_ready)),
            trap.req.eq(core.req_valid & to_trap & core.req_write),
            trap.vector.eq(core.req_addr[3:11]),
            trap.addr.eq(core.req_data),
            apic.offset.eq(core.req_addr[:12]),
            apic.write.eq(core.req_valid & to_apic & core.req_write),
            apic.wdata.eq(core.req_data),
            apic.read.eq(core.req_valid & to_apic & ~core.req_write & free),
            loads.eq(memory.req_valid & memory.req_ready & ~core.req_write),
        ]
        m.d.sync += owed.eq(owed + loads - memory.resp_valid)

        result, answer, value = Signal(), Signal(), Signal(32)
        with m.If(trap.req & trap.done):
            m.d.sync += result.eq(trap.handled)
        m.d.sync += answer.eq(core.req_valid & device & ~core.req_write & free)
        with m.If(device):
            m.d.sync += value.eq(Mux(to_apic, apic.rdata, result & (core.req_addr[:12] == TRAP_RESULT)))
        m.d.comb += [
            core.resp_valid.eq(memory.resp_valid | answer),
            core.resp_data.eq(Mux(answer, value, memory.resp_data)),
        ]
        return m
