"""Python code of pieces of an Amaranth design, for `sim.levelized`.

Expressions and statements are compiled by Amaranth's own compilers; only where values live is different: in one list,
``c``, by the index of the signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from amaranth.hdl import Cat, Signal
from amaranth.hdl._ast import Assign, Concat, Const, Operator, Part, Slice, SwitchValue
from amaranth.hdl._xfrm import LHSMaskCollector
from amaranth.sim._pyrtl import (
    _LHSValueCompiler,
    _PythonEmitter,
    _RHSValueCompiler,
    _StatementCompiler,
    _ValueCompiler,
)

from sim.lowering import ClockedPiece, Piece
from sim.rewrite import assigned_once, assignments

Run = Callable[[], None]

_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")

_WAKE = (
    "for p in readers[{0}]:",
    "    if p.idle:",
    "        p.idle = False",
    "        p.level.append(p)",
)


class _Rhs(_RHSValueCompiler):
    """Reads values of signals from the list ``c``, but those in `local` (indices) where they are assigned.

    Values of signals are in range, so that most of the masks of Amaranth's own compiler are not necessary.
    """

    local: frozenset[int] = frozenset()

    def on_Signal(self, value: Any) -> str:
        index = self.state.get_signal(value)
        return f"c[{index}]" if self.mode == "curr" and index not in self.local else f"next_{index}"

    def _exact(self, value: Any) -> bool:
        """Whether the code of a value yields an integer in its range."""
        if isinstance(value, Signal):
            return self.mode == "curr"
        if isinstance(value, Operator):
            if value.operator in ("&", "|", "^"):
                shapes = {operand.shape().signed for operand in value.operands}
                return len(shapes) == 1
            if value.operator == "u":
                return not value.operands[0].shape().signed and self._exact(value.operands[0])
            return value.operator in (">>", "r^")
        if isinstance(value, SwitchValue):
            return all(case.shape().signed == value.shape().signed for _, case in value.cases)
        return isinstance(value, (Const, Slice, Part, Concat))

    def mask(self, value: Any) -> str:
        """Return code for the bits of a value, as an integer that is not negative."""
        if isinstance(value, Const):
            return f"{value.value & (1 << len(value)) - 1:#x}"
        if self._exact(value) and not value.shape().signed:
            return self(value)  # type: ignore[return-value]
        return f"({(1 << len(value)) - 1:#x} & {self(value)})"

    def sign(self, value: Any) -> str:
        """Return code for a value in its range."""
        if self._exact(value):
            return self(value)  # type: ignore[return-value]
        if value.shape().signed:
            return f"sign({self.mask(value)}, {-1 << (len(value) - 1):#x})" if len(value) else "0"
        return self.mask(value)

    def truth(self, value: Any) -> str:
        """Return code of which only the truth counts."""
        if isinstance(value, Operator):
            if value.operator in ("b", "r|"):
                return self.truth(value.operands[0])
            if value.operator in _COMPARISONS:
                return self(value)  # type: ignore[return-value]
        if isinstance(value, Slice) and len(value) and not value.value.shape().signed:
            return f"({self.mask(value.value)} & {(1 << len(value)) - 1 << value.start:#x})"
        return self.mask(value)

    def on_Operator(self, value: Any) -> str:
        name = value.operator
        if len(value.operands) == 1:
            (operand,) = value.operands
            if name == "~":
                if not operand.shape().signed:
                    return f"({(1 << len(operand)) - 1:#x} ^ {self.mask(operand)})"
                return f"(~{self.sign(operand)})"
            if name == "-":
                return f"(-{self.sign(operand)})"
            if name in ("b", "r|"):
                return f"(0 != {self.truth(operand)})"
            if name == "r&":
                return f"({(1 << len(operand)) - 1:#x} == {self.mask(operand)})"
            if name == "r^":
                return f"(({self.mask(operand)}).bit_count() & 1)"
            return self.mask(operand)
        if name in ("//", "%"):
            return (
                f"{'zdiv' if name == '//' else 'zmod'}({self.sign(value.operands[0])}, {self.sign(value.operands[1])})"
            )
        return f"({self.sign(value.operands[0])} {name} {self.sign(value.operands[1])})"

    def on_Slice(self, value: Any) -> str:
        inner = value.value
        source = self.mask(inner)
        if value.start:
            source = f"({source} >> {value.start})"
        return source if value.stop == len(inner) else f"({(1 << len(value)) - 1:#x} & {source})"

    def on_Part(self, value: Any) -> str:
        offset = f"({value.stride} * {self.rrhs.mask(value.offset)})"  # type: ignore[attr-defined]
        return f"({(1 << value.width) - 1:#x} & ({self.mask(value.value)} >> {offset}))"

    def on_Concat(self, value: Any) -> str:  # type: ignore[override]
        pieces, at = [], 0
        for part in value.parts:
            if len(part) and not (isinstance(part, Const) and not part.value):
                pieces.append(f"({self.mask(part)} << {at})" if at else self.mask(part))
            at += len(part)
        return f"({' | '.join(pieces)})" if pieces else "0"

    def on_SwitchValue(self, value: Any) -> str:
        simple = len(value.test) == 1 and len(value.cases) == 2 and len(value.cases[0][0] or ()) == 1
        if simple and value.cases[1][0] is None and value.cases[0][0][0] in "01":
            first, other = (self.sign(case) for _, case in value.cases)
            if value.cases[0][0][0] == "0":
                first, other = other, first
            return f"({first} if {self.truth(value.test)} else {other})"
        return super().on_SwitchValue(value)  # type: ignore[return-value]


class _Statements(_StatementCompiler):
    """Compiles statements that read through `_Rhs`. The changes of registers in `direct` are queued where they are assigned."""

    direct: set[int]

    def __init__(self, state: Any, emitter: Any, local: frozenset[int]):
        super().__init__(state, emitter)
        self.rhs = _Rhs(state, emitter, mode="curr")
        self.rhs.local = local
        self.direct = set()
        self.lhs = _LHSValueCompiler(state, emitter, rhs=self.rhs)

    def on_Assign(self, stmt: Any) -> None:
        signal, value = stmt.lhs, stmt.rhs
        if isinstance(signal, Signal) and not signal.shape().signed and not value.shape().signed:
            code = self.rhs.mask(value) if len(value) <= len(signal) else self.rhs.mask(value[: len(signal)])
            self.emitter.append(f"next_{self.state.get_signal(signal)} = {code}")
        else:
            super().on_Assign(stmt)
        if isinstance(signal, Signal) and self.state.get_signal(signal) in self.direct:
            _queue(self.emitter, [self.state.get_signal(signal)])

    def on_Switch(self, stmt: Any) -> None:
        patterns = [case[0] for case in stmt.cases]
        if len(stmt.test) == 1 and patterns in ([("1",)], [("1",), None], [("1",), ("-",)]):
            self.emitter.append(f"if {self.rhs.truth(stmt.test)}:")
            for number, (_, body, _) in enumerate(stmt.cases):
                if number:
                    self.emitter.append("else:")
                with self.emitter.indent():
                    self.on_statements(body)
        else:
            super().on_Switch(stmt)


def _start(design: Any, local: frozenset[int] = frozenset()) -> tuple[Any, _Statements]:
    emitter = _PythonEmitter()
    emitter.append("def run(c=c, readers=readers, queue=queue):")
    emitter._level += 1
    return emitter, _Statements(design, emitter, local)


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


def _signals(statements: Iterable[Any]) -> set[int]:
    """Return the signals (ids) that statements assign."""
    return {id(signal) for statement in assignments(statements) for signal in statement._lhs_signals()}


def compile_comb(design: Any, piece: Piece) -> Run:
    """Return a function that computes the chosen ones among the signals that the statements drive."""
    emitter, compiler = _start(design, piece.local)
    driven = _masks(design, piece.statements)
    certain = {id(s) for s in assigned_once(s for s in piece.statements if isinstance(s, Assign))}
    certain -= _signals(s for s in piece.statements if not isinstance(s, Assign))
    for index, (signal, _) in driven.items():
        if id(signal) not in certain:
            emitter.append(f"next_{index} = {signal.init}")
    compiler.on_statements(piece.statements)
    for index, (signal, mask) in driven.items():
        if index in piece.chosen:
            _store(emitter, index, signal, mask)
    return _finish(design, emitter)


def compile_sync(design: Any, piece: ClockedPiece) -> Run:
    """Return a function that queues the register changes of one edge."""
    emitter, compiler = _start(design, piece.local)
    compiler.direct = {design.get_signal(s) for s in assigned_once(piece.statements)} & piece.chosen
    for index, (signal, _) in _masks(design, piece.statements).items():
        if index not in compiler.direct:
            emitter.append(f"next_{index} = {f'c[{index}]' if index in piece.chosen else signal.init}")
    compiler.on_statements(piece.statements)
    _queue(emitter, sorted(piece.chosen - compiler.direct))
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
