"""The hit path: what handlers see and may do, and which traps are ours (scenarios H01 to H26)."""

import pytest

from kprobes import Phase, PtRegs, Trap, Vector
from tests.kprobes.fakecpu import CF, IF, TF, ZF
from tests.kprobes.fakemachine import DR6, HOME, FakeMachine, UnhandledTrap, plant

SOURCE = """
func store
    mov [rdi], rax
    mov rax, 1
    ret
endf store
func choose
    je 1f
    mov eax, 1
    ret
1:  mov eax, 2
    ret
endf choose
func two
    nop
    nop
    mov eax, 5
    ret
endf two
func bare
    int3
    ret
endf bare
func twobyte
    .byte 0xcd, 3
    ret
endf twobyte
func tick
    inc qword ptr [rip+count]
    iretq
endf tick
.data
count: .quad 0
room:  .quad 0
.size count, 8
.size room, 8
"""
BS = 1 << 14


@pytest.fixture
def m():
    return FakeMachine(SOURCE)


def kinds(m):
    return [event.kind for event in m.events]


def test_H01_without_handlers_a_hit_is_transparent(m):
    plain = m.start("store", m["room"])
    plain.ax = 9
    m.run()
    after = m.cpu[0].regs.copy()
    p = plant(m, "store")
    m.start("store", m["room"]).ax = 9
    m.run()
    assert m.cpu[0].regs == after and m.word(m["room"]) == 9 and p.hits == 1
    assert [vector for vector, _ in m.traps] == [3, 1]
    assert kinds(m) == ["hit", "step", "resume"]


def test_H02_pre_handler_sees_the_state_before(m):
    seen = []
    p = plant(m, "store", pre_handler=lambda p, regs: seen.append((p, regs.copy())))
    regs = m.start("store", m["room"])
    regs.ax, before = 7, None
    before = regs.copy()
    m.run()
    (got, regs), = seen
    before.ip, before.orig_ax = m["store"] + 1, regs.orig_ax
    assert got is p and regs == before and regs.flags & IF


def test_H03_pre_handler_changes_a_register(m):
    def handler(p, regs):
        regs.ax = 0x1234

    plant(m, "store", pre_handler=handler)
    m.call("store", m["room"])
    assert m.word(m["room"]) == 0x1234


def test_H04_pre_handler_resumes_elsewhere(m):
    post = []

    def handler(p, regs):
        regs.ip = m["two"]
        return 1

    plant(m, "store", pre_handler=handler, post_handler=lambda *a: post.append(a))
    assert m.call("store", m["room"]) == 5
    assert m.word(m["room"]) == 0 and not post and m.kprobes.kprobe_running(0) is None
    assert m.events[1].result == 1 and m.events[-1].kind == Phase.RESUME and m.events[-1].ip == m["two"]
    assert m.call("store", m["room"]) == 5, "nothing is left locked"


def test_H05_ip_without_a_result_is_lost(m):
    def handler(p, regs):
        regs.ip = m["two"]

    plant(m, "store", pre_handler=handler)
    assert m.call("store", m["room"]) == 1


@pytest.mark.parametrize("result", [None, 0, False])
def test_results_that_mean_zero(m, result):
    p = plant(m, "two", pre_handler=lambda p, regs: result)
    assert m.call("two") == 5 and p.hits == 1


def test_H06_result_one_without_a_new_ip(m):
    p = plant(m, "two", pre_handler=lambda p, regs: True)
    assert m.call("two") == 5 and p.hits == 1, "resumed at addr + 1, which for a one-byte instruction skips it"
    assert [vector for vector, _ in m.traps] == [3]


def test_H07_H08_post_handler_sees_the_state_after(m):
    seen = []
    plant(m, "store", 3, post_handler=lambda p, regs, flags: seen.append((regs.copy(), flags)))
    m.call("store", m["room"])
    (regs, flags), = seen
    assert regs.ip == m["store"] + 10 and regs.ax == 1 and flags == 0
    assert not regs.flags & TF and regs.flags & IF


def test_H09_handlers_change_flags_before_a_branch(m):
    plant(m, "choose", pre_handler=lambda p, regs: setattr(regs, "flags", regs.flags ^ ZF))
    assert m.call("choose", flags=IF) == 2
    assert m.call("choose", flags=IF | ZF) == 1


