"""How every hart comes to see code that the runtime has changed, before the runtime goes on (sync_core, text_poke_sync).

    ipi      an interprocessor interrupt to every hart that runs. The guest's handler serialises the hart, stores to a door of
             the machine and writes EOI; the runtime waits for all of them, and what traps meanwhile is served
             (`sim/guest/sync.S`)
    refetch  each hart drops what it has fetched, through the debug port, between two instructions: no guest code
    none     nothing, to see what comes of that

With "ipi" the debug port is used for harts that no interrupt can make run old code, or reach: those that are asleep with
interrupts off or have shut down, those without the handler (`HANDLER` behind `VECTOR` in their IDT, which a guest puts there
when the hart's controller is on), and those that have not answered after `PATIENCE` cycles, with interrupts off for example. A
hart that did not answer is asked again when its interrupts are on; should it be in the handler then, for the interrupt of
before, its answer may be as old as that, and it is not asked.

The runtime sends them as a processor outside of the system would (`hw.soc.Soc`, ipi).

Source: arch/x86/kernel/alternative.c; IDT: SDM vol. 3, 6.14.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from hw.isa.facts import RFlag
from sim.engine import StopReason
from sim.events import Synced
from sim.harts import HartView
from sim.memory import GuestMemoryError

if TYPE_CHECKING:
    from sim.machine import Machine

How = Literal["ipi", "refetch", "none"]

#: The vector (CALL_FUNCTION_VECTOR of Linux), and the guest's handler.
VECTOR, HANDLER = 0xFB, "sync_core_entry"

#: A hart has so many cycles to answer. It is looked after the harts each so many.
PATIENCE, CHUNK = 20_000, 64


class CoreSync:
    """Serialises the harts of a machine."""

    def __init__(self, machine: Machine, how: How | None = None):
        """`how`: by default "ipi" with several harts, "refetch" with one."""
        if how is not None and how not in get_args(How):
            raise ValueError(f"sync is {how!r}; it must be one of {', '.join(map(repr, get_args(How)))}")
        self._machine = machine
        self.how: How = how or ("ipi" if len(machine.harts) > 1 else "refetch")
        self._asked = 0
        self._waiting: set[int] = set()
        self._owing: set[int] = set()  # harts that were given up, and may answer yet

    def sync(self) -> None:
        """Let every hart serialise, and wait until all have.

        Nothing is waited for from inside a handler, whose hart cannot be interrupted, and on a machine with one hart that
        takes no interrupt: harts fetch again before they run on.
        """
        if self.how == "none":
            return
        machine = self._machine
        if not machine.port.idle:
            machine.loop.fetch_anew()
            return
        asked = [hart for hart in machine.harts if self.how == "ipi" and self._can_ask(hart)]
        numbers = {hart.number for hart in asked}
        machine.loop.fetch_anew(hart.number for hart in machine.harts if hart.number not in numbers)
        if len(machine.harts) == 1 and not asked:
            return
        self._waiting, self._asked = numbers, machine.cycle
        for hart in asked:
            hart.ipi(VECTOR)
        try:
            self._wait()
        finally:
            self._owing |= self._waiting
            self._waiting = set()

    def synced(self, hart: int) -> None:
        """Take note that a hart has serialised."""
        self._owing.discard(hart)
        if hart in self._waiting:
            self._waiting.discard(hart)
            self._machine.note(Synced(hart, self._machine.cycle, self._asked, "interrupt"))

    def _wait(self) -> None:
        """Let the harts run until all are done, those that the debug port is for included."""
        machine, last = self._machine, self._asked + PATIENCE
        with machine.loop.request():
            for ended in machine.loop.pieces(CHUNK, self._done):
                late, asleep = machine.cycle >= last, ended.reason == StopReason.HALTED
                for number in sorted(self._waiting):
                    if late or machine.harts[number].state.shutdown or (asleep and not self._enabled(number)):
                        self._give_up(number)

    def _give_up(self, number: int) -> None:
        machine = self._machine
        self._waiting.discard(number)
        self._owing.add(number)
        machine.loop.fetch_anew([number])
        machine.note(Synced(number, machine.cycle, self._asked, "debug port"))

    def _done(self) -> bool:
        return not self._waiting and not self._machine.loop.stale

    def _can_ask(self, hart: HartView) -> bool:
        """Whether a hart runs, or would wake up, has the handler, and will not answer an earlier question."""
        state, owes = hart.state, hart.number in self._owing
        if state.shutdown or (not self._enabled(hart.number) and (state.halted or owes)):
            return False
        return self._has_handler(hart) and not (owes and self._in_handler(hart))

    def _enabled(self, number: int) -> bool:
        return bool(self._machine.harts[number].regs.rflags >> RFlag.IF & 1)

    def _in_handler(self, hart: HartView) -> bool:
        start = self._machine.symbols.lookup(HANDLER)
        handler = None if start is None else self._machine.symbols.containing(start)
        return handler is not None and handler.start <= hart.regs.rip < handler.end

    def _has_handler(self, hart: HartView) -> bool:
        entry = self._machine.symbols.lookup(HANDLER)
        if entry is None or hart.regs.idt_limit < 16 * VECTOR + 15:
            return False
        try:
            gate = self._machine.mem.read(hart.regs.idt_base + 16 * VECTOR, 16)
        except GuestMemoryError:
            return False
        return bool(gate[5] >> 7) and int.from_bytes(gate[:2] + gate[6:12], "little") == entry
