"""The sweep over code that is written here: what counts, what does not, and what is missing."""

import pytest

from sim.elf import RawSymbol, Segment
from sim.kernel.classify import Classifier
from sim.kernel.image import KernelImage, Section
from sim.kernel.sweep import Decoder, sweep

BASE = 0xFFFFFFFF81000000


def image(*pieces, name=".text"):
    """An image of functions, each its name and its bytes."""
    symbols, data = [], b""
    for function, code in pieces:
        symbols.append(RawSymbol(function, BASE + len(data)))
        data += bytes.fromhex(code)
    return KernelImage("made-up", [Segment(BASE, data, len(data), 5)], b"", [Section(name, BASE, data)], symbols, "here")


def counts(*pieces):
    code, replacements = sweep(image(*pieces))
    assert not replacements.total
    return code


def test_instructions_are_counted_by_their_rows():
    code = counts(("f", "55 4889e5 81c078563412 5d c3"), ("g", "b801000000 c3"))
    assert (code.supported, code.total, code.share, code.functions) == (7, 7, 1.0, 2)
    assert sum(code.rows.values()) == 7 and not code.missing and not code.vector and not code.bad


def test_what_fills_up_is_not_counted():
    assert counts(("f", "c3 cccccc 660f1f440000 90"), ("g", "90 c3 000000")).total == 3


def test_vector_code_is_counted_apart():
    code = counts(("f", "660fefc0 f30f6f07 c5f9efc1 62f1fd48efc0 dbe3 0fae07 0fc307 0faef0 c3"))
    assert set(code.vector) >= {"pxor (0F EF)", "movdqu (F3 0F 6F)", "vpxor (VEX 0F EF)", "fxsave (0F AE /0)"}
    assert sum(code.vector.values()) == 6
    assert code.total == 3  # movnti, mfence and ret are integer instructions


def test_a_symbol_inside_an_instruction_is_no_instruction():
    code = counts(("f", "90 b8010203"), ("g", "04 c3"))
    assert code.bad == [BASE + 1]
    assert (code.supported, code.total) == (2, 3)


def test_what_is_no_code_is_left_out():
    assert counts(("f", "c3"), ("x86_verw_sel", "1000"), ("g", "c3")).total == 2


def test_replacements_are_counted_apart():
    code, replacements = sweep(image(("r", "0fa2 c3"), name=".altinstr_replacement"))
    assert (code.total, replacements.total) == (0, 2)


def test_what_is_missing_has_a_name():
    """An opcode that no table will have: SSE4a, of class C, and a VIA instruction, which is not."""
    code = counts(("f", "0fa7c0 c3"))
    assert code.total == 2 and code.supported == 1
    (name,) = code.missing
    assert "0F A7" in name


def test_what_is_remembered_depends_on_every_byte_that_decides():
    """ModRM and SIB change the length, and the same first bytes may belong to instructions of different lengths."""
    decoder = Decoder()
    lengths = {"8b00": 2, "8b4010": 3, "8b8010000000": 6, "8b0425": 7, "8b0424": 3, "8b442410": 4, "488b842410000000": 8}
    for _ in range(2):
        for code, length in lengths.items():
            assert decoder.kind(bytes.fromhex(code).ljust(15, b"\0"), 0).length == length, code
    assert decoder.kind(bytes.fromhex("66b83412"), 0).length == 4
    assert decoder.kind(bytes.fromhex("48b8") + bytes(8), 0).length == 10


@pytest.mark.parametrize(
    ("code", "name", "vector"),
    [
        ("0f01e8", "serialize", False),
        ("f30f01d9", "vmgexit", False),
        ("660f01cc", "tdcall", False),
        ("f20f00f7", "lkgs", False),
        ("c4e27849c0", "tilerelease", True),
        ("0fae38", "clflush", False),
        ("0fae20", "xsave", True),
        ("480fc728", "xsaves64", False),
        ("f20f38f1c0", "crc32", False),
        ("660f38dcc1", "aesenc", True),
        ("0f0d08", "prefetchw", False),
    ],
)
def test_the_second_opinion_names_and_classifies(code, name, vector):
    opinion = Classifier().opinion(bytes.fromhex(code))
    assert (opinion.length, opinion.mnemonic, opinion.vector) == (len(code) // 2, name, vector)
