"""Translation of linear to physical addresses: static for now. Paging will replace this unit and nothing else."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hw.bus import APIC_BASE, DEVICE_PHYS, DEVICE_VIRT, HIGH_BASE, PHYS_BITS


class Translate(Component):
    """RAM at 0, the same RAM at `HIGH_BASE`, the device page at `DEVICE_VIRT`, the interrupt controller's page at `APIC_BASE`;
    all else is a page fault.

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
