"""Python code of pieces of an Amaranth design, for `sim.levelized`.

Expressions and statements are compiled by Amaranth's own compilers; only where values live is different: in one list,
``c``, by the index of the signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from amaranth.hdl import Cat
from amaranth.hdl._xfrm import LHSMaskCollector
from amaranth.sim._pyrtl import (
    _LHSValueCompiler,
    _PythonEmitter,
    _RHSValueCompiler,
    _StatementCompiler,
    _ValueCompiler,
)

Run = Callable[[], None]

_WAKE = (
    "for p in readers[{0}]:",
    "    if p.idle:",
    "        p.idle = False",
    "        p.level.append(p)",
)


class _Rhs(_RHSValueCompiler):
    """Reads values of signals from the list ``c``."""

    def on_Signal(self, value: Any) -> str:
        index = self.state.get_signal(value)
        if self.inputs is not None:
            self.inputs.add(value)
        return f"c[{index}]" if self.mode == "curr" else f"next_{index}"


class _Statements(_StatementCompiler):
    """Compiles statements that read through `_Rhs`."""

    def __init__(self, state: Any, emitter: Any):
        super().__init__(state, emitter)
        self.rhs = _Rhs(state, emitter, mode="curr")
        self.lhs = _LHSValueCompiler(state, emitter, rhs=self.rhs)


def _start(design: Any) -> tuple[Any, _Statements]:
    emitter = _PythonEmitter()
    emitter.append("def run(c=c, readers=readers, queue=queue):")
    emitter._level += 1
    return emitter, _Statements(design, emitter)


def _finish(design: Any, emitter: Any, **names: object) -> Run:
    names |= {"c": design.values, "readers": design.readers, "queue": design.queue}
    names |= {**_ValueCompiler.helpers, **_StatementCompiler.helpers}
    exec(compile(emitter.flush(), "<design>", "exec"), names)
    return names["run"]  # type: ignore[return-value]


def _masks(design: Any, statements: Iterable[Any], values: Iterable[Any] = ()) -> dict[int, tuple[Any, int]]:
    collector = LHSMaskCollector()
    collector.visit_stmt(statements)
    for value in values:
        collector.visit_value(value, ~0)
    return {design.get_signal(signal): (signal, mask) for signal, mask in collector.masks()}


def _store(emitter: Any, index: int, signal: Any, mask: int) -> None:
    """Emit the change of a combinational signal, and the waking of what reads it."""
    if mask != (1 << len(signal)) - 1:
        if signal.shape().signed and mask >> (len(signal) - 1) & 1:
            mask |= -1 << len(signal)
        emitter.append(f"next_{index} = next_{index} & {mask} | c[{index}] & {~mask}")
    emitter.append(f"if next_{index} != c[{index}]:")
    with emitter.indent():
        emitter.append(f"c[{index}] = next_{index}")
        for line in _WAKE:
            emitter.append(line.format(index))


def _target(compiler: _Statements, value: Any) -> Callable[[str], None]:
    """Return the function that emits the assignment of code to a value."""
    return compiler.lhs(value)  # type: ignore[return-value]


def compile_comb(design: Any, statements: list[Any], chosen: frozenset[int]) -> Run:
    """Return a function that computes the chosen ones among the signals that the statements drive."""
    emitter, compiler = _start(design)
    driven = _masks(design, statements)
    for index, (signal, _) in driven.items():
        emitter.append(f"next_{index} = {signal.init}")
    compiler.on_statements(statements)
    for index, (signal, mask) in driven.items():
        if index in chosen:
            _store(emitter, index, signal, mask)
    return _finish(design, emitter)


def compile_sync(design: Any, statements: Iterable[Any]) -> Run:
    """Return a function that queues the register changes of one edge."""
    emitter, compiler = _start(design)
    driven = _masks(design, statements)
    for index in driven:
        emitter.append(f"next_{index} = c[{index}]")
    compiler.on_statements(statements)
    _queue(emitter, driven)
    return _finish(design, emitter)


def _queue(emitter: Any, driven: Iterable[int]) -> None:
    for index in driven:
        emitter.append(f"if next_{index} != c[{index}]:")
        with emitter.indent():
            emitter.append(f"queue.append(({index}, next_{index}))")


def compile_read(design: Any, port: Any, memory: Any) -> Run:
    """Return a function that reads memory through a combinational port."""
    emitter, compiler = _start(design)
    driven = _masks(design, [], [port._data])
    for index in driven:
        emitter.append(f"next_{index} = 0")
    _target(compiler, port._data)(f"memory.read({compiler.rhs.sign(port._addr)})")
    for index, (signal, mask) in driven.items():
        _store(emitter, index, signal, mask)
    return _finish(design, emitter, memory=memory)


def compile_memory(design: Any, instance: Any, memory: Any) -> Run:
    """Return a function that queues the writes of one edge and reads through the clocked ports."""
    emitter, compiler = _start(design)
    reads = [port for port in instance._read_ports if port._domain != "comb"]
    driven = _masks(design, [], [port._data for port in reads])
    for index in driven:
        emitter.append(f"next_{index} = c[{index}]")
    writes: dict[int, tuple[str, str, str]] = {}
    for number, port in enumerate(instance._write_ports):
        enable = compiler.rhs.sign(Cat(bit.replicate(port._granularity) for bit in port._en))
        enable = emitter.def_var("enable", enable)
        address = emitter.def_var("address", compiler.rhs.sign(port._addr))
        data = emitter.def_var("data", f"({(1 << len(port._data)) - 1:#x} & {compiler.rhs(port._data)})")
        emitter.append(f"if {enable}: memory.write({address}, {data}, {enable})")
        writes[number] = address, data, enable
    for port in reads:
        emitter.append(f"if {compiler.rhs.sign(port._en)}:")
        with emitter.indent():
            address = emitter.def_var("address", compiler.rhs.sign(port._addr))
            value = emitter.def_var("value", f"memory.read({address})")
            for number in port._transparent_for:
                where, data, enable = writes[number]
                emitter.append(f"if {address} == {where}: {value} = {value} & ~{enable} | {data} & {enable}")
            _target(compiler, port._data)(value)
    _queue(emitter, driven)
    return _finish(design, emitter, memory=memory)
