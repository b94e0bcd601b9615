"""Stage A: addresses against arithmetic in Python, waiting for registers and for older stores, and the faults of an access."""

from typing import NamedTuple

import pytest
from amaranth.hdl import Cat

from hw.address import AddressStage, PendingStore
from hw.bus import DEVICE_PHYS, DEVICE_VIRT, HIGH_BASE
from hw.isa.facts import Reg, Vector
from hw.regfile import Bypass
from hw.types import Addressed, Decoded, Fault, Override, Uop
from tests.unit.opbench import M64, simulate

RAM = 16 << 20
HOLE = 1 << 47


class Result(NamedTuple):
    ea: int
    la: int
    pa: int
    sp: int
    load: int
    store: int
    fault: tuple | None  # vector, error
    cr2: int


def field(struct, word, name):
    place = struct.as_shape()[name]
    return word >> place.offset & (1 << place.width) - 1


class Bench:
    def __init__(self, ctx, dut):
        self.ctx, self.dut = ctx, dut
        ctx.set(Cat(dut.o.ready, dut.grant), 3)

    def put(self, u=None, g=None):
        ctx, dut = self.ctx, self.dut
        word = Decoded.const(dict(u=u or {}, g=g or {})).as_value().value
        ctx.set(dut.i.payload.as_value(), word)
        ctx.set(dut.i.valid, 1)

    def state(self, **values):
        for name, value in values.items():
            self.ctx.set(getattr(self.dut, name), value)

    async def go(self) -> Result:
        ctx, dut = self.ctx, self.dut
        assert ctx.get(dut.i.ready)
        await ctx.tick()
        assert ctx.get(dut.o.valid)
        word = ctx.get(dut.o.payload.as_value())
        u = field(Addressed, word, "u")
        fault = field(Uop, u, "fault")
        caught = None
        if field(Fault, fault, "valid"):
            assert field(Fault, fault, "has_error")
            caught = Vector(field(Fault, fault, "vector")), field(Fault, fault, "error")
        plain = (field(Addressed, word, name) for name in ("ea", "la", "pa", "sp"))
        return Result(*plain, field(Uop, u, "load"), field(Uop, u, "store"), caught, field(Fault, fault, "addr"))


def run(test):
    dut = AddressStage(RAM)

    async def bench(ctx):
        await test(Bench(ctx, dut))

    simulate(dut, bench, clock=True)


def bypass(**fields):
    return Bypass.const(dict(ready=1) | fields).as_value().value


def test_arithmetic(rng):
    """base + index * 2**scale + disp, 32 bits of it with 67, then the segment base; rip and the gate in the place of base."""

    async def test(b):
        for _ in range(170):
            base, index, disp, fs, gs, next_pc, gate = (rng.choice((rng.getrandbits(64), rng.getrandbits(32))) for _ in range(7))
            g = dict(base=rng.randrange(16), index=rng.randrange(16), scale=rng.randrange(4), disp=disp)
            g |= {name: rng.getrandbits(1) for name in ("base_en", "index_en", "asize")}
            g |= dict(rip=rng.random() < 0.2, gate=rng.random() < 0.1, seg=rng.choice(list(Override)))
            delta = rng.getrandbits(17)
            b.put(dict(next_pc=next_pc, sp_we=1), g | dict(sp_delta=delta))
            b.state(fs_base=fs, gs_base=gs, gate_addr=gate)
            assert b.ctx.get(b.dut.base_addr) == g["base"] and b.ctx.get(b.dut.index_addr) == g["index"]
            b.state(base_data=base, index_data=index)
            origin = gate if g["gate"] else next_pc if g["rip"] else base if g["base_en"] else 0
            ea = origin + disp + (index << g["scale"] if g["index_en"] else 0) & (0xFFFFFFFF if g["asize"] else M64)
            segment = {Override.NONE: 0, Override.FS: fs, Override.GS: gs}[g["seg"]]
            seen = await b.go()
            assert (seen.ea, seen.la, seen.sp) == (ea, ea + segment & M64, ea + delta & M64), g
            assert seen.fault is None, "without an access nothing is checked"

    run(test)


def test_registers_are_waited_for(rng):
    """The newest of M, X and W; one that is not known yet holds the uop, if the address needs it at all."""
    names = ("from_w", "from_x", "from_m")  # oldest first

    async def test(b):
        held = 0
        for _ in range(170):
            regs = {reg: rng.getrandbits(64) for reg in (Reg.RAX, Reg.RSP, Reg.R13)}
            base, index = (rng.choice(list(regs)) for _ in range(2))
            base_en, index_en = rng.getrandbits(1), rng.getrandbits(1)
            b.state(base_data=regs[base], index_data=regs[index])
            known = dict.fromkeys(regs, True)
            for name in names:
                by = dict(d_we=rng.random() < 0.4, d_reg=rng.choice(list(regs)), ready=rng.random() < 0.7)
                by |= dict(result=rng.getrandbits(64), sp_we=rng.random() < 0.3, sp=rng.getrandbits(64))
                b.ctx.set(getattr(b.dut, name).as_value(), bypass(**by))
                if by["sp_we"]:
                    regs[Reg.RSP], known[Reg.RSP] = by["sp"], True
                if by["d_we"]:
                    regs[by["d_reg"]], known[by["d_reg"]] = by["result"], by["ready"]
            b.put({}, dict(base=base, base_en=base_en, index=index, index_en=index_en))
            if (base_en and not known[base]) or (index_en and not known[index]):
                assert not b.ctx.get(b.dut.i.ready) and not b.ctx.get(b.dut.request)
                held += 1
                for name in names:
                    b.ctx.set(getattr(b.dut, name).as_value(), 0)
                await b.go()
                continue
            want = (regs[base] if base_en else 0) + (regs[index] if index_en else 0) & M64
            assert (await b.go()).ea == want
        assert held > 15

    run(test)


