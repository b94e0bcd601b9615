"""Code that reaches the runtime without a trap: a whole ``pt_regs`` on the guest's stack, a store, and back again.

A function's return (``trampoline``) and an optimised probe (``detour``) run it in the middle of a program, so that
nothing may change that the runtime does not change: no register, no flag, not IF. Interrupts and NMIs may come at any
instruction of it; they write below sp, where nothing that is needed ever lies.

    save                a pt_regs, lowest address at sp; the way out through ``sp`` and ``ip`` of it is not taken
    mov %rsp, door      the runtime reads it and changes it
    restore             all general registers, then flags; sp ends where it began

The encodings are written by hand, since the runtime has no assembler; the text beside each is held against one by the
tests (Intel SDM Vol. 2, chapters 3 and 4).
"""

from __future__ import annotations

from typing import NamedTuple

from kprobes.ptregs import FIELDS


class Line(NamedTuple):
    """One instruction: its bytes, and the same in AT&T syntax."""

    code: bytes
    text: str


#: Numbers of the general registers in encodings (SDM Vol. 2, table 2-2).
_NUMBERS = {"ax": 0, "cx": 1, "dx": 2, "bx": 3, "sp": 4, "bp": 5, "si": 6, "di": 7} | {f"r{n}": n for n in range(8, 16)}

#: The general registers as they lie in pt_regs, lowest address first; sp is not among them.
_GENERAL = FIELDS[:FIELDS.index("orig_ax")]
_SIZE = 8 * len(FIELDS)


def save(above: int = 0, ip: int = 0) -> tuple[Line, ...]:
    """Push a pt_regs: ``sp`` is what it was before, plus ``above``; ``orig_ax`` is -1, and ``ip`` what is given.

    cs and ss come last and go onto zeros, since a store of a segment register is two bytes wide.
    """
    frame = {
        "ss": _constant(0),
        "sp": _constant(0),
        "flags": (Line(b"\x9c", "pushf"),),
        "cs": _constant(0),
        "ip": _constant(ip),
        "orig_ax": _constant(-1),
    } | {name: (_push(name),) for name in _GENERAL}
    sp, cs, ss = (8 * FIELDS.index(name) for name in ("sp", "cs", "ss"))
    return (
        *(line for name in reversed(FIELDS) for line in frame[name]),
        Line(b"\x48\x8d\x84\x24" + _disp32(_SIZE + above), f"lea {_SIZE + above}(%rsp), %rax"),
        Line(b"\x48\x89\x84\x24" + _disp32(sp), f"mov %rax, {sp}(%rsp)"),
        Line(b"\x8c\x8c\x24" + _disp32(cs), f"mov %cs, {cs}(%rsp)"),
        Line(b"\x8c\x94\x24" + _disp32(ss), f"mov %ss, {ss}(%rsp)"),
    )


def restore() -> tuple[Line, ...]:
    """Pop what ``save`` pushed. ``lea`` moves sp past what is not restored, because it leaves the flags alone."""
    flags = FIELDS.index("flags")
    before, behind = 8 * (flags - len(_GENERAL)), 8 * (len(FIELDS) - flags - 1)
    return (
        *(_pop(name) for name in _GENERAL),
        Line(b"\x48\x8d\x64\x24" + bytes([before]), f"lea {before}(%rsp), %rsp"),
        Line(b"\x9d", "popf"),
        Line(b"\x48\x8d\x64\x24" + bytes([behind]), f"lea {behind}(%rsp), %rsp"),
    )


def through(door: int, above: int = 0, ip: int = 0) -> tuple[Line, ...]:
    """Save, store the address of the pt_regs to a door of the guest, restore.

    Raise ``ValueError`` when a sign-extended 32-bit displacement does not reach the door.
    """
    signed = _signed(door)
    if not -(1 << 31) <= signed < 1 << 31:
        raise ValueError(f"the door at {door:#x} is not within the first or the last 2 GiB of the address space")
    store = Line(b"\x48\x89\x24\x25" + _disp32(signed), f"mov %rsp, {door:#x}")
    return *save(above, ip), store, *restore()


def code(lines: tuple[Line, ...]) -> bytes:
    """Return the bytes of some lines."""
    return b"".join(line.code for line in lines)


def _constant(value: int) -> tuple[Line, ...]:
    """Push 64 bits, which takes two instructions unless they are a sign-extended 8 or 32."""
    signed = _signed(value)
    if -(1 << 7) <= signed < 1 << 7:
        return (Line(bytes([0x6A, signed & 0xFF]), f"push ${signed}"),)
    low, high = _signed(signed << 32) >> 32, signed >> 32
    if signed == low:
        return (Line(b"\x68" + _disp32(low), f"push ${low}"),)
    return *_constant(low), Line(b"\xc7\x44\x24\x04" + _disp32(high), f"movl ${high}, 4(%rsp)")


def _signed(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _push(name: str) -> Line:
    return Line(_with_register(0x50, name), f"push %{_full(name)}")


def _pop(name: str) -> Line:
    return Line(_with_register(0x58, name), f"pop %{_full(name)}")


def _with_register(opcode: int, name: str) -> bytes:
    number = _NUMBERS[name]
    return bytes([0x41, opcode + number - 8] if number >= 8 else [opcode + number])  # 41: REX.B


def _full(name: str) -> str:
    return name if name[0] == "r" else f"r{name}"


def _disp32(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)
