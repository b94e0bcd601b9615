"""Removing probes waits until no cpu is inside them (unregister_kprobe: synchronize_rcu); where it cannot, nothing is lost.

Without ``patience`` a machine lets no cpu run meanwhile: so the other tests look at what happens then."""

import pytest

from kprobes import Jprobe, Kprobe, Kretprobe, Options
from tests.kprobes.fakemachine import HOME, MODES, FakeMachine

SOURCE = """
func f
    lea rax, [rdi+1]
at: add eax, 1000
    mov [rip+seen], rax
    add rax, 5
    ret
endf f

func other
    mov eax, 1
    ret
endf other

func mirror
    inc qword ptr [rip+mirrored]
    jmp jprobe_return
endf mirror

func stuck
1:  jmp 1b
endf stuck

func jprobe_return
    int3
    ret
endf jprobe_return

.data
seen: .quad 0
mirrored: .quad 0
"""
WAYS = {**MODES, "queued": Options(optimize=True, optimize_delay=1 << 30), "int3-queued": Options(
    step="int3", boost=True, optimize=True, optimize_delay=1 << 30)}


@pytest.fixture(params=WAYS)
def m(request):
    m = FakeMachine(SOURCE, options=WAYS[request.param])
    m.patience = 500
    return m


def planted(m, name="at", **fields):
    p = Kprobe(symbol_name=name, **{"pre_handler": lambda p, regs: 0} | fields)
    m.kprobes.register_kprobe(p)
    return p


def inside(m, p):
    """Run cpu 0 into what the probe uses: its slot, its detour, or its own place without the breakpoint."""
    m.start("f", 1)
    hits = p.hits

    def there(regs):
        return p.hits > hits and (regs.ip == m.kprobes.slot_of(p) or m.kprobes.is_kprobe_optinsn_slot(regs.ip) or (
            regs.ip == m["at"] and m.read(m["at"], 1) != b"\xcc"))

    m.run(until=there)


def nobody_is_left(m, pages):
    ip = m.cpu[0].regs.ip
    assert not m.kprobes.is_kprobe_insn_slot(ip) and not m.kprobes.is_kprobe_optinsn_slot(ip)
    assert m.kprobes.kprobe_running(0) is None and m.kprobes.deadline is None
    assert all(page in m.freed or not any(m.read(page, 4096)) for page in pages), "all slots are free"


def test_H14_the_cpu_leaves_and_the_slot_is_free(m):
    code, posts = m.bytes_of("f"), []
    p = planted(m)
    q = planted(m, post_handler=lambda p, regs, flags: posts.append(regs.ip)) if not m.kprobes.options.optimize else None
    inside(m, p)
    m.kprobes.unregister_kprobes([p] if q is None else [q, p])
    nobody_is_left(m, m.allocated)
    assert m.bytes_of("f") == code and not posts, "no handler runs after the request"
    m.run()
    assert m.cpu[0].regs.ax == 1007 and m.word(m["seen"]) == 1002


def test_H14_what_is_left_when_it_cannot_wait(m):
    m.patience = 0
    p = planted(m)
    inside(m, p)
    m.kprobes.unregister_kprobe(p)
    assert m.cpu[0].regs.ip != HOME
    m.run()
    assert m.cpu[0].regs.ax == 1007
    q = planted(m, "other")
    m.kprobes.unregister_kprobe(q)
    m.kprobes.wait_for_optimizer()
    nobody_is_left(m, m.allocated)


def test_no_instruction_runs_when_nobody_is_inside(m):
    p = planted(m)
    m.start("f", 1)
    m.run(until=lambda regs: regs.ip == m["at"])
    began = m.now, m.cpu[0].regs.ip
    m.kprobes.unregister_kprobe(p)
    assert (m.now, m.cpu[0].regs.ip) == began
    nobody_is_left(m, m.allocated)


def test_R36_one_wait_for_several(m, monkeypatch):
    probes = [planted(m), planted(m, "other"), Kprobe(symbol_name="f"), planted(m, "f")]
    waits, wait = [], m.guest.wait
    monkeypatch.setattr(m.guest, "wait", lambda done: waits.append(done()) or wait(done), raising=False)
    inside(m, probes[0])
    m.kprobes.unregister_kprobes(probes)
    assert waits == [False]
    nobody_is_left(m, m.allocated)
    m.kprobes.unregister_kprobes([])
    m.kprobes.unregister_kprobe(probes[0])
    assert waits == [False]


