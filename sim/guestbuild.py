"""Builds guest programs with the system's gcc, and holds the one list of those that the project brings.

`python -m sim.guestbuild` builds them all. A build is kept in `build/guests/` under a name that contains the hash of
everything that went into it, so that asking again costs nothing.
"""

import argparse
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME_DIR = ROOT / "sim" / "guest"
PROGRAMS_DIR = ROOT / "tests" / "programs"
DEMO_DIR = ROOT / "examples" / "demo"
CACHE_DIR = ROOT / "build" / "guests"

OPT_LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
LINKS = ("high", "low", "module")

#: A nop at every function's entry, and a list of them (kernels with CONFIG_FUNCTION_TRACER do the same).
TRACED = ("-pg", "-mfentry", "-mrecord-mcount", "-mnop-mcount")

#: Integer instructions of the first x86-64 only; no red zone, because traps push onto the current stack.
CFLAGS = (
    "-std=gnu11", "-m64", "-march=x86-64", "-mtune=generic", "-mgeneral-regs-only", "-mno-red-zone", "-ffreestanding",
    "-fno-stack-protector", "-fno-pic", "-fno-pie", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
    "-Wall", "-Wextra",
)
LDFLAGS = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,noexecstack")
HOST_FLAGS = ("-std=gnu11", "-O1", "-ffreestanding", "-DHOST", "-Wall", "-Wextra")

#: The runtime; the stubs first, as the linker script wants them.
RUNTIME = ("stubs.S", "entry.S", "trap.c", "console.c", "lib.c")

#: What a guest with several harts needs beside it (smp.h).
SMP = ("smp.c", "smp.S", "sync.S")


class GuestBuildError(RuntimeError):
    """A guest that could not be built; the message names the compiler, its first errors and the next step."""


