"""The campaign on a core that is right and on one that is said to be wrong: what it prints, keeps, and repeats."""

import json
import re

import pytest

from sim.vectorfile import load
from sim.vectors import Runner
from tests.silicon import campaign
from tests.silicon.executor import available
from tests.silicon.table import rows

_REASON = available()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=f"no native execution: {_REASON}")


class Wrong(Runner):
    """Finds something wrong with every vector that writes memory."""

    def run(self, vectors):
        vectors = list(vectors)
        for vector, outcome in zip(vectors, super().run(vectors), strict=True):
            if vector.final_mem:
                outcome.differences.append("it writes memory")
            yield outcome


@pytest.fixture
def here(engine, monkeypatch):
    """Run chunks in this process, on the engine of the test."""
    monkeypatch.setattr(campaign, "_engine", engine)

    def in_order(plan, wanted, jobs):
        yield campaign.run(plan, range(wanted))

    monkeypatch.setattr(campaign, "campaign", in_order)
    return engine


def test_a_core_that_is_right(here, tmp_path, capsys):
    table = tmp_path / "coverage.csv"
    assert campaign.main(["--count", "150", "--seed", "9", "--keep", str(tmp_path / "kept"), "--coverage", str(table)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "python -m tests.silicon.campaign --seed 9 --max-insns 4 --engine compiled --count 150"
    assert re.fullmatch(r"1[34]\d passed, 0 failed", out[-1])
    assert not (tmp_path / "kept").exists()
    lines = table.read_text().splitlines()
    assert lines[0] == "row,size,times" and len(lines) > 60


def test_a_failure_is_shrunk_kept_and_repeated(here, engine_name, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(campaign, "Runner", Wrong)
    folder = tmp_path / "kept"
    assert campaign.main(["--count", "16" if engine_name == "compiled" else "4", "--seed", "4", "--keep", str(folder)]) == 1
    out = capsys.readouterr().out
    number = int(re.search(r"--only (\d+)$", out, re.MULTILINE)[1])
    assert re.search(r"small: .+: it writes memory$", out, re.MULTILINE)
    assert re.search(r"kept: python -m sim vectors \S+ --engine compiled$", out, re.MULTILINE)
    files = sorted(folder.glob("*.json"))
    assert files
    for file in files:
        (vector,) = load(file)
        assert vector.insns == 1
        assert next(Runner(here).run([vector])).differences == []
        regs = json.loads(file.read_text())[0]["initial"]["regs"]
        assert len(regs) <= 6, regs
    assert campaign.main(["--seed", "4", "--only", str(number), "--keep", str(folder)]) == 1
    assert sorted(folder.glob("*.json")) == files


def test_no_row_is_left_out():
    """The first instructions of two rounds through the table name every row."""
    plan = campaign.Plan(3, 1, "none")
    seen = {str(s.pieces[0].row) for s in campaign.grow(plan.seed, range(4 * len(rows())), 1)}
    assert not {str(row) for row in rows()} - seen


def test_wrong_requests(capsys):
    assert campaign.main(["--rows", "cpuid", "--only", "1"]) == 2
    assert "describes the host" in capsys.readouterr().err
