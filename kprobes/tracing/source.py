"""A command as it was written, its words, and the small things that all parsers of the language share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from kprobes.tracing.errors import ErrorCode, ProbeEventError

_INTEGER = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|(0|[1-9][0-9]*))")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Word(NamedTuple):
    """A piece of a command, and where it begins."""

    text: str
    at: int

    def cut(self, start: int, end: int | None = None) -> Word:
        """Return the piece from ``start`` to ``end``, which count from the beginning of this one."""
        return Word(self.text[start:end], self.at + start)


@dataclass(frozen=True, slots=True)
class Source:
    """One line of text."""

    text: str

    def words(self) -> list[Word]:
        """Return what stands between blanks, up to a word that begins with #, a comment."""
        found = [Word(match[0], match.start()) for match in re.finditer(r"\S+", self.text)]
        end = next((i for i, word in enumerate(found) if word.text.startswith("#")), len(found))
        return found[:end]

    def error(
        self, code: ErrorCode, at: int, why: str = "", number: int | None = None, picture: str = "",
    ) -> ProbeEventError:
        """Return the refusal with a caret under ``at``; ``why`` and ``number`` replace the code's own text and errno."""
        return ProbeEventError(code, self.text, at, why, number, picture)


def integer(text: str) -> int | None:
    """Read an integer as the kernel does, 10, -1, 0x1f, 017; None when it is none or exceeds 64 bits."""
    match = _INTEGER.fullmatch(text)
    if not match:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    value = -value if sign == "-" else value
    return value if -(1 << 63) <= value < 1 << 64 else None


def is_identifier(text: str) -> bool:
    """Whether ``text`` is an identifier of C."""
    return _IDENTIFIER.fullmatch(text) is not None
