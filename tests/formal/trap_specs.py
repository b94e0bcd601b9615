"""What the trap picker must do: of all that asks, the first in the manual's order is granted, alone."""

from amaranth.hdl import Assert, Assume, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In

from hw.boundary import Shadow
from hw.config import Config
from hw.isa.facts import EventClass, Vector
from hw.types import Fault
from tests.formal.prover import Opened

#: Classes of the second table of trap semantics 5.
CONTRIBUTORY = (0, 10, 11, 12, 13, 21)
PAGE = (14, 20)

#: What no uop brings: a double fault is made by the picker; virtualisation and control protection do not exist here.
ABSENT = (Vector.DF, 20, 21)


class Order(Component):
    """The picker with any inputs. Trap semantics 4: traps of the last instruction, NMI, interrupt, breakpoint, fault.

    The first three come between two instructions only, the interrupts not in a shadow, and a hart that has shut down takes an NMI
    and nothing else. The event that is remembered is the one that was granted.
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

    def __init__(self, module):
        super().__init__()
        self._module = module

    def elaborate(self, platform):
        m = Module()
        picker = self._module.TrapPicker(Config())
        m.submodules.picker = Opened(picker)
        m.d.comb += [getattr(picker, name).eq(getattr(self, name)) for name in self.signature.members]
        # what the retire stage promises
        m.d.comb += [
            Assume(~self.boundary | ~(picker.delivering | picker.shutdown)),
            Assume(~(self.breaks | self.fault_valid) | ~picker.shutdown),
            Assume(~self.breaks | ~picker.delivering),
            Assume(~self.done | (picker.delivering & ~self.fault_valid)),
            Assume(~self.fault.vector.matches(*ABSENT) | (self.fault.kind != EventClass.FAULT)),
        ]

        no_shadow = self.shadow == Shadow.NONE
        asking = (
            (picker.take_debug, self.debug & self.boundary & (self.shadow != Shadow.MOVSS)),
            (picker.take_nmi, self.nmi & no_shadow & (self.boundary | picker.shutdown)),
            (picker.take_intr, self.intr & no_shadow & self.boundary),
            (picker.take_break, self.breaks),
            (picker.take_fault, self.fault_valid),
        )
        before = Const(0, 1)
        for number, (granted, asks) in enumerate(asking):
            m.d.comb += Assert(granted == (asks & ~before), f"event {number} of the order")
            before = before | asks
        m.d.comb += [
            Assert(picker.take == before, "one, if any asks"),
            Assert(picker.asynchronous == (picker.take_debug | picker.take_nmi | picker.take_intr), "asynchronous"),
        ]

        # what is taken, and what it becomes when it meets another (trap semantics 5)
        new, second = picker.taken, Signal(2)
        is_fault = picker.take_fault & (self.fault.kind == EventClass.FAULT)
        with m.If(is_fault), m.Switch(self.fault.vector):
            with m.Case(*CONTRIBUTORY):
                m.d.comb += second.eq(1)
            with m.Case(*PAGE):
                m.d.comb += second.eq(2)
        first = Signal(2)  # class of the event in delivery: 0 benign, 1 contributory, 2 page fault, 3 double fault
        nested = picker.delivering & picker.take_fault
        double = nested & (((first == 1) & (second == 1)) | ((first == 2) & (second != 0)))
        dead = nested & (first == 3) & (second != 0)
        with m.If(picker.take):
            m.d.sync += first.eq(Mux(double, 3, second))
        soft = (self.fault.kind == EventClass.SOFT) | (self.fault.kind == EventClass.ICEBP)
        rows = (
            (picker.take_debug, Vector.DB, self.rip),
            (picker.take_nmi, Vector.NMI, self.rip),
            (picker.take_intr, self.intr_vector, self.rip),
            (picker.take_break, Vector.DB, self.pc),
            (double, Vector.DF, picker.event.restart),
            (nested & ~double, self.fault.vector, picker.event.restart),
            (picker.take_fault & ~nested & soft, self.fault.vector, self.next_pc),
            (picker.take_fault & ~nested & ~soft, self.fault.vector, self.pc),
        )
        for number, (condition, vector, rip) in enumerate(rows):
            m.d.comb += Assert(~condition | ((new.vector == vector) & (new.rip == rip)), f"vector and rip, row {number}")
        m.d.comb += Assert(~double | (new.has_error & (new.error == 0)), "error code of a double fault")

        was, event, died = Signal(), Signal.like(new), Signal()
        m.d.sync += [was.eq(picker.take), event.eq(new), died.eq(dead)]
        m.d.comb += [
            Assert(picker.event.fault_class.as_value() == first, "class of the event in delivery"),
            Assert(~was | (picker.delivering & (picker.event.as_value() == event.as_value())), "it is delivered"),
            Assert(~was | (picker.shutdown == died), "shutdown"),
        ]
        return m
