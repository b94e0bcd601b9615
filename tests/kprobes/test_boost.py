"""Which instructions are boosted: the kernel's table, held against a second writing of it; and what a boosted slot holds."""

import contextlib

import pytest

from kprobes.boost import MAX_BOOSTED, boosted, can_boost, why_not
from kprobes.insn import MAX_INSN_SIZE, DecodeError, Opcode, decode
from kprobes.step import displaced
from tests.kprobes.fakemachine import TEXT, FakeMachine

#: The list of can_boost as it is published: two-byte opcodes that may be boosted, one-byte opcodes that may not.
TWO_BYTE = """02 03 06 08 09 1F 20-23 31 40-4F 60-6B 6E 6F 74-77 7E 7F 90-9F A0 A1 A3-A5 A8 A9 AB-AD AF B0-B7 BB-BF C0 C1
              C8-CF D1-D3 D5 D8 D9 DB-DD DF E1 E2 E5 E8 E9 EB-ED EF F1-F3 F5 F8-FA FC-FE"""
NOT_ONE_BYTE = "62 70-7F 9A CC-CE D6 D8-DF E0-E3 E8 E9 EB F0-F4"
GROUPS = {0xC0: "012345 7", 0xC1: "012345 7", 0xD0: "012345 7", 0xD1: "012345 7", 0xD2: "012345 7", 0xD3: "012345 7",
          0xF6: "0 234567", 0xF7: "0 234567", 0xFE: "01", 0xFF: "01  4"}


def ranges(text):
    found = set()
    for part in text.split():
        first, _, last = part.partition("-")
        found |= set(range(int(first, 16), int(last or first, 16) + 1))
    return found


def listed(opcode, data):
    """What the published list says about an instruction without prefixes; `data` begins with the opcode."""
    if opcode > 0xFF:
        return opcode & 0xFF in ranges(TWO_BYTE)
    if opcode in GROUPS:
        return str(data[1] >> 3 & 7) in GROUPS[opcode]
    return opcode not in ranges(NOT_ONE_BYTE)


def insn(code, at=TEXT):
    return decode(bytes.fromhex(code.replace(" ", "")) if isinstance(code, str) else code, at)


def forms(opcode):
    """Every ModRM byte of a register and of memory behind an opcode, as far as those are instructions."""
    head = bytes([opcode]) if opcode < 0x100 else bytes([0x0F, opcode & 0xFF])
    for modrm in (*range(0x00, 0x40, 8), *range(0xC0, 0x100)):
        with contextlib.suppress(DecodeError):
            yield insn(head + bytes([modrm]) + b"\1" * 8)


@pytest.mark.parametrize("row", [*range(0, 0x100, 16), *range(0x0F00, 0x1000, 16)], ids="{:02x}".format)
def test_I48_the_table_is_that_of_can_boost(row):
    for opcode in range(row, row + 16):
        for each in forms(opcode):
            if Opcode.parse(each.data).offset or opcode in (0x0F, 0x0F38, 0x0F3A):
                continue  # a prefix or an escape: the opcode is behind it
            expected = listed(opcode, each.data) and each.branch is None and opcode != 0x9D and len(each.data) <= MAX_BOOSTED
            assert can_boost(each, False) is expected, each.text