def test_pending_stores(rng):
    """`PendingStore`: two accesses conflict if they share a byte."""
    dut = PendingStore()

    async def bench(ctx):
        inputs = Cat(dut.valid, dut.size, dut.load_size, dut.pa, dut.load_pa)
        for size in range(4):
            for load_size in range(4):
                for distance in range(-10, 11):
                    for pa in (0x1000, 0, (1 << 24) - 1):
                        load_pa = pa + distance
                        if load_pa < 0:
                            continue
                        shared = set(range(pa, pa + (1 << size))) & set(range(load_pa, load_pa + (1 << load_size)))
                        for valid in (0, 1):
                            ctx.set(inputs, valid | size << 1 | load_size << 3 | pa << 5 | load_pa << 37)
                            assert ctx.get(dut.conflict) == (valid and bool(shared)), (size, load_size, distance)

    simulate(dut, bench)


@pytest.mark.parametrize("stage", "mxw")
def test_a_load_waits_for_an_older_store(stage):
    """For one of the same bytes, in either view of RAM; not for another; a load of a device for any. A store waits for none."""

    async def test(b):
        store = f"store_{stage}"
        b.state(**{store: 1, f"{store}_pa": 0x2004, f"{store}_size": 2})
        for address, waits in ((0x2004, 1), (0x2007, 1), (0x2000, 1), (0x1FFD, 1), (0x2008, 0), (0x1FFC, 0), (0x3004, 0)):
            for view in (0, HIGH_BASE):
                b.state(**{store: 1})
                b.put(dict(load=1, msize=3), dict(disp=address + view))
                assert b.ctx.get(b.dut.request) == b.ctx.get(b.dut.i.ready) == (not waits), hex(address)
                b.put(dict(store=1, msize=3), dict(disp=address + view))
                assert b.ctx.get(b.dut.i.ready) and not b.ctx.get(b.dut.request)
                b.put(dict(load=1, msize=3), dict(disp=address + view))
                b.state(**{store: 0})  # it has reached memory
                assert b.ctx.get(b.dut.request)
                assert (await b.go()).pa == address
        b.state(**{store: 1})
        b.put(dict(load=1, msize=3), dict(disp=DEVICE_VIRT + 0x800))
        assert not b.ctx.get(b.dut.request) and not b.ctx.get(b.dut.i.ready)
        b.state(**{store: 0})
        assert b.ctx.get(b.dut.request)
        assert (await b.go()).pa == DEVICE_PHYS + 0x800

    run(test)


def test_the_request(rng):
    """Made once, with what the load says, in a cycle with grant; not while the next stage is busy, nor with kill."""

    async def test(b):
        for size in range(4):
            for lock in (0, 1):
                b.put(dict(load=1, msize=size, lock=lock), dict(disp=0x1234))
                b.state(grant=0)
                for _ in range(2):
                    names = ("request", "request_pa", "request_size", "request_lock")
                    assert [b.ctx.get(getattr(b.dut, name)) for name in names] == [1, 0x1234, size, lock]
                    assert not b.ctx.get(b.dut.i.ready)
                    await b.ctx.tick()
                    assert not b.ctx.get(b.dut.o.valid)
                b.state(grant=1)
                assert (await b.go()).load
                b.ctx.set(b.dut.o.ready, 0)
                assert not b.ctx.get(b.dut.request) and not b.ctx.get(b.dut.i.ready)
                b.ctx.set(b.dut.o.ready, 1)
                b.state(kill=1)
                assert not b.ctx.get(b.dut.request) and not b.ctx.get(b.dut.i.ready)
                await b.ctx.tick()
                b.state(kill=0)
                assert not b.ctx.get(b.dut.o.valid)

    run(test)


def test_a_load_only_for_a_switch_of_stacks():
    async def test(b):
        for switch in (0, 1):
            b.state(switch=switch)
            b.put(dict(load=1, msize=3), dict(disp=0x1000, if_switch=1))
            assert b.ctx.get(b.dut.request) == switch
            assert (await b.go()).load == switch
            b.put(dict(load=1, msize=3), dict(disp=HOLE, if_switch=1))  # what is not accessed does not fault
            assert (await b.go()).fault == ((Vector.GP, 0) if switch else None)

    run(test)


