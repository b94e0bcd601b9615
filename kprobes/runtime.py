"""``Kprobes``: the runtime of one machine, which is what the kernel's kprobes are to one kernel."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence

from kprobes.errors import KprobeError, Rule
from kprobes.events import Observer
from kprobes.handlers import Handlers
from kprobes.jprobes import Jprobes, kprobe_of
from kprobes.listing import Listing
from kprobes.options import Options
from kprobes.port import Door, Guest, Module, Trap
from kprobes.probes import Jprobe, Kprobe, Kretprobe
from kprobes.queries import Queries
from kprobes.registry import Registry
from kprobes.retprobes import Retprobes
from kprobes.step import Site

_DEFAULT = Options()


class Kprobes(Queries):
    """Probes on one guest.

    ``observer``, a callable or an object with a method ``on_probe``, receives a ``ProbeEvent`` for each phase of a hit.
    ``options`` say how displaced instructions are executed.

    Requests raise ``KprobeError`` with the kernel's errno and have then changed nothing. From inside a handler every
    request is refused with EDEADLK: in 2004 it would have waited for the lock that the hit holds.
    """

    def __init__(self, guest: Guest, observer: object = None, options: Options = _DEFAULT):
        self.options = options
        jprobes = Jprobes(guest)
        registry = Registry(guest, options, self._in_use, self._owns)
        self._handlers = Handlers(guest, registry, jprobes, options, _as_callable(observer))
        control = self._handlers.control
        super().__init__(guest, options, registry, jprobes, Retprobes(guest, registry, control), control)
        self.files = Listing(guest, registry, self._switch, self._optimize)

    def register_kprobe(self, p: Kprobe) -> None:
        """Plant a probe; it is armed when this returns, unless its flags say DISABLED or the global switch is off."""
        self._not_in_handler("register_kprobe")
        if p.jprobe is not None or p.retprobe is not None:
            kind, request = ("Jprobe", "register_jprobe") if p.jprobe is not None else ("Kretprobe", "register_kretprobe")
            raise KprobeError(errno.EINVAL, f"this Kprobe belongs to a {kind}; use {request}")
        self._registry.register(p)

    def register_kprobes(self, probes: Sequence[Kprobe]) -> None:
        """Plant several, in order; when one is refused, none of them stays. EINVAL when there is none."""
        self._some("register_kprobes", probes)
        self._registry.register_all(probes, self.register_kprobe)

    def unregister_kprobe(self, p: Kprobe) -> None:
        """Remove a probe. No handler of it runs any more; the cpus run until none is inside a hit of it, and its slot is free.

        If they cannot (``Guest.wait``), one that is inside finishes the instruction later, and the slot is free after that. The
        jump of an optimised probe leaves after its delay, and then its detour is freed.

        A struct that is not registered has its ``addr`` set to None, as in the kernel; that is no error.
        """
        self.unregister_kprobes([p])

    def unregister_kprobes(self, probes: Sequence[Kprobe]) -> None:
        """Remove several, and wait once; those that are not registered have their ``addr`` set to None, and the others go."""
        self._not_in_handler("unregister_kprobe")
        self._registry.unregister(probes)

    def enable_kprobe(self, p: Kprobe | Jprobe) -> None:
        """Arm a disabled probe again; EINVAL when it is not registered, or its text is gone."""
        self._not_in_handler("enable_kprobe")
        self._registry.enable(kprobe_of(p))

    def disable_kprobe(self, p: Kprobe | Jprobe) -> None:
        """Take a probe out of hits and keep its registration; EINVAL when it is not registered."""
        self._not_in_handler("disable_kprobe")
        self._registry.disable(kprobe_of(p))

    @property
    def enabled(self) -> bool:
        """The global switch (debugfs ``kprobes/enabled``). While it is off no probe is armed, nor is one that is registered
        then; turning it on arms all that are not DISABLED, which the switch itself never sets."""
        return not self._registry.off

    @enabled.setter
    def enabled(self, on: bool) -> None:
        self._switch(on)

    def register_jprobe(self, jp: Jprobe) -> None:
        """Plant a jprobe; the address has to be the function's entry for its arguments to be right."""
        self._not_in_handler("register_jprobe")
        if self._registry.site_of(jp.kp):
            raise KprobeError(errno.EINVAL, f"this Jprobe is already registered, on {jp.kp.name}", Rule.REGISTERED)
        if jp.symbol_name is not None or jp.addr is not None:  # else the address was written into kp, as in C
            jp.kp.symbol_name, jp.kp.offset, jp.kp.addr = jp.symbol_name, jp.offset, jp.addr
        self._jprobes.prepare(jp, self._registry.checks)
        made = self._jprobes.acquire(self._registry.checks.where(jp.kp).addr)
        try:
            self._registry.register(jp.kp)
        except BaseException:
            if made:
                self._jprobes.discard()
            raise

    def unregister_jprobe(self, jp: Jprobe) -> None:
        """Remove a jprobe, as ``unregister_kprobe``; a cpu inside its guest handler comes back through jprobe_return."""
        self.unregister_jprobes([jp])

    def register_jprobes(self, jprobes: Sequence[Jprobe]) -> None:
        """Plant several, in order; when one is refused, none of them stays. EINVAL when there is none."""
        self._some("register_jprobes", jprobes)
        by_kp = {jp.kp: jp for jp in jprobes}
        self._registry.register_all(by_kp, lambda kp: self.register_jprobe(by_kp[kp]))

    def unregister_jprobes(self, jprobes: Sequence[Jprobe]) -> None:
        """Remove several, and wait once."""
        self._not_in_handler("unregister_jprobe")
        self._registry.unregister([jp.kp for jp in jprobes])

    def register_kretprobe(self, rp: Kretprobe) -> None:
        """Plant a probe on a function's returns; EINVAL when the place is not the function's entry."""
        self._not_in_handler("register_kretprobe")
        self._retprobes.register(rp)

    def unregister_kretprobe(self, rp: Kretprobe) -> None:
        """Remove a kretprobe. Calls under way return to their callers, and its handler does not run any more."""
        self.unregister_kretprobes([rp])

    def register_kretprobes(self, kretprobes: Sequence[Kretprobe]) -> None:
        """Plant several, in order; when one is refused, none of them stays. EINVAL when there is none."""
        self._some("register_kretprobes", kretprobes)
        done: list[Kretprobe] = []
        try:
            for rp in kretprobes:
                self.register_kretprobe(rp)
                done.append(rp)
        except BaseException:
            self.unregister_kretprobes(done)
            raise

    def unregister_kretprobes(self, kretprobes: Sequence[Kretprobe]) -> None:
        """Remove several, and wait once."""
        self._not_in_handler("unregister_kretprobe")
        self._retprobes.unregister(kretprobes)

    def enable_kretprobe(self, rp: Kretprobe) -> None:
        """Let new calls be hooked again; EINVAL when it is not registered."""
        self.enable_kprobe(rp.kp)

    def disable_kretprobe(self, rp: Kretprobe) -> None:
        """Let no new call be hooked; the handler of those under way still runs. EINVAL when it is not registered."""
        self.disable_kprobe(rp.kp)

    def flush_task(self, low: int, high: int) -> int:
        """Say that the stack in [low, high) will not be returned on any more, as that of a task which has died.

        The instances of its hooked calls go back to their pools; return their number (kprobe_flush_task). A handler may call
        this: that of a probe on the guest's own end of a task.
        """
        return self._retprobes.flush(low, high)

    @contextlib.contextmanager
    def busy(self, cpu: int) -> Iterator[None]:
        """A section in which this cpu's hits run no handlers and count as missed (kprobe_busy_begin, kprobe_busy_end)."""
        block = self._control.blocks[cpu]
        block.busy += 1
        try:
            yield
        finally:
            block.busy -= 1

    @property
    def optimization(self) -> bool:
        """Whether jumps may replace breakpoints (sysctl ``debug.kprobes-optimization``). Setting it to False takes all of
        them out before it returns; True queues all that may be optimised. ``Options.optimize`` is what it begins with."""
        return self._registry.optimizer.allowed

    @optimization.setter
    def optimization(self, on: bool) -> None:
        self._optimize(on)

    @property
    def deadline(self) -> int | None:
        """The time, on the guest's clock, at which ``work`` wants to be called; None when there is nothing to do."""
        return self._registry.optimizer.deadline

    def work(self) -> None:
        """Write and remove the jumps that are queued. The machine calls this between instructions once its clock has
        reached ``deadline``. What a cpu stands in the way of is tried again later: there is a new deadline then."""
        self._registry.optimize()

    def wait_for_optimizer(self) -> None:
        """Do at once what would be done at the deadline, and free the detours behind jumps that are gone, for which cpus are
        waited for as in ``unregister_kprobe`` (wait_for_kprobe_optimizer). What is in the way of a new jump is not."""
        self._not_in_handler("wait_for_optimizer")
        self._registry.optimize()
        self._registry.free_detours()

    def module_live(self, module: Module) -> None:
        """The machine says that a module's init text has run and is about to vanish: probes there are GONE."""
        self._registry.kill(*module.init)

    def module_going(self, module: Module) -> None:
        """The machine says that a module's text is about to vanish: probes there are GONE; unregister them."""
        self._registry.kill(*module.text)
        self._registry.kill(*module.init)

    def on_trap(self, trap: Trap) -> bool:
        """Handle one trap of one cpu.

        True: it was ours, and the guest continues with ``trap.regs``. False: it is somebody else's (the guest's own
        handler, a debugger), who sees ``trap.regs`` as the unprobed program would have them. The machine writes
        ``trap.regs`` back in both cases. Raise ``HandlerError`` when a Python handler raised, ``KprobePanic`` when the
        guest cannot go on.
        """
        control = self._control
        outer, control.cpu = control.cpu, trap.cpu
        try:
            if trap.vector == Door.TRAMPOLINE:
                return self._retprobes.on_return(trap)
            return self._handlers.on_trap(trap)
        finally:
            control.cpu = outer

    @staticmethod
    def _some(request: str, probes: Sequence[object]) -> None:
        if not probes:
            raise KprobeError(errno.EINVAL, f"{request} was given no probes")

    def _switch(self, on: bool) -> None:
        self._not_in_handler("the global switch")
        self._registry.switch(off=not on)

    def _optimize(self, on: bool) -> None:
        self._not_in_handler("the optimization switch")
        if on and self.options.step == "inline":
            raise KprobeError(errno.EINVAL, 'step is "inline", which uses no copies, so nothing can be optimised')
        self._registry.optimize(on)

    def _owns(self, addr: int) -> bool:
        return self._jprobes.owns(addr) or self._retprobes.owns(addr)

    def _in_use(self, site: Site) -> bool:
        return self._control.in_use(site)

    def _not_in_handler(self, request: str) -> None:
        if self._control.running:
            raise KprobeError(errno.EDEADLK, (
                f"{request} was called from inside {self._control.running[-1]}; do it after the run, or stop the run "
                "from the handler first"))


def _as_callable(observer: object) -> Observer | None:
    if observer is None or callable(observer):
        return observer
    method = getattr(observer, "on_probe", None)
    if not callable(method):
        raise TypeError("the observer must be callable or have a method on_probe(event)")
    return method
