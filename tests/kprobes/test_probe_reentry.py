"""Hits inside hits (scenarios N01 to N14)."""

import pytest

from kprobes import HandlerError, KprobePanic
from tests.kprobes.fakemachine import HOME, FakeMachine, UnhandledTrap, plant

SOURCE = """
func outer
    mov eax, 1
    add eax, edi
    ret
endf outer
func inner
    push rbp
    mov rbp, rsp
    lea eax, [rdi+rdi]
    pop rbp
    ret
endf inner
func load
    mov rax, [rdi]
    ret
endf load
func opens
    sti
    nop
    pushfq
    pop rax
    ret
endf opens
func nmi
    push rax
    call inner
    pop rax
    iretq
endf nmi
"""


@pytest.fixture
def m():
    return FakeMachine(SOURCE)


def never(*args):
    raise AssertionError("the handlers of a missed probe do not run")


def test_N01_handler_calls_a_probed_function(m):
    inner = plant(m, "inner", pre_handler=never, post_handler=never, fault_handler=never)
    results = []
    outer = plant(m, "outer", pre_handler=lambda p, regs: results.append(m.call("inner", 21)) or 0)
    assert m.call("outer", 5) == 6
    assert results == [42] and (inner.nmissed, inner.hits) == (1, 0) and (outer.nmissed, outer.hits) == (0, 1)
    assert [e.kind for e in m.events] == ["hit", "miss", "step", "resume", "pre", "step", "resume"]
    inner.pre_handler = inner.post_handler = None
    m.call("inner", 1)
    assert inner.hits == 1, "N03: it is not disarmed"


def test_N02_pre_and_post_call_it(m):
    inner = plant(m, "inner", pre_handler=never)
    results = []
    plant(m, "outer", pre_handler=lambda p, regs: results.append(m.call("inner", 1)) or 0,
          post_handler=lambda p, regs, flags: results.append(m.call("inner", 2)))
    assert m.call("outer", 5) == 6 and results == [2, 4] and inner.nmissed == 2
    assert m.kprobes.kprobe_running(0) is None


def test_every_missed_instruction_is_executed(m):
    probes = [plant(m, "inner", offset, pre_handler=never) for offset in (0, 1, 4, 7, 8)]
    results = []
    plant(m, "outer", pre_handler=lambda p, regs: results.append(m.call("inner", 8)) or 0)
    m.call("outer", 5)
    assert results == [16] and [p.nmissed for p in probes] == [1] * 5


def test_a_missed_step_keeps_the_interrupt_flag(m):
    plant(m, "opens", 1)
    plant(m, "opens", 2)
    results = []
    plant(m, "outer", pre_handler=lambda p, regs: results.append(m.call("opens")))
    m.call("outer", 5, flags=0)
    assert results == [0x202] and m.cpu[0].regs.flags & 0x300 == 0


@pytest.mark.fake_only("an NMI comes within a function that a handler calls, where nobody steps the hart")
def test_N07_third_level(m):
    """An NMI arrives while the step of a missed probe is under way, and its handler hits a probe."""
    first = plant(m, "inner")
    slot = m.kprobes.slot_of(first)
    third = plant(m, "inner", 1)
    plant(m, "outer", pre_handler=lambda p, regs: m.call("inner", 1))
    m.injections.append((lambda core: core.regs.ip == slot, "nmi", m["inner"] + 1))
    with pytest.raises(KprobePanic) as info:
        m.call("outer", 5)
    message = str(info.value)
    assert "the probe on inner+0x1 was hit" in message and "while the probe on inner," in message
    assert m.kprobes.kprobe_running(0) is None
    for p in m.kprobes.registered:
        m.kprobes.unregister_kprobe(p)
    assert third.nmissed == 0 and m.kprobes.registered == ()


