"""What the runtime tells whoever watches: the phases of each hit.

The events of one trap are given during ``Kprobes.on_trap``; the machine knows the cycle of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kprobes.probes import Kprobe, Miss


class Phase(StrEnum):
    """The phases of a hit, in the order in which they can occur."""

    HIT = "hit"                      # an int3 of ours, with no probe running on this cpu
    MISS = "miss"                    # executed without its handlers; ``reason`` says why
    PRE = "pre"                      # pre_handler has returned ``result``
    JPROBE_ENTRY = "jprobe_entry"    # the guest leaves the trap to the jprobe's handler
    JPROBE_RETURN = "jprobe_return"  # jprobe_return was reached; registers and stack are restored
    STEP = "step"                    # the guest leaves the trap to the slot, and comes back by a trap behind the copy
    BOOST = "boost"                  # the guest leaves the trap to the slot, which jumps back by itself
    DETOUR = "detour"                # the guest goes on in the detour's copies; with a jump, without any trap
    EMULATE = "emulate"              # the runtime has done what the instruction does
    FAULT = "fault"                  # a fault inside the hit; ``result`` is fault_handler's, None when there is none
    RETURN = "return"                # the handler of a kretprobe has returned
    POST = "post"                    # post_handler has returned
    RESUME = "resume"                # the hit is over; the guest continues at ``ip``


@dataclass(frozen=True, slots=True)
class ProbeEvent:
    """One phase of one hit: ``addr`` is the probed address, ``ip`` is ``regs.ip`` at that moment.

    ``probe`` is the one whose handler ran, or the newest at the address where the phase is all probes'; None when it was
    removed before its trap was looked at.
    """

    kind: Phase
    cpu: int
    probe: Kprobe | None
    addr: int
    ip: int
    result: int | None = None
    reason: Miss | None = None


#: An observer is called with each event; it must not raise and must not change anything.
Observer = Callable[[ProbeEvent], object]
