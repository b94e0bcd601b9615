"""Kretprobes: the return address of a function replaced by a trampoline, and the way back to the real one.

    hit at the entry        pre_handler: an instance is taken, [sp] = trampoline
    the function returns    the trampoline builds a pt_regs and stores its address to a door (kprobes.trampoline)
    on_return               [fp] = ip = the real address; the handlers run; the trampoline returns there

Calls pair with their returns by the address of the return slot, ``fp`` (``kprobes.calls``).

Sources: pre_handler_kretprobe and __kretprobe_trampoline_handler, kernel/kprobes.c; rethook_trampoline_handler,
kernel/trace/rethook.c.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import partial
from typing import cast

from kprobes.calls import Call, Calls
from kprobes.checks import Place
from kprobes.control import Control, Hit
from kprobes.errors import HandlerError, KprobeError, KprobePanic, Rule
from kprobes.events import Phase, ProbeEvent
from kprobes.port import Guest, GuestMemoryError, Trap
from kprobes.probes import Kprobe, Kretprobe, KretprobeInstance, Miss, Status
from kprobes.ptregs import MASK64, TF_IF, PtRegs
from kprobes.registry import Registry
from kprobes.trampoline import Trampoline

#: The largest ``data_size`` (KRETPROBE_MAX_DATA_SIZE).
MAX_DATA_SIZE = 4096

#: Functions that return on another stack than they were called on (kretprobe_blacklist).
BLACKLIST = ("__switch_to",)


class Pool:
    """The instances of one registered kretprobe. They are made when first needed; ``maxactive`` limits their number."""

    def __init__(self, rp: Kretprobe):
        self._rp, self._size, self._data_size = rp, rp.maxactive, rp.data_size
        self._free: list[KretprobeInstance] = []
        self.used: set[KretprobeInstance] = set()

    def take(self) -> KretprobeInstance | None:
        """Return an instance, None when all are in use."""
        if self._free:
            ri = self._free.pop()
            ri.user = None
        elif len(self.used) < self._size:
            ri = KretprobeInstance(self._rp, bytearray(self._data_size))
        else:
            return None
        self.used.add(ri)
        return ri

    def give(self, ri: KretprobeInstance) -> None:
        """Take an instance back."""
        self.used.discard(ri)
        self._free.append(ri)


class Retprobes:
    """The kretprobes of one guest."""

    def __init__(self, guest: Guest, registry: Registry, control: Control):
        self._guest = guest
        self._registry = registry
        self._control = control
        self._pools: dict[Kretprobe, Pool] = {}
        self._calls = Calls(self._lost, self._found)
        self._trampoline = Trampoline(guest)

    @property
    def trampoline(self) -> int | None:
        """Address of the trampoline, None before the first registration."""
        return self._trampoline.addr

    def owns(self, addr: int) -> bool:
        """Whether ``addr`` lies in the page of the trampoline."""
        return self._trampoline.owns(addr)

    def in_flight(self, rp: Kretprobe) -> int:
        """Return how many instances of a kretprobe are in use."""
        pool = self._pools.get(rp)
        return len(pool.used) if pool is not None else 0

    def register(self, rp: Kretprobe) -> None:
        """Check, make everything ready, and plant the probe at the entry (register_kretprobe).

        Errors: EINVAL when registered, as the embedded kp must not be touched then; and in the kernel's order EINVAL and
        ENOENT of the place, EINVAL when the function must not have one, E2BIG, ENOMEM, those of register_kprobe.
        """
        if rp in self._pools:
            raise KprobeError(errno.EINVAL, f"this Kretprobe is already registered, on {rp.kp.name}", Rule.REGISTERED)
        if rp.symbol_name is not None or rp.addr is not None:  # else the address was written into kp, as in C
            rp.kp.symbol_name, rp.kp.offset, rp.kp.addr = rp.symbol_name, rp.offset, rp.addr
        place = self._entry(self._registry.checks.where(rp.kp))
        if place.symbol.name in BLACKLIST:
            raise KprobeError(errno.EINVAL, (
                f"'{place.symbol.name}' returns on another stack than it was called on, so its return cannot be hooked; "
                "probe its callers"), Rule.BLACKLIST)
        if not 0 <= rp.data_size <= MAX_DATA_SIZE:
            raise KprobeError(
                errno.E2BIG, f"data_size is {rp.data_size}; an instance has 0 to {MAX_DATA_SIZE} bytes of data", Rule.SIZE)
        made = self._trampoline.make(place.addr)
        rp.kp.pre_handler = lambda _, regs: self._enter(rp, regs)
        rp.kp.post_handler = None
        rp.unhook = lambda fp: self._unhook(rp, fp)
        before = rp.maxactive, rp.nmissed
        if rp.maxactive <= 0:
            rp.maxactive = max(10, 2 * self._guest.cpus)
        rp.nmissed = 0
        self._pools[rp] = Pool(rp)  # the first call may come before the registration returns
        try:
            self._registry.register(rp.kp)
        except BaseException:
            del self._pools[rp]
            rp.maxactive, rp.nmissed = before
            if made:
                self._trampoline.free()
            raise

    def unregister(self, rps: Sequence[Kretprobe]) -> None:
        """Remove kretprobes: their calls under way return to where they belong, without their handlers."""
        self._registry.unregister([rp.kp for rp in rps])
        for rp in rps:
            pool = self._pools.pop(rp, None)
            for ri in pool.used if pool is not None else ():
                ri.rp = None

    def on_func_entry(self, symbol_name: str | None, addr: int | None, offset: int) -> None:
        """Raise EINVAL or ENOENT unless this is where a function's callers arrive (kprobe_on_func_entry)."""
        self._entry(self._registry.checks.resolve(symbol_name, addr, offset))

    def _entry(self, place: Place) -> Place:
        if not place.on_entry:
            raise KprobeError(errno.EINVAL, (
                f"{self._registry.checks.describe(place.addr)} is not the entry of '{place.symbol.name}', where the return "
                f"address is at [sp]; a kretprobe has to be there{self._registry.checks.shown(place, 'not the entry')}"),
                Rule.ENTRY)
        return place

    def _enter(self, rp: Kretprobe, regs: PtRegs) -> int:
        """Hook the call whose first instruction is about to run (pre_handler_kretprobe); always 0."""
        fp, pool = regs.sp, self._pools[rp]
        stack = self._guest.stack_end(self._control.cpu, fp)
        self._calls.lose_below(stack, fp)
        call = self._calls.find(fp)
        try:
            word = self._word(fp)
        except GuestMemoryError:
            word = None
        if call is not None and word != self._trampoline.addr:
            self._calls.lose(call)  # another call is in its place
            self._discard(call)
            call = None
        if call is None and word not in (None, self._trampoline.addr):
            call = Call(fp, cast(int, word), stack)
        ri = (pool.take() or (pool.take() if self._reclaim() else None)) if call is not None else None
        if call is None or ri is None:
            rp.nmissed += 1
            self._miss(rp.kp, regs.ip, Miss.FAULT if call is None else Miss.MAXACTIVE)
            return 0
        self._calls.find_again(call)
        ri.fp, ri.ret_addr = fp, call.ret_addr
        hooked = False
        try:
            hooked = rp.entry_handler is None or not rp.entry_handler(ri, regs)
        finally:
            if not hooked:
                pool.give(ri)
        if hooked:
            self._hook(call, ri)
        return 0

    def _hook(self, call: Call, ri: KretprobeInstance) -> None:
        call.instances.append(ri)
        if len(call.instances) == 1:
            assert self._trampoline.addr is not None, "a kretprobe is registered, so the trampoline exists"
            self._guest.write(call.fp, self._trampoline.addr.to_bytes(8, "little"))
            self._calls.add(call)

    def _unhook(self, rp: Kretprobe, fp: int) -> None:
        """The hit that hooked the call at ``fp`` is undone: the entry will be reached again."""
        call = self._calls.find(fp)
        if call is None or call.instances[-1].rp is not rp:
            return
        self._pools[rp].give(call.instances.pop())
        if not call.instances:
            self._guest.write(fp, call.ret_addr.to_bytes(8, "little"))
            self._calls.remove(call)

    def on_return(self, trap: Trap) -> bool:
        """A function has returned through the trampoline: run the handlers, and have it return to where it belongs.

        The handlers run as inside a hit of the probe at the entry, so that what they run into is missed. When one raises,
        the others still run, and the first error leaves.
        """
        call = self._leave(trap.regs)
        block, regs = self._control.blocks[trap.cpu], trap.regs
        outer, failed = block.current, None
        try:
            for ri in reversed(call.instances):
                rp = ri.rp
                site = self._registry.site_of(rp.kp) if rp is not None else None
                if rp is None or site is None or rp.handler is None:
                    continue
                hit = block.current = Hit(site, Status.HIT_ACTIVE, regs.flags & TF_IF)
                try:
                    self._control.run(
                        trap, block, hit, rp.kp, "return handler", regs.copy(), partial(rp.handler, ri, regs))
                except HandlerError as exc:
                    failed = failed or exc
                self._control.tell(Phase.RETURN, trap, site, rp.kp)
        finally:
            block.current = outer
            self._recycle(call)
        if failed is not None:
            raise failed
        return True

    def _leave(self, regs: PtRegs) -> Call:
        """Put the real address where it belongs, and return the call that has ended."""
        fp = (regs.sp - 8) & MASK64
        call = self._calls.find(fp)
        if call is None:
            raise KprobePanic(
                f"the kretprobe trampoline was reached with sp {regs.sp:#x}, but no hooked call has its return address at "
                f"{fp:#x}; the function popped its own arguments (ret n), or returned on another stack, or on a copy of its "
                f"own. Its return address is lost; do not hook such a function\n"
                f"registers at the return:\n{regs.dump()}")
        self._calls.leave(call)
        self._guest.write(fp, call.ret_addr.to_bytes(8, "little"))
        regs.ip = call.ret_addr
        return call

    def _recycle(self, call: Call) -> None:
        """Give the instances of a call back to their pools; those of an unregistered kretprobe have none any more."""
        for ri in call.instances:
            pool = self._pools.get(ri.rp) if ri.rp is not None else None
            if pool is not None:
                pool.give(ri)
        call.instances.clear()

    def flush(self, low: int, high: int) -> int:
        """The stack in [low, high) is dead: recycle its calls, and return how many there were (kprobe_flush_task)."""
        dead = [call for call in self._calls if low <= call.fp < high]
        for call in dead:
            self._discard(call)
        return len(dead)

    def find_ret_addr(self, fp: int) -> int | None:
        """Return the real return address whose slot is at ``fp``, None when no hooked call has it there."""
        call = self._calls.find(fp)
        return None if call is None else call.ret_addr

    def _word(self, addr: int) -> int:
        return int.from_bytes(self._guest.read(addr, 8), "little")

    def _lost(self, call: Call) -> None:
        """A call seems to have been jumped out of: its return handlers do not run."""
        for ri in call.instances:
            if ri.rp is not None:
                self._miss(ri.rp.kp, call.ret_addr, Miss.ABANDONED)

    def _found(self, call: Call) -> None:
        """A lost call has come back: nothing of it was missed."""
        for ri in call.instances:
            if ri.rp is not None:
                ri.rp.kp.misses[Miss.ABANDONED] -= 1

    def _discard(self, call: Call) -> None:
        self._calls.remove(call)
        self._recycle(call)

    def _reclaim(self) -> bool:
        """Recycle the lost calls whose slot holds something else by now; whether there was any."""
        gone: list[Call] = []
        for call in self._calls.lost:
            try:
                still = self._word(call.fp) == self._trampoline.addr
            except GuestMemoryError:
                still = False
            if not still:
                gone.append(call)
        for call in gone:
            self._discard(call)
        return bool(gone)

    def _miss(self, p: Kprobe, ip: int, reason: Miss) -> None:
        p.misses[reason] += 1
        self._control.emit(ProbeEvent(Phase.MISS, self._control.cpu, p, p.addr or 0, ip, reason=reason))
