"""The table: what it refuses, what every row must have, and the lookup rules that no second opinion is needed for."""

from collections import Counter

import pytest

from hw.isa.absent import ABSENT
from hw.isa.facts import Op, SysOp
from hw.isa.opcodes import TABLE
from hw.isa.reference import LEGACY, absent, attributes, derive, lookup, split
from hw.isa.routines import ROUTINES, asking
from hw.isa.rows import LOCK, MEM, NO66, NOREP, NOREXB, REG, REP, REXB, RM, Priv, Raise, TableError, Uop, check, parse

IDS = [f"{row.encoding} {row.mnemonic} {n}" for n, row in enumerate(TABLE)]


def row_of(code: str):
    parts = split(bytes.fromhex(code))
    assert parts is not None and parts.length == len(bytes.fromhex(code))
    return lookup(parts)


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_a_row_is_complete(row):
    assert isinstance(row.uop, Uop) and isinstance(row.uop.op, Op) and isinstance(row.uop.sysop, SysOp)
    assert row.routine is None or row.routine in ROUTINES
    assert row.ok <= {LOCK, REG, MEM, REXB, NOREXB, NO66, NOREP, REP, *RM}
    assert not row.written or set(row.written) >= set(row.uop.flags)
    assert row.opcode >= 0 and row.opcode + row.span <= 256
    if LOCK in row.ok:
        assert row.modrm and REG not in row.ok
    if row.reg is not None or row.ok & {REG, MEM, *RM}:
        assert row.modrm
    if row.map == 0:
        assert not LEGACY & set(row.opcodes()) and 0x0F not in row.opcodes()
        assert not set(range(0x40, 0x50)) & set(row.opcodes()), "a REX prefix"


def test_rows_per_map():
    count = Counter(row.map for row in TABLE)
    assert count[0] > 200 and count[1] > 60
    assert set(count) == {0, 1, 2, 6, 7}


def test_every_routine_has_a_row():
    asked = {asking(row) for row in TABLE if row.priv is Priv.IO}
    assert set(ROUTINES) - {row.routine for row in TABLE} - asked == {"deliver"}


@pytest.mark.parametrize("routine", ROUTINES)
def test_routines_are_uops(routine):
    assert ROUTINES[routine] and all(isinstance(uop.op, Op) for uop in ROUTINES[routine])


def test_every_opcode_has_attributes():
    """Raises `TableError` where the length stage could not know."""
    defined = sum(attributes(map_, opcode).defined for map_ in range(4) for opcode in range(256))
    assert defined == len({(row.map % 4, opcode) for row in (*TABLE, *ABSENT) for opcode in row.opcodes()})


@pytest.mark.parametrize(
    "one, other",
    (
        (("01 /r", "add", "Ev,Gv"), ("01 /r", "add", "Ev,Gv")),
        (("80 /0", "add", "Eb,Ib"), ("80 /r", "add", "Eb,Ib")),
        (("50+r", "push", "Zv"), ("53", "what", "")),
        (("0F 80+cc", "j", "Jz"), ("0F 8F", "what", "Jz")),
        (("01 /r", "add", "Ev,Gv"), ("01", "add", "")),
        (("F3 90", "pause", ""), ("F3 90", "stop", "")),
    ),
)
def test_overlaps_are_refused(one, other):
    with pytest.raises(TableError, match=one[0].split()[-1 if one[0][:2] == "F3" else 0].rstrip("+rc")):
        check((parse(*one, Op.MOV), parse(*other, Op.MOV)))


def test_rows_that_exclude_each_other_are_not_overlaps():
    check(
        (
            parse("01 /r", "a", "Ev,Gv", Op.MOV, ok=REG),
            parse("01 /r", "b", "Ev,Gv", Op.MOV, ok=(MEM, LOCK)),
            parse("90", "c", "", Op.MOV, ok=REXB),
            parse("90", "d", "", Op.MOV, ok=NOREXB),
            parse("F3 90", "e", "", Op.MOV),
            parse("F6 /1", "f", "Eb", Op.MOV),
            parse("F6 /2", "g", "Eb", Op.MOV),
        )
    )


@pytest.mark.parametrize(
    "encoding, operands, marks, message",
    (
        ("01 /r", "Qv,Gv", {}, "unknown operand"),
        ("01 /r", "Ex,Gv", {}, "unknown operand"),
        ("01 /r", "Ev,Gv", dict(W="q"), "unknown flag"),
        ("01 /9", "Ev,Gv", {}, "cannot read"),
        ("05", "rAX,Iz", dict(ok=LOCK), "LOCK needs a memory destination"),
        ("03 /r", "Gv,Ev", dict(ok=LOCK), "LOCK needs a memory destination"),
    ),
)
def test_malformed_rows_are_refused(encoding, operands, marks, message):
    with pytest.raises(TableError, match=message):
        parse(encoding, "x", operands, Op.MOV, **marks)


def test_attributes_refuse_what_the_length_stage_cannot_tell_apart():
    with pytest.raises(TableError, match="/0 and /1"):
        derive([parse("F6 /3", "a", "Eb,Ib", Op.MOV), parse("F6 /4", "b", "Eb", Op.MOV)])


