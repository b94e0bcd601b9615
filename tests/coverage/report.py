"""Says what of the core the tests have exercised, and what they have not."""

from __future__ import annotations

from dataclasses import dataclass, field

from hw.bus import STAGES
from hw.isa.facts import STATUS_BITS, STATUS_FLAGS, VECTORS, EventClass
from hw.isa.opcodes import TABLE
from hw.isa.rows import MEM, REG, Raise, Row, SizeRule
from tests.coverage.collect import PORTS, Coverage

#: Operand sizes that prefixes choose, by the rule of a row; all other rows have one.
SIZES = {SizeRule.V: (16, 32, 64), SizeRule.D64: (16, 64), SizeRule.Y: (32, 64)}

#: Sizes that never retire: sysret of 32 bits returns to compatibility mode, which the core has not, so it is #GP(0).
REFUSED = {("0F 07", 32)}

#: Flags that these write, but always with 0 (SDM vol. 2).
ALWAYS_ZERO = {
    **dict.fromkeys(("and", "or", "xor", "test", "andn", "bextr"), "co"),
    **dict.fromkeys(("blsr", "blsi", "bzhi"), "o"),
    "blsmsk": "oz",
    "popcnt": "cpaso",
    "clc": "c",
}

#: The same of single encodings: a bit shifted in at the top is 0.
ALWAYS_ZERO_IN = {"D0 /5": "s", "D1 /5": "s"}

#: And these always with 1.
ALWAYS_ONE = {"stc": "c"}

_BIT = {flag: 1 << bit for flag, bit in zip(STATUS_FLAGS, STATUS_BITS, strict=True)}


@dataclass
class Group:
    """One kind of things: what there is, and what was not seen."""

    name: str
    total: int = 0
    missing: list[str] = field(default_factory=list)

    def note(self, what: str, seen: object) -> None:
        """Count one thing."""
        self.total += 1
        if not seen:
            self.missing.append(what)

    @property
    def seen(self) -> int:
        """How many were seen."""
        return self.total - len(self.missing)


def groups(coverage: Coverage) -> list[Group]:
    """Return everything that is counted."""
    rows, sizes, flags = Group("table rows retired"), Group("operand sizes"), Group("flag outcomes")
    for number, row in enumerate(TABLE):
        if row.raises != Raise.NONE:
            continue  # it never retires: see the traps
        seen = {size: coverage.rows[f"{number}:{size}"] for size in (16, 32, 64)}
        rows.note(_name(row), any(seen.values()))
        for size in SIZES.get(row.uop.size, ()):  # type: ignore[call-overload]
            if (row.encoding, size) in REFUSED:
                continue
            there = seen[32] + seen[64] if row.uop.size == SizeRule.D64 and size == 64 else seen[size]
            sizes.note(f"{_name(row)}, {size} bits", there)
        _flags(flags, number, row, coverage)
    return [rows, sizes, flags, _traps(coverage), *_pipeline(coverage)]


def _name(row: Row) -> str:
    forms = "".join(f", {text}" for mark, text in ((REG, "register"), (MEM, "memory")) if mark in row.ok)
    return f"{row}{forms}"


def _flags(group: Group, number: int, row: Row, coverage: Coverage) -> None:
    def union(counts: dict[str, int]) -> int:
        values = [counts.get(f"{number}:{size}", 0) for size in (16, 32, 64)]
        return values[0] | values[1] | values[2]

    ones, zeros = union(coverage.ones), union(coverage.zeros)
    for flag in (flag for flag in row.written if flag not in row.undefined):
        if flag in _BIT:
            if flag not in ALWAYS_ZERO.get(row.mnemonic, "") + ALWAYS_ZERO_IN.get(row.encoding, ""):
                group.note(f"{_name(row)}: {flag.upper()}F 1", ones & _BIT[flag])
            if flag not in ALWAYS_ONE.get(row.mnemonic, ""):
                group.note(f"{_name(row)}: {flag.upper()}F 0", zeros & _BIT[flag])


#: Vectors that nothing in this core raises: no x87 or SSE unit, no machine check, no #BR and #OF in 64-bit mode.
NEVER = ("#OF", "#BR", "#MF", "#MC", "#XM")


def _traps(coverage: Coverage) -> Group:
    group = Group("trap causes")
    seen = {tuple(map(int, key.split(":"))) for key in coverage.traps}
    kinds = {"#DB": (EventClass.FAULT, EventClass.TRAP, EventClass.ICEBP), "#BP": (EventClass.SOFT,), "NMI": (EventClass.NMI,)}
    for facts in VECTORS:
        if facts.mnemonic not in NEVER:
            for kind in kinds.get(facts.mnemonic, (EventClass.FAULT,)):
                group.note(f"{facts.mnemonic} as {EventClass(kind).name.lower()}", (facts.number, int(kind)) in seen)
    for kind in (EventClass.INTR, EventClass.SOFT):
        found = any(vector >= 32 and number == kind for vector, number in seen)
        group.note(f"vector 32 or more as {kind.name.lower()}", found)
    return group


def _pipeline(coverage: Coverage) -> list[Group]:
    """Stalls, redirects and traps, by what the stages held."""
    samples = [dict(zip(PORTS, ((int(key) >> bit) & 1 for bit in range(len(PORTS))), strict=True)) for key in coverage.pipe]

    def seen(**wanted: int) -> bool:
        names = {"trap": "h0_retire__trap", "redirect": "h0_pipe__redirect"}
        ports = {names.get(name, f"h0_pipe__{name}"): value for name, value in wanted.items()}
        return any(all(sample[port] == value for port, value in ports.items()) for sample in samples)

    stalls, traps, redirects = Group("stalls"), Group("traps by occupancy"), Group("redirects by occupancy")
    for stage, after in zip(STAGES[1:], (*STAGES[2:], None), strict=True):
        name = stage.upper()
        busy, stuck = f"{stage}_valid", f"{stage}_stall"
        if after is None:
            stalls.note(f"{name} waits", seen(**{busy: 1, stuck: 1}))
        else:
            stalls.note(f"{name} waits, {after.upper()} empty", seen(**{busy: 1, stuck: 1, f"{after}_valid": 0}))
            blocked = {busy: 1, stuck: 1, f"{after}_valid": 1, f"{after}_stall": 1}
            stalls.note(f"{name} waits, {after.upper()} does too", seen(**blocked))
        for value in (0, 1):
            what = f"{name} {'occupied' if value else 'empty'}"
            traps.note(f"trap, {what}", seen(trap=1, **{busy: value}))
            redirects.note(f"redirect without trap, {what}", seen(trap=0, redirect=1, **{busy: value}))
    return [stalls, traps, redirects]
