"""Which code a jump may cover (scenarios P03 to P10, P26), by the region or by the words against it."""

import errno

import pytest

from kprobes.region import MAX_REGION, Obstacle, Region, Regions
from kprobes.text import Text
from tests.kprobes.fakemachine import FakeMachine

PADDED = "nop\n" * 12


def regions(source, *, fixups=(), forbidden=()):
    m = FakeMachine(source)
    m.fixup = {m[name]: m[name] for name in fixups}.get
    text = Text(m)
    return m, text, Regions(m, text, [(m[start], m[end], why) for start, end, why in forbidden])


def find(body, at="at", more="", **options):
    m, _, r = regions(f"func f\n{body}\nret\nendf f\n{more}", **options)
    return m, r.find(m[at], m.symbols.containing(m[at]))


def refused(body, code, words, **options):
    _, found = find(body, **options)
    assert isinstance(found, Obstacle), found
    assert found.code == code and words in found.reason, found
    return found


def test_P01_one_long_instruction_is_enough():
    m, region = find("at: mov eax, 0x12345678\n" + PADDED)
    assert isinstance(region, Region)
    assert (region.addr, region.size, [i.text for i in region.insns]) == (m["at"], 5, ["mov eax, 0x12345678"])


def test_P03_whole_instructions_are_covered():
    m, region = find("at: xor eax, eax\nxor ecx, ecx\nadd rax, rdi\n" + PADDED)
    assert isinstance(region, Region)
    assert (region.size, region.end) == (7, m["at"] + 7)
    assert [len(i.data) for i in region.insns] == [2, 2, 3] and [i.addr - m["at"] for i in region.insns] == [0, 2, 4]


def test_P03_the_largest_region():
    _, region = find("at: .byte 0x0f, 0x1f, 0x40, 0x00\n.byte " + "0x66, " * 7 + "0x0f, 0x1f, 0x84, 0, 0, 2, 0, 0\n")
    assert isinstance(region, Region) and region.size == MAX_REGION == 19


@pytest.mark.parametrize("jump", ["je", "jmp", "jrcxz", "loop", "xbegin"])
@pytest.mark.parametrize("offset", range(-1, 8))
def test_P04_P05_P06_jumps_into_the_region(jump, offset):
    body = f"nop\nat:\n{'nop;' * 10}\n{jump} at + {offset}\n{PADDED}"
    _, found = find(body)
    if 1 <= offset <= 5:
        assert isinstance(found, Obstacle) and found.code == errno.EINVAL
        assert found.reason.startswith("the jump at f+0xb goes to f+") and "at f+0x1" in found.reason
    else:
        assert isinstance(found, Region) and found.size == 5


def test_calls_into_the_region_do_not_count():
    _, found = find(f"at:\n{PADDED}\ncall at + 2\n")
    assert isinstance(found, Region)


def test_jumps_from_the_part_that_was_moved_away_count():
    cold = "func f.cold\nnop\njmp at + {}\nendf f.cold\nfunc g\njmp at + 2\nret\nendf g"
    refused(f"at:\n{PADDED}", errno.EINVAL, "the jump at f.cold+0x1 goes to f+0x3", more=cold.format(3))
    _, found = find(f"at:\n{PADDED}", more=cold.format(6))
    assert isinstance(found, Region), "another function's jump is not looked for"
    back = "func f.cold\nat: nop; nop; nop; nop; nop; nop\nendf f.cold"
    refused("je at + 1\n", errno.EINVAL, "the jump at f+0x0 goes to f.cold+0x1", more=back)


@pytest.mark.parametrize("jump", [
    "jmp rax", "jmp [rax*8 + 0x1000]", "jmp [rip]", "notrack jmp rax", ".byte 0x48, 0xff, 0x28", "jmp r11",
    "iretq", ".byte 0x48, 0xcb", ".byte 0x48, 0xca, 0x08, 0x00"])
def test_P07_an_indirect_jump_anywhere_in_the_function(jump):
    found = refused(f"at:\n{PADDED}\n{jump}\n", errno.EINVAL, "may jump to any instruction of 'f'")
    assert "at f+0xc" in found.reason


