"""A bare machine for trap tests: tables laid out in RAM by hand, a few instructions, and the traps that they meet.

Programs are text for the assembler at `CODE`. A label ``h3`` becomes the handler of vector 3; vectors without one go to a
``hlt`` at `HALT` + 16 * vector. Traps are compared with text in the notation of the scenario tables::

    #GP(1a)@start RF TF -IF / -TF ; #BP@n

is a #GP with error code 0x1a and the saved rip ``start``; RF and TF set, IF clear in the saved flags, TF clear in the
handler; then a #BP. ``v33`` is vector 33, ``@*`` any rip. Programs start at CPL 0; with ``**USER`` at CPL 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hw.isa.facts import VECTORS, EventClass, RFlag
from sim.engine import Recording, RetireFlag, StopOn, StopReason
from sim.harts import REGISTERS

IDT, GDT, TSS, STACK, CODE, HALT = 0x1000, 0x2000, 0x3000, 0x8000, 0x10000, 0x20000
RAM_END = 16 << 20
MISSING = 0x40000000  # an address that is no RAM
NONCANONICAL = 0x8000000000000000
IST = {k: 0x8000 + 0x1000 * k for k in range(1, 8)}

#: Selectors of the descriptor table.
CODE64, DATA, TR, CODE32, CODE_NP, CODE_DPL3, DATA_DPL3, READ_ONLY, DATA_NP = 8, 16, 24, 40, 48, 56, 64, 72, 80
CODE_CONFORMING, DATA_DPL3_NP = 0x78, 0x80
STAR_USER = 0x88  # sysret adds 8 for SS and 16 for CS

#: What a program at CPL 3 starts with; its traps switch to the stack of the TSS, `STACK`.
USER = dict(cs=CODE_DPL3 | 3, ss=DATA_DPL3 | 3)

_GDT = {
    CODE64: 0x00AF9B000000FFFF,
    DATA: 0x00CF93000000FFFF,
    TR: 0x00008B0000000067 | TSS << 16,
    CODE32: 0x00CF9B000000FFFF,
    CODE_NP: 0x00AF1B000000FFFF,
    CODE_DPL3: 0x00AFFB000000FFFF,
    DATA_DPL3: 0x00CFF3000000FFFF,
    READ_ONLY: 0x00CF91000000FFFF,
    DATA_NP: 0x00CF13000000FFFF,
    CODE_CONFORMING: 0x00AF9F000000FFFF,
    DATA_DPL3_NP: 0x00CF73000000FFFF,
    STAR_USER + 8: 0x00CFF3000000FFFF,
    STAR_USER + 16: 0x00AFFB000000FFFF,
}

NAMES = {row.number: row.mnemonic for row in VECTORS}
FLAGS = {flag.name: 1 << flag for flag in RFlag} | {"IOPL": 3 << RFlag.IOPL}

#: Single-step handler: steps on until the label ``done``, where it clears TF.
STEP = "h1: cmpq $done, (%rsp); jne 1f; andl $~0x100, 16(%rsp); 1: iretq;"


@dataclass
class Frame:
    """What a delivery pushed: `at` is the address of the last quadword."""

    at: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int
    error: int | None


@dataclass
class Taken:
    """A trap that was taken. `frame` and what is below: None if its own delivery met another one."""

    vector: int
    error: int | None
    kind: EventClass
    rip: int
    cycle: int
    dr6: int
    cr2: int
    rcx: int
    frame: Frame | None = None
    rflags: int | None = None  # in the handler
    rsp: int | None = None
    stores: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """As in the tables: #BP, NMI, v33."""
        return NAMES.get(self.vector, f"v{self.vector}")

    def __str__(self) -> str:
        code = "" if self.error is None else f"({self.error:x})"
        saved = "" if self.frame is None else " " + names_of(self.frame.rflags)
        return f"{self.name}{code}@{self.rip:#x}{saved}"


def names_of(rflags: int) -> str:
    """Names of the system flags that are set."""
    return " ".join(name for name in ("TF", "IF", "DF", "NT", "RF", "AC", "IOPL") if rflags & FLAGS[name])