def test_H10_post_handler_changes_ip(m):
    def post(p, regs, flags):
        regs.ip = m["two"]

    plant(m, "store", post_handler=post)
    assert m.call("store", m["room"]) == 5


def test_H11_an_int3_that_is_not_ours(m):
    with pytest.raises(UnhandledTrap) as info:
        m.call("bare")
    assert info.value.trap.vector == 3 and info.value.trap.regs.ip == m["bare"] + 1


def test_int_3_in_two_bytes_is_not_ours(m):
    regs = PtRegs(ip=m["twobyte"] + 2, cs=0x10)
    assert not m.kprobes.on_trap(Trap(0, Vector.BP, regs)) and regs.ip == m["twobyte"] + 2


def test_int3_in_unmapped_memory_is_not_ours(m):
    assert not m.kprobes.on_trap(Trap(0, Vector.BP, PtRegs(ip=0x5001, cs=0x10)))
    assert not m.kprobes.on_trap(Trap(0, Vector.BP, PtRegs(ip=0, cs=0x10)))


def test_H12_user_mode_int3_is_not_ours(m):
    p = plant(m, "two")
    regs = PtRegs(ip=p.addr + 1, cs=0x33)
    assert not m.kprobes.on_trap(Trap(0, Vector.BP, regs)) and p.hits == 0 and regs.ip == p.addr + 1


def test_H13_breakpoint_that_vanished(m):
    p = plant(m, "two")
    regs = PtRegs(ip=p.addr + 1, cs=0x10)
    m.kprobes.unregister_kprobe(p)
    assert m.kprobes.on_trap(Trap(0, Vector.BP, regs))
    assert regs.ip == m["two"]


def test_H14_unregistered_while_in_the_slot(m):
    post = []
    p = plant(m, "store", post_handler=lambda *a: post.append(a))
    slot = m.kprobes.slot_of(p)
    m.start("store", m["room"]).ax = 3
    m.run(until=lambda regs: regs.ip == slot)
    assert m.kprobes.kprobe_running(0) is p
    m.kprobes.unregister_kprobe(p)
    q = plant(m, "two")
    assert m.kprobes.slot_of(q) != slot, "the slot is not reused yet"
    m.run()
    assert m.word(m["room"]) == 3 and m.cpu[0].regs.ax == 1 and m.cpu[0].regs.ip == HOME
    assert not post, "no handler runs after unregister_kprobe"
    r = plant(m, "choose")
    assert m.kprobes.slot_of(r) == slot


@pytest.mark.fake_only("needs several harts")
def test_H15_the_same_probe_on_four_cpus():
    m = FakeMachine(SOURCE, cpus=4)
    seen = []
    p = plant(m, "store", pre_handler=lambda p, regs: seen.append(regs.di))
    for cpu in range(4):
        m.start("store", m["room"] + 8 * 0, cpu=cpu).ax = 1
        m.cpu[cpu].regs.di = m["room"]
    for cpu in range(4):
        m.step(cpu)
    assert all(m.kprobes.kprobe_running(cpu) is p for cpu in range(4))
    for cpu in (3, 1, 0, 2):
        m.run(cpu)
    assert p.hits == 4 and p.nmissed == 0 and len(seen) == 4
    assert all(m.cpu[cpu].regs.ax == 1 and m.kprobes.kprobe_running(cpu) is None for cpu in range(4))


def test_H18_an_interrupt_waits_for_the_end_of_the_step(m):
    p = plant(m, "store")
    slot = m.kprobes.slot_of(p)
    at = []

    def pending(core):
        at.append(core.regs.ip)
        return slot in at

    m.injections.append((pending, "irq", m["tick"]))
    m.call("store", m["room"])
    assert m.word(m["count"]) == 1
    assert m.events[-1].ip == m["store"] + 3 and at[-1] == m["store"] + 3, "taken at the boundary after the step"


def test_H19_an_nmi_in_the_slot(m):
    p = plant(m, "store", post_handler=lambda *a: None)
    slot = m.kprobes.slot_of(p)
    m.injections.append((lambda core: core.regs.ip == slot, "nmi", m["tick"]))
    m.start("store", m["room"]).ax = 6
    m.run()
    assert m.word(m["count"]) == 1 and m.word(m["room"]) == 6 and p.hits == 1 and not m.unclaimed