@dataclass(frozen=True)
class Program:
    """A guest program of the project.

    `n_test` and `n_bench` are values of -DN: short enough for a simulator of about a thousand cycles a second, and
    long enough to measure a compiled one. 0 means that the program has no size. `host` says that the same source
    compiled natively prints the same text. `ends` is how the run ends: "exit" for main's return of 0, "shutdown" for a
    triple fault, "interrupts" for a program that waits until interrupts are sent to it.
    """

    name: str
    about: str
    n_test: int = 0
    n_bench: int = 0
    host: bool = True
    directory: Path = PROGRAMS_DIR
    ends: str = "exit"
    harts: int = 1

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files to compile."""
        own = self.directory / (f"{self.name}.c" if self.directory == PROGRAMS_DIR else "guest.c")
        return (own, *(RUNTIME_DIR / name for name in SMP)) if self.harts > 1 else (own,)


#: Every guest of the project, by name.
PROGRAMS = {p.name: p for p in (
    Program("demo",        "the two probed functions of make run",              3,    3, directory=DEMO_DIR),
    Program("linkedlist",  "build, reverse and sort a list",                   12,  160),
    Program("matrix",      "products of integer matrices",                      4,   14),
    Program("tokeniser",   "a state machine over text",                        80, 1200),
    Program("crc",         "CRC-32 two ways, CRC-16, Adler-32",                12,  240),
    Program("sort",        "quick, insertion and heap sort",                   14,   80),
    Program("strings",     "length, copy, compare, search, numbers",            1,   16),
    Program("dispatch",    "a byte-code interpreter: indirect branches",       10,  160),
    Program("wide",        "64- and 128-bit arithmetic, division",              4,   60),
    Program("recursion",   "Fibonacci, Ackermann, queens, Hanoi",               4,    7),
    Program("bitops",      "counts, rotations, byte swaps, bit tests",          3,   50),
    Program("sieve",       "primes, and sums of two of them",                  80, 1400),
    Program("records",     "bit fields, 8- and 16-bit data, conversions",       8,  100),
    Program("atomics",     "locked operations",                                20,  320),
    Program("mix",         "list, matrix, state machine and CRC together",      1,    7),
    Program("traps",       "every synchronous trap, with handlers in C",       host=False),
    Program("singlestep",  "TF, the debug trap and DR6",                       host=False),
    Program("irq",         "waits for N external interrupts",                   3,   20, host=False, ends="interrupts"),
    Program("doublefault", "a fault whose gate is not present",                host=False),
    Program("triple",      "a fault with no IDT",                              host=False, ends="shutdown"),
    Program("disturbed",   "a function to probe while interrupts come",         4,   40, host=False),
    Program("opens",       "functions to trace: names, structures, recursion",  1,   40),
    Program("harts",       "harts that call the same function",               10, 2000, host=False, harts=2),
    Program("patched",     "harts whose code is changed meanwhile",            14,  400, host=False, harts=2),
    Program("jprobe",      "a probed function and a jprobe handler in C",       4,   40, host=False),
)}


def build(
    sources: Iterable[str | Path], out: str | Path | None = None, *,
    opt: str = "-O2", link: str = "high", runtime: bool = True, defines: Iterable[str] = (), traced: bool = False,
) -> Path:
    """Compile and link a guest; return the ELF file, `out` or a file in the cache.

    `defines` are macro definitions such as "N=4". Without `runtime` the sources bring their own _start, and only the
    linker script is ours. `traced`: every function begins with a nop for tracing, listed in `__mcount_loc`.
    """
    if link not in LINKS:
        raise GuestBuildError(f"there is no link {link!r}: use one of {', '.join(LINKS)}")
    files = _existing(sources)
    inputs = [RUNTIME_DIR / name for name in RUNTIME] if runtime else []
    model = ("-mcmodel=kernel",) if link != "low" else ()
    script = RUNTIME_DIR / f"link-{link}.ld"
    paths = dict.fromkeys(f"-I{directory}" for directory in (RUNTIME_DIR, *(file.parent for file in files)))
    model += TRACED if traced else ()
    flags = (*CFLAGS, *model, opt, *(f"-D{d}" for d in defines), *paths, *LDFLAGS, f"-L{RUNTIME_DIR}", f"-Wl,-T,{script}")
    return _cached([*inputs, *files], flags, files[0].stem, ".elf", out)


def build_host(sources: Iterable[str | Path], *, defines: Iterable[str] = ()) -> Path:
    """Compile a guest with -DHOST for the build machine; return the program."""
    files = _existing(sources)
    flags = (*HOST_FLAGS, *(f"-D{d}" for d in defines), f"-I{RUNTIME_DIR}")
    return _cached([*files, RUNTIME_DIR / "console.c"], flags, files[0].stem, ".host", None)


def build_text(
    text: str, *, name: str = "snippet", suffix: str = ".c", opt: str = "-O2", link: str = "high",
    runtime: bool = True, defines: Iterable[str] = (), beside: Iterable[Path] = (), traced: bool = False,
) -> Path:
    """Build a guest from source text, C or (with suffix ".S") assembly: for tests whose guest is a few lines.

    `beside` are sources that it needs; their directories are searched for headers.
    """
    source = CACHE_DIR / "text" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}" / f"{name}{suffix}"
    if not source.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        _replace(source, text.encode())
    return build([source, *beside], opt=opt, link=link, runtime=runtime, defines=defines, traced=traced)


def build_demo() -> Path:
    """Build the demo, as the commands run it that are given no guest."""
    return build_program("demo", n=PROGRAMS["demo"].n_test)


def build_program(
    name: str, *, n: int | None = None, opt: str = "-O2", link: str = "high", harts: int | None = None
) -> Path:
    """Build a program of the table; `n` defaults to its size for benchmarks, `harts` to the least that it uses."""
    program = _program(name)
    defines = _size(program, n) if harts is None else (*_size(program, n), f"HARTS={harts}")
    return build(program.sources, opt=opt, link=link, defines=defines)


def expected_output(name: str, *, n: int | None = None) -> str:
    """Return what a program of the table prints, by running its native twin."""
    program = _program(name)
    if not program.host:
        raise GuestBuildError(f"{name} needs the simulated machine: it has no native twin to compare with")
    twin = build_host(program.sources, defines=_size(program, n))
    return subprocess.run([twin], capture_output=True, text=True, check=True, timeout=60).stdout


def _program(name: str) -> Program:
    if name not in PROGRAMS:
        raise GuestBuildError(f"there is no guest program {name!r}: the list is {', '.join(PROGRAMS)}")
    return PROGRAMS[name]


def _size(program: Program, n: int | None) -> tuple[str, ...]:
    size = program.n_bench if n is None else n
    return (f"N={size}",) if size else ()


def _existing(sources: Iterable[str | Path]) -> list[Path]:
    files = [Path(s).resolve() for s in sources]
    if not files:
        raise GuestBuildError("no source file was given: name at least one .c or .S file")
    for file in files:
        if not file.is_file():
            raise GuestBuildError(f"{file} does not exist: check the name of the guest's source")
    return files


def _cached(files: list[Path], flags: tuple[str, ...], stem: str, suffix: str, out: str | Path | None) -> Path:
    gcc, version = _compiler(os.environ.get("GUEST_CC", "gcc"))
    digest = hashlib.sha256("\0".join((version, *flags, *map(str, files))).encode())
    for file in sorted({*files, *(f for d in {RUNTIME_DIR, *(f.parent for f in files)} for f in _included(d))}):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    target = CACHE_DIR / f"{stem}-{digest.hexdigest()[:16]}{suffix}"
    try:
        if not target.exists():
            _compile(gcc, files, flags, target)
        if out is None:
            return target
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, out)
    except OSError as error:
        raise GuestBuildError(f"{error.filename} cannot be written ({error.strerror}): "
                              "make the directory writable, or free some space") from None
    return out


def _included(directory: Path) -> list[Path]:
    return [*directory.glob("*.h"), *directory.glob("*.ld")]


@functools.cache
def _compiler(name: str) -> tuple[str, str]:
    """Return the compiler's path and what it says about itself."""
    gcc = shutil.which(name)
    if gcc is None:
        raise GuestBuildError(f"{name} was not found, and guests are built with it: install it (apt-get install gcc), "
                              "or set GUEST_CC to a gcc for x86-64")
    asked = subprocess.run([gcc, "-dumpmachine", "-dumpfullversion"], capture_output=True, text=True, check=False)
    if not asked.stdout.startswith("x86_64"):
        machine = asked.stdout.split("\n")[0] or "an unknown machine"
        raise GuestBuildError(f"{gcc} compiles for {machine}, not x86-64: set GUEST_CC to a gcc for x86-64 "
                              "(apt-get install gcc-x86-64-linux-gnu)")
    return gcc, asked.stdout


