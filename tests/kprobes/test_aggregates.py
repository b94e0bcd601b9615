"""Several probes at one address, the global switch, the plural requests, busy sections (scenarios R13, R32, A01 to A13)."""

import errno

import pytest

from kprobes import Jprobe, Kprobe, KprobeError, KprobeFlag, Miss, Rule
from tests.kprobes.fakemachine import IF, FakeMachine

pytestmark = pytest.mark.usefixtures("every_mode")

SOURCE = """
func f
at: lea rax, [rdi+1]
    nop
    ret
endf f
func g
    mov eax, 7
    ret
endf g
"""


@pytest.fixture
def m():
    return FakeMachine(SOURCE)


@pytest.fixture
def log():
    return []


def probe(log, name, result=0, post=True, **fields):
    """A probe on f that logs its name."""
    p = Kprobe(symbol_name="f", pre_handler=lambda p, regs: log.append(name) or result, **fields)
    if post:
        p.post_handler = lambda p, regs, flags: log.append(name.upper())
    return p


def three(m, log, **fields):
    probes = [probe(log, name, **fields) for name in "abc"]
    m.kprobes.register_kprobes(probes)
    return probes


def text(m):
    return m.bytes_of("f") + m.bytes_of("g")


def test_A01_R13_the_newest_runs_first(m, log):
    probes = three(m, log)
    assert m.call("f", 4) == 5
    assert log == ["c", "b", "a", "C", "B", "A"] and [p.hits for p in probes] == [1, 1, 1]
    assert len([e for e in m.events if e.kind == "hit"]) == 1
    assert m.kprobes.registered == tuple(reversed(probes)) and m.kprobes.get_kprobe(m["f"]) is probes[2]


def test_A02_a_result_ends_the_hit_for_the_older_ones(m, log):
    a, b, c = probe(log, "a"), probe(log, "b", post=False), probe(log, "c")

    def skip(p, regs):
        log.append("b")
        regs.ip, regs.ax = m["f"] + 4, 99
        return 1

    b.pre_handler = skip
    m.kprobes.register_kprobes([a, b, c])
    assert m.call("f", 4) == 99
    assert log == ["c", "b"] and a.hits == 0 and m.kprobes.kprobe_running(0) is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_A03_A04_unregistered_in_any_order(m, log, order):
    clean = text(m)
    probes = three(m, log)
    for number in order:
        assert m.read(m["f"], 1) == b"\xcc"
        log.clear()
        m.call("f", 1)
        assert [name for name in log if name.islower()] == [
            "abc"[i] for i in (2, 1, 0) if i not in order[:order.index(number)]]
        m.kprobes.unregister_kprobe(probes[number])
    assert text(m) == clean and m.kprobes.registered == () and m.call("f", 1) == 2


def test_A05_one_of_two_is_disabled(m, log):
    _, b, _ = three(m, log)
    m.kprobes.disable_kprobe(b)
    assert m.call("f", 1) == 2 and log == ["c", "a", "C", "A"]
    assert (b.hits, b.nmissed, b.misses[Miss.DISABLED]) == (0, 0, 1) and m.read(m["f"], 1) == b"\xcc"


def test_A06_A07_all_disabled(m, log):
    clean = text(m)
    probes = three(m, log)
    for p in probes:
        m.kprobes.disable_kprobe(p)
    assert text(m) == clean and m.call("f", 1) == 2 and log == []
    m.kprobes.enable_kprobe(probes[1])
    assert m.call("f", 1) == 2 and log == ["b", "B"]
    m.kprobes.disable_kprobe(probes[1])
    late = probe(log, "d")
    m.kprobes.register_kprobe(late)
    log.clear()
    assert m.call("f", 1) == 2 and log == ["d", "D"]


def test_A10_A11_A13_the_global_switch(m, log):
    clean = text(m)
    a, b = probe(log, "a"), probe(log, "b", flags=KprobeFlag.DISABLED)
    m.kprobes.register_kprobes([a, b])
    assert m.kprobes.enabled
    m.kprobes.enabled = False
    late = Kprobe(symbol_name="g", pre_handler=lambda p, regs: log.append("g") or 0)
    m.kprobes.register_kprobe(late)
    assert not m.kprobes.enabled and text(m) == clean and not a.disabled
    assert m.call("f", 1) == 2 and m.call("g") == 7 and log == []
    m.kprobes.enabled = True
    assert m.call("f", 1) == 2 and m.call("g") == 7 and log == ["a", "A", "g"] and b.disabled


def test_A12_enabled_while_the_switch_is_off(m, log):
    """Linux leaves such a probe DISABLED; the flag is what the user asked for, so here it is cleared."""
    p = probe(log, "a", flags=KprobeFlag.DISABLED)
    m.kprobes.register_kprobe(p)
    m.kprobes.enabled = False
    m.kprobes.enable_kprobe(p)
    assert not p.disabled and m.call("f", 1) == 2 and log == []
    m.kprobes.enabled = True
    assert m.call("f", 1) == 2 and log == ["a", "A"]


