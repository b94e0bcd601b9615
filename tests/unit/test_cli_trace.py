"""kphw trace: what it prints, its exit codes, and the carets of what it refuses."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import sim.cli.trace
from sim.__main__ import main
from sim.guestbuild import PROGRAMS, build_program

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kphw"])
    return tmp_path


@pytest.fixture
def kphw(capsys, lend, engine_name, monkeypatch):
    """Runs ``kphw trace`` on an engine of the pool; returns the exit code, what it printed, and the error output."""
    monkeypatch.setattr(sim.cli.trace, "open_engine", lambda name, **options: lend(engine_name, **options))

    def call(*words):
        code = main(["trace", *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture(scope="module")
def opens():
    return build_program("opens", n=PROGRAMS["opens"].n_test)


def test_lines_as_ftrace_prints_them(kphw, opens):
    code, out, err = kphw(opens, "-e", "p:open do_open path=+0(%di):string", "-e", "p:close do_close fd=%di:s32")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[:3] == ["# tracer: nop", "#", "# entries-in-buffer/entries-written: 11/11   #P:1"]
    bodies = [line.split(": ", 1)[1].split(") ")[1] for line in lines if not line.startswith("#")]
    assert bodies == [f'path="{name}"' if name is not None else "path=(fault)"
                      for name in ("/etc/passwd", "/dev/null", "", None, "b", "c")] + [f"fd={fd}" for fd in range(5)]


def test_filters_and_the_profile(kphw, opens):
    code, out, _ = kphw(opens, "-e", "p:open do_open path=+0(%di):string", "--filter", 'open:path ~ "/*"', "--profile")
    assert code == 0 and out.count("path=") == 2
    assert out.splitlines()[-1].split() == ["open", "6", "0"]


def test_json(kphw, opens):
    code, out, _ = kphw(opens, "-e", "p:g/open do_open path=+0(%di):string fd=%si:s32", "--json")
    found = json.loads(out)
    assert code == 0 and found["written"] == len(found["records"]) == 6 and found["findings"] == []
    assert found["definitions"] == ["p:g/open do_open path=+0(%di):string fd=%si:s32"]
    assert found["profile"] == [{"event": "g/open", "hits": 6, "misses": 0, "reasons": {}}]
    assert found["records"][3]["fields"] == {"path": None, "fd": 3}
    assert set(found["records"][0]) == {"event", "group", "cpu", "time", "ip", "ret_ip", "fields"}


def test_the_trace_in_a_file(kphw, opens, folder):
    code, out, _ = kphw(opens, "-e", "p:open do_open", "-o", "trace.txt", "--profile")
    assert code == 0 and out.split() == ["open", "6", "0"]
    assert (folder / "trace.txt").read_text().count(": open: (do_open+0x0/0x") == 6
    code, _, err = kphw(opens, "-e", "p:open do_open", "-o", folder)
    assert code == 2 and "choose another file" in err


@pytest.mark.parametrize(("words", "says"), [
    (["-e", "p:e do_open %rdi"], "BAD_REG_NAME: no such register: write %di, %ax, %r8 ... as pt_regs names them (EINVAL)\n"
                                 "  p:e do_open %rdi\n"
                                 "              ^"),
    (["-e", "p:e do_opne"], "did you mean do_open"),
    (["-e", "p:e do_open", "--filter", "e:x == 1"], "  x == 1\n  ^"),
    (["-e", "p:e do_open", "--filter", "k:x == 1"], "there is no event 'k'; there are kprobes/e"),
    (["-e", "p:e do_open", "--filter", "x"], "'x' is no filter: write EVENT:EXPRESSION"),
    (["-e", "p:e do_open", "-e-:k"], "no probe event matches '-:k'; there are kprobes/e"),
    ([], "nothing to trace: give events with -e"),
    (["-e", "p:e do_open", "--engine", "verilater"], "there is no engine 'verilater'"),
])  # fmt: skip
def test_what_is_refused(kphw, opens, words, says):
    code, out, err = kphw(opens, *words)
    assert (code, out) == (2, "") and says in err, err


def test_a_guest_that_does_not_end_is_a_finding(kphw, opens):
    code, out, err = kphw(opens, "-e", "p:e do_open", "--max-cycles", "400")
    assert code == 1 and "do_open+0x0" in out and "found: the guest did not end in 400 cycles" in err


def test_the_demo(kphw):
    code, out, err = kphw("--profile")
    assert (code, err) == (0, "")
    profile = [line.split() for line in out.splitlines()[-len(sim.cli.trace.DEMO):]]
    assert profile == [["dio", "6", "0"], ["dio_done", "6", "0"], ["xmit", "6", "0"], ["xmit_done", "6", "0"]]
    assert out.count(" ret=-90\n") == 1 and out.count(" <- __blockdev_direct_IO) bytes=") == 6


def test_the_example_of_the_documentation(kphw):
    """Run as it stands there; cycles may differ, and offsets and sizes, which are the compiler's."""
    text = (ROOT / "docs" / "tracing.md").read_text()
    block = [line.removeprefix("    ") for line in text[text.index("    $ kphw trace"):].splitlines()]
    size = next(number for number, line in enumerate(block) if not line.endswith("\\")) + 1
    words = shlex.split("\n".join(block[:size]).replace("\\\n", " "))
    code, out, _ = kphw(*words[3:])

    def plain(lines):
        return [re.sub(r" +\d+: |\+0x[0-9a-f]+/0x[0-9a-f]+", " ", line.rstrip()) for line in lines]

    assert code == 0 and plain(out.splitlines()) == plain(block[size:])