def test_nmi_during_a_step_hits_probes(m):
    """Two levels: the outer step, and each probe of the NMI handler, one after the other."""
    inner = [plant(m, "inner", offset, pre_handler=never) for offset in (0, 1, 4)]
    outer = plant(m, "outer", post_handler=lambda *a: None)
    slot = m.kprobes.slot_of(outer)
    m.injections.append((lambda core: core.regs.ip == slot, "nmi", m["nmi"]))
    assert m.call("outer", 5) == 6
    assert [p.nmissed for p in inner] == [1, 1, 1] and outer.hits == 1 and not m.unclaimed
    assert m.kprobes.kprobe_running(0) is None


def test_N08_handler_hits_its_own_probe(m):
    p = plant(m, "outer", pre_handler=lambda p, regs: m.call("outer", 1) and 0)
    assert m.call("outer", 5) == 6 and (p.hits, p.nmissed) == (1, 1)


@pytest.mark.fake_only("needs several harts")
def test_N13_cpus_do_not_disturb_each_other():
    m = FakeMachine(SOURCE, cpus=2)
    a = plant(m, "outer", pre_handler=lambda p, regs: 0)
    b = plant(m, "inner", pre_handler=lambda p, regs: 0)
    m.start("outer", 1, cpu=0)
    m.start("inner", 2, cpu=1)
    m.step(0)
    m.step(1)
    assert (m.kprobes.kprobe_running(0), m.kprobes.kprobe_running(1)) == (a, b)
    m.run(1)
    m.run(0)
    assert (a.hits, a.nmissed, b.hits, b.nmissed) == (1, 0, 1, 0)


def test_N14_only_registration_resets_nmissed(m):
    p = plant(m, "outer", pre_handler=lambda p, regs: m.call("outer", 1) and 0)
    m.call("outer", 5)
    m.call("outer", 5)
    m.kprobes.disable_kprobe(p)
    m.kprobes.enable_kprobe(p)
    assert p.nmissed == 2
    m.kprobes.unregister_kprobe(p)
    assert (p.nmissed, p.hits) == (2, 2)
    p.addr = None
    m.kprobes.register_kprobe(p)
    assert (p.nmissed, p.hits) == (0, 0)


def test_F04_fault_of_a_missed_probe(m):
    load = plant(m, "load", fault_handler=never)
    m.guest_trap[14] = lambda m, trap: m.memory.map(trap.cr2, 1)
    results = []
    outer = plant(m, "outer", fault_handler=lambda *a: 0,
                  pre_handler=lambda p, regs: results.append(m.call("load", 0x7000)) or 0)
    assert m.call("outer", 5) == 6
    assert results == [0] and load.nmissed == 2 and outer.hits == 1, "the restarted instruction is missed again"
    assert m.unclaimed[0][1].ip == m["load"]


def test_unregistered_while_it_is_being_missed(m):
    inner = plant(m, "inner")
    outer = plant(m, "outer")
    slot, pages = m.kprobes.slot_of(inner), [m.kprobes.slot_of(outer)]
    m.injections.append((lambda core: core.regs.ip == pages[0], "nmi", m["nmi"]))
    m.start("outer", 5)
    m.run(until=lambda regs: regs.ip == slot)
    m.kprobes.unregister_kprobe(inner)
    m.kprobes.unregister_kprobe(outer)
    m.run()
    assert m.cpu[0].regs.ax == 6 and m.kprobes.kprobe_running(0) is None
    assert m.bytes_of("outer")[0] == 0xB8 and not any(m.read(slot, 15))


def test_guest_error_inside_a_handler_ends_the_outer_hit(m):
    outer = plant(m, "outer", pre_handler=lambda p, regs: m.call("load", 0x7000))
    m.start("outer", 5)
    with pytest.raises(HandlerError) as info:
        m.run()
    assert isinstance(info.value.__cause__, UnhandledTrap)
    assert m.cpu[0].regs.ip == m["outer"] and m.kprobes.kprobe_running(0) is None
    m.kprobes.unregister_kprobe(outer)
    m.run()
    assert m.cpu[0].regs.ip == HOME and m.cpu[0].regs.ax == 6
