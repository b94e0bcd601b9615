"""The engine protocol: what runs the hardware, and the exact meaning of a cycle and of a stop.

Cycles
    Cycle t lies between clock edge t - 1 and clock edge t. `Engine.cycle` is the number of the current cycle, which is the
    number of edges since reset. Records carry the cycle in which the ports showed what they record. A register write through
    the debug port makes an edge that is not counted: its hart does nothing in it, others run on. What they show is recorded
    with the current cycle; if the guest ends in it, the next run ends at once.

Stops
    A run executes cycles until one shows an event. For most events that cycle is executed completely, its edge included:
    after an event of cycle t, `cycle` is t + 1. Two stop the clock *before* the edge, so that the cycle can still be
    changed: TRAP_REQUEST (the runtime's answer belongs to this very cycle) and BOUNDARY; after them `cycle` is t. When one
    cycle shows several events, the first in the order of `StopReason` is reported, and hart 0 before hart 1.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple, Protocol

from hw.config import Config

#: After so many consecutive cycles in which every hart is halted, a run stops with HALTED.
HALT_CYCLES = 16

#: So many IPIs may wait to be sent.
MAX_IPIS = 64
TOO_MANY_IPIS = f"{MAX_IPIS} IPIs wait to be sent, one a cycle: run a cycle before the next"

#: No limit, as a cycle number.
FOREVER = (1 << 64) - 1


class StopReason(IntEnum):
    """Why a run ended, strongest first (MAX_CYCLES: nothing happened)."""

    MAX_CYCLES = 0
    TRAP_REQUEST = 1  # a hart's TrapPort waits for the runtime; always watched
    EXIT = 2  # the guest wrote the exit port; always watched
    SHUTDOWN = 3  # a hart has stopped on a triple fault; always watched
    TRAP = 4  # a trap was taken, before its delivery
    PC = 5  # the instruction at StopOn.pc retired
    REACHED = 6  # the next instruction is the one at StopOn.reach
    RETIRED = 7  # so many instructions retired
    HALTED = 8  # every hart has been asleep for HALT_CYCLES; always watched
    BOUNDARY = 9  # a hart is between two instructions


@dataclass(frozen=True)
class StopOn:
    """Events that end a run, beside those that always do. `hart`: only events of this hart; None: of any.

    An instruction counts as retired when its last uop retires; a repeated string instruction when its last iteration does; a
    delivery does not count.
    """

    trap: bool = False
    retired: int | None = None
    pc: int | None = None
    reach: int | None = None
    boundary: bool = False
    hart: int | None = None


NEVER = StopOn()


@dataclass(frozen=True)
class Stop:
    """The end of a run: why, on which hart (None: no one hart), and the cycles it executed."""

    reason: StopReason
    hart: int | None
    cycles: int


class HartState(NamedTuple):
    """Where a hart is: between two instructions, asleep in hlt, dead of a triple fault, waiting for the runtime."""

    boundary: bool
    halted: bool
    shutdown: bool
    trap_request: bool


class Recording(IntEnum):
    """Which retire records an engine keeps."""

    OFF = 0
    TRAPS = 1  # traps, the end of deliveries, iretq
    ALL = 2


class RetireFlag(IntEnum):
    """Bits of `RetireRecord.flags`: the one-bit members of `hw.bus.RetirePort`."""

    VALID = 1 << 0
    FIRST = 1 << 1
    LAST = 1 << 2
    AGAIN = 1 << 3
    REG_WE = 1 << 4
    SP_WE = 1 << 5
    MEM_RE = 1 << 6
    MEM_WE = 1 << 7
    IRET = 1 << 8
    DELIVER = 1 << 9
    TRAP = 1 << 10
    TRAP_HAS_ERROR = 1 << 11


class RetireRecord(NamedTuple):
    """One cycle of a hart's RetirePort, with the meanings given there. `bytes`: 16, the last one 0."""

    cycle: int
    pc: int
    next_pc: int
    reg_data: int
    sp: int
    mem_addr: int
    mem_data: int
    rflags: int
    trap_rip: int
    trap_addr: int
    bytes: bytes
    trap_error: int
    hart: int
    length: int
    reg: int
    mem_size: int
    trap_vector: int
    trap_class: int
    flags: int


#: The same record as `sim/native/abi.h` lays it out.
RETIRE_STRUCT = Struct("<10Q16sI6BH4x")


@dataclass
class Records:
    """What ports showed since the last drain, in order of cycle."""

    retires: list[RetireRecord] = field(default_factory=list)
    console: list[tuple[int, int]] = field(default_factory=list)  # cycle, byte
    exits: list[tuple[int, int]] = field(default_factory=list)  # cycle, value written


class EngineUnavailable(Exception):
    """An engine cannot be had here. The message gives the reason and the next step."""

    def __init__(self, name: str, reason: str, step: str):
        super().__init__(f"engine {name!r} is not available: {reason}. {step}")
        self.name, self.reason, self.step = name, reason, step


class EngineError(RuntimeError):
    """An engine was asked for what it cannot do in its present state."""


class DesignError(RuntimeError):
    """An invariant of the hardware (an Assert) does not hold: a bug of the hardware, whatever the guest does.

    The engine stands in the failing cycle, before its edge, and what the cycle shows is in the records; a run that goes on
    raises the same again. Engines agree on all members but `engine`.
    """

    def __init__(self, engine: str, cycle: int, path: str, message: str, values: Sequence[int]):
        self.engine, self.cycle, self.path = engine, cycle, path
        number = re.match(r"[a-z_]*(\d+)(\.|$)", path)  # h0.w.trap belongs to hart 0
        self.hart = int(number[1]) if number else None
        self.invariant, _, self.detail = message.format(*values).partition(": ")
        where = "" if self.hart is None else f" of hart {self.hart}"
        super().__init__(
            f"invariant {self.invariant}{where} does not hold in cycle {cycle}: {self.detail or 'no detail'} "
            f"({path or 'top'}, engine {engine}). This is a bug of the hardware, whatever the guest does. "
            f"To see the cycles before it: `kphw run` with --wave --wave-around cycle:{cycle}, or sim.wave.WaveRecorder"
        )


