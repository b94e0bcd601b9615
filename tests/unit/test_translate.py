"""Translation: every region and every boundary, against the memory map written as ranges of bytes."""

import gc

import pytest
from amaranth.hdl import Cat

from hw.bus import APIC_BASE, DEVICE_PHYS, DEVICE_VIRT, HIGH_BASE
from hw.translate import Translate
from tests.unit.opbench import M64, simulate

SIZES = (1 << 16, 16 << 20, 1 << 30)


def place(la: int, ram: int) -> int | None:
    """Physical address of one byte, or None."""
    regions = (0, ram, 0), (HIGH_BASE, ram, 0), (DEVICE_VIRT, 4096, DEVICE_PHYS), (APIC_BASE, 4096, APIC_BASE)
    for base, size, physical in regions:
        if base <= la < base + size:
            return physical + la - base
    return None


def expected(la: int, last: int, ram: int) -> tuple:
    """noncanonical, missing, cr2, pa, device: what is not valid is None."""
    if la >> 47 not in (0, (1 << 17) - 1):
        return 1, 0, None, None, 0
    for byte in range(la, la + last + 1):
        if place(byte, ram) is None:  # the first byte that faults
            return 0, 1, byte, None, None
    return 0, 0, None, place(la, ram), int((la >> 12) in (DEVICE_VIRT >> 12, APIC_BASE >> 12))


def check(ram: int, todo) -> None:
    dut = Translate(ram)
    inputs = Cat(dut.la, dut.last)
    outputs = Cat(dut.noncanonical, dut.missing, dut.device, dut.cr2, dut.pa)

    async def bench(ctx):
        for la, last in todo:
            ctx.set(inputs, la | last << 64)
            seen = ctx.get(outputs)
            got = (seen & 1, seen >> 1 & 1, seen >> 3 & M64, seen >> 67, seen >> 2 & 1)
            want = expected(la, last, ram)
            assert all(w in (None, g) for w, g in zip(want, got, strict=True)), f"{la:#x} + {last}: {got} {want}"

    simulate(dut, bench)


@pytest.mark.parametrize("ram", SIZES)
def test_boundaries(ram):
    """Accesses of 1 to 16 bytes around every address where something begins or ends."""
    edges = (0, ram, 2 * ram, 1 << 32, DEVICE_PHYS, HIGH_BASE, HIGH_BASE + ram, DEVICE_VIRT, DEVICE_VIRT + 4096)
    edges += (APIC_BASE, APIC_BASE + 4096)
    edges += (*(1 << n for n in (31, 40, 46, 47, 48, 52, 62, 63)), (1 << 64) - (1 << 47))
    near = [(edge + offset & M64, last) for edge in edges for offset in range(-17, 18) for last in (0, 1, 3, 7, 15)]
    check(ram, [(la, last) for la, last in near if la + last <= M64])


@pytest.mark.parametrize("ram", SIZES)
def test_random_addresses(ram, rng):
    bases = (0, HIGH_BASE, DEVICE_VIRT, DEVICE_PHYS, APIC_BASE, 1 << 47, M64 + 1 - (1 << 47))
    todo = []
    for _ in range(1500):
        la = rng.choice((rng.getrandbits(64), rng.choice(bases) + rng.randrange(-ram, 2 * ram) & M64))
        todo.append((la, rng.choice((0, 1, 3, 7, 15))))
    check(ram, [(la, last) for la, last in todo if la + last <= M64])


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("wrong", (0, 1, 5000, (16 << 20) + 1, 1 << 15, 1 << 31))
def test_sizes_that_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"power of two from 64 KiB to 1 GiB, not {wrong}$"):
        Translate(wrong)
    gc.collect()  # the one that is never used is complained about here
