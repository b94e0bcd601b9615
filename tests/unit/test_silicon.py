"""The native executor on results that are known, and the vectors that the generator makes with it."""

import json

import pytest

from hw.isa.opcodes import TABLE
from tests.silicon import capture, executor, flags
from tests.silicon.generate import grow
from tests.silicon.shrink import shrink
from tests.silicon.table import excluded, rows

CODE, DATA, STACK = 0x10000, 0x40000, 0x7E000
_REASON = executor.available()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=f"no native execution: {_REASON}")


def vector(code: str, insns: int = 1, mem: list | None = None, **regs: int) -> dict:
    initial = {"regs": {"rip": CODE, "rsp": STACK, **regs}, "mem": [[CODE, code.replace(" ", "")], *(mem or [])]}
    return {"name": code, "initial": initial, "insns": insns}


def result(code: str, insns: int = 1, mem: list | None = None, **regs: int) -> executor.Outcome:
    return executor.run([vector(code, insns, mem, **regs)])[0]


KNOWN = [
    ("add rax, rbx", vector("4801d8", rax=1, rbx=2), {"rax": 3, "rip": CODE + 3, "rflags": 6}),
    ("add al, 1", vector("0401", rax=0x1FF), {"rax": 0x100, "rflags": 0x57}),
    ("shl cl=0", vector("d3e0", rax=1 << 32 | 5, rflags=0x8D7), {"rax": 5, "rflags": 0x8D7}),
    ("div rcx", vector("48f7f1", rax=100, rcx=7), {"rax": 14, "rdx": 2}),
    ("mov ah, bh", vector("88fc", rax=0x11, rbx=0x2200), {"rax": 0x2211}),
    ("two", vector("ffc0ffc0", 2, rax=0xFFFFFFFF), {"rax": 1, "rip": CODE + 4}),
    ("jmp self", vector("ebfe", 3), {"rip": CODE}),
    ("fs", vector("648b04250000 0000", mem=[[DATA, "78563412"]], fs_base=DATA), {"rax": 0x12345678}),
    ("lahf", vector("9f", rflags=0x8D7), {"rax": 0xD700}),
    ("std", vector("fd"), {"rflags": 0x402}),
]


@pytest.mark.parametrize(("case", "expected"), [k[1:] for k in KNOWN], ids=[k[0] for k in KNOWN])
def test_known_results(case, expected):
    outcome = executor.run([case])[0]
    assert outcome.trap is None
    assert {name: outcome.regs[name] for name in expected} == expected


def test_a_repeated_string_instruction_counts_as_one():
    outcome = result("f3a4 90", 2, [[DATA, "0102030405"]], rcx=5, rsi=DATA, rdi=DATA + 100)
    assert outcome.steps == 2
    assert outcome.changed == [(DATA + 100, b"\1\2\3\4\5")]
    assert (outcome.regs["rcx"], outcome.regs["rdi"], outcome.regs["rip"]) == (0, DATA + 105, CODE + 3)


def test_pushf_shows_neither_the_step_nor_the_user_mode_interrupt_flag():
    outcome = result("9c58", 2, rflags=0x8D7)
    assert outcome.regs["rax"] == 0x8D7


NON_CANONICAL = 0x8000_1234_5678_9000
UNMAPPED = 0x1234_5678_9000
TRAPS = [
    ("int3", vector("cc"), (3, None, CODE + 1, 0)),
    ("66 int3", vector("66cc"), (3, None, CODE + 2, 0)),
    ("ud2", vector("0f0b"), (6, None, CODE, 0)),
    ("lock reg", vector("f001d8"), (6, None, CODE, 0)),
    ("div 0", vector("f7f1"), (0, None, CODE, 0)),
    ("second faults", vector("90f7f1", 2), (0, None, CODE + 1, 0)),
    ("16 bytes", vector("66" * 15 + "90"), (13, 0, CODE, 0)),
    ("gp", vector("488b03", rbx=NON_CANONICAL), (13, 0, CODE, 0)),
    ("ss", vector("488b4500", rbp=NON_CANONICAL), (12, 0, CODE, 0)),
    ("pf read", vector("488b03", rbx=UNMAPPED), (14, 0, CODE, UNMAPPED)),
    ("pf write", vector("488903", rbx=UNMAPPED), (14, 2, CODE, UNMAPPED)),
    ("pf high half", vector("488903", rbx=0xFFFF_9000_0000_0008), (14, 2, CODE, 0xFFFF_9000_0000_0008)),
]


