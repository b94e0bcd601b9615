"""kphw explain and kphw list: what they print, as text and as JSON, and their exit codes."""

import json
import re
import sys

import pytest

import sim.cli.explain
from sim.__main__ import main
from sim.guestbuild import build_text

GUEST = r"""
#include "guest.h"
volatile long sum;
noinline void work(long n) { sum += n; }
__asm__(".globl odd\n.type odd, @function\nodd:\n mov %rdi, %rax\n ud2\n ret\n.size odd, .-odd\n");
int main(void) { for (int i = 0; i < 3; i++) work(i); return 0; }
"""


@pytest.fixture
def kphw(capsys, machine_on, lend, engine_name, monkeypatch):
    """Runs a command on an engine of the pool; returns the exit code, what it printed, and the error output."""
    monkeypatch.setattr(sim.cli.explain, "open_engine", lambda name: lend(engine_name))
    monkeypatch.setattr(sys, "argv", ["kphw"])

    def call(*words):
        extra = ["--engine", engine_name]
        code = main([*map(str, words), *extra])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture(scope="module")
def guest():
    return build_text(GUEST, name="work")


def test_explain_shows_the_code_the_way_and_the_reasons(kphw, guest):
    code, out, _ = kphw("explain", guest, "work", "--no-cost", "--step", "int3", "--boost")
    assert code == 0 and "one trap, then the copy jumps back" in out
    assert re.search(r"^   work\+0x0:  .*\n +\^~+ boosted$", out, re.MULTILINE)
    assert re.search(r"^ boosted <- ", out, re.MULTILINE) and re.search(r"^ emulated +not: ", out, re.MULTILINE)
    assert "cycles" not in out


def test_explain_with_costs(kphw, guest, engine_name):
    if engine_name == "pysim":
        pytest.skip("measuring takes a minute on this engine")
    code, out, _ = kphw("explain", guest, "work", "--json")
    cycles = json.loads(out)[0]["cycles"]
    assert code == 0 and set(cycles) == {"tf", "int3", "emulated", "boosted", "optimised", "fentry"}
    assert cycles["optimised"] < cycles["boosted"] < cycles["int3"] and cycles["boosted"] < cycles["tf"]


def test_explain_says_what_is_refused_and_by_which_rule(kphw, guest):
    code, out, _ = kphw("explain", guest, "odd+3", "nobody", "odd+1", "--no-cost")
    assert code == 1
    assert "rule: boundary" in out and "rule: address" in out and "^~~~~ not probed" in out
    assert "nearest boundaries: +0x0, +0x3" in out
    code, out, _ = kphw("explain", guest, "odd+3", "--no-cost", "--json")
    assert code == 1 and json.loads(out)[0]["refusal"]["errno"] == "EILSEQ"


def test_explain_wants_a_place(kphw, guest):
    code, _, err = kphw("explain", guest, "a+b+c", "--no-cost")
    assert code == 2 and "no place to probe" in err


def test_list_as_the_kernel_prints_it(kphw, guest):
    code, out, err = kphw("list", guest, "--probe", "work", "--jprobe", "work", "--kretprobe", "main")
    assert (code, err) == (0, "")
    assert sorted(re.sub(r"^[0-9a-f]{16}", "", line) for line in out.splitlines()) == [
        "  j  work+0x0    ", "  k  work+0x0    ", "  r  main+0x0    "]


def test_list_after_a_run(kphw, guest):
    code, out, err = kphw("list", guest, "--probe", "work", "--run", "--json", "--kretprobe", "work")
    data = json.loads(out)
    assert code == 0 and [(p["kind"], p["hits"]) for p in data["probes"]] == [("r", 3), ("k", 3)]
    assert err.count("kretprobe work: ") == 3


def test_list_of_what_must_not_be_probed(kphw, guest):
    code, out, _ = kphw("list", guest, "--blacklist")
    assert code == 0 and re.match(r"0x[0-9a-f]{16}-0x[0-9a-f]{16}\ttrap_stub_0\n", out)


def test_list_of_a_refused_probe(kphw, guest):
    code, _, err = kphw("list", guest, "--kretprobe", "work+1")
    assert code == 2 and "is not the entry of 'work'" in err and err.endswith("rule: entry\n")


def test_without_an_executable_it_is_the_demo(kphw):
    code, out, _ = kphw("explain", "__blockdev_direct_IO+2", "--no-cost")
    assert code == 0 and "__blockdev_direct_IO+0x2 (0x" in out
    code, out, _ = kphw("list")
    assert code == 0 and [line.split()[1:3] for line in out.splitlines()] == [
        ["k", "__blockdev_direct_IO+0x0"], ["j", "ip_queue_xmit+0x0"]]


def test_an_executable_alone_is_no_place(kphw, guest):
    code, _, err = kphw("explain", guest)
    assert code == 2 and "where in" in err
