"""Probes at the tracing nop of a function's entry (E01, E02, R29)."""

import errno

import pytest

from kprobes import Jprobe, Kprobe, KprobeError, KprobeFlag, Kretprobe, Obstacle, Options, Phase, Vector, jprobe_return
from tests.kprobes.fakecpu import IF
from tests.kprobes.fakemachine import FakeMachine

SOURCE = """
func f
    fentry
    lea rax, [rdi + 1]
end: ret
endf f
func g
    endbr64
inside: fentry
    mov eax, 9
    ret
endf g
func plain
    .byte 0x0f, 0x1f, 0x44, 0, 0
    mov eax, 3
    ret
endf plain
"""
NOP = bytes.fromhex("0f1f440000")


def machine(**options):
    return FakeMachine(SOURCE, options=Options(**options))


def planted(m, symbol="f", **fields):
    p = Kprobe(symbol_name=symbol, **fields)
    m.kprobes.register_kprobe(p)
    return p


def test_E01_a_call_instead_of_a_breakpoint():
    m = machine()
    before = m.snapshot()
    seen = []
    p = planted(m, pre_handler=lambda p, regs: seen.append(("pre", regs.copy())),
                post_handler=lambda p, regs, flags: seen.append(("post", regs.copy())))
    assert p.flags & KprobeFlag.FTRACE and m.read(m["f"], 1) == b"\xe8"
    with pytest.raises(KprobeError, match="no slot"):
        m.kprobes.slot_of(p)
    regs = m.start("f", 41, 2, 3)
    at_entry = regs.copy()
    m.run()
    assert m.cpu[0].regs.ax == 42 and not m.traps
    (_, pre), (_, post) = seen
    at_entry.ip, at_entry.orig_ax = m["f"] + 1, (1 << 64) - 1
    assert pre == at_entry
    at_entry.ip = m["f"] + 5
    assert post == at_entry
    assert [e.kind for e in m.events] == [Phase.HIT, Phase.PRE, Phase.EMULATE, Phase.POST, Phase.RESUME]
    m.kprobes.unregister_kprobe(p)
    assert m.read(m["f"], 5) == NOP and m.call("f", 1) == 2 and p.hits == 1
    assert all(m.snapshot()[page] == data for page, data in before.items() if page <= m["plain"])


def test_E01_R29_behind_endbr64():
    m = machine()
    p = planted(m, "g")
    assert p.addr == m["inside"] and p.flags & KprobeFlag.FTRACE and p.flags & KprobeFlag.ON_FUNC_ENTRY
    assert m.call("g") == 9 and p.hits == 1 and not m.traps


def test_E01_the_same_nop_without_an_entry_in_the_list_is_an_instruction():
    m = machine()
    p = planted(m, "plain")
    assert not p.flags & KprobeFlag.FTRACE and m.read(m["plain"], 1) == b"\xcc"


def test_E01_a_place_that_the_guest_traces_itself_is_an_instruction():
    m = machine()
    m.write(m["f"], b"\xe8\x00\x00\x00\x00")
    p = planted(m)
    assert not p.flags & KprobeFlag.FTRACE


@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_E02_inside_the_nop(offset):
    m = machine()
    planted(m)
    with pytest.raises(KprobeError) as caught:
        planted(m, offset=offset)
    assert caught.value.errno == errno.EILSEQ and "inside an instruction" in str(caught.value)


def test_a_pre_handler_may_send_the_program_elsewhere():
    m = machine()

    def pre(p, regs):
        regs.ip, regs.ax = m["end"], 77
        return 1

    posts = []
    planted(m, pre_handler=pre, post_handler=lambda p, regs, flags: posts.append(regs.ip))
    assert m.call("f", 1) == 77 and not posts


def test_what_a_handler_changes():
    m = machine()

    def pre(p, regs):
        regs.di, regs.ip = 100, 0x1234

    def post(p, regs, flags):
        regs.ip = 0x4321

    planted(m, pre_handler=pre, post_handler=post)
    assert m.call("f", 1) == 101, "registers count, ip does not"


def test_flags_are_kept():
    m = machine()
    seen = []
    planted(m, pre_handler=lambda p, regs: seen.append(regs.flags))
    for flags in (0, IF, 0xCD5 & ~0x500):
        m.call("f", 1, flags=flags)
        assert m.cpu[0].regs.flags == 2 | flags == seen[-1]


def test_inside_another_hit_it_is_only_counted():
    m = machine()
    p = planted(m)
    q = planted(m, "plain", pre_handler=lambda p, regs: m.call("f", 1) and 0)
    assert m.call("plain") == 3 and (p.hits, p.nmissed, q.hits) == (0, 1, 1)
    p.pre_handler = lambda p, regs: m.call("f", 1) and 0
    assert m.call("f", 1) == 2 and (p.hits, p.nmissed) == (1, 2)


def test_several_probes_disabled_and_enabled():
    m = machine()
    order = []
    old = planted(m, pre_handler=lambda p, regs: order.append("old"))
    new = planted(m, pre_handler=lambda p, regs: order.append("new"))
    m.call("f", 1)
    assert order == ["new", "old"]
    m.kprobes.disable_kprobe(new)
    m.call("f", 1)
    m.kprobes.disable_kprobe(old)
    assert m.read(m["f"], 5) == NOP
    m.kprobes.enable_kprobe(new)
    m.call("f", 1)
    assert order == ["new", "old", "old", "new"]
    m.kprobes.enabled = False
    assert m.read(m["f"], 5) == NOP
    m.kprobes.enabled = True
    assert m.read(m["f"], 1) == b"\xe8"


def test_a_kretprobe_at_the_same_entry():
    m = machine()
    p, returns = planted(m), []
    m.kprobes.register_kretprobe(Kretprobe(symbol_name="f", handler=lambda ri, regs: returns.append(regs.ax)))
    assert m.call("f", 1) == 2 and returns == [2] and p.hits == 1 and not m.traps


def test_a_jprobe_there():
    m = machine()
    seen = []

    def mirror(a, b):
        seen.append((a, b))
        jprobe_return()

    jp = Jprobe(mirror, symbol_name="f")
    m.kprobes.register_jprobe(jp)
    assert m.call("f", 41, 7) == 42 and seen == [(41, 7)]
    assert [vector for vector, _ in m.traps] == [Vector.BP] * 2, "its own stations only"


def test_it_is_never_optimised():
    m = machine(optimize=True, optimize_delay=1)
    p = planted(m)
    m.kprobes.wait_for_optimizer()
    assert not p.flags & KprobeFlag.OPTIMIZED and m.call("f", 1) == 2 and p.hits == 1
    assert isinstance(m.kprobes.region_of(p), Obstacle)


@pytest.mark.fake_only("needs several harts")
def test_P24_a_cpu_at_the_entry_while_the_call_comes_and_goes():
    for stop in range(1, 7):
        m = FakeMachine(SOURCE, cpus=2)
        m.start("f", 1, cpu=1)
        sync = m.sync_cores

        def between(m=m, sync=sync, stop=stop):
            sync()
            if m.syncs == stop:
                m.run(1)

        m.sync_cores = between
        p = planted(m)
        m.kprobes.unregister_kprobe(p)
        assert m.syncs == 6 and m.cpu[1].regs.ax == 2 and p.hits == (stop <= 3)


def test_a_call_that_somebody_else_wrote_over_is_left_alone():
    m = machine()
    p = planted(m)
    m.write(m["f"], b"\x90" * 5)
    m.kprobes.unregister_kprobe(p)
    assert m.read(m["f"], 5) == b"\x90" * 5