def gate(offset: int, sel: int = CODE64, ist: int = 0, type: int = 0xE, s: int = 0, dpl: int = 0, p: int = 1) -> bytes:
    """Return a 16-byte gate."""
    attributes = type | s << 4 | dpl << 5 | p << 7
    return struct.pack("<HHBBHII", offset & 0xFFFF, sel, ist, attributes, offset >> 16 & 0xFFFF, offset >> 32, 0)


class Bench:
    """An engine with tables and a program."""

    def __init__(self, engine: Any, assemble: Callable[..., Any]):
        self.engine, self._assemble = engine, assemble
        self.labels: dict[str, int] = {}
        self.taken: list[Taken] = []
        self.reason = StopReason.MAX_CYCLES

    def load(
        self,
        text: str,
        *,
        flags: str = "",
        gates: dict[int, dict[str, int]] | None = None,
        stack: Iterable[int | str] = (),
        mem: dict[int, bytes] | None = None,
        at: int = CODE,
        idt: int = IDT,
        **regs: int | str,
    ) -> None:
        """Lay out everything and put the hart at ``start`` or, without such a label, at the first byte.

        `flags`: names of the flags set at the start. `gates`: what is special about a gate. `stack`: quadwords at rsp.
        `regs`: registers by name, system registers among them: numbers, or labels.
        """
        code = self._assemble(text, at=at)
        self.labels = {"done": -1} | code.labels | {"MISSING": MISSING, "RAM_END": RAM_END}
        write = self.engine.write_mem
        for vector in range(256):
            handler = self.labels.get(f"h{vector}", HALT + 16 * vector)
            write(HALT + 16 * vector, b"\xf4\xeb\xfd")  # hlt; jmp back
            special = {"offset": handler} | (gates or {}).get(vector, {})
            made = gate(**special)
            where = idt + 16 * vector
            if where < RAM_END:
                write(where, made[: RAM_END - where])
        for selector, descriptor in _GDT.items():
            write(GDT + selector, struct.pack("<Q", descriptor))
        write(TSS, struct.pack("<I3QQ7Q", 0, *([STACK] * 3), 0, *IST.values()))
        write(code.address, code.data)
        for address, data in (mem or {}).items():
            write(address, data)
        tables = {
            "idt_base": idt, "idt_limit": 0xFFF, "gdt_base": GDT, "gdt_limit": 0xFF,
            "tr": TR, "tr_base": TSS, "tr_limit": 0x67, "rsp": STACK,
        }  # fmt: skip
        values = tables | {"rip": self.labels.get("start", at), "rflags": 2 | self.flags(flags)} | regs
        pushed = [self.value(item) for item in stack]
        if pushed:
            write(values["rsp"], struct.pack(f"<{len(pushed)}Q", *pushed))
        for name, value in values.items():
            self.engine.write_reg(0, REGISTERS[name], self.value(value))
        self.engine.drain()
        self.engine.record(Recording.ALL)

    def flags(self, names: str) -> int:
        """Value of the flags named."""
        return sum(FLAGS[name] for name in names.split())

    def value(self, what: int | str) -> int:
        """A number, a label, or a label plus a number."""
        if isinstance(what, int):
            return what
        label, _, more = what.partition("+")
        return (self.labels[label] if label in self.labels else int(label, 0)) + int(more or "0", 0)

    def reg(self, name: str) -> int:
        """A register by name."""
        return self.engine.read_reg(0, REGISTERS[name])

    def quad(self, address: int) -> int:
        """A quadword of RAM."""
        return struct.unpack("<Q", self.engine.read_mem(address, 8))[0]

    def run(self, events: Iterable[tuple[str | int, str | int]] = (), max_cycles: int = 6000) -> list[Taken]:
        """Run until the hart sleeps for good or shuts down; return the traps.

        `events`: when and what, in order. When: a label (the instruction there is next), "now", "asleep", "down" (after a
        triple fault), "taken" (the next trap is taken), or so many cycles from now. What: "nmi", or the vector of an interrupt.
        """
        waiting, engine = list(events), self.engine
        seen: list[tuple[int, int, int]] = []
        left = max_cycles
        while left > 0:
            when = waiting[0][0] if waiting else None
            due = when == "now"
            if not due:
                reach = self.value(when) if isinstance(when, str) and when not in ("asleep", "taken", "down") else None
                step = min(left, when) if isinstance(when, int) else left
                ended = engine.run(step, StopOn(trap=True, reach=reach))
                left -= ended.cycles
                self.reason = ended.reason
                if isinstance(when, int):
                    waiting[0] = (when - ended.cycles, waiting[0][1])
                    due = waiting[0][0] <= 0
                due |= (ended.reason, when) in ((StopReason.HALTED, "asleep"), (StopReason.TRAP, "taken"))
                due |= ended.reason == StopReason.REACHED or (ended.reason, when) == (StopReason.SHUTDOWN, "down")
            if due:
                what = waiting.pop(0)[1]
                if what == "nmi":
                    engine.nmi(0)
                else:
                    engine.set_irq(0, what)
            if self.reason == StopReason.TRAP:
                seen.append((self.reg("dr6"), self.reg("cr2"), self.reg("rcx")))
            elif not due and self.reason in (StopReason.HALTED, StopReason.SHUTDOWN, StopReason.EXIT):
                break
            self.reason = StopReason.MAX_CYCLES
        self.taken = self._read(engine.drain().retires, seen)
        return self.taken

    def _read(self, records: list[Any], seen: list[tuple[int, int, int]]) -> list[Taken]:
        """Traps from records: the stores of a delivery are its frame."""
        taken: list[Taken] = []
        for r in records:
            if r.flags & RetireFlag.TRAP:
                error = r.trap_error if r.flags & RetireFlag.TRAP_HAS_ERROR else None
                extra = seen[len(taken)] if len(taken) < len(seen) else (self.reg("dr6"), self.reg("cr2"), self.reg("rcx"))
                taken.append(Taken(r.trap_vector, error, EventClass(r.trap_class), r.trap_rip, r.cycle, *extra))
            elif r.flags & RetireFlag.DELIVER:
                if r.flags & RetireFlag.MEM_WE and not GDT <= r.mem_addr < GDT + 0x100:  # there, an accessed bit
                    assert r.mem_size == 3
                    taken[-1].stores[r.mem_addr] = r.mem_data
                if r.flags & RetireFlag.LAST:
                    pushed = [data for _, data in sorted(taken[-1].stores.items(), reverse=True)]
                    ss, rsp, rflags, cs, rip, *error = pushed
                    taken[-1].frame = Frame(min(taken[-1].stores), rip, cs, rflags, rsp, ss, error[0] if error else None)
                    taken[-1].rflags, taken[-1].rsp = r.rflags, r.sp
        return taken

    def expect(self, text: str) -> None:
        """Compare the traps taken with text in the notation of the module."""
        wanted = [item.strip() for item in text.split(";") if item.strip()]
        got = "; ".join(map(str, self.taken[:12])) + "; and more" * (len(self.taken) > 12)
        assert len(self.taken) == len(wanted), f"wanted {text}\ngot    {got} ({self.reason.name})"
        for want, trap in zip(wanted, self.taken, strict=True):
            context = f"wanted {want!r}, got {trap} of {got}"
            saved, _, handler = want.partition("/")
            head, *names = saved.split()
            name, _, where = head.partition("@")
            name, _, code = name.partition("(")
            assert trap.name == name, context
            assert trap.error == (int(code.rstrip(")"), 16) if code else None), context
            assert where == "*" or trap.rip == self.value(where), f"{context}: {where} is {self.value(where):#x}"
            if trap.frame is not None:
                assert trap.frame.rip == trap.rip, f"{context}: the frame has rip {trap.frame.rip:#x}"
                assert trap.frame.error == trap.error, f"{context}: the frame has error {trap.frame.error}"
                assert trap.rsp == trap.frame.at, context
            for names_there, image in ((names, trap.frame and trap.frame.rflags), (handler.split(), trap.rflags)):
                for flag in names_there:
                    mask = FLAGS[flag.lstrip("-")]
                    assert image is not None, f"{context}: it was not delivered"
                    assert image & mask == (0 if flag.startswith("-") else mask), f"{context}: {flag}, {image:#x}"


__all__ = ["CODE", "HALT", "IST", "MISSING", "NONCANONICAL", "RAM_END", "STACK", "STEP", "Bench"]
