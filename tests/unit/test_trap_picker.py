"""The trap picker: what wins at a boundary, what a fault within a delivery becomes, and what of an event is saved.

Judged by SDM vol. 3, tables 6-2 and 6-5 (trap semantics 1.2, 4 and 5), written out below.
"""

import itertools

import pytest

from hw.boundary import Shadow
from hw.config import Config, Vendor
from hw.isa.facts import EventClass, RFlag, Vector
from hw.trap import FaultClass, TrapPicker
from tests.unit.opbench import M64, simulate

PC, NEXT, RIP = 0x1000, 0x1003, 0x7777
INTR_VECTOR = 0xEC
RF = 1 << RFlag.RF
CONTRIBUTORY = (Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP)
BENIGN = (Vector.DB, Vector.UD, Vector.NM, Vector.MF, Vector.AC, Vector.XM)
WITH_ERROR = (Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC)


def fault(vector, kind=EventClass.FAULT, error=0x18, addr=0xABC123):
    has_error = vector in WITH_ERROR and kind == EventClass.FAULT
    return dict(valid=1, vector=vector, kind=kind, has_error=has_error, error=error if has_error else 0, addr=addr)


#: What may be in delivery when the next fault comes: name, how it is presented.
FIRST = {
    **{f"fault {v.name}": fault(v) for v in (*CONTRIBUTORY, Vector.PF, *BENIGN)},
    **{f"int {v}": fault(v, EventClass.SOFT) for v in (3, 8, 13, 14, 255)},
    "icebp": fault(Vector.DB, EventClass.ICEBP),
    "debug trap": "debug",
    "nmi": "nmi",
    "intr": "intr",
}


def class_of(what) -> str:
    if isinstance(what, str) or what["kind"] != EventClass.FAULT:
        return "benign"  # interrupts and int n, whatever their vector
    vector = what["vector"]
    return "contributory" if vector in CONTRIBUTORY else "page" if vector == Vector.PF else "benign"


def doubles(first: str, second: str) -> bool:
    return (first, second) in (("contributory", "contributory"), ("page", "contributory"), ("page", "page"))


class Bench:
    def __init__(self, ctx, dut):
        self.ctx, self.dut = ctx, dut

    def put(self, what=None, **ports):
        """A fault of the oldest uop, or the name of an asynchronous request, and other inputs."""
        ctx, dut = self.ctx, self.dut
        asks = isinstance(what, str)
        inputs = {name: what == name for name in ("debug", "nmi", "intr", "breaks")}
        inputs |= dict(pc=PC, next_pc=NEXT, rip=RIP, intr_vector=INTR_VECTOR)
        inputs |= dict(boundary=asks and what != "breaks", fault_valid=what is not None and not asks, shadow=Shadow.NONE, mid_rep=0, done=0)
        for name, value in (inputs | dict(rflags=2) | ports).items():
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.fault, what if isinstance(what, dict) else {})

    def get(self, *names):
        return tuple(int(self.ctx.get(getattr(self.dut, name))) for name in names)

    def taken(self):
        return self.ctx.get(self.dut.taken)

    async def tick(self):
        taken = self.ctx.get(self.dut.taken.as_value())
        take = self.ctx.get(self.dut.take)
        await self.ctx.tick()
        if take:
            assert self.ctx.get(self.dut.event.as_value()) == taken, "what is taken is what is remembered"
            assert self.ctx.get(self.dut.delivering)

    async def finish(self):
        """The delivery ends."""
        self.put(done=1)
        await self.tick()
        assert not self.ctx.get(self.dut.delivering)


def run(test, vendor=Vendor.INTEL):
    dut = TrapPicker(Config(vendor=vendor))

    async def bench(ctx):
        await test(Bench(ctx, dut))

    simulate(dut, bench, clock=True)


def test_priority_at_a_boundary():
    """Debug trap, NMI, interrupt, instruction breakpoint, fault: the first of these that is there and not held."""

    async def test(b):
        for boundary, debug, nmi, intr, breaks, faulty in itertools.product((0, 1), repeat=6):
            for shadow in Shadow:
                b.put(boundary=boundary, debug=debug, nmi=nmi, intr=intr, fault_valid=faulty, shadow=shadow, breaks=breaks)
                b.ctx.set(b.dut.fault, fault(Vector.UD))
                free = shadow == Shadow.NONE
                candidates = (
                    (boundary and debug and shadow != Shadow.MOVSS, "debug", Vector.DB, EventClass.TRAP),
                    (boundary and nmi and free, "nmi", Vector.NMI, EventClass.NMI),
                    (boundary and intr and free, "intr", INTR_VECTOR, EventClass.INTR),
                    (breaks, "break", Vector.DB, EventClass.FAULT),
                    (faulty, "fault", Vector.UD, EventClass.FAULT),
                )
                winner = next((c for c in candidates if c[0]), None)
                name = winner[1] if winner else None
                want = tuple(int(name == n) for n in ("debug", "nmi", "intr", "break", "fault"))
                assert b.get("take_debug", "take_nmi", "take_intr", "take_break", "take_fault") == want
                assert b.get("take", "asynchronous") == (winner is not None, any(want[:3]))
                if winner:
                    new = b.taken()
                    assert (new.vector, new.kind, new.has_error) == (winner[2], winner[3], 0)

    run(test)


def test_interrupts_push_no_error_code():
    """Whatever their vector: an external interrupt 14 is not a page fault."""

    async def test(b):
        for vector in range(256):
            for what in ("intr", fault(vector, EventClass.SOFT)):
                b.put(what, intr_vector=vector)
                new = b.taken()
                assert (new.vector, new.has_error, new.error, new.fault_class) == (vector, 0, 0, FaultClass.BENIGN)
                assert b.get("page_fault") == (0,)

    run(test)


