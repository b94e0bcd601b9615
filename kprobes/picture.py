"""Disassembly with a caret, for messages about an address."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter

from kprobes.text import Function


def picture(function: Function, addr: int, note: str = "", around: int = 2) -> str:
    """Return the instructions around ``addr``, one to a line, and below its own a caret under its bytes with a note.

    An address inside an instruction has the caret under its first byte alone. Without code, or where decoding from the
    symbol's start does not lead, the result is empty.
    """
    number = bisect_right(function.insns, addr, key=itemgetter(0)) - 1
    if number < 0 or addr >= sum(function.insns[number][:2]):
        return ""
    symbol, lines = function.symbol, list[str]()
    shown = function.insns[max(0, number - around):number + around + 1]
    names = [f"{symbol.name}+{start - symbol.start:#x}:" for start, _, _ in shown]
    width, widest = max(map(len, names)), max(size for _, size, _ in shown)
    for name, (start, size, text) in zip(names, shown, strict=True):
        data = function.code[start - symbol.start:start - symbol.start + size].hex(" ")
        lines.append(f"   {name:{width}}  {data:{3 * widest - 1}}  {text}")
        if start <= addr < start + size:
            rest = 3 * size - 1 if addr == start else 1
            mark = " " * (width + 5 + 3 * (addr - start)) + "^".ljust(rest, "~")
            lines.append(f"{mark} {note}".rstrip())
    return "\n".join(lines)
