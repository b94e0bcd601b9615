"""Delivery through the IDT in 64-bit mode: order of checks, stack, frame, flags (manual, part 1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.model.state import CS, IF, M64, NT, RF, RSP, SS, TF, VM, Fault, State, canonical

#: Classes of events (1.2). SOFT: INT n and INT3, whose gate DPL is checked and whose nested faults have EXT = 0.
FAULT, TRAP, SOFT, ICEBP, INTR, NMI = range(6)

#: Vectors that push an error code when they are exceptions (2.3).
WITH_ERROR = (8, 10, 11, 12, 13, 14, 17, 21)


@dataclass
class Event:
    """Something to deliver. `restart`: where the instruction starts that a fault of this delivery would restart."""

    vector: int
    kind: int
    rip: int
    restart: int
    flags: int
    error: int | None = None
    cr2: int | None = None
    frame: dict[int, int] = field(default_factory=dict)


def _code_segment(state: State, selector: int, ext: int) -> int:
    """Steps 6 to 8: the descriptor of the gate's selector."""
    error = selector & 0xFFFC
    if not error:
        raise Fault(13, ext)
    descriptor = state.descriptor(selector)
    if descriptor is None:
        raise Fault(13, error + ext)
    code = descriptor >> 43 & 3 == 3
    if not code or descriptor >> 45 & 3 > state.cpl:
        raise Fault(13, error + ext)
    if descriptor >> 53 & 3 != 1:
        raise Fault(13, error + ext)
    if not descriptor >> 47 & 1:
        raise Fault(11, error + ext)
    return descriptor


def _tss(state: State, offset: int, ext: int) -> int:
    base, limit = state.tss
    if offset + 7 > limit:
        raise Fault(10, (state.tr & 0xFFFC) + ext)
    return state.memory.load(base + offset & M64, 8, quiet=True)


def deliver(state: State, event: Event) -> None:
    """Deliver or raise the fault met, with EXT as the event's class says; the state changes only at the end."""
    ext = 0 if event.kind == SOFT else 1
    named = 8 * event.vector + 2 + ext
    base, limit = state.idt
    if 16 * event.vector + 15 > limit:
        raise Fault(13, named)
    low = state.memory.load(base + 16 * event.vector & M64, 8, quiet=True)
    high = state.memory.load(base + 16 * event.vector + 8 & M64, 8, quiet=True)
    if low >> 40 & 0x1E != 0x0E:  # S, type: 64-bit interrupt gate or trap gate
        raise Fault(13, named)
    if event.kind == SOFT and low >> 45 & 3 < state.cpl:
        raise Fault(13, named)
    if not low >> 47 & 1:
        raise Fault(11, named)
    selector, ist, trap_gate = low >> 16 & 0xFFFF, low >> 32 & 7, low >> 40 & 1
    descriptor = _code_segment(state, selector, ext)
    dpl, conforming = descriptor >> 45 & 3, descriptor >> 42 & 1
    new = state.cpl if conforming else dpl
    inner = new < state.cpl
    if ist:
        rsp = _tss(state, 28 + 8 * ist, ext)
    elif inner:
        rsp = _tss(state, 4 + 8 * new, ext)
    else:
        rsp = state.regs[RSP]
    top = rsp & ~0xF
    target = low & 0xFFFF | low >> 32 & 0xFFFF0000 | (high & 0xFFFFFFFF) << 32
    if not canonical(target):
        raise Fault(13, ext)
    frame = [state.selectors[SS], state.regs[RSP], event.flags, state.selectors[CS], event.rip]
    if event.error is not None:
        frame.append(event.error)
    for n, value in enumerate(frame, 1):
        address = top - 8 * n & M64
        state.memory.store(address, 8, value, stack=True, user=new == 3)
        event.frame[address] = value
    state.regs[RSP] = top - 8 * len(frame) & M64
    state.rip = target
    state.selectors[CS] = selector & 0xFFFC | new
    if inner:
        state.selectors[SS] = new
        state.cached[SS] = None
    state.rflags &= ~(TF | NT | RF | VM)
    if not trap_gate:
        state.rflags &= ~IF


def with_ext(fault: Fault, kind: int) -> Fault:
    """A fault met in a delivery: EXT in the error codes that name a selector, for what is not a software interrupt."""
    if kind != SOFT and fault.vector in (10, 11, 12, 13) and fault.error is not None:
        return Fault(fault.vector, fault.error | 1, fault.cr2)
    return fault


def double(first: Event, second: Fault) -> str:
    """What becomes of a fault met while delivering the first event: serial, double, or shutdown (part 5)."""

    def kind(vector: int) -> str:
        if vector in (14, 20):
            return "page"
        return "contributory" if vector in (0, 10, 11, 12, 13, 21) else "benign"

    before = kind(first.vector) if first.kind == FAULT else "benign"
    after = kind(second.vector)
    if after == "benign":
        return "serial"
    if first.kind == FAULT and first.vector == 8:
        return "shutdown"
    if before == "contributory":
        return "double" if after == "contributory" else "serial"
    return "double" if before == "page" else "serial"