def test_R32_the_plural_takes_back_what_it_did(m, log):
    clean = text(m)
    good = [probe(log, "a"), Kprobe(symbol_name="g")]
    with pytest.raises(KprobeError) as info:
        m.kprobes.register_kprobes([*good, Kprobe(symbol_name="f", offset=1)])
    assert info.value.errno == errno.EILSEQ and info.value.rule is Rule.BOUNDARY
    assert text(m) == clean and m.kprobes.registered == ()


def test_R33_the_plural_of_nothing(m):
    for request in (m.kprobes.register_kprobes, m.kprobes.register_jprobes):
        with pytest.raises(KprobeError) as info:
            request([])
        assert info.value.errno == errno.EINVAL
    m.kprobes.unregister_kprobes([])
    m.kprobes.unregister_jprobes([])


def test_R36_unregister_with_a_stranger(m, log):
    clean = text(m)
    a, stranger, c = probe(log, "a"), Kprobe(addr=m["g"]), probe(log, "c")
    m.kprobes.register_kprobes([a, c])
    m.kprobes.unregister_kprobes([a, stranger, c])
    assert stranger.addr is None and a.addr == m["f"] and text(m) == clean


def test_N09_every_probe_at_the_address_is_missed(m, log):
    probes = three(m, log, post=False)
    m.kprobes.disable_kprobe(probes[0])
    outer = Kprobe(symbol_name="g", pre_handler=lambda p, regs: m.call("f", 1) and 0)
    m.kprobes.register_kprobe(outer)
    assert m.call("g") == 7
    assert [p.nmissed for p in probes] == [1, 1, 1] and [p.misses[Miss.REENTRANT] for p in probes] == [1, 1, 1]
    assert log == [] and outer.hits == 1


def test_N12_busy_section(m, log):
    p = probe(log, "a")
    m.kprobes.register_kprobe(p)
    with m.kprobes.busy(0):
        with m.kprobes.busy(0):
            assert m.call("f", 1) == 2
        assert m.call("f", 1) == 2
    assert (p.hits, p.nmissed) == (0, 2) and log == []
    assert m.call("f", 1) == 2 and (p.hits, p.nmissed) == (1, 2)


def test_a_jprobe_runs_after_the_probes_beside_it(m, log):
    jp = Jprobe(lambda x: log.append(x), symbol_name="f")
    a = probe(log, "a")
    m.kprobes.register_jprobe(jp)
    m.kprobes.register_kprobe(a)
    assert m.call("f", 5) == 6 and log == ["a", 5, "A"] and jp.kp.hits == 1
    with pytest.raises(KprobeError) as info:
        m.kprobes.register_jprobe(Jprobe(lambda x: 0, symbol_name="f"))
    assert info.value.errno == errno.EEXIST and info.value.rule is Rule.AGGREGATE


def test_a_handler_that_raises_ends_the_hit_for_all(m, log):
    a, b = probe(log, "a"), Kprobe(symbol_name="f", pre_handler=lambda p, regs: 1 // 0)
    m.kprobes.register_kprobes([a, b])
    m.start("f", 1, flags=IF)
    with pytest.raises(Exception, match="pre_handler of the probe on f raised ZeroDivisionError"):
        m.run()
    assert m.cpu[0].regs.ip == m["f"] and log == [] and m.kprobes.kprobe_running(0) is None
    m.kprobes.unregister_kprobe(b)
    m.run()
    assert m.cpu[0].regs.ax == 2 and log == ["a", "A"]


def test_registered_again_on_its_own(m, log):
    """The struct keeps its address when it was given by one, whatever the others at the address do."""
    a, b = Kprobe(addr=m["f"]), probe(log, "b")
    m.kprobes.register_kprobes([a, b])
    with pytest.raises(KprobeError) as info:
        m.kprobes.register_kprobe(a)
    assert info.value.rule is Rule.REGISTERED
    m.kprobes.unregister_kprobe(a)
    m.kprobes.register_kprobe(a)
    assert m.call("f", 1) == 2 and a.hits == 1 and b.hits == 1


def test_post_handler_joins_a_boosted_probe(m, log, every_mode):
    """Its slot jumps back, so it is stepped by TF in every mode, rather than never calling the handler."""
    m.kprobes.register_kprobe(probe(log, "a", post=False))
    assert m.call("f", 1) == 2
    assert ("boost" in [e.kind for e in m.events]) == every_mode.boost
    m.kprobes.register_kprobe(probe(log, "b"))
    assert m.call("f", 1) == 2 and log == ["a", "b", "a", "B"]


def test_H25_post_handler_added_to_a_registered_struct(m, log, every_mode):
    p = probe(log, "a", post=False)
    m.kprobes.register_kprobe(p)
    p.post_handler = lambda p, regs, flags: log.append("A")
    assert m.call("f", 1) == 2
    ignored = every_mode.boost and every_mode.step == "int3"
    assert log == ["a"] if ignored else ["a", "A"]
