"""The system that engines run and `kphw export` writes out: harts with their devices; RAM stays outside, on the buses."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hw.bus import DataBus, DebugPort, FetchBus, IpiPort, IrqPort, PipePort, RetirePort, TrapPort
from hw.cluster import MAX_HARTS, MemoryLock, OutTurns, interrupt_each_other
from hw.config import Config
from hw.core import Core
from hw.devices import DeviceBus, Devices
from hw.lapic import Lapic


class Soc(Component):
    """``harts`` cores of one `Config`, each with its own ports ``h{i}_...`` (see `hw.bus`), and the devices.

    Raises ``ValueError`` for a RAM size that the translation cannot express, and for a number of harts other than 1 to 4.

    Members
    -------
    h{i}_fetch, h{i}_data, h{i}_irq, h{i}_trap, h{i}_dbg, h{i}_retire, h{i}_pipe : the ports of hart i.
    ipi : an interprocessor interrupt from outside of the system, in any cycle; numbers of harts are physical destinations.
    console_valid, console_data, exit_valid, exit_code : see `hw.devices.Devices`; all harts share them.
    """

    def __init__(self, harts: int = 1, config: Config = Config()):
        if not 1 <= harts <= MAX_HARTS:
            raise ValueError(f"a system has 1 to {MAX_HARTS} harts, not {harts}")
        self.harts, self.config = harts, config
        members = {"ipi": In(IpiPort())}
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
        harts, several = range(self.harts), self.harts > 1
        cores, devices, apics = [], [], []
        if several:
            m.submodules.lock = lock = MemoryLock(self.harts)
        for i in harts:
            m.submodules[f"h{i}"] = core = Core(self.config, i, self.harts)
            m.submodules[f"bus{i}"] = bus = DeviceBus()
            m.submodules[f"devices{i}"] = device = Devices()
            apic = Lapic(i, self.harts)
            m.submodules[f"apic{i}"] = ResetInserter(core.reset)(apic) if several else apic
            connect(m, core=core.data, bus=bus.core)
            connect(m, core=core.io, devices=device.io)
            data = flipped(getattr(self, f"h{i}_data"))
            if several:
                connect(m, bus=bus.memory, lock=getattr(lock, f"h{i}_core"))
                connect(m, lock=getattr(lock, f"h{i}_memory"), port=data)
                m.d.comb += lock.unlock[i].eq(core.unlock)
            else:
                connect(m, bus=bus.memory, port=data)
            connect(m, bus=bus.apic, apic=apic.registers)
            connect(m, core=core.irq, apic=apic.hart)
            connect(m, apic=apic.outside, port=flipped(getattr(self, f"h{i}_irq")))
            connect(m, apic=apic.remote, port=flipped(self.ipi))
            connect(m, core=core.apic, apic=apic.core)
            connect(m, bus=bus.trap, port=flipped(getattr(self, f"h{i}_trap")))
            for name in ("fetch", "dbg", "retire", "pipe"):
                connect(m, core=getattr(core, name), port=flipped(getattr(self, f"h{i}_{name}")))
            cores.append(core)
            devices.append(device)
            apics.append(apic)
        if several:
            self._share(m, cores, devices)
            interrupt_each_other(m, apics)
        self._console(m, devices)
        return m

    def _console(self, m, devices):
        """Of all harts, one at most writes a port in a cycle."""
        for name in ("console", "exit"):
            data = "data" if name == "console" else "code"
            valids = [getattr(device, f"{name}_valid") for device in devices]
            m.d.comb += getattr(self, f"{name}_valid").eq(Cat(valids).any())
            values = [getattr(device, f"{name}_{data}") for device in devices]
            value = values[-1]
            for valid, other in reversed(list(zip(valids[:-1], values[:-1], strict=True))):
                value = Mux(valid, other, value)
            m.d.comb += getattr(self, f"{name}_{data}").eq(value)

    def _share(self, m, cores, devices):
        """An `out` waits for its turn."""
        m.submodules.turns = turns = OutTurns(self.harts)
        for i, (core, device) in enumerate(zip(cores, devices, strict=True)):
            m.d.comb += [
                turns.wants[i].eq(core.io.write),
                device.turn.eq(turns.grants[i]),
            ]
