"""The checksum of crc32 (CRC-32C, polynomial 11EDC6F41H, bits reflected): one XOR tree for data of any size."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib.wiring import Component, In, Out

#: The polynomial without its highest term, bits reflected.
POLYNOMIAL = 0x82F63B78


def _step(crc: int) -> int:
    """The checksum after one more bit, a 0."""
    return crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)


def _columns() -> list[int]:
    """What each bit of a 64-bit quantity, the lowest processed first, contributes to the checksum."""
    columns, value = [], 1 << 31
    for _ in range(32):  # the last bit comes in at the top and goes all the way through; each before it, one step more
        value = _step(value)
    for _ in range(64):
        columns.append(value)
        value = _step(value)
    return columns[::-1]


class Crc32c(Component):
    """``crc`` continued with ``data``; combinational. Without ``en`` the result is 0.

    Data of 8, 16 or 32 bits take the place of the last of 64: the zeros before them change nothing, and the part of the
    old checksum that they do not reach moves down by their width.
    """

    en: In(1)
    size: In(2)  #: log2 of the bytes of ``data``; what lies above them is ignored
    crc: In(32)
    data: In(64)
    result: Out(32)

    def elaborate(self, _):
        """Build the logic."""
        m = Module()
        mixed, rest = Signal(64), Signal(32)
        with m.If(self.en), m.Switch(self.size):
            for size in range(4):
                bits = 8 << size
                with m.Case(size):
                    m.d.comb += [
                        mixed.eq(Cat(Const(0, 64 - bits), (self.data ^ self.crc)[:bits])),
                        rest.eq(self.crc >> bits),
                    ]
        columns = _columns()
        for n in range(32):
            mask = sum(1 << i for i, column in enumerate(columns) if column >> n & 1)
            m.d.comb += self.result[n].eq((mixed & mask).xor() ^ rest[n])
        return m
