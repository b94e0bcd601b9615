"""Fetch expressions: ``%di``, ``$stack2``, ``@symbol+8``, ``+8(+0(%si))``, ``\\1``: from text to a Python closure.

An expression is compiled once, when its event is defined; on a hit nothing is parsed or looked up. A compiled program
takes the registers of the hit, the number of its cpu, and, on a function's return, what was saved at its entry; it
raises ``GuestMemoryError`` when memory on its way is not mapped.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter

from kprobes.port import Guest
from kprobes.ptregs import ARGUMENT_REGISTERS, FIELDS, MASK64, PtRegs
from kprobes.tracing.errors import ErrorCode
from kprobes.tracing.source import Source, Word, integer

#: What was saved at a function's entry, by the slots of ``Context.saved``.
Saved = tuple[int, ...]
Program = Callable[[PtRegs, int, Saved], int]

LEVELS = 12
#: $stackN and $argN count at most as many words as a stack of Linux has (THREAD_SIZE / 8).
STACK_WORDS = (16 << 10) // 8


class Place(Enum):
    """Where in a function the probe is."""

    ENTRY = "entry"
    BODY = "body"
    RETURN = "return"


class Form(Enum):
    """What an expression is, which decides the types that it can have."""

    VALUE = "value"        # in a register, a stack word, a parameter
    CONSTANT = "constant"  # an immediate
    STACK = "stack"        # the stack pointer
    MEMORY = "memory"      # ``program`` is its address
    USER = "user memory"   # the same, with +uOFFSET
    TEXT = "text"          # $comm, or an immediate string


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression: of MEMORY the address, of TEXT nothing but ``text``, else the value."""

    form: Form
    program: Program
    text: str = ""


@dataclass(slots=True)
class Context:
    """What the expressions of one probe are compiled against. ``saved``: values to be taken at the function's entry."""

    source: Source
    guest: Guest
    place: Place
    comm: str
    saved: dict[int, Program] = field(default_factory=dict)


def compile_expression(ctx: Context, word: Word, level: int = 0) -> Expression:
    """Compile an expression without its type; raise ``ProbeEventError``."""
    first = word.text[:1]
    if first == "%":
        return _register(ctx, word)
    if first == "$":
        return _variable(ctx, word, level)
    if first == "@":
        return _at(ctx, word)
    if first in ("+", "-") and first:
        return _memory(ctx, word, level)
    if first == "\\":
        return _immediate(ctx, word)
    if re.match(r"[A-Za-z_]", first):
        hyphen = re.search(r"-(?!>)", word.text)
        if hyphen:
            raise ctx.source.error(ErrorCode.BAD_HYPHEN, word.at + hyphen.start())
        raise ctx.source.error(ErrorCode.NOSUP_BTFARG, word.at)
    raise ctx.source.error(ErrorCode.BAD_FETCH_ARG, word.at)


def load(guest: Guest, address: Program, size: int = 8) -> Program:
    """Return the program that reads ``size`` bytes at an address, little-endian."""
    read = guest.read
    return lambda regs, cpu, saved: int.from_bytes(read(address(regs, cpu, saved), size), "little")


def _register(ctx: Context, word: Word) -> Expression:
    name = word.text[1:]
    if name not in FIELDS:
        raise ctx.source.error(ErrorCode.BAD_REG_NAME, word.at)
    return Expression(Form.VALUE, _field(name))


def _field(name: str) -> Program:
    get = attrgetter(name)
    return lambda regs, cpu, saved: get(regs)


def _variable(ctx: Context, word: Word, level: int) -> Expression:
    name = word.text[1:]
    if name in ("comm", "COMM"):
        return Expression(Form.TEXT, _constant(0), ctx.comm)
    if name == "retval":
        if ctx.place is not Place.RETURN:
            raise ctx.source.error(ErrorCode.RETVAL_ON_PROBE, word.at)
        return Expression(Form.VALUE, _field("ax"))
    if name == "stack":
        return Expression(Form.STACK, _field("sp"))
    if name == "arg*":
        raise ctx.source.error(ErrorCode.BAD_VAR_ARGS if level else ErrorCode.NOSUP_BTFARG, word.at)
    match = re.fullmatch(r"(stack|arg)(\d+)", name)
    if not match:
        raise ctx.source.error(ErrorCode.BAD_VAR, word.at)
    number = int(match[2])
    if match[1] == "stack":
        if number > STACK_WORDS:
            raise ctx.source.error(ErrorCode.BAD_STACK_NUM, word.at)
        return Expression(Form.VALUE, _stack_word(ctx.guest, number))
    if not 1 <= number <= STACK_WORDS:
        raise ctx.source.error(ErrorCode.BAD_ARG_NUM, word.at)
    return Expression(Form.VALUE, _argument(ctx, word, number - 1))


