"""The local interrupt controller of a hart (SDM vol. 3, chapter 10; trap semantics 7.2): IRR, ISR, task priority, IPIs, timer.

It sits between the outside and the hart: what comes from the outside (`hw.bus.IrqPort`) passes before anything of its own,
like an interrupt of the 8259 through LINT0, whatever the local vector table says. Interprocessor interrupts go to all
controllers in the cycle after the ICR is written, and each finds out whether it is meant: so they arrive everywhere at once,
and in the order in which they were sent. Those that come from outside of the system, as from a processor or an I/O controller
there, are on the same footing.
"""

from enum import IntEnum
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import enum
from amaranth.lib.wiring import Component, In, Out

from hw.bus import ApicPort, IpiPort, IrqPort, RegisterPort


class At(IntEnum):
    """Offsets of registers in the page."""

    ID = 0x020
    VERSION = 0x030
    TPR = 0x080
    PPR = 0x0A0
    EOI = 0x0B0
    LDR = 0x0D0
    DFR = 0x0E0
    SVR = 0x0F0
    ISR = 0x100
    TMR = 0x180
    IRR = 0x200
    ESR = 0x280
    ICR_LOW = 0x300
    ICR_HIGH = 0x310
    LVT_TIMER = 0x320
    LVT_THERMAL = 0x330
    LVT_COUNTER = 0x340
    LVT_LINT0 = 0x350
    LVT_LINT1 = 0x360
    LVT_ERROR = 0x370
    TIMER_INITIAL = 0x380
    TIMER_CURRENT = 0x390
    TIMER_DIVIDE = 0x3E0


class RegisterRow(NamedTuple):
    """A register that keeps what is written: offset, writable bits, value after reset, bits that always read as 1."""

    at: At
    mask: int
    reset: int = 0
    ones: int = 0


_MASKED = 1 << 16

ROWS = (
    RegisterRow(At.TPR, 0xFF),
    RegisterRow(At.LDR, 0xFF000000),
    RegisterRow(At.DFR, 0xF0000000, 0xFFFFFFFF, 0x0FFFFFFF),
    RegisterRow(At.SVR, 0x1FF, 0xFF),
    RegisterRow(At.ICR_LOW, 0x000CCFFF),
    RegisterRow(At.ICR_HIGH, 0xFF000000),
    RegisterRow(At.LVT_TIMER, 0x000700FF, _MASKED),
    RegisterRow(At.LVT_THERMAL, 0x000107FF, _MASKED),
    RegisterRow(At.LVT_COUNTER, 0x000107FF, _MASKED),
    RegisterRow(At.LVT_LINT0, 0x0001A7FF, _MASKED),
    RegisterRow(At.LVT_LINT1, 0x0001A7FF, _MASKED),
    RegisterRow(At.LVT_ERROR, 0x000100FF, _MASKED),
    RegisterRow(At.TIMER_INITIAL, 0xFFFFFFFF),
    RegisterRow(At.TIMER_DIVIDE, 0xB),
)

#: The local vector table: masked while the controller is disabled by software.
_LVT = (At.LVT_TIMER, At.LVT_THERMAL, At.LVT_COUNTER, At.LVT_LINT0, At.LVT_LINT1, At.LVT_ERROR)

#: Version 0x14 with six entries in the local vector table.
VERSION = 0x00050014

#: ESR: an illegal vector was sent, was received; a register that does not exist was accessed.
_SENT_ILLEGAL, _RECEIVED_ILLEGAL, _NO_REGISTER = 5, 6, 7

#: Vectors below this cannot come through the controller.
_LOWEST = 16


class Delivery(enum.Enum, shape=3):
    """Delivery modes of the ICR that do something; there is no SMI."""

    FIXED = 0
    LOWEST = 1
    NMI = 4
    INIT = 5
    START = 6