CASES = [  # scenario, code, whether it is boosted, a word of the reason
    ("I48", "48 87 07", True, ""),                       # xchg %rax,(%rdi)
    ("I48", "0f 31", True, ""),                          # rdtsc
    ("I48", "0f a2", False, "0f a2"),                    # cpuid
    ("I48", "0f 32", False, "0f 32"),                    # rdmsr
    ("I48", "48 0f c7 0f", False, "0f c7"),              # cmpxchg16b
    ("I37", "f0 ff 07", True, ""),                       # lock incl (%rdi)
    ("I49", "67 8b 07", False, "address-size"),          # mov (%edi),%eax
    ("I49", "2e 8b 07", False, "CS prefix"),             # mov %cs:(%rdi),%eax
    ("I49", "67 0f b6 07", True, ""),                    # two-byte opcodes: prefixes are not looked at
    ("I50", "0f 1f 44 00 00", True, ""),                 # the five-byte nop
    ("I50", "f3 0f 1e fa", False, "0f 1e"),              # endbr64
    ("I16", "c3", True, ""), ("I17", "c2 10 00", True, ""), ("I18", "48 cb", True, ""),
    ("I20", "9c", True, ""), ("I23", "9d", False, "may set TF"), ("I30", "48 cf", True, ""), ("I26", "fa", True, ""), ("I27", "fb", True, ""),
    ("I07", "ff e0", True, ""), ("I03", "ff d0", False, "ff /2"), ("I06", "ff 50 08", False, "ff /2"),
    ("I01", "e8 00 01 00 00", False, "relative"), ("I08", "eb 10", False, "relative"),
    ("I09", "74 10", False, "relative"), ("I11", "0f 84 00 01 00 00", False, "relative"),
    ("I12", "e2 fe", False, "relative"), ("I15", "e3 10", False, "relative"),
    ("I38", "f3 a4", True, ""),                          # rep movsb
    ("I44", "66 0f 38 00 05 00 00 00 00", False, "three bytes"),
    ("", "c7 f8 00 01 00 00", False, "relative"),        # xbegin: where it goes when it aborts
    ("", "d1 e0", True, ""), ("", "f7 d8", True, ""), ("", "fe c0", True, ""), ("", "48 ff 30", False, "ff /6"),
    ("", "48 b8 01 02 03 04 05 06 07 08", True, ""),     # 10 bytes fit
    ("", "48 81 84 24 00 01 00 00 01 02 03 04", False, "12 bytes"),
]


@pytest.mark.parametrize(("scenario", "code", "yes", "word"), CASES, ids=[f"{s}-{c}".replace(" ", "") for s, c, *_ in CASES])
def test_I37_I48_I49_I50_by_name(scenario, code, yes, word):
    reason = why_not(insn(code), False)
    assert (reason is None) is yes is can_boost(insn(code), False)
    assert yes or word in reason


def test_an_expected_fault_is_not_boosted():
    assert can_boost(insn("48 8b 07"), False)
    assert not can_boost(insn("48 8b 07"), True)
    assert "exception table" in why_not(insn("48 8b 07"), True)


@pytest.mark.parametrize("size", range(7, MAX_INSN_SIZE + 1))
def test_a_slot_has_room_for_ten_bytes_and_a_jump(size):
    code = b"\x3e" * (size - 7) + bytes.fromhex("488b0d00010000")
    each = insn(code)
    assert len(each.data) == size
    assert can_boost(each, False) is (size <= 10)
    if size <= 10:
        assert len(boosted(each, TEXT + 0x1000, displaced(each, TEXT + 0x1000))) <= MAX_INSN_SIZE


@pytest.mark.parametrize("slot", [TEXT + 0x10000000, TEXT - 0x40000000, 0x1FF])
def test_a_boosted_slot_runs_the_copy_and_comes_back(slot):
    """A RIP-relative load at `slot`: its value, and ip at the next instruction, after two instructions."""
    text = TEXT if slot > TEXT >> 1 else 0x10000
    code = bytes.fromhex("488b05f9ff0f00") if slot > TEXT >> 1 else bytes.fromhex("488b0500010000")
    machine = FakeMachine(text=text)
    target = text + 7 + int.from_bytes(code[3:], "little")
    for place in (text, slot, target):
        machine.memory.map(place, 32)
    machine.memory.store(target, 0x1122334455667788, 8)
    each = insn(code, text)
    machine.write(slot, boosted(each, slot, displaced(each, slot)))
    cpu = machine.cpu[0]
    cpu.regs.ip = slot
    machine.step()
    machine.step()
    assert (cpu.regs.ax, cpu.regs.ip) == (0x1122334455667788, text + 7)
