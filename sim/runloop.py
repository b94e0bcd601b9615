"""How a machine runs: the engine until something is to be served, and what is done between instructions.

Between instructions are the runtime's own work (`Kprobes.work`) and fetching anew: a hart may have fetched what memory no
longer holds, and drops it at the next boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from kprobes import HandlerError, KprobePanic
from sim.engine import NEVER, Stop, StopOn, StopReason
from sim.trapport import Call

if TYPE_CHECKING:
    from sim.machine import Machine


class RunLoop:
    """Runs the harts of a machine, for `Machine.run` and for the machine's parts.

    Members: stale: numbers of the harts that are to fetch their code again. requested: a request to the runtime is under way.
    """

    def __init__(self, machine: Machine):
        self._machine, self._engine = machine, machine.engine
        self.stale: set[int] = set()
        self.requested = False
        self._ended: Stop | None = None
        self._raised: Exception | None = None
        self._worked = -1

    def fetch_anew(self, harts: Iterable[int] | None = None) -> None:
        """Let harts, by default all, fetch their code again before they run on: memory has changed under way."""
        self.stale.update(range(len(self._machine.harts)) if harts is None else harts)

    def fetches(self, hart: int) -> None:
        """Take note that a hart will fetch its code again without help."""
        self.stale.discard(hart)

    def ends(self, ended: Stop) -> None:
        """Let the next run end with this, which came while a request was under way."""
        self._ended = self._ended or ended

    def run(self, cycles: int, stop: StopOn) -> Stop:
        """Do what the user asked for: an exception that comes out is the end, whatever else was to be."""
        try:
            return self.advance(cycles, stop)
        except BaseException:
            self._ended = None
            raise

    def advance(
        self, cycles: int, stop: StopOn = NEVER, call: Call | None = None, done: Callable[[], bool] | None = None
    ) -> Stop:
        """Run at most `cycles`, serving TrapPort requests, until another event; with `call` until its request, with `done`
        until that holds.

        While a handler or a request to the runtime is under way, an exit of the guest and what handlers raise wait for its
        end. Outside of a handler, the cycles of handlers' calls count.
        """
        machine, engine = self._machine, self._engine
        first, began, own = self._retired(stop), engine.cycle, 0
        while True:
            if machine.idle and self._raised is not None:
                error, self._raised = self._raised, None
                raise error
            if self._ended is not None and machine.idle:
                ended, self._ended = self._ended, None
                return ended
            left = stop
            if stop.retired is not None:
                left = replace(stop, retired=max(0, stop.retired - (self._retired(stop) - first)))
            budget = cycles - (own if call else engine.cycle - began)
            if budget <= 0:
                return Stop(StopReason.MAX_CYCLES, None, own)
            if (self.stale or self._work_is_due()) and self._busy():
                budget = 1
            elif machine.idle and machine.deadline is not None:
                budget = min(budget, max(1, machine.deadline - engine.cycle))
            if done is not None and done():
                return Stop(StopReason.MAX_CYCLES, None, own)
            ended = self._run(budget, left)
            own += ended.cycles
            if ended.reason == StopReason.TRAP_REQUEST:
                assert ended.hart is not None
                if call is not None and ended.hart == call.hart and machine.port.meets(call):
                    return replace(ended, cycles=own)
                self._serve(ended.hart)
            elif ended.reason == StopReason.EXIT and not machine.idle:
                self.ends(ended)
            elif ended.reason != StopReason.MAX_CYCLES:
                return replace(ended, cycles=own)

    @contextmanager
    def request(self) -> Iterator[None]:
        """While a request to the runtime waits for the harts."""
        self.requested = True
        try:
            yield
        finally:
            self.requested = False

    def pieces(self, cycles: int, done: Callable[[], bool]) -> Iterator[Stop]:
        """Run the harts, within a request, until `done`; yield how each piece of at most `cycles` ended."""
        while not done():
            ended = self.advance(cycles, done=done)
            if ended.reason == StopReason.SHUTDOWN:
                self.ends(ended)
            yield ended

    def sync(self) -> None:
        """Let every hart fetch again what it had fetched before memory was written (`Machine.sync`)."""
        while self.stale and self._ended is None and self._busy():
            ended = self.advance(1)
            if ended.reason != StopReason.MAX_CYCLES:
                self._ended = ended

    def _serve(self, hart: int) -> None:
        try:
            self._machine.port.serve(hart)
        except (HandlerError, KprobePanic) as error:
            if not self.requested:
                raise
            self._raised = self._raised or error

    def _run(self, cycles: int, stop: StopOn) -> Stop:
        """Let the engine run, and take what it recorded."""
        try:
            return self._engine.run(cycles, stop)
        finally:  # a DesignError leaves the events that led to it
            self._machine.drain()

    def _retired(self, stop: StopOn) -> int:
        return sum(hart.retired for hart in self._machine.harts if stop.hart in (None, hart.number))

    def _work_is_due(self) -> bool:
        machine = self._machine
        return machine.idle and machine.deadline is not None and machine.deadline <= machine.cycle != self._worked

    def _busy(self) -> bool:
        """Do what is to be done between instructions: the runtime's work, and fetching anew; True: it has to wait for some."""
        if self._work_is_due():
            states = [hart.state for hart in self._machine.harts]
            if any(state.trap_request or not state.boundary for state in states):
                return True
            self._worked = self._engine.cycle
            self._machine.kprobes.work()
        return self._refetch()

    def _refetch(self) -> bool:
        """Let harts fetch again what they had fetched before memory was written; True: one has to come to a boundary first.

        One that waits in a TrapPort store of an entry stub does so anyway.
        """
        port, waiting = self._machine.port, False
        for hart in sorted(self.stale):
            state = self._engine.state(hart)
            if port.waits(hart):
                if port.leaves_by_iretq(hart):
                    self.stale.discard(hart)
            elif state.shutdown:
                self.stale.discard(hart)
            elif state.boundary and not state.trap_request:
                self._engine.refetch(hart)
                self.stale.discard(hart)
            else:
                waiting = True
        return waiting
