"""What the runtime tells whoever watches: the phases of each hit.

The events of one trap are given during ``Kprobes.on_trap``; the machine knows the cycle of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kprobes.probes import Kprobe


class Phase(StrEnum):
    """The phases of a hit, in the order in which they can occur."""

    HIT = "hit"                      # an int3 of ours, with no probe running on this cpu
    MISS = "miss"                    # an int3 of ours inside another hit: no handlers, nmissed counted
    PRE = "pre"                      # pre_handler has returned ``result``
    JPROBE_ENTRY = "jprobe_entry"    # the guest leaves the trap to the jprobe's handler
    JPROBE_RETURN = "jprobe_return"  # jprobe_return was reached; registers and stack are restored
    STEP = "step"                    # the guest leaves the trap to the slot, with TF set
    FAULT = "fault"                  # a fault inside the hit; ``result`` is fault_handler's, None when there is none
    POST = "post"                    # post_handler has returned
    RESUME = "resume"                # the hit is over; the guest continues at ``ip``


@dataclass(frozen=True, slots=True)
class ProbeEvent:
    """One phase of one hit: ``addr`` is the probed address, ``ip`` is ``regs.ip`` at that moment."""

    kind: Phase
    cpu: int
    probe: Kprobe
    addr: int
    ip: int
    result: int | None = None


#: An observer is called with each event; it must not raise and must not change anything.
Observer = Callable[[ProbeEvent], object]
