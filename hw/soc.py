"""The system that engines run and `kphw export` writes out: harts with their devices; RAM stays outside, on the buses."""

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, Out, connect, flipped

from hw.bus import DataBus, DebugPort, FetchBus, IrqPort, PipePort, RetirePort, TrapPort
from hw.config import Config
from hw.core import Core
from hw.devices import DeviceBus, Devices
from hw.lapic import Lapic


class Soc(Component):
    """``harts`` cores of one `Config`, each with its own ports ``h{i}_...`` (see `hw.bus`), and the devices.

    Raises ``ValueError`` for a RAM size that the translation cannot express.

    Members
    -------
    h{i}_fetch, h{i}_data, h{i}_irq, h{i}_trap, h{i}_dbg, h{i}_retire, h{i}_pipe : the ports of hart i.
    console_valid, console_data, exit_valid, exit_code : see `hw.devices.Devices`.
    """

    def __init__(self, harts: int = 1, config: Config = Config()):
        if harts != 1:
            raise ValueError(f"only one hart is built so far, not {harts}; several are the next part of the project")
        self.harts, self.config = harts, config
        members = {}
        for i in range(harts):
            members |= {
                f"h{i}_fetch": Out(FetchBus()),
                f"h{i}_data": Out(DataBus()),
                f"h{i}_irq": Out(IrqPort()),
                f"h{i}_trap": Out(TrapPort()),
                f"h{i}_dbg": Out(DebugPort()),
                f"h{i}_retire": Out(RetirePort()),
                f"h{i}_pipe": Out(PipePort()),
            }
        devices = {"console_valid": Out(1), "console_data": Out(8), "exit_valid": Out(1), "exit_code": Out(32)}
        super().__init__(members | devices)

    def elaborate(self, platform):
        m = Module()
        for i in range(self.harts):
            m.submodules[f"h{i}"] = core = Core(self.config)
            m.submodules[f"bus{i}"] = bus = DeviceBus()
            m.submodules[f"devices{i}"] = devices = Devices()
            m.submodules[f"apic{i}"] = apic = Lapic(i)
            connect(m, core=core.data, bus=bus.core)
            connect(m, core=core.io, devices=devices.io)
            connect(m, bus=bus.memory, port=flipped(getattr(self, f"h{i}_data")))
            connect(m, bus=bus.apic, apic=apic.registers)
            connect(m, core=core.irq, apic=apic.hart)
            connect(m, apic=apic.outside, port=flipped(getattr(self, f"h{i}_irq")))
            connect(m, core=core.apic, apic=apic.core)
            connect(m, bus=bus.trap, port=flipped(getattr(self, f"h{i}_trap")))
            for name in ("fetch", "dbg", "retire", "pipe"):
                connect(m, core=getattr(core, name), port=flipped(getattr(self, f"h{i}_{name}")))
            m.d.comb += [
                self.console_valid.eq(devices.console_valid),
                self.console_data.eq(devices.console_data),
                self.exit_valid.eq(devices.exit_valid),
                self.exit_code.eq(devices.exit_code),
            ]
        return m
