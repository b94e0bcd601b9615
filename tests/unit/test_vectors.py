"""The runner of architectural vectors: what it accepts, what it refuses and how, and that it finds what is wrong."""

import copy
import json

import pytest

from hw.config import Config
from sim import vectors
from sim.engine import DesignError
from sim.vectorfile import VectorsError, load, parse

ADD = {
    "name": "add-0001",
    "initial": {"regs": {"rip": 4096, "rsp": 65536, "rflags": 2, "rax": 1, "rbx": 2}, "mem": [[4096, "4801d8"]]},
    "insns": 1,
    "final": {"regs": {"rip": 4099, "rflags": 6, "rax": 3}, "mem": [], "trap": None},
    "undefined_flags": 0,
}
PUSH = {
    "name": "push",
    "initial": {"regs": {"rip": 4096, "rsp": 65536, "rax": 0x1122}, "mem": [[4096, "50"]]},
    "insns": 1,
    "final": {"regs": {"rip": 4097, "rsp": 65528}, "mem": [[65528, "2211000000000000"]], "trap": None},
}
UD2 = {
    "name": "ud2 after a nop",
    "initial": {"regs": {"rip": 4096}, "mem": [[4096, "900f0b"]]},
    "insns": 2,
    "final": {"regs": {"rip": 4097}, "mem": [], "trap": {"vector": 6, "error": None, "rip": 4097}},
}
PAGE_FAULT = {
    "name": "load from nowhere",
    "initial": {"regs": {"rip": 4096, "rbx": 0x7000_0000_0000}, "mem": [[4096, "488b03"]]},
    "insns": 1,
    "final": {"regs": {"rip": 4096}, "trap": {"vector": 14, "error": 0, "rip": 4096}},
}
REP = {
    "name": "rep stosb counts as one",
    "initial": {"regs": {"rip": 4096, "rdi": 8192, "rcx": 5, "rax": 0xAA}, "mem": [[4096, "f3aa90"]]},
    "insns": 2,
    "final": {"regs": {"rip": 4099, "rdi": 8197, "rcx": 0}, "mem": [[8192, "aaaaaaaaaa"]]},
}
HIGH = {
    "name": "the high alias is the same RAM",
    "initial": {"regs": {"rip": 0xFFFFFFFF80001000, "fs_base": 0x2000},
                "mem": [[4096, "64488b042510000000"], [0x2010, "07"]]},
    "insns": 1,
    "final": {"regs": {"rip": 0xFFFFFFFF80001009, "rax": 7}, "mem": [[0x2010, "07"]]},
}  # fmt: skip
INT3 = {
    "name": "int3 saves the rip behind it",
    "initial": {"regs": {"rip": 4096}, "mem": [[4096, "cc"]]},
    "insns": 1,
    "final": {"regs": {"rip": 4097}, "trap": {"vector": 3, "error": None, "rip": 4097}},
}
GOOD = [ADD, PUSH, UD2, PAGE_FAULT, REP, HIGH, INT3, ADD]


def changed(vector: dict, path: str, value: object) -> dict:
    """A copy of a vector with another value at a path such as "final.regs.rax"; ... takes the key away."""
    vector = copy.deepcopy(vector)
    place, *keys = vector, *path.split(".")
    for key in keys[:-1]:
        place = place[int(key) if isinstance(place, list) else key]
    key = int(keys[-1]) if isinstance(place, list) else keys[-1]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return vector


@pytest.fixture
def lines(engine_pool):
    runner = vectors.Runner(engine_pool.borrow("pysim", config=Config(ram_bytes=vectors.RAM_BYTES)))
    return lambda *items: [o.line() for o in runner.run(parse(list(items))) if o.differences]


def test_good_vectors_pass_in_any_order_on_one_engine(lines):
    assert lines(*GOOD) == []
    assert lines(*reversed(GOOD)) == []


@pytest.mark.parametrize(
    ("vector", "what"),
    [
        (changed(ADD, "final.regs.rax", 4), "rax is 0x3, expected 0x4"),
        (changed(ADD, "final.regs.rax", ...), "rax is 0x3, expected 0x1"),
        (changed(ADD, "final.regs.rflags", 7), "rflags is 0x6, expected 0x7 (CF is 0)"),
        (changed(ADD, "final.mem", [[4096, "4801d9"]]), "byte at 0x1002 is 0xd8, expected 0xd9"),
        (changed(PUSH, "final.mem", []), "byte at 0xfff8 is stored to by rip 0x1000, and is not in the vector"),
        (changed(PUSH, "final.mem.0.1", "2211000000000001"), "byte at 0xffff is 0x00, expected 0x01"),
        (changed(UD2, "final.trap", None), "trap 6 (#UD) at rip 0x1001, expected none"),
        (changed(UD2, "final.trap.rip", 4096), "rip of the trap is 0x1001, expected 0x1000"),
        (changed(ADD, "final.trap", {"vector": 13, "error": 0}), "no trap, expected trap 13 (#GP) with error code 0x0"),
        (changed(PAGE_FAULT, "final.trap.error", 2), "trap 14 (#PF) with error code 0x0 at rip 0x1000, expected trap 14"),
        (changed(PAGE_FAULT, "final.regs.cr2", 5), "cr2 is 0x"),
    ],
)  # fmt: skip
def test_a_difference_is_named(lines, vector, what):
    (line,) = lines(vector)
    assert line.startswith(vector["name"] + ": " + what)
    assert "\n" not in line


