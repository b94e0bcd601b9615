"""Fetch arguments, ``[NAME=]EXPRESSION[:TYPE]``: names, types against expressions, and the reader of the typed value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kprobes.port import Guest, GuestMemoryError
from kprobes.ptregs import MASK64, PtRegs
from kprobes.tracing.errors import ErrorCode
from kprobes.tracing.fetch import Context, Expression, Form, Place, Program, Saved, compile_expression, load
from kprobes.tracing.source import Word, is_identifier
from kprobes.tracing.types import DEFAULT_TYPE, STRING, Kind, Value, ValueType, parse_type, read_string, symbolic

#: Reads one argument of one hit; it does not raise: what cannot be read is 0, or None when it is a string.
Reader = Callable[[PtRegs, int, Saved], Value]

ARGUMENT_LIMIT = 128
LONGEST_BODY = 63
LONGEST_NAME = 32

#: Fields that every record has.
RESERVED = frozenset({
    "common_type", "common_flags", "common_preempt_count", "common_pid", "common_tgid",
    "__probe_ip", "__probe_ret_ip", "__probe_func",
})


@dataclass(frozen=True, slots=True)
class Argument:
    """A compiled argument: ``body`` is EXPRESSION:TYPE as it was written, ``count`` 0 unless it is an array."""

    name: str
    body: str
    type: ValueType
    count: int
    read: Reader

    def __str__(self) -> str:
        return f"{self.name}={self.body}"

    @property
    def signature(self) -> tuple[str, str, int]:
        """What the probes of one event must agree about."""
        return self.name, self.type.name, self.count


def compile_arguments(ctx: Context, words: Iterable[Word]) -> tuple[Argument, ...]:
    """Compile all arguments of a probe; raise ``ProbeEventError``."""
    words = list(words)
    _check_all_parameters(ctx, words)
    arguments: list[Argument] = []
    for number, word in enumerate(words, 1):
        if number > ARGUMENT_LIMIT:
            raise ctx.source.error(ErrorCode.TOO_MANY_ARGS, word.at)
        arguments.append(_compile(ctx, word, number, {argument.name for argument in arguments}))
    return tuple(arguments)


def _check_all_parameters(ctx: Context, words: list[Word]) -> None:
    """``$arg*`` would be expanded before the others are read, so its mistakes are found first."""
    seen = False
    for word in words:
        if word.text == "$arg*":
            if ctx.place is Place.BODY:
                raise ctx.source.error(ErrorCode.NOFENTRY_ARGS, word.at)
            if seen:
                raise ctx.source.error(ErrorCode.DOUBLE_ARGS, word.at)
            seen = True
        elif word.text.partition("=")[2].startswith("$arg*"):
            raise ctx.source.error(ErrorCode.BAD_VAR_ARGS, word.at + word.text.index("$"))
        elif word.text.startswith("$arg*"):
            raise ctx.source.error(ErrorCode.BAD_VAR_ARGS, word.at)


def _compile(ctx: Context, word: Word, number: int, used: set[str]) -> Argument:
    name, body = _name(ctx, word, number)
    if name in used or name in RESERVED:
        raise ctx.source.error(ErrorCode.USED_ARG_NAME, word.at)
    if not body.text:
        raise ctx.source.error(ErrorCode.NO_ARG_BODY, body.at)
    if len(body.text) > LONGEST_BODY:
        raise ctx.source.error(ErrorCode.ARG_TOO_LONG, body.at)
    # A colon inside an immediate string is no type.
    colon = body.text.find(":", body.text.rfind('"') + 1 if body.text.startswith('\\"') else 0)
    expression_word = body if colon < 0 else body.cut(0, colon)
    type_word = None if colon < 0 else body.cut(colon + 1)
    found = parse_type(ctx.source, type_word) if type_word is not None else None
    expression = compile_expression(ctx, expression_word)
    at = type_word.at if type_word is not None else body.at
    if expression.form is Form.TEXT:
        if found not in (None, (STRING, 0)):
            raise ctx.source.error(ErrorCode.NEED_STRING_TYPE, at)
        found = STRING, 0
    kind, count = found or (DEFAULT_TYPE, 0)
    _check(ctx, expression, kind, count, at)
    return Argument(name, body.text, kind, count, _reader(ctx.guest, expression, kind, count))


def _name(ctx: Context, word: Word, number: int) -> tuple[str, Word]:
    """Split NAME= off; arguments without a name are arg1, arg2 and so on, by their place."""
    name, equals, _ = word.text.partition("=")
    if not equals or word.text.startswith("\\"):
        return f"arg{number}", word
    if not name:
        raise ctx.source.error(ErrorCode.NO_ARG_NAME, word.at)
    if len(name) > LONGEST_NAME:
        raise ctx.source.error(ErrorCode.ARG_NAME_TOO_LONG, word.at)
    if not is_identifier(name):
        raise ctx.source.error(ErrorCode.BAD_ARG_NAME, word.at)
    return name, word.cut(len(name) + 1)


def _check(ctx: Context, expression: Expression, kind: ValueType, count: int, at: int) -> None:
    """Refuse types that the expression cannot have."""
    in_memory = expression.form in (Form.MEMORY, Form.USER)
    if expression.form is Form.TEXT:
        return
    if kind.kind is Kind.SYMSTR and expression.form not in (Form.VALUE, Form.MEMORY):
        raise ctx.source.error(ErrorCode.BAD_SYMSTRING, at)
    if kind.kind is Kind.STRING and not in_memory and expression.form is not Form.CONSTANT:
        raise ctx.source.error(ErrorCode.BAD_STRING, at)
    if count and not in_memory:
        raise ctx.source.error(ErrorCode.BAD_STRING, at)


def _reader(guest: Guest, expression: Expression, kind: ValueType, count: int) -> Reader:
    program = expression.program
    if expression.form is Form.TEXT:
        text = expression.text
        return lambda regs, cpu, saved: text
    if expression.form in (Form.MEMORY, Form.USER):
        if count:
            return _array(guest, program, kind, count)
        if kind.kind is not Kind.STRING:
            program = load(guest, program, kind.size)
    convert = _converter(guest, kind)
    fault = None if kind.is_string else 0

    def read(regs: PtRegs, cpu: int, saved: Saved) -> Value:
        try:
            return convert(program(regs, cpu, saved))
        except GuestMemoryError:
            return fault

    return read


def _converter(guest: Guest, kind: ValueType) -> Callable[[int], int | str | None]:
    """Return the function from a raw word to a value; a string's word is its address."""
    if kind.kind is Kind.STRING:
        return lambda addr: read_string(guest.read, addr)
    if kind.kind is Kind.SYMSTR:
        return lambda addr: symbolic(addr, guest.symbols)
    return kind.decoder()


def _array(guest: Guest, address: Program, kind: ValueType, count: int) -> Reader:
    """Elements one after the other in memory; those of a string array are pointers to the strings."""
    convert, size, fault = _converter(guest, kind), kind.size, None if kind.is_string else 0

    def element(data: bytes) -> int | str | None:
        return convert(int.from_bytes(data, "little"))

    def one_by_one(start: int) -> Iterator[int | str | None]:
        for i in range(count):
            try:
                yield element(guest.read(start + size * i & MASK64, size))
            except GuestMemoryError:
                yield fault

    def read(regs: PtRegs, cpu: int, saved: Saved) -> Value:
        try:
            start = address(regs, cpu, saved)
        except GuestMemoryError:
            return (fault,) * count
        try:
            data = guest.read(start, size * count)
        except GuestMemoryError:
            return tuple(one_by_one(start))
        return tuple(element(data[i:i + size]) for i in range(0, size * count, size))

    return read
