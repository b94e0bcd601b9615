"""Guest memory through page tables, against the walk in Python."""

import struct

import pytest

from hw.config import Config
from sim.memory import GuestMemory, GuestMemoryError
from tests.unit.pagetables import RAM, Builder, Who, walk

PAGE = 0x7F00_0000_0000


class Engine:
    """RAM, and CR3 in place of every register."""

    config = Config(ram_bytes=RAM)

    def __init__(self):
        self.ram, self.cr3 = bytearray(RAM), 0

    def read_mem(self, address, size):
        assert address + size <= RAM
        return bytes(self.ram[address : address + size])

    def write_mem(self, address, data):
        self.ram[address : address + len(data)] = data

    def read_reg(self, hart, index):
        return self.cr3


@pytest.fixture
def mapped():
    """Two pages of 4 KiB to frames apart, one of 2 MiB and one of 1 GiB."""
    engine, builder = Engine(), Builder(0x100000)
    builder.map(PAGE, 0x5000)
    builder.map(PAGE + 0x1000, 0x3000)
    builder.map(PAGE + 0x200000, 0x400000, level=1)
    builder.map(PAGE + (1 << 30), 0, level=2)
    builder.map(PAGE + 0x3000, 0xFEE00000)
    for where, entry in builder.memory.items():
        engine.write_mem(where, struct.pack("<Q", entry))
    engine.cr3 = builder.root | 0x18
    return engine, builder, GuestMemory(engine)


def test_every_size_of_page(mapped):
    _, builder, memory = mapped
    for la in (PAGE, PAGE + 0xFFF, PAGE + 0x1234, PAGE + 0x200000 + 0x12345, PAGE + (1 << 30) + 0x345678):
        assert memory.translate(la) == walk(builder.memory, builder.root, la, Who()).pa


def test_what_lies_in_two_frames(mapped):
    engine, _, memory = mapped
    memory.write(PAGE + 0xFFD, b"abcdef")
    assert engine.read_mem(0x5FFD, 3) + engine.read_mem(0x3000, 3) == b"abcdef" == memory.read(PAGE + 0xFFD, 6)
    assert memory.translate(PAGE + 0xFFD, 3) == 0x5FFD
    with pytest.raises(GuestMemoryError, match="do not lie in one piece"):
        memory.translate(PAGE + 0xFFD, 6)


@pytest.mark.parametrize("la", (PAGE + 0x2000, 0x1000, PAGE + (1 << 30) + RAM, PAGE + 0x3000))
def test_what_is_not_mapped_to_ram(mapped, la):
    with pytest.raises(GuestMemoryError, match=f"{la:#x} is not mapped to RAM by the tables"):
        mapped[2].read(la, 1)


def test_nothing_is_written_if_a_byte_is_not_mapped(mapped):
    engine, _, memory = mapped
    with pytest.raises(GuestMemoryError):
        memory.write(PAGE + 0x1FFE, b"abcd")
    assert engine.read_mem(0x3FFE, 2) == b"\0\0"
