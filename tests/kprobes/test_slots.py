"""Slots that a cpu may still be in, and that their number costs nothing."""

import pytest

from kprobes.slots import Slots
from tests.kprobes.test_displacement import Pages


class Cpus(Pages):
    """Pages, and places where cpus are."""

    def __init__(self):
        super().__init__()
        self.at = set()
        self.asked = 0

    def settled(self, start, end):
        self.asked += 1
        return not any(start <= ip < end for ip in self.at)


def test_a_retired_slot_is_reused_once_no_cpu_is_in_it():
    guest = Cpus()
    slots = Slots(guest, 1024)
    first, *rest = [slots.allocate(0x1000) for _ in range(4)]
    guest.at = {first + 1023}
    slots.retire(first)
    slots.retire(rest[0])
    assert slots.dirty == (first, rest[0])
    assert slots.allocate(0x1000) == rest[0], "full: the settled one is taken before a new page is"
    assert slots.dirty == (first,) and len(slots.pages) == 1
    with pytest.raises(ValueError, match="retired before"):
        slots.retire(first)
    guest.at = {first + 1024, first - 1}
    assert slots.collect() is False and slots.dirty == ()
    with pytest.raises(ValueError, match="not a slot in use"):
        slots.retire(first)
    assert slots.allocate(0x1000) == first


def test_a_retired_slot_keeps_its_bytes_until_then():
    guest = Cpus()
    slots = Slots(guest, 512)
    slot = slots.allocate(0x1000)
    slots.fill(slot, b"\x90\xc3")
    guest.at = {slot}
    slots.retire(slot)
    page = guest.live[slot & -4096]
    assert slots.collect() is True and page[:3] == b"\x90\xc3\xcc" and slots.owns(slot)
    guest.at = set()
    assert slots.collect() is False and not any(page[:512])


def test_retiring_many_looks_at_each_a_bounded_number_of_times():
    guest = Cpus()
    slots = Slots(guest)
    used = [slots.allocate(0x1000) for _ in range(3000)]
    guest.at = set(used)
    guest.settled = lambda start, end: setattr(guest, "asked", guest.asked + 1) or False
    for slot in used:
        slots.retire(slot)
    assert len(slots.dirty) == 3000 and guest.asked < 4 * 3000
