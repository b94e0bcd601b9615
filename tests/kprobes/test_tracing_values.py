"""Fetch arguments: what each expression reads and how each type is printed (scenarios E04, E07 to E10)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprobes import ProbeEvents
from kprobes.tracing.source import Source, Word
from kprobes.tracing.types import TYPES, parse_type
from tests.kprobes.fakemachine import DATA, HOME, STACK, FakeMachine

SOURCE = """
func f
    mov eax, 1
    ret
endf f
.data
text: .asciz "test"
.byte 0xee
number: .quad 0x8899aabbccddeeff
pointers: .quad text, 0, second
second: .asciz "two"
.balign 8
chain: .quad chain + 8, 16, 0x1234
.fill 1200, 4, 0x41424344
"""


@pytest.fixture
def m():
    return FakeMachine(SOURCE)


@pytest.fixture
def trace(m):
    """Calls f with arguments, and returns what the fetch argument of an event on it has printed."""

    def values(argument, *args, place="f"):
        events = ProbeEvents(m.kprobes, m, "guest")
        events.write(f"p:e {place} v={argument}")
        events.enable()
        m.call("f", *args)
        events.disable()
        events.clear()
        (record,) = events.records
        return events.format.body(record).partition(" v=")[2]

    return values


def test_E04_registers_and_memory(m, events):
    events.write("p:e f %di x=+8(%si):u32")
    events.enable("e")
    m.call("f", 0x123, m["chain"])
    (record,) = events.records
    assert events.format.body(record) == "e: (f+0x0/0x6) arg1=0x123 x=16"
    assert record.fields == {"arg1": 0x123, "x": 16}
    assert (record.ip, record.ret_ip, record.cpu) == (m["f"], None, 0)


def test_E07_a_string_at_null_is_a_fault(trace):
    assert trace("+0(%di):string", 0) == "(fault)"
    assert trace("+0(+0(%di)):string", 0) == "(fault)"
    assert trace("+0(%di):symstr", 0) == "(fault)"
    assert trace("+0(%di):u32", 0) == "0"
    assert trace("+0(+8(%di)):x64", 0) == "0x0"
    assert trace("+0(%di):s8[3]", 0) == "{0,0,0}"
    assert trace("+0(%di):string[2]", 0) == "{(fault),(fault)}"
    assert trace("+0(+0(%di)):u8[2]", 0) == "{0,0}"


def test_E08_bit_fields(trace):
    assert trace("$stack0:b4@4/32") == str(HOME >> 4 & 15)
    assert trace("%di:b4@4/32", 0xABCDEF12) == "1"
    assert trace("%di:b8@8/16", 0xABCDEF12) == str(0xEF)
    assert trace("%di:b1@63/64", 1 << 63) == "1"
    assert trace("%di:b32@0/32", 0xFFFFFFFFABCDEF12) == str(0xABCDEF12)


def test_E09_arrays(m, trace):
    assert trace("+0(%di):x8[4]", m["text"]) == "{0x74,0x65,0x73,0x74}"
    assert trace("@number:u16[4]") == "{61183,52445,43707,34969}"
    assert trace("@number:s32[2]") == "{-857870593,-2003195205}"
    assert trace("@number:b4@4/8[3]") == "{15,14,13}"
    assert trace("@pointers:string[3]") == '{"test",(fault),"two"}'
    assert trace("@chain:x64[1]") == f"{{{m['chain'] + 8:#x}}}"


def test_E09_an_array_that_ends_in_unmapped_memory_has_zeros_there(m, trace):
    end = DATA + 4096 * len([page for page in m.memory.pages if DATA <= page < STACK - 0x10000])
    m.memory.poke(end - 2, b"\x11\x22")
    assert trace("+0(%di):x8[4]", end - 2) == "{0x11,0x22,0x0,0x0}"
    m.memory.poke(end - 2, b"ab")
    assert trace("+0(%di):string", end - 2) == "(fault)"
    m.memory.poke(end - 1, b"\0")
    assert trace("+0(%di):string", end - 2) == '"a"'


def test_E10_characters(m, trace):
    assert trace("+0(%di):char[4]", m["text"]) == "{'t','e','s','t'}"
    assert trace("%di:char", 0x1241) == "'A'"
    assert trace("%di:char", 10) == r"'\x0a'"


def test_numbers_are_cut_to_their_type(trace):
    for name, value, expected in (
        ("u8", 0x1FF, "255"), ("s8", 0x80, "-128"), ("s8", 0x17F, "127"), ("x8", 0x1FF, "0xff"),
        ("u16", 0x12345, "9029"), ("s16", 0xFFFF, "-1"), ("x16", 0, "0x0"),
        ("u32", 1 << 32 | 7, "7"), ("s32", 0x80000000, "-2147483648"), ("x32", 1 << 63 | 0xBEEF, "0xbeef"),
        ("u64", (1 << 64) - 1, "18446744073709551615"), ("s64", (1 << 64) - 1, "-1"), ("x64", 1 << 63, "0x8000000000000000"),
    ):
        assert trace(f"%di:{name}", value) == expected, name
    assert trace("%di", 0xABC) == "0xabc"


def test_memory_is_read_in_the_size_of_the_type(m, trace):
    end = DATA + 4096 * len([page for page in m.memory.pages if DATA <= page < STACK - 0x10000])
    m.memory.poke(end - 1, b"\x7f")
    assert trace("+0(%di):u8", end - 1) == "127"
    assert trace("+0(%di):u16", end - 1) == "0"


def test_addresses(m, trace):
    assert trace("@number") == "0x8899aabbccddeeff"
    assert trace("@number+1:x8") == "0xee"
    assert trace(f"@{m['number']:#x}:u8") == str(0xFF)
    assert trace("@number-1:x8") == "0xee"
    assert trace("-8(%di):x8", m["number"] + 8) == "0xff"
    assert trace("+u0(%di):x8", m["number"]) == "0xff"


def test_a_chain_of_pointers(m, trace):
    m.memory.store(m["chain"], m["chain"] + 8, 8)
    m.memory.store(m["chain"] + 8, m["number"], 8)
    assert trace("+0(+0(+0(%di)))", m["chain"]) == "0x8899aabbccddeeff"
    assert trace("+0(+0(@chain)):x16", 0) == "0xeeff"


def test_offsets_wrap_at_64_bits(m, trace):
    assert trace("+8(%di):x8", m["number"] - 8) == "0xff"
    assert trace("-1(%di):string", 0) == "(fault)"
    assert trace(f"+{m['number'] + 1:#x}(%di):x8", (1 << 64) - 1) == "0xff"


def test_stack_and_parameters(m, trace):
    sp = STACK - 0x108
    assert trace("$stack") == f"{sp:#x}"
    assert trace("$stack0") == f"{HOME:#x}"
    args = (11, 12, 13, 14, 15, 16, 17, 18)
    for number, value in enumerate(args, 1):
        assert trace(f"$arg{number}:u64", *args) == str(value)
    assert trace("$stack1:u8", *args) == "17"
    last = 0x108 // 8 - 1
    m.memory.store(STACK - 8, 0x77, 8)
    assert trace(f"$stack{last}:u8") == "119"
    assert trace(f"$stack{last + 1}:u8") == "0"
    assert trace("$stack2048") == "0x0"


def test_every_register(m, trace):
    for i, name in enumerate(("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "ax"), 1):
        setattr(m.cpu[0].regs, name, 0x1000 + i)
        assert trace(f"%{name}") == f"{0x1000 + i:#x}", name
    for number, name in enumerate(("di", "si", "dx", "cx", "r8", "r9")):
        assert trace(f"%{name}:u8", *range(number + 1)) == str(number)
    assert trace("%ip") == f"{m['f'] + 1:#x}"  # as the int3 leaves it, like a pre_handler's
    assert trace("%ip", place="f+5") == f"{m['f'] + 6:#x}"
    assert trace("%sp") == f"{STACK - 0x108:#x}"
    regs = m.cpu[0].regs
    assert trace("%cs") == f"{regs.cs:#x}" and trace("%ss") == f"{regs.ss:#x}"
    assert trace("%flags:b1@9/32") == "1"


def test_strings(m, trace):
    assert trace("+0(%di):string", m["text"]) == '"test"'
    assert trace("+0(%di):ustring", m["text"]) == '"test"'
    assert trace("+0(+16(@pointers)):string") == "(fault)"  # pointers+0 is text, whose bytes are no address
    assert trace("+0(+16(%di)):string", m["pointers"]) == '"two"'
    assert trace(f"\\{m['text']:#x}:string") == '"test"'
    assert trace("$comm") == trace("$COMM") == '"guest"'
    assert trace('\\"a:b=c"') == '"a:b=c"'
    assert trace("\\0x7b:u8") == "123" and trace("\\-1:s8") == "-1" and trace("\\-1") == f"{(1 << 64) - 1:#x}"


def test_a_string_is_cut_at_4095_bytes(m, trace):
    value = trace("+24(%di):string", m["chain"])
    assert len(value) == 4095 + 2 and set(value[1:-1]) == set("ABCD")


def test_bytes_that_are_no_text_are_escaped(m, trace):
    m.memory.poke(m["text"], b"a\nb\xffc\0")
    assert trace("+0(%di):string", m["text"]) == r'"a\x0ab\xffc"'


def test_symbols(m, trace):
    assert trace("%di:symbol", m["f"] + 2) == "f+0x2/0x6"
    assert trace("%di:symstr", m["f"]) == '"f+0x0/0x6"'
    assert trace("%di:symbol", 0x10) == trace("%di:symstr", 0x10).strip('"') == "0x10"
    m.memory.store(m["number"], m["f"] + 5, 8)
    assert trace("@number:symbol") == "f+0x5/0x6"
    assert trace("@number:symbol[1]") == "{f+0x5/0x6}"


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([8, 16, 32, 64]), st.data())
def test_types_agree_about_every_word(word, size, data):
    """As the kernel's own test of types: what u, s, x and bit fields of one container make of one word is one number."""
    unsigned = TYPES[f"u{size}"].decoder()(word)
    signed = TYPES[f"s{size}"].decoder()(word)
    assert unsigned == TYPES[f"x{size}"].decoder()(word) == word % (1 << size) == signed % (1 << size)
    assert -(1 << size - 1) <= signed < 1 << size - 1
    width = data.draw(st.integers(1, size))
    offset = data.draw(st.integers(0, size - width))
    field, count = parse_type(Source(""), Word(f"b{width}@{offset}/{size}", 0))
    assert (field.decoder()(word), count) == (unsigned >> offset & (1 << width) - 1, 0)