class Engine(Protocol):
    """Runs one Soc with its RAM. Registers and memory may be read whenever the clock stands still, which is between calls.

    Capabilities: ``snapshot`` (save, restore), ``fast`` (over 50,000 cycles a second).
    """

    name: str
    harts: int
    config: Config
    capabilities: frozenset[str]

    @property
    def cycle(self) -> int:
        """Number of the current cycle: edges since reset."""
        ...

    def reset(self) -> None:
        """Return to cycle 0: registers as at power-on, no records. The contents of RAM stay."""
        ...

    def run(self, max_cycles: int, stop: StopOn = NEVER) -> Stop:
        """Execute at most `max_cycles` cycles, until an event (see the module). DesignError if an invariant fails."""
        ...

    def retired(self, hart: int) -> int:
        """Instructions that a hart has retired since reset."""
        ...

    def state(self, hart: int) -> HartState:
        """Where a hart is in the current cycle."""
        ...

    def trap_request(self, hart: int) -> tuple[int, int]:
        """Vector and stored address of a hart's TrapPort; valid while `HartState.trap_request`."""
        ...

    def complete_trap(self, hart: int, handled: bool) -> None:
        """Answer a TrapPort request; the store completes in the next cycle that runs."""
        ...

    def read_reg(self, hart: int, index: int) -> int:
        """Value of a register (`hw.isa.facts.DebugReg`); that of the architecture while `HartState.boundary`."""
        ...

    def write_reg(self, hart: int, index: int, value: int) -> None:
        """Set a register; the hart drops what it has fetched. EngineError unless at a boundary and no trap is requested."""
        ...

    def refetch(self, hart: int) -> None:
        """Make a hart fetch again what it has under way, because memory was changed; as `write_reg`."""
        ...

    def read_mem(self, address: int, size: int) -> bytes:
        """Bytes of RAM at a physical address. IndexError outside."""
        ...

    def write_mem(self, address: int, data: bytes) -> None:
        """Change RAM at a physical address; what is in flight is not affected. IndexError outside."""
        ...

    def set_irq(self, hart: int, vector: int | None) -> None:
        """Request an external interrupt until the hart acknowledges it; None takes the request back.

        The line changes in the current cycle, or if the hart's TrapPort waits, at the next edge.
        """
        ...

    def nmi(self, hart: int) -> None:
        """Request a non-maskable interrupt."""
        ...

    def ipi(self, destination: int, vector: int, mode: int = 0) -> None:
        """Send an interprocessor interrupt from outside, with a physical destination and a delivery mode as in the ICR.

        It arrives in the next cycle that runs; several arrive one a cycle. EngineError if `MAX_IPIS` wait already.
        """
        ...

    def record(self, mode: Recording, start: int = 0, end: int = FOREVER) -> None:
        """Choose which retire records are kept; ALL holds in cycles start to end - 1, TRAPS outside of them."""
        ...

    def drain(self) -> Records:
        """Take the records collected since the last drain."""
        ...

    def ports(self) -> dict[str, int]:
        """Names and widths of the ports that can be sampled, for example ``h0_pipe__x_pc``."""
        ...

    def sample(self, names: Sequence[str], start: int = 0, end: int = FOREVER) -> None:
        """Sample ports in every cycle from start to end - 1. KeyError for a name that is no port."""
        ...

    def drain_samples(self) -> list[tuple[int, ...]]:
        """Take the samples: cycle, then the value of each port in the order of `sample`."""
        ...

    def save(self) -> bytes:
        """Return the whole state. EngineError without the capability ``snapshot``."""
        ...

    def restore(self, state: bytes) -> None:
        """Return to a state saved by an engine of the same hardware."""
        ...

    def close(self) -> None:
        """Free everything. The engine cannot be used any more."""
        ...


#: Engines by name, the preferred first; a module holds a function `create` with the parameters of `open_engine`.
ENGINES = {"compiled": "sim.compiled", "pysim": "sim.pysim"}

SocFactory = Callable[..., Any]


def default_soc(harts: int, config: Config) -> Any:
    """Return the hardware that engines run unless told otherwise."""
    return importlib.import_module("hw.soc").Soc(harts=harts, config=config)


def open_engine(
    name: str = "auto",
    *,
    harts: int = 1,
    config: Config = Config(),
    latency: int = 1,
    wait_seed: int | None = None,
    soc_factory: SocFactory = default_soc,
) -> Engine:
    """Return an engine: "auto" is the fastest that is available here.

    `latency` and `wait_seed` are those of `hw.ram.Ram`. Raises EngineUnavailable, and ValueError for an unknown name or
    parameters that no RAM can have.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"there is no engine {name!r}; engines are auto, {', '.join(ENGINES)}")
    reasons: list[EngineUnavailable] = []
    for candidate in ENGINES if name == "auto" else (name,):
        create = importlib.import_module(ENGINES[candidate]).create
        try:
            return create(harts=harts, config=config, latency=latency, wait_seed=wait_seed, soc_factory=soc_factory)
        except EngineUnavailable as error:
            reasons.append(error)
    raise reasons[-1]
