"""Translation of linear to physical addresses: a static map until CR3 holds a table, then what the tables say."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.bus import APIC_BASE, DEVICE_PHYS, DEVICE_VIRT, HIGH_BASE, PHYS_BITS
from hw.paging import ERROR_USER, ERROR_WRITE, FRAME_BITS, PAGE_BITS, Access, WalkPort, allows
from hw.tlb import Tlb

#: Entries of the TLB for data.
ENTRIES = 32


class Translate(Component):
    """The static map: RAM at 0, the same RAM at `HIGH_BASE`, the device page at `DEVICE_VIRT`, the interrupt controller's
    page at `APIC_BASE`; all else is a page fault.

    Combinational. ``last`` is the offset of the access's last byte (0 to 15): an access must fit its region.

    Members
    -------
    la, last : linear address and length - 1. pa : physical address, valid without faults.
    noncanonical : bits 63 to 47 differ (#GP or #SS). missing : a page fault. cr2 : the first byte that faults.
    device : the address lies in one of the two device pages.
    """

    la: In(64)
    last: In(4)
    pa: Out(PHYS_BITS)
    noncanonical: Out(1)
    missing: Out(1)
    cr2: Out(64)
    device: Out(1)

    def __init__(self, ram_bytes: int):
        if ram_bytes & (ram_bytes - 1) or not 1 << 16 <= ram_bytes <= 1 << 30:
            raise ValueError(f"ram_bytes must be a power of two from 64 KiB to 1 GiB, not {ram_bytes}")
        self._bits = ram_bytes.bit_length() - 1
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        top = self.la[47:]
        end = Signal(self._bits + 1)
        low, high, over, apic = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.noncanonical.eq(top.any() & ~top.all()),
            end.eq(self.la[: self._bits] + self.last),
            low.eq(self.la[self._bits :] == 0),
            high.eq(self.la[self._bits :] == HIGH_BASE >> self._bits),
            apic.eq(self.la[12:] == APIC_BASE >> 12),
            self.device.eq((self.la[12:] == DEVICE_VIRT >> 12) | apic),
            over.eq(Mux(self.device, (self.la[:12] + self.last)[12], (low | high) & end[-1])),
            self.cr2.eq(self.la),
            self.pa.eq(self.la[: self._bits]),
        ]
        with m.If(self.device):
            m.d.comb += self.pa.eq(Mux(apic, APIC_BASE, DEVICE_PHYS) | self.la[:12])
        with m.Elif(~low & ~high):
            m.d.comb += self.missing.eq(~self.noncanonical)
        with m.If(over):  # the access runs over the end of its region
            m.d.comb += [self.missing.eq(1), self.cr2.eq(self.la + self.last)]
            m.d.comb += self.cr2[:12].eq(0)
        return m


class DataTranslate(Component):
    """The address stage's view of memory. Combinational, but for a page that the TLB does not have.

    Members
    -------
    la, last : linear address and length - 1. access : who asks. valid : the access is made.
    pa : physical address, valid without faults and wait. split, rest : the access crosses into the frame rest.
    noncanonical : #GP or #SS. missing : #PF, with cr2 and error. device : a device's page, which loads reach in order.
    wait : the tables must be walked first. walk : for that.
    """

    la: In(64)
    last: In(4)
    access: In(Access)
    valid: In(1)
    pa: Out(PHYS_BITS)
    split: Out(1)
    rest: Out(FRAME_BITS)
    noncanonical: Out(1)
    missing: Out(1)
    cr2: Out(64)
    error: Out(16)
    device: Out(1)
    wait: Out(1)
    walk: Out(WalkPort())

    def __init__(self, ram_bytes: int):
        self._ram_bytes = ram_bytes
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.static = static = Translate(self._ram_bytes)
        m.submodules.tlb = tlb = Tlb(ENTRIES, 2)
        walk, on = self.walk, self.walk.rules.on
        page, after = Signal(PAGE_BITS), Signal(PAGE_BITS)
        crosses, have, have_rest = Signal(), Signal(), Signal()
        refused = static.device & self.access.user & ~static.missing  # those pages are the supervisor's, RAM is everybody's
        m.d.comb += [
            static.la.eq(self.la),
            static.last.eq(self.last),
            self.noncanonical.eq(static.noncanonical | (crosses & (page == (1 << PAGE_BITS - 1) - 1))),
            self.pa.eq(static.pa),
            self.missing.eq(static.missing | refused),
            self.cr2.eq(static.cr2),
            self.error.eq(refused | (self.access.write << ERROR_WRITE) | (self.access.user << ERROR_USER)),
            self.device.eq(static.device),
            # nothing of this moves while the map is static
            page.eq(Mux(on, self.la[12:48], 0)),
            after.eq(page + 1),
            crosses.eq(on & (self.la[:12] + self.last)[12]),
            tlb.page0.eq(page),
            tlb.page1.eq(after),
            have.eq(tlb.hit0 & self._may(tlb.found0)),
            have_rest.eq(~crosses | (tlb.hit1 & self._may(tlb.found1))),
            tlb.fill.eq(walk.fill),
            tlb.fill_page.eq(walk.page),
            tlb.fill_with.eq(walk.with_),
            tlb.flush.eq(walk.flush),
            walk.access.eq(self.access),
        ]
        with m.If(on):
            frame, rest = tlb.found0.frame, tlb.found1.frame
            m.d.comb += [
                self.pa.eq(Cat(self.la[:12], frame)),
                self.rest.eq(rest),
                self.split.eq(crosses & (rest != (frame + 1)[:FRAME_BITS])),
                self.device.eq((frame == APIC_BASE >> 12) | (frame == DEVICE_PHYS >> 12)),
                self.missing.eq(walk.walked & walk.fault),
                self.error.eq(walk.error),
                self.cr2.eq(Mux(have, Cat(Const(0, 12), after, after[-1].replicate(16)), self.la)),
                walk.miss.eq(self.valid & ~self.noncanonical & ~(have & have_rest)),
                walk.wanted.eq(Mux(have, after, page)),
                self.wait.eq(walk.miss & ~self.missing),
            ]
        return m

    def _may(self, page):
        """A page that the TLB has serves the access; one whose rights do not suffice, or not yet, is walked for."""
        return allows(page, self.access, self.walk.rules) & (~self.access.write | page.dirty)
