"""Kprobes on a kernel's functions: the same results as without, and as many hits as the emulator counted executions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hw.isa.reference import split
from sim.machine import Kprobe, KprobeError, Machine

#: The functions that the first kprobes patch was shown with: planted even though they do not run.
SEEDS = ("__blockdev_direct_IO", "ip_queue_xmit", "__ip_queue_xmit")

#: What repeats is executed once and counted by the emulator for each time: no count to compare.
_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_REP = (0xF2, 0xF3)
_STRING = frozenset((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF))


def instructions(machine: Machine, function: str) -> Iterator[tuple[int, bytes]]:
    """Yield address and bytes of each instruction from a function's start to its end."""
    start = machine.symbols.lookup(function)
    symbol = machine.symbols.containing(start) if start is not None else None
    if symbol is None or start is None:
        return
    code = machine.mem.read(start, symbol.end - start)
    at = 0
    while at < len(code):
        parts = split(code[at : at + 15])
        if parts is None or parts.too_long:
            return
        yield start + at, parts.bytes
        at += parts.length


def places(machine: Machine, function: str, inner: int) -> list[int]:
    """Return the entry of a function, and `inner` instructions spread over the rest of it."""
    # int3 is filler behind jumps, and no place for a probe; one on endbr64 is moved behind it
    able = [
        address for address, code in instructions(machine, function) if not _repeats(code) and code not in (b"\xcc", _ENDBR64)
    ]
    rest = able[1:]
    count = min(inner, len(rest))
    return able[:1] + [rest[(2 * i + 1) * len(rest) // (2 * count)] for i in range(count)]


def _repeats(code: bytes) -> bool:
    return any(byte in _REP for byte in code[:-1]) and code[-1] in _STRING


@dataclass
class Planted:
    """Probes on a machine. `refused`: places that kprobes turned down, with the reason in a few words."""

    machine: Machine
    probes: dict[int, Kprobe] = field(default_factory=dict)
    posts: Counter[int] = field(default_factory=Counter)
    refused: dict[int, str] = field(default_factory=dict)

    def plant(self, addresses: Iterable[int]) -> None:
        """Register a probe at each address, with a pre- and a post_handler that change nothing."""
        for address in dict.fromkeys(addresses):
            probe = Kprobe(addr=address, pre_handler=lambda p, regs: None, post_handler=self._after)
            try:
                self.machine.kprobes.register_kprobe(probe)
            except KprobeError as error:
                self.refused[address] = str(error.strerror or error).splitlines()[0]
            else:
                self.probes[address] = probe

    def _after(self, probe: Kprobe, regs: object, flags: int) -> None:
        assert probe.addr is not None
        self.posts[probe.addr] += 1

    @property
    def hits(self) -> int:
        """Hits of all probes."""
        return sum(probe.hits for probe in self.probes.values())

    def difference(self, executed: Counter[int]) -> str | None:
        """Compare hits with how often the emulator executed the instructions; the first difference, or None."""
        for address, probe in self.probes.items():
            where = self.machine.symbols.describe(address)
            if probe.hits != executed[address]:
                return f"the probe at {where} has {probe.hits} hits, the instruction was executed {executed[address]} times"
            if probe.nmissed or self.posts[address] != probe.hits:
                missed = f"{probe.nmissed} missed, {self.posts[address]} post_handlers"
                return f"the probe at {where} has {probe.hits} hits, {missed}"
        return None

    def remove(self) -> None:
        """Unregister all: the kernel's text is as it was."""
        for probe in self.probes.values():
            self.machine.kprobes.unregister_kprobe(probe)
