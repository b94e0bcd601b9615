"""Lists the instructions of the core: one line for each encoding of the table (hw/isa/opcodes.py)."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hw.isa.opcodes import TABLE
from hw.isa.reference import lookup, split
from hw.isa.routines import ROUTINES
from hw.isa.rows import LOCK, MEM, NO66, NOREXB, REG, REXB, Priv, Raise, Row
from sim.cli import common
from sim.cli.common import OK, UserError
from sim.kernel.unpack import looks_like_kernel

EXAMPLES = (
    "table",
    "table --mnemonic cmpxchg",
    "table --json",
    "table --coverage out/demo/events.jsonl",
    "table --coverage build/kernel/linux-image-*.deb",
)

_MARKS = {
    LOCK: "lock",
    REG: "register form",
    MEM: "memory form",
    REXB: "with REX.B",
    NOREXB: "without REX.B",
    NO66: "not with 66",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--mnemonic", metavar="X", help="only instructions of this name")
    parser.add_argument(
        "--coverage",
        type=Path,
        metavar="FILE",
        help="count executed instructions: events of `run --events`, or vectors; or, of a kernel (.deb, vmlinuz, vmlinux), "
        "the share that the core has",
    )
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the table, or what of a kernel it covers."""
    if arguments.coverage and looks_like_kernel(arguments.coverage):
        from sim.cli import imagecoverage

        return imagecoverage.main(arguments.coverage, arguments.json)
    rows: list[tuple[int, Row]] = list(enumerate(TABLE))
    if arguments.mnemonic:
        names = sorted({row.mnemonic for row in TABLE})
        rows = [(i, row) for i, row in rows if row.mnemonic == arguments.mnemonic.lower()]
        if not rows:
            raise UserError(
                f"the core has no instruction {arguments.mnemonic!r}{common.suggest(arguments.mnemonic, names)}"
            )
    counts = coverage(arguments.coverage) if arguments.coverage else None
    entries: list[dict[str, Any]] = [describe(row) for _, row in rows]
    for entry, (i, _) in zip(entries, rows, strict=True):
        if counts is not None:
            entry["executed"] = counts[i]
    if arguments.json:
        common.print_json(entries)
        return OK
    table = common.table(
        "encoding",
        "mnemonic",
        "operands",
        "flags",
        "uops",
        *(["executed"] if counts is not None else []),
        "notes",
        left=("encoding", "mnemonic", "operands", "flags", "notes"),
    )
    for entry in entries:
        flags = entry["written"] + (f" ({entry['undefined']})" if entry["undefined"] else "")
        executed = [] if counts is None else [str(entry["executed"] or "-")]
        table.add_row(
            entry["encoding"], entry["mnemonic"], entry["operands"], flags, str(entry["uops"]), *executed, _notes(entry)
        )
    common.console().print(table)
    print(
        f"{len(entries)} encodings, {len({entry['mnemonic'] for entry in entries})} mnemonics; flags: written (undefined)"
    )
    if counts is not None:
        done = sum(1 for entry in entries if entry["executed"])
        print(f"executed: {done} of {len(entries)} encodings ({100 * done / len(entries):.0f} %)")
    return OK


#: Who may execute a row.
_PRIVILEGE = {
    Priv.ANY: None,
    Priv.CPL0: "CPL 0",
    Priv.IOPL: "CPL <= IOPL",
    Priv.IO: "CPL <= IOPL or I/O bitmap",
    Priv.NT: "NT = 0",
    Priv.TSD: "CPL 0 or TSD = 0",
    Priv.UMIP: "CPL 0 or UMIP = 0",
}


def describe(row: Row) -> dict[str, Any]:
    """Return a row as JSON has it."""
    return {
        "encoding": row.encoding,
        "mnemonic": row.mnemonic + {"j": "cc", "set": "cc", "cmov": "cc"}.get(row.mnemonic, "") * (row.span == 16),
        "operands": ",".join(row.operands),
        "written": row.written,
        "undefined": row.undefined,
        "uops": len(ROUTINES[row.routine]) if row.routine else 1,
        "routine": row.routine,
        "lock": LOCK in row.ok,
        "forms": [text for mark, text in _MARKS.items() if mark in row.ok and mark != LOCK],
        "privilege": _PRIVILEGE[row.priv],
        "raises": None if row.raises == Raise.NONE else {"UD": "#UD"}.get(row.raises.name, row.raises.name.lower()),
    }


def _notes(entry: dict[str, Any]) -> str:
    raises = f"raises {entry['raises']}" if entry["raises"] else None
    return "; ".join(filter(None, ("lock" if entry["lock"] else None, *entry["forms"], entry["privilege"], raises)))


def coverage(path: Path) -> Counter[int]:
    """Count how often each row of the table occurs in a file of events or of vectors."""
    numbers = {id(row): i for i, row in enumerate(TABLE)}
    counts: Counter[int] = Counter()
    try:
        for code in _instructions(path.read_text()):
            parts = split(code)
            row = lookup(parts) if parts else None
            if row is not None:
                counts[numbers[id(row)]] += 1
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a file that `run --events` wrote, or vectors"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} holds neither events (`run --events`) nor vectors") from None
    return counts


def _instructions(text: str) -> Iterator[bytes]:
    if text.lstrip().startswith("["):
        for vector in json.loads(text):
            yield from _straight(vector)
        return
    for line in text.splitlines():
        event = json.loads(line)
        if event["kind"] == "retire" and event["first"] and not event["delivery"]:
            yield bytes.fromhex(event["bytes"])


def _straight(vector: dict[str, Any]) -> Iterator[bytes]:
    """Yield a vector's instructions as they lie one behind the other."""
    at = vector["initial"]["regs"].get("rip", 0)
    for start, data in vector["initial"]["mem"]:
        code = bytes.fromhex(data)[at - start :] if start <= at < start + len(data) // 2 else b""
        for _ in range(vector["insns"]):
            parts = split(code + bytes(15)) if code else None
            if parts is None:
                break
            yield code[: parts.length]
            code = code[parts.length :]
