"""Which event is taken, and what is kept of it while it is delivered: the one place where traps are decided.

Order at an instruction boundary (SDM vol. 3, table 6-2): debug trap of the last instruction, NMI, external interrupt, then
the fault that the next uop brings. Faults met during a delivery make double and triple faults (trap semantics 5).
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum
from amaranth.lib.wiring import Component, In, Out

from hw.invariant import invariant
from hw.isa.facts import VECTORS, EventClass, RFlag, Vector
from hw.types import Fault


class FaultClass(enum.Enum, shape=2):
    """Classes of the double-fault table."""

    BENIGN = 0
    CONTRIBUTORY = 1
    PAGE = 2
    DOUBLE = 3


class Shadow(enum.Enum, shape=2):
    """What holds interrupts back at the next boundary."""

    NONE = 0
    STI = 1
    MOVSS = 2


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
    fault, fault_valid : of the oldest uop, which has not retired. pc, next_pc : of its instruction.
    rip : of the next instruction to retire. rflags, mid_rep : committed; between iterations of a string instruction.
    step : a single-step trap is pending. shadow : of the last instruction.
    nmi : an NMI is pending and not blocked. intr, intr_vector : an external interrupt is requested and IF is set.
    done : the delivery ends in this cycle.
    take : an event is taken in this cycle: everything in flight is dropped and the delivery begins. asynchronous : before
    the oldest uop. take_step, take_nmi, take_intr : which. page_fault, cr2 : it is a page fault, at cr2.
    taken : the event of this cycle. event : the event in delivery, registered. delivering : there is one.
    shutdown : a fault met while delivering a double fault: the hart stops for good.
    """

    boundary: In(1)
    fault: In(Fault)
    fault_valid: In(1)
    pc: In(64)
    next_pc: In(64)
    rip: In(64)
    rflags: In(64)
    mid_rep: In(1)
    step: In(1)
    shadow: In(Shadow)
    nmi: In(1)
    intr: In(1)
    intr_vector: In(8)
    done: In(1)
    take: Out(1)
    asynchronous: Out(1)
    take_step: Out(1)
    take_nmi: Out(1)
    take_intr: Out(1)
    page_fault: Out(1)
    cr2: Out(64)
    taken: Out(Event)
    event: Out(Event)
    delivering: Out(1)
    shutdown: Out(1)

    def elaborate(self, platform):
        m = Module()
        free = self.shadow == Shadow.NONE
        m.d.comb += [
            self.take_step.eq(self.boundary & self.step),
            self.take_nmi.eq(self.boundary & ~self.step & self.nmi & free),
            self.take_intr.eq(self.boundary & ~self.step & ~(self.nmi & free) & self.intr & free),
            self.asynchronous.eq(self.take_step | self.take_nmi | self.take_intr),
        ]
        synchronous = Signal()
        m.d.comb += [
            synchronous.eq(self.fault_valid & ~self.asynchronous),
            self.take.eq(self.asynchronous | synchronous),
            self.page_fault.eq(synchronous & (self.fault.vector == Vector.PF) & (self.fault.kind == EventClass.FAULT)),
            self.cr2.eq(self.fault.addr),
        ]

        taken = Cat(self.take_step, self.take_nmi, self.take_intr, synchronous)
        invariant(m, "trap.one", (taken & (taken - 1)) == 0, "step, NMI, interrupt, fault at once: {:04b}", taken)
        invariant(m, "trap.boundary", ~self.asynchronous | (self.boundary & ~self.delivering), "between two uops")
        invariant(m, "trap.shutdown", ~(self.take & self.shutdown), "an event after the shutdown")
        invariant(m, "trap.done", ~self.done | self.delivering, "the end of a delivery that has not begun")

        kind_class = Signal(FaultClass)
        with m.If(self.fault.kind == EventClass.FAULT), m.Switch(self.fault.vector):
            for facts in VECTORS:
                with m.Case(facts.number):
                    m.d.comb += kind_class.eq(_CLASS[facts.df_class])

        new, first = self.taken, self.event.fault_class
        flags = Signal(64)
        hard = Signal()  # RF in the saved image
        nested = self.delivering & synchronous
        serious = (kind_class != FaultClass.BENIGN) & nested
        with m.If(self.take_step):
            m.d.comb += [new.vector.eq(Vector.DB), new.kind.eq(EventClass.TRAP)]
        with m.Elif(self.take_nmi):
            m.d.comb += [new.vector.eq(Vector.NMI), new.kind.eq(EventClass.NMI)]
        with m.Elif(self.take_intr):
            m.d.comb += [new.vector.eq(self.intr_vector), new.kind.eq(EventClass.INTR)]
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
        trapped = (self.fault.kind == EventClass.SOFT) | (self.fault.kind == EventClass.ICEBP)
        with m.If(self.asynchronous):
            m.d.comb += [new.rip.eq(self.rip), new.restart.eq(self.rip)]
            m.d.comb += hard.eq(self.rflags[RFlag.RF] | self.mid_rep)
        with m.Elif(nested):
            m.d.comb += [new.rip.eq(self.event.restart), new.restart.eq(self.event.restart), hard.eq(~doubles)]
        with m.Else():
            m.d.comb += [new.rip.eq(Mux(trapped, self.next_pc, self.pc)), new.restart.eq(self.pc), hard.eq(~trapped)]
        m.d.comb += [flags.eq(self.rflags), flags[RFlag.RF].eq(hard), new.flags.eq(flags)]

        with m.If(self.done):
            m.d.sync += self.delivering.eq(0)
        with m.If(self.take):
            m.d.sync += [self.event.eq(new), self.delivering.eq(1)]
            with m.If(serious & (first == FaultClass.DOUBLE)):
                m.d.sync += self.shutdown.eq(1)
        return m
