"""What single instructions need before they can run: implicit operands in mapped memory, counts, divisors, targets.

`prepare` runs before the memory operand is steered, `finish` when all operands are known. Both choose initial values
where these are still free and raise `Reject` where the state does not allow the instruction.
"""

from __future__ import annotations

from hw.isa.rows import AMode, Flow
from tests.silicon import flags, strings
from tests.silicon.encode import Draft, implicit
from tests.silicon.state import M64, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Reject, interesting
from tests.silicon.table import suffix_size

_POPF_SAFE = flags.ALL | flags.DF | 0x802A  # what an image may hold: status, DF and the reserved bits that are ignored
_SHIFTS = ("rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar", "shld", "shrd")
_COUNTS = (0, 1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 128, 255)
_STACK = ("push", "pop", "pushf", "popf", "call", "ret", "leave", "enter")
_IMPLICIT = {
    "mul": (RAX, RDX), "imul": (RAX, RDX), "div": (RAX, RDX), "idiv": (RAX, RDX), "cwd": (RAX, RDX), "cmpxchg": (RAX,),
    "cmpxchg8b": (RAX, RDX, RCX, RBX), "mulx": (RDX,), "lahf": (RAX,), "sahf": (RAX,),
    "xlat": (RAX, RBX), "leave": (RBP,), "enter": (RBP,), "movs": (RCX, RSI, RDI), "cmps": (RCX, RSI, RDI),
    "stos": (RAX, RCX, RDI), "lods": (RAX, RCX, RSI), "scas": (RAX, RCX, RDI), "loop": (RCX,), "loope": (RCX,),
    "loopne": (RCX,), "jrcxz": (RCX,),
}  # fmt: skip


def value(draft: Draft, name: str) -> int:
    """The current value of an operand."""
    size = suffix_size(name, draft.size)
    state = draft.state
    mask = (1 << 8 * size) - 1
    if name[0] == "G" or draft.rm is not None:
        number = draft.reg if name[0] == "G" else draft.rm or 0
        register, shift = draft.byte_register(number) if size == 1 else (number, 0)
        return state.reg(register) >> shift & mask
    assert draft.address is not None
    return state.touch(draft.address, size)


def signed(number: int, size: int) -> int:
    """Two's complement of `size` bytes."""
    half = 1 << 8 * size - 1
    return ((number & (2 * half - 1)) ^ half) - half


def set_value(draft: Draft, name: str, wanted: int) -> bool:
    """Choose the initial value of an operand if it is free; whether it has the value now."""
    size = suffix_size(name, draft.size)
    if name[0] != "G" and draft.rm is None:
        assert draft.address is not None
        return draft.state.poke(draft.address, size, wanted)
    number = draft.reg if name[0] == "G" else draft.rm or 0
    register, shift = draft.byte_register(number) if size == 1 else (number, 0)
    if draft.state.free(register):
        mask = ((1 << 8 * size) - 1) << shift
        draft.state.pin(register, (draft.state.reg(register) & ~mask) | (wanted << shift & mask))
    return value(draft, name) == wanted & ((1 << 8 * size) - 1)


def prepare(draft: Draft, first: bool) -> None:
    """Immediates, counts, and everything that decides an address. `first`: rsp may still be chosen freely."""
    row, state, rng = draft.row, draft.state, draft.rng
    mnemonic = row.mnemonic
    if state.undefined & flags.reads(mnemonic, draft.condition()):
        raise Reject("reads a flag that is undefined here")
    draft.touched.update(implicit(row), _IMPLICIT.get(mnemonic, ()))
    draft.imm = _immediate(draft)
    if mnemonic in _SHIFTS and "CL" in row.operands and state.free(RCX):
        state.pin(RCX, (state.reg(RCX) & ~0xFF) | rng.choice(_COUNTS))
    if mnemonic in strings.MNEMONICS:
        strings.prepare(draft)
    elif mnemonic in _STACK:
        _stack(draft, first)
    elif row.uop.amode is AMode.MOFFS:
        _offset(draft)
    elif mnemonic == "xlat":
        _xlat(draft)
    elif mnemonic == "jrcxz" and rng.random() < 0.4 and state.free(RCX):
        state.pin(RCX, rng.choice((0, 0, 1 << 32)))
    elif mnemonic in ("bt", "bts", "btr", "btc") and row.operands[1] == "Gv" and draft.memory:
        if state.free(draft.reg):
            garbage = rng.getrandbits(64) << 8 * draft.size
            state.pin(draft.reg, (rng.randrange(-600, 600) & ((1 << 8 * draft.size) - 1)) | garbage)
        draft.skew = (signed(value(draft, "Gv"), draft.size) >> (draft.size * 8).bit_length() - 1) * draft.size
    elif mnemonic == "cmpxchg8b" and draft.size == 8:
        draft.address = state.spot(16) & ~15
        if rng.random() < 0.1:
            draft.address |= rng.randrange(16)
    elif "By" in row.operands:
        _bit_fields(draft)
    if row.uop.flow in (Flow.JUMP, Flow.COND, Flow.CALL):
        draft.imm = b"\0" * (1 if row.operands[0] == "Jb" else 4)


