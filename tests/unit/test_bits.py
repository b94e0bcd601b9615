"""The bit unit against the reference, and the reference against the host."""

import random

from hw.bits import Bits
from hw.isa.facts import Op
from tests.unit.flags_reference import BITS, BITS_WIDE
from tests.unit.opbench import Case, cases, check_reference, check_unit, interesting

SCANS = (Op.BSF, Op.BSR, Op.TZCNT, Op.LZCNT, Op.POPCNT)


def scans():
    """Every position of a single 1, alone and below or above noise, and no 1 at all under garbage."""
    rng = random.Random(2)
    for op in SCANS:
        for size in range(1, 4):
            bits = 8 << size
            garbage = rng.getrandbits(64) << bits & (1 << 64) - 1
            yield Case(op, size, rng.getrandbits(64), garbage, rng.getrandbits(6))
            for n in range(bits):
                noise = rng.getrandbits(64)
                for b in (1 << n, 1 << n | noise & (1 << n) - 1, (1 << n | noise << n) & (1 << bits) - 1):
                    yield Case(op, size, rng.getrandbits(64), b | garbage, rng.getrandbits(6))


def test_unit_random():
    check_unit(Bits(), cases(BITS, range(1, 4), 500, "bits"))


def test_unit_scans():
    check_unit(Bits(), scans())


def test_bit_offset_of_bytes():
    rng = random.Random(3)
    check_unit(Bits(), (Case(Op.BITOFF, 0, 0, interesting(rng, 8), 0) for _ in range(100)))


def fields():
    """Bit fields and byte orders: every index, every start with lengths about the end."""
    rng = random.Random(4)
    yield from cases((Op.MOVBE,), range(1, 4), 200, "movbe")
    yield from cases(BITS_WIDE, (2, 3), 300, "fields")
    for size in (2, 3):
        for index in range(256):
            for op, length in ((Op.BZHI, rng.getrandbits(8)), (Op.BEXTR, rng.randrange(256)), (Op.BEXTR, rng.randrange(66))):
                control = rng.getrandbits(48) << 16 | length << 8 | index
                yield Case(op, size, rng.getrandbits(64), control, rng.getrandbits(6))


def test_unit_fields():
    check_unit(Bits(), fields())


def test_reference(tmp_path):
    on_host = [op for op in BITS if op is not Op.BITOFF]
    check_reference([*cases(on_host, range(1, 4), 1000, "bits"), *scans(), *fields()], tmp_path)
