"""The lines of ``kprobe_events``: a definition (p, r) or a removal (-), up to the arguments, which stay words here.

Grammar: ``docs/tracing.md``. Source: Documentation/trace/kprobetrace.rst.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kprobes.tracing.errors import ErrorCode
from kprobes.tracing.source import Source, Word, integer, is_identifier

DEFAULT_GROUP = "kprobes"
LONGEST_NAME = 63
MAXACTIVE_LIMIT = 4096
RETURN_SUFFIX = "%return"
_OFFSET_LIMIT = 1 << 32


@dataclass(frozen=True, slots=True)
class Location:
    """A place to probe: ``addr``, or ``symbol`` (with its module as ``mod:sym``) and ``offset`` in bytes."""

    symbol: str | None = None
    offset: int = 0
    addr: int | None = None

    @property
    def module(self) -> str | None:
        """The module that the symbol is said to be in."""
        return self.symbol.partition(":")[0] if self.symbol and ":" in self.symbol else None

    def __str__(self) -> str:
        """As it is read back: offsets are decimal, addresses hexadecimal."""
        if self.symbol is None:
            return f"{self.addr:#x}"
        return f"{self.symbol}+{self.offset}" if self.offset else self.symbol


@dataclass(frozen=True, slots=True)
class Definition:
    """``p`` or ``r``: ``where`` is the word of the location, for messages. ``maxactive`` 0 means the default."""

    source: Source
    is_return: bool
    maxactive: int
    group: str
    event: str
    location: Location
    where: Word
    arguments: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """``-:``: the event, in any group when ``group`` is None; with a location, only the probe there."""

    source: Source
    group: str | None
    event: str | None
    location: Location | None
    arguments: tuple[str, ...]


def parse(line: str) -> Definition | Removal | None:
    """Read one line; None when there is nothing but a comment on it. Raise ``ProbeEventError``."""
    source = Source(line)
    words = source.words()
    if not words:
        return None
    head = words[0]
    if head.text[0] == "-":
        return _removal(source, words)
    if head.text[0] not in "pr":
        raise source.error(ErrorCode.BAD_COMMAND, head.at)
    if len(words) < 2:
        raise source.error(ErrorCode.BAD_COMMAND, len(line.rstrip()), "the place to probe is missing")
    is_return = head.text[0] == "r"
    prefix, colon, _ = head.text.partition(":")
    maxactive = _maxactive(source, head.cut(1, len(prefix)), is_return)
    group, event = names(source, head.cut(len(prefix) + 1)) if colon else (None, None)
    location, suffixed = parse_location(source, words[1])
    is_return = is_return or suffixed
    if event is None:
        event = default_name(is_return, location)
        if len(event) > LONGEST_NAME:
            raise source.error(
                ErrorCode.EVENT_TOO_LONG, words[1].at, f"{event!r} is too long for a name: give one (p:NAME ...)")
        if not is_identifier(event):
            raise source.error(
                ErrorCode.BAD_EVENT_NAME, words[1].at, f"{event!r} is no name for an event: give one (p:NAME ...)")
    return Definition(
        source, is_return, maxactive, group or DEFAULT_GROUP, event, location, words[1], tuple(words[2:]))


def default_name(is_return: bool, location: Location) -> str:
    """Return the name of an event that was given none: p_SYM_OFF, r_SYM_0, p_0xADDR; ':' and '.' become '_'."""
    kind = "r" if is_return else "p"
    if location.symbol is None:
        return f"{kind}_{location.addr:#x}"
    return re.sub("[:.]", "_", f"{kind}_{location.symbol}_{location.offset}")


def names(source: Source, word: Word) -> tuple[str | None, str | None]:
    """Read ``[GRP/][EVENT]``; '.' may stand for '/'. An empty event is None; not both may be empty."""
    group, event = None, word
    slash = word.text.find("/")
    slash = word.text.find(".") if slash < 0 else slash
    if slash >= 0:
        group, event = word.text[:slash], word.cut(slash + 1)
        if not group:
            raise source.error(ErrorCode.NO_GROUP_NAME, word.at)
        if len(group) > LONGEST_NAME:
            raise source.error(ErrorCode.GROUP_TOO_LONG, word.at)
        if not is_identifier(group):
            raise source.error(ErrorCode.BAD_GROUP_NAME, word.at)
    if not event.text:
        if group is None:
            raise source.error(ErrorCode.NO_EVENT_NAME, event.at)
        return group, None
    if len(event.text) > LONGEST_NAME:
        raise source.error(ErrorCode.EVENT_TOO_LONG, event.at)
    if not is_identifier(event.text):
        raise source.error(ErrorCode.BAD_EVENT_NAME, event.at)
    return group, event.text


def parse_location(source: Source, word: Word) -> tuple[Location, bool]:
    """Read ``[MOD:]SYM[+OFF][%return]`` or an address; tell whether the suffix was there."""
    place, percent, suffix = word.text.partition("%")
    if percent and percent + suffix != RETURN_SUFFIX:
        raise source.error(ErrorCode.BAD_ADDR_SUFFIX, word.at + len(place))
    addr = integer(place)
    if addr is not None and addr >= 0:
        return Location(addr=addr), bool(percent)
    match = re.fullmatch(r"((?:[^:+-]+:)?[^:+-]+)(?:\+(\w+))?", place)
    offset = integer(match[2]) if match and match[2] else 0
    if not match or offset is None or offset >= _OFFSET_LIMIT:
        raise source.error(ErrorCode.BAD_PROBE_ADDR, word.at)
    return Location(match[1], offset), bool(percent)


def _maxactive(source: Source, word: Word, is_return: bool) -> int:
    if not word.text:
        return 0
    if not is_return:
        raise source.error(ErrorCode.BAD_MAXACT_TYPE, word.at)
    value = integer(word.text)
    if value is None or value <= 0:
        raise source.error(ErrorCode.BAD_MAXACT, word.at)
    if value > MAXACTIVE_LIMIT:
        raise source.error(ErrorCode.MAXACT_TOO_BIG, word.at)
    return value


def _removal(source: Source, words: list[Word]) -> Removal:
    head = words[0]
    if head.text[:2] != "-:":
        raise source.error(ErrorCode.BAD_COMMAND, head.at)
    group, event = names(source, head.cut(2))
    location = parse_location(source, words[1])[0] if len(words) > 1 else None
    return Removal(source, group, event, location, tuple(word.text for word in words[2:]))