def _bit_fields(draft: Draft) -> None:
    """Counts and fields of the instructions with VEX: small ones as often as any."""
    state, rng = draft.state, draft.rng
    if draft.row.mnemonic in ("shlx", "shrx", "sarx", "bzhi", "bextr") and state.free(draft.vvvv) and rng.random() < 0.8:
        state.pin(draft.vvvv, (state.reg(draft.vvvv) & ~0xFFFF) | rng.choice(_COUNTS) | rng.choice(_COUNTS) << 8)


def _immediate(draft: Draft) -> bytes:
    rng = draft.rng
    data = b""
    for name in draft.row.operands:
        if name[0] != "I":
            continue
        size = min(draft.size, 4) if name == "Iz" else suffix_size(name, draft.size)
        number = interesting(rng, 8 * size)
        if draft.row.mnemonic in (*_SHIFTS, "bt", "bts", "btr", "btc"):
            number = rng.choice(_COUNTS)
        elif draft.row.mnemonic == "ret":
            number = rng.choice((0, 8, 16, 24, 1, 0x40))
        elif draft.row.mnemonic == "enter":
            number = rng.choice((0, 8, 16, 64)) if name == "Iw" else rng.choice((0, 0, 0, 1, 2, 32))
        data += number.to_bytes(size, "little")
    return data


def _stack(draft: Draft, first: bool) -> None:
    state, rng, mnemonic = draft.state, draft.rng, draft.row.mnemonic
    if mnemonic in ("push", "call", "pushf", "pop", "popf", "ret") and first and rng.random() < 0.03:
        state.regs["rsp"] = state.first["rsp"] = state.bad_spot() & ~7
        if draft.rm is None and draft.row.modrm:
            raise Reject("one fault at a time")
        draft.imm = draft.imm or b""
        return
    if mnemonic == "leave":
        if state.free(RBP):
            bad = rng.random() < 0.04
            state.pin(RBP, state.bad_spot() if bad else state.place("stack", 64))
            if bad:
                return
        if not state.mapped(state.reg(RBP), 8):
            raise Reject("rbp is not in the stack")
        state.touch(state.reg(RBP), draft.size)
        return
    rsp = state.reg(RSP)
    if not state.mapped(rsp - 64, 128):
        raise Reject("rsp is not in the stack")
    if mnemonic == "enter" and draft.imm[2] & 31 > 1:
        state.steer(RBP, state.place("stack", 300), 260)
        for i in range(1, draft.imm[2] & 31):
            state.touch(state.reg(RBP) - i * draft.size, draft.size)
    if mnemonic == "popf":
        state.poke(rsp, draft.size, rng.getrandbits(16) & _POPF_SAFE)
        if state.touch(rsp, draft.size) & ~_POPF_SAFE:
            raise Reject("the image has system flags")
    elif mnemonic == "ret":
        state.poke(rsp, 8, _target(draft))
        if not _lands(draft, state.touch(rsp, 8)):
            raise Reject("returns to nowhere")
    elif mnemonic == "pop":
        state.touch(rsp, draft.size)
    elif mnemonic != "enter":
        state.touch(rsp - draft.size, draft.size)


def _offset(draft: Draft) -> None:
    state, rng = draft.state, draft.rng
    draft.address = state.bad_spot() if rng.random() < 0.02 and not draft.base_name else state.spot(draft.size)
    if draft.base_name and state.free(draft.base_name):
        state.pin(draft.base_name, rng.randrange(0x8000))
    offset = (draft.address - draft.segment_base) & M64
    if draft.address32 and offset >> 32:
        raise Reject("a 32-bit offset does not reach")
    draft.imm = offset.to_bytes(4 if draft.address32 else 8, "little")
    if state.mapped(draft.address, draft.size):
        state.touch(draft.address, draft.size)


def _xlat(draft: Draft) -> None:
    state, mask = draft.state, 0xFFFF_FFFF if draft.address32 else M64
    if draft.base_name and state.free(draft.base_name):
        state.pin(draft.base_name, draft.rng.randrange(0x8000))
    offset = (state.spot(1) - draft.segment_base - (state.reg(RAX) & 0xFF)) & M64
    if state.free(RBX):
        state.pin(RBX, offset)
    address = (((state.reg(RBX) + (state.reg(RAX) & 0xFF)) & mask) + draft.segment_base) & M64
    state.touch(address, 1)


