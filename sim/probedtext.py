"""The code at probed places: what its author wrote, and what no hart may ever run there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hw.bus import HIGH_BASE
from sim.events import Event, Retire
from sim.machine import Machine, Region
from sim.outcome import runtime_text

#: Bytes of the longest instruction, and of a jump in place of a breakpoint.
MAX_INSN_SIZE, JUMP_SIZE = 15, 5

_JUMP = b"\xe9"


def original(machine: Machine, address: int) -> bytes:
    """Return the guest's code at an address where there may be a breakpoint, a jump or a call."""
    probe = machine.kprobes.get_kprobe(address)
    covered = b""
    if probe is not None:
        region = machine.kprobes.region_of(probe)
        covered = b"".join(insn.data for insn in region.insns) if isinstance(region, Region) else bytes([probe.opcode])
    return covered + machine.mem.read(address + len(covered), MAX_INSN_SIZE)


def torn(machine: Machine, events: Iterable[Event], address: int, code: bytes) -> Iterator[str]:
    """Yield, in words, instructions at an address that neither the guest's author nor the runtime has written there.

    `code`: what its author wrote. `events`: with Retire events of the address.
    """
    start, end = runtime_text(machine)
    ran: dict[tuple[int | None, bytes], list[int]] = {}
    for event in events:
        if isinstance(event, Retire) and event.pc == address and event.last and not event.delivery:
            ours = start <= event.next_pc % HIGH_BASE < end
            if not ours and not code.startswith(event.bytes):
                ran.setdefault((event.hart, event.bytes), []).append(event.cycle)
    where = machine.symbols.describe(address)
    for (hart, mixed), cycles in ran.items():
        more = f", {len(cycles)} times to cycle {cycles[-1]}" if len(cycles) > 1 else ""
        yield f"hart {hart} ran {mixed.hex(' ')} at {where} in cycle {cycles[0]}{more}, a mixture of old and new bytes"


def left(machine: Machine, address: int, code: bytes) -> Iterator[str]:
    """Yield, in words, what a removed probe has left behind; a jump may stay for a while."""
    there, wanted = machine.mem.read(address, JUMP_SIZE), code[:JUMP_SIZE]
    if there != wanted and there[:1] != _JUMP:
        yield f"{machine.symbols.describe(address)} holds {there.hex(' ')} instead of {wanted.hex(' ')}"
