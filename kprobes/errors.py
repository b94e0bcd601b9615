"""What the runtime raises: a refusal, a failing handler, and the end of the road.

``KprobeError`` is what the kernel returns as a negative errno; the request had no effect. ``HandlerError`` is an
exception of the user's own handler with the probe's name on it. ``KprobePanic`` is where the kernel calls ``BUG()``.
"""

from __future__ import annotations

import errno as _errno


class KprobeError(OSError):
    """A request was refused; guest memory and the table of probes are as they were before it.

    ``errno`` is the number that the kernel returns, negated there; the message says why, and what to do.
    """

    def __init__(self, code: int, message: str):
        super().__init__(code, message)

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


class KprobePanic(RuntimeError):
    """The guest cannot be continued as if it were not probed; the message names the probe.

    The kernel's ``BUG()``: a hit on the third level of nesting, a jprobe that came back on the wrong stack or did not
    call ``jprobe_return``. The hit has been dropped, so that every probe can still be unregistered.
    """
