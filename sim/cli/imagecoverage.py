"""The part of a kernel image's instructions that the core has: what `table --coverage` shows for an image."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from hw.isa.opcodes import TABLE
from sim.cli import common
from sim.cli.common import OK, UserError
from sim.kernel.image import load_kernel
from sim.kernel.sweep import Sweep, sweep
from sim.kernel.unpack import UnpackError


def count(path: Path) -> tuple[str, dict[str, Sweep], float]:
    """Return the name of the kernel in a file, the counts of its parts, and the seconds that counting took."""
    began = time.perf_counter()
    try:
        image = load_kernel(path)
    except UnpackError as error:
        raise UserError(str(error)) from None
    with common.progress(f"sweep of {image.name} (bytes)", sum(len(section.data) for section in image.text)) as show:
        code, replacements = sweep(image, show)
    return image.name, {"code": code, "replacements": replacements}, time.perf_counter() - began


def together(parts: dict[str, Sweep]) -> Sweep:
    """Return the sum of the parts."""
    whole = Sweep()
    for part in parts.values():
        whole.rows += part.rows
        whole.missing += part.missing
        whole.vector += part.vector
        whole.bad += part.bad
        whole.functions += part.functions
    return whole


def main(path: Path, json: bool) -> int:
    """Count and print, as text or as JSON."""
    name, parts, seconds = count(path)
    whole = together(parts)
    if json:
        common.print_json({"image": name, "seconds": round(seconds, 1), **_describe(whole), "rows": _rows(whole)})
        return OK
    print(f"{name}: {whole.functions:,} functions, {seconds:.0f} s")
    table = common.table("part", "integer and system", "supported", "share", "vector, x87", left=("part",))
    for title, part in ((".text and its like", parts["code"]), ("alternatives", parts["replacements"]), ("all", whole)):
        total, supported, vector = f"{part.total:,}", f"{part.supported:,}", f"{sum(part.vector.values()):,}"
        table.add_row(title, total, supported, _percent(part), vector)
    common.console().print(table)
    if whole.missing:
        table = common.table("missing", "count", left=("missing",))
        for what, times in whole.missing.most_common():
            table.add_row(what, f"{times:,}")
        common.console().print(table)
    if whole.bad:
        print("no instruction at " + ", ".join(f"{address:#x}" for address in whole.bad[:8]))
    print(f"supported: {whole.supported:,} of {whole.total:,} integer and system instructions ({_percent(whole)})")
    return OK


def _percent(part: Sweep) -> str:
    """The share, rounded down: 100 % means all."""
    return f"{int(part.share * 1_000_000) / 10_000:.4f} %"


def _describe(part: Sweep) -> dict[str, Any]:
    return {
        "functions": part.functions,
        "instructions": part.total,
        "supported": part.supported,
        "share": part.share,
        "missing": dict(part.missing.most_common()),
        "vector": dict(part.vector.most_common()),
        "no_instruction": part.bad,
    }


def _rows(part: Sweep) -> list[dict[str, Any]]:
    counts: Counter[int] = part.rows
    return [
        {"encoding": row.encoding, "mnemonic": row.mnemonic, "operands": ",".join(row.operands), "occurs": counts[number]}
        for number, row in enumerate(TABLE)
    ]
