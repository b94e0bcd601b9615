"""From a parsed definition to a probe: where its place is, what its arguments read, and whether its event takes it."""

from __future__ import annotations

import difflib
import errno
from dataclasses import dataclass

from kprobes.port import Guest, Symbols
from kprobes.tracing.argument import Argument, compile_arguments
from kprobes.tracing.command import Definition, Location
from kprobes.tracing.errors import ErrorCode
from kprobes.tracing.event import Event
from kprobes.tracing.fetch import Context, Place, Program

_ENDBR64 = b"\xf3\x0f\x1e\xfa"


@dataclass(frozen=True, slots=True)
class Compiled:
    """The arguments of a probe, and the programs that save values at a function's entry for its return.

    ``pending``: the module of the place is not loaded.
    """

    arguments: tuple[Argument, ...]
    saved: tuple[Program, ...]
    pending: bool


def compile_definition(definition: Definition, guest: Guest, comm: str) -> Compiled:
    """Look the place up and compile the arguments; raise ``ProbeEventError``."""
    addr = _address(definition, guest.symbols)
    on_entry = definition.location.offset == 0 if addr is None else is_entry(guest, addr)
    if definition.is_return and not on_entry:
        raise definition.source.error(ErrorCode.BAD_RETPROBE, definition.where.at)
    place = Place.RETURN if definition.is_return else Place.ENTRY if on_entry else Place.BODY
    ctx = Context(definition.source, guest, place, comm)
    arguments = compile_arguments(ctx, definition.arguments)
    return Compiled(arguments, tuple(ctx.saved.values()), addr is None)


def is_entry(guest: Guest, addr: int) -> bool:
    """Whether a function begins at ``addr``; the instruction after an ENDBR64 counts, too (kprobe_on_func_entry)."""
    symbol = guest.symbols.containing(addr)
    if symbol is None:
        return False
    offset = addr - symbol.start
    return offset == 0 or (offset == len(_ENDBR64) and guest.read(symbol.start, len(_ENDBR64)) == _ENDBR64)


def module_is_loaded(symbols: Symbols, module: str) -> bool:
    """Whether the symbol table has names of a module."""
    return any(name.startswith(f"{module}:") for name in symbols.names())


def check_against(definition: Definition, arguments: tuple[Argument, ...], event: Event) -> None:
    """Refuse what an existing event of the same name does not take."""
    error, old = definition.source.error, next(iter(event.probes.values()))
    start = definition.source.words()[0].at
    if definition.is_return != event.layout.is_return:
        raise error(ErrorCode.DIFF_PROBE_TYPE, start)
    theirs = [argument.signature for argument in old.arguments]
    ours = [argument.signature for argument in arguments]
    if ours != theirs:
        same = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
                    min(len(ours), len(theirs)))
        at = definition.arguments[same].at if same < len(ours) else len(definition.source.text.rstrip())
        raise error(ErrorCode.DIFF_ARG_TYPE, at)
    if (definition.location, tuple(argument.body for argument in arguments)) in event.probes:
        raise error(ErrorCode.SAME_PROBE, start)


def _address(definition: Definition, symbols: Symbols) -> int | None:
    """Return the address of the place; None when it is in a module that is not loaded."""
    location, where = definition.location, definition.where
    if location.symbol is None:
        return location.addr
    found = symbols.addresses(location.symbol)
    if len(found) > 1:
        raise definition.source.error(ErrorCode.NON_UNIQ_SYMBOL, where.at)
    if found:
        return found[0] + location.offset
    if location.module is not None and not module_is_loaded(symbols, location.module):
        return None
    raise definition.source.error(ErrorCode.BAD_PROBE_ADDR, where.at, _unknown(location, symbols), errno.ENOENT)


def _unknown(location: Location, symbols: Symbols) -> str:
    name = str(location.symbol)
    close = difflib.get_close_matches(name, list(symbols.names()), 2, 0.6)
    return f"the guest has no symbol {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else "")
