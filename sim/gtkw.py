"""What opens a waveform at the right place: windows around traps and hits, GTKWave's save file, Surfer's commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from sim.disasm import vector_name
from sim.engine import FOREVER
from sim.events import Deliver, Event, Iret, ProbePhase, Trap, TrapPortCall

#: Cycles before and after what was chosen.
MARGIN = 120

#: GTKWave knows so many markers, A to Z.
MARKERS = 26

#: Flags of GTKWave's save file: right-justified, and hexadecimal, binary or text; the ends of a group.
_HEX, _BIN, _TEXT = "@22", "@28", "@820"
_GROUP, _CLOSED_GROUP = ("@800200", "@1000200"), ("@c00200", "@1401200")

#: A cycle is 200 / 2^2.5 pixels wide: room for a mnemonic.
_ZOOM = "-2.500000"

#: The order of the text of a hart, most telling first; what is not named here comes last.
_TEXT_ORDER = ("trap.name", "retire.sym", "retire.asm", "pipe.stages")

#: The groups of numbers that are open at first.
_OPEN = ("retire", "trap")

#: Scope, name and width of a variable; width 0: text.
Row = tuple[str, str, int]


class Around(NamedTuple):
    """A window of cycles, `end` not included, the cycle to open at, and named cycles in it."""

    start: int
    end: int
    focus: int | None
    marks: dict[str, int]


def _marks(events: Iterable[Event]) -> dict[str, int]:
    """Name the traps, ends of deliveries and iretqs: "int3", "handler", "db", "iretq", later ones "int3_2"."""
    marks: dict[str, int] = {}
    count: dict[str, int] = {}
    for event in events:
        if isinstance(event, Trap):
            name = "int3" if event.vector == 3 else vector_name(event.vector).lower().replace("#", "").replace(" ", "")
        elif isinstance(event, Deliver):
            name = "handler"
        elif isinstance(event, Iret):
            name = "iretq"
        else:
            continue
        count[name] = count.get(name, 0) + 1
        marks[name if count[name] == 1 else f"{name}_{count[name]}"] = event.cycle
    return marks


def _nth(found: Sequence[Event], what: str, number: int, noun: str) -> Event:
    if not 0 <= number < len(found):
        have = f"{len(found)} (numbered from 0)" if found else "none"
        raise ValueError(f"there is no {what}: the run had {noun} {have}")
    return found[number]


def _extent(events: Sequence[Event], what: str, number: int) -> tuple[Event, Event]:
    """The trap that is meant, and the last event that belongs to it."""
    if what == "trap":
        first = _nth([e for e in events if isinstance(e, Trap)], f"trap:{number}", number, "traps:")
        after = [e for e in events[events.index(first) :] if e.hart == first.hart]
    else:
        hits = [e for e in events if isinstance(e, ProbePhase) and e.phase == "hit"]
        hit = _nth(hits, f"hit:{number}", number, "probe hits:")
        mine = [e for e in events if e.hart == hit.hart]
        at = mine.index(hit)
        # the request to the runtime is logged after its phases; what went before is the trap
        first = next((e for e in reversed(mine[:at]) if isinstance(e, Trap)), hit)
        ends = (i for i, e in enumerate(mine) if i > at and isinstance(e, ProbePhase) and e.phase == "resume")
        after = mine[next(ends, at) :]
    last = next((e for e in after if isinstance(e, Iret)), after[-1])
    return first, last


def around(events: Iterable[Event], what: str, margin: int = MARGIN) -> Around:
    """Return the window that "trap:N", "hit:N", "cycle:N" or "all" names (numbers from 0), and what to mark in it.

    A trap reaches from the cycle in which it is taken to the next iretq of its hart, a hit from its int3 to the iretq
    that ends it. ValueError for anything else, or a number that the run did not reach.
    """
    events = list(events)
    kind, colon, digits = what.partition(":")
    if what == "all":
        traps = [e for e in events if isinstance(e, Trap)]
        focus = traps[0].cycle if traps else None
        start, end = 0, FOREVER
        shown = [e for e in events if traps and e.hart == traps[0].hart]
    elif kind in ("trap", "hit", "cycle") and colon and digits.isdecimal():
        if kind == "cycle":
            focus = last_cycle = int(digits)
            shown = events
        else:
            first, last = _extent(events, kind, int(digits))
            focus, last_cycle = first.cycle, last.cycle
            shown = [e for e in events if e.hart == first.hart and focus <= e.cycle <= last_cycle]
        start, end = max(0, focus - margin), last_cycle + margin + 1
    else:
        raise ValueError(f"{what!r} is no place in a run; say trap:N, hit:N, cycle:N (numbers from 0), or all")
    marks = _marks(e for e in shown if start <= e.cycle < end and not isinstance(e, (ProbePhase, TrapPortCall)))
    return Around(start, end, focus, dict(list(marks.items())[:MARKERS]))


def _full(scope: str, name: str, width: int) -> str:
    return f"{scope}.{name}[{width - 1}:0]" if width > 1 else f"{scope}.{name}"


def save_file(
    dump: Path, save: Path, rows: Sequence[Row], marks: dict[str, int], focus: int | None, first: int
) -> str:
    """Return a GTKWave save file: text on top, then a group for each scope; the primary marker at `focus`.

    About 30 cycles are in view, with `focus` near the left.
    """
    named = list(marks.items())[:MARKERS]
    cycles = [cycle for _, cycle in named] + [-1] * (MARKERS - len(named))
    lines = [
        "[*]",
        "[*] GTKWave save file by kphw; one unit of time is one cycle",
        "[*]",
        f'[dumpfile] "{dump.absolute()}"',
        f'[savefile] "{save.absolute()}"',
        f"[timestart] {max(first, focus - 6) if focus is not None else first}",
        "[size] 1600 900",
        "[pos] -1 -1",
        f"*{_ZOOM} {-1 if focus is None else focus} {' '.join(map(str, cycles))}",
        *(f"[markername] {chr(ord('A') + i)}{name}" for i, (name, _) in enumerate(named)),
        *(f"[treeopen] {scope}." for scope in _open_scopes(rows)),
        "[sst_width] 200",
        "[signals_width] 260",
        "[sst_expanded] 0",
    ]
    texts = _texts(rows)
    if texts:
        lines += [_GROUP[0], "-text", _TEXT, *(f"+{{{_alias(name)}}} {name}" for name in texts)]
        lines += [_GROUP[1], "-text"]
    for scope, group in groupby((row for row in rows if row[2]), key=lambda row: row[0]):
        begin, end = _GROUP if scope.endswith(_OPEN) else _CLOSED_GROUP
        lines += [begin, f"-{scope}"]
        for row in group:
            lines += [_BIN if row[2] == 1 else _HEX, _full(*row)]
        lines += [end, f"-{scope}"]
    return "\n".join([*lines, "[pattern_trace] 1", "[pattern_trace] 0"]) + "\n"


def _alias(name: str) -> str:
    """What GTKWave shows for a name, of which it would show only what follows the last dot."""
    return name.removeprefix("soc.").replace(".", " ")


def _texts(rows: Sequence[Row]) -> list[str]:
    """The full names of the variables that are text, in the order in which they are shown."""

    def rank(name: str) -> tuple[str, int]:
        _, hart, rest = name.split(".", 2)
        return hart, _TEXT_ORDER.index(rest) if rest in _TEXT_ORDER else len(_TEXT_ORDER)

    return sorted((_full(*row) for row in rows if not row[2]), key=rank)


def _open_scopes(rows: Sequence[Row]) -> list[str]:
    """The scopes above the variables, outermost first."""
    scopes = {".".join(scope.split(".")[:n]) for scope, _, _ in rows for n in range(1, scope.count(".") + 1)}
    return sorted(scopes)


def surfer_commands(dump: Path, rows: Sequence[Row], marks: dict[str, int], focus: int | None) -> str:
    """Return a command file for Surfer (``surfer -c``), with the same order."""
    lines = [f"load_file {dump.absolute()}"]
    lines += [f"variable_add {name}" for name in _texts(rows)]
    lines += [f"scope_add_as_group {scope}" for scope in dict.fromkeys(scope for scope, _, _ in rows)]
    for name, cycle in marks.items():
        lines += [f"cursor_set {cycle}", f"marker_set {name}"]
    if focus is not None:
        lines += [f"cursor_set {focus}", "goto_cursor"]
    return "\n".join(lines) + "\n"
