"""Makes a design smaller before it is run: names for what is already there vanish, and logic that nobody sees.

A design is a list of `Body`: the statements of one domain of one module.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Signal
from amaranth.hdl._ast import Assign, Const, Operator, Print, Switch, _StatementList

from sim.rewrite import Rewriter, assignments
from sim.split import Splitter


@dataclass
class Body:
    """The statements of a domain, ``comb`` or ``sync``, of a module; `path`: its names from the top down, joined by dots."""

    domain: str
    statements: list[Any]
    path: str = ""


def project(statements: Iterable[Any], keep: Callable[[Any], bool]) -> list[Any]:
    """Return the statements, and of every Switch the branches, that `keep` chooses among Assign and Print."""
    result = []
    for statement in statements:
        if isinstance(statement, Switch):
            cases = [
                (patterns, _StatementList(project(body, keep)), where) for patterns, body, where in statement.cases
            ]
            if any(body for _, body, _ in cases):
                switch = copy.copy(statement)
                switch._cases = tuple(cases)
                result.append(switch)
        elif keep(statement):
            result.append(statement)
    return result


def simplify(
    bodies: list[Body], instances: list[Any], inputs: list[Signal], outputs: list[Signal]
) -> tuple[list[Any], dict[int, Signal]]:
    """Shorten the bodies in place; return the memory instances as they are then, and which ports (ids) name what signal."""
    whole = {id(signal) for signal in (*inputs, *outputs)}
    for instance in instances:
        whole.update(id(signal) for port in instance._read_ports for signal in port._data._lhs_signals())
    every = [statement for body in bodies for statement in body.statements]
    instances = _rewrite(Splitter(every, whole), bodies, instances)
    names = _Names(bodies, instances, inputs)
    instances = _rewrite(names, bodies, instances)
    shared: dict[int, Signal] = {}
    for port in outputs:
        source = names.source(port)
        if source is not None and source.shape() == port.shape():
            shared[id(port)] = source
    _drop_unseen(bodies, instances, [*inputs, *(shared.get(id(port), port) for port in outputs)])
    return instances, shared


def port_inputs(instance: Any) -> list[Any]:
    """Return what the ports of a memory read."""
    inputs = [value for port in (*instance._read_ports, *instance._write_ports) for value in (port._addr, port._en)]
    return inputs + [port._data for port in instance._write_ports]


def _rewrite(rewriter: Rewriter, bodies: list[Body], instances: list[Any]) -> list[Any]:
    for body in bodies:
        body.statements = rewriter.statements(body.statements)
    result = []
    for instance in instances:
        new = copy.copy(instance)
        new._read_ports = [_port(rewriter, port, ("_addr", "_en")) for port in instance._read_ports]
        new._write_ports = [_port(rewriter, port, ("_addr", "_en", "_data")) for port in instance._write_ports]
        result.append(new)
    return result


def _port(rewriter: Rewriter, port: Any, members: Iterable[str]) -> Any:
    new = copy.copy(port)
    for member in members:
        setattr(new, member, rewriter.value(getattr(port, member)))
    return new


class _Names(Rewriter):
    """Reads what a signal is a name for: another signal or a constant. The signal itself is still assigned."""

    def __init__(self, bodies: list[Body], instances: list[Any], inputs: list[Signal]):
        super().__init__()
        known = {id(signal) for signal in inputs}
        for instance in instances:
            known.update(id(signal) for port in instance._read_ports for signal in port._data._lhs_signals())
        drivers: Counter[int] = Counter()
        sources: dict[int, tuple[Signal, Any]] = {}
        read: dict[int, Signal] = {}
        for body in bodies:
            for statement in body.statements:
                read.update((id(s), s) for s in statement._rhs_signals())
                for assign in assignments([statement]):
                    drivers.update(id(signal) for signal in assign._lhs_signals())
                if body.domain == "comb" and isinstance(statement, Assign) and isinstance(statement.lhs, Signal):
                    sources[id(statement.lhs)] = statement.lhs, statement.rhs
        for instance in instances:
            read.update((id(s), s) for value in port_inputs(instance) for s in value._rhs_signals())
        self._sources = {key: pair for key, pair in sources.items() if drivers[key] == 1 and key not in known}
        self._held: list[Any] = list(read.values())
        for key, signal in read.items():
            if key not in drivers and key not in known:
                self.parts[key] = [(0, len(signal), Const(signal.init & (1 << len(signal)) - 1, len(signal)))]
        for key, (signal, _) in self._sources.items():
            source = self._resolve(signal, {key})
            if source is not signal:
                self.parts[key] = [(0, len(signal), source)]

    def source(self, signal: Signal) -> Signal | None:
        """Return the signal that a signal is a name for."""
        found = self._resolve(signal, {id(signal)}) if id(signal) in self._sources else None
        return found if isinstance(found, Signal) and found is not signal else None

    def _resolve(self, signal: Signal, seen: set[int]) -> Any:
        """Return what a signal is a name for, in the end, without sign."""
        source = self._sources[id(signal)][1]
        while isinstance(source, Operator) and source.operator in ("u", "s"):
            source = source.operands[0]
        if len(source) != len(signal):
            return signal
        if isinstance(source, Const):
            return Const(source.value & (1 << len(signal)) - 1, len(signal))
        if not isinstance(source, Signal) or id(source) in seen:
            return signal
        if id(source) in self.parts:
            return self.parts[id(source)][0][2]
        if id(source) in self._sources:
            found = self._resolve(source, seen | {id(source)})
            if found is not source:
                return found
        return Operator("u", [source]) if source.shape().signed else source


def _drop_unseen(bodies: list[Body], instances: list[Any], ports: list[Signal]) -> None:
    """Drop assignments to signals that no port, no memory and no effect depends on."""
    reads: dict[int, set[int]] = {}
    live = {id(signal) for signal in ports}

    def note(statements: Iterable[Any], tests: set[int]) -> None:
        for statement in statements:
            if isinstance(statement, Assign):
                found = tests | {id(s) for s in statement._rhs_signals()}
                for signal in statement._lhs_signals():
                    reads.setdefault(id(signal), set()).update(found)
            elif isinstance(statement, Switch):
                inner = tests | {id(s) for s in statement.test._rhs_signals()}
                for _, body, _ in statement.cases:
                    note(body, inner)
            elif isinstance(statement, Print):
                live.update(tests, (id(s) for s in statement._rhs_signals()))

    for body in bodies:
        note(body.statements, set())
    for instance in instances:
        live.update(id(s) for value in port_inputs(instance) for s in value._rhs_signals())
    work = list(live)
    while work:
        for key in reads.pop(work.pop(), ()):
            if key not in live:
                live.add(key)
                work.append(key)
    for body in bodies:
        body.statements = project(
            body.statements,
            lambda s: not isinstance(s, Assign) or any(id(signal) in live for signal in s._lhs_signals()),
        )
