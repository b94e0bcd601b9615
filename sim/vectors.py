"""Architectural test vectors (design, section 8): reads a file, runs each snippet on an engine, and says what differs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hw.bus import HIGH_BASE
from hw.isa.facts import VECTORS, DebugReg, Reg, RFlag, SysReg
from sim.engine import Engine, Recording, RetireFlag, RetireRecord, StopOn, StopReason
from sim.harts import REGISTERS

#: RAM of the model that vectors run on, seen at 0 and at HIGH_BASE.
RAM_BYTES = 16 << 20

#: A snippet that has not ended after so many cycles, and so many more for each instruction, hangs.
PATIENCE, PATIENCE_PER_INSN = 20_000, 1_000

#: A failure shows so many differences.
SHOWN = 4

RIP, RFLAGS = DebugReg.RIP.value, DebugReg.RFLAGS.value
_GPRS = tuple(range(16))
_CR2, _DR6 = DebugReg.SYS + SysReg.CR2, DebugReg.SYS + SysReg.DR6
_NAMES = {index: name for name, index in REGISTERS.items()}
_TF = 1 << RFlag.TF
_MNEMONICS = {row.number: row.mnemonic for row in VECTORS}
_ENDINGS = {
    StopReason.MAX_CYCLES: "does not end (hangs)",
    StopReason.SHUTDOWN: "ends in a shutdown (triple fault)",
    StopReason.HALTED: "halts for good",
    StopReason.EXIT: "writes the exit port",
    StopReason.TRAP_REQUEST: "calls the TrapPort",
}


class VectorsError(ValueError):
    """A file that is not one of vectors; the message names the vector, the key, and what is expected there."""


@dataclass(frozen=True)
class Trap:
    """The trap that a snippet has to raise; `error` None: the vector pushes none."""

    vector: int
    error: int | None
    rip: int | None

    def __str__(self) -> str:
        error = "" if self.error is None else f" with error code {self.error:#x}"
        rip = "" if self.rip is None else f" at rip {self.rip:#x}"
        return f"trap {self.vector} ({_MNEMONICS.get(self.vector, 'interrupt')}){error}{rip}"


@dataclass(frozen=True)
class Vector:
    """One vector: registers by index of the debug port, memory by physical address."""

    name: str
    regs: dict[int, int]
    mem: list[tuple[int, bytes]]
    insns: int
    final_regs: dict[int, int]
    final_mem: list[tuple[int, bytes]]
    trap: Trap | None
    undefined: int


def load(path: str | Path) -> list[Vector]:
    """Read a file of vectors, or raise VectorsError."""
    path = Path(path)
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise VectorsError(f"{path} does not exist: check the name") from None
    except OSError as error:
        raise VectorsError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    except json.JSONDecodeError as error:
        raise VectorsError(f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}): "
                           "give a list of vectors") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise VectorsError(f"{path} is not JSON ({error}): give a list of vectors") from None
    try:
        return parse(data)
    except VectorsError as error:
        raise VectorsError(f"{path}: {error}") from None


def parse(data: Any) -> list[Vector]:
    """Return the vectors of what JSON gave, or raise VectorsError."""
    if not isinstance(data, list):
        raise VectorsError(f"a file of vectors is a list, not {_kind(data)}")
    return [_vector(item, f"vector {i}") for i, item in enumerate(data)]


def _vector(item: Any, where: str) -> Vector:
    _object(item, where, ("name", "initial", "insns", "final", "undefined_flags"), ("initial", "insns", "final"))
    name = item.get("name", where)
    if not isinstance(name, str):
        raise VectorsError(f"{where}: name is {_kind(name)}, and has to be text")
    where = f"{where} ({name})" if name != where else where
    initial, final = item["initial"], item["final"]
    _object(initial, f"{where}: initial", ("regs", "mem"), ())
    _object(final, f"{where}: final", ("regs", "mem", "trap"), ())
    insns = _number(item["insns"], f"{where}: insns")
    if insns < 1:
        raise VectorsError(f"{where}: insns is {insns}, and a vector runs 1 instruction or more")
    undefined = _number(item.get("undefined_flags", 0), f"{where}: undefined_flags")
    return Vector(
        name,
        _regs(initial.get("regs", {}), f"{where}: initial.regs"),
        _mem(initial.get("mem", []), f"{where}: initial.mem"),
        insns,
        _regs(final.get("regs", {}), f"{where}: final.regs"),
        _mem(final.get("mem", []), f"{where}: final.mem"),
        _trap(final.get("trap"), f"{where}: final.trap"),
        undefined,
    )


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a truth value", float: "a fraction", int: "a number"}
    return "null" if value is None else kinds[type(value)]


def _object(value: Any, where: str, known: tuple[str, ...], needed: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise VectorsError(f"{where} is {_kind(value)}, and has to be an object with {', '.join(known)}")
    missing = [key for key in known if key not in value]
    for key in value:
        close = difflib.get_close_matches(key, missing, 1, 0.75) if key not in known else []
        if close:
            raise VectorsError(f"{where}: there is no key {key!r}; did you mean {close[0]!r}?")
    for key in needed:
        if key not in value:
            raise VectorsError(f"{where}: the key {key!r} is missing")


def _number(value: Any, where: str, bits: int = 64) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise VectorsError(f"{where} is {_kind(value)}, and has to be an unsigned number of {bits} bits")
    if not 0 <= value < 1 << bits:
        raise VectorsError(f"{where} is {value}, and has to be an unsigned number of {bits} bits")
    return value


def _regs(value: Any, where: str) -> dict[int, int]:
    if not isinstance(value, dict):
        raise VectorsError(f"{where} is {_kind(value)}, and has to be an object of register names and numbers")
    regs = {}
    for name, number in value.items():
        if name not in REGISTERS:
            close = difflib.get_close_matches(name.lower(), REGISTERS, 3)
            raise VectorsError(f"{where}: there is no register {name!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))
        regs[REGISTERS[name]] = _number(number, f"{where}.{name}")
    return regs


def _mem(value: Any, where: str) -> list[tuple[int, bytes]]:
    if not isinstance(value, list):
        raise VectorsError(f"{where} is {_kind(value)}, and has to be a list of [address, hexadecimal text]")
    return [_bytes(entry, f"{where}[{i}]") for i, entry in enumerate(value)]


def _bytes(entry: Any, where: str) -> tuple[int, bytes]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise VectorsError(f"{where} has to be [address, hexadecimal text]")
    address, text = _number(entry[0], f"{where}: the address"), entry[1]
    if not isinstance(text, str):
        raise VectorsError(f"{where}: the bytes are {_kind(text)}, and have to be hexadecimal text")
    if len(text) % 2:
        raise VectorsError(f"{where}: {text!r} has an odd number of hexadecimal digits")
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise VectorsError(f"{where}: {text!r} is not hexadecimal") from None
    if len(data) * 2 != len(text):
        raise VectorsError(f"{where}: {text!r} is not hexadecimal without blanks")
    physical = _physical(address)
    if physical is None or physical + len(data) > RAM_BYTES:
        raise VectorsError(f"{where}: {len(data)} bytes at {address:#x} are out of RAM, which is {RAM_BYTES:#x} bytes at 0 and "
                           f"at {HIGH_BASE:#x}")
    return physical, data


def _trap(value: Any, where: str) -> Trap | None:
    if value is None:
        return None
    _object(value, where, ("vector", "error", "rip"), ("vector",))
    error = value.get("error")
    return Trap(
        _number(value["vector"], f"{where}.vector", 8),
        None if error is None else _number(error, f"{where}.error", 32),
        _number(value["rip"], f"{where}.rip") if value.get("rip") is not None else None,
    )


def _physical(address: int) -> int | None:
    physical = address - HIGH_BASE if address >= HIGH_BASE else address
    return physical if physical < RAM_BYTES else None


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
        self._power_on = {index: engine.read_reg(0, index) for index in REGISTERS.values()}
        self._fresh()

    def run(self, vectors: Iterable[Vector]) -> Iterator[Outcome]:
        """Yield the outcome of each vector; one without differences has passed."""
        for vector in vectors:
            outcome = Outcome(vector.name, self._one(vector))
            if outcome.differences and not self._was_fresh:
                self._fresh()
                outcome.alone = not self._one(vector)
            yield outcome

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
        last = {index: engine.read_reg(0, index) for index in REGISTERS.values()}
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
        if raised or not done or not state.boundary or state.halted or (first[RFLAGS] | last[RFLAGS]) & _TF:
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
                physical = _physical((record.mem_addr + i) & 0xFFFF_FFFF_FFFF_FFFF)
                if physical is None or not any(a <= physical < a + len(d) for a, d in (*vector.mem, *vector.final_mem)):
                    yield f"byte at {record.mem_addr + i:#x} is stored to by rip {record.pc:#x}, and is not in the vector"
                    break

    def _tidy(self, vector: Vector, stores: list[RetireRecord]) -> None:
        for address, data in vector.mem:
            self._engine.write_mem(address, bytes(len(data)))
        for record in stores:
            physical = _physical(record.mem_addr)
            if physical is not None:
                self._engine.write_mem(physical, bytes(min(1 << record.mem_size, RAM_BYTES - physical)))


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


assert all(int(reg) == index for index, reg in zip(_GPRS, Reg, strict=False))