def _stack_word(guest: Guest, number: int) -> Program:
    """The word ``number`` above sp; 0 beyond the end of the stack, as regs_get_kernel_stack_nth."""
    read, end, offset = guest.read, guest.stack_end, 8 * number

    def program(regs: PtRegs, cpu: int, saved: Saved) -> int:
        addr = regs.sp + offset
        return int.from_bytes(read(addr, 8), "little") if addr + 8 <= end(cpu, regs.sp) else 0

    return program


def _argument(ctx: Context, word: Word, index: int) -> Program:
    """Parameter ``index`` of the function, by the C ABI, from the registers of its entry."""
    if ctx.place is Place.BODY:
        raise ctx.source.error(ErrorCode.NOFENTRY_ARGS, word.at)
    registers = len(ARGUMENT_REGISTERS)
    entry = (_field(ARGUMENT_REGISTERS[index]) if index < registers
             else _stack_word(ctx.guest, index - registers + 1))
    if ctx.place is Place.ENTRY:
        return entry
    ctx.saved.setdefault(index, entry)
    slot = list(ctx.saved).index(index)
    return lambda regs, cpu, saved: saved[slot]


def _at(ctx: Context, word: Word) -> Expression:
    text = word.text[1:]
    if text.startswith("+"):
        raise ctx.source.error(ErrorCode.FILE_ON_KPROBE, word.at)
    if text[:1].isdigit():
        addr = integer(text)
        if addr is None:
            raise ctx.source.error(ErrorCode.BAD_MEM_ADDR, word.at)
    else:
        match = re.fullmatch(r"([^+-]+)([+-]\w+)?", text)
        offset = integer(match[2]) if match and match[2] else 0
        if not match or offset is None:
            raise ctx.source.error(ErrorCode.BAD_MEM_ADDR, word.at)
        start = ctx.guest.symbols.lookup(match[1])
        if start is None:
            raise ctx.source.error(
                ErrorCode.BAD_MEM_ADDR, word.at, f"the guest has no symbol {match[1]!r}", errno.ENOENT)
        addr = start + offset
    return Expression(Form.MEMORY, _constant(addr & MASK64))


def _constant(value: int) -> Program:
    return lambda regs, cpu, saved: value


def _memory(ctx: Context, word: Word, level: int) -> Expression:
    """``+OFFSET(EXPRESSION)``: the caret of a bad offset is at its sign, that of a missing ) where it should be."""
    if level == LEVELS:
        raise ctx.source.error(ErrorCode.TOO_MANY_OPS, word.at)
    open_at = word.text.find("(")
    if open_at < 0:
        raise ctx.source.error(ErrorCode.DEREF_NEED_BRACE, word.at)
    user = word.text[1] == "u"
    number = word.text[2 if user else 1:open_at]
    offset = integer(number) if number[:1].isdigit() else None
    if offset is None:
        raise ctx.source.error(ErrorCode.BAD_DEREF_OFFS, word.at)
    close_at = word.text.rfind(")")
    if close_at < open_at:
        raise ctx.source.error(ErrorCode.DEREF_OPEN_BRACE, word.at + len(word.text))
    if close_at != len(word.text) - 1:
        raise ctx.source.error(ErrorCode.BAD_FETCH_ARG, word.at + close_at + 1, "nothing may follow the )")
    inner_word = word.cut(open_at + 1, close_at)
    inner = compile_expression(ctx, inner_word, level + 1)
    if inner.form is Form.TEXT:
        raise ctx.source.error(ErrorCode.COMM_CANT_DEREF, inner_word.at)
    base = load(ctx.guest, inner.program) if inner.form in (Form.MEMORY, Form.USER) else inner.program
    offset = -offset if word.text[0] == "-" else offset
    return Expression(
        Form.USER if user else Form.MEMORY, lambda regs, cpu, saved: base(regs, cpu, saved) + offset & MASK64)


def _immediate(ctx: Context, word: Word) -> Expression:
    body = word.cut(1)
    if body.text.startswith('"'):
        if len(body.text) < 2 or not body.text.endswith('"'):
            raise ctx.source.error(ErrorCode.IMMSTR_NO_CLOSE, word.at + len(word.text))
        return Expression(Form.TEXT, _constant(0), body.text[1:-1])
    value = integer(body.text)
    if value is None:
        raise ctx.source.error(ErrorCode.BAD_IMM, body.at)
    return Expression(Form.CONSTANT, _constant(value & MASK64))
