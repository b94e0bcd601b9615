"""Runs cases on the core and on the emulator, and compares: registers, memory, and what Python knows."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sim.engine import StopOn, StopReason
from sim.kernel.cases.base import FILL, At, Call, Case, Content, Load, Mem, Result, Sym
from sim.kernel.emulator import NAMES, Emulator, EmulatorError
from sim.kernel.guest import ARENA_BYTES, RETURN, STACK_BYTES, Layout, cpuid_of
from sim.machine import Machine

MASK = (1 << 64) - 1

#: Where the first six arguments go (System V AMD64 ABI, 3.2.3); more go onto the stack.
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")

#: Compared after a call. The flags are not a result, and some are undefined.
COMPARED = tuple(name for name in NAMES if name not in ("rip", "rflags"))

#: No call may take longer.
MAX_CYCLES, MAX_SECONDS = 50_000_000, 60.0

_GUARD = 64

#: Reads memory: address, size.
Reader = Callable[[int, int], bytes]


class Missing(LookupError):
    """The kernel has no such symbol."""


@dataclass
class Outcome:
    """A case that was run. `difference`: the first that was found, None if all is equal; `checks`: values Python knew.

    `executed`: how often the emulator came by the instructions that it counts.
    """

    case: Case
    difference: str | None = None
    missing: str | None = None
    cycles: int = 0
    instructions: int = 0
    checks: int = 0
    executed: Counter[int] = field(default_factory=Counter)

    @property
    def equal(self) -> bool:
        """Whether it was run and nothing differs."""
        return self.difference is None and self.missing is None


@dataclass
class Placed:
    """The objects of a case with their addresses, and the memory that they and the space between them take."""

    addresses: dict[Mem, int]
    start: int
    data: bytes

    def describe(self, address: int) -> str:
        """Name the object that a byte belongs to."""
        for mem, start in self.addresses.items():
            if start <= address < start + mem.size:
                return f"{mem.name} at {start:#x}, offset {address - start:#x} of {mem.size:#x}"
        return f"{address:#x}, which is outside of every object"


@dataclass
class _After:
    """What a case left behind on one executor."""

    registers: list[dict[str, int]] = field(default_factory=list)
    memory: bytes = b""
    stack: bytes = b""


class Runner:
    """Runs cases, one behind the other, on a machine that `sim.kernel.guest.start` made.

    Both executors begin with the same memory; what a case changes outside of its objects stays, on both, and is compared by
    `compare_all` at the end.
    """

    def __init__(self, machine: Machine, layout: Layout, base: int):
        self.machine, self.layout, self._base = machine, layout, base
        until = machine.symbols.lookup(RETURN)
        assert until is not None
        self._until = until
        self.emulator = Emulator(machine.mem.read(base, layout.ram_bytes), base, layout.percpu, cpuid_of(machine))

    # Where things are.

    def address(self, name: str) -> int:
        """Return the address of a symbol; Missing without one."""
        address = self.machine.symbols.lookup(name)
        if address is None:
            raise Missing(name)
        return address

    def place(self, case: Case) -> Placed:
        """Give the objects of a case their addresses and contents."""
        at, addresses = self.layout.arena + _GUARD, {}
        for mem in case.objects():
            at = (at + mem.align - 1) & -mem.align
            addresses[mem] = at
            at += mem.size + _GUARD
        if at > self.layout.arena + ARENA_BYTES:
            raise ValueError(f"the objects of the case {case.name!r} take more than {ARENA_BYTES:#x} bytes")
        data = bytearray([FILL]) * (at - self.layout.arena)
        for mem, start in addresses.items():
            offset = start - self.layout.arena
            data[offset : offset + mem.size] = self._bytes(mem.parts, addresses)
        return Placed(addresses, self.layout.arena, bytes(data))

    def _bytes(self, content: Content, addresses: dict[Mem, int]) -> bytes:
        parts = (content,) if isinstance(content, bytes) else content
        return b"".join(p if isinstance(p, bytes) else struct.pack("<Q", self._value(p, addresses)) for p in parts)

    def _value(
        self, value: object, addresses: dict[Mem, int], results: Sequence[dict[str, int]] = (), read: Reader | None = None
    ) -> int:
        match value:
            case Mem():
                return addresses[value]
            case At(mem, offset):
                return addresses[mem] + offset
            case Sym(name):
                return self.address(name)
            case Result(call):
                return results[call]["rax"]
            case Load(mem):
                assert read is not None
                return int.from_bytes(read(addresses[mem], 8), "little")
        assert isinstance(value, int)
        return value & MASK

    def _registers(
        self, call: Call, addresses: dict[Mem, int], done: list[dict[str, int]], read: Reader
    ) -> tuple[dict[str, int], bytes]:
        """Return the registers at the entry of a function, and the top of the stack: return address, more arguments."""
        values = [self._value(argument, addresses, done, read) for argument in call.arguments]
        pushed = struct.pack(f"<{1 + len(values[6:])}Q", self._until, *values[6:])
        registers = {name: 0x1111_1111_1111_1111 * n & MASK for n, name in enumerate(NAMES)}
        # aligned before the call pushed the return address
        room = (len(pushed) - 8 + 15) // 16 * 16 + 64
        registers |= {"rsp": self.layout.stack_top - room - 8, "rip": self.address(call.function), "rflags": 2, "rax": 0}
        return registers | dict(zip(ARGUMENTS, values, strict=False)), pushed

    # The two executors.

    def _on_emulator(self, case: Case, placed: Placed, after: _After, outcome: Outcome) -> None:
        self.emulator.counts.clear()
        self.emulator.write(placed.start, placed.data)
        self.emulator.write(self.layout.stack, bytes(STACK_BYTES))
        for call in case.calls:
            registers, pushed = self._registers(call, placed.addresses, after.registers, self.emulator.read)
            self.emulator.write(registers["rsp"], pushed)
            after.registers.append(self.emulator.call(registers, self._until, MAX_SECONDS))
        after.memory = self.emulator.read(placed.start, len(placed.data))
        after.stack = self.emulator.read(self.layout.stack, STACK_BYTES)
        outcome.executed = self.emulator.counts.copy()

    def run(self, case: Case, *, stack: bool = True) -> Outcome:
        """Run a case on both and compare. Without `stack` the dead stack is not compared: traps push there."""
        outcome, expected, got = Outcome(case), _After(), _After()
        try:
            placed = self.place(case)
            for call in case.calls:
                self.address(call.function)
            self._on_emulator(case, placed, expected, outcome)
        except Missing as error:
            outcome.missing = str(error)
            return outcome
        except EmulatorError as error:
            outcome.difference = f"{error} ({self.machine.symbols.describe(self._until)} was not reached)"
            return outcome
        outcome.difference = (
            self._on_core(case, placed, got, outcome)
            or self._compare(case, placed, expected, got, stack)
            or self._check(case, placed, got, outcome)
        )
        return outcome

    def _on_core(self, case: Case, placed: Placed, after: _After, outcome: Outcome) -> str | None:
        machine, regs = self.machine, self.machine.harts[0].regs
        machine.mem.write(placed.start, placed.data)
        machine.mem.write(self.layout.stack, bytes(STACK_BYTES))
        for number, call in enumerate(case.calls):
            registers, pushed = self._registers(call, placed.addresses, after.registers, machine.mem.read)
            machine.mem.write(registers["rsp"], pushed)
            machine.engine.run(1000, StopOn(boundary=True, hart=0))
            for name, value in registers.items():
                regs[name] = value
            # until the jump at RETURN has retired: a step of the last instruction, a probed `ret`, ends before that
            ended = machine.run(until=StopOn(pc=self._until), max_cycles=MAX_CYCLES)
            outcome.cycles += ended.cycles
            outcome.instructions += ended.retired - 1
            if ended.reason != StopReason.PC:
                where = machine.symbols.describe(regs.rip)
                traps = [f"{trap.vector} at {machine.symbols.describe(trap.rip)}" for trap in ended.unhandled]
                why = f"trap {', '.join(traps)}" if traps else ended.reason.name.lower().replace("_", " ")
                return f"call {number} ({call.function}) does not return: {why}, rip {where}"
            after.registers.append({name: regs[name] for name in COMPARED})
        after.memory = machine.mem.read(placed.start, len(placed.data))
        after.stack = machine.mem.read(self.layout.stack, STACK_BYTES)
        return None

    # Comparing.

    def _compare(self, case: Case, placed: Placed, expected: _After, got: _After, stack: bool) -> str | None:
        for number, (call, ours, theirs) in enumerate(zip(case.calls, got.registers, expected.registers, strict=True)):
            for name in COMPARED:
                if ours[name] != theirs[name]:
                    return (
                        f"call {number} ({call.function}): {name} is {ours[name]:#x}, the emulator has {theirs[name]:#x}"
                    )
        at = first_difference(got.memory, expected.memory)
        if at is not None:
            where = placed.describe(placed.start + at)
            return f"memory: {got.memory[at]:#04x} in {where}; the emulator has {expected.memory[at]:#04x}"
        at = first_difference(got.stack, expected.stack) if stack else None
        if at is not None:
            return f"stack: {got.stack[at]:#04x} at {self.layout.stack + at:#x}, the emulator has {expected.stack[at]:#04x}"
        return None

    def _check(self, case: Case, placed: Placed, got: _After, outcome: Outcome) -> str | None:
        """Compare with what Python knows."""
        for number, (call, registers) in enumerate(zip(case.calls, got.registers, strict=True)):
            if call.returns is not None:
                mask = (1 << call.bits) - 1
                known, value = self._value(call.returns, placed.addresses) & mask, registers["rax"] & mask
                outcome.checks += 1
                if value != known:
                    return f"call {number} ({call.function}) returns {value:#x}, Python has {known:#x}"
        for mem, content in case.after.items():
            known, start = self._bytes(content, placed.addresses), placed.addresses[mem] - placed.start
            at = first_difference(got.memory[start : start + len(known)], known)
            outcome.checks += 1
            if at is not None:
                where = placed.describe(placed.addresses[mem] + at)
                return f"memory: {got.memory[start + at]:#04x} in {where}, Python has {known[at]:#04x}"
        return None

    def compare_all(self) -> str | None:
        """Compare RAM up to the stack and the objects, which were compared case by case; return the first difference."""
        size = self.layout.stack - self._base
        ours, theirs = self.machine.mem.read(self._base, size), self.emulator.read(self._base, size)
        at = first_difference(ours, theirs)
        if at is None:
            return None
        where = self.machine.symbols.describe(self._base + at)
        return f"after all cases: {ours[at]:#04x} at {self._base + at:#x} ({where}), the emulator has {theirs[at]:#04x}"


def first_difference(ours: bytes, theirs: bytes) -> int | None:
    """Return the index of the first byte that differs, or None."""
    if ours == theirs:
        return None
    low, high = 0, min(len(ours), len(theirs))
    while low < high:  # ours[:low] is equal, ours[:high] is not, or the lengths differ
        middle = (low + high + 1) // 2
        if ours[low:middle] == theirs[low:middle]:
            low = middle
        elif middle == low + 1:
            return low
        else:
            high = middle
    return low

