"""Reads files of architectural test vectors (design, section 8), and refuses what is not one with the reason."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.bus import HIGH_BASE
from hw.isa.facts import VECTORS
from sim.harts import REGISTERS

#: RAM of the model that vectors run on, seen at 0 and at HIGH_BASE.
RAM_BYTES = 16 << 20

_MNEMONICS = {row.number: row.mnemonic for row in VECTORS}


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
        raise VectorsError(
            f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}): give a list of vectors"
        ) from None
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
    kinds = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a truth value",
        float: "a fraction",
        int: "a number",
    }
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
            raise VectorsError(
                f"{where}: there is no register {name!r}" + (f"; did you mean {', '.join(close)}?" if close else "")
            )
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
    place = physical(address)
    if place is None or place + len(data) > RAM_BYTES:
        raise VectorsError(
            f"{where}: {len(data)} bytes at {address:#x} are out of RAM, which is {RAM_BYTES:#x} bytes at 0 and "
            f"at {HIGH_BASE:#x}"
        )
    return place, data


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


def physical(address: int) -> int | None:
    """Return where in RAM a linear address lies, or None."""
    place = address - HIGH_BASE if address >= HIGH_BASE else address
    return place if place < RAM_BYTES else None