@pytest.mark.parametrize(("case", "expected"), [t[1:] for t in TRAPS], ids=[t[0] for t in TRAPS])
def test_traps(case, expected):
    outcome = executor.run([case])[0]
    assert outcome.trap is not None
    assert (outcome.trap.vector, outcome.trap.error, outcome.regs["rip"], outcome.trap.cr2) == expected
    assert outcome.faithful


def test_what_a_model_would_see_differently_is_not_faithful():
    assert not result("488b03", rbx=0x200000).faithful  # RAM in a model, unmapped here
    assert not result("0f05").faithful  # a system call is never executed
    assert not result("cd80").faithful


def test_generation_is_deterministic_and_verifies():
    once, again = (list(capture.capture(120, 7, 4)) for _ in range(2))
    assert once == again
    assert json.loads(json.dumps(once)) == once
    assert capture.verify(once) == []
    broken = json.loads(json.dumps(once[:1]))
    broken[0]["final"]["regs"]["rip"] += 1
    assert capture.verify(broken) == [broken[0]["name"]]


def test_vectors_do_not_depend_on_their_neighbours():
    (alone,) = grow(3, [17], 4)
    among = next(snippet for snippet in grow(3, range(10, 20), 4) if snippet.number == 17)
    assert alone.vector("x") == among.vector("x")


@pytest.fixture(scope="module")
def singles():
    return list(grow(11, range(3000), 1))


def test_the_disassembler_agrees_on_every_length(singles):
    for snippet in singles:
        capture.disassemble(snippet.pieces[0])


def test_every_row_is_generated_or_excluded(singles):
    seen = {str(piece.row) for snippet in [*singles, *grow(12, range(4000), 4)] for piece in snippet.pieces}
    assert sorted(str(row) for row in rows() if str(row) not in seen) == []
    assert all(excluded(row) for row in TABLE if row not in rows())


def test_the_table_names_every_flag_that_silicon_changes(singles):
    bits = {"c": flags.CF, "p": flags.PF, "a": flags.AF, "z": flags.ZF, "s": flags.SF, "o": flags.OF}
    wrong = set()
    for snippet in singles:
        row = snippet.pieces[0].row
        if row is None or snippet.outcome.trap:
            continue
        changed = (snippet.outcome.regs["rflags"] ^ snippet.state.first["rflags"]) & flags.ALL
        said = sum(bits[letter] for letter in {*row.written, *row.undefined})
        if row.mnemonic != "popf" and changed & ~said:
            wrong.add(str(row))
    assert not wrong


def test_a_fault_leaves_flags_and_registers_alone(singles):
    faults = [s for s in singles if s.outcome.trap and s.outcome.trap.vector in (0, 6, 12, 13)]
    assert faults
    assert all(snippet.outcome.regs == snippet.state.first for snippet in faults)


def test_shrink_drops_what_does_not_matter():
    snippets = grow(5, range(400), 6)
    vectors = [snippet.vector("x") for snippet in snippets]
    found = next(v for v in vectors if v["insns"] > 2 and v["final"]["mem"] and not v["final"]["trap"])

    def writes(candidate: dict) -> bool:
        return bool(candidate["final"]["mem"])

    small = shrink(found, writes)
    assert writes(small)
    assert small["insns"] == 1
    assert len([v for v in small["initial"]["regs"].values() if v]) < len(found["initial"]["regs"])


def test_command_line(tmp_path, capsys):
    file = tmp_path / "vectors.json"
    assert capture.main(["--count", "40", "--seed", "3", "--rows", "add,shl", "--no-traps", "-o", str(file)]) == 0
    assert "--count 40 --seed 3 --max-insns 4 --rows add,shl --no-traps" in capsys.readouterr().out
    vectors = json.loads(file.read_text())
    assert len(vectors) == 40
    assert {name for v in vectors for name in v["name"].split("-")[0].split("+")} == {"add", "shl"}
    assert capture.main(["--verify", str(file)]) == 0
    assert capsys.readouterr().out.endswith("40 passed, 0 failed\n")
    assert capture.main(["--rows", "cpuid", "-o", str(file)]) == 2
    assert "describes the host" in capsys.readouterr().err
