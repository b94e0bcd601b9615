"""``Kprobes``: the runtime of one machine, which is what the kernel's kprobes are to one kernel."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from itertools import islice

from kprobes.blacklist import Blacklist
from kprobes.errors import KprobeError, Rule
from kprobes.events import Observer
from kprobes.explain import Explainer, Explanation
from kprobes.handlers import Handlers
from kprobes.jprobes import Jprobes, kprobe_of
from kprobes.listing import Listing
from kprobes.options import Options
from kprobes.port import Door, Guest, Module, Trap
from kprobes.probes import Jprobe, Kprobe, Kretprobe, Status
from kprobes.ptregs import PtRegs
from kprobes.region import Obstacle, Region
from kprobes.registry import Registry
from kprobes.retprobes import Retprobes
from kprobes.step import Site
from kprobes.unwind import Unwinder

_DEFAULT = Options()


class Kprobes:
    """Probes on one guest.

    ``observer``, a callable or an object with a method ``on_probe``, receives a ``ProbeEvent`` for each phase of a hit.
    ``options`` say how displaced instructions are executed.

    Requests raise ``KprobeError`` with the kernel's errno and have then changed nothing. From inside a handler every
    request is refused with EDEADLK: in 2004 it would have waited for the lock that the hit holds.
    """

    def __init__(self, guest: Guest, observer: object = None, options: Options = _DEFAULT):
        self._guest = guest
        self.options = options
        self._jprobes = Jprobes(guest)
        self._registry = Registry(guest, options, self._in_use, self._owns)
        self._handlers = Handlers(guest, self._registry, self._jprobes, options, _as_callable(observer))
        self._retprobes = Retprobes(guest, self._registry, self._handlers.control)
        self.files = Listing(guest, self._registry, self._switch, self._optimize)
        self._explainer = Explainer(self._registry, options)
        self._unwinder = Unwinder(guest, self._registry.text.recovered, self._retprobes.find_ret_addr)

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
        """Remove a probe. No handler of it runs after this; a cpu that is inside a hit finishes the instruction.

        A struct that is not registered has its ``addr`` set to None, as in the kernel; that is no error.
        """
        self._not_in_handler("unregister_kprobe")
        self._registry.unregister(p)

    def unregister_kprobes(self, probes: Sequence[Kprobe]) -> None:
        """Remove several; those that are not registered have their ``addr`` set to None, and the others go."""
        for p in probes:
            self.unregister_kprobe(p)

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
        """Remove a jprobe. A cpu inside its guest handler comes back through jprobe_return as before."""
        self._not_in_handler("unregister_jprobe")
        self._registry.unregister(jp.kp)

    def register_jprobes(self, jprobes: Sequence[Jprobe]) -> None:
        """Plant several, in order; when one is refused, none of them stays. EINVAL when there is none."""
        self._some("register_jprobes", jprobes)
        by_kp = {jp.kp: jp for jp in jprobes}
        self._registry.register_all(by_kp, lambda kp: self.register_jprobe(by_kp[kp]))

    def unregister_jprobes(self, jprobes: Sequence[Jprobe]) -> None:
        """Remove several."""
        for jp in jprobes:
            self.unregister_jprobe(jp)

    def register_kretprobe(self, rp: Kretprobe) -> None:
        """Plant a probe on a function's returns; EINVAL when the place is not the function's entry."""
        self._not_in_handler("register_kretprobe")
        self._retprobes.register(rp)

    def unregister_kretprobe(self, rp: Kretprobe) -> None:
        """Remove a kretprobe. Calls under way return to their callers, and its handler does not run any more."""
        self._not_in_handler("unregister_kretprobe")
        self._retprobes.unregister(rp)

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
        """Remove several."""
        for rp in kretprobes:
            self.unregister_kretprobe(rp)

    def enable_kretprobe(self, rp: Kretprobe) -> None:
        """Let new calls be hooked again; EINVAL when it is not registered."""
        self.enable_kprobe(rp.kp)

    def disable_kretprobe(self, rp: Kretprobe) -> None:
        """Let no new call be hooked; the handler of those under way still runs. EINVAL when it is not registered."""
        self.disable_kprobe(rp.kp)

    def kprobe_on_func_entry(self, symbol_name: str | None = None, addr: int | None = None, offset: int = 0) -> None:
        """Raise EINVAL when this is not where the callers of a function arrive, ENOENT when there is no such symbol."""
        self._retprobes.on_func_entry(symbol_name, addr, offset)

    def in_flight(self, rp: Kretprobe) -> int:
        """Return how many calls of the function are hooked at the moment."""
        return self._retprobes.in_flight(rp)

    def flush_task(self, low: int, high: int) -> int:
        """Say that the stack in [low, high) will not be returned on any more, as that of a task which has died.

        The instances of its hooked calls go back to their pools; return their number (kprobe_flush_task). A handler may call
        this: that of a probe on the guest's own end of a task.
        """
        return self._retprobes.flush(low, high)

    def kretprobe_find_ret_addr(self, fp: int) -> int | None:
        """Return the real return address whose stack slot is at ``fp``, None when no kretprobe has replaced it."""
        return self._retprobes.find_ret_addr(fp)

    @property
    def kretprobe_trampoline(self) -> int | None:
        """The address that stands in the return slots of hooked calls; None before the first kretprobe is registered."""
        return self._retprobes.trampoline

    def stack_trace(self, regs: PtRegs, limit: int = 64) -> list[int]:
        """Return ``regs.ip`` and the return addresses from the innermost out, with those that kretprobes have replaced.

        In a pre_handler the first is the probed address. The guest has to be compiled with frame pointers.
        """
        hit = self._handlers.control.blocks[self._handlers.control.cpu].current
        at_hit = hit is not None and hit.status is Status.HIT_ACTIVE and regs.ip == hit.site.addr + 1
        return list(islice(self._unwinder.walk(regs.ip - at_hit, regs.sp, regs.bp), limit))

    @contextlib.contextmanager
    def busy(self, cpu: int) -> Iterator[None]:
        """A section in which this cpu's hits run no handlers and count as missed (kprobe_busy_begin, kprobe_busy_end)."""
        block = self._handlers.control.blocks[cpu]
        block.busy += 1
        try:
            yield
        finally:
            block.busy -= 1

    @property
    def cpu(self) -> int:
        """The cpu whose trap is being handled, for handlers (smp_processor_id)."""
        return self._handlers.control.cpu

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """Return the newest probe at exactly this address, or None."""
        site = self._registry.find(addr)
        return None if site is None else next(iter(site.probes), None)

    def kprobe_running(self, cpu: int) -> Kprobe | None:
        """Return the probe that this cpu is inside of: in a handler, a jprobe's guest handler, or its slot."""
        return self._handlers.control.current(cpu)

    @property
    def registered(self) -> tuple[Kprobe, ...]:
        """All registered probes, those of jprobes included, by address, and at one address the newest first."""
        return tuple(p for site in sorted(self._registry, key=lambda site: site.addr) for p in site.probes)

    @property
    def blacklist(self) -> Blacklist:
        """What must not be probed; ``add_symbol`` and ``add_area`` forbid more."""
        return self._registry.blacklist

    @property
    def jprobe_return(self) -> int:
        """The guest address where a jprobe's guest handler ends: the guest's symbol, or code of the runtime.

        Without the symbol it exists once a jprobe is registered; ENOENT before.
        """
        start, end = self._jprobes.return_range()
        if start == end:
            raise KprobeError(errno.ENOENT, (
                "the guest has no symbol 'jprobe_return'; the runtime's own exists once a jprobe is registered"))
        return start

    def slot_of(self, p: Kprobe | Jprobe) -> int:
        """Return the address of the out-of-line copy of a registered probe; EINVAL when it is not registered."""
        site = self._registry.site_of(kprobe_of(p))
        if site is None:
            raise KprobeError(errno.EINVAL, f"the probe on {kprobe_of(p).name} is not registered, so it has no slot")
        if site.fentry:
            raise KprobeError(errno.EINVAL, f"the probe on {kprobe_of(p).name} is called at the function's entry: no slot")
        return site.slot

    def is_kprobe_insn_slot(self, addr: int) -> bool:
        """Whether ``addr`` lies in a page of out-of-line copies."""
        return self._registry.slots.owns(addr)

    def is_kprobe_optinsn_slot(self, addr: int) -> bool:
        """Whether ``addr`` lies in a page of detours of optimised probes."""
        return self._registry.optimizer.owns(addr)

    def region_of(self, p: Kprobe | Jprobe) -> Region | Obstacle:
        """Return the code that a jump at a registered probe covers or would cover, or why there can be none.

        What may change, such as a post_handler, is not looked at. EINVAL when the probe is not registered.
        """
        site = self._registry.site_of(kprobe_of(p))
        if site is None:
            raise KprobeError(errno.EINVAL, f"the probe on {kprobe_of(p).name} is not registered, so it has no region")
        return self._registry.optimizer.region_of(site)

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
        """Do at once what would be done at the deadline (wait_for_kprobe_optimizer); no cpu is waited for."""
        self._not_in_handler("wait_for_optimizer")
        self._registry.optimize()

    def explain(
        self, symbol_name: str | None = None, addr: int | None = None, offset: int = 0, *, post: bool = False,
    ) -> Explanation:
        """Say whether and how a probe there would be executed, and why not faster; ``post``: with a post_handler."""
        return self._explainer.explain(symbol_name, addr, offset, post=post)

    def module_live(self, module: Module) -> None:
        """The machine says that a module's init text has run and is about to vanish: probes there are GONE."""
        self._registry.kill(*module.init)

    def module_going(self, module: Module) -> None:
        """The machine says that a module's text is about to vanish: probes there are GONE; unregister them."""
        self._registry.kill(*module.text)
        self._registry.kill(*module.init)

    def describe(self, addr: int) -> str:
        """Return ``symbol+0xoffset`` of a guest address, or the address when no symbol contains it."""
        return self._registry.checks.describe(addr)

    def on_trap(self, trap: Trap) -> bool:
        """Handle one trap of one cpu.

        True: it was ours, and the guest continues with ``trap.regs``. False: it is somebody else's (the guest's own
        handler, a debugger), who sees ``trap.regs`` as the unprobed program would have them. The machine writes
        ``trap.regs`` back in both cases. Raise ``HandlerError`` when a Python handler raised, ``KprobePanic`` when the
        guest cannot go on.
        """
        control = self._handlers.control
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
        return self._handlers.control.in_use(site)

    def _not_in_handler(self, request: str) -> None:
        if self._handlers.control.running:
            raise KprobeError(errno.EDEADLK, (
                f"{request} was called from inside {self._handlers.control.running[-1]}; do it after the run, or stop the run "
                "from the handler first"))


def _as_callable(observer: object) -> Observer | None:
    if observer is None or callable(observer):
        return observer
    method = getattr(observer, "on_probe", None)
    if not callable(method):
        raise TypeError("the observer must be callable or have a method on_probe(event)")
    return method
