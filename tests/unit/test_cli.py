"""The command line: exit codes, the message of every bad input, and what each command prints."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

import sim.cli.probing
import sim.cli.run
import sim.machine
from hw.config import Config
from sim import guestbuild
from sim.__main__ import main
from sim.cli import COMMANDS
from sim.cli import vectors as vectors_command
from sim.cli.probing import place
from sim.engine import NEVER, DesignError
from sim.pysim import PysimEngine
from tests.unit.test_vectors import ADD, changed

SOURCE = """
#include "guest.h"
noinline int twice(int x) { asm volatile("" ::: "memory"); return x * 2 + 0x12345; }
int main(void) { puts("hello\\n"); return FAIL + (twice(3) == 0); }
"""

#: A program without the guest runtime, and so without an IDT.
BARE = """
    .globl _start, f
    .type _start, @function
    .type f, @function
_start: call f
    hlt
    .size _start, . - _start
f:  ret
    .size f, . - f
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kphw"])
    return tmp_path


@pytest.fixture
def quick(lend, monkeypatch):
    """Let commands run on engines of the pool: opening pysim costs seconds."""
    def borrow(name, *, config=Config(), **options):
        return lend("pysim" if name == "auto" else name, config=config)

    monkeypatch.setattr(sim.machine, "open_engine", borrow)
    monkeypatch.setattr(sim.cli.run, "open_engine", borrow)
    monkeypatch.setattr(vectors_command, "open_engine", borrow)


@pytest.fixture
def kphw(capsys):
    """Runs a command; returns the exit code, what it printed, and the error output, in which no traceback may be."""

    def call(*words):
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    path = tmp_path_factory.mktemp("guest") / "hello.elf"
    return _build(path, 0)


def _build(path: Path, fail: int) -> Path:
    source = path.with_suffix(".c")
    source.write_text(SOURCE)
    return guestbuild.build([source], path, defines=(f"FAIL={fail}",))


# --- help and usage


def test_help_lists_every_command_in_80_columns(kphw):
    code, out, _ = kphw("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(kphw, name):
    code, out, _ = kphw(name, "--help")
    assert code == 0
    assert "examples:" in out and f"kphw {name}" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["vektors"], "there is no command 'vektors'; did you mean vectors?"),
        (["vectors", "--jsn", "x.json"], "--jsn; did you mean --json?"),
        (["vectors"], "required: FILE.json"),
        (["vectors", "x.json", "--engine", "pysin"], "there is no engine 'pysin'; did you mean pysim?"),
        (["vectors", "x.json"], "x.json does not exist"),
        (["run", "--max-cycles", "many"], "'many' is not a count"),
        (["run", "--ram", "big"], "'big' is not a size"),
        (["run", "--probe", "a+b"], "'a+b' is no place to probe"),
        (["table", "--mnemonic", "addd"], "no instruction 'addd'; did you mean"),
        (["table", "--coverage", "none.json"], "none.json cannot be read"),
    ],
)
def test_wrong_usage_is_code_2_and_one_clear_message(kphw, words, says):
    code, out, err = kphw(*words)
    assert (code, out) == (2, "")
    assert says in err


def test_no_command_prints_help(kphw):
    code, _, err = kphw()
    assert code == 2 and "commands:" in err


def test_a_reader_that_leaves_is_no_error(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            return open("/dev/null", "w").fileno()

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main(["engines"]) == 0


# --- run: bad input


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda elf: None, "does not exist"),
        (lambda elf: b"", "is not an ELF file"),
        (lambda elf: b"#!/bin/sh\n", "is not an ELF file"),
        (lambda elf: elf[:1000], "truncated|damaged"),
        (lambda elf: elf[:18] + b"\xb7\x00" + elf[20:], "not x86-64"),
        (lambda elf: elf[:4] + b"\x01" + elf[5:], "32-bit"),
        (lambda elf: elf[:16] + b"\x03\x00" + elf[18:], "position-independent"),
    ],
)
def test_an_elf_file_that_is_none(kphw, guest, folder, make, says):
    data, path = make(guest.read_bytes()), folder / "bad.elf"
    if data is not None:
        path.write_bytes(data)
    code, out, err = kphw("run", path)
    assert (code, out) == (2, "")
    assert any(part in err for part in says.split("|"))
    assert str(path) in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--probe", "twicee"], "the guest has no symbol 'twicee'; did you mean 'twice'"),
        (["--probe", "twice+4"], "twice+0x4 is inside an instruction"),
        (["--probe", "0x10"], "is in no symbol of the guest"),
        (["--jprobe", "nothing"], "the guest has no symbol 'nothing'"),
        (["--ram", "3M"], "3145728"),
        (["--wave-around", "hit:7"], "there is no hit:7"),
        (["--wave-around", "somewhere"], "is no place in a run"),
        (["--wave", "wave.png"], "is no waveform"),
    ],
)
def test_a_request_that_the_guest_cannot_meet(kphw, quick, guest, options, says):
    code, out, err = kphw("run", guest, *options)
    assert (code, out) == (2, "")
    assert says in err


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "does not exist"),
        ("x = 1", "registers nothing: define setup(machine)"),
        ("def setup(:", "line 1: SyntaxError"),
        ("import nothing_of_this_name", "line 1: ModuleNotFoundError"),
        ("\ndef setup(machine):\n    machine.no_such_thing()", "line 3: AttributeError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("from kprobes import *\nk = Kprobe('nowhere')", "no symbol 'nowhere'"),
        ("from kprobes import *\nk = Kprobe('twice', pre_handler=lambda p, regs: 1 // 0)",
         "the pre_handler|pre_handler of the probe on twice raised ZeroDivisionError"),
        ("from kprobes import *\nk = Kprobe('twice', post_handler=lambda p, regs, flags: {}[1])", "raised KeyError"),
        ("from kprobes import *\ndef h(a):\n    raise OSError('x')\nk = Jprobe(h, 'twice')", "line 3"),
    ],
)  # fmt: skip
def test_a_script_that_fails(kphw, quick, guest, folder, script, says):
    path = folder / "probes.py"
    if script is not None:
        path.write_text(script)
    code, _, err = kphw("run", guest, "--script", path)
    assert code == 2
    assert any(part in err for part in says.split("|"))
    assert "probes.py" in err or "nowhere" in says


