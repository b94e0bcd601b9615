"""The builder of guests: every program at every level and address, the cache, and each error message."""

import re
import subprocess

import pytest

from sim import guestbuild
from sim.elf import load_elf
from sim.guestbuild import LINKS, OPT_LEVELS, PROGRAMS, GuestBuildError

NOT_INTEGER = re.compile(r"%[xyz]?mm\d|%st\b|\(bad\)|%k\d")

#: Where the text of each link begins; a module's, behind the kernel's.
BASES = {"high": 0xFFFFFFFF80100000, "low": 0x100000, "module": 0xFFFFFFFF80800000}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_builds_and_loads(name, link):
    image = load_elf(guestbuild.build_program(name, n=PROGRAMS[name].n_test, link=link))
    base = BASES[link]
    assert image.segments[0].vaddr == base
    assert image.symbols.describe(image.entry) == "_start"
    assert all(base <= s.vaddr < base + (1 << 20) for s in image.segments)


@pytest.mark.parametrize("opt", OPT_LEVELS)
def test_only_integer_instructions_at_every_level(opt):
    for name in ("demo", "wide", "records", "mix"):
        elf = guestbuild.build_program(name, n=PROGRAMS[name].n_test, opt=opt)
        listing = subprocess.run(["objdump", "-d", elf], capture_output=True, text=True, check=True).stdout
        assert not NOT_INTEGER.search(listing)


@pytest.mark.parametrize("name", [p.name for p in PROGRAMS.values() if p.host])
def test_native_twin_prints_a_checksum(name):
    program = PROGRAMS[name]
    label = "checksum" if name == "demo" else name
    for n in (program.n_test, program.n_bench):
        assert re.fullmatch(rf"{label}: [0-9a-f]{{8}}\n", guestbuild.expected_output(name, n=n))


def test_runtime_symbols():
    for link in LINKS:
        symbols = load_elf(guestbuild.build_program("demo", link=link)).symbols
        start, end = symbols.lookup("__entry_text_start"), symbols.lookup("__entry_text_end")
        assert start is not None and end is not None
        assert start == symbols.lookup("_stext") == symbols.lookup("trap_stub_0")
        for inside in ("jprobe_return", "jprobe_return_end", "_start", "trap_unhandled", "set_gate", "trap_c_stubs"):
            assert start <= (symbols.lookup(inside) or 0) < end
        for outside in ("main", "__blockdev_direct_IO", "ip_queue_xmit", "memcpy"):
            assert end <= (symbols.lookup(outside) or 0) < (symbols.lookup("_etext") or 0)
        assert symbols.describe((symbols.lookup("jprobe_return") or 0) + 1) == "jprobe_return+0x1"


def _bytes(image, symbol, size, offset=0):
    address = image.symbols.lookup(symbol) + offset
    for s in image.segments:
        if s.vaddr <= address < s.vaddr + len(s.data):
            return s.data[address - s.vaddr : address - s.vaddr + size]
    raise AssertionError(f"{address:#x} is not in the image")


@pytest.mark.parametrize("link", LINKS)
def test_idt_gates_lead_to_the_stubs(link):
    image = load_elf(guestbuild.build_program("demo", link=link))
    idt = _bytes(image, "guest_idt", 4096)
    for vector in range(256):
        gate = idt[16 * vector : 16 * vector + 16]
        if vector >= 48:
            assert gate == bytes(16)
            continue
        offset = int.from_bytes(gate[0:2] + gate[6:12], "little")
        if vector < 32:
            assert offset == image.symbols.lookup(f"trap_stub_{vector}")
        else:
            assert offset - 16 * vector == image.symbols.lookup("trap_c_stubs")
        assert int.from_bytes(gate[2:4], "little") == 0x08
        assert gate[4] == {8: 1, 2: 2}.get(vector, 0)
        assert gate[5] == (0xEE if vector == 3 else 0x8E)


@pytest.mark.parametrize("link", LINKS)
def test_tss_descriptor_and_stacks(link):
    image = load_elf(guestbuild.build_program("demo", link=link))
    tss = image.symbols.lookup("guest_tss")
    d = _bytes(image, "guest_gdt", 16, offset=0x18)
    assert int.from_bytes(d[2:5] + d[7:12], "little") == tss
    assert d[5] == 0x89 and int.from_bytes(d[0:2], "little") == 0x67
    contents = _bytes(image, "guest_tss", 0x68)
    for offset, stack in ((0x04, "fault_stack_top"), (0x24, "fault_stack_top"), (0x2C, "nmi_stack_top")):
        top = int.from_bytes(contents[offset : offset + 8], "little")
        assert top == image.symbols.lookup(stack) and top % 16 == 0


def test_error_code_vectors_push_nothing_of_their_own():
    image = load_elf(guestbuild.build_program("demo"))
    for vector in range(32):
        first = _bytes(image, f"trap_stub_{vector}", 2)
        assert (first != b"\x6a\xff") == (vector in (8, 10, 11, 12, 13, 14, 17, 21))
    for vector in range(48):
        first = _bytes(image, "trap_c_stubs", 2, offset=16 * vector)
        assert (first != b"\x6a\xff") == (vector in (8, 10, 11, 12, 13, 14, 17, 21))


