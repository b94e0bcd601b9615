"""Captures architectural vectors (design, section 8) from the processor of this machine.

    python -m tests.silicon.capture --count 5000 --seed 1 --max-insns 4 -o vectors.json
    python -m tests.silicon.capture --verify vectors.json          # does this machine give the same results?

In a vector with a trap, `final` is the state before delivery and its `rip` is the saved rip of the trap. Memory that
`initial` does not name may hold anything: every vector was run with two different backgrounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from tests.silicon.executor import Unavailable, run
from tests.silicon.generate import Piece, Snippet, complete, grow

#: Mnemonics and encodings that capstone 5 mistakes, and how; the length of these is not compared.
CAPSTONE_BUGS = {
    **dict.fromkeys(("lfence", "mfence", "sfence"), "knows only ModRM.rm = 0; processors ignore the field"),
    **dict.fromkeys(("nop", "prefetch", "prefetchw"), "does not know all reserved forms of 0F 0D and 0F 18 to 0F 1F"),
    **dict.fromkeys(("ud0", "ud1"), "takes no ModRM byte, or none of its forms"),
    **dict.fromkeys(("movsxd", "pause"), "refuses a 66 prefix"),
    "F3 90": "does not know xchg with F3 and 66",
    **dict.fromkeys(("popcnt", "tzcnt", "lzcnt"), "a 66 after the F3 hides the F3 from it"),
    "crc32": "a 66 after the F2 hides the F2 from it",
}
_BATCH = 2000
_MD = Cs(CS_ARCH_X86, CS_MODE_64)


def disassemble(piece: Piece) -> str:
    """The instruction as text; `ValueError` when the disassembler has another opinion of its length."""
    found = list(_MD.disasm(piece.code, piece.rip))
    if not piece.bad and (len(found) != 1 or found[0].size != len(piece.code)):
        name = piece.row.mnemonic if piece.row else "?"
        if name not in CAPSTONE_BUGS and not (piece.row and piece.row.encoding in CAPSTONE_BUGS):
            raise ValueError(f"{piece.code.hex()} is {piece.row}, but the disassembler does not agree")
        return f"{name} ({piece.code.hex()})"
    if piece.bad:
        return f"({piece.code.hex()})"
    return f"{found[0].mnemonic} {found[0].op_str}".strip()


def _text(piece: Piece) -> str:
    try:
        return disassemble(piece)
    except ValueError as disagreement:
        print(f"capture: {disagreement}", file=sys.stderr)
        return f"{piece.row} ({piece.code.hex()})"


def title(snippet: Snippet) -> str:
    """A name that says what the vector does; that the disassembler disagrees is only worth a remark."""
    kinds = "+".join(piece.row.mnemonic if piece.row else "bad" for piece in snippet.pieces)
    return f"{kinds}-{snippet.number:06d}: {'; '.join(_text(piece) for piece in snippet.pieces)}"


def capture(count: int, seed: int, max_insns: int, only: tuple[str, ...] = (), traps: bool = True) -> Iterator[dict]:
    """`count` vectors; the same ones for the same arguments."""
    number = 0
    while count > 0:
        batch = range(number, number + min(_BATCH, count + count // 20 + 8))
        number = batch.stop
        found = [s for s in grow(seed, batch, max_insns, only) if traps or not (s.outcome and s.outcome.trap)]
        if not found and number > 20 * _BATCH:
            raise ValueError("nothing can be generated from these rows")
        for snippet in found[:count]:
            yield snippet.vector(title(snippet))
        count -= len(found)


def verify(vectors: list[dict]) -> list[str]:
    """Names of the vectors whose `final` is not what this machine does."""
    wrong = []
    for vector, outcome in zip(vectors, run(vectors), strict=True):
        fresh = complete({"initial": vector["initial"]}, outcome, vector["undefined_flags"])
        keep = ~vector["undefined_flags"]
        finals = [dict(v["final"], regs=dict(v["final"]["regs"])) for v in (vector, fresh)]
        for final in finals:
            given = vector["initial"]["regs"].get("rflags", 2)
            final["regs"]["rflags"] = final["regs"].get("rflags", given) & keep
        if finals[0] != finals[1]:
            wrong.append(vector["name"])
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m tests.silicon.capture", description=summary)
    parser.add_argument("--count", type=int, default=5000, help="vectors to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-insns", type=int, default=4, help="instructions in a vector: 1 to this, at random")
    parser.add_argument("--rows", default="", help="only these mnemonics of the table, separated by commas")
    parser.add_argument("--no-traps", action="store_true", help="leave out vectors that end in a trap")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="run a file again instead of writing one")
    parser.add_argument("-o", "--output", type=Path, help="the file to write")
    options = parser.parse_args(arguments)
    try:
        if options.verify:
            vectors = json.loads(options.verify.read_text())
            wrong = verify(vectors)
            print(*(f"differs: {name}\n" for name in wrong), sep="", end="")
            print(f"{len(vectors) - len(wrong)} passed, {len(wrong)} failed")
            return 1 if wrong else 0
        if options.output is None:
            parser.error("-o FILE says where the vectors go")
        only = tuple(filter(None, options.rows.split(",")))
        start = time.monotonic()
        vectors = list(capture(options.count, options.seed, options.max_insns, only, not options.no_traps))
    except (Unavailable, ValueError, OSError) as reason:
        print(f"capture: {reason}", file=sys.stderr)
        return 2
    seconds = time.monotonic() - start
    options.output.write_text("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]\n")
    kinds = Counter(vector["final"]["trap"]["vector"] for vector in vectors if vector["final"]["trap"])
    print(f"{len(vectors)} vectors in {seconds:.1f} s, traps by vector: {dict(sorted(kinds.items()))}")
    repeat = f"--count {options.count} --seed {options.seed} --max-insns {options.max_insns}"
    repeat += f" --rows {options.rows}" * bool(options.rows) + " --no-traps" * options.no_traps
    print(f"repeat with: python -m tests.silicon.capture {repeat} -o {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
