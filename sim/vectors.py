"""Runs architectural test vectors (design, section 8) on an engine, and says what differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hw.isa.facts import DebugReg, RFlag, SysReg
from sim.engine import DesignError, Engine, Recording, RetireFlag, RetireRecord, StopOn, StopReason
from sim.harts import REGISTERS
from sim.vectorfile import RAM_BYTES, Trap, Vector, physical

#: A snippet that has not ended after so many cycles, and so many more for each instruction, hangs.
PATIENCE, PATIENCE_PER_INSN = 20_000, 1_000

#: A failure shows so many differences.
SHOWN = 4

#: The end of a difference: the snippet stores where the vector names nothing.
STRAY = "is not in the vector"

RIP, RFLAGS = DebugReg.RIP.value, DebugReg.RFLAGS.value
_GPRS = tuple(range(16))
_CR2, _DR6 = DebugReg.SYS + SysReg.CR2, DebugReg.SYS + SysReg.DR6
_NAMES = {index: name for name, index in REGISTERS.items()}
_TF = 1 << RFlag.TF

#: Registers that a vector leaves as they were unless it says otherwise: all but the clock.
COMPARED = [index for index in REGISTERS.values() if index != DebugReg.SYS + SysReg.TSC]

#: A vector that leaves one of these changed is followed by a reset; the others are written back.
_RARE = [index for index in COMPARED if index > RFLAGS and _NAMES[index] not in ("fs_base", "gs_base")]
_ENDINGS = {
    StopReason.MAX_CYCLES: "does not end (hangs)",
    StopReason.SHUTDOWN: "ends in a shutdown (triple fault)",
    StopReason.HALTED: "halts for good",
    StopReason.EXIT: "writes the exit port",
    StopReason.TRAP_REQUEST: "calls the TrapPort",
}


@dataclass
class Outcome:
    """What is wrong with a vector. `alone`: it passes when it runs first after a reset."""

    name: str
    differences: list[str] = field(default_factory=list)
    alone: bool = False

    def line(self) -> str:
        """Return the failure on one line."""
        more = len(self.differences) - SHOWN
        text = "; ".join(self.differences[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        return f"{self.name}: {text}" + (" (passes alone, after a reset)" if self.alone else "")


class Runner:
    """Runs vectors one after the other on an engine with one hart and RAM_BYTES of RAM that is zero."""

    def __init__(self, engine: Engine):
        self._engine = engine
        engine.record(Recording.ALL)
        engine.reset()
        self._power_on = {index: engine.read_reg(0, index) for index in COMPARED}
        self._fresh()

    def run(self, vectors: Iterable[Vector]) -> Iterator[Outcome]:
        """Yield the outcome of each vector; one without differences has passed."""
        for vector in vectors:
            outcome = Outcome(vector.name, self._checked(vector))
            if outcome.differences and not self._was_fresh:
                self._fresh()
                outcome.alone = not self._checked(vector)
            yield outcome

    def _checked(self, vector: Vector) -> list[str]:
        """Run a vector as `_one` does; an invariant of the hardware that fails is a difference."""
        try:
            return self._one(vector)
        except DesignError as error:
            stores = [r for r in self._engine.drain().retires if r.flags & RetireFlag.MEM_WE]
            self._tidy(vector, stores)
            self._fresh()
            return [str(error)]

    def _fresh(self) -> None:
        self._engine.reset()
        self._engine.drain()
        self._current = dict(self._power_on)
        self._is_fresh = True

    def _one(self, vector: Vector) -> list[str]:
        """Run a vector and leave the engine ready for the next; return the differences."""
        engine = self._engine
        self._was_fresh = self._is_fresh
        for address, data in vector.mem:
            engine.write_mem(address, data)
        first = self._set_registers(vector)  # after memory: the hart fetches from the new rip at once
        limit, retired = PATIENCE + PATIENCE_PER_INSN * vector.insns, engine.retired(0)
        stop = engine.run(limit, StopOn(trap=True, retired=vector.insns))
        if stop.reason == StopReason.RETIRED and vector.trap is not None:  # a trap after the last instruction
            stop = engine.run(limit, StopOn(trap=True, retired=1))
        records = engine.drain().retires
        stores = [r for r in records if r.flags & RetireFlag.MEM_WE and r.flags & RetireFlag.VALID]
        raised = next((r for r in records if r.flags & RetireFlag.TRAP), None)
        last = {index: engine.read_reg(0, index) for index in COMPARED}
        if raised is not None:
            last[RIP] = raised.trap_rip
        done = raised is not None or engine.retired(0) - retired == vector.insns
        differences = [] if done or vector.trap else [_ENDINGS.get(stop.reason, "ends early")]
        differences += _compare_trap(vector.trap, raised)
        if not differences:
            differences += _compare_registers(vector, first, last, raised)
            differences += self._compare_memory(vector, stores)
        self._tidy(vector, stores)
        state = engine.state(0)
        self._current, self._is_fresh = last, False
        odd = not done or not state.boundary or state.halted or state.trap_request or (first[RFLAGS] | last[RFLAGS]) & _TF
        if raised or odd or any(last[index] != self._power_on[index] for index in _RARE):
            self._fresh()
        return differences

    def _set_registers(self, vector: Vector) -> dict[int, int]:
        """Bring all registers to where the vector starts, with few writes; return what they are."""
        engine, wanted = self._engine, dict(self._power_on)
        for index in _GPRS:
            wanted[index] = 0
        wanted[RFLAGS] = 2
        wanted.update(vector.regs)
        wanted.setdefault(RIP, 0)
        for index, value in wanted.items():
            if index != RIP and value != self._current[index]:
                engine.write_reg(0, index, value)
        engine.write_reg(0, RIP, wanted[RIP])
        for index in vector.regs:  # a bit that does not exist was not set
            wanted[index] = engine.read_reg(0, index)
        return wanted

    def _compare_memory(self, vector: Vector, stores: list[RetireRecord]) -> Iterator[str]:
        expected = {a + i: byte for a, data in (*vector.mem, *vector.final_mem) for i, byte in enumerate(data)}
        for start, data in (*vector.mem, *vector.final_mem):
            found = self._engine.read_mem(start, len(data))
            for address, byte in enumerate(found, start):
                if byte != expected.get(address, byte):
                    yield f"byte at {address:#x} is {byte:#04x}, expected {expected.pop(address):#04x}"
        for record in stores:
            for i in range(1 << record.mem_size):
                place = physical((record.mem_addr + i) & 0xFFFF_FFFF_FFFF_FFFF)
                if place is None or not any(a <= place < a + len(d) for a, d in (*vector.mem, *vector.final_mem)):
                    yield f"byte at {record.mem_addr + i:#x} is stored to by rip {record.pc:#x}, and {STRAY}"
                    break

    def _tidy(self, vector: Vector, stores: list[RetireRecord]) -> None:
        for address, data in vector.mem:
            self._engine.write_mem(address, bytes(len(data)))
        for record in stores:
            place = physical(record.mem_addr)
            if place is not None:
                self._engine.write_mem(place, bytes(min(1 << record.mem_size, RAM_BYTES - place)))


def _compare_trap(expected: Trap | None, record: RetireRecord | None) -> list[str]:
    if record is None:
        return [f"no trap, expected {expected}"] if expected else []
    error = record.trap_error if record.flags & RetireFlag.TRAP_HAS_ERROR else None
    if expected and (record.trap_vector, error) == (expected.vector, expected.error):
        if expected.rip in (None, record.trap_rip):
            return []
        return [f"rip of the trap is {record.trap_rip:#x}, expected {expected.rip:#x}"]
    return [f"{Trap(record.trap_vector, error, record.trap_rip)}, expected {expected or 'none'}"]


def _compare_registers(
    vector: Vector, first: dict[int, int], last: dict[int, int], raised: RetireRecord | None
) -> Iterator[str]:
    for index, value in last.items():
        expected, mask = vector.final_regs.get(index), -1
        if expected is None:
            if raised and index in (RIP, _CR2, _DR6):  # the trap's own
                continue
            expected = first[index]
        if index == RFLAGS:
            mask = ~vector.undefined
        if (value ^ expected) & mask:
            what = f"{_NAMES[index]} is {value:#x}, expected {expected:#x}"
            yield what + (f" ({_flags(value & mask, expected & mask)})" if index == RFLAGS else "")


def _flags(value: int, expected: int) -> str:
    """Name the flags that differ."""
    changed = [f for f in RFlag if (value ^ expected) >> f & 1]
    return ", ".join(f"{flag.name} is {value >> flag & 1}" for flag in changed) or "reserved bits"
