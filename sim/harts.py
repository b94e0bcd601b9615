"""A hart as a user sees it: its registers by name, its interrupts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from hw.isa.facts import DebugReg, Reg, SysReg
from sim.engine import Engine, HartState

#: Debug port index of every register by name.
REGISTERS: dict[str, int] = {
    **{reg.name.lower(): reg.value for reg in Reg if reg < 16},
    "rip": DebugReg.RIP.value,
    "rflags": DebugReg.RFLAGS.value,
    "cpl": DebugReg.CPL.value,
    **{reg.name.lower(): DebugReg.SYS.value + reg.value for reg in SysReg},
}


class Registers:
    """Registers of a hart as attributes or by name: ``regs.rax = 1``, ``regs["fs_base"]``.

    They may be read at any time and are those of the architecture between two instructions; they may be set there only
    (EngineError elsewhere). Values are unsigned.
    """

    __slots__ = ("_engine", "_hart")

    def __init__(self, engine: Engine, hart: int):
        object.__setattr__(self, "_engine", engine)
        object.__setattr__(self, "_hart", hart)

    def _index(self, name: str) -> int:
        try:
            return REGISTERS[name]
        except KeyError:
            close = difflib.get_close_matches(name, REGISTERS, 3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise KeyError(f"there is no register {name!r}{hint}") from None

    def __getitem__(self, name: str) -> int:
        return self._engine.read_reg(self._hart, self._index(name))

    def __setitem__(self, name: str, value: int) -> None:
        self._engine.write_reg(self._hart, self._index(name), value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __setattr__(self, name: str, value: int) -> None:
        try:
            self[name] = value
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTERS)

    def keys(self) -> list[str]:
        """Return all names."""
        return list(REGISTERS)

    def as_dict(self) -> dict[str, int]:
        """Return all values by name."""
        return {name: self[name] for name in REGISTERS}

    def __repr__(self) -> str:
        names = [reg.name.lower() for reg in Reg if reg < 16] + ["rip", "rflags"]
        return " ".join(f"{name}={self[name]:#x}" for name in names)


class HartView:
    """One hart of a machine."""

    def __init__(self, engine: Engine, number: int):
        self._engine, self.number = engine, number
        self.regs = Registers(engine, number)

    @property
    def state(self) -> HartState:
        """Whether the hart is at a boundary, halted, shut down, waiting for the runtime."""
        return self._engine.state(self.number)

    @property
    def retired(self) -> int:
        """Instructions retired since reset."""
        return self._engine.retired(self.number)

    def irq(self, vector: int | None) -> None:
        """Request an external interrupt until it is acknowledged; None takes the request back."""
        self._engine.set_irq(self.number, vector)

    def ipi(self, vector: int) -> None:
        """Send an interprocessor interrupt to the hart's own controller, from outside: it is lost if the guest has not enabled
        that, and its handler has to write EOI. EngineError if `sim.engine.MAX_IPIS` wait."""
        self._engine.ipi(self.number, vector)

    def nmi(self) -> None:
        """Request a non-maskable interrupt."""
        self._engine.nmi(self.number)
