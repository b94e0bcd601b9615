"""Which event is taken, and what is kept of it while it is delivered: the one place where traps are decided.

Order at an instruction boundary (SDM vol. 3, table 6-2; trap semantics 4):

1. debug traps of the last instruction: single step, data and I/O breakpoints, all as one #DB; a MOV SS shadow holds them
2. NMI; a shadow of either kind holds it
3. external interrupt; the same
4. instruction breakpoint on the next instruction
5. what the next uop brings. Decode and the stages after it have put one fault into it, the first in program order: fetch
   faults, then length, #UD and #NM, then privilege, general detect, then operands.

What loses is dropped if it is an exception, since it comes again, and stays pending if it is an interrupt. Faults met during
a delivery make double and triple faults (trap semantics 5). A triple fault shuts the hart down, which an NMI ends.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum
from amaranth.lib.wiring import Component, In, Out

from hw.boundary import Shadow
from hw.config import Config, Vendor
from hw.invariant import invariant
from hw.isa.facts import VECTORS, EventClass, RFlag, Vector
from hw.types import Fault


class FaultClass(enum.Enum, shape=2):
    """Classes of the double-fault table."""

    BENIGN = 0
    CONTRIBUTORY = 1
    PAGE = 2
    DOUBLE = 3


class Event(data.Struct):
    """An event being delivered. ``rip`` and ``flags`` are saved; ``restart`` is where a fault of the delivery restarts."""

    vector: 8
    kind: EventClass
    has_error: 1
    error: 16
    rip: 64
    restart: 64
    flags: 64
    fault_class: FaultClass


#: Error codes of these carry the EXT bit.
_WITH_EXT = (Vector.TS, Vector.NP, Vector.SS, Vector.GP)

_CLASS = {member.name.lower(): member for member in FaultClass}


class TrapPicker(Component):
    """Picks the event of this cycle and remembers the one in delivery.

    Members
    -------
    boundary : between two instructions, and an asynchronous event may be taken.
    debug : a debug trap is pending. mid_rep, shadow : of `hw.boundary.Boundary`.
    nmi : an NMI is pending and not blocked. intr, intr_vector : an external interrupt is requested and IF is set.
    breaks : the oldest uop begins an instruction with a breakpoint. fault_valid, fault : it brings an event.
    pc, next_pc : of its instruction. rip : of the next instruction to retire. rflags : committed.
    done : the delivery ends in this cycle.
    take : an event is taken in this cycle: everything in flight is dropped and the delivery begins. asynchronous : before
    the oldest uop, whatever it is. take_debug, take_nmi, take_intr, take_break, take_fault : which.
    page_fault, cr2 : it is a page fault, at cr2.
    taken : the event of this cycle. event : the event in delivery, registered. delivering : there is one.
    shutdown : a fault was met while delivering a double fault: nothing is taken but an NMI.
    """

    boundary: In(1)
    debug: In(1)
    mid_rep: In(1)
    shadow: In(Shadow)
    nmi: In(1)
    intr: In(1)
    intr_vector: In(8)
    breaks: In(1)
    fault: In(Fault)
    fault_valid: In(1)
    pc: In(64)
    next_pc: In(64)
    rip: In(64)
    rflags: In(64)
    done: In(1)
    take: Out(1)
    asynchronous: Out(1)
    take_debug: Out(1)
    take_nmi: Out(1)
    take_intr: Out(1)
    take_break: Out(1)
    take_fault: Out(1)
    page_fault: Out(1)
    cr2: Out(64)
    taken: Out(Event)
    event: Out(Event)
    delivering: Out(1)
    shutdown: Out(1)

    def __init__(self, config: Config):
        self._rf_mid_rep = config.vendor != Vendor.AMD
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        self._pick(m)
        self._promise(m)
        new, hard = self.taken, Signal()  # hard: RF in the saved image
        kind_class = Signal(FaultClass)
        with m.If(self.fault.kind == EventClass.FAULT), m.Switch(self.fault.vector):
            for facts in VECTORS:
                with m.Case(facts.number):
                    m.d.comb += kind_class.eq(_CLASS[facts.df_class])
        first = self.event.fault_class
        nested = self.delivering & self.take_fault
        serious = (kind_class != FaultClass.BENIGN) & nested
        m.d.comb += [
            self.page_fault.eq(
                self.take_fault & (self.fault.vector == Vector.PF) & (self.fault.kind == EventClass.FAULT)
            ),
            self.cr2.eq(self.fault.addr),
        ]

        # what it is
        with m.If(self.take_debug):
            m.d.comb += [new.vector.eq(Vector.DB), new.kind.eq(EventClass.TRAP)]
        with m.Elif(self.take_nmi):
            m.d.comb += [new.vector.eq(Vector.NMI), new.kind.eq(EventClass.NMI)]
        with m.Elif(self.take_intr):
            m.d.comb += [new.vector.eq(self.intr_vector), new.kind.eq(EventClass.INTR)]
        with m.Elif(self.take_break):
            m.d.comb += [new.vector.eq(Vector.DB), new.kind.eq(EventClass.FAULT)]
        with m.Else():
            m.d.comb += [
                new.vector.eq(self.fault.vector),
                new.kind.eq(self.fault.kind),
                new.has_error.eq(self.fault.has_error),
                new.error.eq(self.fault.error),
                new.fault_class.eq(kind_class),
            ]
            with m.If(nested & (self.event.kind != EventClass.SOFT)), m.Switch(self.fault.vector):
                with m.Case(*_WITH_EXT):
                    m.d.comb += new.error.eq(self.fault.error | 1)
        doubles = serious & (
            ((first == FaultClass.CONTRIBUTORY) & (kind_class == FaultClass.CONTRIBUTORY)) | (first == FaultClass.PAGE)
        )
        with m.If(doubles):
            m.d.comb += [
                new.vector.eq(Vector.DF),
                new.has_error.eq(1),
                new.error.eq(0),
                new.fault_class.eq(FaultClass.DOUBLE),
            ]

        # what it saves
        trapped = (self.fault.kind == EventClass.SOFT) | (self.fault.kind == EventClass.ICEBP)
        between = self.mid_rep if self._rf_mid_rep else self.mid_rep & ~self.take_debug
        with m.If(self.asynchronous):
            m.d.comb += [new.rip.eq(self.rip), new.restart.eq(self.rip)]
            m.d.comb += hard.eq(self.rflags[RFlag.RF] | between)
        with m.Elif(self.take_break):  # RF is 0, or there were no breakpoint
            m.d.comb += [new.rip.eq(self.pc), new.restart.eq(self.pc)]
        with m.Elif(nested):
            m.d.comb += [new.rip.eq(self.event.restart), new.restart.eq(self.event.restart), hard.eq(~doubles)]
        with m.Else():
            m.d.comb += [new.rip.eq(Mux(trapped, self.next_pc, self.pc)), new.restart.eq(self.pc), hard.eq(~trapped)]
        m.d.comb += [new.flags.eq(self.rflags), new.flags[RFlag.RF].eq(hard)]

        with m.If(self.done):
            m.d.sync += self.delivering.eq(0)
        with m.If(self.take):
            m.d.sync += [
                self.event.eq(new),
                self.delivering.eq(1),
                self.shutdown.eq(serious & (first == FaultClass.DOUBLE)),
            ]
        return m

    def _promise(self, m):
        """Invariants."""
        taken = Cat(self.take_debug, self.take_nmi, self.take_intr, self.take_break, self.take_fault)
        ends = self.shutdown & self.take_nmi
        only = "debug trap, NMI, interrupt, breakpoint, fault at once: {:05b}"
        invariant(m, "trap.one", (taken & (taken - 1)) == 0, only, taken)
        between = (self.boundary & ~self.delivering) | ends
        invariant(m, "trap.boundary", ~self.asynchronous | between, "between two uops")
        invariant(m, "trap.shutdown", ~(self.take & self.shutdown) | ends, "an event after the shutdown")
        invariant(m, "trap.done", ~self.done | self.delivering, "the end of a delivery that has not begun")

    def _pick(self, m):
        """The order of the module, from top to bottom."""
        free = self.shadow == Shadow.NONE
        ranks = (
            (self.take_debug, self.boundary & self.debug & (self.shadow != Shadow.MOVSS)),
            (self.take_nmi, (self.boundary | self.shutdown) & self.nmi & free),
            (self.take_intr, self.boundary & self.intr & free),
            (self.take_break, self.breaks),
            (self.take_fault, self.fault_valid),
        )
        above = 0  # by hand, so that none seems to depend on what ranks below it
        for taken, due in ranks:
            m.d.comb += taken.eq(due & ~above)
            above = above | due
        m.d.comb += [
            self.asynchronous.eq(self.take_debug | self.take_nmi | self.take_intr),
            self.take.eq(self.asynchronous | self.take_break | self.take_fault),
        ]
