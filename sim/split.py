"""Cuts wide signals of a design into the parts that it works with, so that a field that holds still wakes nobody.

A struct that travels through the pipeline is one signal to Amaranth; here each field that is assigned on its own becomes a
signal of its own, and a copy of the struct becomes copies of fields. Where a signal is cut is decided by assignments: at the
ends of the parts that are assigned, and, through copies, at the cuts of what is copied. What one operation computes as a
whole is never cut.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

from amaranth.hdl import Signal
from amaranth.hdl._ast import Concat, Operator, Slice, SwitchValue

from sim.rewrite import Rewriter, assignments, moved, opaque, targets

#: Narrower signals stay whole.
NARROW = 64


class Splitter(Rewriter):
    """Cuts the wide signals among those that `statements` assign, but for those in `whole` (ids)."""

    def __init__(self, statements: list[Any], whole: set[int]):
        super().__init__()
        self._whole = set(whole)
        self._cuts: dict[int, set[int]] = defaultdict(set)
        copies = []
        glued: list[tuple[Signal, int, int]] = []
        signals: dict[int, Signal] = {}
        for statement in assignments(statements):
            found = targets(statement.lhs, 0, len(statement.lhs))
            if found is None:
                self._whole.update(id(signal) for signal in statement.lhs._lhs_signals())
                continue
            spans, at = opaque(statement.rhs), 0
            for signal, start, stop in found:
                if len(signal) > NARROW:
                    signals[id(signal)] = signal
                    copies.append((signal, start, stop, at, statement.rhs))
                    glued += [(signal, a, b) for a, b in moved(spans, start - at, at, at + stop - start)]
                at += stop - start
        held: dict[int, set[int]] = defaultdict(set)
        for signal, a, b in glued:
            held[id(signal)].update(range(a + 1, b))
        self._find(copies, held)
        for key, signal in signals.items():
            cuts = self._cuts.get(key)
            if cuts:
                ends = [0, *sorted(cuts), len(signal)]
                self.parts[key] = [(a, b, self._part(signal, a, b)) for a, b in pairwise(ends)]

    @staticmethod
    def _part(signal: Signal, start: int, stop: int) -> Signal:
        width = stop - start
        init = signal.init >> start & (1 << width) - 1
        return Signal(width, name=f"{signal.name}_{start}", init=init)

    def _find(self, copies: list[tuple[Any, int, int, int, Any]], held: dict[int, set[int]]) -> None:
        """Find all cuts: ends of assigned parts, then cuts of what is copied, until there are no more."""
        changed = True
        while changed:
            changed = False
            for signal, start, stop, at, rhs in copies:
                if id(signal) in self._whole:
                    continue
                new = {start, stop} | {b - at + start for b in self._bounds(rhs) if at < b < at + stop - start}
                new -= held[id(signal)] | {0, len(signal)}
                cuts = self._cuts[id(signal)]
                if not new <= cuts:
                    cuts |= new
                    changed = True

    def _bounds(self, value: Any) -> set[int]:
        """Return where a value is put together from parts."""
        if isinstance(value, Signal):
            return self._cuts.get(id(value), set())
        if isinstance(value, Slice):
            return {b - value.start for b in self._bounds(value.value) if value.start < b < value.stop}
        if isinstance(value, Operator) and value.operator in ("u", "s"):
            return self._bounds(value.operands[0])
        if isinstance(value, SwitchValue):
            return set().union(*(self._bounds(case) for _, case in value.cases))
        if isinstance(value, Concat):
            found, at = set(), 0
            for part in value.parts:
                found |= {at + b for b in self._bounds(part)} | {at}
                at += len(part)
            return found - {0}
        return set()

    def target_parts(self, signal: Signal) -> list[tuple[int, int, Any]]:
        """Return the parts that a signal was cut into."""
        return self.parts.get(id(signal)) or [(0, len(signal), signal)]
