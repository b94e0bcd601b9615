"""Selectors and segment descriptors taken apart, and the chain of checks of which the first that fails raises its fault."""

from amaranth.hdl import Cat, Const, Mux, Signal


class Descriptor:
    """The fields of the low quadword of a descriptor (SDM vol. 3, 3.4.5 and 3.5); combinational, no hardware of its own.

    kind : type, 4 bits. system : not code or data. code, data : of a segment. readable, writable, conforming : of code or
    data only. long : 64-bit code. accessed, dpl, present. base : bits 31 to 0. limit : in bytes, granularity applied.
    """

    def __init__(self, quad):
        self.kind, self.system, self.dpl, self.present = quad[40:44], ~quad[44], quad[45:47], quad[47]
        self.accessed = quad[40]
        self.code, self.data = quad[44] & quad[43], quad[44] & ~quad[43]
        self.readable = quad[44] & (~quad[43] | quad[41])
        self.writable = self.data & quad[41]
        self.conforming = self.code & quad[42]
        self.long = quad[53] & ~quad[54]
        self.base = Cat(quad[16:40], quad[56:64])
        limit = Cat(quad[0:16], quad[48:52])
        self.limit = Mux(quad[55], Cat(Const(0xFFF, 12), limit), limit)


def is_null(selector):
    """A null selector: index 0 of the GDT, whatever the RPL."""
    return selector[2:16] == 0


def error_of(selector):
    """A selector as an error code: without its RPL."""
    return Cat(Const(0, 2), selector[2:16])


class Checks:
    """Checks of one operation in the order of the manual; the first that fails drives ``fault``, ``vector``, ``error``."""

    def __init__(self, m, unit):
        self._m, self._unit = m, unit
        self._failed = Const(0, 1)

    def refuse(self, condition, vector, error):
        """Raises a fault unless an earlier check of the same operation has."""
        m, unit = self._m, self._unit
        with m.If(condition & ~self._failed):
            m.d.comb += [unit.fault.eq(1), unit.vector.eq(vector), unit.error.eq(error)]
        failed = Signal(name="failed")
        m.d.comb += failed.eq(self._failed | condition)
        self._failed = failed


def canonical(address):
    """Bits 63 to 47 are equal."""
    return address[47:].all() | ~address[47:].any()
