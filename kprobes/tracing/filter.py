"""Filters on the fields of an event, in ftrace's language: ``count > 10 && (path ~ "/etc/*" || !(mode & 2))``.

    filter    = or
    or        = and { "||" and }
    and       = not { "&&" not }
    not       = "!" not | "(" or ")" | predicate
    predicate = FIELD OPERATOR VALUE        == != < <= > >= & for integers, == != ~ for strings

FIELD is an argument of the event, or common_pid, __probe_ip, __probe_func, __probe_ret_ip, CPU, COMM. ``~`` is a pattern
with ``*``, ``?`` and ``[a-z]``. A string that could not be read equals nothing and matches nothing. A filter is compiled once.
Source: Documentation/trace/events.rst, "Event filtering".
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import and_, eq, ge, gt, le, lt, ne

from kprobes.tracing.errors import ErrorCode
from kprobes.tracing.record import PID, Layout, TraceRecord
from kprobes.tracing.source import Source, Word, integer
from kprobes.tracing.types import Value

Predicate = Callable[[TraceRecord], bool]
Get = Callable[[TraceRecord], Value]

_TOKEN = re.compile(r"""\s*(?:(?P<sign>&&|\|\||[()]|!(?!=))|(?P<op>==|!=|<=|>=|[=<>~&|^+*/%]+)
                        |(?P<text>"[^"]*"?|'[^']*'?)|(?P<word>[^\s()=!<>~&|^+*/%"']+))""", re.VERBOSE)
_COMPARE: Mapping[str, Callable[[int, int], object]] = {
    "==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge, "&": and_}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    word: Word


@dataclass(frozen=True, slots=True)
class _Operand:
    """A field: how to get it, and whether it is text."""

    get: Get
    is_text: bool


def compile_filter(text: str, layout: Layout, comm: str) -> Predicate | None:
    """Compile a filter for the records of one event; None for "0", which removes it. Raise ``ProbeEventError``."""
    if text.strip() == "0":
        return None
    return _Parser(Source(text), _operands(layout, comm)).whole()


def _operands(layout: Layout, comm: str) -> dict[str, _Operand | None]:
    """What a predicate may name; None for arrays, which have no order and no single value."""
    common: dict[str, _Operand | None] = {
        "common_pid": _Operand(lambda record: PID, False),
        "CPU": _Operand(lambda record: record.cpu, False),
        "COMM": _Operand(lambda record: comm, True),
    }
    if layout.is_return:
        common["__probe_func"] = _Operand(lambda record: record.ip, False)
        common["__probe_ret_ip"] = _Operand(lambda record: record.ret_ip, False)
    else:
        common["__probe_ip"] = _Operand(lambda record: record.ip, False)
    for short in ("cpu", "comm"):
        common[short] = common[short.upper()]
    fields = {field.name: None if field.count else _Operand(_value(i), field.type.is_string)
              for i, field in enumerate(layout.fields)}
    return common | fields


def _value(index: int) -> Get:
    return lambda record: record.values[index]


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, source: Source, operands: Mapping[str, _Operand | None]):
        self._source = source
        self._operands = operands
        self._tokens = _tokens(source)
        self._end = len(source.text.rstrip())

    def whole(self) -> Predicate:
        if not self._tokens:
            raise self._source.error(ErrorCode.NO_FILTER, 0)
        result = self._or()
        if self._tokens:
            token = self._tokens[0]
            code = ErrorCode.TOO_MANY_CLOSE if token.word.text == ")" else ErrorCode.INVALID_OP
            raise self._source.error(code, token.word.at)
        return result

    def _take(self, sign: str) -> bool:
        if self._tokens and self._tokens[0].kind == "sign" and self._tokens[0].word.text == sign:
            self._tokens.pop(0)
            return True
        return False

    def _next(self, code: ErrorCode) -> _Token:
        """Take the next token; at the end say what is missing."""
        if not self._tokens:
            raise self._source.error(code, self._end)
        return self._tokens.pop(0)

    def _or(self) -> Predicate:
        left = self._and()
        while self._take("||"):
            left = _either(left, self._and())
        return left

    def _and(self) -> Predicate:
        left = self._not()
        while self._take("&&"):
            left = _both(left, self._not())
        return left

    def _not(self) -> Predicate:
        if self._take("!"):
            inner = self._not()
            return lambda record: not inner(record)
        if self._take("("):
            inner = self._or()
            if not self._take(")"):
                at = self._tokens[0].word.at if self._tokens else self._end
                raise self._source.error(ErrorCode.INVALID_OP if self._tokens else ErrorCode.TOO_MANY_OPEN, at)
            return inner
        return self._predicate()

    def _predicate(self) -> Predicate:
        name = self._next(ErrorCode.NO_FILTER)
        if name.word.text == ")":
            raise self._source.error(ErrorCode.TOO_MANY_CLOSE, name.word.at)
        if name.word.text not in self._operands:
            known = ", ".join(self._operands)
            raise self._source.error(ErrorCode.FIELD_NOT_FOUND, name.word.at, f"no such field; there are {known}")
        operator = self._next(ErrorCode.INVALID_OP)
        sign = operator.word.text
        if operator.kind != "op" or sign not in (*_COMPARE, "~"):
            raise self._source.error(ErrorCode.INVALID_OP, operator.word.at)
        operand = self._operands[name.word.text]
        allowed = () if operand is None else ("==", "!=", "~") if operand.is_text else tuple(_COMPARE)
        if operand is None or sign not in allowed:
            raise self._source.error(
                ErrorCode.ILLEGAL_FIELD_OP, operator.word.at,
                f"{name.word.text} is an array, which has no filter" if operand is None else "")
        return (self._text if operand.is_text else self._number)(operand.get, sign)

    def _text(self, get: Get, sign: str) -> Predicate:
        token = self._next(ErrorCode.EXPECT_STRING)
        if token.kind != "text":
            raise self._source.error(ErrorCode.EXPECT_STRING, token.word.at)
        wanted = self._unquoted(token)
        if sign == "~":
            match = re.compile(fnmatch.translate(wanted)).match
            return lambda record: isinstance(found := get(record), str) and match(found) is not None
        if sign == "==":
            return lambda record: get(record) == wanted
        return lambda record: get(record) != wanted

    def _number(self, get: Get, sign: str) -> Predicate:
        token = self._next(ErrorCode.ILLEGAL_INTVAL)
        text = token.word.text
        wanted = integer(text)
        if wanted is None and token.kind == "text" and text[0] == "'":
            character = self._unquoted(token)
            wanted = ord(character) if len(character) == 1 else None
        if wanted is None:
            raise self._source.error(ErrorCode.ILLEGAL_INTVAL, token.word.at)
        compare, number = _COMPARE[sign], wanted
        return lambda record: bool(compare(get(record), number))  # type: ignore[arg-type]  # the field is an integer

    def _unquoted(self, token: _Token) -> str:
        text = token.word.text
        if len(text) < 2 or text[-1] != text[0]:
            raise self._source.error(ErrorCode.MISSING_QUOTE, self._end)
        return text[1:-1]


def _tokens(source: Source) -> list[_Token]:
    found, at = [], 0
    end = len(source.text.rstrip())
    while at < end:
        match = _TOKEN.match(source.text, at)
        if match is None or match.lastgroup is None:
            raise source.error(ErrorCode.INVALID_OP, at)
        found.append(_Token(match.lastgroup, Word(match[match.lastgroup], match.start(match.lastgroup))))
        at = match.end()
    return found


def _either(left: Predicate, right: Predicate) -> Predicate:
    return lambda record: left(record) or right(record)


def _both(left: Predicate, right: Predicate) -> Predicate:
    return lambda record: left(record) and right(record)
