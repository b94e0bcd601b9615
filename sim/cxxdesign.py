"""Writes a design as C++: its state as one plain struct, a function for each piece of logic, and the order they run in.

A piece runs when something that it reads has changed: every change sets the bits of its readers in ``dirty``, in whose order
(of depth) they run. So a stage that holds still costs nothing, and nothing runs twice. What the clock edge does is in pieces,
too, behind the others: they leave the next values of registers in ``x``, and one more function for each, which runs if there
is a difference, makes them current.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Shape
from amaranth.hdl._xfrm import LHSMaskCollector

from sim.cxxframe import HEADER, MAIN
from sim.cxxvalue import Emitter, literal
from sim.lowering import ClockedPiece, Lowered, Piece, ReadPiece
from sim.rewrite import assigned_once

#: Translation units that the pieces are spread over, so that they compile side by side.
PARTS = 8

@dataclass
class _Function:
    name: str
    lines: list[str]

    def text(self) -> str:
        return f"void {self.name}(Design &d)\n{{\n" + "".join(f"\t{line}\n" for line in self.lines) + "}\n"


def _row_width(data: Any) -> int:
    return Shape.cast(data.shape).width


class CxxDesign:
    """The C++ of a component: `files` gives text by file name."""

    def __init__(self, component: Any):
        self._design = design = Lowered(component)
        self._logic: list[Piece | ReadPiece] = sorted(
            (*(piece for piece in design.pieces if piece.chosen), *design.read_pieces), key=lambda piece: piece.level
        )
        self._words = max(1, (len(self._logic) + 63) // 64)
        self._readers: dict[int, list[int]] = defaultdict(list)
        self._memory_readers: dict[int, list[int]] = defaultdict(list)
        for number, piece in enumerate(self._logic):
            self._note(number, piece.reads)
            if isinstance(piece, ReadPiece):
                self._memory_readers[piece.memory].append(number)
        clocked = [piece.reads for piece in design.registers]
        for number, (instance, memory, reads) in enumerate(design.clocked_memories, len(clocked)):
            clocked.append(reads)
            if any(port._domain != "comb" for port in instance._read_ports):
                self._memory_readers[memory].append(64 * self._words + number)
        for number, reads in enumerate(clocked):
            self._note(64 * self._words + number, reads)
        self._registers: set[int] = set()
        functions = [self._piece(number, piece) for number, piece in enumerate(self._logic)]
        edges = [self._clocked(number, piece) for number, piece in enumerate(design.registers)]
        edges += [
            self._memory(number, instance, memory)
            for number, (instance, memory, _) in enumerate(design.clocked_memories, len(edges))
        ]
        reports = [
            _Function(f"r{number}", self._piece(number, piece).lines)
            for number, piece in enumerate(design.reports)
            if piece
        ]
        self.files = self._files(functions, edges, reports)

    def _note(self, number: int, reads: frozenset[int]) -> None:
        for index in sorted(reads):
            self._readers[index].append(number)

    def _emitter(self, local: frozenset[int] = frozenset()) -> Emitter:
        return Emitter(self._design.get_signal, local)

    def _width(self, index: int) -> int:
        return len(self._design.signals[index])

    def _wake(self, readers: Iterable[int]) -> str:
        masks: dict[int, int] = defaultdict(int)
        for reader in readers:
            masks[reader // 64] |= 1 << reader % 64
        return " ".join(f"d.dirty[{i}] |= {mask:#x}ul;" for i, mask in sorted(masks.items()))

    def _change(self, index: int, source: str) -> str:
        """C++ that gives a signal the value of `source` and wakes its readers, if it is another."""
        wake = self._wake(self._readers[index])
        return f"if (!eq<{self._width(index)}>(d.s{index}, {source})) {{ d.s{index} = {source}; {wake} }}"

    def _masks(self, statements: Any, values: Iterable[Any] = ()) -> dict[int, int]:
        collector = LHSMaskCollector()
        collector.visit_stmt(statements)
        for value in values:
            collector.visit_value(value, ~0)
        return {self._design.get_signal(signal): mask for signal, mask in collector.masks()}

    def _initial(self, index: int) -> str:
        return literal(self._design.signals[index].init, self._width(index))

    def _declare(self, emitter: Emitter, index: int, value: str) -> None:
        emitter.lines.append(f"U<{self._width(index)}> n{index} = {value};")

    def _piece(self, number: int, piece: Piece | ReadPiece) -> _Function:
        emitter = self._emitter(frozenset() if isinstance(piece, ReadPiece) else piece.local)
        if isinstance(piece, ReadPiece):
            driven = self._masks([], [piece.port._data])
            chosen = frozenset(driven)
        else:
            driven, chosen = self._masks(piece.statements), piece.chosen
        for index in driven:
            self._declare(emitter, index, self._initial(index))
        if isinstance(piece, ReadPiece):
            emitter._assign(piece.port._data, self._read(piece.memory, emitter.value(piece.port._addr)))
        else:
            emitter.statements(piece.statements)
        for index, mask in driven.items():
            if index in chosen:
                width = self._width(index)
                if mask != (1 << width) - 1:
                    ours, theirs = literal(mask, width), literal(~mask, width)
                    emitter.lines.append(
                        f"n{index} = or_<{width}>(and_<{width}>(n{index}, {ours}), and_<{width}>(d.s{index}, {theirs}));"
                    )
                emitter.lines.append(self._change(index, f"n{index}"))
        return _Function(f"p{number}", emitter.lines)

    def _read(self, memory: int, address: str) -> str:
        data = self._design.memories[memory]
        depth, width = data.depth, _row_width(data)
        return f"({address} < {depth} ? d.m{memory}[{address}] : U<{width}>{{}})"

    def _next(self, emitter: Emitter, number: int, driven: Iterable[int]) -> list[str]:
        """Leave the next values of registers in ``x``, which equals ``s`` between edges; return how they become current."""
        commit = []
        for index in driven:
            self._registers.add(index)
            if index not in emitter.direct:
                differs = f"!eq<{self._width(index)}>(n{index}, d.s{index})"
                emitter.lines.append(f"if ({differs}) {{ d.x{index} = n{index}; any = true; }}")
            commit.append(self._change(index, f"d.x{index}"))
        emitter.lines.append(f"d.changed[{number // 64}] |= uint64_t(any) << {number % 64};")
        return commit

    def _clocked(self, number: int, piece: ClockedPiece) -> tuple[_Function, _Function]:
        """What the clock edge does to registers, and how their next values become current."""
        emitter = self._emitter(piece.local)
        emitter.direct = {self._design.get_signal(s) for s in assigned_once(piece.statements)} & piece.chosen
        emitter.lines.append("bool any = false;")
        for index in self._masks(piece.statements):
            if index not in emitter.direct:
                self._declare(emitter, index, f"d.s{index}" if index in piece.chosen else self._initial(index))
        emitter.statements(piece.statements)
        commit = self._next(emitter, number, sorted(piece.chosen))
        return _Function(f"c{number}", emitter.lines), _Function(f"k{number}", commit)

    def _memory(self, number: int, instance: Any, memory: int) -> tuple[_Function, _Function]:
        emitter = self._emitter()
        emitter.lines.append("bool any = false;")
        width, depth = _row_width(instance._data), instance._data.depth
        writes: dict[int, tuple[str, str, str]] = {}
        commit = []
        for place, port in enumerate(instance._write_ports):
            slot = f"d.w{memory}[{place}]"
            enable = Cat(bit.replicate(port._granularity) for bit in port._en)
            emitter.lines.append(f"{slot}.mask = {emitter.value(enable)};")
            emitter.lines.append(f"{slot}.on = nonzero<{width}>({slot}.mask);")
            emitter.lines.append(f"{slot}.address = {emitter.value(port._addr)};")
            emitter.lines.append(f"if ({slot}.on) {slot}.data = {emitter.value(port._data)};")
            emitter.lines.append(f"any |= {slot}.on;")
            writes[place] = f"{slot}.address", f"{slot}.data", f"{slot}.mask"
            row = f"d.m{memory}[{slot}.address]"
            kept = f"and_<{width}>({row}, not_<{width}>({slot}.mask))"
            new = f"or_<{width}>({kept}, and_<{width}>({slot}.data, {slot}.mask))"
            wake = self._wake(self._memory_readers[memory])
            commit.append(f"if ({slot}.on && {slot}.address < {depth}) {{ {row} = {new}; {wake} }}")
        ports = [port for port in instance._read_ports if port._domain != "comb"]
        driven = self._masks([], [port._data for port in ports])
        for index in driven:
            self._declare(emitter, index, f"d.s{index}")
        for port in ports:
            emitter.lines.append(f"if ({emitter.flag(port._en)}) {{")
            address = emitter._temporary(64, emitter.value(port._addr))
            value = emitter._temporary(width, self._read(memory, address))
            for place in port._transparent_for:
                where, data, mask = writes[place]
                fresh = f"or_<{width}>(and_<{width}>({value}, not_<{width}>({mask})), and_<{width}>({data}, {mask}))"
                emitter.lines.append(f"if (d.w{memory}[{place}].on && {address} == {where}) {value} = {fresh};")
            emitter._assign(port._data, value)
            emitter.lines.append("}")
        commit += self._next(emitter, number, driven)
        return _Function(f"c{number}", emitter.lines), _Function(f"k{number}", commit)

    def _members(self) -> list[str]:
        shadows = self._registers | {index for _, is_input, index in self._design.ports if is_input}
        lines = [f"\tU<{self._width(i)}> s{i};" for i in range(len(self._design.signals))]
        lines += [f"\tU<{self._width(i)}> x{i};" for i in sorted(shadows)]
        for number, data in enumerate(self._design.memories):
            lines.append(f"\tU<{_row_width(data)}> m{number}[{data.depth}];")
        for instance, number, _ in self._design.clocked_memories:
            width, count = _row_width(instance._data), len(instance._write_ports)
            if count:
                fields = f"U<{width}> mask, data; uint64_t address, on;"
                lines.append(f"\tstruct {{ {fields} }} w{number}[{count}];")
        return lines

    def _reset(self) -> list[str]:
        lines = []
        for index, signal in enumerate(self._design.signals):
            if signal.init:
                lines.append(f"\td.s{index} = {literal(signal.init, len(signal))};")
            if index in self._registers and signal.init:
                lines.append(f"\td.x{index} = d.s{index};")
        for number, data in enumerate(self._design.memories):
            width = _row_width(data)
            for row, value in enumerate(data._init._raw):
                if value:
                    lines.append(f"\td.m{number}[{row}] = {literal(value, width)};")
        return lines

    def _checks(self) -> str:
        """The table of the Asserts."""
        rows = []
        for number, (check, report) in enumerate(zip(self._design.checks, self._design.reports, strict=True)):
            flag, text = self._design.get_signal(check.flag), ", ".join(map(json.dumps, (check.path, check.message)))
            (values,) = report.chosen if report else (flag,)
            call = f"r{number}" if report else "nullptr"
            row = f"offsetof(Design, s{flag}), {check.bit}, {check.count}, {call}, offsetof(Design, s{values})"
            rows.append(f"\t{{{text}, {row}}},")
        return "\n".join(rows)

    def _fails(self) -> str:
        flags = sorted({self._design.get_signal(check.flag) for check in self._design.checks})
        return " || ".join(f"nonzero<{self._width(index)}>(d.s{index})" for index in flags) or "false"

    def _files(
        self, functions: list[_Function], clocked: list[tuple[_Function, _Function]], reports: list[_Function]
    ) -> dict[str, str]:
        words, clocked_words = self._words, max(1, (len(clocked) + 63) // 64)
        ports = self._design.ports
        edges, commits = [edge for edge, _ in clocked], [commit for _, commit in clocked]
        everything = (*edges, *commits, *functions, *reports)
        inputs = [index for _, is_input, index in ports if is_input]
        loops = self._design.loops
        busy = " || ".join(f"d.dirty[{i}]" for i in range(words))
        main = MAIN.format(
            ports="\n".join(
                f'\t{{"{name}", {self._width(index)}, {str(is_input).lower()}, offsetof(Design, s{index})}},'
                for name, is_input, index in ports
            ),
            port_count=len(ports),
            checks=self._checks(),
            check_count=len(self._design.checks),
            fails=self._fails(),
            pieces=", ".join(function.name for function in functions),
            edges=", ".join(function.name for function in edges),
            commits=", ".join(function.name for function in commits),
            inputs="\n".join(
                f"\tif (!eq<{self._width(i)}>(d.s{i}, d.x{i})) {{ d.x{i} = d.s{i}; {self._wake(self._readers[i])} }}"
                for i in inputs
            ),
            again="do " if loops else "",
            until=f"\twhile ({busy});\n" if loops else "",
            words=words,
            clocked_words=clocked_words,
            reset="\n".join(self._reset()),
            count=len(functions),
            clocked_count=len(clocked),
        )
        header = HEADER.format(
            members="\n".join(self._members()),
            words=words + clocked_words,
            clocked_words=clocked_words,
            declarations="\n".join(f"void {function.name}(Design &d);" for function in everything),
        )
        files = {"design.h": header, "design.cc": main}
        size = sum(len(f.lines) for f in everything) // PARTS + 1
        text: list[str] = []
        weight = 0
        for function in everything:
            text.append(function.text())
            weight += len(function.lines)
            if weight >= size:
                files[f"part{len(files) - 2}.cc"] = '#include "design.h"\n\n' + "\n".join(text)
                text, weight = [], 0
        if text:
            files[f"part{len(files) - 2}.cc"] = '#include "design.h"\n\n' + "\n".join(text)
        return files
