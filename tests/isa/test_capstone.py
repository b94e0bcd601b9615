"""A second opinion on the table: capstone, on random instances of every row and on random bytes."""

import os
from random import Random

import capstone
import pytest

from hw.isa.absent import ABSENT
from hw.isa.opcodes import TABLE
from hw.isa.reference import lookup, split
from hw.isa.rows import REG
from tests.isa.instances import instance, is_instance

DISASSEMBLER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
INSTANCES = int(os.environ.get("KPHW_INSTANCES", 60))
RANDOM = int(os.environ.get("KPHW_RANDOM", 200_000))
IDS = [f"{row.encoding} {row.mnemonic} {n}" for n, row in enumerate(TABLE)]

CONDITIONS = ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"]

#: Table mnemonic -> the names that capstone has for it (sizes in the name, synonyms of vendors).
NAMES = {
    "cbw": {"cbw", "cwde", "cdqe"},
    "cwd": {"cwd", "cdq", "cqo"},
    "pushf": {"pushf", "pushfq"},
    "popf": {"popf", "popfq"},
    "lret": {"retf", "retfq"},
    "sysret": {"sysret", "sysretq"},
    "lcall": {"call", "lcall"},
    "ljmp": {"jmp", "ljmp"},
    "iret": {"iret", "iretd", "iretq"},
    "jrcxz": {"jrcxz", "jecxz"},
    "mov": {"mov", "movabs"},
    "sal": {"sal", "shl"},
    "xlat": {"xlatb"},
    "pause": {"pause", "xchg"},  # with REX.W capstone says xchg rax, rax
    "prefetchw": {"prefetch", "prefetchw", "prefetchwt1"},
    "prefetch": {"nop", "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2"},
    "nop": {"nop", "bndldx", "bndmov", "bndstx", "bndcl", "bndcu", "bndcn", "bndmk", "cldemote", "endbr64", "endbr32"},
    "movs": {"movsb", "movsw", "movsd", "movsq"},
    "cmps": {"cmpsb", "cmpsw", "cmpsd", "cmpsq"},
    "stos": {"stosb", "stosw", "stosd", "stosq"},
    "lods": {"lodsb", "lodsw", "lodsd", "lodsq"},
    "scas": {"scasb", "scasw", "scasd", "scasq"},
    "j": {"j" + c for c in CONDITIONS},
    "set": {"set" + c for c in CONDITIONS},
    "cmov": {"cmov" + c for c in CONDITIONS},
    "ud2": {"ud2"},
    "ins": {"insb", "insw", "insd"},
    "outs": {"outsb", "outsw", "outsd"},
    "cmpxchg8b": {"cmpxchg8b", "cmpxchg16b"},
}


#: Rows of which capstone 5 knows no instance that is drawn here: one vendor's, or newer than it.
NEVER_ASKED = {"0F 01 /5", "0F 0F /r", "VEX 0F AE /r", "VEX 0F 3A 30-33 /r"} | {
    f"VEX 0F 38 {opcodes} /r" for opcodes in ("49", "4B", "50-53", "5C", "5E", "72", "B0-B1", "CB-CD", "D2-D3")
}


def exception(row, parts) -> str | None:
    """Why capstone is not asked about these bytes, or None."""
    if row.mnemonic in ("ud0", "ud1"):
        return "with a ModRM byte in the manual, without one in capstone"
    if row.mnemonic == "serialize":
        return "capstone does not know it"
    if parts.opsize and "Jz" in row.operands:
        return "66 with a near branch: Intel ignores it, AMD has a 16-bit target"
    if parts.opsize and row.prefix:
        return "66 beside a mandatory prefix: capstone lets the nearest to the opcode win, silicon F2 and F3"
    if parts.opsize and row.map == 0 and row.opcode in (0x90, 0xC2) and (parts.rep or parts.rex & 8):
        return "capstone: four immediate bytes in 66 REX.W ret, nothing for 66 F3 90"
    if row.mnemonic == "movsxd" and parts.asize:
        return "capstone refuses 67 63"
    if row.map == 1 and (row.opcode == 0x0D or 0x18 <= row.opcode <= 0x1F):
        return "hints: the space is no-operations on silicon, capstone knows the named ones"
    if row.map == 1 and row.opcode == 0xAE and REG in row.ok:
        return "fences: silicon ignores ModRM.rm and 66, capstone does not"
    return None


