"""Joins pieces of logic to the only piece that reads them: what is computed for one reader need not be stored, nor wake it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from amaranth.hdl._xfrm import LHSMaskCollector


class Unit:
    """A piece while it is being joined.

    Members
    -------
    statements, reads : of the piece. chosen : signals that it computes. clocked : it belongs to the clock edge.
    local : signals that were computed elsewhere before and are now known here, before they are read.
    """

    def __init__(self, level: int, statements: list[Any], chosen: frozenset[int], reads: frozenset[int], clocked: bool):
        self.level, self.statements, self.chosen, self.reads = level, statements, set(chosen), set(reads)
        self.clocked = clocked
        self.local: set[int] = set()
        self.into: Unit | None = None

    def end(self) -> Unit:
        """Return the unit that this one has become a part of."""
        unit = self
        while unit.into:
            unit = unit.into
        return unit


def fuse(units: list[Unit], kept: set[int], index_of: Callable[[Any], int], widths: Callable[[int], int]) -> list[Unit]:
    """Return what is left of the units; signals in `kept` have readers elsewhere.

    Two units that drive the same signal (each only what it has chosen) are not joined: there is one variable for it.
    """
    readers: dict[int, set[int]] = defaultdict(set)
    for number, unit in enumerate(units):
        for index in unit.reads:
            readers[index].add(number)
    masks = {id(unit): _masks(unit.statements, index_of) for unit in units}
    for unit in sorted((u for u in units if not u.clocked), key=lambda u: -u.level):
        found = {id(units[n].end()): units[n].end() for index in unit.chosen for n in readers[index]}
        if len(found) != 1 or unit.chosen & kept:
            continue
        target = found.popitem()[1]
        ours, theirs = masks[id(unit)], masks[id(target)]
        complete = all(ours[index] == (1 << widths(index)) - 1 for index in unit.chosen)
        if target is unit or not complete or ours.keys() & theirs.keys():
            continue
        theirs |= ours
        target.statements = unit.statements + target.statements
        target.local |= unit.chosen | unit.local
        target.reads = (target.reads | unit.reads) - target.local
        unit.into = target
    return [unit for unit in units if not unit.into]


def _masks(statements: list[Any], index_of: Callable[[Any], int]) -> dict[int, int]:
    """Return which bits of which signals statements drive."""
    collector = LHSMaskCollector()
    collector.visit_stmt(statements)
    return {index_of(signal): mask for signal, mask in collector.masks()}