class Lapic(Component):
    """The controller of hart ``number``, one of ``harts``.

    Members
    -------
    registers : accesses to its page (`hw.bus.RegisterPort`).
    core : the hart's enable bit, without which nothing is accepted and everything is as after reset; CR8, which is the upper
    half of the task priority, and the task priority; IPIs that are no interrupts (`hw.bus.ApicPort`).
    outside : interrupts from outside, which pass first. hart : to the hart; combinational.
    remote : an IPI from outside of the system.

    With several harts
    ------------------
    sent : the IPI that it sends in this cycle. from{i} : what the controller of another hart i sends.
    claims : bit i: it would take a lowest-priority IPI of hart i, sent in this cycle; the last bit: the remote one.
    earlier : one of a lower number would, and does; "lowest priority" is the lowest number here.
    """

    def __init__(self, number: int = 0, harts: int = 1):
        self._number, self._harts = number, harts
        members = {
            "registers": In(RegisterPort()),
            "core": In(ApicPort()),
            "outside": Out(IrqPort()),
            "hart": In(IrqPort()),
            "remote": In(IpiPort()),
        }
        if harts > 1:
            members |= {"sent": Out(IpiPort()), "claims": Out(harts + 1), "earlier": In(harts + 1)}
            members |= {f"from{i}": In(IpiPort()) for i in range(harts) if i != number}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        port, enable = self.registers, self.core.enable
        kept = {row.at: Signal(32, init=row.reset, name=row.at.name.lower()) for row in ROWS}
        irr, isr = Signal(256), Signal(256)
        errors, esr = Signal(8), Signal(8)
        tpr = kept[At.TPR]
        write = port.write & enable
        fires = self._timer(m, kept, write)
        software = kept[At.SVR][8]

        # --- priorities: the highest request above the processor's priority
        request, service, ppr = Signal(8), Signal(8), Signal(8)
        _highest(m, "irr", irr, request)
        _highest(m, "isr", isr, service)
        m.d.comb += [
            self.core.tpr.eq(tpr),
            self.core.armed.eq((self._count != 0) & ~kept[At.LVT_TIMER][16]),
            ppr.eq(Mux(tpr[4:] >= service[4:], tpr, service & 0xF0)),
        ]
        pending = software & (request[4:] > ppr[4:])
        own = ~self.outside.valid
        taken = self.hart.ack & own
        m.d.comb += [
            self.hart.valid.eq(self.outside.valid | pending),
            self.hart.vector.eq(Mux(own, request, self.outside.vector)),
            self.outside.ack.eq(self.hart.ack & ~own),
        ]

        # --- what comes in: IPIs, the timer, its own error interrupt
        sends = Signal()
        m.d.sync += sends.eq(write & (port.offset == At.ICR_LOW))
        fixed, badly_sent = self._messages(m, kept, sends, enable)
        reports = Signal()  # an error that the local vector table makes an interrupt of
        m.d.comb += self.hart.nmi.eq(self.outside.nmi)
        for condition, number in (
            *fixed,
            (fires & ~kept[At.LVT_TIMER][16], kept[At.LVT_TIMER][:8]),
            (reports & ~kept[At.LVT_ERROR][16], kept[At.LVT_ERROR][:8]),
        ):
            with m.If(condition & software & (number >= _LOWEST)):
                m.d.sync += irr.bit_select(number, 1).eq(1)
        with m.If(taken):
            m.d.sync += [irr.bit_select(request, 1).eq(0), isr.bit_select(request, 1).eq(1)]

        # --- registers
        known = Signal()
        with m.Switch(port.offset):
            for at, value in self._readable(kept, ppr, irr, isr, esr):
                with m.Case(at):
                    m.d.comb += [port.rdata.eq(value), known.eq(1)]
            with m.Case(At.EOI, At.ESR):
                m.d.comb += [port.rdata.eq(Mux(port.offset == At.ESR, esr, 0)), known.eq(1)]
        with m.If(~enable):
            m.d.comb += port.rdata.eq(0xFFFFFFFF)
        with m.If(self.core.cr8_we):
            m.d.sync += kept[At.TPR].eq(self.core.cr8 << 4)
        found = Signal(8)
        m.d.comb += [
            found[_SENT_ILLEGAL].eq(badly_sent),
            found[_RECEIVED_ILLEGAL].eq(Cat(hit & (vector < _LOWEST) for hit, vector in fixed).any()),
            found[_NO_REGISTER].eq((write | (port.read & enable)) & ~known),
            reports.eq(found.any()),
        ]
        m.d.sync += errors.eq(errors | found)
        with m.If(write), m.Switch(port.offset):
            for row in ROWS:
                with m.Case(row.at):
                    masked = Const(_MASKED) if row.at in _LVT else Const(0)
                    m.d.sync += kept[row.at].eq((port.wdata & row.mask) | row.ones | Mux(software, 0, masked))
            with m.Case(At.EOI):
                m.d.sync += isr.bit_select(service, 1).eq(0)
            with m.Case(At.ESR):  # a write takes over what was found since the last one
                m.d.sync += [esr.eq(errors | found), errors.eq(0)]
        with m.If(write & (port.offset == At.SVR) & ~port.wdata[8]):
            m.d.sync += [kept[at][16].eq(1) for at in _LVT]
        with m.If(~enable):
            m.d.sync += [kept[row.at].eq(row.reset) for row in ROWS]
            m.d.sync += [irr.eq(0), isr.eq(0), errors.eq(0), esr.eq(0)]
        return m

    def _readable(self, kept, ppr, irr, isr, esr):
        """Offset and value of what can be read, but for EOI and ESR."""
        yield At.ID, Const(self._number << 24, 32)
        yield At.VERSION, Const(VERSION, 32)
        yield At.PPR, ppr
        for base, bits in ((At.ISR, isr), (At.IRR, irr)):
            for word in range(8):
                yield base + 0x10 * word, bits[32 * word : 32 * word + 32]
        for word in range(8):  # every interrupt is edge-triggered
            yield At.TMR + 0x10 * word, Const(0, 32)
        yield At.TIMER_CURRENT, self._count
        yield from kept.items()

    def _messages(self, m, kept, sends, enable):
        """IPIs of all senders: fixed ones for this hart, with their vectors; and whether it sends an illegal vector."""
        low = kept[At.ICR_LOW]
        own = IpiPort().create()
        m.d.comb += [
            own.valid.eq(sends),
            own.vector.eq(low[:8]),
            own.mode.eq(low[8:11]),
            own.logical.eq(low[11]),
            own.deassert.eq(low[15] & ~low[14]),
            own.shorthand.eq(low[18:20]),
            own.destination.eq(kept[At.ICR_HIGH][24:32]),
        ]
        for name in IpiPort().members if self._harts > 1 else ():
            m.d.comb += getattr(self.sent, name).eq(getattr(own, name))
        fixed, others = [], {Delivery.NMI: [], Delivery.INIT: [], Delivery.START: []}
        senders = [own if i == self._number else getattr(self, f"from{i}") for i in range(self._harts)]
        for source, ipi in enumerate((*senders, self.remote)):
            hit = Signal(name=f"hit{source}")
            m.d.comb += hit.eq(ipi.valid & enable & self._selects(ipi, ipi is own, kept[At.LDR]))
            lowest = ipi.mode == Delivery.LOWEST
            if self._harts > 1:
                m.d.comb += self.claims[source].eq(hit & kept[At.SVR][8])
                lowest &= ~self.earlier[source]
            fixed.append((hit & ((ipi.mode == Delivery.FIXED) | lowest), ipi.vector))
            others[Delivery.NMI].append(hit & (ipi.mode == Delivery.NMI))
            others[Delivery.INIT].append(hit & (ipi.mode == Delivery.INIT) & ~ipi.deassert)
            others[Delivery.START].append(hit & (ipi.mode == Delivery.START))
            with m.If(others[Delivery.START][-1]):
                m.d.comb += self.core.page.eq(ipi.vector)
        m.d.comb += [
            self.core.nmi.eq(Cat(others[Delivery.NMI]).any()),
            self.core.init.eq(Cat(others[Delivery.INIT]).any()),
            self.core.start.eq(Cat(others[Delivery.START]).any()),
        ]
        vectored = (own.mode == Delivery.FIXED) | (own.mode == Delivery.LOWEST)
        return fixed, sends & vectored & (own.vector < _LOWEST)

    def _selects(self, ipi, itself: bool, ldr):
        """Is this hart a destination? (SDM vol. 3, 10.6.2; logical destinations in the flat model.)"""
        physical = (ipi.destination == self._number) | (ipi.destination == 0xFF)
        logical = (ipi.destination & ldr[24:32]).any()
        named = Mux(ipi.logical, logical, physical)
        return Mux(ipi.shorthand == 0, named, (ipi.shorthand != 3) if itself else (ipi.shorthand != 1))

    def _timer(self, m, kept, write):
        """Counts down once in ``divide`` cycles; true in the cycle in which it reaches 0 (SDM vol. 3, 10.5.4)."""
        self._count = count = Signal(32)
        prescale = Signal(7)
        divide = Cat(kept[At.TIMER_DIVIDE][:2], kept[At.TIMER_DIVIDE][3])
        last = Signal(7)  # cycles of a tick, less one
        fires = Signal()
        initial, periodic = kept[At.TIMER_INITIAL], kept[At.LVT_TIMER][17]
        started = write & (self.registers.offset == At.TIMER_INITIAL)
        m.d.comb += last.eq(Mux(divide == 7, 0, (2 << divide) - 1))
        tick = (count != 0) & (prescale >= last)
        m.d.comb += fires.eq(tick & (count == 1))
        with m.If(count != 0):
            m.d.sync += prescale.eq(Mux(tick, 0, prescale + 1))
        with m.If(tick):
            m.d.sync += count.eq(Mux(fires & periodic, initial, count - 1))
        with m.If(started):
            m.d.sync += [count.eq(self.registers.wdata), prescale.eq(0)]
        with m.If(~self.core.enable):
            m.d.sync += count.eq(0)
        return fires


def _highest(m, name: str, bits, number) -> None:
    """The number of the highest bit of 256, 0 if there is none: the class first, then the bit in it."""
    classes = Signal(16, name=f"{name}_classes")
    m.d.comb += classes.eq(Cat(bits[16 * i : 16 * i + 16].any() for i in range(16)))
    top, within = Signal(4, name=f"{name}_class"), Signal(16, name=f"{name}_within")
    for i in range(16):
        with m.If(classes[i]):
            m.d.comb += top.eq(i)
    m.d.comb += within.eq(bits.word_select(top, 16))
    m.d.comb += number[4:].eq(top)
    for i in range(16):
        with m.If(within[i]):
            m.d.comb += number[:4].eq(i)