def test_a_probe_that_is_refused_leaves_memory_as_it_was(quick, guest):
    with sim.machine.Machine(guest, engine="pysim") as machine:
        before = machine.mem.read(0, 1 << 21)
        for symbol, offset in (place("twice+4"), place("nothing")):
            with pytest.raises(OSError):
                machine.kprobes.register_kprobe(sim.cli.probing.kprobe(symbol, offset))
        assert machine.mem.read(0, 1 << 21) == before


def test_an_engine_that_cannot_be_built(kphw, guest, monkeypatch, folder):
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    monkeypatch.setenv("PATH", str(folder))
    for words in (["run", guest], ["vectors", _file(folder, [ADD])]):
        code, _, err = kphw(*words, "--engine", "compiled")
        assert code == 2
        assert "engine 'compiled' is not available" in err and "g++" in err and "pysim" in err
    code, out, _ = kphw("engines")
    assert code == 0 and "NOT available" in out and "--engine auto takes pysim" in out


def test_no_gcc_for_the_demo(kphw, monkeypatch):
    monkeypatch.setenv("GUEST_CC", "/nonexistent/gcc")
    code, _, err = kphw("run", "--engine", "pysim")
    assert code == 2 and "apt-get install gcc" in err


def test_a_place_that_cannot_be_written(kphw, quick, guest, folder):
    (folder / "out").write_text("a file where the folder should be")
    code, _, err = kphw("run", guest)
    assert code == 2 and "cannot be written" in err


# --- run: what it does


def test_run_shows_hits_console_and_files(kphw, quick, guest, folder):
    code, out, _ = kphw("run", guest, "--probe", "twice", "--compare")
    assert code == 0
    assert "1 probe hit," in out and "twice" in out and "pre 0" in out and "console       hello" in out
    assert "the same console and exit" in out
    assert (folder / "out" / "hello" / "report.html").exists()
    assert max(map(len, out.splitlines())) <= 80


def test_run_json(kphw, quick, guest, folder):
    code, out, err = kphw("run", guest, "--jprobe", "twice", "--json", "--events", "--wave")
    result = json.loads(out)
    assert code == 0
    assert {"cycles", "retired", "exit", "console", "hits", "engine", "seconds"} <= set(result)
    assert (result["console"], result["exit"], result["engine"]) == ("hello\n", 1, "pysim")
    (hit,) = result["hits"]
    assert (hit["symbol"], hit["kind"], [trap["vector"] for trap in hit["traps"]]) == ("twice", "jprobe", [3, 3, 3, 1])
    assert hit["cycles"]["total"] == sum(hit["cycles"].values()) - hit["cycles"]["total"]
    assert "jprobe twice: 0x3" in err
    assert all(Path(path).exists() for path in result["files"].values())
    code, out, _ = kphw("table", "--coverage", result["files"]["events"], "--json")
    assert sum(row["executed"] for row in json.loads(out)) >= result["retired"]


def test_a_guest_that_fails_is_a_finding(kphw, quick, folder):
    code, out, _ = kphw("run", _build(folder / "fails.elf", 5))
    assert code == 1 and "FOUND" in out and "status 5" in out


def test_a_guest_that_does_not_end_is_a_finding(kphw, quick, guest):
    code, out, _ = kphw("run", guest, "--max-cycles", "100")
    assert code == 1 and "did not end in 100 cycles" in out


def test_a_triple_fault_is_a_finding_with_its_chain(kphw, quick):
    code, out, _ = kphw("run", guestbuild.build_program("triple"), "--json")
    result = json.loads(out)
    assert (code, result["reason"], result["exit"]) == (1, "shutdown", None)
    assert [trap["vector"] for trap in result["shutdown"]] == [6, 13, 8, 13]
    _, *chain, advice = result["findings"][0].splitlines()
    assert [line.split()[0] for line in chain] == ["#UD", "#GP(0x33)", "#DF(0x0)", "#GP(0x43)"]
    assert "main" in chain[0] and advice.startswith("next: the gate of vector 8 lies beyond the limit of the IDT")


