"""Runs the proofs and prints the list: ``python -m tests.formal [NAME ...] [--deep] [--write]``."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tests.formal.proofs import PROOFS
from tests.formal.prover import STEP, Proof, Result, prove

DOCUMENT = Path(__file__).parents[2] / "docs" / "verification.md"
BEGIN, END = "<!-- proofs: python -m tests.formal --deep --write -->", "<!-- end of proofs -->"


def table(rows: list[tuple[Proof, Result]]) -> str:
    """Return the list as a Markdown table."""
    lines = ["| proof | what holds | method | solver | CPU s |", "|---|---|---|---|---|"]
    for proof, result in rows:
        solvers = proof.search if proof.bounded else f"{proof.search}, {STEP}"
        verdict = "" if result.holds else "**FAILS** "
        lines.append(
            f"| `{proof.name}` | {verdict}{proof.about} | {proof.method} | {solvers} | {result.seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for; 1 if a proof does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.formal", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="proofs whose names begin so (default: all)")
    parser.add_argument("--deep", action="store_true", help="the long ones, too")
    parser.add_argument("--write", action="store_true", help=f"put the list into {DOCUMENT.name}")
    arguments = parser.parse_args()
    chosen = [p for p in PROOFS if (arguments.deep or not p.deep) and p.name.startswith(tuple(arguments.names or [""]))]
    if not chosen:
        parser.error(f"no such proof; there are {', '.join(proof.name for proof in PROOFS)}")
    rows = []
    for proof in chosen:
        result = prove(proof, timeout=3600)
        print(f"{proof.name:24}{'holds' if result.holds else 'FAILS':8}{proof.method:28}{result.seconds:6.0f} s", flush=True)
        if not result.holds:
            print(result.log)
        rows.append((proof, result))
    if arguments.write:
        text = DOCUMENT.read_text()
        found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", text, re.DOTALL)
        assert found, f"{DOCUMENT} has no place for the list"
        DOCUMENT.write_text(text.replace(found[0], f"{BEGIN}\n\n{table(rows)}\n\n{END}"))
    return 0 if all(result.holds for _, result in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
