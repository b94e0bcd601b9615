"""Replaces signals in values and statements of a design, and picks bits out of what takes their place."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from amaranth.hdl import Signal
from amaranth.hdl._ast import (
    Assign,
    Concat,
    Const,
    Operator,
    Part,
    Print,
    Slice,
    Switch,
    SwitchValue,
    _StatementList,
)

Span = tuple[int, int]


def assignments(statements: Iterable[Any]) -> Iterator[Any]:
    """Yield every Assign."""
    for statement in statements:
        if isinstance(statement, Assign):
            yield statement
        elif isinstance(statement, Switch):
            for _, body, _ in statement.cases:
                yield from assignments(body)


def assigned_once(statements: Iterable[Any]) -> list[Signal]:
    """Return the signals that a single Assign drives, as a whole."""
    counts: Counter[int] = Counter()
    alone = []
    for statement in assignments(statements):
        counts.update(id(signal) for signal in statement._lhs_signals())
        if isinstance(statement.lhs, Signal):
            alone.append(statement.lhs)
    return [signal for signal in alone if counts[id(signal)] == 1]


def targets(value: Any, start: int, stop: int) -> list[tuple[Signal, int, int]] | None:
    """Return the parts of signals that bits `start` to `stop` of a target consist of; None if they vary at run time."""
    if isinstance(value, Signal):
        return [(value, start, stop)]
    if isinstance(value, Slice):
        return targets(value.value, value.start + start, value.start + stop)
    if isinstance(value, Operator):
        return targets(value.operands[0], start, stop)
    if not isinstance(value, Concat):
        return None
    found, at = [], 0
    for part in value.parts:
        low, high = max(start - at, 0), min(stop - at, len(part))
        at += len(part)
        if low < high:
            inner = targets(part, low, high)
            if inner is None:
                return None
            found += inner
    return found


def moved(spans: Iterable[Span], by: int, start: int, stop: int) -> list[Span]:
    """Return what of spans lies in `start` to `stop`, moved."""
    return [(max(a, start) + by, min(b, stop) + by) for a, b in spans if a < stop and b > start]


def opaque(value: Any) -> list[Span]:
    """Return the bits of a value that are computed together: no cut may fall within."""
    if isinstance(value, (Signal, Const)):
        return []
    if isinstance(value, Slice):
        return moved(opaque(value.value), -value.start, value.start, value.stop)
    if isinstance(value, Operator) and value.operator in ("u", "s"):
        return opaque(value.operands[0])
    if isinstance(value, SwitchValue):
        return [span for _, case in value.cases for span in opaque(case)]
    if isinstance(value, Concat):
        spans, at = [], 0
        for part in value.parts:
            spans += moved(opaque(part), at, 0, len(part))
            at += len(part)
        return spans
    return [(0, len(value))]


class Rewriter:
    """Replaces signals by values, and slices of what is replaced by what they consist of."""

    def __init__(self) -> None:
        #: What replaces a signal, by id: from bit to bit, a value without sign (its bits there).
        self.parts: dict[int, list[tuple[int, int, Any]]] = {}
        self._done: dict[int, tuple[Any, Any]] = {}

    def value(self, value: Any) -> Any:
        """Return a value in which everything is replaced; its shape stays."""
        found = self._done.get(id(value))
        if found is None:
            found = self._done[id(value)] = value, self._value(value)
        return found[1]

    def _value(self, value: Any) -> Any:
        if isinstance(value, Signal):
            if id(value) not in self.parts:
                return value
            new = self._join([part for _, _, part in self.parts[id(value)]])
            return Operator("s", [new]) if value.shape().signed else new
        if isinstance(value, Operator):
            operands = [self.value(operand) for operand in value.operands]
            same = all(a is b for a, b in zip(operands, value.operands, strict=True))
            return value if same else Operator(value.operator, operands)
        if isinstance(value, Slice):
            return self.bits(value.value, value.start, value.stop)
        if isinstance(value, Part):
            return Part(self.value(value.value), self.value(value.offset), value.width, value.stride)
        if isinstance(value, Concat):
            return self._join([self.value(part) for part in value.parts])
        if isinstance(value, SwitchValue):
            return self._switch(value, [self.value(case) for _, case in value.cases])
        return value

    @staticmethod
    def _join(parts: list[Any]) -> Any:
        return parts[0] if len(parts) == 1 and not parts[0].shape().signed else Concat(parts)

    def _switch(self, value: Any, cases: list[Any]) -> Any:
        new = copy.copy(value)
        new._test = self.value(value.test)
        new._cases = tuple((patterns, case) for (patterns, _), case in zip(value.cases, cases, strict=True))
        return new

    def bits(self, value: Any, start: int, stop: int) -> Any:
        """Return bits `start` to `stop` of a value, extended as far as necessary, without sign."""
        width = len(value)
        if stop > width:
            known = [self.bits(value, start, width)] if start < width else []
            more = stop - max(start, width)
            if not (width and value.shape().signed):
                return self._join([*known, Const(0, more)])
            ones, sign = Const((1 << more) - 1, more), self.bits(value, width - 1, width)
            return self._join([*known, SwitchValue(sign, ((0, Const(0, more)), (None, ones)))])
        if (start, stop) == (0, width):
            new = self.value(value)
            return Operator("u", [new]) if new.shape().signed else new
        if isinstance(value, Signal) and id(value) in self.parts:
            found = [(a, b, part) for a, b, part in self.parts[id(value)] if a < stop and b > start]
            return self._join([self._cut(part, max(start - a, 0), min(stop, b) - a) for a, b, part in found])
        if isinstance(value, Const):
            return Const(value.value >> start & (1 << (stop - start)) - 1, stop - start)
        if isinstance(value, Slice):
            return self.bits(value.value, value.start + start, value.start + stop)
        if isinstance(value, Concat):
            pieces, at = [], 0
            for part in value.parts:
                if at < stop and at + len(part) > start:
                    pieces.append(self.bits(part, max(start - at, 0), min(stop - at, len(part))))
                at += len(part)
            return self._join(pieces)
        if isinstance(value, Operator):
            if value.operator in ("u", "s"):
                return self.bits(value.operands[0], start, stop)
            if value.operator in ("&", "|", "^", "~"):
                return Operator(value.operator, [self.bits(operand, start, stop) for operand in value.operands])
        if isinstance(value, SwitchValue) and not opaque(value):
            return self._switch(value, [self.bits(case, start, stop) for _, case in value.cases])
        return self._cut(self.value(value), start, stop)

    @staticmethod
    def _cut(value: Any, start: int, stop: int) -> Any:
        if (start, stop) == (0, len(value)):
            return value
        if isinstance(value, Const):
            return Const(value.value >> start & (1 << (stop - start)) - 1, stop - start)
        if isinstance(value, Slice):
            return Slice(value.value, value.start + start, value.start + stop)
        return Slice(value, start, stop)

    def statements(self, statements: Iterable[Any]) -> list[Any]:
        """Return statements in which everything is replaced."""
        result = []
        for statement in statements:
            if isinstance(statement, Assign):
                result += self._assign(statement)
            elif isinstance(statement, Switch):
                new = copy.copy(statement)
                new._test = self.value(statement.test)
                new._cases = tuple(
                    (patterns, _StatementList(self.statements(body)), at) for patterns, body, at in statement.cases
                )
                result.append(new)
            else:
                result.append(self._effect(statement))
        return result

    def _effect(self, statement: Any) -> Any:
        """Replace in a Print."""
        if not isinstance(statement, Print):
            return statement
        new: Any = copy.copy(statement)
        if statement.message is not None:
            new._message = copy.copy(statement.message)
            new._message._chunks = tuple(
                chunk if isinstance(chunk, str) else (self.value(chunk[0]), *chunk[1:])
                for chunk in statement.message._chunks
            )
        return new

    def _assign(self, statement: Any) -> list[Any]:
        found = targets(statement.lhs, 0, len(statement.lhs))
        if found is None:
            return [Assign(self._target(statement.lhs), self.value(statement.rhs))]
        rhs, at, pieces = statement.rhs, 0, []
        for signal, start, stop in found:
            parts = self.target_parts(signal)
            for a, b, part in parts:
                low, high = max(start, a), min(stop, b)
                if low < high:
                    pieces.append((self._cut(part, low - a, high - a), at + low - start, at + high - start))
            at += stop - start
        if len(pieces) == 1:
            return [Assign(pieces[0][0], self.value(rhs))]
        if any(a < stop < b for a, b in opaque(rhs) for _, _, stop in pieces[:-1]):
            return [Assign(Concat([target for target, _, _ in pieces]), self.value(rhs))]
        return [Assign(target, self.bits(rhs, start, stop)) for target, start, stop in pieces]

    def target_parts(self, signal: Signal) -> list[tuple[int, int, Any]]:
        """Return the signals that take the place of a signal as a target."""
        return [(0, len(signal), signal)]

    def _target(self, value: Any) -> Any:
        """Replace in the offsets and tests of a target that varies."""
        if isinstance(value, Part):
            return Part(self._target(value.value), self.value(value.offset), value.width, value.stride)
        if isinstance(value, Slice):
            return Slice(self._target(value.value), value.start, value.stop)
        if isinstance(value, Operator):
            return Operator(value.operator, [self._target(value.operands[0])])
        if isinstance(value, Concat):
            return Concat([self._target(part) for part in value.parts])
        if isinstance(value, SwitchValue):
            return self._switch(value, [self._target(case) for _, case in value.cases])
        return value
