"""The testbench: memory and registers around the ports of the exported Verilog. It knows `hw.bus` and nothing inside.

The bench drives the clock itself. Between two calls of `Bench.step` memory's answers of the current cycle are on the
ports and the outputs have settled; a scenario may look at them, change other inputs, and `settle` to see what follows.
"""

from __future__ import annotations

import random

from cocotb.triggers import Timer

from hw.bus import IpiPort
from hw.isa.facts import DebugReg, Reg, SysReg

RAM_BYTES = 64 << 10

#: Addresses that the programs use.
CODE, HANDLER, DATA, IDT, GDT, STACK = 0x1000, 0x1100, 0x2000, 0x3000, 0x4000, 0x8008
CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10

#: No program here needs as many cycles.
PATIENCE = 400

#: Inputs of the system and of the hart, all 0 in reset.
_SHARED = tuple(f"ipi__{name}" for name in IpiPort().members)
_INPUTS = (
    *("fetch__req_ready", "fetch__resp_valid", "fetch__resp_data"),
    *("data__req_ready", "data__resp_valid", "data__resp_data"),
    *("irq__valid", "irq__vector", "irq__nmi"),
    *("trap__done", "trap__handled"),
    *("dbg__addr", "dbg__we", "dbg__wdata"),
)


class Port:
    """Requests that memory has accepted and not answered: (cycle from which it may answer, data)."""

    def __init__(self, name: str):
        self.name, self.waiting, self.ready = name, [], True


