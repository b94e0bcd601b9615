"""The compiled engine where it cannot be built, and where several processes build it at once."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from toy_soc import ToySoc

from hw.config import Config, Vendor
from sim import build
from sim.engine import EngineUnavailable, open_engine

ROOT = Path(__file__).parents[2]


def open_toy(name="compiled"):
    return open_engine(name, config=Config(ram_bytes=1 << 16), soc_factory=ToySoc)


def test_unknown_name():
    with pytest.raises(ValueError, match="engines are auto, compiled, pysim"):
        open_engine("verilator")


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EngineUnavailable, match=r"no C\+\+ compiler .* apt-get install g\+\+.*pysim"):
        open_toy()
    engine = open_toy("auto")
    assert engine.name == "pysim"


def test_a_compiler_that_fails(monkeypatch, tmp_path):
    broken = tmp_path / "broken-cxx"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo broken 1.0\necho "x.cc:1: error: no disk" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("KPHW_BUILD", str(tmp_path / "cache"))
    with pytest.raises(EngineUnavailable, match=r"broken-cxx failed: x\.cc:1: error: no disk"):
        open_toy()
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert not left, "nothing half built"


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KPHW_BUILD", str(tmp_path / "file" / "cache"))
    with pytest.raises(EngineUnavailable, match="Set KPHW_BUILD"):
        open_toy()


def test_two_processes_build_one_library(tmp_path):
    code = "from toy_soc import ToySoc; from sim.engine import open_engine; from hw.config import Config; "
    code += "print(open_engine('compiled', config=Config(ram_bytes=1 << 16), soc_factory=ToySoc).run(10).cycles)"
    environment = {**os.environ, "KPHW_BUILD": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'unit'}"}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) for _ in (1, 2)
    ]
    assert [process.communicate(timeout=300)[0].strip() for process in started] == ["10", "10"]
    assert len(list(tmp_path.glob("*/engine.so"))) == 1
    assert not list(tmp_path.glob("*.*/")), "no work folder is left"


def test_every_parameter_of_the_hardware_is_in_the_key():
    configs = [Config(), Config(ram_bytes=1 << 20), Config(vendor=Vendor.AMD)]
    assert len({build.source_key(1, config) for config in configs}) == len(configs)


def test_the_design_decides_the_library():
    small, again, large = (build.build_library(partial(ToySoc, 1, Config(size))) for size in (1 << 16, 1 << 16, 1 << 17))
    assert small == again != large
