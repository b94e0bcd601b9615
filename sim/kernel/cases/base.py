"""The notation of cases: which function of a kernel is called with what, and what must come out.

A case is one or more calls on objects in memory, which are placed anew for each case. Arguments are numbers, objects
(passed by address), places inside objects, symbols of the kernel, and results of earlier calls::

    data = Mem(b"123456789")
    Case("check value", Call("crc32_le_base", ~0, data, 9, returns=zlib.crc32(data.data) ^ 0xFFFFFFFF, bits=32))

What is given as `returns` and `after` is computed in Python, without the kernel. Beyond that every register and byte that
the calls leave behind is compared with an emulator's, whether something is given or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: Bytes between objects, and before and after them: a function that writes there is seen.
FILL = 0xA5


class Sym(NamedTuple):
    """The address of a symbol of the kernel or of support.c."""

    name: str


class At(NamedTuple):
    """A place inside an object, by its offset in bytes."""

    mem: Mem
    offset: int


class Result(NamedTuple):
    """What an earlier call of the case returned; calls count from 0."""

    call: int


class Load(NamedTuple):
    """The quadword at the start of an object, when the call is made."""

    mem: Mem


@dataclass(eq=False)
class Mem:
    """An object in memory: bytes, and quadwords that are numbers or addresses, one behind the other.

    `name` is for messages. `align`: a power of two.
    """

    parts: tuple[bytes | int | Mem | At | Sym, ...]
    name: str = "memory"
    align: int = 64

    def __init__(self, *parts: bytes | int | Mem | At | Sym, name: str = "memory", align: int = 64):
        self.parts, self.name, self.align = parts, name, align

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(len(part) if isinstance(part, bytes) else 8 for part in self.parts)

    @property
    def data(self) -> bytes:
        """Its contents, if that is one string of bytes."""
        (only,) = self.parts
        assert isinstance(only, bytes)
        return only


Value = int | Mem | At | Sym | Result | Load
Content = bytes | tuple[bytes | int | Mem | At | Sym, ...]


def text(string: str | bytes, room: int = 0) -> Mem:
    """A string with its NUL, and `room` bytes more behind it."""
    data = string.encode() if isinstance(string, str) else string
    return Mem(data + b"\0" + bytes([FILL]) * room, name="string")


def room(size: int, fill: int = FILL) -> Mem:
    """Memory to be written to."""
    return Mem(bytes([fill]) * size, name="buffer")


@dataclass(frozen=True, eq=False)
class Call:
    """A call. `returns`: the value, of which the low `bits` count, or None for one that Python does not know."""

    function: str
    arguments: tuple[Value, ...]
    returns: int | Mem | At | Sym | None = None
    bits: int = 64

    def __init__(self, function: str, *arguments: Value, returns: int | Mem | At | Sym | None = None, bits: int = 64):
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "arguments", arguments)
        object.__setattr__(self, "returns", returns)
        object.__setattr__(self, "bits", bits)


@dataclass(frozen=True, eq=False)
class Case:
    """Calls in a row. `after`: contents of objects after the last of them, from their start on."""

    name: str
    calls: tuple[Call, ...]
    after: Mapping[Mem, Content] = field(default_factory=dict)

    def __init__(self, name: str, *calls: Call, after: Mapping[Mem, Content] | None = None):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "calls", calls)
        object.__setattr__(self, "after", after or {})

    @property
    def functions(self) -> list[str]:
        """The functions that it calls, each once."""
        return list(dict.fromkeys(call.function for call in self.calls))

    @property
    def checked(self) -> bool:
        """Whether something is known without the emulator."""
        return bool(self.after) or any(call.returns is not None for call in self.calls)

    def objects(self) -> list[Mem]:
        """Every object that it reaches, in the order in which they are placed."""
        found: dict[Mem, None] = {}

        def visit(values: Iterable[object]) -> None:
            for value in values:
                mem = value.mem if isinstance(value, (At, Load)) else value
                if isinstance(mem, Mem) and mem not in found:
                    found[mem] = None
                    visit(mem.parts)

        for call in self.calls:
            visit(call.arguments)
        visit(self.after)
        return list(found)
