"""The size of the core in `bench`: what Yosys and nextpnr print, and what is kept. Synthesis itself takes too long for a test."""

import json

import pytest

from sim.cli import size
from sim.cli.common import UserError


@pytest.fixture
def core(tmp_path, monkeypatch):
    """A place for results, and a core of which only the text counts."""
    monkeypatch.setattr(size, "CACHE", tmp_path / "size")
    monkeypatch.setattr(size, "_rtlil", lambda: ("module", tmp_path / "size" / "key.json"))
    return tmp_path


@pytest.mark.parametrize("entry", [27, {"count": 27, "area": "1.0"}])
def test_cells_and_path(core, monkeypatch, entry):
    def run(command, folder):
        if "synth_ecp5" in command[-1]:
            counts = {"LUT4": entry, "TRELLIS_FF": 5, "PFUMX": 3}
            (core / folder / "stat.json").write_text(json.dumps({"design": {"num_cells_by_type": counts}}))
        else:
            lines = [f"Info: Max frequency for clock 'clk': {mhz} MHz (FAIL at 50.00 MHz)" for mhz in (9.5, 12.5)]
            (core / folder / "place.log").write_text("\n".join(lines))

    monkeypatch.setattr(size, "_run", run)
    assert size.known() is None
    result = size.measure()
    assert (result["cells"]["LUT4"], result["cells"]["TRELLIS_FF"], result["cells"]["DP16KD"]) == (27, 5, 0)
    assert "PFUMX" not in result["cells"]
    monkeypatch.setattr(size, "_run", None)
    assert size.measure() == size.known() == result, "kept"
    if result["path_ns"] is not None:  # nextpnr is installed
        assert result["path_ns"] == 80.0, "the last figure counts"


def test_a_failing_tool_is_named(core, monkeypatch):
    command = ["sh", "-c", "echo ERROR: no such cell; false"]
    with pytest.raises(UserError, match="sh failed: ERROR: no such cell"):
        size._run(command, str(core))


def test_what_is_printed(capsys):
    size.show(None)
    assert "bench --size" in capsys.readouterr().out
    size.show({"cells": dict.fromkeys(size.CELLS, 1234), "path_ns": 80.0})
    out = capsys.readouterr().out
    assert "1,234" in out and "80.0 ns (12.5 MHz)" in out
    assert max(map(len, out.splitlines())) <= 80