class Bench:
    """Hart 0 with `RAM_BYTES` of memory.

    ``slow``: a seed; memory then is at times not ready, and answers after one to four cycles. ``trace`` has a
    dictionary for each cycle in which something retired or a trap was taken.
    """

    def __init__(self, dut, slow: int | None = None):
        self.dut, self.memory, self.cycle, self.trace = dut, bytearray(RAM_BYTES), 0, []
        self._random = None if slow is None else random.Random(slow)
        self._fetch, self._data = Port("fetch"), Port("data")

    def __getattr__(self, name: str):
        """``bench.irq__valid`` is the handle of port ``h0_irq__valid``."""
        return getattr(self.dut, f"h0_{name}")

    async def reset(self) -> None:
        for name in _INPUTS:
            getattr(self, name).value = 0
        for name in _SHARED:
            getattr(self.dut, name).value = 0
        self.dut.clk.value, self.dut.rst.value = 0, 1
        await self.settle()  # no edge before the inputs are known
        for _ in range(2):
            await self._clock()
        self.dut.rst.value = 0
        self._fetch, self._data = Port("fetch"), Port("data")
        self.trace = []
        self._drive(self._fetch)
        self._drive(self._data)
        await self.settle()

    # Memory.

    def write(self, address: int, data: bytes | str) -> None:
        data = bytes.fromhex(data) if isinstance(data, str) else data
        self.memory[address : address + len(data)] = data

    def read(self, address: int, size: int = 8) -> int:
        return int.from_bytes(self.memory[address : address + size], "little")

    def gate(self, vector: int, handler: int) -> None:
        """A present 64-bit interrupt gate, DPL 0."""
        low = (handler & 0xFFFF) | CODE_SELECTOR << 16 | 0x8E << 40 | (handler >> 16 & 0xFFFF) << 48
        self.write(IDT + 16 * vector, (low | handler >> 32 << 64).to_bytes(16, "little"))

    def _drive(self, port: Port) -> None:
        port.ready = self._random is None or self._random.random() < 0.6
        getattr(self, f"{port.name}__req_ready").value = int(port.ready)
        answers = bool(port.waiting) and port.waiting[0][0] <= self.cycle
        getattr(self, f"{port.name}__resp_valid").value = int(answers)
        if answers:
            getattr(self, f"{port.name}__resp_data").value = port.waiting.pop(0)[1]

    def _accept(self, port: Port, data: int) -> None:
        port.waiting.append((self.cycle + (1 if self._random is None else self._random.randint(1, 4)), data))

    def _requests(self) -> None:
        """What the edge that follows does to memory."""
        if self._fetch.ready and self.fetch__req_valid.value == 1:
            self._accept(self._fetch, self.read(int(self.fetch__req_addr.value), 16))
        if self._data.ready and self.data__req_valid.value == 1:
            address, size = int(self.data__req_addr.value), 1 << int(self.data__req_size.value)
            if self.data__req_write.value == 1:
                stored = int(self.data__req_data.value) & ((1 << 8 * size) - 1)
                self.write(address, stored.to_bytes(size, "little"))
            else:
                self._accept(self._data, self.read(address, size))

    # Time.

    async def settle(self) -> None:
        await Timer(1, "ns")

    async def _clock(self) -> None:
        """A rising edge."""
        for level in (1, 0):
            self.dut.clk.value = level
            await self.settle()

    async def step(self) -> None:
        """The edge that ends this cycle, and the beginning of the next."""
        await self.settle()
        self._requests()
        self._record()
        await self._clock()
        self.cycle += 1
        self._drive(self._fetch)
        self._drive(self._data)
        await self.settle()

    async def until(self, handle) -> None:
        """Run until a port of one bit is high."""
        for _ in range(PATIENCE):
            await self.settle()
            if handle.value == 1:
                return
            await self.step()
        raise AssertionError(f"{handle._name} stayed low for {PATIENCE} cycles")

    def _record(self) -> None:
        if self.retire__trap.value == 1:
            what = {"vector": int(self.retire__trap_vector.value), "rip": int(self.retire__trap_rip.value)}
            self.trace.append({"cycle": self.cycle, "trap": what})
        elif self.retire__valid.value == 1:
            last, deliver = self.retire__last.value == 1, self.retire__deliver.value == 1
            pc = None if deliver else int(self.retire__pc.value)
            self.trace.append({"cycle": self.cycle, "pc": pc, "last": last, "deliver": deliver})

    def traps(self) -> list[dict]:
        return [entry["trap"] for entry in self.trace if "trap" in entry]

    def retired(self) -> list[int]:
        """Addresses of the instructions that retired, in order."""
        return [entry["pc"] for entry in self.trace if entry.get("last") and not entry["deliver"]]

    # Registers, through the debug port.

    async def set(self, register: int, value: int) -> None:
        assert self.dbg__boundary.value == 1, "registers are written between two instructions only"
        self.dbg__addr.value, self.dbg__wdata.value, self.dbg__we.value = register, value, 1
        await self.step()
        self.dbg__we.value = 0

    async def get(self, register: int) -> int:
        self.dbg__addr.value = register
        await self.settle()
        return int(self.dbg__rdata.value)

    async def system(self, register: SysReg) -> int:
        return await self.get(DebugReg.SYS + register)

    async def start(self, code: str, rflags: int = 2) -> None:
        """Reset; a flat code and data segment, an IDT, a stack; then fetch from `CODE`, where the program is put."""
        await self.reset()
        self.write(CODE, code)
        self.write(GDT + CODE_SELECTOR, (0x00AF9B000000FFFF).to_bytes(8, "little"))
        self.write(GDT + DATA_SELECTOR, (0x00CF93000000FFFF).to_bytes(8, "little"))
        system = {
            SysReg.IDT_BASE: IDT,
            SysReg.IDT_LIMIT: 0xFFF,
            SysReg.GDT_BASE: GDT,
            SysReg.GDT_LIMIT: 0x17,
            SysReg.CS: CODE_SELECTOR,
            SysReg.SS: DATA_SELECTOR,
        }
        for register, value in system.items():
            await self.set(DebugReg.SYS + register, value)
        await self.set(Reg.RSP, STACK)
        await self.set(DebugReg.RFLAGS, rflags)
        await self.set(DebugReg.RIP, CODE)