def _compile(gcc: str, files: list[Path], flags: tuple[str, ...], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        done = subprocess.run([gcc, *flags, *files, "-o", made], capture_output=True, text=True, check=False)
        if done.returncode:
            raise GuestBuildError(_explain(gcc, files[-1], done.stderr))
        os.replace(made, target)


def _explain(gcc: str, source: Path, stderr: str) -> str:
    signs = ("error:", "undefined reference", "relocation truncated")
    lines = [line for line in stderr.splitlines() if any(sign in line for sign in signs)]
    lines = (lines or stderr.splitlines() or ["no message"])[:3]
    return f"{gcc} could not build {source.name}:\n  " + "\n  ".join(lines) + "\ncorrect the source and build again"


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that another process sees all of it or nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def main(argv: list[str] | None = None) -> int:
    """Build the programs of the table and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m sim.guestbuild", description="Build the guest programs with gcc.")
    parser.add_argument("names", nargs="*", metavar="PROGRAM", help="programs to build (default: all)")
    parser.add_argument("--opt", default="-O2", help="optimisation, written --opt=-O1 (default: -O2)")
    parser.add_argument("--link", default="high", choices=LINKS, help="addresses to link at (default: high)")
    parser.add_argument("--size", choices=("test", "bench"), default="bench", help="which value of N (default: bench)")
    arguments = parser.parse_args(argv)
    try:
        for name in arguments.names or PROGRAMS:
            program = _program(name)
            size = program.n_test if arguments.size == "test" else program.n_bench
            path = build_program(name, n=size, opt=arguments.opt, link=arguments.link)
            print(f"{name:12} {os.path.relpath(path)}")
    except GuestBuildError as error:
        print(f"guestbuild: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
