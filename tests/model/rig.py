"""Runs a random program on the core and on the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sim.engine import DesignError, Recording, RetireRecord, StopOn, StopReason
from sim.harts import REGISTERS
from tests.model import layout
from tests.model.lockstep import Lockstep, Mismatch, Requests
from tests.model.model import Model
from tests.model.msr import EFER, FMASK, LSTAR, STAR
from tests.model.programs import Program
from tests.model.state import CS, DS, ES, FS, GS, SS, Memory, Unmodelled

#: Latency of memory and seed of its wait states; the first is as fast as it goes.
TIMINGS = ((1, None), (1, None), (1, 3), (1, 1234), (2, None), (2, 77), (3, None), (4, 5))

#: No program runs longer.
CYCLES = 6000
_GPR = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
_MSRS = {"efer": EFER, "star": STAR, "lstar": LSTAR, "fmask": FMASK}
_SEGMENTS = {"es": ES, "cs": CS, "ss": SS, "ds": DS, "fs": FS, "gs": GS}


@dataclass
class Outcome:
    """How a run ended on the core, what was compared, and the first difference."""

    reason: StopReason
    items: int
    mismatch: Mismatch | None = None
    unmodelled: str | None = None
    lockstep: Lockstep | None = None


class Rig:
    """A model, and engines whose memory answers as `TIMINGS` say; `open` makes one of latency and seed."""

    def __init__(self, open: Callable[[int, int | None], Any], vendor: str = "intel", timings: Sequence[tuple[int, int | None]] = TIMINGS):
        self._open = open
        self._engines: dict[tuple[int, int | None], Any] = {}
        self._dirty: dict[tuple[int, int | None], set[int] | None] = {}  # pages to clear; None: all
        self.model = Model(Memory(16 << 20), vendor)
        self._timings = timings
        self.engine: Any = None
        self._timing = timings[0]

    @property
    def timing(self) -> tuple[int, int | None]:
        """Latency and seed of the memory that ran last."""
        return self._timing

    def warm(self) -> None:
        """Open the first engine now, so that a missing one is known at once."""
        self._choose(0)

    def _choose(self, timing: int) -> None:
        """Take the engine with this timing; its memory and the model's are as in the beginning above `layout.TOP`."""
        key = self._timing = self._timings[timing % len(self._timings)]
        memory = self.model.memory
        if key not in self._engines:
            self._engines[key] = self._open(*key)
            self._dirty[key] = None
        self.engine, dirty = self._engines[key], self._dirty[key]
        for target in (self.engine.write_mem, memory.put):
            if dirty is None:
                target(0, bytes(memory.size))
        for page in memory.dirty | (dirty or set()):
            if page << 12 >= layout.TOP:
                self.engine.write_mem(page << 12, bytes(4096))
                memory.put(page << 12, bytes(4096))
        memory.dirty.clear()

    def load(self, program: Program) -> None:
        """Give both the same memory and registers."""
        self._choose(program.timing)
        engine, memory = self.engine, self.model.memory
        engine.set_irq(0, None)
        engine.reset()
        engine.write_mem(0, bytes(program.image))
        memory.put(0, bytes(program.image))
        for name in _GPR:
            engine.write_reg(0, REGISTERS[name], 0)
        for name, value in program.regs.items():
            engine.write_reg(0, REGISTERS[name], value)
        engine.drain()
        engine.record(Recording.ALL)
        self._prepare(program.regs)

    def _prepare(self, regs: dict[str, int]) -> None:
        self.model.reset()
        state = self.model.state
        for n, name in enumerate(_GPR):
            state.regs[n] = regs.get(name, 0)
        for name, index in _SEGMENTS.items():
            if name in regs:
                state.selectors[index] = regs[name]
                state.cached[index] = layout.DESCRIPTORS.get(regs[name] & 0xFFF8) if index == SS else None
        state.rip, state.rflags = regs["rip"], regs["rflags"]
        state.fs_base, state.gs_base, state.kernel_gs_base = (regs[n] for n in ("fs_base", "gs_base", "kernel_gs_base"))
        state.idt = regs["idt_base"], regs["idt_limit"]
        state.gdt = regs["gdt_base"], regs["gdt_limit"]
        state.cr4 = regs["cr4"]
        state.msrs = {number: regs[name] for name, number in _MSRS.items()}
        state.tr, state.tss = regs["tr"], (regs["tr_base"], regs["tr_limit"])

    def execute(self, program: Program) -> tuple[StopReason, list[RetireRecord], Requests]:
        """Run on the core alone, with the program's interrupts; a hart asleep gets its next one at once."""
        engine, requests = self.engine, Requests()
        waiting = list(program.events)
        spare = 2
        while True:
            due = waiting[0][0] if waiting else CYCLES
            ended = engine.run(max(min(due, CYCLES) - engine.cycle, 0), StopOn())
            asleep = ended.reason == StopReason.HALTED
            if ended.reason not in (StopReason.MAX_CYCLES, StopReason.HALTED) or engine.cycle >= CYCLES:
                break
            if asleep and not waiting:
                if not spare:
                    break
                spare -= 1
                waiting.append((engine.cycle, "nmi"))
            what = waiting.pop(0)[1]
            requests.events.append((engine.cycle, what))
            if what == "nmi":
                engine.nmi(0)
            else:
                engine.set_irq(0, what)
        return ended.reason, engine.drain().retires, requests

    def run(self, program: Program) -> Outcome:
        """Run on both and compare."""
        self.load(program)
        try:
            reason, records, requests = self.execute(program)
        except DesignError as error:
            self._dirty[self._timing] = None
            return Outcome(StopReason.MAX_CYCLES, 0, Mismatch("invariant", str(error)), lockstep=Lockstep(self.model))
        lockstep = Lockstep(self.model, requests)
        outcome = Outcome(reason, 0, lockstep=lockstep)
        try:
            lockstep.run(records)
            self._end(reason)
        except Mismatch as mismatch:
            outcome.mismatch = mismatch
        except Unmodelled as what:
            outcome.unmodelled = str(what)
        outcome.items = lockstep.compared
        agree = outcome.mismatch is None and outcome.unmodelled is None
        self._dirty[self._timing] = set(self.model.memory.dirty) if agree else None
        return outcome

    def _end(self, reason: StopReason) -> None:
        """Everything that no record shows: system registers, and memory as a whole."""
        engine, state = self.engine, self.model.state
        if (reason == StopReason.SHUTDOWN) != self.model.dead:
            raise Mismatch("trap", f"the core ends with {reason.name}, the model has shut down: {self.model.dead}")
        if reason in (StopReason.EXIT, StopReason.HALTED):
            names = {f"dr{n}": state.dr[n] for n in (0, 1, 2, 3, 6, 7)} | {
                "cr2": state.cr2,
                "gs_base": state.gs_base,
                "fs_base": state.fs_base,
            }
            names |= {name: state.selectors[index] for name, index in _SEGMENTS.items()}
            for name, want in names.items():
                got = engine.read_reg(0, REGISTERS[name])
                if got != want:
                    raise Mismatch("system", f"at the end {name} is {got:#x}, the model says {want:#x}")
            mine, its = bytes(self.model.memory.bytes[: layout.TOP]), engine.read_mem(0, layout.TOP)
            if mine != its:
                at = next(n for n in range(layout.TOP) if mine[n] != its[n])
                raise Mismatch(
                    "memory", f"at the end the byte at {at:#x} is {its[at]:#x}, the model says {mine[at]:#x}"
                )