def test_P08_F09_an_exception_table_entry_anywhere_in_the_function():
    refused(f"at:\n{PADDED}\nload: mov rax, [rdi]\n", errno.EINVAL,
            "'mov rax, qword ptr [rdi]' at f+0xc has an exception-table entry", fixups=["load"])


@pytest.mark.parametrize(("insn", "words"), [
    ("call f", "'call 0xffffffff80100000' at f+0x2"), ("je 1f", "'je "), ("jmp 1f", "'jmp "), ("cpuid", "'cpuid"),
    ("hlt", "hlt would be"), ("rdmsr", "0f 32"), (".byte 0x67, 0x8b, 0x00", "address-size"), ("syscall", "control does not"),
    ("int3", "holds an int3"), ("ud2", "an undefined instruction"), ("mov ss, eax", "mov to ss"), ("popfq", "it may set TF"), ("pshufb xmm0, xmm1", "three bytes"),
])
def test_P09_instructions_that_must_stay_where_they_are(insn, words):
    found = refused(f"at: xor eax, eax\n{insn}\n{PADDED}\n1: nop\n", errno.EILSEQ if insn == "int3" else errno.EINVAL, words)
    assert insn == "int3" or "at f+0x2" in found.reason


@pytest.mark.parametrize(("nops", "fits"), [(3, False), (4, True), (5, True)])
def test_P10_R41_room_to_the_end_of_the_function(nops, fits):
    _, found = find(f"at: {'nop;' * nops}", more="func g\n" + PADDED + "ret\nendf g")
    assert isinstance(found, Region) is fits
    assert fits or (found.code, found.reason) == (errno.EINVAL, "only 4 bytes are left in 'f', and a jump has 5")


def test_a_ret_may_be_covered():
    _, found = find("at: pop rbp\nret\nnop\nnop")
    assert isinstance(found, Region) and [i.text for i in found.insns] == ["pop rbp", "ret", "nop", "nop", "ret"]


def test_a_long_instruction_need_not_leave_room_for_a_boosters_jump():
    _, found = find("at: mov qword ptr [rip + 0x1000], 0x12345678\n")
    assert isinstance(found, Region) and found.size == 11


def test_undecodable_code_anywhere_in_the_function():
    refused(f"at:\n{PADDED}\n.byte 0x06\n", errno.EILSEQ, "f+0xc cannot be decoded")


def test_padding_is_no_foreign_breakpoint():
    _, found = find(f"at:\n{PADDED}\njmp 1f\nint3\nint3\n1: nop\n")
    assert isinstance(found, Region)
    refused(f"at:\n{PADDED}\nint3\n", errno.EILSEQ, "f+0xc holds an int3 that is not a probe's")


def test_ranges_that_must_not_be_covered():
    body = f"at: xor eax, eax\nsite: {PADDED}"
    refused(body, errno.EBUSY, "a jump would cover f+0x2: it is patched", forbidden=[("site", "f", ""), ("site", "end", "it is patched")],
            more="end: nop")
    _, found = find(body + "\nlater: nop", forbidden=[("later", "end", "it is patched"), ("f", "at", "empty")], more="end: nop")
    assert isinstance(found, Region)


def test_P26_our_own_changes_are_not_seen():
    m, text, r = regions(f"func f\n{PADDED}\nat: xor eax, eax\n{PADDED}ret\nendf f")
    f = m.symbols.containing(m["f"])
    before = r.find(m["at"], f)
    text.write(m["f"], b"\xcc")
    text.write(m["at"], b"\xe9\1\2\3\4")
    assert r.find(m["at"], f) == before and r.find(m["f"] + 4, f) == r.find(m["f"] + 4, f)
    assert [i.text for i in r.find(m["at"], f).insns] == ["xor eax, eax", "nop", "nop", "nop"]
    m.write(m["at"] - 1, b"\x06")
    assert isinstance(r.find(m["at"], f), Obstacle), "others' changes are"


def test_a_function_is_read_once():
    m, _, r = regions(f"func f\n{'nop;' * 400}\nret\nendf f")
    asked = []
    m.fixup = lambda addr: asked.append(addr)
    f = m.symbols.containing(m["f"])
    assert all(isinstance(r.find(m["f"] + i, f), Region) for i in range(397))
    assert len(asked) == 401