def test_H20_somebody_else_is_stepping(m):
    steps = []
    m.guest_trap[1] = lambda m, trap: steps.append((trap.regs.ip, trap.dr6))
    text = m["two"]
    m.start("two", flags=TF | IF)
    m.run()
    plain, steps[:] = list(steps), []
    assert [ip for ip, _ in plain] == [text + 1, text + 2, text + 7, HOME]
    p = plant(m, "two", 1)
    m.start("two", flags=TF | IF)
    m.run()
    assert p.hits == 1 and steps == plain, "the debugger sees the same steps with and without the probe"
    assert m.cpu[0].regs.flags & TF


def test_H21_a_watchpoint_is_not_the_end_of_the_step(m):
    p = plant(m, "store")
    m.start("store", m["room"])
    m.run(until=lambda regs: regs.ip == m.kprobes.slot_of(p))
    regs = m.cpu[0].regs.copy()
    trap = Trap(0, Vector.DB, regs, dr6=DR6 | 1)
    assert not m.kprobes.on_trap(trap) and regs == m.cpu[0].regs and m.kprobes.kprobe_running(0) is p
    regs.ip = m["two"]
    assert not m.kprobes.on_trap(Trap(0, Vector.DB, regs, dr6=DR6 | BS)), "ip is not one that the step can end at"
    regs.ip = m.kprobes.slot_of(p) + 3
    trap = Trap(0, Vector.DB, regs, dr6=DR6 | BS | 1)
    assert not m.kprobes.on_trap(trap), "the step ended on a watchpoint: the debugger has to see that"
    assert regs.ip == m["store"] + 3 and trap.dr6 == DR6 | 1 and m.kprobes.kprobe_running(0) is None


def test_step_without_known_dr6(m):
    p = plant(m, "store")
    m.start("store", m["room"])
    m.run(until=lambda regs: regs.ip == m.kprobes.slot_of(p))
    regs = m.cpu[0].regs.copy()
    regs.ip += 3
    assert m.kprobes.on_trap(Trap(0, Vector.DB, regs)) and regs.ip == m["store"] + 3


def test_H22_spurious_debug_trap(m):
    assert not m.kprobes.on_trap(Trap(0, Vector.DB, PtRegs(ip=m["two"], cs=0x10), dr6=DR6 | BS))


@pytest.mark.parametrize("vector", [Vector.NMI, Vector.DF, Vector.MC, 32, 255])
def test_vectors_that_are_never_ours(m, vector):
    plant(m, "two")
    assert not m.kprobes.on_trap(Trap(0, vector, PtRegs(ip=m["two"], cs=0x10)))


def test_H23_foreign_int3_right_after_a_probe(m):
    plant(m, "two")
    m.write(m["two"] + 1, b"\xcc")
    with pytest.raises(UnhandledTrap) as info:
        m.call("two")
    assert info.value.trap.regs.ip == m["two"] + 2


def test_H26_flags_survive_many_hits(m):
    plant(m, "two")
    for flags in (0, IF, CF, IF | ZF | CF):
        for _ in range(5):
            m.call("two", flags=flags)
            assert m.cpu[0].regs.flags == 2 | flags


def test_events_of_a_hit(m):
    p = plant(m, "store", pre_handler=lambda p, regs: None, post_handler=lambda *a: None)
    m.call("store", m["room"])
    assert kinds(m) == [Phase.HIT, Phase.PRE, Phase.STEP, Phase.POST, Phase.RESUME]
    assert kinds(m) == ["hit", "pre", "step", "post", "resume"]
    assert {(e.cpu, e.probe, e.addr) for e in m.events} == {(0, p, p.addr)}
    assert [e.ip for e in m.events] == [p.addr + 1] * 2 + [m.kprobes.slot_of(p)] + [p.addr + 3] * 2
    assert m.events[1].result == 0


def test_observer_as_an_object():
    from kprobes import Kprobes

    class Observer:
        def __init__(self):
            self.events = []

        def on_probe(self, event):
            self.events.append(event)

    m, observer = FakeMachine(SOURCE), Observer()
    m.kprobes = Kprobes(m.guest, observer)
    plant(m, "two")
    m.call("two")
    assert len(observer.events) == 3
    with pytest.raises(TypeError, match="on_probe"):
        Kprobes(m, 5)
