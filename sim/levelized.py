"""Runs an Amaranth design in Python: every combinational signal once a cycle, in order of dependency, if an input changed.

Amaranth's own simulator has one process for all combinational statements of a module and runs it again for every step that
a value takes through the module. Here the statements are split by the signals that they drive, the signals are sorted by
depth, and each piece runs at most once a cycle. The Python code of expressions and statements is Amaranth's own
(`amaranth.sim._pyrtl`, private to Amaranth: the version is pinned, and a test compares with `amaranth.sim.Simulator`).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from amaranth.hdl import Fragment, Signal
from amaranth.hdl._ast import Assign, Concat, Operator, Part, Print, Property, Slice, Switch, SwitchValue
from amaranth.hdl._mem import MemoryInstance

from sim.pycode import compile_comb, compile_memory, compile_read, compile_sync, strong_components


class _Memory:
    """Contents of one memory, and the writes of the edge that is being executed."""

    def __init__(self, data: Any):
        self.initial = list(data._init._raw)
        self.rows = list(self.initial)
        self.depth = len(self.rows)
        self.queue: dict[int, int] = {}
        self.readers: list[_Process] = []

    def read(self, address: int) -> int:
        return self.rows[address] if address < self.depth else 0

    def write(self, address: int, value: int, mask: int) -> None:
        if mask and address < self.depth:
            old = self.queue.get(address, self.rows[address])
            self.queue[address] = (value & mask) | (old & ~mask)


class _Process:
    """A piece of combinational logic, in the list of its level whenever an input has changed."""

    __slots__ = ("idle", "level", "run")

    def __init__(self, level: list[_Process]):
        self.idle, self.level = True, level
        self.run: Callable[[], None] = lambda: None


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


def _project(statements: Iterable[Any], keep: Callable[[Any], bool]) -> list[Any]:
    """Return the statements, and of every Switch the branches, that `keep` chooses among Assign, Print and Property."""
    result = []
    for statement in statements:
        if isinstance(statement, Switch):
            cases = [(patterns, _project(body, keep), where) for patterns, body, where in statement.cases]
            if any(body for _, body, _ in cases):
                switch = copy.copy(statement)
                switch._cases = cases
                result.append(switch)
        elif keep(statement):
            result.append(statement)
    return result


class Design:
    """A design ready to run: `edge` executes a clock edge, `settle` computes what follows from it and from `poke`.

    Only the domain ``sync`` is supported, and its reset input stays low. Values of signed signals are signed.
    """

    def __init__(self, top: object):
        fragment = Fragment.get(top, platform=None).prepare().fragment  # type: ignore[arg-type]
        self._index: dict[int, int] = {}
        self._signals: list[Signal] = []
        self._memories: dict[int, int] = {}
        #: Current value of every signal, by the index that `get_signal` gives.
        self.values: list[int] = []
        self._memory_list: list[_Memory] = []
        #: Logic that reads a signal, by its index.
        self.readers: list[list[_Process]] = []
        #: Registers that the edge changes: index and value.
        self.queue: list[tuple[int, int]] = []
        self._processes: list[_Process] = []
        self._sync: list[Callable[[], None]] = []
        self._deps: dict[int, set[int]] = defaultdict(set)
        self._pieces: list[tuple[list[Any], list[int]]] = []
        self._ports: list[tuple[Any, Any, int, set[int]]] = []
        self._effects: list[list[Any]] = []
        self._collect(fragment)
        self._build()
        self.reset()

    # What Amaranth's compilers ask of their simulator.

    def get_signal(self, signal: Signal) -> int:
        """Return the index of a signal in `values`."""
        index = self._index.get(id(signal))
        if index is None:
            index = self._index[id(signal)] = len(self._signals)
            self._signals.append(signal)
            self.values.append(signal.init)
            self.readers.append([])
        return index

    def get_memory(self, data: Any) -> int:
        """Return the index of a memory."""
        if id(data) not in self._memories:
            self._memories[id(data)] = len(self._memory_list)
            self._memory_list.append(_Memory(data))
        return self._memories[id(data)]

    # Running.

    def reset(self) -> None:
        """Return to the power-on state."""
        self.values[:] = [signal.init for signal in self._signals]
        for memory in self._memory_list:
            memory.rows[:] = memory.initial
        for process in self._processes:
            if process.idle:
                process.idle = False
                process.level.append(process)
        self.settle()

    def poke(self, index: int, value: int) -> None:
        """Set an input; `settle` makes it felt."""
        if self.values[index] != value:
            self.values[index] = value
            for process in self.readers[index]:
                if process.idle:
                    process.idle = False
                    process.level.append(process)

    def settle(self) -> None:
        """Compute all combinational values."""
        for level in self._levels:
            if level:
                for process in level:
                    process.idle = True
                    process.run()
                level.clear()

    def edge(self) -> None:
        """Execute a rising clock edge. Combinational values must be settled before; they are not afterwards."""
        for run in self._sync:
            run()
        values, readers = self.values, self.readers
        for index, value in self.queue:
            values[index] = value
            for process in readers[index]:
                if process.idle:
                    process.idle = False
                    process.level.append(process)
        self.queue.clear()
        for memory in self._memory_list:
            if memory.queue:
                for address, value in memory.queue.items():
                    memory.rows[address] = value
                memory.queue.clear()
                for process in memory.readers:
                    if process.idle:
                        process.idle = False
                        process.level.append(process)

    # Building.

    def _collect(self, fragment: Any) -> None:
        if set(fragment.statements) - {"comb", "sync"}:
            raise NotImplementedError("only the clock domain sync can be simulated")
        if isinstance(fragment, MemoryInstance):
            self._collect_memory(fragment)
        if "sync" in fragment.statements:
            self._sync.append(compile_sync(self, fragment.statements["sync"]))
        if "comb" in fragment.statements:
            self._collect_comb(fragment.statements["comb"])
        for subfragment, _, _ in fragment.subfragments:
            self._collect(subfragment)

    def _collect_comb(self, statements: Iterable[Any]) -> None:
        """Split statements into groups that share no driven signal, and note what every signal depends on."""
        groups: dict[int, tuple[list[Any], set[int]]] = {}
        for statement in statements:
            driven: set[int] = set()
            self._note(statement, set(), driven)
            merged: tuple[list[Any], set[int]] = ([], set(driven))
            for group in {id(groups[s]): groups[s] for s in sorted(driven) if s in groups}.values():
                merged[0].extend(group[0])
                merged[1].update(group[1])
            merged[0].append(statement)
            for signal in merged[1]:
                groups[signal] = merged
        for body, driven in {id(g): g for g in groups.values()}.values():
            self._pieces.append((body, sorted(driven)))
        effects = _project(statements, lambda s: isinstance(s, (Print, Property)))
        if effects:
            self._effects.append(effects)

    def _note(self, statement: Any, tests: set[int], driven: set[int]) -> None:
        if isinstance(statement, Assign):
            reads = tests | {self.get_signal(s) for s in statement.rhs._rhs_signals()}
            reads |= {self.get_signal(s) for s in _rhs_of(statement.lhs)}
            for signal in statement._lhs_signals():
                index = self.get_signal(signal)
                driven.add(index)
                self._deps[index] |= reads
        elif isinstance(statement, Switch):
            tests = tests | {self.get_signal(s) for s in statement.test._rhs_signals()}
            for _, body, _ in statement.cases:
                for inner in body:
                    self._note(inner, tests, driven)

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
            self._sync.append(compile_memory(self, instance, self._memory_list[memory]))

    def _build(self) -> None:
        depth = self._depths()
        self._levels: list[list[_Process]] = [[] for _ in range(max(depth.values(), default=0) + 2)]
        for body, driven in self._pieces:
            by_depth: dict[int, list[int]] = defaultdict(list)
            for index in driven:
                by_depth[depth[index]].append(index)
            for level, members in by_depth.items():
                chosen = set(members)
                part = _project(body, lambda s, chosen=chosen: self._drives(s, chosen))
                reads = set().union(*(self._deps[index] for index in members))
                self._add(level, reads, compile_comb(self, part, chosen))
        for port, driven, memory, reads in self._ports:
            process = self._add(max(depth[i] for i in driven), reads, compile_read(self, port, self._memory_list[memory]))
            self._memory_list[memory].readers.append(process)
        for body in self._effects:
            reads = {self.get_signal(s) for statement in body for s in statement._rhs_signals()}
            self._add(len(self._levels) - 1, reads, compile_comb(self, body, set()))

    def _drives(self, statement: Any, chosen: set[int]) -> bool:
        return isinstance(statement, Assign) and any(self.get_signal(s) in chosen for s in statement._lhs_signals())

    def _depths(self) -> dict[int, int]:
        depth: dict[int, int] = {}
        for component in strong_components(self._deps):
            below = {d for index in component for d in self._deps.get(index, ())} - set(component)
            level = 1 + max((depth.get(d, 0) for d in below), default=0) if component[0] in self._deps else 0
            for index in component:
                depth[index] = level
        return depth

    def _add(self, level: int, reads: set[int], run: Callable[[], None]) -> _Process:
        process = _Process(self._levels[level])
        process.run = run
        self._processes.append(process)
        for index in sorted(reads):
            self.readers[index].append(process)
        return process
