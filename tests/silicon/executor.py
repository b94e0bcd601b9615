"""Drives `executor.c`: batches of snippets in, what real silicon made of them out.

Guest memory is four regions, all above 64 KiB because `vm.mmap_min_addr` may keep everything below from being mapped,
and all inside the 16 MiB that every model has. The rest is unmapped here, but may be RAM there: see `Outcome.faithful`.
Only what user mode can do is run; TF and IF, which differ from a core at CPL 0 with interrupts off, are hidden.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Register order of the executor's protocol.
REGS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{n}" for n in range(8, 16)),
    *("rip", "rflags", "fs_base", "gs_base"),
)  # fmt: skip

#: Guest memory: name -> (start, length).
REGIONS = {
    "code": (0x010000, 0x10000),
    "data": (0x040000, 0x08000),
    "stack": (0x07C000, 0x04000),
    "high": (0xFE0000, 0x04000),
}
#: No model has more RAM than this at 0; the same RAM is seen again in the top 2 GiB.
RAM_TOP = 1 << 32

_SOURCE = Path(__file__).with_name("executor.c")
_BUILD = Path(__file__).resolve().parents[2] / "build" / "silicon"
_REQUEST = struct.Struct("<4I20Q")
_RUN = struct.Struct("<QII")
_ANSWER = struct.Struct("<6I21Q")
_DONE, _TRAPPED, _REFUSED, _RUNAWAY = range(4)


class Unavailable(RuntimeError):
    """This machine cannot run vectors natively; the message says why."""


@dataclass(frozen=True)
class Trap:
    """The first trap raised: `error` as a CPL 0 core would report it (no U/S bit), None when the vector pushes none."""

    vector: int
    error: int | None
    cr2: int


@dataclass(frozen=True)
class Outcome:
    """The state after a snippet, before the delivery of its trap if it took one."""

    steps: int
    regs: dict[str, int]
    changed: list[tuple[int, bytes]]
    trap: Trap | None
    refused: bool

    @property
    def faithful(self) -> bool:
        """Whether a model, with RAM in the low 4 GiB and in the top 2 GiB, would have seen the same memory."""
        if self.refused:
            return False
        if self.trap is None or self.trap.vector != 14:
            return True
        return RAM_TOP <= self.trap.cr2 < 0xFFFF_FFFF_8000_0000 - 64


def executor() -> Path:
    """The compiled executor, built when the source is new."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise Unavailable("the executor needs Linux on an x86-64 processor")
    binary = _BUILD / f"executor-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]}"
    if not binary.exists():
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise Unavailable("the executor needs gcc: apt-get install gcc libc6-dev")
        _BUILD.mkdir(parents=True, exist_ok=True)
        scratch = binary.with_suffix(f".{os.getpid()}")
        # No lazy binding: it looks into thread-local memory, while FS is the guest's.
        command = [compiler, "-O2", "-Wall", "-Wextra", "-mno-red-zone", "-Wl,-z,now", "-o", scratch, _SOURCE]
        if subprocess.run(command, check=False).returncode:
            raise Unavailable(
                "the executor does not compile; it needs the C library's headers: apt-get install libc6-dev"
            )
        scratch.replace(binary)
    return binary


def available() -> str | None:
    """None when vectors can run here, otherwise the reason why not."""
    try:
        run([{"initial": {"regs": {"rip": REGIONS["code"][0]}, "mem": [[REGIONS["code"][0], "90"]]}, "insns": 1}])
    except Unavailable as reason:
        return str(reason)
    return None


def _request(vector: dict, fill: int) -> Iterable[bytes]:
    regs, mem = vector["initial"]["regs"], vector["initial"]["mem"]
    values = [regs.get(name, 2 if name == "rflags" else 0) for name in REGS]
    yield _REQUEST.pack(vector["insns"], len(mem), fill, 0, *values)
    for address, text in mem:
        data = bytes.fromhex(text)
        yield _RUN.pack(address, len(data), 0) + data


def run(vectors: Sequence[dict], fill: int = 0) -> list[Outcome]:
    """Run each vector's `initial` for its `insns`; memory that it does not name holds the byte `fill`."""
    regions = [f"{start:x}:{length:x}" for start, length in REGIONS.values()]
    requests = b"".join(part for vector in vectors for part in _request(vector, fill))
    done = subprocess.run([executor(), *regions], input=requests, capture_output=True, check=False)
    if done.returncode == 4:
        raise Unavailable(done.stderr.decode().strip())
    if done.returncode:
        raise RuntimeError(done.stderr.decode().strip() or f"the executor ended with {done.returncode}")
    answers: list[Outcome] = []
    offset = 0
    for _ in vectors:
        outcome, offset = _outcome(done.stdout, offset)
        answers.append(outcome)
    return answers


def _outcome(data: bytes, offset: int) -> tuple[Outcome, int]:
    status, steps, runs, vector, error, signal, cr2, *values = _ANSWER.unpack_from(data, offset)
    offset += _ANSWER.size
    changed: list[tuple[int, bytes]] = []
    for _ in range(runs):
        address, length, _ = _RUN.unpack_from(data, offset)
        offset += _RUN.size
        piece = data[offset : offset + length]
        offset += length
        if changed and changed[-1][0] + len(changed[-1][1]) == address:
            address, piece = changed[-1][0], changed.pop()[1] + piece
        changed.append((address, piece))
    trap = _trap(vector, error, cr2, signal) if status == _TRAPPED else None
    return Outcome(steps, dict(zip(REGS, values, strict=True)), changed, trap, status in (_REFUSED, _RUNAWAY)), offset


def _trap(vector: int, error: int, cr2: int, signal: int) -> Trap:
    """What the kernel saw in user mode, as ring 0 sees it.

    A page fault keeps only the write bit: U/S is the privilege level, and Linux sets P for addresses above user space.
    """
    del signal
    if vector == 14:
        return Trap(14, error & 2, cr2)
    return Trap(vector, error if vector in (8, 10, 11, 12, 13, 17) else None, 0)