def test_undefined_flags_are_not_compared(lines):
    assert lines(changed(changed(ADD, "final.regs.rflags", 2), "undefined_flags", 4)) == []


def test_a_failure_does_not_spoil_what_follows(lines):
    bad = changed(ADD, "final.regs.rax", 4)
    assert len(lines(bad, *GOOD, bad, *GOOD)) == 2


def test_a_snippet_that_never_ends_is_a_failure(lines, monkeypatch):
    hang = changed(changed(ADD, "initial.mem.0.1", "f390ebfc"), "insns", 1_000_000)
    monkeypatch.setattr(vectors, "PATIENCE", 300)
    monkeypatch.setattr(vectors, "PATIENCE_PER_INSN", 0)
    (line,) = lines(hang)
    assert line.startswith("add-0001: does not end")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("name", 5, "vector 0: name is a number"),
        ("initial", ..., "the key 'initial' is missing"),
        ("insns", ..., "the key 'insns' is missing"),
        ("insns", 0, "insns is 0, and a vector runs 1 instruction or more"),
        ("insns", "1", "insns is text"),
        ("insns", True, "insns is a truth value"),
        ("insns", -1, "insns is -1"),
        ("final", [], "final is a list"),
        ("initial.regs", [], "initial.regs is a list"),
        ("initial.regs.raxx", 1, "there is no register 'raxx'; did you mean rax"),
        ("initial.regs.rax", -1, "initial.regs.rax is -1, and has to be an unsigned number of 64 bits"),
        ("initial.regs.rax", 1 << 64, "has to be an unsigned number of 64 bits"),
        ("initial.regs.rax", 1.5, "initial.regs.rax is a fraction"),
        ("final.regs.RAX", 1, "there is no register 'RAX'; did you mean rax"),
        ("initial.mem", {}, "initial.mem is an object"),
        ("initial.mem.0", [4096], "initial.mem[0] has to be [address, hexadecimal text]"),
        ("initial.mem.0.1", "480", "initial.mem[0]: '480' has an odd number of hexadecimal digits"),
        ("initial.mem.0.1", "zz", "'zz' is not hexadecimal"),
        ("initial.mem.0.1", "48 01 d8", "is not hexadecimal without blanks"),
        ("initial.mem.0.1", 72, "the bytes are a number"),
        ("initial.mem.0.0", (16 << 20) - 1, "3 bytes at 0xffffff are out of RAM"),
        ("initial.mem.0.0", 1 << 40, "out of RAM"),
        ("final.trap", 6, "final.trap is a number"),
        ("final.trap", {"error": 0}, "the key 'vector' is missing"),
        ("final.trap", {"vector": 256}, "final.trap.vector is 256, and has to be an unsigned number of 8 bits"),
        ("undefined_flags", "x", "undefined_flags is text"),
    ],
)
def test_what_is_malformed_is_named(path, value, says):
    with pytest.raises(VectorsError) as caught:
        parse([changed(ADD, path, value)])
    assert says in str(caught.value)
    assert str(caught.value).startswith("vector 0")


def test_a_mistyped_key_is_not_overlooked():
    vector = changed(ADD, "undefined_flags", ...)
    with pytest.raises(VectorsError, match="no key 'undefined_flag'; did you mean 'undefined_flags'"):
        parse([{**vector, "undefined_flag": 4}])
    assert len(parse([{**vector, "comment": "other keys are let be"}])) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON (line 1"), ("{}", "a file of vectors is a list, not an object"), ("[1]", "vector 0 is a number"),
     ("\x00\xff", "is not JSON"), ("[" * 100_000, "is not JSON")],
)  # fmt: skip
def test_a_file_that_is_none(tmp_path, text, says):
    file = tmp_path / "v.json"
    file.write_text(text)
    with pytest.raises(VectorsError) as caught:
        load(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_missing_or_a_directory(tmp_path):
    with pytest.raises(VectorsError, match="does not exist"):
        load(tmp_path / "v.json")
    with pytest.raises(VectorsError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "ok.json").write_text(json.dumps(GOOD))
    assert len(load(tmp_path / "ok.json")) == len(GOOD)


def test_an_invariant_of_the_hardware_that_fails_is_a_difference(engine_pool):
    class Fails:
        def __init__(self, engine):
            self._engine, self.runs = engine, 0

        def __getattr__(self, name):
            return getattr(self._engine, name)

        def run(self, max_cycles, stop):
            self.runs += 1
            if self.runs == 2:
                raise DesignError("pysim", self._engine.cycle, "h0.w", "retire.one: {} uops", (2,))
            return self._engine.run(max_cycles, stop)

    runner = vectors.Runner(Fails(engine_pool.borrow("pysim", config=Config(ram_bytes=vectors.RAM_BYTES))))
    good, bad, after = runner.run(parse([ADD, PUSH, ADD]))
    assert not good.differences and not after.differences
    assert bad.alone and "invariant retire.one of hart 0" in bad.differences[0]


def test_the_clock_is_not_compared(engine_pool):
    """The time stamp counter runs on, whatever a vector does."""
    runner = vectors.Runner(engine_pool.borrow("pysim"))
    assert [outcome.differences for outcome in runner.run(parse([ADD, ADD]))] == [[], []]
