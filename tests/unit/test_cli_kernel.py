"""The command `kernel`, and `table --coverage` of an image: what they print, and their messages. Nothing is fetched here."""

import json

import pytest

from sim.__main__ import main
from sim.guestbuild import build_program
from sim.kernel import fetch
from sim.kernel.cases import TOPICS


def test_the_table_of_functions(capsys):
    assert main(["kernel", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == list(TOPICS)
    assert sum(map(len, listed.values())) > 200
    assert [name for functions in listed.values() for name, count in functions.items() if count < 2] == []
    assert main(["kernel", "--list"]) == 0
    assert "strlen (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--function", "strlne"], "there is no case for 'strlne'; did you mean 'strlen'"),
        (["--image", "/nowhere/vmlinuz"], "/nowhere/vmlinuz cannot be read (No such file or directory)"),
        (["--engine", "verilator"], "there is no engine 'verilator'"),
    ],
)
def test_bad_requests(words, message, capsys):
    assert main(["kernel", *words]) == 2
    out, err = capsys.readouterr()
    assert not out and message.split("; did")[0] in err
    assert err.count("\n") == 1


def test_without_a_kernel_there_is_one_message(capsys, monkeypatch):
    def nothing(*_arguments, **_options):
        raise fetch.FetchError("apt offers no linux-image package: check the network")

    monkeypatch.setattr(fetch, "fetch", nothing)
    assert main(["kernel"]) == 2
    assert capsys.readouterr().err.endswith("kernel: apt offers no linux-image package: check the network\n")


def test_coverage_of_an_image(capsys):
    """Any ELF image with symbols will do: a guest of ours."""
    guest = build_program("crc")
    assert main(["table", "--coverage", str(guest), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["share"] == 1.0 and answer["instructions"] == answer["supported"] > 300
    assert answer["missing"] == {} and answer["vector"] == {}
    assert sum(row["occurs"] for row in answer["rows"]) == answer["supported"]
    assert main(["table", "--coverage", str(guest)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("integer and system instructions (100.0000 %)")


def test_coverage_of_a_damaged_image(tmp_path, capsys):
    path = tmp_path / "vmlinux"
    path.write_bytes(b"\x7fELF and nothing else")
    assert main(["table", "--coverage", str(path)]) == 2
    assert "damaged" in capsys.readouterr().err
