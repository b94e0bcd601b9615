"""The variables of a waveform: their names, and how each is had from sampled ports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hw.bus import STAGES
from hw.isa.facts import Reg
from sim.disasm import SHOWN_FLAGS, Trace, class_name, flag_text, register_name

#: What a recorder takes unless told otherwise; "bus" and "all" are there too.
DEFAULT_SET = ("arch", "retire", "pipe", "trap", "io")
SETS = (*DEFAULT_SET, "bus")

class Void:
    """The value of a port in a cycle in which it means nothing."""


VOID = Void()

#: The value of a variable in a cycle: a number, text, None if the window has not shown it yet, or VOID.
Cell = int | str | None | Void
Column = Callable[[Trace], Sequence[Cell]]



class WaveError(ValueError):
    """A waveform that cannot be had; the message names the cause and the next step."""


@dataclass(frozen=True)
class Variable:
    """A line of the waveform. `width` 0: text. `needs`: the ports that `column` reads."""

    scope: str
    name: str
    width: int
    needs: tuple[str, ...]
    column: Column

    @property
    def path(self) -> str:
        """The full name."""
        return f"{self.scope}.{self.name}"


#: What the ports of a hart are called, by the beginning of their names; the first that fits.
_PLACES = (
    ("retire__trap_", "trap.{}"), ("retire__trap", "trap.taken"), ("retire__", "retire.{}"), ("pipe__", "pipe.{}"),
    ("trap__", "trap.port_{}"), ("irq__", "trap.irq_{}"), ("fetch__", "bus.fetch_{}"), ("data__", "bus.data_{}"),
    ("dbg__boundary", "arch.boundary"), ("dbg__halted", "arch.halted"), ("dbg__shutdown", "arch.shutdown"),
)  # fmt: skip


#: Which port says that another one means something (`hw.bus`); the first that fits, the ports themselves excepted.
_GATES = [(re.compile(pattern), gate) for pattern, gate in (
    (r"(h\d+_retire__trap)_\w+", r"\1"), (r"(h\d+_retire__)(?!trap)\w+", r"\1valid"),
    (r"(h\d+_pipe__._)(pc|stall)", r"\1valid"), (r"(h\d+_pipe__redirect)_pc", r"\1"),
    (r"(h\d+_trap__)(vector|addr)", r"\1req"), (r"(h\d+_trap__)handled", r"\1done"),
    (r"(h\d+_irq__)vector", r"\1valid"), (r"(h\d+_(?:fetch|data)__re(?:q|sp)_)(?!ready)\w+", r"\1valid"),
    (r"(console_|exit_|ipi__)\w+", r"\1valid"),
)]  # fmt: skip


def _gate(port: str) -> str | None:
    found = (match.expand(gate) for pattern, gate in _GATES if (match := pattern.fullmatch(port)))
    gate = next(found, None)
    return None if gate == port else gate


def _port_variable(scope: str, name: str, width: int, port: str) -> Variable:
    gate = _gate(port)
    if gate is None:
        return Variable(scope, name, width, (port,), lambda trace: trace[port])

    def column(trace: Trace) -> list[Cell]:
        return [value if valid else VOID for value, valid in zip(trace[port], trace[gate], strict=True)]

    return Variable(scope, name, width, (port, gate), column)


def _port_variables(ports: dict[str, int]) -> Iterable[Variable]:
    for port, width in ports.items():
        scope, name = "soc.io", port.replace("__", "_")
        if not port.startswith(("console_", "exit_", "ipi_")):
            hart, _, rest = port.partition("_")
            place = next(((start, form) for start, form in _PLACES if rest.startswith(start)), None)
            if place is None:
                continue
            part, name = place[1].format(rest.removeprefix(place[0])).split(".")
            scope = f"soc.hart{hart[1:]}.{part}"
        yield _port_variable(scope, name, width, port)


def _held(values: Sequence[int], when: Iterable[int]) -> list[int | None]:
    """What was shown last when `when` held, that cycle included."""
    result, now = [], None
    for value, valid in zip(values, when, strict=True):
        if valid:
            now = value
        result.append(now)
    return result


_REGISTER_PORTS = ("valid", "reg_we", "reg", "reg_data", "sp_we", "sp")


def _register(trace: Trace, hart: int, number: int) -> list[int | None]:
    """A register, as far as the window has shown it."""
    result, now = [], None
    columns = [trace.port(hart, f"retire__{name}") for name in _REGISTER_PORTS]
    for valid, write, reg, data, write_sp, sp in zip(*columns, strict=True):
        if valid and write_sp and number == Reg.RSP:
            now = sp
        if valid and write and reg == number:
            now = data
        result.append(now)
    return result


def _named(trace: Trace, hart: int, valid: str, port: str, name: Callable[[int], str]) -> list[str]:
    """The name of a number while it is valid."""
    rows = zip(trace.port(hart, valid), trace.port(hart, port), strict=True)
    return [name(value) if shown else "" for shown, value in rows]


def _derived(hart: int) -> Iterable[Variable]:
    """What is worked out from several ports of a hart."""
    trap = ("retire__trap", "retire__trap_vector", "retire__valid", "retire__last", "retire__deliver")
    code = (*trap, "retire__pc", "retire__length", "retire__bytes", "pipe__w_valid", "pipe__w_pc")
    write = [f"retire__{name}" for name in _REGISTER_PORTS]

    def new(place: str, width: int, needs: Iterable[str], column: Column) -> Variable:
        part, name = place.split(".")
        return Variable(f"soc.hart{hart}.{part}", name, width, tuple(f"h{hart}_{n}" for n in needs), column)

    def at_retire(trace: Trace, port: str, last: bool) -> list[int | None]:
        valid = trace.port(hart, "retire__valid")
        ends = trace.port(hart, "retire__last") if last else valid
        return _held(trace.port(hart, f"retire__{port}"), (v and e for v, e in zip(valid, ends, strict=True)))

    def rflags(trace: Trace) -> list[int | None]:
        return at_retire(trace, "rflags", False)

    def named(place: str, valid: str, port: str, name: Callable[[int], str] | None = None) -> Variable:
        return new(place, 0, (valid, port), lambda t: _named(t, hart, valid, port, name or t.describe))

    ends = ("retire__valid", "retire__last", "retire__next_pc")
    yield new("arch.rip", 64, ends, lambda t: at_retire(t, "next_pc", True))
    flags = ("retire__valid", "retire__rflags")
    yield new("arch.rflags", 64, flags, rflags)
    yield new("arch.flags", 0, flags, lambda t: ["" if v is None else flag_text(v) for v in rflags(t)])
    for flag in SHOWN_FLAGS:
        yield new(f"arch.{flag.name.lower()}", 1, flags, lambda t, f=flag: [v and v >> f & 1 for v in rflags(t)])
    for reg in range(16):
        yield new(f"arch.{register_name(reg)}", 64, write, lambda t, r=reg: _register(t, hart, r))
    yield new("retire.asm", 0, code, lambda t: t.retired_text(hart, "asm"))
    yield new("retire.sym", 0, code, lambda t: t.retired_text(hart, "sym"))
    written = ("retire__valid", "retire__reg_we", "retire__reg")
    yield new("retire.reg_name", 0, written, lambda t: [
        register_name(r) if v and w else "" for v, w, r in zip(*(t.port(hart, n) for n in written), strict=True)
    ])  # fmt: skip
    for stage in STAGES:
        needs = (*code, f"pipe__{stage}_valid", f"pipe__{stage}_pc")
        yield new(f"pipe.{stage}_asm", 0, needs, lambda t, s=stage: t.stage_text(hart, s))
    places = [f"pipe__{s}_{what}" for s in STAGES for what in ("valid", "stall")]
    yield new("pipe.stages", 0, places, lambda t: t.occupancy(hart))
    yield named("pipe.redirect_sym", "pipe__redirect", "pipe__redirect_pc")
    yield new("trap.name", 0, trap, lambda t: t.trap_text(hart))
    yield named("trap.class_name", "retire__trap", "retire__trap_class", class_name)


def variables(ports: dict[str, int]) -> list[Variable]:
    """Return every variable that can be had from an engine's ports, in the order of the file: text first."""
    result = list(_port_variables(ports))
    for hart in sorted({int(port[1 : port.index("_")]) for port in ports if port.startswith("h")}):
        result += _derived(hart)
    order = ("arch", "retire", "trap", "pipe", "bus", "io")
    return sorted(result, key=lambda v: (v.scope.split(".")[1], order.index(v.scope.split(".")[-1]), v.width > 0))


def choose(available: Sequence[Variable], names: Iterable[str]) -> list[Variable]:
    """Return the variables that sets (`SETS`, "all") and globs ("pipe.x_*", "*.asm") name.

    WaveError if one of them names none.
    """
    chosen: set[str] = set()
    for name in names:
        pattern = "soc.*" if name == "all" else f"soc.*{name}.*" if name in SETS else name
        found = {v.path for v in available if fnmatchcase(v.path, pattern) or fnmatchcase(v.path, f"*.{pattern}")}
        if not found:
            raise WaveError(f"no signal is called {name!r}; choose sets ({', '.join(SETS)}, all) or names like *.x_asm")
        chosen |= found
    return [v for v in available if v.path in chosen]
