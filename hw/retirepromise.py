"""Invariants of retirement."""

from amaranth.hdl import Cat, Signal

from hw.bus import PHYS_BITS
from hw.invariant import invariant
from hw.isa.facts import SysOp


def promise(m, stage, commit, held, rip, at, trap):
    """Assert in module ``m`` what `hw.retire.RetireStage` promises.

    ``commit``: a uop retires. ``held``: its store waits for the bus. ``rip``: of the next instruction. ``at``: the `Boundary`.
    ``trap``: the `TrapPicker`.
    """
    d, u = stage.i.payload, stage.i.payload.u
    frozen, system = stage.dbg.we, stage.sys
    writes = Signal()  # registers, flags or system state, in this cycle
    m.d.comb += writes.eq(
        commit & ((u.d_we & (u.d_reg < 16)) | u.sp_we | (u.flags != 0) | (u.sysop != SysOp.NONE))
    )
    wrote = Signal()  # an earlier uop of the instruction has
    with m.If(trap.take | frozen):
        m.d.sync += wrote.eq(0)
    with m.Elif(commit):
        m.d.sync += wrote.eq(~d.ends & (wrote | writes))
    invariant(m, "retire.one", ~(commit & trap.take), "a uop of {:#x} retires as a trap is taken", u.pc)
    invariant(m, "retire.atomic", ~(trap.fault_valid & wrote), "vector {} after a write, at {:#x}", u.fault.vector, u.pc)
    with m.If(stage.i.valid & u.fault.valid & ~frozen & ~stage.waiting):
        changes = Cat(stage.d_we, stage.sp_we, stage.store, stage.out_valid, system.we, system.swapgs, stage.i.ready)
        invariant(m, "retire.fault", changes == 0, "a uop with vector {} writes: {:07b}", u.fault.vector, changes)
    with m.If(commit):
        invariant(m, "retire.deliver", u.deliver == trap.delivering, "{} in a delivery: {}", u.deliver, trap.delivering)
        with m.If(~u.deliver):
            invariant(m, "retire.first", u.first == at.boundary, "a uop of {:#x} in the middle of another", u.pc)
        with m.If(u.first):
            invariant(m, "retire.order", u.pc == rip, "{:#x} retires where {:#x} is next", u.pc, rip)
    with m.If(trap.take_break):
        invariant(m, "retire.breakpoint", (u.pc == rip) & at.boundary, "a breakpoint on {:#x}, {:#x} is next", u.pc, rip)
    asked = Signal(PHYS_BITS + 64 + 3)  # by a store that the bus has not taken
    with m.If(stage.store & ~stage.store_grant):
        m.d.sync += asked.eq(Cat(stage.store_pa, stage.store_size, stage.store_lock, stage.store_data))
    with m.If(held & ~frozen):
        asks = Cat(stage.store_pa, stage.store_size, stage.store_lock, stage.store_data)
        invariant(m, "retire.held", stage.store & ~trap.take, "a store on the bus is given up")
        invariant(m, "retire.stable", asked == asks, "a store to {:#x} changes on the bus", stage.store_pa)