def test_double_fault_table():
    """Every first event with every fault met in its delivery."""

    async def test(b):
        for first, vector in itertools.product(FIRST, (*CONTRIBUTORY, Vector.PF, *BENIGN)):
            b.put(FIRST[first])
            await b.tick()
            second = fault(vector)
            b.put(second)
            new = b.taken()
            where = f"{first} then {vector.name}"
            assert b.get("take") == (1,)
            if doubles(class_of(FIRST[first]), class_of(second)):
                assert (new.vector, new.has_error, new.error) == (Vector.DF, 1, 0), where
                assert new.fault_class == FaultClass.DOUBLE
            else:
                soft = isinstance(FIRST[first], dict) and FIRST[first]["kind"] == EventClass.SOFT
                ext = vector in (Vector.TS, Vector.NP, Vector.SS, Vector.GP) and not soft
                assert (new.vector, new.has_error) == (vector, second["has_error"]), where
                assert new.error == second["error"] | ext, where
                assert new.fault_class == FaultClass[class_of(second).upper()]
            # a page fault writes CR2 also when it is folded into a double fault
            assert b.get("page_fault") == (vector == Vector.PF,)
            assert vector != Vector.PF or b.get("cr2") == (0xABC123,)
            await b.tick()
            assert b.get("shutdown") == (0,)
            await b.finish()

    run(test)


@pytest.mark.parametrize("third", (*CONTRIBUTORY, Vector.PF, *BENIGN))
def test_triple_fault(third):
    """A contributory fault or a page fault in the delivery of a double fault ends everything; a benign one is delivered."""

    async def test(b):
        for vector in (Vector.PF, Vector.PF, third):
            assert b.get("shutdown") == (0,)
            b.put(fault(vector))
            await b.tick()
        b.put()
        fatal = third not in BENIGN
        assert b.get("shutdown") == (fatal,)
        for _ in range(3):
            await b.tick()
            assert b.get("shutdown") == (fatal,)
        if not fatal:
            assert b.ctx.get(b.dut.event).vector == third
            return
        for what in ("debug", "intr"):
            b.put(what, boundary=0)
            assert b.get("take") == (0,), "neither ends a shutdown"
        b.put("nmi", boundary=0)
        assert (b.taken().vector, b.taken().kind, b.taken().rip) == (Vector.NMI, EventClass.NMI, RIP)
        await b.tick()
        assert b.get("shutdown", "delivering") == (0, 1)
        b.put(fault(Vector.GP))
        assert b.taken().vector == Vector.GP, "an NMI is benign: what its delivery meets is serial"
        await b.tick()
        assert b.get("shutdown") == (0,)

    run(test)


def test_after_a_delivery_a_fault_is_new():
    """A fault of the handler's first instruction is no fault of the delivery: no EXT, no double fault."""

    async def test(b):
        for vector in (Vector.PF, Vector.GP, Vector.DE):
            b.put(fault(vector))
            await b.tick()
            await b.finish()
            b.put(fault(Vector.GP))
            assert (b.taken().vector, b.taken().error, b.taken().rip) == (Vector.GP, 0x18, PC)
            b.put()
            await b.tick()

    run(test)


def test_serial_faults_take_the_class_of_the_last():
    """#DE, then #PF in its delivery, then #GP in that one's: a page fault is being delivered, so it doubles."""

    async def test(b):
        for vector, seen in ((Vector.DE, Vector.DE), (Vector.PF, Vector.PF), (Vector.GP, Vector.DF)):
            b.put(fault(vector))
            assert b.taken().vector == seen
            await b.tick()

    run(test)


@pytest.mark.parametrize("vendor", Vendor)
def test_what_is_saved(vendor):
    """rip, and the RF bit of the image (trap semantics 1.2 and 3.5); all other flags as they are."""

    async def saved(b, what, rf, mid_rep):
        rflags = 0x246 | rf * RF
        b.put(what, rflags=rflags, mid_rep=mid_rep)
        new = b.taken()
        if isinstance(what, str):  # between two instructions, or two iterations
            rip, restart, saved_rf = RIP, RIP, rf or (mid_rep and not (vendor == Vendor.AMD and what == "debug"))
        elif what["kind"] == EventClass.FAULT:
            rip, restart, saved_rf = PC, PC, 1
        else:  # int n, int3, int1: behind it, but a fault of the delivery repeats it
            rip, restart, saved_rf = NEXT, PC, 0
        assert (new.rip, new.restart) == (rip, restart)
        assert new.flags == 0x246 | saved_rf * RF
        await b.tick()
        b.put(fault(Vector.UD), rflags=rflags, pc=M64, next_pc=M64, rip=5)  # wherever the routine's rows say they are
        nested = b.taken()
        assert (nested.rip, nested.restart) == (restart, restart)
        assert nested.flags == 0x246 | RF
        await b.tick()
        b.put(fault(Vector.GP), rflags=rflags, pc=3, next_pc=4, rip=5)
        assert b.taken().rip == restart
        await b.finish()

    async def test(b):
        for what, rf, mid_rep in itertools.product(FIRST.values(), (0, 1), (0, 1)):
            await saved(b, what, rf, mid_rep)
        b.put("breaks")
        assert (b.taken().rip, b.taken().restart, b.taken().flags) == (PC, PC, 2)

    run(test, vendor)


def test_nothing_is_taken_without_a_cause():
    async def test(b):
        b.put(boundary=1)
        for _ in range(3):
            assert b.get("take", "asynchronous", "page_fault", "delivering", "shutdown") == (0,) * 5
            await b.tick()

    run(test)
