"""Takes an Amaranth design apart into pieces of combinational logic in order of dependency, registers and memories.

The statements of each module are split by the signals that they drive, and the signals are sorted by depth, so that one
pass over the pieces computes every signal once. `sim.levelized` runs the pieces in Python; `sim.cxxdesign` writes them as
C++. Amaranth's intermediate form is private to Amaranth: its version is pinned, and a test compares with
`amaranth.sim.Simulator`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Fragment, Signal, Value
from amaranth.hdl._ast import Assign, Concat, Operator, Part, Print, Slice, Switch, SwitchValue
from amaranth.hdl._mem import MemoryInstance
from amaranth.lib.wiring import In

from sim.checks import REPORT, Check, take_checks
from sim.fuse import Unit, fuse
from sim.simplify import Body, port_inputs, project, simplify


@dataclass(frozen=True)
class Piece:
    """Statements that compute the signals `chosen` (indices) from `reads`; without chosen ones: prints.

    Signals in `local` are computed and read here only.
    """

    level: int
    statements: list[Any]
    chosen: frozenset[int]
    reads: frozenset[int]
    local: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ClockedPiece:
    """Statements of the clock edge, all that drive some registers. With the same reads they give the same values."""

    statements: list[Any]
    chosen: frozenset[int]
    reads: frozenset[int]
    local: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ReadPiece:
    """A combinational read port of the memory with the given index."""

    level: int
    port: Any
    memory: int
    reads: frozenset[int]


def _rhs_of(value: Any) -> Iterator[Any]:
    """Yield the signals that an expression on the left side reads: offsets and tests."""
    if isinstance(value, Part):
        yield from value.offset._rhs_signals()
        yield from _rhs_of(value.value)
    elif isinstance(value, Slice):
        yield from _rhs_of(value.value)
    elif isinstance(value, Operator):
        yield from _rhs_of(value.operands[0])
    elif isinstance(value, Concat):
        for part in value.parts:
            yield from _rhs_of(part)
    elif isinstance(value, SwitchValue):
        yield from value.test._rhs_signals()
        for _, case in value.cases:
            yield from _rhs_of(case)


def _flat_ports(top: Any) -> list[tuple[str, bool, Signal]]:
    """Return name, direction and signal of each port of a component."""
    return [
        ("__".join(map(str, path)), member.flow == In, Value.cast(port))  # type: ignore[misc]
        for path, member, port in top.signature.flatten(top)
    ]


class Lowered:
    """A design in pieces. Signals and memories are known by index. Only the clock domain ``sync`` is supported.

    Ports are signals as they are; of the others, `sim.split` and `sim.simplify` make what they need.

    Members
    -------
    signals, memories : every signal (Signal), every memory (MemoryData).
    pieces, read_pieces : combinational logic, by level; a piece reads only signals of lower levels, or is part of a loop.
    ports : name, whether it is an input, and index of each port.
    registers : what the clock edge does.
    clocked_memories : memory instances with clocked ports, the index of their memory, and what they read.
    checks, reports : the Asserts; for each the piece that computes the values in its message, which nothing wakes, or None.
    loops : the combinational loops (of whole signals), each as the signals in it.
    """

    def __init__(self, top: Any):
        fragment = Fragment.get(top, platform=None).prepare().fragment  # type: ignore[arg-type]
        self.signals: list[Signal] = []
        self.memories: list[Any] = []
        self.pieces: list[Piece] = []
        self.read_pieces: list[ReadPiece] = []
        self.registers: list[ClockedPiece] = []
        self.clocked_memories: list[tuple[Any, int, frozenset[int]]] = []
        self.loops: list[list[int]] = []
        self._index: dict[int, int] = {}
        self._shared: dict[int, Signal] = {}
        self._memory_index: dict[int, int] = {}
        self._deps: dict[int, set[int]] = defaultdict(set)
        self._groups: list[tuple[list[Any], list[int]]] = []
        self._ports: list[tuple[Any, list[int], int, set[int]]] = []
        self._effects: list[list[Any]] = []
        bodies: list[Body] = []
        instances: list[Any] = []
        self._collect(fragment, bodies, instances, ())
        self.checks: list[Check] = take_checks(bodies)
        ports = _flat_ports(top)
        inputs = [port for _, is_input, port in ports if is_input]
        outputs = [port for _, is_input, port in ports if not is_input]
        looked_at = [signal for check in self.checks for signal in (check.flag, check.values) if signal is not None]
        instances, self._shared = simplify(bodies, instances, inputs, [*outputs, *looked_at])
        self.ports = [(name, is_input, self.get_signal(port)) for name, is_input, port in ports]
        for instance in instances:
            self._collect_memory(instance)
        for body in bodies:
            if body.domain == "sync":
                self._collect_sync(body.statements)
            elif body.domain == "comb":
                self._collect_comb(body.statements)
        reports = {index: piece for piece in map(self._report, bodies) if piece for index in piece.chosen}
        wanted = [None if check.values is None else self.get_signal(check.values) for check in self.checks]
        self.reports = [None if index is None else reports[index] for index in wanted]
        self._split()

    def get_signal(self, signal: Signal) -> int:
        """Return the index of a signal, or of the signal that a port is a name for."""
        signal = self._shared.get(id(signal), signal)
        index = self._index.get(id(signal))
        if index is None:
            index = self._index[id(signal)] = len(self.signals)
            self.signals.append(signal)
        return index

    def get_memory(self, data: Any) -> int:
        """Return the index of a memory."""
        if id(data) not in self._memory_index:
            self._memory_index[id(data)] = len(self.memories)
            self.memories.append(data)
        return self._memory_index[id(data)]

    def _collect(self, fragment: Any, bodies: list[Body], instances: list[Any], path: tuple[str, ...]) -> None:
        if set(fragment.statements) - {"comb", "sync"}:
            raise NotImplementedError("only the clock domain sync can be simulated")
        if isinstance(fragment, MemoryInstance):
            instances.append(fragment)
        where = ".".join(path)
        bodies += [Body(domain, list(statements), where) for domain, statements in fragment.statements.items()]
        for subfragment, name, _ in fragment.subfragments:
            self._collect(subfragment, bodies, instances, (*path, name or "unnamed"))

    def _group(self, statements: Iterable[Any], deps: dict[int, set[int]]) -> list[tuple[list[Any], list[int]]]:
        """Split statements into groups that share no driven signal, and note what every signal depends on."""
        groups: dict[int, tuple[list[Any], set[int]]] = {}
        for statement in statements:
            driven: set[int] = set()
            self._note(statement, set(), driven, deps)
            merged: tuple[list[Any], set[int]] = ([], set(driven))
            for group in {id(groups[s]): groups[s] for s in sorted(driven) if s in groups}.values():
                merged[0].extend(group[0])
                merged[1].update(group[1])
            merged[0].append(statement)
            for signal in merged[1]:
                groups[signal] = merged
        return [(body, sorted(driven)) for body, driven in {id(g): g for g in groups.values()}.values()]

    def _collect_comb(self, statements: Iterable[Any]) -> None:
        self._groups += self._group(statements, self._deps)
        effects = project(statements, lambda s: isinstance(s, Print))
        if effects:
            self._effects.append(effects)

    def _report(self, body: Body) -> Piece | None:
        if body.domain != REPORT:
            return None
        reads = frozenset(self.get_signal(s) for statement in body.statements for s in statement._rhs_signals())
        chosen = frozenset(self.get_signal(s) for statement in body.statements for s in statement._lhs_signals())
        return Piece(0, body.statements, chosen, reads)

    def _collect_sync(self, statements: Iterable[Any]) -> None:
        deps: dict[int, set[int]] = defaultdict(set)
        for body, driven in self._group(statements, deps):
            reads = frozenset().union(*(deps[index] for index in driven))
            self.registers.append(ClockedPiece(body, frozenset(driven), reads))

    def _note(self, statement: Any, tests: set[int], driven: set[int], deps: dict[int, set[int]]) -> None:
        if isinstance(statement, Assign):
            reads = tests | {self.get_signal(s) for s in statement.rhs._rhs_signals()}
            reads |= {self.get_signal(s) for s in _rhs_of(statement.lhs)}
            for signal in statement._lhs_signals():
                index = self.get_signal(signal)
                driven.add(index)
                deps[index] |= reads
        elif isinstance(statement, Switch):
            tests = tests | {self.get_signal(s) for s in statement.test._rhs_signals()}
            for _, body, _ in statement.cases:
                for inner in body:
                    self._note(inner, tests, driven, deps)

    def _collect_memory(self, instance: Any) -> None:
        memory = self.get_memory(instance._data)
        for port in instance._read_ports:
            if port._domain == "comb":
                reads = {self.get_signal(s) for s in port._addr._rhs_signals()}
                driven = [self.get_signal(s) for s in port._data._lhs_signals()]
                for index in driven:
                    self._deps[index] |= reads
                self._ports.append((port, driven, memory, reads))
        if any(p._domain != "comb" for p in (*instance._read_ports, *instance._write_ports)):
            reads = frozenset(self.get_signal(s) for value in port_inputs(instance) for s in value._rhs_signals())
            self.clocked_memories.append((instance, memory, reads))

    def _split(self) -> None:
        depth = self._depths()
        for body, driven in self._groups:
            by_depth: dict[int, list[int]] = defaultdict(list)
            for index in driven:
                by_depth[depth[index]].append(index)
            for level, members in sorted(by_depth.items()):
                chosen = frozenset(members)
                part = project(body, lambda s, chosen=chosen: self._drives(s, chosen))
                reads = frozenset().union(*(self._deps[index] for index in members))
                self.pieces.append(Piece(level, part, chosen, reads))
        for port, driven, memory, reads in self._ports:
            self.read_pieces.append(ReadPiece(max(depth[i] for i in driven), port, memory, frozenset(reads)))
        last = max(depth.values(), default=0) + 1
        for body in self._effects:
            reads = frozenset(self.get_signal(s) for statement in body for s in statement._rhs_signals())
            self.pieces.append(Piece(last, body, frozenset(), reads))
        if not self.loops:
            self._fuse()
        self.pieces.sort(key=lambda piece: piece.level)

    def _fuse(self) -> None:
        kept = {index for _, _, index in self.ports} | {self.get_signal(check.flag) for check in self.checks}
        kept.update(index for piece in self.reports if piece for index in piece.reads)
        kept.update(index for piece in self.pieces if not piece.chosen for index in piece.reads)
        kept.update(index for piece in self.read_pieces for index in piece.reads)
        kept.update(index for _, _, reads in self.clocked_memories for index in reads)
        units = [Unit(p.level, p.statements, p.chosen, p.reads, False) for p in self.pieces if p.chosen]
        units += [Unit(0, p.statements, p.chosen, p.reads, True) for p in self.registers]
        units = fuse(units, kept, self.get_signal, lambda index: len(self.signals[index]))
        self.pieces = [piece for piece in self.pieces if not piece.chosen]
        self.registers = []
        for u in units:
            chosen, reads, local = frozenset(u.chosen), frozenset(u.reads), frozenset(u.local)
            if u.clocked:
                self.registers.append(ClockedPiece(u.statements, chosen, reads, local))
            else:
                self.pieces.append(Piece(u.level, u.statements, chosen, reads, local))

    def _drives(self, statement: Any, chosen: frozenset[int]) -> bool:
        return isinstance(statement, Assign) and any(self.get_signal(s) in chosen for s in statement._lhs_signals())

    def _depths(self) -> dict[int, int]:
        depth: dict[int, int] = {}
        for component in strong_components(self._deps):
            below = {d for index in component for d in self._deps.get(index, ())}
            if len(component) > 1 or component[0] in below:
                self.loops.append(component)
            below -= set(component)
            level = 1 + max((depth.get(d, 0) for d in below), default=0) if component[0] in self._deps else 0
            for index in component:
                depth[index] = level
        return depth


def strong_components(edges: dict[int, set[int]]) -> list[list[int]]:
    """Return the strongly connected components of a graph of dependencies, each after those it depends on (Tarjan)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    result: list[list[int]] = []
    for root in sorted(edges):
        if root in order:
            continue
        work = [(root, iter(sorted(edges[root])))]
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, successors = work[-1]
            for successor in successors:
                if successor not in order:
                    order[successor] = low[successor] = len(order)
                    stack.append(successor)
                    on_stack.add(successor)
                    work.append((successor, iter(sorted(edges.get(successor, ())))))
                    break
                if successor in on_stack:
                    low[node] = min(low[node], order[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    component = stack[stack.index(node) :]
                    del stack[stack.index(node) :]
                    on_stack.difference_update(component)
                    result.append(component)
    return result