@pytest.mark.parametrize(
    "code, mnemonic",
    (
        ("90", "nop"),
        ("4090", "nop"),
        ("4190", "xchg"),
        ("f390", "pause"),
        ("f2f390", "pause"),
        ("f3f290", "nop"),
        ("f34190", "pause"),
        ("f30fbcc0", "tzcnt"),
        ("66f30fbcc0", "tzcnt"),
        ("f30fbcc0", "tzcnt"),
        ("f20fbcc0", "bsf"),
        ("f3f20fbcc0", "bsf"),
        ("f30fb8c0", "popcnt"),
        ("0fb8c0", None),
        ("f00000", "add"),
        ("f000c0", None),  # LOCK, register
        ("f08700", "xchg"),
        ("f00200", None),  # LOCK, memory is not the destination
        ("f03800", None),  # LOCK cmp
        ("f090", None),
        ("f00fbae000", None),
        ("f00fba2800", "bts"),
        ("8dc0", None),  # lea of a register
        ("8ec8", None),  # mov cs
        ("8ed0", "mov"),
        ("8ef0", None),
        ("0f20c0", "mov"),
        ("0f20c8", None),
        ("440f20c0", "mov"),
        ("440f21c0", None),
        ("0f2000", "mov"),  # mod is ignored
        ("0f01f8", "swapgs"),
        ("0f01f9", "rdtscp"), ("0f01fa", None),
        ("0f0138", "invlpg"),
        ("c6c000", "mov"),
        ("c6c800", None),
        ("fff8", None),
        ("06", None),
        ("0f3800c0", None),
        ("0fc300", "movnti"),
        ("660fc300", None),
        ("f30fc300", None),
        ("0fc708", "cmpxchg8b"),
        ("66480fc708", "cmpxchg8b"),
        ("0fc7c8", None),
        ("0f38f000", "movbe"),
        ("660f38f000", "movbe"),
        ("f30f38f000", None),
        ("0f38f0c0", None),
        ("66f20f38f1c0", "crc32"),
        ("0f38f6c1", None),
        ("660f38f6c1", "adcx"),
        ("66f30f38f6c1", "adox"),
        ("f20f38f6c1", None),
        ("0fae38", "clflush"),
        ("660fae38", "clflushopt"),
        ("660fae30", "clwb"),
        ("f30fae38", None),
        ("0faef8", "sfence"),
        ("660faef8", None),
        ("c4e2f8f2c3", "andn"),
        ("2ec4e2f8f2c3", "andn"),
        ("482ec4e2f8f2c3", "andn"),  # that REX means nothing
        ("48c4e2f8f2c3", None),
        ("66c4e2f8f2c3", None),
        ("f3c4e2f8f2c3", None),
        ("f0c4e2f8f2c3", None),
        ("c4e2f9f2c3", None),  # pp
        ("c4e2fcf2c3", None),  # L
        ("c4e1f8f2c3", None),  # map
        ("c5f8f2c3", None),
        ("c4e2f8f3c8", "blsr"),
        ("c4e2f8f3c0", None),
        ("c4e2f8f3e0", None),
        ("c4e37bf0c307", "rorx"),
        ("c4e373f0c307", None),  # vvvv
        ("c4e2fbf5c3", "pdep"),
        ("c4e2faf5c3", "pext"),
        ("c4e2f9f5c3", None),
        ("c4e2f8f5c3", "bzhi"),
    ),
)
def test_lookup(code, mnemonic):
    row = row_of(code)
    assert (row and row.mnemonic) == mnemonic


@pytest.mark.parametrize("code", ("c4e0f8f2", "c4e4f8f2", "c4fff8f2", "62f07c48", "62f47c4828", "62f77c4828c0"))
def test_maps_that_do_not_exist(code):
    parts = split(bytes.fromhex(code) + bytes(12))
    assert parts.refused and lookup(parts) is None and absent(parts) is None


@pytest.mark.parametrize(
    "code, raises",
    (
        ("d8c0", Raise.X87),
        ("dd058ff71200", Raise.X87),
        ("0f77", Raise.MMX),
        ("0f6fc0", Raise.MMX),
        ("660f6fc0", Raise.SSE),
        ("f30f6fc0", Raise.SSE),
        ("f20f6fc0", None),
        ("660f70c093", Raise.SSE),
        ("0fae00", Raise.X87),
        ("0fae10", Raise.SSE),
        ("0fae20", Raise.AVX),
        ("f00f28c0", None),
        ("660f3a0fc108", Raise.SSE),
        ("c5f877", Raise.AVX),
        ("c5fc28c0", Raise.AVX),
        ("66c5fc28c0", None),
        ("f0c5fc28c0", None),
        ("c4c159efdf", Raise.AVX),
        ("c4437d39c001", Raise.AVX),
        ("62f1650872c310", Raise.AVX),
        ("62724d2876c7", Raise.AVX),
        ("4062724d2876c7", None),
        ("62f1fe486f8424c0000000", Raise.AVX),
        ("0f0fc08a", Raise.UD),
        ("0fc7f0", None),
    ),
)
def test_what_is_absent(code, raises):
    data = bytes.fromhex(code)
    parts = split(data)
    assert parts.bytes == data and lookup(parts) is None and absent(parts) == raises


def test_a_rex_counts_only_before_the_opcode():
    parts = split(bytes.fromhex("4866b81234"))
    assert not parts.has_rex and parts.imm == 0x3412 and parts.imm_size == 2
    parts = split(bytes.fromhex("6648b8") + bytes(8))
    assert parts.rex == 8 and parts.imm_size == 8


def test_segment_overrides_that_mean_nothing_cancel_nothing():
    assert split(bytes.fromhex("642e8b00")).seg == 1
    assert split(bytes.fromhex("64658b00")).seg == 2


def test_fifteen_bytes():
    assert split(b"\x66" * 14 + b"\x90").length == 15
    assert split(b"\x66" * 14) is None
    assert split(b"\x66" * 15).too_long and lookup(split(b"\x66" * 15)) is None
    assert split(b"\x2e" * 6 + b"\x48\xb8" + bytes(8)).too_long
