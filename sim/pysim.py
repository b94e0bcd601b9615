"""The engine that needs nothing but pip: the design in Python (`sim.levelized`), RAM as bytes beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Value

from hw.config import Config
from hw.isa.facts import DebugReg
from hw.ram import check_parameters
from sim.engine import (
    FOREVER,
    HALT_CYCLES,
    MAX_IPIS,
    NEVER,
    TOO_MANY_IPIS,
    DesignError,
    EngineError,
    HartState,
    Recording,
    Records,
    SocFactory,
    Stop,
    StopOn,
    StopReason,
)
from sim.levelized import Design
from sim.pyhart import Hart

NAME = "pysim"


def create(*, harts: int, config: Config, latency: int, wait_seed: int | None, soc_factory: SocFactory) -> PysimEngine:
    """Return an engine; parameters as for `sim.engine.open_engine`."""
    check_parameters(config.ram_bytes, latency)
    return PysimEngine(soc_factory(harts=harts, config=config), harts, config, latency, wait_seed)


def _flat_ports(soc: Any) -> dict[str, Value]:
    """Return the ports of a component by their names in RTLIL."""
    return {"__".join(map(str, path)): Value.cast(port) for path, _, port in soc.signature.flatten(soc)}


class PysimEngine:
    """`sim.engine.Engine` in Python."""

    name = NAME
    capabilities: frozenset[str] = frozenset()

    def __init__(self, soc: Any, harts: int, config: Config, latency: int, wait_seed: int | None):
        self.harts, self.config, self._waits = harts, config, (latency, wait_seed)
        self._ram_bytes = config.ram_bytes  # read in every cycle
        self._ram = bytearray(config.ram_bytes)
        self._design = Design(soc)
        ports = _flat_ports(soc)
        self._index = {name: self._design.get_signal(port) for name, port in ports.items()}  # type: ignore[arg-type]
        self._widths = {name: len(port) for name, port in ports.items()}
        self._values = self._design.values
        self._harts = [Hart(i, self._index, self._waits) for i in range(harts)]
        self._mode, self._window = Recording.TRAPS, (0, FOREVER)
        self._sampled: list[int] = []
        self._ipi = [self._index[f"ipi__{name}"] for name in ("valid", "vector", "mode", "destination")]
        self._console, self._exit = self._index["console_valid"], self._index["exit_valid"]
        self._sample_window = (0, 0)
        self.reset()

    @property
    def cycle(self) -> int:
        """Number of the current cycle."""
        return self._cycle

    def reset(self) -> None:
        """Return to cycle 0; RAM stays."""
        self._cycle = 0
        self._failed: DesignError | None = None
        self._exited = False  # while a register was written
        self._ipis: deque[tuple[int, ...]] = deque()  # values of the port, for as many cycles
        self._records = Records()
        self._samples: list[tuple[int, ...]] = []
        for hart in self._harts:
            hart.reset(*self._waits)
        self._design.reset()
        self._drive()

    def _drive(self) -> None:
        """Set the inputs of the cycle that begins, and settle."""
        poke = self._design.poke
        for hart in self._harts:
            for answers, bus in ((hart.fetches, hart.fetch), (hart.loads, hart.data)):
                poke(bus[1], answers.ready())
                answer = answers.answer()
                poke(bus[3], answer is not None)
                if answer is not None:
                    poke(bus[4], answer)
        self._design.settle()

    def _edge(self) -> None:
        """Memory and registers at the clock edge: reads see what was there before the writes, which go by hart."""
        v, ram = self._values, self._ram
        for hart in self._harts:
            valid, ready, address, answered, _ = hart.fetch
            line = v[address] & (self._ram_bytes - 16)
            hart.fetches.edge(
                bool(v[answered]), int.from_bytes(ram[line : line + 16], "little") if v[valid] and v[ready] else None
            )
            valid, ready, address, answered, _ = hart.data
            load = v[valid] and v[ready] and not v[hart.write]
            hart.loads.edge(bool(v[answered]), self._load(v[address], 1 << v[hart.size]) if load else None)
        for hart in self._harts:
            if v[hart.data[0]] and v[hart.data[1]] and v[hart.write]:
                self._store(v[hart.data[2]], v[hart.stored], 1 << v[hart.size])
        acked = [hart.irq for hart in self._harts if v[hart.ack]]
        self._design.edge()
        for irq in acked:
            self._design.poke(irq, 0)
        if v[self._ipi[0]]:
            self._ipis.popleft()
            self._design.poke(self._ipi[0], 0)
        for hart in self._harts:
            if hart.irq_next:
                self._set_irq(hart, hart.irq_next)
            if v[hart.trap_done]:
                self._design.poke(hart.trap_done, 0)
                self._design.poke(hart.handled, 0)
        self._drive()

    def _load(self, address: int, size: int) -> int:
        address &= self._ram_bytes - 1
        data = self._ram[address : address + size]
        return int.from_bytes(data + self._ram[: size - len(data)], "little")

    def _store(self, address: int, value: int, size: int) -> None:
        address &= self._ram_bytes - 1
        data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        room = self._ram_bytes - address
        self._ram[address : address + size] = data[:room]
        if room < size:
            self._ram[: size - room] = data[room:]

    def run(self, max_cycles: int, stop: StopOn = NEVER) -> Stop:
        """Execute at most `max_cycles` cycles, until an event."""
        if stop.retired is not None and stop.retired <= 0:
            return Stop(StopReason.RETIRED, stop.hart, 0)
        if self._failed:
            raise self._failed
        if self._exited:
            self._exited = False
            return Stop(StopReason.EXIT, None, 0)
        start, halted_for = self._cycle, 0
        self._left = stop.retired
        watched = stop != NEVER
        v, poke = self._values, self._design.poke
        while self._cycle - start < max_cycles:
            armed = False
            for hart in self._harts:
                armed |= hart.done is not None
                if hart.nmi_wanted or v[hart.nmi] or hart.done is not None:
                    pulse = hart.nmi_wanted and not v[hart.nmi]
                    poke(hart.nmi, pulse)
                    hart.nmi_wanted &= not pulse
                    poke(hart.trap_done, hart.done is not None)
                    poke(hart.handled, bool(hart.done))
                    self._design.settle()
            if self._ipis:
                for index, value in zip(self._ipi, self._ipis[0], strict=True):
                    poke(index, value)
                self._design.settle()
            for hart in self._harts:
                held = v[hart.trap_req] and hart.done is None
                if held or (stop.boundary and v[hart.boundary] and stop.hart in (None, hart.number)):
                    self._before_edge()
                    return Stop(
                        StopReason.TRAP_REQUEST if held else StopReason.BOUNDARY, hart.number, self._cycle - start
                    )
            if self._sample_window[0] <= self._cycle < self._sample_window[1]:
                self._samples.append((self._cycle, *(v[i] for i in self._sampled)))
            found: tuple[StopReason, int | None] | None = None
            if self._observe():
                found = StopReason.EXIT, None
            asleep = True
            for hart in self._harts:
                asleep = asleep and bool(v[hart.halted])
                if v[hart.shutdown]:
                    found = found or (StopReason.SHUTDOWN, hart.number)
                if watched and stop.hart in (None, hart.number):
                    reason = self._watch(hart, stop)
                    if reason is not None:
                        found = found or (reason, hart.number)
            if armed:
                for hart in self._harts:
                    hart.done = None
            halted_for = halted_for + 1 if asleep else 0
            if halted_for >= HALT_CYCLES:
                found = found or (StopReason.HALTED, None)
            failing = self._design.failing()
            if failing:
                self._failed = DesignError(NAME, self._cycle, *failing)
                raise self._failed
            self._edge()
            self._cycle += 1
            if found:
                return Stop(*found, self._cycle - start)
        return Stop(StopReason.MAX_CYCLES, None, self._cycle - start)

    def _before_edge(self) -> None:
        """Leave a cycle whose edge has not come: an NMI pulse that no edge has seen is still to come."""
        for hart in self._harts:
            if self._values[hart.nmi]:
                hart.nmi_wanted = True
                self._design.poke(hart.nmi, 0)
        self._design.poke(self._ipi[0], 0)
        self._design.settle()

    def _watch(self, hart: Hart, stop: StopOn) -> StopReason | None:
        """Which of the chosen events the ports of a hart show."""
        v = self._values
        found = StopReason.TRAP if stop.trap and v[hart.retire_trap] else None
        if not (v[hart.retire_valid] and v[hart.retire_last]):
            return found
        if stop.reach is not None and v[hart.next_pc] == stop.reach:
            found = found or StopReason.REACHED
        if v[hart.retire_deliver] or v[hart.retire_again]:
            return found
        if stop.pc is not None and v[hart.pc] == stop.pc:
            found = found or StopReason.PC
        if self._left is not None:
            self._left -= 1
            if not self._left:
                found = found or StopReason.RETIRED
        return found

    def _observe(self) -> bool:
        """Record what the ports show; True if the guest ends."""
        v = self._values
        if v[self._console]:
            self._records.console.append((self._cycle, v[self._index["console_data"]]))
        if v[self._exit]:
            self._records.exits.append((self._cycle, v[self._index["exit_code"]]))
        for hart in self._harts:
            if v[hart.retire_valid] or v[hart.retire_trap]:
                self._observe_hart(hart)
        return bool(v[self._exit])

    def _observe_hart(self, hart: Hart) -> None:
        v = self._values
        ends = v[hart.retire_valid] and v[hart.retire_last]
        if ends and not v[hart.retire_again] and not v[hart.retire_deliver]:
            hart.retired += 1
        if self._mode == Recording.OFF:
            return
        if (
            v[hart.retire_trap]
            or (ends and (v[hart.retire_iret] or v[hart.retire_deliver]))
            or (self._mode == Recording.ALL and self._window[0] <= self._cycle < self._window[1])
        ):
            self._records.retires.append(hart.record(self._cycle, v))

    def retired(self, hart: int) -> int:
        """Instructions retired since reset."""
        return self._harts[hart].retired

    def state(self, hart: int) -> HartState:
        """Where a hart is."""
        v, h = self._values, self._harts[hart]
        return HartState(bool(v[h.boundary]), bool(v[h.halted]), bool(v[h.shutdown]), bool(v[h.trap_req]))

    def trap_request(self, hart: int) -> tuple[int, int]:
        """Vector and stored address at the TrapPort."""
        at = self._harts[hart].at
        return self._values[at["trap__vector"]], self._values[at["trap__addr"]]

    def complete_trap(self, hart: int, handled: bool) -> None:
        """Answer a TrapPort request in the next cycle that runs."""
        if not self.state(hart).trap_request:
            raise EngineError(f"hart {hart} has no TrapPort request to complete")
        self._harts[hart].done = int(handled)

    def read_reg(self, hart: int, index: int) -> int:
        """Value of a register."""
        at = self._harts[hart].at
        self._design.poke(at["dbg__addr"], index)
        self._design.settle()
        return self._values[at["dbg__rdata"]]

    def write_reg(self, hart: int, index: int, value: int) -> None:
        """Set a register at a boundary."""
        state, at, poke = self.state(hart), self._harts[hart].at, self._design.poke
        if not state.boundary or state.trap_request:
            raise EngineError(
                f"a register of hart {hart} can only be set between two instructions: run to a boundary first"
            )
        requested = [h for h in self._harts if self._values[h.irq] and not h.irq_next]
        for h in self._harts:
            poke(h.irq, 0)
            poke(h.trap_done, 0)
            poke(h.handled, 0)
        poke(at["dbg__addr"], index)
        poke(at["dbg__wdata"], value & FOREVER)
        poke(at["dbg__we"], 1)
        self._design.settle()
        self._exited |= self._observe()  # of the other harts, which run on
        self._edge()
        poke(at["dbg__we"], 0)
        for h in requested:
            poke(h.irq, 1)
        self._design.settle()

    def refetch(self, hart: int) -> None:
        """Fetch again what is under way."""
        self.write_reg(hart, DebugReg.RIP, self.read_reg(hart, DebugReg.RIP))

    def _check_range(self, address: int, size: int) -> None:
        if address < 0 or size < 0 or address + size > self._ram_bytes:
            raise IndexError(f"{size} bytes at physical {address:#x} are not within the {self._ram_bytes:#x} of RAM")

    def read_mem(self, address: int, size: int) -> bytes:
        """Bytes of RAM."""
        self._check_range(address, size)
        return bytes(self._ram[address : address + size])

    def write_mem(self, address: int, data: bytes) -> None:
        """Change RAM."""
        self._check_range(address, len(data))
        self._ram[address : address + len(data)] = data

    def set_irq(self, hart: int, vector: int | None) -> None:
        """Request an external interrupt until it is acknowledged."""
        h, line = self._harts[hart], (int(vector is not None), vector or 0)
        if self._values[h.trap_req]:  # a store that is on the bus must not change
            h.irq_next = line
            return
        self._set_irq(h, line)
        self._design.settle()

    def _set_irq(self, hart: Hart, line: tuple[int, int]) -> None:
        self._design.poke(hart.irq, line[0])
        self._design.poke(hart.irq_vector, line[1])
        hart.irq_next = None

    def nmi(self, hart: int) -> None:
        """Request a non-maskable interrupt."""
        self._harts[hart].nmi_wanted = True

    def ipi(self, destination: int, vector: int, mode: int = 0) -> None:
        """Send an IPI from outside."""
        if len(self._ipis) == MAX_IPIS:
            raise EngineError(TOO_MANY_IPIS)
        self._ipis.append((1, vector, mode, destination))

    def record(self, mode: Recording, start: int = 0, end: int = FOREVER) -> None:
        """Choose the retire records that are kept."""
        self._mode, self._window = mode, (start, end)

    def drain(self) -> Records:
        """Take the records."""
        records, self._records = self._records, Records()
        return records

    def ports(self) -> dict[str, int]:
        """Names and widths of the ports."""
        return dict(self._widths)

    def sample(self, names: Sequence[str], start: int = 0, end: int = FOREVER) -> None:
        """Sample ports in cycles start to end - 1."""
        self._samples = []
        self._sampled = [self._index[name] for name in names]
        self._sample_window = (start, end if names else 0)

    def drain_samples(self) -> list[tuple[int, ...]]:
        """Take the samples."""
        samples, self._samples = self._samples, []
        return samples

    def save(self) -> bytes:
        """Not possible here."""
        raise EngineError("the engine pysim cannot save its state; the compiled engine can")

    def restore(self, state: bytes) -> None:
        """Not possible here."""
        raise EngineError("the engine pysim cannot restore a state; the compiled engine can")

    def close(self) -> None:
        """Free the memory."""
        self._ram = bytearray()
