"""The compiled engine: the same design as a shared library, made by the system's C++ compiler (`sim.build`)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from struct import Struct
from typing import Any

from hw.config import Config
from hw.isa.facts import DebugReg
from hw.ram import check_parameters
from sim.build import NAME, build_library, source_key
from sim.checks import MAX_VALUES
from sim.engine import (
    FOREVER,
    HALT_CYCLES,
    NEVER,
    RETIRE_STRUCT,
    TOO_MANY_IPIS,
    DesignError,
    EngineError,
    EngineUnavailable,
    HartState,
    Recording,
    Records,
    RetireRecord,
    SocFactory,
    Stop,
    StopOn,
    StopReason,
    default_soc,
)

FLUSH, FAILS = 10, 11
RETIRE, CONSOLE, EXIT, SAMPLE = range(4)
PAIR = Struct("<QQ")

#: Snapshots hold the pieces of RAM, of so many bytes, that are not all 0.
PIECE = 1 << 14
NOTHING = bytes(PIECE)


class RunSpec(ctypes.Structure):
    """`RunSpec` of ``native/abi.h``."""

    _fields_ = [
        ("max_cycles", c_uint64),
        ("retired", c_uint64),
        ("pc", c_uint64),
        ("reach", c_uint64),
        ("flags", c_uint32),
        ("halt_cycles", c_uint32),
        ("hart", c_int32),
        ("resumed", c_uint32),
    ]


class RunResult(ctypes.Structure):
    """`RunResult` of ``native/abi.h``."""

    _fields_ = [("cycles", c_uint64), ("retired", c_uint64), ("reason", c_uint32), ("hart", c_int32)]


#: Functions of ``native/interface.inc``: result and parameters after the engine.
FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "free": (None, ()),
    "reset": (None, ()),
    "run": (None, (ctypes.POINTER(RunSpec), ctypes.POINTER(RunResult))),
    "cycle": (c_uint64, ()),
    "retired": (c_uint64, (c_uint32,)),
    "ram": (c_void_p, ()),
    "state": (c_uint32, (c_uint32,)),
    "read_register": (c_uint64, (c_uint32, c_uint32)),
    "write_register": (c_uint32, (c_uint32, c_uint32, c_uint64)),
    "trap": (None, (c_uint32, ctypes.POINTER(c_uint64), ctypes.POINTER(c_uint64))),
    "complete": (None, (c_uint32, c_uint32)),
    "fails": (c_int32, (ctypes.POINTER(c_uint64),)),
    "check_path": (c_char_p, (c_uint32,)),
    "check_message": (c_char_p, (c_uint32,)),
    "check_values": (c_uint32, (c_uint32,)),
    "irq": (None, (c_uint32, c_uint32, c_uint32)),
    "nmi": (None, (c_uint32,)),
    "ipi": (c_uint32, (c_uint32, c_uint32, c_uint32)),
    "record": (None, (c_uint32, c_uint64, c_uint64)),
    "port_count": (c_uint32, ()),
    "port_name": (c_char_p, (c_uint32,)),
    "port_width": (c_uint32, (c_uint32,)),
    "sample": (None, (ctypes.POINTER(c_uint32), c_uint32, c_uint64, c_uint64)),
    "buffer": (c_void_p, (c_uint32, ctypes.POINTER(c_uint64))),
    "clear": (None, (c_uint32,)),
    "state_bytes": (c_uint64, ()),
    "save": (None, (c_void_p,)),
    "load": (None, (c_void_p,)),
}


def create(
    *, harts: int, config: Config, latency: int, wait_seed: int | None, soc_factory: SocFactory
) -> CompiledEngine:
    """Return an engine, built if it is not in the cache; parameters as for `sim.engine.open_engine`."""
    check_parameters(config.ram_bytes, latency)
    key = source_key(harts, config) if soc_factory is default_soc else None
    library = build_library(lambda: soc_factory(harts=harts, config=config), key)
    return CompiledEngine(library, harts=harts, config=config, latency=latency, wait_seed=wait_seed)


class CompiledEngine:
    """`sim.engine.Engine` over a library made by `sim.build`."""

    name = NAME
    capabilities = frozenset({"snapshot", "fast"})

    def __init__(self, library: Path, *, harts: int, config: Config, latency: int, wait_seed: int | None):
        self.harts, self.config, ram_bytes = harts, config, config.ram_bytes
        try:
            lib = ctypes.CDLL(str(library))
        except OSError as error:
            raise EngineUnavailable(NAME, f"the library does not load ({error})", f"Delete {library.parent}") from error
        self._call: dict[str, Callable[..., Any]] = {}
        for function, (result, parameters) in FUNCTIONS.items():
            call = getattr(lib, f"engine_{function}")
            call.restype, call.argtypes = result, (c_void_p, *parameters)
            self._call[function] = call
        new = lib.engine_new
        new.restype = c_void_p
        new.argtypes = (c_uint32, c_uint64, c_uint32, c_uint32, c_uint32, c_char_p, c_size_t)
        why = ctypes.create_string_buffer(200)
        self._engine = new(harts, ram_bytes, latency, wait_seed is not None, wait_seed or 0, why, len(why))
        if not self._engine:
            raise EngineUnavailable(NAME, why.value.decode(), "See docs/architecture.md for the ports of a Soc")
        ram = self._call["ram"](self._engine)
        self._ram = memoryview((ctypes.c_uint8 * ram_bytes).from_address(ram)).cast("B")
        count = self._call["port_count"](self._engine)
        names = [self._call["port_name"](self._engine, i).decode() for i in range(count)]
        self._port_index = {name: i for i, name in enumerate(names)}
        self._widths = [self._call["port_width"](self._engine, i) for i in range(count)]
        self._sampled: list[int] = []
        self._taken: dict[int, list[bytes]] = {which: [] for which in (RETIRE, CONSOLE, EXIT, SAMPLE)}

    def _do(self, function: str, *arguments: object):
        if not self._engine:
            raise EngineError("the engine has been closed")
        return self._call[function](self._engine, *arguments)

    @property
    def cycle(self) -> int:
        """Number of the current cycle."""
        return self._do("cycle")

    def reset(self) -> None:
        """Return to cycle 0; RAM stays."""
        self._do("reset")
        for blocks in self._taken.values():
            blocks.clear()

    def run(self, max_cycles: int, stop: StopOn = NEVER) -> Stop:
        """Execute at most `max_cycles` cycles, until an event."""
        spec = RunSpec(
            max_cycles,
            stop.retired or 0,
            stop.pc or 0,
            stop.reach or 0,
            stop.trap * 1
            | (stop.retired is not None) * 2
            | (stop.pc is not None) * 4
            | (stop.reach is not None) * 8
            | stop.boundary * 16,
            HALT_CYCLES,
            -1 if stop.hart is None else stop.hart,
            0,
        )
        if stop.retired is not None and stop.retired <= 0:
            return Stop(StopReason.RETIRED, stop.hart, 0)
        result, cycles = RunResult(), 0
        while True:
            self._do("run", spec, result)
            cycles += result.cycles
            if result.reason == FAILS:
                raise self._design_error()
            if result.reason != FLUSH:
                return Stop(StopReason(result.reason), None if result.hart < 0 else result.hart, cycles)
            for which in self._taken:
                self._take(which)
            spec.max_cycles -= result.cycles
            spec.retired -= result.retired
            spec.resumed = 1

    def _design_error(self) -> DesignError:
        values = (c_uint64 * MAX_VALUES)()
        index = self._do("fails", values)
        path, message = (self._do(f"check_{what}", index).decode() for what in ("path", "message"))
        return DesignError(NAME, self.cycle, path, message, values[: self._do("check_values", index)])

    def retired(self, hart: int) -> int:
        """Instructions retired since reset."""
        return self._do("retired", hart)

    def state(self, hart: int) -> HartState:
        """Where a hart is."""
        bits = self._do("state", hart)
        return HartState(bool(bits & 1), bool(bits & 2), bool(bits & 4), bool(bits & 8))

    def trap_request(self, hart: int) -> tuple[int, int]:
        """Vector and stored address at the TrapPort."""
        vector, address = c_uint64(), c_uint64()
        self._do("trap", hart, vector, address)
        return vector.value, address.value

    def complete_trap(self, hart: int, handled: bool) -> None:
        """Answer a TrapPort request in the next cycle that runs."""
        if not self.state(hart).trap_request:
            raise EngineError(f"hart {hart} has no TrapPort request to complete")
        self._do("complete", hart, handled)

    def read_reg(self, hart: int, index: int) -> int:
        """Value of a register."""
        return self._do("read_register", hart, index)

    def write_reg(self, hart: int, index: int, value: int) -> None:
        """Set a register at a boundary."""
        if not self._do("write_register", hart, index, value & FOREVER):
            raise EngineError(
                f"a register of hart {hart} can only be set between two instructions: run to a boundary first"
            )

    def refetch(self, hart: int) -> None:
        """Fetch again what is under way."""
        self.write_reg(hart, DebugReg.RIP, self.read_reg(hart, DebugReg.RIP))

    def _check_range(self, address: int, size: int) -> None:
        if not self._engine:
            raise EngineError("the engine has been closed")
        if address < 0 or size < 0 or address + size > self.config.ram_bytes:
            raise IndexError(f"{size} bytes at physical {address:#x} are not within the {self.config.ram_bytes:#x} of RAM")

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
        self._do("irq", hart, vector is not None, vector or 0)

    def nmi(self, hart: int) -> None:
        """Request a non-maskable interrupt."""
        self._do("nmi", hart)

    def ipi(self, destination: int, vector: int, mode: int = 0) -> None:
        """Send an IPI from outside."""
        if not self._do("ipi", destination, vector, mode):
            raise EngineError(TOO_MANY_IPIS)

    def record(self, mode: Recording, start: int = 0, end: int = FOREVER) -> None:
        """Choose the retire records that are kept."""
        self._do("record", mode, start, end)

    def _take(self, which: int) -> None:
        size = c_uint64()
        data = self._do("buffer", which, size)
        if size.value:
            self._taken[which].append(ctypes.string_at(data, size.value))
            self._do("clear", which)

    def _drain(self, which: int) -> bytes:
        self._take(which)
        data = b"".join(self._taken[which])
        self._taken[which].clear()
        return data

    def drain(self) -> Records:
        """Take the records."""
        return Records(
            retires=list(map(RetireRecord._make, RETIRE_STRUCT.iter_unpack(self._drain(RETIRE)))),
            console=list(PAIR.iter_unpack(self._drain(CONSOLE))),  # type: ignore[arg-type]
            exits=list(PAIR.iter_unpack(self._drain(EXIT))),  # type: ignore[arg-type]
        )

    def drain_raw(self) -> bytes:
        """Take the retire records as `sim.engine.RETIRE_STRUCT` lays them out: for who reads millions of them."""
        return self._drain(RETIRE)

    def ports(self) -> dict[str, int]:
        """Names and widths of the ports."""
        return dict(zip(self._port_index, self._widths, strict=True))

    def sample(self, names: Sequence[str], start: int = 0, end: int = FOREVER) -> None:
        """Sample ports in cycles start to end - 1."""
        self._drain(SAMPLE)
        self._sampled = [self._port_index[name] for name in names]
        self._do("sample", (c_uint32 * len(names))(*self._sampled), len(names), start, end if names else 0)

    def drain_samples(self) -> list[tuple[int, ...]]:
        """Take the samples."""
        widths = [self._widths[index] for index in self._sampled]
        wide = [i for i, width in enumerate(widths, 1) if width > 64]
        codes = ("I" if w <= 32 else "Q" if w <= 64 else f"{(w + 31) // 32 * 4}s" for w in widths)
        layout = Struct("<Q" + "".join(codes))
        rows = layout.iter_unpack(self._drain(SAMPLE))
        if not wide:
            return list(rows)
        return [tuple(int.from_bytes(v, "little") if i in wide else v for i, v in enumerate(row)) for row in rows]

    def save(self) -> bytes:
        """Return the whole state; it costs as much as looking through RAM."""
        state = ctypes.create_string_buffer(self._do("state_bytes"))
        self._do("save", state)
        ram, parts = self._ram, [PAIR.pack(len(state), len(self._ram)), state.raw]
        for start in range(0, len(ram), PIECE):
            piece = bytes(ram[start : start + PIECE])
            if piece != NOTHING[: len(piece)]:
                parts += [PAIR.pack(start, len(piece)), piece]
        return b"".join(parts)

    def restore(self, state: bytes) -> None:
        """Return to a saved state. Records not drained are dropped."""
        size, ram_bytes = PAIR.unpack_from(state)
        if size != self._do("state_bytes") or ram_bytes != self.config.ram_bytes:
            raise EngineError("the saved state belongs to other hardware")
        self._do("load", ctypes.create_string_buffer(state[PAIR.size : PAIR.size + size], size))
        ctypes.memset(self._do("ram"), 0, ram_bytes)
        view, at = memoryview(state), PAIR.size + size
        while at < len(state):
            start, length = PAIR.unpack_from(state, at)
            at += PAIR.size
            self._ram[start : start + length] = view[at : at + length]
            at += length
        for which in self._taken:
            self._drain(which)

    def close(self) -> None:
        """Free the library's memory."""
        if self._engine:
            self._ram.release()
            self._call["free"](self._engine)
            self._engine = None
