"""What the runtime raises: a refusal, a failing handler, and the end of the road.

``KprobeError`` is what the kernel returns as a negative errno; the request had no effect. ``HandlerError`` is an
exception of the user's own handler with the probe's name on it. ``KprobePanic`` is where the kernel calls ``BUG()``.
"""

from __future__ import annotations

import errno as _errno
from enum import StrEnum


class Rule(StrEnum):
    """The rules by which a registration is refused, in the order in which they are asked (register_kprobe,
    kernel/kprobes.c; register_kretprobe; can_probe and prepare_singlestep, arch/x86/kernel/kprobes/core.c)."""

    ADDRESS = "address"          # exactly one of symbol_name and addr, which leads into a symbol
    REGISTERED = "registered"    # a struct is registered once
    FENTRY = "fentry"            # a function's entry call site belongs to function tracing
    TEXT = "text"                # the address lies in code
    MODULE = "module"            # the module that it lies in is there to stay
    BLACKLIST = "blacklist"      # it is not code that handles probes, nor data between functions
    AGGREGATE = "aggregate"      # the probes at one address must agree
    BOUNDARY = "boundary"        # an instruction begins there, of a kind that is there to be executed
    MEMORY = "memory"            # there is room for a copy
    INSTRUCTION = "instruction"  # the instruction can be displaced
    EMULATION = "emulation"      # it can be executed in the registry's way of stepping
    ROOM = "room"                # the breakpoint behind the copy fits into the slot
    ARMING = "arming"            # the breakpoint can be written
    ENTRY = "entry"              # a return probe or a jprobe's handler begins where a function begins
    SIZE = "size"                # a return probe's private data has a limit


class KprobeError(OSError):
    """A request was refused; guest memory and the table of probes are as they were before it.

    ``errno`` is the number that the kernel returns, negated there; the message says why, and what to do. ``rule`` names
    the rule of a registration that was broken; None for other requests.
    """

    def __init__(self, code: int, message: str, rule: Rule | None = None):
        super().__init__(code, message)
        self.rule = rule

    def __str__(self) -> str:
        code = self.errno or 0
        name = "EOPNOTSUPP" if code == _errno.EOPNOTSUPP else _errno.errorcode.get(code, str(code))
        reason, *picture = str(self.strerror).split("\n")
        return "\n".join([f"{reason} ({name})", *picture])


class HandlerError(Exception):
    """A Python handler raised; its exception is the ``__cause__``.

    The runtime has ended the hit: no cpu is inside a probe because of it, and every probe can be unregistered. The
    guest's registers are those that it would have had without the failing handler: before the probed instruction for a
    pre_handler, a fault_handler or a jprobe, after it for a post_handler.
    """

    def __init__(self, probe: str, handler: str, cause: str):
        super().__init__(f"{handler} of the probe on {probe} raised {cause}")
        self.probe = probe
        self.handler = handler


class GuestCallError(RuntimeError):
    """A handler's call of a guest function has no result: no handler is under way, or the function did not return.

    The cpu is where it was before the call; what the function did to memory stays.
    """


class KprobePanic(RuntimeError):
    """The guest cannot be continued as if it were not probed; the message names the probe.

    The kernel's ``BUG()``: a hit on the third level of nesting, a jprobe that came back on the wrong stack or did not
    call ``jprobe_return``. The hit has been dropped, so that every probe can still be unregistered.
    """