def test_the_stub_on_the_path_of_a_probe_hit_has_36_instructions():
    elf = guestbuild.build_program("demo")
    listing = subprocess.run(["objdump", "-d", "--disassemble=trap_stub_3", elf], capture_output=True, text=True,
                             check=True).stdout
    lines = [line.split("\t")[2].split() for line in listing.splitlines() if line.count("\t") == 2]
    path = [words[0] for words in lines]
    assert path.index("iretq") + 1 == 36
    store = path.index("mov")
    assert (store + 1, lines[store][1]) == (17, "%rsp,0xfffffffffe000018")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(guestbuild, "CACHE_DIR", tmp_path / "cache")
    return tmp_path / "cache"


BARE = '__asm__(".globl _start\\n_start: hlt");\n'


def test_the_same_build_is_made_once_and_a_change_makes_another(cache, tmp_path, monkeypatch):
    source = tmp_path / "bare.c"
    source.write_text(BARE)
    first = guestbuild.build([source], runtime=False)
    with monkeypatch.context() as m:
        m.setattr(guestbuild, "_compile", None)
        assert guestbuild.build([source], runtime=False) == first
    assert guestbuild.build([source], runtime=False, defines=["X=1"]) != first
    assert guestbuild.build([source], runtime=False, link="low") != first
    (tmp_path / "local.h").write_text("")
    with_header = guestbuild.build([source], runtime=False)
    assert with_header != first
    source.write_text(BARE + "int more;\n")
    assert guestbuild.build([source], runtime=False) not in (first, with_header)
    assert first.parent == cache


def test_out_is_written(cache, tmp_path):
    source = tmp_path / "bare.c"
    source.write_text(BARE)
    out = guestbuild.build([source], tmp_path / "made" / "bare.elf", runtime=False)
    assert out == tmp_path / "made" / "bare.elf"
    assert load_elf(out).symbols.lookup("_start") is not None


def test_text_in_assembly(cache):
    elf = guestbuild.build_text(".globl main\nmain: xor %eax, %eax\nret\n", suffix=".S", link="low")
    assert load_elf(elf).symbols.lookup("main") is not None


def test_no_gcc(cache, monkeypatch):
    monkeypatch.setenv("GUEST_CC", "no-such-gcc")
    with pytest.raises(GuestBuildError, match=r"^no-such-gcc was not found.*apt-get install gcc"):
        guestbuild.build_program("triple")


def test_gcc_of_another_machine(cache, tmp_path, monkeypatch):
    fake = tmp_path / "gcc-fake"
    fake.write_text("#!/bin/sh\necho aarch64-linux-gnu\n")
    fake.chmod(0o755)
    monkeypatch.setenv("GUEST_CC", str(fake))
    with pytest.raises(GuestBuildError, match=r"compiles for aarch64-linux-gnu, not x86-64: set GUEST_CC"):
        guestbuild.build_program("triple")


def test_a_source_with_an_error_leaves_nothing_behind(cache, tmp_path):
    source = tmp_path / "wrong.c"
    source.write_text("int main(void) { return x; }\n")
    with pytest.raises(GuestBuildError) as caught:
        guestbuild.build([source])
    message = str(caught.value)
    assert "gcc could not build wrong.c" in message
    assert "wrong.c:1:25: error: 'x' undeclared" in message.replace("\u2018", "'").replace("\u2019", "'")
    assert message.endswith("correct the source and build again")
    assert not list(cache.iterdir())


def test_a_place_that_cannot_be_written(cache, tmp_path):
    source = tmp_path / "bare.c"
    source.write_text(BARE)
    with pytest.raises(GuestBuildError, match=r"bare\.c.* cannot be written \(.*\): make the directory writable"):
        guestbuild.build([source], source / "out.elf", runtime=False)


def test_a_missing_function_is_named(cache, tmp_path):
    source = tmp_path / "wrong.c"
    source.write_text("int gone(void);\nint main(void) { return gone(); }\n")
    with pytest.raises(GuestBuildError, match="undefined reference to `gone'"):
        guestbuild.build([source])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: guestbuild.build(["nowhere.c"]),                   r"nowhere\.c does not exist: check the name"),
    (lambda: guestbuild.build([]),                              r"no source file was given"),
    (lambda: guestbuild.build([__file__], link="middle"),       r"there is no link 'middle': use one of high, low"),
    (lambda: guestbuild.build_program("pong"),                  r"there is no guest program 'pong': the list is demo,"),
    (lambda: guestbuild.expected_output("triple"),              r"triple needs the simulated machine"),
])
def test_wrong_requests(call, message):
    with pytest.raises(GuestBuildError, match=message):
        call()


def test_command_line(cache, capsys):
    assert guestbuild.main(["triple", "--link", "low", "--size", "test", "--opt=-Os"]) == 0
    assert re.match(r"triple +\S+/triple-[0-9a-f]{16}\.elf\n", capsys.readouterr().out)
    assert guestbuild.main(["pong"]) == 2
    assert capsys.readouterr().err.startswith("guestbuild: there is no guest program 'pong'")
