"""Runs an Amaranth design in Python: each combinational signal once a cycle, in order of dependency, if needed.

Amaranth's own simulator has one process for all combinational statements of a module and runs it again for every step
that a value takes through the module; here each piece of `sim.lowering` runs at most once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.checks import VALUE_BITS
from sim.lowering import Lowered
from sim.pycode import compile_comb, compile_memory, compile_read, compile_sync


class _Memory:
    """Contents of one memory, and the writes of the edge that is being executed."""

    def __init__(self, data: Any):
        self.initial = list(data._init._raw)
        self.rows: list[int] = list(self.initial)
        self.depth = len(self.rows)
        self.queue: dict[int, int] = {}
        self.readers: list[_Process] = []

    def read(self, address: int) -> int:
        return self.rows[address] if address < self.depth else 0

    def write(self, address: int, value: int, mask: int) -> None:
        if mask and address < self.depth:
            old = self.queue[address] if address in self.queue else self.rows[address]
            self.queue[address] = (value & mask) | (old & ~mask)


class _Process:
    """A piece of combinational logic, in the list of its level whenever an input has changed."""

    __slots__ = ("idle", "level", "run")

    def __init__(self, level: list[_Process]):
        self.idle, self.level = True, level
        self.run: Callable[[], None] = lambda: None


class Design:
    """A design ready to run: `edge` executes a clock edge, `settle` computes what follows from it and from `poke`.

    The reset input stays low. Values of signed signals are signed.
    """

    def __init__(self, top: object):
        self.lowered = lowered = Lowered(top)
        #: Current value of every signal, by the index that `get_signal` gives.
        self.values = [signal.init for signal in lowered.signals]
        #: Logic that reads a signal, by its index.
        self.readers: list[list[_Process]] = [[] for _ in lowered.signals]
        #: Registers that the edge changes: index and value.
        self.queue: list[tuple[int, int]] = []
        self.memories = [_Memory(data) for data in lowered.memories]
        self._processes: list[_Process] = []
        last = max((piece.level for piece in (*lowered.pieces, *lowered.read_pieces)), default=0)
        self._levels: list[list[_Process]] = [[] for _ in range(last + 1)]
        #: What the next edge has to do: pieces whose inputs have changed since they ran.
        self._edge: list[_Process] = []
        for clocked in lowered.registers:
            self._add(self._edge, clocked.reads, compile_sync(self, clocked))
        for instance, number, reads in lowered.clocked_memories:
            memory = self.memories[number]
            process = self._add(self._edge, reads, compile_memory(self, instance, memory))
            if any(port._domain != "comb" for port in instance._read_ports):
                memory.readers.append(process)
        for piece in lowered.pieces:
            self._add(self._levels[piece.level], piece.reads, compile_comb(self, piece))
        for read in lowered.read_pieces:
            memory = self.memories[read.memory]
            run = compile_read(self, read.port, memory)
            memory.readers.append(self._add(self._levels[read.level], read.reads, run))
        #: Signals that are not 0 when an Assert fails.
        self.flags = sorted({self.get_signal(check.flag) for check in lowered.checks})
        self.reset()

    def get_signal(self, signal: Any) -> int:
        """Return the index of a signal in `values`; Amaranth's compilers ask for it too."""
        index = self.lowered.get_signal(signal)
        for new in self.lowered.signals[len(self.values) :]:
            self.values.append(new.init)
            self.readers.append([])
        return index

    def _add(self, level: list[_Process], reads: frozenset[int], run: Callable[[], None]) -> _Process:
        process = _Process(level)
        process.run = run
        self._processes.append(process)
        for index in sorted(reads):
            self.readers[index].append(process)
        return process

    def reset(self) -> None:
        """Return to the power-on state."""
        self.values[:] = [signal.init for signal in self.lowered.signals]
        for memory in self.memories:
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

    def failing(self) -> tuple[str, str, list[int]] | None:
        """Return path, message and values of the first Assert that fails (`sim.checks`), if one does. Settle before."""
        if not any(self.values[index] for index in self.flags):
            return None
        for check, report in zip(self.lowered.checks, self.lowered.reports, strict=True):
            if self.values[self.get_signal(check.flag)] >> check.bit & 1:
                values = 0
                if report is not None:
                    compile_comb(self, report)()
                    (index,) = report.chosen
                    values = self.values[index]
                words = [values >> VALUE_BITS * place & (1 << VALUE_BITS) - 1 for place in range(check.count)]
                return check.path, check.message, words
        raise AssertionError("a flag that belongs to no Assert")

    def edge(self) -> None:
        """Execute a rising clock edge. Combinational values must be settled before; they are not afterwards."""
        for process in self._edge:
            process.idle = True
            process.run()
        self._edge.clear()
        values, readers = self.values, self.readers
        for index, value in self.queue:
            values[index] = value
            for process in readers[index]:
                if process.idle:
                    process.idle = False
                    process.level.append(process)
        self.queue.clear()
        for memory in self.memories:
            if memory.queue:
                for address, value in memory.queue.items():
                    memory.rows[address] = value
                memory.queue.clear()
                for process in memory.readers:
                    if process.idle:
                        process.idle = False
                        process.level.append(process)
