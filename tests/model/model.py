"""The reference model: what may happen at an instruction boundary, and one instruction at a time (manual 3.3 to 3.8, 4, 5).

`Model.step` says what must be observed next, as items in order: a trap that is taken, its delivery, an instruction that
retires. External events are offered by the caller, who knows when the core accepted one; the model refuses what is illegal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.model.decode import Insn, decode, length
from tests.model.delivery import FAULT, INTR, NMI, SOFT, TRAP, WITH_ERROR, Event, deliver, double, with_ext
from tests.model.effects import Effects
from tests.model.plain import Plain
from tests.model.state import AC, IF, M64, RF, TF, Fault, Memory, State, canonical, gp
from tests.model.system import SYSTEM, GeneralDetect, Interrupt

DR6_BD, DR6_BS, DR6_B, DR7_GD, CR4_DE, CR0_AM = 1 << 13, 1 << 14, 0xF, 1 << 13, 1 << 3, 1 << 18

#: Shadows: what holds back events at the boundary after an instruction.
NONE, STI, MOVSS = "", "sti", "mov ss"


class Illegal(Exception):
    """The core did what it must not do at this boundary; the text says why."""


@dataclass
class Taken:
    """A trap is taken: what the frame will say, and CR2 for a page fault."""

    event: Event


@dataclass
class Delivered:
    """The delivery of the trap taken before is complete; the state is that before the handler's first instruction."""

    event: Event


@dataclass
class Dead:
    """A triple fault: the hart has stopped, and only after the trap before this item."""


@dataclass
class Retired:
    """An instruction, or an iteration of one, is complete."""

    pc: int
    insn: Insn
    again: bool
    stores: list[tuple[int, int]]  # linear address, bytes
    free: frozenset[int] = field(default_factory=frozenset)


Item = Taken | Delivered | Dead | Retired


