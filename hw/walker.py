"""The page walker: four levels of tables in memory, accessed and dirty bits, and the page faults that tables decide.

It starts when nothing older than its requester is in flight, so that it sees every older store and marks no page that is not
used; it reads and writes like the hart itself, on the data bus, which it has for itself while it is busy.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, Signature

from hw.bus import APIC_BASE, DEVICE_PHYS, PHYS_BITS
from hw.paging import (
    ACCESSED,
    DIRTY,
    ERROR_FETCH,
    ERROR_PRESENT,
    ERROR_RESERVED,
    ERROR_USER,
    ERROR_WRITE,
    FRAME_BITS,
    LARGE,
    NO_EXECUTE,
    PAGE_BITS,
    PRESENT,
    USER,
    WRITABLE,
    Access,
    Page,
    Rules,
    allows,
)

#: The walker's side of the data bus (`hw.bus.DataBus`): 8 bytes at a time.
WalkBus = Signature(
    {
        "req_valid": Out(1),
        "req_ready": In(1),
        "req_addr": Out(PHYS_BITS),
        "req_write": Out(1),
        "req_data": Out(64),
        "req_lock": Out(1),
        "resp_valid": In(1),
        "resp_data": In(64),
    }
)


class Walker(Component):
    """Walks for one page at a time (SDM vol. 3, 4.5).

    A frame that is neither RAM nor a page of a device counts as reserved bits set: this machine's physical addresses end there.

    Members
    -------
    start, page, access : a walk begins in this cycle; only when not busy. busy : in the cycles after it, done included.
    done : the walk ends in this cycle: with fault and error (the code of a page fault), or with result.
    walked, result : the page walked for, and its translation. rules : of the control registers, stable while busy.
    bus : to the data bus.
    """

    start: In(1)
    page: In(PAGE_BITS)
    access: In(Access)
    rules: In(Rules)
    busy: Out(1)
    done: Out(1)
    fault: Out(1)
    error: Out(16)
    walked: Out(PAGE_BITS)
    result: Out(Page)
    bus: Out(WalkBus)

    def __init__(self, ram_bytes: int):
        self._ram_frames = ram_bytes >> 12
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        access = Signal(Access)
        level, table = Signal(2), Signal(FRAME_BITS)
        above = Signal(Page)  # rights gathered so far
        entry, fresh = Signal(64), Signal(64)
        index = Signal(9)
        with m.Switch(level):
            for number in range(4):
                with m.Case(number):
                    m.d.comb += index.eq(self.walked[9 * number : 9 * number + 9])

        # --- what the entry says
        leaf, reserved, page, here = Signal(), Signal(), Signal(Page), Signal(FRAME_BITS)
        refused, wanted = Signal(), Signal(64)
        is_ram = here < self._ram_frames
        is_device = (here == APIC_BASE >> 12) | (here == DEVICE_PHYS >> 12)
        m.d.comb += [
            leaf.eq((level == 0) | (entry[LARGE] & (level != 3))),
            here.eq(entry[12:32]),
            reserved.eq(
                entry[32:52].any() | (entry[NO_EXECUTE] & ~self.rules.nxe) | ~(is_ram | (leaf & is_device))
                | (entry[LARGE] & (level == 3))
                | (entry[LARGE] & (level == 2) & entry[13:30].any())
                | (entry[LARGE] & (level == 1) & entry[13:21].any())
            ),
            page.writable.eq(above.writable & entry[WRITABLE]),
            page.user.eq(above.user & entry[USER]),
            page.executable.eq(above.executable & ~entry[NO_EXECUTE]),
            page.dirty.eq(entry[DIRTY] | access.write),
            page.frame.eq(here),
            refused.eq(~entry[PRESENT] | reserved | (leaf & ~allows(page, access, self.rules))),
            wanted[ACCESSED].eq(1),
            wanted[DIRTY].eq(leaf & access.write),
        ]  # fmt: skip
        with m.If(leaf & (level == 2)):
            m.d.comb += [here.eq(Cat(self.walked[:18], entry[30:32])), page.frame.eq(here)]
        with m.If(leaf & (level == 1)):
            m.d.comb += [here.eq(Cat(self.walked[:9], entry[21:32])), page.frame.eq(here)]

        begin = [level.eq(3), table.eq(self.rules.root), above.eq(Page.const(dict(writable=1, user=1, executable=1)))]
        no_root = self.rules.root_high | (self.rules.root >= self._ram_frames)
        m.d.comb += [
            self.bus.req_addr.eq(Cat(Const(0, 3), index, table)),
            self.bus.req_data.eq(fresh),
            self.result.eq(page),
        ]
        present = Signal()  # P of the error code
        m.d.comb += [
            self.error[ERROR_PRESENT].eq(present),
            self.error[ERROR_WRITE].eq(access.write),
            self.error[ERROR_USER].eq(access.user),
            self.error[ERROR_FETCH].eq(access.fetch & (self.rules.nxe | self.rules.smep)),
        ]

        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.sync += [*begin, access.eq(self.access), self.walked.eq(self.page)]
                with m.If(self.start):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.bus.req_valid.eq(~no_root)
                with m.If(no_root):
                    m.next = "IDLE"
                    m.d.comb += [self.done.eq(1), self.fault.eq(1), present.eq(1), self.error[ERROR_RESERVED].eq(1)]
                with m.If(~no_root & self.bus.req_ready):  # not Elif: what the walk ends with depends on no req_ready
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.sync += entry.eq(self.bus.resp_data)
                with m.If(self.bus.resp_valid):
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(refused):
                    m.d.comb += [
                        self.done.eq(1),
                        self.fault.eq(1),
                        present.eq(entry[PRESENT]),
                        self.error[ERROR_RESERVED].eq(entry[PRESENT] & reserved),
                    ]
                    m.next = "IDLE"
                with m.Elif((entry & wanted) != wanted):
                    m.next = "AGAIN"
                with m.Elif(leaf):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += [level.eq(level - 1), table.eq(here), above.eq(page)]
                    m.next = "READ"
            # the entry is read again, locked, and written with its marks unless another hart has changed it
            with m.State("AGAIN"):
                m.d.comb += [self.bus.req_valid.eq(1), self.bus.req_lock.eq(1)]
                with m.If(self.bus.req_ready):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                found = self.bus.resp_data
                m.d.sync += fresh.eq(Mux(self._same(found, entry), found | wanted, found))
                with m.If(self.bus.resp_valid):
                    m.next = "MARK"
            with m.State("MARK"):
                m.d.comb += [self.bus.req_valid.eq(1), self.bus.req_lock.eq(1), self.bus.req_write.eq(1)]
                with m.If(self.bus.req_ready):
                    m.d.sync += entry.eq(fresh)
                    m.next = "DECIDE"
                    with m.If(~self._same(fresh, entry)):
                        m.d.sync += begin
                        m.next = "READ"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m

    def _same(self, one, other):
        """Equal but for the marks."""
        marks = 1 << ACCESSED | 1 << DIRTY
        return (one | marks) == (other | marks)