def second_opinion(code: bytes):
    """(length, mnemonic without prefixes) or None."""
    found = next(DISASSEMBLER.disasm_lite(code, 0x1000), None)
    return found and (found[1], found[2].split()[-1])


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_instances_of_every_row(row):
    rng = Random(row.encoding)
    asked = 0
    for _ in range(INSTANCES):
        code = instance(rng, row)
        parts = split(code)
        assert is_instance(code, row), code.hex()
        if exception(row, parts):
            continue
        asked += 1
        opinion = second_opinion(code + b"\x90" * 8)
        assert opinion is not None, f"refused: {code.hex()}"
        assert opinion[0] == len(code), f"{opinion[0]} bytes: {code.hex()}"
        assert opinion[1] in NAMES.get(row.mnemonic, {row.mnemonic}), code.hex()
    assert asked or exception(row, split(instance(Random(0), row)))


#: What capstone 5 has wrong, or does not know, of the extensions that the core lacks: mnemonics of its own are not compared.
def unknown_to_capstone(row, parts) -> str | None:
    """Why its length is not compared."""
    if parts.opsize and row.prefix in (0xF2, 0xF3):
        return "66 beside a mandatory prefix"
    if row.map == 1 and row.opcode == 0x0F:
        return "3DNow! opcodes that do not exist"
    if row.map == 1 and row.opcode == 0x78 and (parts.opsize or parts.rep):
        return "extrq and insertq of SSE4a have two immediate bytes"
    return None


@pytest.mark.parametrize("row", ABSENT, ids=[f"{row.encoding} {n}" for n, row in enumerate(ABSENT)])
def test_lengths_of_what_is_absent(row):
    """Opcodes of a range, and ModRM forms, of which capstone knows one have the length that it says."""
    rng = Random(row.encoding)
    asked = 0
    for _ in range(4 * INSTANCES):
        code = instance(rng, row)
        opinion = second_opinion(code + b"\x90" * 8)
        if opinion is None or unknown_to_capstone(row, split(code)):
            continue
        asked += 1
        assert opinion[0] == len(code), f"{opinion}: {code.hex()}"
    assert asked or row.encoding in NEVER_ASKED, row


def test_lengths_with_evex():
    """Random opcodes of the three old maps behind an EVEX prefix, where capstone knows them."""
    rng = Random(11)
    both = 0
    for _ in range(RANDOM // 4):
        map_, pp = rng.randrange(1, 4), rng.randrange(4)
        last = rng.choice((0x08, 0x28, 0x48, rng.randrange(256) | 8))
        head = bytes((0x62, 0xF0 | map_, rng.randrange(2) << 7 | 0x7C | pp, last))
        code = head + rng.randbytes(12)
        opinion = second_opinion(code)
        if opinion is None:
            continue
        both += 1
        assert split(code).length == opinion[0], f"{code.hex()}: capstone {opinion}"
    assert both > 1000


def test_random_bytes():
    """Wherever both accept, both see the same end."""
    rng = Random(7)
    both = 0
    head = [0x0F, 0x48, 0x66, 0x41, 0xF3, 0x67, 0x64]
    for _ in range(RANDOM):
        code = rng.randbytes(16)
        if rng.random() < 0.5:
            code = bytes((rng.choice(head), *code[1:]))
        parts = split(code)
        row = lookup(parts)
        if row is None or exception(row, parts):
            continue
        opinion = second_opinion(code)
        if opinion is None:
            continue
        both += 1
        assert opinion[0] == parts.length, f"{code.hex()}: {row} is {parts.length}, capstone {opinion}"
    assert both > RANDOM // 4


@pytest.mark.parametrize("code", ("f30f1efa", "0f1f440000", "662e0f1f840000000000", "666690", "0f1e00"))
def test_hints_of_compilers(code):
    data = bytes.fromhex(code)
    opinion = second_opinion(data + b"\x90" * 8)
    assert opinion is not None and opinion[0] == split(data).length