class Model:
    """One hart. `vendor`: "intel" or "amd" where they differ (manual 3.6)."""

    def __init__(self, memory: Memory, vendor: str = "intel"):
        self.memory, self.vendor = memory, vendor
        self.plain = Plain(memory)
        self.reset()

    def reset(self) -> None:
        """Registers as after reset; memory stays."""
        self.state = State(self.memory, vendor=self.vendor)
        self.pending = 0  # bits of DR6: single step and breakpoints that a retired instruction has caused
        self.shadow = NONE
        self.asleep = self.dead = self.nmi_blocked = self.mid_rep = False

    # --- the boundary

    def accepts(self, kind: int) -> str | None:
        """None if an interrupt or NMI may be taken at this boundary, otherwise why not."""
        if self.dead:
            return "the hart has shut down"
        if self.pending and self.shadow != MOVSS:
            return "a debug trap is pending, which comes first"
        if self.shadow:
            return f"in the shadow of {self.shadow}"
        if kind == NMI and self.nmi_blocked:
            return "NMIs are blocked until iret"
        if kind == INTR and not self.state.rflags & IF:
            return "IF is 0"
        return None

    def step(self, offer: tuple[int, int] | None = None) -> Iterator[Item]:
        """What happens next; `offer`: class and vector of an interrupt that was accepted here. Raises Illegal, Unmodelled."""
        state = self.state
        self.memory.settle()
        if offer is not None:
            why = self.accepts(offer[0])
            if why:
                raise Illegal(f"{'an NMI' if offer[0] == NMI else 'an interrupt'} was taken, but {why}")
            self.nmi_blocked |= offer[0] == NMI
            yield from self._take(self._asynchronous(offer[1], offer[0]))
        elif self.dead:
            raise Illegal("the hart has shut down, but goes on")
        elif self.pending and self.shadow != MOVSS:
            event = self._asynchronous(1, TRAP)
            self._debug_status(self.pending)
            self.pending = 0
            yield from self._take(event)
        elif self.asleep:
            raise Illegal("the hart is halted and nothing woke it")
        elif self._breakpoint() and not state.rflags & RF and not (self.shadow == MOVSS and self.vendor == "intel"):
            self._debug_status(self._breakpoint())
            self.pending, self.shadow = 0, NONE
            yield from self._take(Event(1, FAULT, state.rip, state.rip, state.rflags))
        else:
            yield from self._instruction()

    def _asynchronous(self, vector: int, kind: int) -> Event:
        between = self.mid_rep and not (kind == TRAP and self.vendor == "amd")  # 3.5
        flags = self.state.rflags | (RF if between else 0)
        return Event(vector, kind, self.state.rip, self.state.rip, flags)

    def _debug_status(self, causes: int) -> None:
        self.state.dr[6] = self.state.dr[6] & ~DR6_B | causes

    # --- traps

    def _take(self, event: Event) -> Iterator[Item]:
        """Take a trap and deliver it, with what comes of faults in the delivery."""
        self.asleep = self.mid_rep = False
        while True:
            if event.vector == 14 and event.kind == FAULT:
                assert event.cr2 is not None
                self.state.cr2 = event.cr2
            yield Taken(event)
            self.memory.settle()
            try:
                deliver(self.state, event)
            except Fault as fault:
                self.memory.settle()  # what was pushed stays
                fault = with_ext(fault, event.kind)
                end = double(event, fault)
                if end == "double":
                    if fault.vector == 14:
                        self.state.cr2 = fault.cr2 or 0
                    event = Event(8, FAULT, event.restart, event.restart, self.state.rflags & ~RF, 0)  # RF: 1.2
                else:
                    error, restart = fault.error, event.restart
                    event = Event(fault.vector, FAULT, restart, restart, self.state.rflags | RF, error, fault.cr2)
                if end == "shutdown":
                    self.dead = True
                    if event.cr2 is not None:
                        self.state.cr2 = event.cr2
                    yield Taken(event)
                    yield Dead()
                    return
                continue
            if event.vector == 1 and event.kind in (FAULT, TRAP):  # not by int1 and int 1 (3.2)
                self.state.dr[7] &= ~DR7_GD
            self.shadow = NONE
            self.memory.settle()
            yield Delivered(event)
            return

    # --- an instruction

    def _fetch(self) -> Insn:
        """The bytes at rip; raises the faults of fetching and of the length."""
        rip = self.state.rip
        if not canonical(rip):
            raise gp()
        missing = self.memory.first_missing(rip, 15)
        if missing is None:
            return decode(self.memory.peek(rip, 15) + b"\0")
        user = (self.state.cpl == 3) << 2
        there = missing - rip & M64
        if not there:
            raise Fault(14, user, missing)
        insn = decode(self.memory.peek(rip, there) + bytes(16))
        if length(insn.data) > there:
            raise Fault(14, user, missing)
        return insn

    def _instruction(self) -> Iterator[Item]:
        state = self.state
        self.memory.aligned = bool(state.cpl == 3 and state.rflags & AC and state.cr0 & CR0_AM)
        rip, before, tf = state.rip, state.rflags, state.rflags & TF
        state.rflags &= ~RF
        try:
            insn = self._fetch()
            effects = self._execute(insn)
        except Fault as fault:
            self.memory.undo()
            self.pending, self.shadow = 0, NONE
            error = fault.error if fault.vector in WITH_ERROR else None
            yield from self._take(Event(fault.vector, FAULT, rip, rip, before | RF, error, fault.cr2))
        except Interrupt as soft:
            self.shadow = NONE
            if soft.kind != SOFT:
                self.pending = 0
            yield from self._take(Event(soft.vector, soft.kind, rip + soft.length & M64, rip, before & ~RF))
        except GeneralDetect:
            self._debug_status(DR6_BD)
            self.pending, self.shadow = 0, NONE
            yield from self._take(Event(1, FAULT, rip, rip, before | RF))
        else:
            state.rip &= M64
            self._complete(insn, effects, rip, tf)
            stores = list(self.memory.stores)
            yield Retired(rip, insn, self.mid_rep, stores, effects.free)

    def _execute(self, insn: Insn) -> Effects:
        handler = SYSTEM.get((insn.map, insn.opcode))
        if length(insn.data) > 15 or insn.head > 14:
            raise gp()
        if insn.has(0xF0) and not insn.lockable:
            raise Fault(6)
        if handler is None:
            self.plain.step(self.state, insn)
            return Effects()
        if (insn.map, insn.opcode) == (0, 0xCF):
            self.nmi_blocked = False  # even if it faults
        return handler(self.state, insn)

    def _complete(self, insn: Insn, effects: Effects, rip: int, tf: int) -> None:
        """The boundary after an instruction: pending traps, shadow, sleep (3.8)."""
        again = insn.map == 0 and 0xA4 <= insn.opcode < 0xB0 and insn.opcode not in (0xA8, 0xA9)
        self.mid_rep = again and self.state.rip == rip
        step = tf if effects.single_step is None else effects.single_step
        if step and not effects.mov_ss:
            self.pending |= DR6_BS
        self.pending |= self._hits(effects)
        if effects.mov_ss and (self.shadow != MOVSS or self.vendor == "amd"):
            self.shadow = MOVSS
        elif effects.mov_ss:
            self.shadow = NONE
            if tf:
                self.pending |= DR6_BS  # the second of a sequence: its own trap comes (3.6)
        else:
            self.shadow = STI if effects.sti else NONE
        self.asleep = effects.halt

    # --- breakpoints

    def _slots(self) -> Iterator[tuple[int, int, int, int]]:
        """Enabled breakpoints: bit, condition, address, bytes."""
        dr7 = self.state.dr[7]
        for n in range(4):
            if dr7 >> 2 * n & 3:
                size = (1, 2, 8, 4)[dr7 >> 18 + 4 * n & 3]
                yield 1 << n, dr7 >> 16 + 4 * n & 3, self.state.dr[n], size

    def _breakpoint(self) -> int:
        """Instruction breakpoints at rip."""
        return sum(bit for bit, kind, address, _ in self._slots() if kind == 0 and address == self.state.rip)

    def _hits(self, effects: Effects) -> int:
        """Data and I/O breakpoints that the instruction has hit."""
        if not self.state.dr[7] & 0xFF:
            return 0
        found = 0
        for bit, kind, address, size in self._slots():
            start = address & ~(size - 1)
            accesses = [] if kind in (0, 2) else self.memory.stores + (self.memory.loads if kind == 3 else [])
            if kind == 2 and self.state.cr4 & CR4_DE and effects.port is not None:
                accesses = [effects.port]
            if any(at < start + size and start < at + n for at, n in accesses):
                found |= bit
        return found


__all__ = ["Dead", "Delivered", "Illegal", "Item", "Model", "Retired", "Taken"]
