"""Random snippets of table rows, grown one instruction at a time on the silicon itself.

Each round appends one instruction to every snippet and runs the whole batch again, so that the next instruction is
built for the registers and memory that the processor really left: addresses are exact, branches are followed wherever
they went, and no second model of the instruction set is needed to write the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

from hw.isa.rows import LOCK, Row
from tests.silicon import encode, flags, semantics
from tests.silicon.executor import REGS, Outcome, run
from tests.silicon.state import Reject, State
from tests.silicon.table import rows
from tests.silicon.vendors import disputed

#: Rows that only raise, or do nothing: generated, but rarely.
_RARE = {
    **dict.fromkeys(("ud0", "ud1"), 0.1),
    **dict.fromkeys(("ud2", "lfence", "mfence", "sfence", "prefetch", "prefetchw"), 0.2),
    **dict.fromkeys(("int3", "nop"), 0.5),
}
#: One-byte opcodes that 64-bit mode does not have.
_INVALID = bytes.fromhex("06 07 0E 16 17 1E 1F 27 2F 37 3F 60 61 82 9A CE D4 D5 EA")
#: Opcodes with ModRM reg fields (and mod = 3) that no instruction has; the last two need a memory operand.
_UNDEFINED = (
    *(bytes([0xFE, 0xC0 | reg << 3]) for reg in range(2, 8)),
    *(bytes([opcode, 0xC0 | reg << 3]) for opcode in (0xC6, 0xC7) for reg in range(1, 7)),
    *(bytes([0x0F, 0xBA, 0xC0 | reg << 3]) for reg in range(4)),
    *(bytes([0x0F, opcode]) for opcode in (0x04, 0x0A, 0x0C, 0x24, 0x25, 0x26, 0x27, 0x39, 0x3B, 0x3D, 0x3E, 0x3F)),
    *(b"\xff\xf8", b"\x8d\xc0", b"\x0f\xc3\xc0"),
    # VEX after REX, 66, F2, F3 or LOCK; its L, vvvv, pp, map or ModRM.reg as no instruction has them
    *(bytes([prefix]) + bytes.fromhex("C4E2F8F2C3") for prefix in (0x48, 0x66, 0xF2, 0xF3, 0xF0)),
    *map(bytes.fromhex, ["C4E2FCF2C3", "C4E373F0C307", "C4E2F9F2C3", "C4E2F9F5C3", "C4E1F8F2C3", "C4E0F8F2C3", "C4E2F8F3C0", "C4E2F8F3E0"]),
    *map(bytes.fromhex, ["0F38F0C0", "0F38F1C1", "F30F38F003", "0F38F6C1", "F20F38F6C1", "0FC7C8", "0FC7CB", "F30FC303"]),
)
_ATTEMPTS = 60


@dataclass
class Piece:
    """One instruction of a snippet; a `bad` one was made to be refused (#UD or #GP). `size`: of its operands, in bytes."""

    row: Row | None
    code: bytes
    rip: int
    defined: int = 0
    unknown: int = 0
    bad: bool = False
    size: int = 0


@dataclass
class Snippet:
    """A vector being grown."""

    number: int
    state: State
    length: int
    before: State
    pieces: list[Piece] = field(default_factory=list)
    outcome: Outcome | None = None
    finished: bool = False

    def vector(self, name: str) -> dict:
        """The vector in the format of the design."""
        assert self.outcome is not None
        vector = {"name": name, "initial": self.state.initial(), "insns": len(self.pieces)}
        return complete(vector, self.outcome, self.state.undefined)


def complete(vector: dict, outcome: Outcome, undefined: int) -> dict:
    """Add `final` (what differs from `initial`; with a trap, rip is the saved rip) and `undefined_flags`."""
    given = vector["initial"]["regs"]
    start = {name: given.get(name, 2 if name == "rflags" else 0) for name in REGS}
    trap = outcome.trap and {"vector": outcome.trap.vector, "error": outcome.trap.error, "rip": outcome.regs["rip"]}
    vector["final"] = {
        "regs": {name: value for name, value in outcome.regs.items() if value != start[name]},
        "mem": [[address, data.hex()] for address, data in outcome.changed],
        "trap": trap,
    }
    vector["undefined_flags"] = undefined
    return vector


@cache
def _weights(only: tuple[str, ...]) -> tuple[tuple[Row, ...], tuple[float, ...]]:
    """Half of the choice falls evenly on rows, half evenly on mnemonics."""
    table = rows(only)
    names = [row.mnemonic for row in table]
    kinds = len(set(names))
    weight = [(0.5 / len(table) + 0.5 / kinds / names.count(n)) * (1 if only else _RARE.get(n, 1)) for n in names]
    return table, tuple(weight)


def _split_lock(draft: encode.Draft) -> bool:
    """Whether a locked access crosses a line of 64 bytes."""
    locked = draft.lock or (draft.row.mnemonic == "xchg" and draft.memory)
    return locked and draft.address is not None and draft.address % 64 + draft.access_size() > 64


def build(row: Row, state: State, first: bool) -> Piece:
    """An instance of the row for this state, which it changes; `Reject` when it does not fit."""
    draft = encode.shape(row, state)
    semantics.prepare(draft, first)
    if row.modrm:
        encode.steer(draft)
    if _split_lock(draft):
        raise Reject("a locked access across lines of a cache: kernels and hypervisors make it wait for milliseconds")
    defined, unknown = semantics.finish(draft)
    code = semantics.link(draft, encode.emit(draft))
    state.use(draft.touched)
    piece = Piece(row, code, state.regs["rip"], defined, unknown, size=draft.size)
    if state.rng.random() < 0.01 and not draft.lock and len(code) < 15 and (LOCK not in row.ok or draft.rm is not None):
        piece = Piece(row, b"\xf0" + code, piece.rip, bad=True, size=draft.size)
    return piece


def _refused(state: State) -> Piece:
    """Bytes that are no instruction: an opcode that 64-bit mode lacks, an undefined one, or more than 15 bytes."""
    rng = state.rng
    kind = rng.random()
    if kind < 0.3:
        code = bytes([rng.choice(_INVALID)])
    elif kind < 0.8:
        code = rng.choice(_UNDEFINED)
    else:
        code = bytes(rng.choice(b"\x66\x2e\x36\x3e\x26") for _ in range(15))
        code += rng.choice((b"\x90", b"\xcc", b"\x01\xc0"))
    return Piece(None, code, state.regs["rip"], bad=True)


def extend(snippet: Snippet, only: tuple[str, ...]) -> bool:
    """Append an instruction; False when none of many attempts fits.

    The first one of every other snippet is of the row whose turn it is, so that no row is left out for long.
    """
    table, weight = _weights(only)
    rng = snippet.state.rng
    turn = table[snippet.number // 2 % len(table)] if not snippet.pieces and snippet.number % 2 else None
    for attempt in range(_ATTEMPTS):
        trial = snippet.state.fork()
        try:
            row = turn if turn and attempt < _ATTEMPTS // 2 else rng.choices(table, weight)[0]
            refuse = not (only or turn) and rng.random() < 0.006
            piece = _refused(trial) if refuse else build(row, trial, not snippet.pieces)
            trial.put_code(piece.code)
        except Reject:
            continue
        snippet.before, snippet.state = snippet.state, trial
        snippet.pieces.append(piece)
        return True
    return False


def _settle(snippet: Snippet, outcome: Outcome) -> None:
    """Take what silicon did, or take the last instruction back when a model could not be asked to do the same."""
    piece = snippet.pieces[-1]
    expected = outcome.trap is not None and outcome.trap.vector in (6, 13) if piece.bad else True
    usable = outcome.faithful and expected and not (outcome.trap and outcome.steps != len(snippet.pieces) - 1)
    stored = outcome.trap is not None and snippet.state.after(outcome) != snippet.state.mem
    if not usable or disputed(piece, snippet.state.regs, outcome, stored):
        snippet.pieces.pop()
        snippet.state, snippet.finished = snippet.before, True
        return
    snippet.outcome = outcome
    if outcome.trap:
        snippet.finished = True
        return
    snippet.state.undefined = flags.accumulate(snippet.state.undefined, piece.defined, piece.unknown)
    snippet.state.absorb(outcome)
    snippet.finished = len(snippet.pieces) >= snippet.length


def grow(seed: int, numbers: Sequence[int], max_insns: int, only: tuple[str, ...] = ()) -> Iterator[Snippet]:
    """Snippets with these numbers; each depends on the seed and its number alone."""
    snippets: list[Snippet] = []
    for number in numbers:
        state = State(Random(f"{seed}/{number}/{max_insns}/{only}"))
        snippets.append(Snippet(number, state, state.rng.randint(1, max_insns), state))
    growing = snippets
    while growing:
        for snippet in growing:
            snippet.finished = not extend(snippet, only)
        growing = [snippet for snippet in growing if not snippet.finished]
        requests = [{"initial": s.state.initial(), "insns": len(s.pieces)} for s in growing]
        for snippet, outcome in zip(growing, run(requests), strict=True):
            _settle(snippet, outcome)
        growing = [snippet for snippet in growing if not snippet.finished]
    # Once more with other bytes in all memory that the vectors do not name: what depends on it is no vector.
    kept = [snippet for snippet in snippets if snippet.pieces and snippet.outcome]
    again = run([{"initial": s.state.initial(), "insns": len(s.pieces)} for s in kept], fill=0xA5)
    yield from (snippet for snippet, outcome in zip(kept, again, strict=True) if outcome == snippet.outcome)
