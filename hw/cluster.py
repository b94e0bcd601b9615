"""What harts share: the memory, which a locked read-modify-write has for itself; the ports; interrupts between harts.

Memory has ports of its own for every hart and takes a request of each in every cycle; stores of one cycle land in the order of
harts (`hw.ram`). What is left to arrange is who may hold the others back.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib.wiring import Component, In, Out, connect

from hw.bus import DataBus

#: As many harts as the tables of this module and the 8 logical destinations are meant for.
MAX_HARTS = 4


def take_turns(m: Module, wants, turn, grants) -> None:
    """At most one of ``wants`` (a list of 1-bit values) is granted: the first one from number ``turn`` on, around."""
    count = len(wants)
    with m.Switch(turn):
        for first in range(count):
            with m.Case(first):
                for k in range(count):
                    number = (first + k) % count
                    with m.If(wants[number]) if k == 0 else m.Elif(wants[number]):
                        m.d.comb += grants.eq(1 << number)


def pass_turn(m: Module, grants, turn, moved) -> None:
    """In a cycle with ``moved``: next time, whoever is granted now comes last."""
    count = len(grants)
    for number in range(count):
        with m.If(moved & grants[number]):
            m.d.sync += turn.eq((number + 1) % count)


class MemoryLock(Component):
    """Makes locked read-modify-writes atomic: from the first locked load of an instruction until its hart says `unlock`, memory
    takes requests of that hart only. Fetches go on.

    A hart asks for the lock by a load with ``req_lock``, which it makes when nothing but a trap will drop it; what is asked
    for in the cycle of such a trap is not taken. Nobody starves: the lock goes around, and a request that it held back goes
    before the lock is given again. Who passes depends on no request's validity, which would be a combinational loop through the
    harts: what a hart may do decides what it drops.

    Members
    -------
    h{i}_core : from a hart. h{i}_memory : to its port of the memory. unlock : bit i: hart i does not hold the lock, or
    not after this cycle, in which the locked instruction retires or is dropped.
    """

    def __init__(self, harts: int):
        self._harts = harts
        members = {"unlock": In(harts)}
        for i in range(harts):
            members |= {f"h{i}_core": In(DataBus()), f"h{i}_memory": Out(DataBus())}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        harts = range(self._harts)
        cores = [getattr(self, f"h{i}_core") for i in harts]
        memories = [getattr(self, f"h{i}_memory") for i in harts]
        owner, turn = Signal(self._harts), Signal(range(self._harts))
        late = Signal(self._harts)  # a request that the lock has held back and memory has not taken yet
        asks, picked, passes = Signal(self._harts), Signal(self._harts), Signal(self._harts)
        free, first = Signal(), Signal()
        m.d.comb += [
            free.eq(~owner.any()),
            asks.eq(Cat(core.req_lock & ~core.req_write for core in cores)),
            first.eq((late & ~asks).any()),
        ]
        take_turns(m, [asks[i] & free & ~first for i in harts], turn, picked)
        for i, core, memory in zip(harts, cores, memories, strict=True):
            m.d.comb += [
                passes[i].eq(owner[i] | (free & (picked[i] | (~picked.any() & ~asks[i])))),
                memory.req_valid.eq(core.req_valid & passes[i]),
                core.req_ready.eq(memory.req_ready & passes[i]),
                memory.req_addr.eq(core.req_addr),
                memory.req_size.eq(core.req_size),
                memory.req_write.eq(core.req_write),
                memory.req_data.eq(core.req_data),
                memory.req_lock.eq(core.req_lock),
                core.resp_valid.eq(memory.resp_valid),
                core.resp_data.eq(memory.resp_data),
            ]
            m.d.sync += late[i].eq(core.req_valid & ~core.req_ready & (late[i] | ~passes[i]))
        taken = Signal()
        m.d.comb += taken.eq((picked & Cat(memory.req_valid & memory.req_ready for memory in memories)).any())
        pass_turn(m, picked, turn, taken)
        with m.If(taken & ~(picked & self.unlock).any()):
            m.d.sync += owner.eq(picked)
        with m.Elif((owner & self.unlock).any()):
            m.d.sync += owner.eq(0)
        return m


class OutTurns(Component):
    """One `out` a cycle reaches the devices, which all harts share; they take turns.

    Members
    -------
    wants : bit i: hart i makes an `out`. grants : it is made in this cycle.
    """

    def __init__(self, harts: int):
        super().__init__({"wants": In(harts), "grants": Out(harts)})

    def elaborate(self, platform):
        m = Module()
        turn = Signal(range(len(self.wants)))
        take_turns(m, list(self.wants), turn, self.grants)
        pass_turn(m, self.grants, turn, self.wants.any())
        return m


def interrupt_each_other(m: Module, apics) -> None:
    """Connects the interrupt controllers (`hw.lapic.Lapic`) of all harts, in their order: each sees what the others send."""
    for i, apic in enumerate(apics):
        for j, other in enumerate(apics):
            if i != j:
                connect(m, sender=apic.sent, receiver=getattr(other, f"from{i}"))
        claims = Const(0)
        for lower in apics[:i]:
            claims |= lower.claims
        m.d.comb += apic.earlier.eq(claims)
