"""String instructions: pointers into data, small counts, and contents that compare equal for a while."""

from __future__ import annotations

from tests.silicon import flags
from tests.silicon.encode import Draft
from tests.silicon.state import M64, RAX, RCX, RDI, RSI, Reject

MNEMONICS = ("movs", "cmps", "stos", "lods", "scas")


def _mask(draft: Draft) -> int:
    """The bits of rcx, rsi and rdi that count."""
    return 0xFFFF_FFFF if draft.address32 else M64


def runs_zero_times(draft: Draft) -> bool:
    """A repeated string instruction whose count is 0: it does nothing at all."""
    return draft.row.mnemonic in MNEMONICS and bool(draft.rep) and not draft.state.reg(RCX) & _mask(draft)


def prepare(draft: Draft) -> None:
    """Place source and destination, and name every byte that the iterations touch."""
    state, rng, size, mnemonic = draft.state, draft.rng, draft.size, draft.row.mnemonic
    mask = _mask(draft)
    garbage = 0 if mask == M64 else rng.getrandbits(32) << 32
    count = 1
    if draft.rep:
        if state.free(RCX):
            state.pin(RCX, rng.choice((0, 1, 2, 3, rng.randrange(20))) | garbage)
        count = state.reg(RCX) & mask
        if count > 64:
            raise Reject("too many iterations")
    # One pointer may fault; of two, processors differ in which they report (AMD reads [rdi] of cmps first).
    bad = rng.choice((RSI, RDI)) if rng.random() < 0.03 and not draft.address32 and not draft.base_name else None
    step = -size if state.regs["rflags"] & flags.DF else size
    places: list[int] = []
    source, target = mnemonic in ("movs", "cmps", "lods"), mnemonic != "lods"
    for register, used, base in ((RSI, source, draft.segment_base), (RDI, target, 0)):
        if not used:
            continue
        if register == bad and state.free(register):
            state.pin(register, state.bad_spot())
            continue
        name = draft.base_name
        if register == RSI and name and state.free(name):
            state.pin(name, rng.randrange(0x8000))
            base = state.regs[name]
        start = state.place(rng.choice(("data", "high")), 1200)
        if places and rng.random() < 0.25:
            start = places[0] + rng.randrange(-20, 20)
        if state.free(register):
            state.pin(register, ((start - base) & mask) | garbage)
        start = (base + (state.reg(register) & mask)) & M64
        for i in range(count):
            state.touch(start + i * step, size)
        places.append(start)
    if mnemonic in ("cmps", "scas") and count and len(places) == 1 + source and rng.random() < 0.6:
        for i in range(rng.randrange(count + 1)):
            wanted = state.touch(places[0] + i * step, size) if source else state.reg(RAX)
            at = places[-1] + i * step
            for k, byte in enumerate((wanted & ((1 << 8 * size) - 1)).to_bytes(size, "little")):
                if state.mem[at + k] == state.first_mem.get(at + k) and not state.code:
                    state.mem[at + k] = state.first_mem[at + k] = byte