FAULTS = (
    # address, stack, fault of a load in kernel mode, cr2 (None: no page fault)
    (HOLE, 0, (Vector.GP, 0), None),
    (HOLE, 1, (Vector.SS, 0), None),
    (1 << 63, 0, (Vector.GP, 0), None),
    (RAM, 0, (Vector.PF, 0), RAM),
    (RAM, 1, (Vector.PF, 0), RAM),
    (RAM - 4, 0, (Vector.PF, 0), RAM),
    (HIGH_BASE + RAM - 1, 0, (Vector.PF, 0), HIGH_BASE + RAM),
    (HIGH_BASE - 8, 0, (Vector.PF, 0), HIGH_BASE - 8),
    (M64 + 1 - HOLE, 0, (Vector.PF, 0), M64 + 1 - HOLE),
    (RAM - 8, 0, None, None),
    (0, 1, None, None),
)


def test_faults():
    """#GP or #SS by the base register, else #PF with W/R and U/S; a load that will be stored to checks as a store."""

    async def test(b):
        for address, stack, fault, cr2 in FAULTS:
            for access in ("load", "store", "intent", "both"):
                for user, deliver in ((0, 0), (1, 0), (1, 1)):
                    b.state(user=user)
                    u = dict(load=access != "store", store=access in ("store", "both"), msize=3, deliver=deliver)
                    b.put(u, dict(disp=address, stack=stack, intent=access in ("intent", "both")))
                    want = fault
                    if cr2 is not None:  # a delivery accesses as the supervisor, whoever is interrupted
                        want = (Vector.PF, 2 * (access != "load") | 4 * (user and not deliver))
                    assert b.ctx.get(b.dut.request) == (u["load"] and not fault)
                    seen = await b.go()
                    assert seen.fault == want, f"{address:#x} {access}"
                    assert cr2 is None or seen.cr2 == cr2
                    assert (seen.load, seen.store) == ((0, 0) if fault else (u["load"], u["store"]))

    run(test)


def test_an_address_that_is_not_accessed_does_not_fault():
    async def test(b):
        for address in (HOLE, RAM, M64):
            b.put({}, dict(disp=address))  # lea
            assert (await b.go()).fault is None

    run(test)


def test_a_gate_beyond_the_limit():
    """#GP with the vector, before the gate's address is looked at."""

    async def test(b):
        b.state(gate_beyond=1, gate_error=0x10A)
        for address in (0x1000, RAM, HOLE):
            b.state(gate_addr=address)
            b.put(dict(load=1, msize=3, deliver=1), dict(gate=1))
            assert not b.ctx.get(b.dut.request)
            assert (await b.go()).fault == (Vector.GP, 0x10A)
        b.put(dict(load=1, msize=3), dict(disp=0x1000))  # an ordinary load does not care
        assert (await b.go()).fault is None

    run(test)


def test_a_probe_is_checked_and_accesses_nothing():
    """As a load, or with `intent` as a store; there is no request and no answer to wait for."""

    async def test(b):
        for intent in (0, 1):
            for address, fault in ((HOLE, (Vector.GP, 0)), (RAM, (Vector.PF, 2 * intent)), (0x1234, None)):
                b.put(dict(probe=1, msize=0), dict(disp=address, intent=intent))
                assert not b.ctx.get(b.dut.request)
                seen = await b.go()
                assert (seen.fault, seen.load, seen.store) == (fault, 0, 0)

    run(test)


def test_alignment():
    """#GP(0) for an operand of 16 bytes that is not aligned, whatever the stack and wherever it lies; a bad address goes first."""

    async def test(b):
        for address in (0x1000, 0x1008, 0x100F, RAM + 8, RAM + 16):
            for stack in (0, 1):
                b.put(dict(load=1, msize=3), dict(disp=address, align=1, stack=stack, intent=1))
                want = (Vector.GP, 0) if address % 16 else (Vector.PF, 2) if address >= RAM else None
                assert (await b.go()).fault == want
        b.put(dict(load=1, msize=3), dict(disp=HOLE + 8, align=1, stack=1))
        assert (await b.go()).fault == (Vector.SS, 0)

    run(test)


def test_an_older_fault_of_the_uop_stays():
    async def test(b):
        b.put(dict(fault=dict(valid=1, vector=Vector.UD, has_error=1, error=0)), dict(disp=HOLE))
        assert (await b.go()).fault == (Vector.UD, 0)

    run(test)


def test_kill_drops_both(rng):
    async def test(b):
        for _ in range(20):
            b.put(dict(load=rng.getrandbits(1), msize=2), dict(disp=0x1000))
            b.ctx.set(b.dut.o.ready, rng.getrandbits(1))
            for _ in range(rng.randrange(3)):
                await b.ctx.tick()
            b.state(kill=1)
            assert not b.ctx.get(b.dut.i.ready)
            await b.ctx.tick()
            b.state(kill=0)
            b.ctx.set(b.dut.i.valid, 0)
            assert not b.ctx.get(b.dut.o.valid)
            await b.ctx.tick()
            assert not b.ctx.get(b.dut.o.valid)

    run(test)