def finish(draft: Draft) -> tuple[int, int]:
    """Values that the result depends on; (defined, undefined) flags of this instance."""
    row, state, mnemonic = draft.row, draft.state, draft.row.mnemonic
    if draft.memory and draft.address is not None:
        if not state.mapped(draft.address, draft.access_size()):
            return 0, 0  # steered to fault
        state.touch(draft.address, draft.access_size())
    count = 0
    if mnemonic in _SHIFTS:
        count = 1 if "1" in row.operands else draft.imm[0] if draft.imm else state.reg(RCX) & 0xFF
        if mnemonic in ("shld", "shrd") and draft.size == 2 and count & 31 > 16:
            raise Reject("the result is undefined")
    elif mnemonic in ("bsf", "bsr"):
        if not value(draft, "Ev"):
            raise Reject("the result is undefined")
    elif mnemonic in ("div", "idiv"):
        _division(draft)
    elif mnemonic == "cmpxchg" and draft.rng.random() < 0.5 and state.free(RAX):
        low = (1 << 8 * draft.size) - 1
        state.pin(RAX, (state.reg(RAX) & ~low) | value(draft, row.operands[0]))
    elif mnemonic == "cmpxchg8b" and draft.address is not None and draft.rng.random() < 0.5:
        bits = 8 * draft.size
        low = state.touch(draft.address, 2 * draft.size)
        state.pin(RAX, low & ((1 << bits) - 1))
        state.pin(RDX, low >> bits)
    elif row.uop.flow in (Flow.INDIRECT, Flow.CALLIND) or (mnemonic == "call" and row.modrm):
        set_value(draft, "Eq", _target(draft))
        if not _lands(draft, value(draft, "Eq")):
            raise Reject("jumps to nowhere")
    return flags.effect(mnemonic, draft.size, count, strings.runs_zero_times(draft))


def _target(draft: Draft) -> int:
    """Where an indirect branch goes: rarely to an address that is not canonical, which faults on the branch."""
    return 0x8000_0000_0000_0000 | draft.rng.getrandbits(40) if draft.rng.random() < 0.03 else draft.state.code_target()


def _lands(draft: Draft, target: int) -> bool:
    return draft.state.is_code(target) or target >> 40 == 0x80_0000


def _division(draft: Draft) -> None:
    """Give the dividend a quotient that fits, where it can be chosen; of those that fault, keep few."""
    state, rng, size = draft.state, draft.rng, draft.size
    operand = draft.row.operands[0]
    is_signed = draft.row.mnemonic == "idiv"
    bits = 8 * size
    mask = (1 << bits) - 1
    by_register = draft.rm is not None and draft.byte_register(draft.rm)[0] in (RAX, RDX)
    if state.free(RAX, RDX) and not by_register and rng.random() < 0.95:
        divisor = value(draft, operand)
        divisor = signed(divisor, size) if is_signed else divisor
        quotient = interesting(rng, bits)
        quotient = signed(quotient, size) if is_signed else quotient
        remainder = rng.randrange(max(abs(divisor), 1))
        if is_signed and quotient * divisor < 0:
            remainder = -remainder
        dividend = (quotient * divisor + remainder) & (mask << bits | mask)
        if size == 1:
            state.pin(RAX, (state.reg(RAX) & ~0xFFFF) | dividend)
        else:
            state.pin(RAX, (state.reg(RAX) & ~mask) | (dividend & mask))
            state.pin(RDX, (state.reg(RDX) & ~mask) | dividend >> bits)
    divisor = value(draft, operand)
    low, high = state.reg(RAX), state.reg(RDX)
    dividend = low & 0xFFFF if size == 1 else (high & mask) << bits | (low & mask)
    if is_signed:
        divisor, dividend = signed(divisor, size), signed(dividend, 2 * size)
    if divisor:
        quotient = abs(dividend) // abs(divisor)
        if (dividend < 0) != (divisor < 0):
            quotient = -quotient
        good = -(1 << bits - 1) <= quotient < 1 << bits - 1 if is_signed else quotient <= mask
    else:
        good = False
    if not good and rng.random() < 0.85:
        raise Reject("divides by zero or overflows")


def link(draft: Draft, code: bytes) -> bytes:
    """A direct branch with its displacement, now that the instruction's end is known."""
    if draft.row.uop.flow not in (Flow.JUMP, Flow.COND, Flow.CALL):
        return code
    end = draft.state.regs["rip"] + len(code)
    width = len(draft.imm)
    displacement = draft.rng.randrange(-128, 128) if width == 1 else draft.state.code_target() - end
    if not draft.state.is_code(end + displacement):
        raise Reject("jumps to nowhere")
    return code[:-width] + displacement.to_bytes(width, "little", signed=True)
