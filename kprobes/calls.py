"""Hooked calls under way: found by their return slot, and in order on each stack.

A call is known by the address of its return slot, ``fp``, which no other call that is under way can have. So calls pair with
their returns whatever the guest does with its stacks and tasks, on any cpu.

They are also kept in order for each stack (``Guest.stack_end``), as a kernel does for each task: a call below a frame that is
entered or left can only have been jumped out of (longjmp), and is *lost*. It stays known, though, until its slot holds
something else, because a guest with several stacks in one piece of memory may yet come back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kprobes.probes import KretprobeInstance


@dataclass(eq=False, slots=True)
class Call:
    """A hooked call: its return slot, the address that belongs there, its stack, and the instances, newest last.

    Several kretprobes on one function and tail calls share a slot, and so a call with one real return address.
    """

    fp: int
    ret_addr: int
    stack: int
    instances: list[KretprobeInstance] = field(default_factory=list[KretprobeInstance])
    lost: bool = False


class Calls:
    """The calls of one guest. ``on_lost`` is told of each that is lost, ``on_found`` of each that has come back."""

    def __init__(self, on_lost: Callable[[Call], None], on_found: Callable[[Call], None]):
        self._on_lost = on_lost
        self._on_found = on_found
        self._calls: dict[int, Call] = {}              # by fp
        self._stacks: dict[int, dict[int, Call]] = {}  # by stack, then by fp: oldest and highest first; without lost ones
        self._lost: dict[int, Call] = {}               # by fp

    def __iter__(self) -> Iterator[Call]:
        return iter(tuple(self._calls.values()))

    def find(self, fp: int) -> Call | None:
        """Return the call whose return slot this is."""
        return self._calls.get(fp)

    @property
    def lost(self) -> tuple[Call, ...]:
        """The calls that seem to have been jumped out of."""
        return tuple(self._lost.values())

    def add(self, call: Call) -> None:
        """Take in a call that has just been entered: what is below it on its stack is lost."""
        self.lose_below(call.stack, call.fp)
        self._calls[call.fp] = call
        self._stacks.setdefault(call.stack, {})[call.fp] = call

    def remove(self, call: Call) -> None:
        """Forget a call."""
        del self._calls[call.fp]
        if call.lost:
            del self._lost[call.fp]
        else:
            self._off_stack(call)

    def leave(self, call: Call) -> None:
        """Forget a call that has returned: what is below it on its stack is lost, and it was not."""
        self.find_again(call)
        self.remove(call)
        self.lose_below(call.stack, call.fp)

    def find_again(self, call: Call) -> None:
        """A call is under way for certain: if it was lost, it has come back."""
        if call.lost:
            call.lost = False
            del self._lost[call.fp]
            self.lose_below(call.stack, call.fp)
            self._stacks.setdefault(call.stack, {})[call.fp] = call
            self._on_found(call)

    def lose_below(self, stack: int, fp: int) -> None:
        """What is newest on a stack, but below ``fp``, was left without a return."""
        while calls := self._stacks.get(stack):
            newest = next(reversed(calls))
            if newest >= fp:
                return
            self.lose(calls[newest])

    def lose(self, call: Call) -> None:
        """A call seems to have been jumped out of."""
        if not call.lost:
            self._off_stack(call)
            call.lost = True
            self._lost[call.fp] = call
            self._on_lost(call)

    def _off_stack(self, call: Call) -> None:
        stack = self._stacks[call.stack]
        del stack[call.fp]
        if not stack:
            del self._stacks[call.stack]
