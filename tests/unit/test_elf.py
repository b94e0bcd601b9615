"""The loader of guest images: what it reads, the symbol table's rules, and each error message."""

import contextlib
import random
import struct

import pytest

from sim import guestbuild
from sim.elf import PF_R, PF_W, PF_X, ImageError, RawSymbol, Segment, Symbol, SymbolTable, load_elf


@pytest.fixture(scope="module")
def guest():
    return guestbuild.build_program("demo")


def ehdr(*, cls=2, machine=62, kind=2, entry=0x1000, phnum=1):
    ident = b"\x7fELF" + bytes([cls, 1, 1]) + bytes(9)
    return ident + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, entry, 64, 0, 0, 64, 56, phnum, 64, 0, 0)


def phdr(*, kind=1, flags=PF_R | PF_X, offset=120, vaddr=0x1000, filesz=4, memsz=16):
    return struct.pack("<IIQQQQQQ", kind, flags, offset, vaddr, vaddr, filesz, memsz, 16)


def test_a_guest(guest):
    image = load_elf(guest)
    text, rodata, data = image.segments
    assert (text.flags, rodata.flags, data.flags) == (PF_R | PF_X, PF_R, PF_R | PF_W)
    assert text.vaddr == 0xFFFFFFFF80100000 and text.memsz == len(text.data)
    assert data.memsz > len(data.data)  # .bss
    assert image.symbols.lookup("_start") == image.entry
    assert "__tss_addr" not in image.symbols.names()  # absolute: a number, not a place


def test_a_stripped_file(tmp_path):
    path = tmp_path / "tiny"
    path.write_bytes(ehdr() + phdr() + b"\x90\x90\x90\xf4")
    image = load_elf(path)
    assert image.segments == [Segment(0x1000, b"\x90\x90\x90\xf4", 16, PF_R | PF_X)]
    assert len(image.symbols) == 0 and image.symbols.names() == []
    assert image.symbols.lookup("main") is None and image.symbols.containing(0x1000) is None
    assert image.symbols.is_text(0x100F) and not image.symbols.is_text(0x1010)
    assert image.symbols.describe(0x1001) == "0x1001"


@pytest.mark.parametrize(("content", "message"), [
    (b"",                                                    r"is not an ELF file: give a guest"),
    (b"#!/bin/sh\n",                                         r"is not an ELF file: give a guest"),
    (b"\x7fELF\x02\x01\x01",                                 r"is a damaged ELF file \(.*\): build it again"),
    (ehdr()[:40],                                            r"is a damaged ELF file \(.*\): build it again"),
    (ehdr(),                                                 r"is a damaged ELF file \(.*\): build it again"),
    (b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 0, 40, 0, 0),
                                                             r"is a 32-bit ELF file.*compile it with gcc -m64"),
    (ehdr(machine=183) + phdr() + b"abcd",                   r"is for EM_AARCH64, not x86-64"),
    (ehdr(kind=3) + phdr() + b"abcd",                        r"is position-independent: link it with gcc -static"),
    (ehdr(kind=1) + phdr() + b"abcd",                        r"is an object file that is not linked: link it"),
    (ehdr(kind=4) + phdr() + b"abcd",                        r"is not an executable: link it"),
    (ehdr() + phdr(kind=3) + b"abcd",                        r"needs a dynamic loader: link it with gcc -static"),
    (ehdr() + phdr(filesz=5) + b"abcd",
                                   r"is truncated: the segment at 0x1000 ends at byte 125 of a file of 124: copy"),
    (ehdr() + phdr(memsz=3) + b"abcd",                       r"larger in the file than in memory\): build it again"),
    (ehdr() + phdr(kind=4) + b"abcd",                        r"has nothing to load: link it"),
    (ehdr(phnum=0),                                          r"has nothing to load: link it"),
    (ehdr(entry=0x2000) + phdr() + b"abcd",                  r"starts at 0x2000, which is not in an executable"),
    (ehdr() + phdr(flags=PF_R) + b"abcd",                    r"starts at 0x1000, which is not in an executable"),
])
def test_wrong_files(tmp_path, content, message):
    path = tmp_path / "guest.elf"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_elf(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(ImageError, match=r"nothing\.elf does not exist: check the name, or build the guests with"):
        load_elf(tmp_path / "nothing.elf")
    with pytest.raises(ImageError, match=r"is a directory: give the ELF file"):
        load_elf(tmp_path)


def test_every_truncation_of_a_real_file_is_one_clear_error(guest, tmp_path):
    whole = guest.read_bytes()
    path = tmp_path / "cut.elf"
    for size in range(4, len(whole) - 1, 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ImageError):
            load_elf(path)


def test_random_damage_never_escapes_as_another_error(guest, tmp_path):
    rng = random.Random(1)
    whole = guest.read_bytes()
    path = tmp_path / "bent.elf"
    for _ in range(150):
        bent = bytearray(whole)
        for _ in range(3):
            at = rng.choice([rng.randrange(64), rng.randrange(232), rng.randrange(len(bent) - 600, len(bent))])
            bent[at] = rng.randrange(256)
        path.write_bytes(bent)
        with contextlib.suppress(ImageError):
            load_elf(path)


TEXT = Segment(0x1000, bytes(0x100), 0x100, PF_R | PF_X)
DATA = Segment(0x2000, b"", 0x100, PF_R | PF_W)


def table(*rows):
    return SymbolTable([RawSymbol(*row) for row in rows], [TEXT, DATA])


def test_symbols_with_sizes():
    t = table(("f", 0x1000, 0x10, "FUNC"), ("g", 0x1020, 8, "FUNC"), ("v", 0x2000, 4, "OBJECT"))
    assert t.containing(0x100F) == Symbol(0x1000, "f", 0x10)
    assert t.containing(0x1010) is None and t.containing(0xFFF) is None
    assert (t.describe(0x1000), t.describe(0x1005), t.describe(0x1015)) == ("f", "f+0x5", "0x1015")
    assert t.lookup("v") == 0x2000 and t.names() == ["f", "g", "v"]
    assert t.is_text(0x1000) and not t.is_text(0x2000)


def test_labels_reach_to_the_next_symbol_or_the_end_of_the_segment():
    t = table(("first", 0x1000), ("second", 0x1008), ("last", 0x1080), ("end", 0x1100))
    assert t.containing(0x1007) == Symbol(0x1000, "first", 8)
    assert t.containing(0x107F) == Symbol(0x1008, "second", 0x78)
    assert t.containing(0x10FF) == Symbol(0x1080, "last", 0x80)
    assert t.containing(0x1100) is None and t.lookup("end") == 0x1100


def test_a_label_inside_a_function_does_not_cut_it():
    t = table(("f", 0x1000, 0x20, "FUNC"), ("inside", 0x1008), ("after", 0x1020))
    assert t.describe(0x1010) == "f+0x10"
    assert t.lookup("inside") == 0x1008
    assert t.describe(0x1024) == "after+0x4"


def test_several_names_for_one_address():
    t = table(("start", 0x1000), ("f", 0x1000, 0x20, "FUNC"), ("alias", 0x1000, 0x20, "NOTYPE"))
    assert t.describe(0x1004) == "f+0x4"
    assert t.lookup("alias") == t.lookup("start") == t.lookup("f") == 0x1000


def test_a_global_symbol_wins_over_local_ones_of_the_same_name():
    t = table(("f", 0x1000, 8, "FUNC", False), ("f", 0x1010, 8, "FUNC", True), ("f", 0x1020, 8, "FUNC", False))
    assert t.lookup("f") == 0x1010
    assert len(t) == 1 and len(t.symbols()) == 3
