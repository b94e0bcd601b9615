"""Builds the shared library of the compiled engine: C++ of the design (`sim.cxxdesign`), compiled with ``native/``.

A library lies in ``build/engines/<hash>/``, named by everything that went into it. A second, small cache leads from the
hardware's sources to that hash, so that a start with nothing to build does not elaborate the design.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from sim.cxxdesign import CxxDesign
from sim.engine import EngineUnavailable

NAME = "compiled"
NATIVE = Path(__file__).parent / "native"
FLAGS = ("-std=c++17", "-O2", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden", "-w")
USE_PYSIM = "Use the engine pysim, which needs no compiler"

#: What decides the C++ of a design, beside the design.
GENERATOR = (
    "build.py", "checks.py", "cxxdesign.py", "cxxframe.py", "cxxvalue.py",
    "fuse.py", "lowering.py", "rewrite.py", "simplify.py", "split.py",
)  # fmt: skip


def cache_folder() -> Path:
    """Where libraries are kept: ``KPHW_BUILD``, or ``build/engines`` beside the packages."""
    return Path(os.environ.get("KPHW_BUILD") or Path(__file__).parents[1] / "build" / "engines")


def compiler() -> str:
    """Path of the C++ compiler: ``CXX``, g++ or clang++."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    install = "Install g++ (Debian: apt-get install g++)"
    raise EngineUnavailable(NAME, "there is no C++ compiler (g++ or clang++)", f"{install}. {USE_PYSIM}")


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _tools(cxx: str) -> list[str]:
    try:
        compiler_version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        step = f"Set CXX to a C++ compiler. {USE_PYSIM}"
        raise EngineUnavailable(NAME, f"{cxx} does not run ({error})", step) from error
    sources = [Path(__file__).with_name(name) for name in GENERATOR]
    sources += [path for path in sorted(NATIVE.iterdir()) if path.is_file()]
    return [compiler_version, " ".join(FLAGS), *(path.read_text() for path in sources)]


def source_key(*more: object) -> str:
    """Hash of the hardware's Python sources and `more`: equal keys give equal designs."""
    root = Path(__file__).parents[1] / "hw"
    sources = [f"{path.relative_to(root)}\0{path.read_text()}" for path in sorted(root.rglob("*.py"))]
    return _digest([version("amaranth"), sys.version, *map(repr, more), *sources])


def build_library(make_design: Callable[[], object], key: str | None = None) -> Path:
    """Return the library of a design, from the cache if it is there.

    `key`: a `source_key` of the design, or None if it does not come from ``hw`` alone. Several processes may build at the
    same time: one builds, the others wait for it. Raises EngineUnavailable when the compiler is missing or fails.
    """
    cxx = compiler()
    tools = _tools(cxx)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        step = "Set KPHW_BUILD to a folder of yours"
        raise EngineUnavailable(NAME, f"{folder} cannot be made ({error})", step) from error
    short = folder / f"{_digest([key, *tools])}.key" if key else None
    if short and short.exists():
        library = folder / short.read_text() / "engine.so"
        if library.exists():
            return library
    with _progress("Elaborating the design"):
        files = CxxDesign(make_design()).files
    name = _digest([*files.values(), *tools])
    library = folder / name / "engine.so"
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder))
            try:
                _build(work, files, cxx)
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


def _build(work: Path, files: dict[str, str], cxx: str) -> None:
    for name, text in files.items():
        (work / name).write_text(text)
    sources = ["design.cc", *sorted(name for name in files if name.startswith("part")), str(NATIVE / "engine.cc")]
    objects = [f"{Path(source).stem}.o" for source in sources]
    commands = [
        [cxx, *FLAGS, "-I.", f"-I{NATIVE}", "-c", source, "-o", target]
        for source, target in zip(sources, objects, strict=True)
    ]
    with _progress("Compiling the design"), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: _run(command, work, cxx), commands))
    _run([cxx, "-shared", *objects, "-o", "engine.so"], work, cxx)


def _run(command: list[str], work: Path, tool: str) -> str:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["no message"]
        raise EngineUnavailable(NAME, f"{tool} failed: {errors[0]}", USE_PYSIM)
    return done.stdout
