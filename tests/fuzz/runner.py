"""Runs snippets on an engine without entering Python for each, and checks what the core shows of them.

Every vector of the IDT leads to one handler, which adds `STRIDE` to the rip of a frame in memory and returns through that
frame to the next snippet; registers stay as they are. The engine stops every few thousand cycles. A snippet that loops gets
an NMI, one that stops the hart or spoils its system registers a fresh start with the next.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hw.isa.facts import VECTORS, EventClass, Vector
from hw.isa.reference import absent, lookup, split
from hw.isa.rows import Raise
from sim.engine import DesignError, Recording, RetireFlag, StopOn, StopReason
from sim.harts import REGISTERS
from tests.fuzz.snippets import STRIDE

IDT, GDT, TSS, IST, HANDLER, FRAME, STACK, DATA, CODE = (
    0x1000, 0x2000, 0x3000, 0x5000, 0x6000, 0x7000, 0x20000, 0x30000, 0x400000,
)  # fmt: skip
#: A run is looked at after so many cycles; a snippet that is still the same then goes round in circles.
CHUNK = 4000
#: In so many cycles something retires or is taken, or the core hangs.
PATIENCE = 1500

_CODE64, _DATA64, _TR, _CODE3, _DATA3 = 8, 16, 24, 56, 64
_GDT = {
    _CODE64: 0x00AF9B000000FFFF, _DATA64: 0x00CF93000000FFFF, _TR: 0x00008B0000000067 | TSS << 16,
    _CODE3: 0x00AFFB000000FFFF, _DATA3: 0x00CFF3000000FFFF,
}  # fmt: skip
_START = {
    "idt_base": IDT, "idt_limit": 0xFFF, "gdt_base": GDT, "gdt_limit": 0xFF, "tr": _TR, "tr_base": TSS, "tr_limit": 0x67,
}  # fmt: skip
#: What a snippet at CPL 0 may have changed so that the next would not run as usual.
_WATCHED = (*_START, "cr0", "cr3", "cr4", "dr7", "efer")
_HAS_ERROR = {row.number: row.has_error for row in VECTORS}
_FAULTS = frozenset(row.number for row in VECTORS) - {Vector.NMI}


#: What is looked at of a `RetireRecord`: cycle, pc, bytes, trap_error, length, trap_vector, trap_class, flags.
Seen = tuple[int, int, bytes, int, int, int, int, int]
#: The same in the layout of `sim.engine.RETIRE_STRUCT`.
_SEEN = struct.Struct("<2Q64x16sIxB2x2BH4x")


def _handler() -> bytes:
    data = struct.pack("<I", DATA)
    return b"".join((
        b"\x48\xc7\xc4" + struct.pack("<I", FRAME),  # mov rsp, FRAME
        b"\x48\x83\x04\x24" + bytes([STRIDE]),  # add qword [rsp], STRIDE
        b"\xbb" + data, b"\x48\x8d\x73\x40", b"\x48\xc7\xc1\x03\x00\x00\x00",  # mov ebx, DATA; lea rsi, [rbx+64]; mov rcx, 3
        b"\x48\xcf",
    ))  # fmt: skip


@dataclass
class Findings:
    """What a share of a campaign saw."""

    snippets: int = 0
    retired: int = 0
    cycles: int = 0
    traps: Counter[int] = field(default_factory=Counter)
    loops: int = 0
    restarts: int = 0
    shutdowns: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Take in those of another share."""
        for name in ("snippets", "retired", "cycles", "loops", "restarts", "shutdowns"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.traps += other.traps
        self.failures += other.failures


class Runner:
    """Runs fills of snippets on an engine with one hart and the default memory."""

    def __init__(self, engine: Any):
        self.engine = engine
        self._legal: dict[bytes, str | None] = {}

    # --- a machine

    def _start(self, code: bytes, at: int, user: bool) -> None:
        """Everything as new; the next snippet is the one at this address."""
        engine = self.engine
        engine.set_irq(0, None)
        engine.reset()
        image = bytearray(0x8000)
        gate = struct.pack("<HHBBHII", HANDLER & 0xFFFF, _CODE64, 1, 0xEE, HANDLER >> 16, 0, 0)
        image[IDT : IDT + 0x1000] = gate * 256
        for selector, descriptor in _GDT.items():
            struct.pack_into("<Q", image, GDT + selector, descriptor)
        struct.pack_into("<I3QQ7QQHH", image, TSS, 0, *[IST] * 3, 0, *[IST] * 7, 0, 0, 0x68)
        image[HANDLER : HANDLER + len(_handler())] = _handler()
        cs, ss = (_CODE3 | 3, _DATA3 | 3) if user else (_CODE64, _DATA64)
        struct.pack_into("<5Q", image, FRAME, at, cs, 2, STACK, ss)
        engine.write_mem(0, bytes(image))
        self._tables = bytes(image[IDT : TSS + 0x68])
        engine.write_mem(CODE, code)
        for name, value in (_START | {"rip": at, "cs": cs, "ss": ss, "rsp": STACK, "rflags": 2}).items():
            engine.write_reg(0, REGISTERS[name], value)
        self._normal = self._system()
        engine.drain()
        engine.record(Recording.ALL)

    def _system(self) -> tuple[int, ...]:
        return tuple(self.engine.read_reg(0, REGISTERS[name]) for name in _WATCHED)

    def _frame(self) -> int:
        return struct.unpack("<Q", self.engine.read_mem(FRAME, 8))[0]

    def _seen(self) -> list[Seen]:
        """What has retired and was taken since the last look."""
        raw = getattr(self.engine, "drain_raw", None)
        if raw is not None:
            return list(_SEEN.iter_unpack(raw()))  # type: ignore[arg-type]
        return [
            (r.cycle, r.pc, r.bytes, r.trap_error, r.length, r.trap_vector, r.trap_class, r.flags)
            for r in self.engine.drain().retires
        ]

    # --- a fill

    def run(self, code: bytes, user: bool, name: str, restart_every: int = 4000) -> Findings:
        """Run all snippets of a fill; `name` is how failures call it."""
        engine, found = self.engine, Findings()
        end = CODE + len(code)
        at, since, stuck = CODE, 0, 0
        engine.reset()
        engine.write_mem(0, bytes(engine.config.ram_bytes))  # a fill depends on nothing that ran before it
        for register in range(16):
            engine.write_reg(0, register, 0)
        self._start(code, at, user)
        while at < end and len(found.failures) < 5:
            try:
                stop = engine.run(CHUNK, StopOn(reach=end))
            except DesignError as error:
                self._fail(found, name, code, at, f"{error}")
                at, since = self._anew(code, at, user, found), 0
                continue
            found.cycles += stop.cycles
            records = self._seen()
            self._check(records, found, name, code, at)
            now = self._frame()
            again = self._again(stop.reason, now == at, records, found, name, code, at)
            now = now if CODE <= now <= end and not now % STRIDE and now >= at else at
            stuck = stuck + 1 if now == at else 0
            since += now - at
            found.snippets += (now - at) // STRIDE
            at = now
            if stop.reason == StopReason.REACHED and now + STRIDE >= end:
                break
            if again or stuck > 8 or self._system() != self._normal or since > restart_every * STRIDE:
                at, since, stuck = self._anew(code, at, user, found), 0, 0
                found.snippets += 1
        engine.record(Recording.OFF)
        return found

    def _anew(self, code: bytes, at: int, user: bool, found: Findings) -> int:
        found.restarts += 1
        self._start(code, at + STRIDE, user)
        return at + STRIDE

    def _again(
        self, reason: StopReason, same: bool, records: list[Seen], found: Findings, name: str, code: bytes, at: int
    ) -> bool:
        """What to do after a stop: True for a fresh start."""
        engine = self.engine
        if reason == StopReason.SHUTDOWN:
            found.shutdowns += 1
            self._chain(records, found, name, code, at)
            return True
        if reason == StopReason.TRAP_REQUEST:
            engine.complete_trap(0, False)
        elif reason == StopReason.HALTED:
            engine.nmi(0)
        elif reason == StopReason.MAX_CYCLES and not records:
            self._fail(found, name, code, at, f"hangs: nothing happened for {CHUNK} cycles")
            return True
        elif reason == StopReason.MAX_CYCLES and same:
            found.loops += 1
            engine.nmi(0)
        return False

    # --- what is checked

    def _check(self, records: list[Seen], found: Findings, name: str, code: bytes, at: int) -> None:
        legal = self._legal
        before = records[0][0] if records else 0
        valid, trap, deliver = int(RetireFlag.VALID), int(RetireFlag.TRAP), int(RetireFlag.DELIVER)
        retired = 0
        for cycle, pc, data, _, length, vector, kind, flags in records:
            if cycle - before > PATIENCE and not self.engine.state(0).halted:
                self._fail(found, name, code, pc, f"nothing retired from cycle {before} to {cycle}")
            before = cycle
            if flags & trap:
                found.traps[vector] += 1
                problem = _undefined(vector, kind, bool(flags & RetireFlag.TRAP_HAS_ERROR))
            elif flags & valid and not flags & deliver:
                retired += 1
                text = data[:length]
                if text not in legal:
                    legal[text] = _illegal(text)
                problem = legal[text]
            else:
                continue
            if problem:
                self._fail(found, name, code, pc, problem)
        found.retired += retired

    def _chain(self, records: list[Seen], found: Findings, name: str, code: bytes, at: int) -> None:
        """A triple fault has a chain that leads to it: a fault, a double fault, and a third while that is delivered."""
        chain = [vector for *_, vector, _, flags in records if flags & RetireFlag.TRAP][-3:]
        if len(chain) >= 2 and chain[-2] != Vector.DF:
            self._fail(found, name, code, at, f"shuts down after the traps {chain}, without a double fault")
        if self._system() == self._normal and self.engine.read_mem(IDT, len(self._tables)) == self._tables:
            self._fail(found, name, code, at, f"shuts down after {chain}, though tables and registers are whole")

    def _fail(self, found: Findings, name: str, code: bytes, pc: int, problem: str) -> None:
        offset = pc - CODE & ~(STRIDE - 1)
        text = code[offset : offset + STRIDE].hex() if 0 <= offset < len(code) else "outside the snippets"
        found.failures.append(f"{name}, snippet {offset // STRIDE} at {pc:#x}: {problem}\n    {text}")


def _undefined(vector: int, kind: int, error: bool) -> str | None:
    """Why a trap is not one that the manual knows."""
    if kind == EventClass.FAULT:
        if vector not in _FAULTS:
            return f"fault {vector} does not exist"
        if error != _HAS_ERROR[vector]:
            return f"fault {vector} with an error code: {error}"
    elif error:
        return f"vector {vector} of class {EventClass(kind).name} has an error code"
    return None


def _illegal(text: bytes) -> str | None:
    """Why these bytes must not retire; None if they may."""
    parts = split(text)
    if parts is None or parts.bytes != text:
        return f"{text.hex()} retired: it does not end there"
    row = lookup(parts)
    if row is None:
        return None if absent(parts) is Raise.WAIT else f"{text.hex()} retired: no row of the table"
    return f"{text.hex()} retired, but {row.mnemonic} only raises" if row.raises not in (Raise.NONE, Raise.WAIT) else None


def fills(total: int, each: int) -> Iterable[tuple[int, int]]:
    """Number and size of the fills that make up a total."""
    for number, start in enumerate(range(0, total, each)):
        yield number, min(each, total - start)