def test_one_of_two_probes_of_an_address_is_not_waited_for(m):
    """The slot stays the other's, and a cpu that is inside finishes its hit with that one's handlers."""
    p, posts = planted(m), []
    planted(m, post_handler=lambda p, regs, flags: posts.append(p))
    m.start("f", 1)
    m.run(until=lambda regs: (p.hits and regs.ip in (m.kprobes.slot_of(p), m["at"])) or posts)
    ip = m.cpu[0].regs.ip
    m.kprobes.unregister_kprobe(p)
    assert m.cpu[0].regs.ip == ip
    m.run()
    assert m.cpu[0].regs.ax == 1007 and len(posts) == 1


def test_P20_detours_are_free_after_wait_for_optimizer():
    """The request itself returns before the jump is gone."""
    m = FakeMachine(SOURCE, options=Options(optimize=True, optimize_delay=1000))
    m.patience = 500
    p = planted(m)
    m.kprobes.wait_for_optimizer()
    m.start("f", 1)
    m.run(until=lambda regs: m.kprobes.is_kprobe_optinsn_slot(regs.ip))
    m.kprobes.unregister_kprobe(p)
    assert m.read(m["at"], 1) == b"\xe9" and m.kprobes.is_kprobe_optinsn_slot(m.cpu[0].regs.ip)
    m.kprobes.wait_for_optimizer()
    assert m.read(m["at"], 1) != b"\xe9"
    nobody_is_left(m, m.allocated)
    m.run()
    assert m.cpu[0].regs.ax == 1007 and p.hits == 0


@pytest.mark.parametrize("boost", (False, True))
def test_J13_a_jprobe_is_left_by_jprobe_return(boost):
    m = FakeMachine(SOURCE, options=Options(boost=boost))
    m.patience = 500
    jp = Jprobe(m["mirror"], symbol_name="f")
    m.kprobes.register_jprobe(jp)
    m.start("f", 1)
    m.run(until=lambda regs: regs.ip == m["mirror"])
    m.kprobes.unregister_jprobe(jp)
    nobody_is_left(m, [page for page in m.allocated if m.kprobes.is_kprobe_insn_slot(page)])
    assert m.word(m["mirrored"]) == 1
    m.run()
    assert m.cpu[0].regs.ax == 1007


def test_J13_a_handler_that_does_not_end_is_not_waited_for_for_ever():
    m = FakeMachine(SOURCE)
    m.patience = 50
    jp = Jprobe(m["stuck"], symbol_name="f")
    m.kprobes.register_jprobe(jp)
    slot = m.kprobes.slot_of(jp)
    m.start("f", 1)
    m.run(until=lambda regs: regs.ip == m["stuck"])
    m.kprobes.unregister_jprobe(jp)
    assert any(m.read(slot, 15)), "the slot waits for the end of the hit"
    m.cpu[0].regs.ip = m["jprobe_return"]
    m.run()
    assert m.cpu[0].regs.ax == 1007 and not any(m.read(slot, 15))


def test_K15_calls_under_way_are_not_waited_for():
    m = FakeMachine(SOURCE)
    m.patience = 500
    seen = []
    rp = Kretprobe(symbol_name="f", handler=lambda ri, regs: seen.append(ri))
    m.kprobes.register_kretprobe(rp)
    slot = m.kprobes.slot_of(rp.kp)
    m.start("f", 1)
    m.run(until=lambda regs: regs.ip == slot)
    m.kprobes.unregister_kretprobes([rp])
    assert m.cpu[0].regs.ip != HOME and not any(m.read(slot, 15))
    m.run()
    assert m.cpu[0].regs.ax == 1007 and not seen


@pytest.mark.fake_only("needs several harts")
@pytest.mark.parametrize("way", WAYS)
def test_H14_all_cpus_are_waited_for_and_no_longer_than_needed(way):
    m = FakeMachine(SOURCE, cpus=3, options=WAYS[way])
    m.patience = 500
    p = planted(m)
    m.start("stuck", cpu=2)
    for cpu in (0, 1):
        m.start("f", cpu, cpu=cpu)
        m.run(cpu, until=lambda regs, cpu=cpu: m.kprobes.kprobe_running(cpu) or (
            m.kprobes.is_kprobe_insn_slot(regs.ip) or m.kprobes.is_kprobe_optinsn_slot(regs.ip)))
    began = m.now
    m.kprobes.unregister_kprobe(p)
    nobody_is_left(m, m.allocated)
    assert m.kprobes.kprobe_running(1) is None and m.cpu[2].regs.ip == m["stuck"]
    assert m.now - began < 3 * 8, "each has run a few instructions"
    for cpu in (0, 1):
        m.run(cpu)
        assert m.cpu[cpu].regs.ax == cpu + 1006
