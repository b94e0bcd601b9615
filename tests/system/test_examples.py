"""The examples do what their READMEs say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim.__main__ import main

ROOT = Path(__file__).parents[2]
LOST_UPDATE = ROOT / "examples" / "lost_update"


def find(engine_name, *words):
    """Run an example as a user does; return its exit code and output."""
    done = subprocess.run(
        [sys.executable, LOST_UPDATE / "find.py", "--engine", engine_name, *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_a_lost_update_is_found_with_probes_alone(engine_name, engine_pool, monkeypatch, capsys):
    """Every lost count is named, and the same run by `kphw run` says the same; with a lock there is nothing to find."""
    if engine_name == "pysim":
        pytest.skip("ten thousand cycles on two harts: on the compiled engine only")
    engine_pool.borrow(engine_name, harts=2)  # skips where there is none
    code, out = find(engine_name)
    assert code == 1 and "without probes: counted" in out
    counted, of = map(int, re.search(r"with probes: +counted (\d+) of (\d+)", out).groups())
    assert int(re.search(r"the probes saw: (\d+)", out)[1]) == of - counted > 0
    assert f"{2 * of} hits" in out, "a load and a store of each"
    story = "".join(out.splitlines(keepends=True)[:2])
    assert re.match(r"hart (\d) loaded (\d+) in cycle .*\n  hart (?!\1)\d had loaded \2 in", story)
    command = re.search(r"kphw (run .*) --wave ", out)[1]
    monkeypatch.chdir(ROOT)
    main([*command.split(), "--engine", engine_name])
    assert capsys.readouterr().out.startswith(story)
    code, out = find(engine_name, "--locked")
    assert code == 0 and len(re.findall(r"counted 40 of 40", out)) == 2
