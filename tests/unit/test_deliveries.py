"""Lost interrupts and triple faults: found in the events, and told in words with what to look at."""

import json

import pytest

from hw.isa.facts import EventClass, Vector
from sim.deliveries import Deliveries, lost_text, shutdown_text
from sim.elf import SymbolTable
from sim.events import Deliver, Lost, Shutdown, Trap, as_dict

FAULT, TRAP, SOFT, INTR, NMI = EventClass.FAULT, EventClass.TRAP, EventClass.SOFT, EventClass.INTR, EventClass.NMI


def taken(vector, kind=FAULT, error=None, cycle=0, hart=0, address=0):
    return Trap(hart, cycle, vector, error, 0x1234, address, kind)


def delivered(hart=0):
    return Deliver(hart, 0, 0x5678)


@pytest.mark.parametrize("kind", [INTR, NMI, TRAP])
def test_what_nothing_repeats_is_lost(kind):
    first, second = taken(32, kind), taken(Vector.NP, error=0x103, cycle=7)
    assert list(Deliveries().follow([first, second])) == [first, second, Lost(0, 7, 32, kind, 0x1234, Vector.NP)]


@pytest.mark.parametrize("kind", [FAULT, SOFT, EventClass.ICEBP])
def test_what_repeats_itself_is_not(kind):
    events = [taken(14, kind), taken(Vector.NP), delivered(), taken(32, INTR), delivered(), taken(13)]
    assert list(Deliveries().follow(events)) == events


def test_each_hart_on_its_own_and_over_several_calls():
    deliveries = Deliveries()
    assert len(list(deliveries.follow([taken(32, INTR, hart=0), taken(13, hart=1)]))) == 2
    assert [e.kind for e in deliveries.follow([taken(13, hart=0)])] == ["trap", "lost"]
    assert [t.vector for t in deliveries.chain(0)] == [32, 13] and [t.vector for t in deliveries.chain(1)] == [13]


def test_an_nmi_after_a_shutdown_begins_anew():
    deliveries = Deliveries()
    chain = [taken(0), taken(Vector.DF, error=0), taken(Vector.NP, error=0x43)]
    assert list(deliveries.follow(chain)) == chain
    assert deliveries.chain(0) == chain
    assert len(list(deliveries.follow([taken(2, NMI)]))) == 1
    assert [t.vector for t in deliveries.chain(0)] == [2]


def test_the_chain_in_words():
    text = shutdown_text(
        [taken(0, cycle=5), taken(8, error=0, cycle=6), taken(14, error=2, cycle=7, address=0x8000)], SymbolTable()
    )
    assert text.splitlines() == [
        "shut down on a triple fault:",
        "  #DE at 0x1234, cycle 5",
        "  #DF(0x0) at 0x1234, cycle 6, in the delivery of #DE",
        "  #PF(0x2) at 0x1234, cr2 0x8000, cycle 7, in the delivery of #DF",
        "next: the stack that vector 8 uses is not mapped; give its gate a stack of its own (IST)",
    ]


@pytest.mark.parametrize(
    "vector, error, address, words",
    [
        (Vector.PF, 0, 0x4080, "not mapped at 0x4080"),
        (Vector.NP, 0x43, 0, "the gate of vector 8 is not present"),
        (Vector.GP, 0x43, 0, "the gate of vector 8 lies beyond the limit"),
        (Vector.TS, 0x19, 0, "TSS (selector 0x18)"),
        (Vector.SS, 1, 0, "stack pointer in the TSS that vector 8 uses"),
        (Vector.NP, 0x31, 0, "descriptor 0x30, which the gate of vector 8 names"),
        (Vector.GP, 1, 0, "the gate of vector 8 has a null selector"),
    ],
)
def test_what_to_look_at(vector, error, address, words):
    chain = [taken(13, error=0), taken(8, error=0), taken(vector, error=error, address=address)]
    assert words in shutdown_text(chain, SymbolTable()).splitlines()[-1]


@pytest.mark.parametrize("kind, words", [(INTR, "interrupt 32 was lost"), (NMI, "an NMI was lost"), (TRAP, "a debug trap at 0x1234")])
def test_a_lost_event_in_words(kind, words):
    text = lost_text(Lost(0, 7, 32, kind, 0x1234, Vector.NP), SymbolTable())
    assert text.startswith(words) and "met #NP (cycle 7)" in text and "look at the gate of vector 32" in text


def test_json():
    event = Shutdown(0, 9, (taken(0), taken(8, error=0)))
    line = json.loads(json.dumps(as_dict(event)))
    assert [trap["vector"] for trap in line["chain"]] == [0, 8] and line["kind"] == "shutdown"