def test_an_invariant_that_fails_is_a_finding_and_gives_a_wave(kphw, quick, guest, folder, monkeypatch):
    run = PysimEngine.run

    def fails(self, max_cycles, stop=NEVER):
        ended = run(self, min(max_cycles, 150 - self.cycle), stop)
        if self.cycle >= 150:
            raise DesignError("pysim", self.cycle, "h0.f", "fetch.bound: {} of {}", (5, 3))
        return ended

    monkeypatch.setattr(PysimEngine, "run", fails)
    code, out, err = kphw("run", guest)
    assert (code, out) == (1, "")
    assert "invariant fetch.bound of hart 0 does not hold in cycle 150: 5 of 3 (h0.f" in err
    assert "--wave-around cycle:150" in err
    code, _, err = kphw("run", guest, "--wave", folder / "bad.vcd", "--wave-around", "cycle:150")
    assert code == 1 and "bad.vcd" in err
    assert "\n#149\n" in (folder / "bad.vcd").read_text()


def test_a_trap_that_nobody_handled(kphw, quick, folder):
    source = folder / "ud.c"
    source.write_text('#include "guest.h"\nint main(void) { asm volatile("ud2"); return 0; }\n')
    code, out, _ = kphw("run", guestbuild.build([source]))
    assert code == 1 and "a trap that nobody handled: #UD at main" in out


# --- the other commands


def _file(folder, vectors):
    path = folder / "v.json"
    path.write_text(json.dumps(vectors))
    return path


def test_vectors_prints_a_line_for_each_failure_and_the_sum(kphw, quick, folder):
    bad = changed(ADD, "final.regs.rax", 9)
    code, out, _ = kphw("vectors", _file(folder, [ADD, bad]), "--engine", "pysim")
    assert code == 1
    assert out.splitlines() == ["add-0001: rax is 0x3, expected 0x9", "1 passed, 1 failed"]
    code, out, _ = kphw("vectors", _file(folder, [ADD]))
    assert (code, out) == (0, "1 passed, 0 failed\n")
    code, out, _ = kphw("vectors", _file(folder, [ADD, bad]), "--json")
    assert code == 1
    assert json.loads(out)["engines"][0]["failures"][0]["name"] == "add-0001"


def test_vectors_refuses_a_malformed_file(kphw, folder):
    code, out, err = kphw("vectors", _file(folder, [ADD, changed(ADD, "initial.regs.eax", 1)]))
    assert (code, out) == (2, "")
    assert "vector 1 (add-0001): initial.regs: there is no register 'eax'" in err
    code, _, err = kphw("vectors", _file(folder, [ADD]), "--only", "sub")
    assert code == 2 and "no vector has 'sub' in its name" in err


def test_every_privilege_has_words():
    from hw.isa.rows import Priv
    from sim.cli.table import _PRIVILEGE

    assert set(_PRIVILEGE) == set(Priv)


def test_table_in_80_columns_and_as_json(kphw):
    code, out, _ = kphw("table")
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    code, out, _ = kphw("table", "--json", "--mnemonic", "cmpxchg")
    rows = json.loads(out)
    assert code == 0 and {row["lock"] for row in rows} == {True, False}
    assert all({"encoding", "operands", "written", "uops", "routine", "privilege"} <= set(row) for row in rows)


def test_engines_as_json(kphw):
    code, out, _ = kphw("engines", "--json")
    found = {engine["name"]: engine for engine in json.loads(out)}
    assert code == 0 and found["pysim"]["available"] and "snapshot" in found["compiled"]["capabilities"]


def test_doctor(kphw, monkeypatch):
    code, out, _ = kphw("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0 and checks["python"]["ok"] and checks["gcc"]["version"]
    monkeypatch.setenv("GUEST_CC", "/nonexistent/gcc")
    code, out, _ = kphw("doctor")
    assert code == 1 and "needed: apt-get install gcc" in out


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc builds the demo")
def test_the_demo(kphw, quick):
    code, out, _ = kphw("run", "--json", "--engine", "pysim")
    result = json.loads(out)
    assert code == 0 and result["same_without_probes"] is True
    kinds = [(hit["symbol"], hit["kind"]) for hit in result["hits"]]
    assert kinds.count(("__blockdev_direct_IO", "kprobe")) == kinds.count(("ip_queue_xmit", "jprobe")) == 6
    assert result["console"] == guestbuild.expected_output("demo", n=guestbuild.PROGRAMS["demo"].n_test)
    assert {"wave", "gtkwave", "report"} <= set(result["files"])


def test_a_guest_without_an_idt_is_told_so(quick, kphw):
    elf = guestbuild.build_text(BARE, suffix=".S", runtime=False)
    code, out, _ = kphw("run", elf, "--probe", "f", "--engine", "pysim")
    assert code == 1
    words = " ".join(out.split())
    assert "triple fault: int3 at" in words
    assert "the guest has no IDT" in words
