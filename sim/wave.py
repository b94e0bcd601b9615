"""Waveforms: ports and their meaning as text, cycle by cycle, as VCD or FST, with a save file that opens at a trap.

One unit of time is one cycle, so that the number under the cursor is the cycle. Names hold only letters, digits and
underscores, and are those of `hw.bus` on every engine: ``soc.hart0.pipe.x_pc``. A port shows z while its valid says that
it means nothing, a register x until the window has shown it.

Runs are deterministic; so the usual way is to run once in the dark, choose a window with `around`, and run again with a
recorder on it::

    where = around(machine.events, "hit:0")
    recorder = WaveRecorder(again)  # a new machine, loaded and probed like the first
    recorder.window(where.start, where.end)
    again.run()
    recorder.write("out/hit.vcd", where.marks, where.focus)
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.disasm import Trace
from sim.engine import FOREVER
from sim.gtkw import around, save_file, surfer_commands
from sim.memory import GuestMemoryError
from sim.signals import DEFAULT_SET, Cell, Variable, WaveError, choose, variables

__all__ = ["DEFAULT_SET", "WaveError", "WaveRecorder", "around", "vcd_text"]

if TYPE_CHECKING:
    from sim.machine import Machine

def _identifier(number: int) -> str:
    """A short name for a variable inside the file."""
    text = ""
    while True:
        number, digit = divmod(number, 94)
        text += chr(33 + digit)
        if not number:
            return text


_ESCAPES = str.maketrans({" ": "\\x20", "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _change(width: int, value: Cell, key: str) -> str:
    if isinstance(value, str):
        return f"s{value.translate(_ESCAPES)} {key}"
    digits = "x" if value is None else format(value, "b") if isinstance(value, int) else "z"
    return digits + key if width == 1 else f"b{digits} {key}"


def vcd_text(trace: Trace, chosen: Sequence[Variable]) -> str:
    """Return a value change dump of a trace. It depends on nothing but the samples and the texts of the trace."""
    lines = ["$version kphw $end", "$comment one unit of time is one cycle $end", "$timescale 1 ns $end"]
    scopes: list[str] = []
    changes: list[list[str]] = [[] for _ in trace.cycles]
    for number, variable in enumerate(chosen):
        wanted, key = variable.scope.split("."), _identifier(number)
        same = 0
        while same < min(len(scopes), len(wanted)) and scopes[same] == wanted[same]:
            same += 1
        lines += ["$upscope $end"] * (len(scopes) - same) + [f"$scope module {name} $end" for name in wanted[same:]]
        scopes = wanted
        kind = f"wire {variable.width}" if variable.width else "string 1"
        lines.append(f"$var {kind} {key} {variable.name} $end")
        before: object = trace
        for at, value in zip(changes, variable.column(trace), strict=True):
            if value != before:
                at.append(_change(variable.width, value, key))
                before = value
    lines += ["$upscope $end"] * len(scopes) + ["$enddefinitions $end"]
    for number, (cycle, what) in enumerate(zip(trace.cycles, changes, strict=True)):
        if what:
            lines.append(f"#{cycle}")
            lines += what if number else ["$dumpvars", *what, "$end"]
    if trace.cycles:
        lines.append(f"#{trace.cycles[-1] + 1}")
    return "\n".join(lines) + "\n"


class WaveRecorder:
    """Records a window of a machine's run: `window` before it, `write` after it."""

    def __init__(self, machine: Machine, names: Iterable[str] = DEFAULT_SET):
        ports = machine.engine.ports()
        self._machine = machine
        self.variables = choose(variables(ports), names)
        needed = {port for variable in self.variables for port in variable.needs}
        self.ports = [port for port in ports if port in needed]
        self._trace: Trace | None = None

    def window(self, start: int = 0, end: int = FOREVER) -> None:
        """Sample the cycles from `start` to `end` - 1 of what runs from now on."""
        self._trace = None
        self._machine.engine.sample(self.ports, start, end)

    def trace(self) -> Trace:
        """End the window and return what it holds. Code that never retired is read from memory as it is now."""
        if self._trace is None:
            samples = self._machine.engine.drain_samples()
            self._machine.engine.sample(())
            self._trace = Trace(self.ports, samples, self._machine.symbols.describe, self._read)
        return self._trace

    def _read(self, address: int, size: int) -> bytes:
        while size:
            try:
                return self._machine.mem.read(address, size)
            except GuestMemoryError:
                size -= 1
        return b""

    def vcd(self) -> str:
        """Return the window as VCD text: the same on every engine."""
        return vcd_text(self.trace(), self.variables)

    def write(self, path: str | Path, marks: dict[str, int] | None = None, focus: int | None = None) -> list[Path]:
        """Write the waveform, a GTKWave save file and a Surfer command file that open at `focus`; return their paths.

        The suffix chooses: .vcd, .vcd.gz, or .fst, which becomes .vcd where vcd2fst (a part of GTKWave) is missing.
        """
        trace = self.trace()
        if not trace.cycles:
            raise WaveError("the window holds no cycle; choose one that the run reaches, before it runs")
        path = Path(path)
        if not path.name.endswith((".vcd", ".vcd.gz", ".fst")):
            raise WaveError(f"{path.name!r} is no waveform; call it .vcd, .vcd.gz or .fst")
        stem = path.name.removesuffix(".gz").removesuffix(".vcd").removesuffix(".fst")
        path = self._dump(path, path.with_name(stem + ".vcd"), self.vcd())
        first, last = trace.cycles[0], trace.cycles[-1]
        shown = {name: cycle for name, cycle in (marks or {}).items() if first <= cycle <= last}
        rows = [(v.scope, v.name, v.width) for v in self.variables]
        gtkw, sucl = path.with_name(stem + ".gtkw"), path.with_name(stem + ".sucl")
        gtkw.write_text(save_file(path, gtkw, rows, shown, focus, first))
        sucl.write_text(surfer_commands(path, rows, shown, focus))
        return [path, gtkw, sucl]

    def _dump(self, path: Path, plain: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode(), mtime=0))
            return path
        converter = shutil.which("vcd2fst") if path.suffix == ".fst" else None
        if converter:
            with tempfile.NamedTemporaryFile("w", suffix=".vcd") as file:
                file.write(text)
                file.flush()
                if not subprocess.run([converter, file.name, path], capture_output=True).returncode:
                    return path
        plain.write_text(text)
        return plain
