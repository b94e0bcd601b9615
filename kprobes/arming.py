"""What makes a probed address reach the runtime: a breakpoint, or a call from a function's entry; and taking it away."""

from __future__ import annotations

from collections.abc import Callable

from kprobes.fentry import Fentry
from kprobes.insn import BREAKPOINT
from kprobes.optimizer import Optimizer
from kprobes.port import Guest, GuestMemoryError
from kprobes.step import Site
from kprobes.text import Text

_INT3 = bytes([BREAKPOINT])


class Arming:
    """Arms and disarms the sites of one guest; jumps in place of breakpoints are ``optimizer``'s. ``in_use`` tells whether a
    cpu is inside a hit of a site."""

    def __init__(self, guest: Guest, text: Text, fentry: Fentry, optimizer: Optimizer, in_use: Callable[[Site], bool]):
        self._guest = guest
        self._text = text
        self._fentry = fentry
        self._optimizer = optimizer
        self._in_use = in_use
        self._lifted: list[Site] = []

    def arm(self, site: Site) -> None:
        """Write the breakpoint and make every cpu see it; a jump that has not left yet stays instead.

        Other cpus may hit it before the last of them sees it. Raise ``GuestMemoryError`` with nothing changed when the text
        cannot be written.
        """
        if not site.fentry and self._optimizer.rescued(site):
            site.armed = True
            return
        if not site.fentry:
            self._optimizer.make_way(site.addr)
        site.armed = True
        try:
            if site.fentry:
                self._fentry.attach(site.addr)
            else:
                self._text.write(site.addr, _INT3)
        except BaseException:
            site.armed = False
            raise

    def disarm(self, site: Site) -> None:
        """Write the original bytes back; what is no longer ours belongs to somebody else by now and stays.

        A jump stays for now, and does nothing; the worker takes it out.
        """
        if not site.armed:
            return
        stays = self._optimizer.keeps(site)
        site.armed = False
        if stays:
            return
        if site.fentry:
            self._fentry.detach(site.addr)
            return
        try:
            ours = self._guest.read(site.addr, 1) == _INT3
        except GuestMemoryError:
            ours = False  # the text is gone altogether
        if ours:
            self._text.restore(site.addr)
        else:
            self._text.forget(site.addr, site.addr + 1)
        self._optimizer.review_before(site.addr)

    def abandon(self, site: Site) -> None:
        """The text of a site is about to vanish: forget what was done to it, and write nothing (kill_kprobe).

        A call at a function's entry is detached all the same, as the function tracer would do.
        """
        if site.fentry and site.armed:
            self._fentry.detach(site.addr)
        self._optimizer.abandon(site)
        site.armed = False

    def lift(self, site: Site) -> None:
        """Take the breakpoint of a hit out, until no cpu is inside a hit of this site any more (step "inline")."""
        if site not in self._lifted:
            self._text.restore(site.addr)
            self._lifted.append(site)

    def put_back(self) -> None:
        """Write the breakpoints that were lifted, where no cpu is inside any more."""
        if self._lifted:
            for site in [site for site in self._lifted if not self._in_use(site)]:
                self._lifted.remove(site)
                if site.armed:
                    self._text.write(site.addr, _INT3)
