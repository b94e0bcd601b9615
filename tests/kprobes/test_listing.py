"""The files under debugfs: kprobes/list, blacklist, enabled (scenarios E21, E22), and their twins as data."""

import errno
import json

import pytest

from kprobes import Jprobe, Kprobe, KprobeError, KprobeFlag, Kretprobe, Options
from kprobes.listing import Row, bucket
from tests.kprobes.fakemachine import TEXT, FakeMachine

SOURCE = "\n".join(f"func f{n}\n nop\n nop\n ret\nendf f{n}" for n in range(40))


@pytest.fixture
def m():
    return FakeMachine(SOURCE, blacklist=[(TEXT, TEXT + 5, "entry code"), (0x1000, 0x2000, "a hole")])


def lines(m):
    return m.kprobes.files.list().splitlines()


def plant(m, *places, **more):
    probes = [Kprobe(symbol_name=f"f{n}", offset=offset, **more) for n, offset in places]
    for p in probes:
        m.kprobes.register_kprobe(p)
    return probes


def test_lines_as_the_kernel_prints_them(m):
    plant(m, (20, 0))
    assert m.kprobes.files.list() == f"{m['f20']:016x}  k  f20+0x0    \n"
    plant(m, (20, 1), flags=KprobeFlag.DISABLED)
    assert f"{m['f20'] + 1:016x}  k  f20+0x1    [DISABLED]" in lines(m)


def test_kinds(m):
    m.kprobes.register_kretprobe(Kretprobe(symbol_name="f10"))
    m.kprobes.register_jprobe(Jprobe(lambda: None, symbol_name="f11"))
    plant(m, (12, 0))
    assert sorted(line[18:25] for line in lines(m)) == ["j  f11+", "k  f12+", "r  f10+"]


@pytest.mark.parametrize("row, line", [
    (Row(0xFFFFFFFF81000010, "k", "f", 0, "mod", ("DISABLED",), 0, 0, {}), "ffffffff81000010  k  f+0x0  mod [DISABLED]\n"),
    (Row(0x10, "r", "g", 31, None, ("OPTIMIZED", "FTRACE"), 0, 0, {}), "0000000000000010  r  g+0x1f    [OPTIMIZED][FTRACE]\n"),
    (Row(0x10, "k", None, 0, None, ("GONE",), 0, 0, {}), "0000000000000010  k  0x10 [GONE]\n"),
])
def test_E21_line_of_a_module_probe_and_others(row, line):
    assert row.text() == line


def test_unprivileged_readers_see_no_addresses(m):
    plant(m, (20, 0))
    assert m.kprobes.files.list(privileged=False) == "0" * 16 + "  k  f20+0x0    \n"


def test_a_gone_probe_is_not_shown_as_disabled(m):
    (p,) = plant(m, (20, 0))
    p.flags |= KprobeFlag.GONE | KprobeFlag.DISABLED
    assert lines(m)[0].endswith(" [GONE]")


def test_order_is_by_bucket_and_the_newest_first_inside(m):
    places = [(n, offset) for n in range(2, 40) for offset in (0, 1, 2)]
    plant(m, *places)
    addresses = [int(line.split()[0], 16) for line in lines(m)]
    buckets = [bucket(addr) for addr in addresses]
    assert buckets == sorted(buckets) and len(set(buckets)) < len(buckets)
    planted = [m[f"f{n}"] + offset for n, offset in places]
    for number in set(buckets):
        assert [a for a in addresses if bucket(a) == number] == [a for a in reversed(planted) if bucket(a) == number]


def test_bucket_is_the_kernels_hash():
    """hash_64(0xffffffff81000000, 6), by hand: the product's upper six bits."""
    assert bucket(1) == 0x61C8864680B583EB >> 58 and bucket(0) == 0
    assert bucket(0xFFFFFFFF81000000) == (0xFFFFFFFF81000000 * 0x61C8864680B583EB % 2**64) // 2**58


def test_probes_of_one_address_have_a_line_each(m):
    first, second = plant(m, (20, 0), (20, 0))
    m.kprobes.disable_kprobe(first)
    assert [line.split()[3:] for line in lines(m)] == [[], ["[DISABLED]"]]
    assert second.flags & KprobeFlag.DISABLED == 0


def test_E22_blacklist_one_line_for_each_function(m):
    assert m.kprobes.files.blacklist() == (
        f"{TEXT:#x}-{TEXT + 3:#x}\tf0\n{TEXT + 3:#x}-{TEXT + 5:#x}\tf1\n0x0000000000001000-0x0000000000002000\t0x1000\n")


def test_blacklist_shows_what_was_added(m):
    m.kprobes.blacklist.add_symbol(m["f7"])
    assert m.kprobes.files.blacklist().endswith(f"{m['f7']:#x}-{m['f7'] + 3:#x}\tf7\n")


@pytest.mark.parametrize("text, on", [
    ("0\n", False), ("1\n", True), ("y", True), ("N", False), ("on", True), ("OFF", False), ("true", True), ("f", False)])
def test_enabled_takes_the_kernels_spellings(m, text, on):
    (p,) = plant(m, (20, 0))
    m.kprobes.files.enabled = text
    assert m.kprobes.files.enabled == ("1\n" if on else "0\n") and m.kprobes.enabled is on
    assert m.read(m["f20"], 1) == (b"\xcc" if on else b"\x90") and not p.disabled


@pytest.mark.parametrize("text", ["", "o", "2", "maybe", " 1"])
def test_enabled_refuses_other_text(m, text):
    with pytest.raises(KprobeError) as error:
        m.kprobes.files.enabled = text
    assert error.value.errno == errno.EINVAL and m.kprobes.enabled


@pytest.mark.parametrize("text, on", [("0\n", False), ("1", True)])
def test_P22_the_file_of_the_optimization_switch(m, text, on):
    m.kprobes.optimization = not on
    m.kprobes.files.optimization = text
    assert m.kprobes.optimization is on and m.kprobes.files.optimization == f"{int(on)}\n"
    for wrong in ("", "2", "yes"):
        with pytest.raises(KprobeError) as error:
            m.kprobes.files.optimization = wrong
        assert error.value.errno == errno.EINVAL and m.kprobes.optimization is on


def test_pages_of_copies_are_symbols():
    m = FakeMachine("func f\nmov rax, rdi\nlea rax, [rax+1]\nret\nendf f", options=Options(optimize=True))
    assert m.kprobes.files.kallsyms() == ""
    plant_in = Kprobe(symbol_name="f")
    m.kprobes.register_kprobe(plant_in)
    lines = [line.split() for line in m.kprobes.files.kallsyms().splitlines()]
    assert [(name, kind, where) for _, kind, name, where in lines] == [
        ("kprobe_insn_page", "t", "[__builtin__kprobes]"), ("kprobe_optinsn_page", "t", "[__builtin__kprobes]")]
    insn, optinsn = (int(line[0], 16) for line in lines)
    assert m.kprobes.is_kprobe_insn_slot(insn) and m.kprobes.is_kprobe_optinsn_slot(optinsn)


def test_everything_as_data(m):
    plant(m, (20, 1))
    m.call("f20")
    data = json.loads(json.dumps(m.kprobes.files.as_dict()))
    assert data["enabled"] is True and data["optimization"] is False
    assert data["probes"] == [{
        "addr": m["f20"] + 1, "kind": "k", "symbol": "f20", "offset": 1, "module": None, "tags": [], "hits": 1,
        "nmissed": 0, "misses": {}}]
    assert data["blacklist"][0] == {"start": TEXT, "end": TEXT + 3, "symbol": "f0", "reason": "entry code"}
