"""Jumps in place of breakpoints: their life from registration to removal (scenarios P01 to P28, A16, A17, R20, R21)."""

import errno

import pytest

from kprobes import HandlerError, Kprobe, KprobeError, KprobeFlag, Obstacle, Options, Phase, Region
from tests.kprobes.fakecpu import CF, IF, OF, PF, SF, TF, ZF
from tests.kprobes.fakemachine import DATA, FakeMachine

DELAY = 400
SOURCE = """
func f
    mov rax, rdi
at: add rax, 5
    xor ecx, ecx
    lea rdx, [rip + cell]
    add rax, [rdx]
end: ret
endf f
func idle
1:  dec rdi
    jne 1b
    ret
endf idle
func other
    mov eax, 1
    ret
endf other
.data
cell: .quad 1000
"""
AT_SIZE = 6  # add, xor


def machine(source=SOURCE, **options):
    return FakeMachine(source, options=Options(optimize=True, optimize_delay=DELAY), **options)


def planted(m, at="at", **fields):
    p = Kprobe(addr=m[at] if isinstance(at, str) else at, **{"pre_handler": lambda p, regs: 0} | fields)
    m.kprobes.register_kprobe(p)
    return p


def wait(m, cycles=DELAY + 10):
    m.call("idle", cycles)


def optimized(m=None, at="at", **fields):
    """Return a machine and a probe whose jump is in place."""
    m = m or machine()
    p = planted(m, at, **fields)
    wait(m)
    assert jumps(m, at)
    m.traps.clear()
    m.events.clear()
    return m, p


def byte(m, at="at"):
    return m.read(m[at], 1)[0]


def jumps(m, at="at"):
    return byte(m, at) == 0xE9


def original(m, addr, size):
    return machine().read(addr, size)


def kinds(m):
    return [event.kind for event in m.events]


def flagged(p):
    return bool(p.flags & KprobeFlag.OPTIMIZED)


def test_P01_after_the_delay_a_jump_and_no_traps():
    m = machine()
    code = m.bytes_of("f")
    p = planted(m)
    assert byte(m) == 0xCC and flagged(p), "the flag comes before the jump"
    wait(m, 5)
    assert byte(m) == 0xCC
    wait(m)
    m.traps.clear()
    assert jumps(m) and flagged(p)
    start = m["at"] + 5 + int.from_bytes(m.read(m["at"] + 1, 4), "little", signed=True)
    assert m.kprobes.is_kprobe_optinsn_slot(start) and not m.kprobes.is_kprobe_insn_slot(start)
    assert [m.call("f", n) for n in range(3)] == [1005, 1006, 1007]
    assert p.hits == 3 and not m.traps and m.kprobes.kprobe_running(0) is None
    m.kprobes.unregister_kprobe(p)
    wait(m)
    assert m.bytes_of("f") == code and not flagged(p)


def test_P01_what_a_handler_sees():
    seen = []

    def pre(p, regs):
        seen.append((regs.copy(), m.kprobes.kprobe_running(0)))

    m = machine()
    _, p = optimized(m, pre_handler=pre)
    m.start("f", 7, 8, 9)
    m.run(until=lambda regs: regs.ip == m["at"])
    here = m.cpu[0].regs.copy()
    m.run()
    (regs, running), = seen
    assert running is p
    here.ip, here.orig_ax = m["at"] + 1, (1 << 64) - 1
    assert regs == here
    assert kinds(m) == [Phase.HIT, Phase.PRE, Phase.DETOUR, Phase.RESUME]


def test_P02_before_the_jump_one_trap_and_the_detours_copy():
    m = machine()
    p = planted(m)
    assert m.call("f", 1) == 1006 and p.hits == 1
    assert [vector for vector, _ in m.traps] == [3], "no step"
    assert kinds(m) == [Phase.HIT, Phase.PRE, Phase.DETOUR, Phase.RESUME]


def test_P02_before_the_jump_results_of_pre_handlers_count():
    m = machine()

    def pre(p, regs):
        regs.ip, regs.ax = m["end"], 77
        return 1

    planted(m, pre_handler=pre)
    assert m.call("f", 1) == 77


def test_P03_whole_instructions_are_copied():
    m, p = optimized(machine(SOURCE.replace("add rax, 5", "xor ecx, ecx\nxor edx, edx")))
    region = m.kprobes.region_of(p)
    assert isinstance(region, Region) and (region.size, [len(i.data) for i in region.insns]) == (6, [2, 2, 2])
    m, p = optimized(machine(SOURCE.replace("add rax, 5\n    xor ecx, ecx", "xor ecx, ecx\nxor edx, edx\nadd rax, 5\n")))
    assert m.kprobes.region_of(p).size == 8 and m.call("f", 3) == 1008


BODY = "func f\nmov rax, rdi\n{}\nret\nendf f\nfunc idle\n1: dec rdi\njne 1b\nret\nendf idle\n"
SAFE = "at: add rax, 2\nadd rax, 3\nnop\nnop\nnop\n"


@pytest.mark.parametrize(("body", "why"), [
    (SAFE + "mov ecx, 9\njrcxz at + 4\n", "goes to f+0x7"),                          # P04
    (SAFE + "mov ecx, 9\njrcxz at + 5\n", "goes to f+0x8"),                          # P06
    (SAFE + "test edi, edi\njns 1f\njmp rax\n1:", "may jump to any"),                # P07
    ("at: add rax, 5\njmp 1f\n.byte 0xcc, 0xcc, 0xcc\n1:\n", "'jmp "),               # P09
    ("at: add rax, 5\ncall 1f\n1: pop rcx\n", "'call "),                             # P09
    ("add rax, 2\nat: lea eax, [rax + 3]", "only 4 bytes are left"),                 # P10
])
def test_P04_P06_P07_P09_P10_code_that_a_jump_must_not_cover(body, why):
    m = machine(BODY.format(body))
    p = planted(m)
    assert not flagged(p)
    wait(m)
    assert byte(m) == 0xCC and not flagged(p)
    obstacle = m.kprobes.region_of(p)
    assert isinstance(obstacle, Obstacle) and why in obstacle.reason
    assert m.call("f", 5) == 10 and p.hits == 1


def test_P05_a_jump_to_the_address_itself():
    m = machine(BODY.format("mov ecx, 3\nat: add rax, 2\nnop\ndec ecx\njne at"))
    _, p = optimized(m)
    assert m.call("f", 1) == 7 and p.hits == 3 and not m.traps


def test_P08_an_instruction_with_an_exception_table_entry():
    m = machine(SOURCE + "\nextable end, other\n")
    p = planted(m)
    wait(m)
    assert byte(m) == 0xCC and "exception-table" in m.kprobes.region_of(p).reason


def test_P11_a_probe_with_post_handler():
    m = machine()
    p = planted(m, post_handler=lambda p, regs, flags: None)
    wait(m)
    assert byte(m) == 0xCC and not flagged(p) and isinstance(m.kprobes.region_of(p), Region)


def test_P12_R21_an_armed_probe_inside_the_region():
    m, outer = optimized()
    inner = planted(m, m["at"] + 4, post_handler=lambda p, regs, flags: None)
    assert byte(m) == 0xCC and not flagged(outer), "at once"
    assert m.read(m["at"] + 4, 1) == b"\xcc" and m.call("f", 1) == 1006 and (outer.hits, inner.hits) == (1, 1)
    wait(m)
    assert byte(m) == 0xCC
    m.kprobes.unregister_kprobe(inner)
    assert flagged(outer) and byte(m) == 0xCC
    wait(m)
    assert jumps(m) and m.call("f", 1) == 1006 and outer.hits == 2


def test_P12_the_inner_one_first():
    m = machine()
    inner = planted(m, m["at"] + 4)
    outer = planted(m)
    wait(m)
    assert byte(m) == 0xCC and not flagged(outer)
    m.kprobes.disable_kprobe(inner)
    wait(m)
    assert m.read(m["at"] + 4, 1) != b"\xcc" and jumps(m)
    m.kprobes.enable_kprobe(inner)
    assert byte(m) == 0xCC and not flagged(outer)
    assert m.call("f", 1) == 1006 and (outer.hits, inner.hits) == (1, 1)


def test_P12_an_inner_one_that_is_optimised_itself():
    m = machine(SOURCE.replace("lea rdx, [rip + cell]", "xor esi, esi\nlea rdx, [rip + cell]"))
    inner = planted(m, m["at"] + 4)
    wait(m)
    assert m.read(m["at"] + 4, 1) == b"\xe9"
    outer = planted(m)
    wait(m)
    assert byte(m) == 0xCC
    m.kprobes.unregister_kprobe(inner)
    assert byte(m) == 0xCC and m.read(m["at"] + 4, 1) == b"\xe9", "its jump leaves after the delay"
    wait(m)
    wait(m)
    assert jumps(m) and flagged(outer) and m.call("f", 1) == 1006


def test_P13_a_disabled_probe_inside_the_region():
    m = machine()
    planted(m, m["at"] + 4, flags=KprobeFlag.DISABLED)
    optimized(m)


def test_P14_results_and_ip_of_an_optimised_pre_handler_are_ignored():
    m = machine()

    def pre(p, regs):
        regs.ip = m["end"]
        return 1

    _, p = optimized(m, pre_handler=pre)
    assert m.call("f", 1) == 1006 and p.hits == 1


def test_P15_registers_and_flags_of_an_optimised_pre_handler_count():
    m = machine()

    def pre(p, regs):
        regs.ax, regs.flags = 100, regs.flags | CF

    m = machine(SOURCE.replace("add rax, 5\n    xor ecx, ecx", "adc rax, 5\nmov ecx, ecx"))
    optimized(m, pre_handler=pre)
    assert m.call("f", 1) == 1106


def test_P16_operands_relative_to_ip():
    m, p = optimized(at="lea", m=machine(SOURCE.replace("lea rdx", "lea: lea rdx")))
    assert m.call("f", 1) == 1006 and m.cpu[0].regs.dx == m["cell"] and not m.traps and p.hits == 1


@pytest.mark.parametrize("flags", [0, IF, CF | ZF, IF | SF | OF | PF])
def test_P17_flags_across_the_detour(flags):
    source = BODY.format("at: nop; nop; nop; nop; nop\npushf\npop rcx")
    results = []
    for probed in (False, True):
        m = machine(source)
        if probed:
            optimized(m)
        m.call("f", 1, flags=flags)
        results.append((m.cpu[0].regs.cx, m.cpu[0].regs.flags))
        assert not m.traps
    assert results[0] == results[1]
    assert results[0][0] & (IF | CF | ZF | SF | OF | PF) == flags


@pytest.mark.fake_only("needs several harts")
def test_P18_a_cpu_inside_the_region_is_waited_for():
    m = machine(cpus=2)
    p = planted(m)
    m.start("f", 1, cpu=1)
    m.cpu[1].regs.ip = m["at"] + 4
    wait(m)
    wait(m)
    assert byte(m) == 0xCC and flagged(p)
    m.run(1, until=lambda regs: regs.ip == m["at"] + AT_SIZE)
    wait(m)
    assert jumps(m)
    m.run(1)


@pytest.mark.fake_only("needs several harts")
def test_P18_a_cpu_that_will_come_back_into_the_region_is_waited_for():
    """Its step began before another probe's departure let the first be optimised."""
    m = machine(cpus=2)
    first, second = planted(m), planted(m, m["at"] + 4)
    m.start("f", 1, cpu=1)
    m.run(1, until=lambda regs: m.kprobes.is_kprobe_insn_slot(regs.ip))
    m.kprobes.unregister_kprobe(second)
    assert flagged(first)
    wait(m)
    assert byte(m) == 0xCC, "the step ends on the second instruction of the region"
    m.step(1)
    assert m.cpu[1].regs.ip == m["at"] + 4
    wait(m)
    assert byte(m) == 0xCC
    m.step(1)
    wait(m)
    assert jumps(m)
    m.run(1)
    assert m.cpu[1].regs.ax == 1006


def test_P19_unregistered_while_queued():
    m = machine()
    code = m.bytes_of("f")
    p = planted(m)
    m.kprobes.unregister_kprobe(p)
    assert m.bytes_of("f") == code and not flagged(p)
    wait(m)
    assert m.bytes_of("f") == code and m.kprobes.deadline is None


def test_P20_unregistered_while_installed():
    m, p = optimized()
    m.start("f", 1)
    m.run(until=lambda regs: m.kprobes.is_kprobe_optinsn_slot(regs.ip))
    m.kprobes.unregister_kprobe(p)
    assert jumps(m), "the call returns before the jump is gone"
    assert m.kprobes.get_kprobe(m["at"]) is None and m.kprobes.registered == ()
    m.run()
    assert m.cpu[0].regs.ax == 1006 and p.hits == 0, "its handler is gone"
    assert m.call("f", 1) == 1006 and p.hits == 0 and not m.traps
    wait(m)
    assert m.read(m["at"], 6) == original(m, m["at"], 6) != b"\xe9" and m.call("f", 1) == 1006
    assert m.kprobes.deadline is None


@pytest.mark.fake_only("needs several harts")
def test_P20_a_cpu_in_the_detour_when_the_jump_goes():
    m, p = optimized(machine(cpus=2))
    m.start("f", 1, cpu=1)
    m.run(1, until=lambda regs: m.kprobes.is_kprobe_optinsn_slot(regs.ip))
    m.step(1)
    m.kprobes.unregister_kprobe(p)
    wait(m)
    assert not jumps(m)
    q = planted(m, "other")
    wait(m)
    m.run(1)
    assert m.cpu[1].regs.ax == 1006 and m.call("other") == 1 and q.hits == 1
    wait(m)
    assert m.kprobes.deadline is None, "the detour is free once the cpu has left it"


def test_P21_registered_again_before_the_jump_is_gone():
    m, p = optimized()
    m.kprobes.unregister_kprobe(p)
    q = planted(m)
    assert flagged(q) and jumps(m)
    wait(m)
    assert jumps(m) and m.call("f", 1) == 1006 and (p.hits, q.hits) == (0, 1) and not m.traps


def test_P21_registered_again_as_one_that_cannot_be_optimised():
    m, p = optimized()
    m.kprobes.unregister_kprobe(p)
    posts = []
    q = planted(m, post_handler=lambda p, regs, flags: posts.append(regs.ip))
    assert byte(m) == 0xCC and not flagged(q)
    assert m.call("f", 1) == 1006 and posts == [m["at"] + 4]


def test_P22_the_switch():
    m, p = optimized()
    assert m.kprobes.optimization is True
    m.kprobes.optimization = False
    assert byte(m) == 0xCC and not flagged(p) and m.kprobes.deadline is None
    q = planted(m, "other")
    wait(m)
    assert byte(m, "other") == 0xCC and not flagged(q) and m.call("f", 1) == 1006 and p.hits == 1
    m.kprobes.optimization = True
    assert flagged(p) and flagged(q) and byte(m) == 0xCC
    wait(m)
    assert jumps(m) and jumps(m, "other") and m.call("f", 1) == 1006 and p.hits == 2


def test_P22_the_switch_takes_out_what_was_leaving():
    m, p = optimized()
    code = original(m, m["at"], 8)
    m.kprobes.unregister_kprobe(p)
    m.kprobes.optimization = False
    assert m.read(m["at"], 8) == code and m.kprobes.deadline is None


def test_P23_no_place_for_the_detour_in_reach():
    m = machine()
    far = m.alloc_text_page
    m.alloc_text_page = lambda near: far(near) if not m.allocated else far(near + (1 << 33))
    p = planted(m)
    wait(m)
    assert byte(m) == 0xCC and not flagged(p)
    assert m.kprobes.region_of(p).code == errno.ERANGE and "2 GiB" in m.kprobes.region_of(p).reason
    assert m.call("f", 1) == 1006 and p.hits == 1


@pytest.mark.fake_only("needs several harts")
def test_P24_a_cpu_at_the_site_at_each_step_of_writing_and_removing():
    for stop in range(1, 7):
        m = machine(cpus=2)
        hits = []
        p = planted(m, pre_handler=lambda p, regs, hits=hits: hits.append(regs.ip))
        m.start("f", 1, cpu=1)
        m.run(1, until=lambda regs, m=m: regs.ip == m["at"])
        m.syncs, sync = 0, m.sync_cores

        def between(m=m, sync=sync, stop=stop):
            sync()
            if m.syncs == stop:
                m.run(1)

        m.sync_cores = between
        wait(m)
        assert jumps(m)
        m.kprobes.unregister_kprobe(p)
        wait(m)
        assert not jumps(m) and m.syncs == 6
        assert m.cpu[1].regs.ax == 1006
        assert hits == [m["at"] + 1] * (stop <= 3), "after the unregistration no handler runs"
        assert [vector for vector, _ in m.traps] in ([], [3])


@pytest.mark.fake_only("needs several harts")
def test_P25_the_breakpoint_that_comes_back_is_the_probes():
    m, p = optimized(machine(cpus=2))
    m.start("f", 1, cpu=1)
    m.run(1, until=lambda regs: regs.ip == m["at"])
    m.syncs, sync = 0, m.sync_cores

    def between():
        sync()
        if m.syncs == 1:
            m.run(1)

    m.sync_cores = between
    m.kprobes.optimization = False
    assert p.hits == 1 and m.cpu[1].regs.ax == 1006 and [vector for vector, _ in m.traps][:1] == [3]


def test_P26_R20_decoding_through_a_jump():
    m, p = optimized()
    q = planted(m, m["end"])
    with pytest.raises(KprobeError) as caught:
        planted(m, m["at"] + 2)
    assert caught.value.errno == errno.EILSEQ and "add rax, 5" in str(caught.value) and jumps(m)
    assert m.call("f", 1) == 1006 and (p.hits, q.hits) == (1, 1)


def test_P27_entry_text():
    m = machine()
    black = m["f"], m["idle"], "the entry code of the traps"
    m.black.append(black)
    with pytest.raises(KprobeError, match="must not be probed: the entry code"):
        planted(m)
    m.black[:] = [(m["at"] + 4, m["idle"], "the entry code of the traps")]
    p = planted(m)
    assert m.kprobes.region_of(p).code == errno.EBUSY and not flagged(p)


def test_P28_disabled_while_optimised():
    m, p = optimized()
    m.kprobes.disable_kprobe(p)
    assert p.flags & (KprobeFlag.DISABLED | KprobeFlag.OPTIMIZED) == KprobeFlag.DISABLED | KprobeFlag.OPTIMIZED
    assert m.call("f", 1) == 1006 and p.hits == 0 and not m.traps
    wait(m)
    assert not flagged(p) and p.disabled and byte(m) not in (0xCC, 0xE9)
    m.kprobes.enable_kprobe(p)
    wait(m)
    assert jumps(m) and m.call("f", 1) == 1006 and p.hits == 1


def test_P28_enabled_again_before_the_jump_is_gone():
    m, p = optimized()
    m.kprobes.disable_kprobe(p)
    m.kprobes.enable_kprobe(p)
    assert jumps(m) and flagged(p) and m.call("f", 1) == 1006 and p.hits == 1 and not m.traps
    wait(m)
    assert jumps(m)


def test_A16_A17_a_post_handler_joins_and_leaves():
    m, p = optimized()
    posts = []
    q = planted(m, post_handler=lambda p, regs, flags: posts.append(regs.ip))
    assert byte(m) == 0xCC and not flagged(p)
    assert m.call("f", 1) == 1006 and posts == [m["at"] + 4] and (p.hits, q.hits) == (1, 1)
    m.kprobes.unregister_kprobe(q)
    assert flagged(p)
    wait(m)
    assert jumps(m) and m.call("f", 1) == 1006 and (p.hits, q.hits) == (2, 1)


def test_a_second_probe_at_an_optimised_address():
    m, p = optimized()
    order = []
    p.pre_handler = lambda p, regs: order.append("old")
    q = planted(m, pre_handler=lambda p, regs: order.append("new") or 1)
    assert jumps(m) and flagged(q)
    assert m.call("f", 1) == 1006 and order == ["new", "old"], "results are ignored, so the older one runs, too"
    m.kprobes.disable_kprobe(q)
    assert jumps(m) and m.call("f", 1) == 1006 and order[2:] == ["old"]
    m.kprobes.unregister_kprobe(p)
    wait(m)
    assert not jumps(m) and byte(m) != 0xCC


def test_the_global_switch():
    m, p = optimized()
    code = original(m, m["at"], 8)
    m.kprobes.enabled = False
    assert m.read(m["at"], 8) == code and not flagged(p) and m.call("f", 1) == 1006 and p.hits == 0
    m.kprobes.enabled = True
    assert flagged(p)
    wait(m)
    assert jumps(m)


def test_N08_a_hit_of_an_optimised_probe_inside_a_handler():
    m = machine()

    def pre(p, regs):
        if not p.nmissed:
            assert m.call("f", 1) == 1006

    _, p = optimized(m, pre_handler=pre)
    assert m.call("f", 1) == 1006 and (p.hits, p.nmissed) == (1, 1)
    outer = planted(m, m["end"], pre_handler=lambda p, regs: m.call("f", 2) and 0)
    assert m.call("f", 1) == 1006 and p.nmissed == 2 + 0 * outer.nmissed


def test_the_worker_can_be_asked_at_once():
    m = machine()
    p = planted(m)
    m.kprobes.wait_for_optimizer()
    assert jumps(m) and flagged(p) and m.kprobes.deadline is None


def test_text_that_somebody_else_wrote_over_is_left_alone():
    m, p = optimized()
    m.write(m["at"], b"\x90" * 6)
    m.kprobes.unregister_kprobe(p)
    wait(m)
    assert m.read(m["at"], 6) == b"\x90" * 6 and m.kprobes.get_kprobe(m["at"]) is None


def test_stepping_in_place_cannot_be_optimised():
    m = FakeMachine(SOURCE, options=Options(step="inline"))
    with pytest.raises(KprobeError, match="uses no copies"):
        m.kprobes.optimization = True


def test_text_that_is_gone_when_the_jump_is_to_be_written():
    m = machine()
    p = planted(m)
    page = m.memory.pages[m["at"] & -4096]
    del m.memory.pages[m["at"] & -4096]
    m.kprobes.wait_for_optimizer()
    assert not flagged(p) and m.kprobes.deadline is None and bytes(page)
    m.kprobes.unregister_kprobe(p)


def test_without_the_option_nothing_is_optimised():
    m = FakeMachine(SOURCE, options=Options())
    p = planted(m)
    wait(m)
    assert byte(m) == 0xCC and not flagged(p) and m.kprobes.deadline is None and m.kprobes.optimization is False


def test_everything_that_was_written_is_taken_back():
    m = machine()
    before = {page: data for page, data in m.snapshot().items() if page < DATA}
    probes = [planted(m, name) for name in ("at", "other", "f", "end")]
    wait(m)
    assert jumps(m, "other")
    for p in probes:
        m.kprobes.unregister_kprobe(p)
    wait(m)
    after = {page: data for page, data in m.snapshot().items() if page < DATA}
    assert all(after[page] == data for page, data in before.items())
    assert not any(any(m.read(page, 4096)) for page in set(m.allocated) - set(m.freed))


def test_H20_somebody_steps_through_a_jump():
    """The debugger stops inside the detour, as it would in the kernel; the program and the hit are what they are without it."""
    m, p = optimized()
    stops = []
    m.guest_trap[1] = lambda m, trap: stops.append(trap.regs.ip)
    m.start("f", 1, flags=IF | TF)
    m.run()
    assert m.cpu[0].regs.ax == 1006 and m.cpu[0].regs.flags & TF and p.hits == 1
    assert m["end"] in stops and any(m.kprobes.is_kprobe_optinsn_slot(ip) for ip in stops)


def test_H20_before_the_jump_is_there_a_step_is_a_step():
    m = machine()
    p = planted(m)
    stops = []
    m.guest_trap[1] = lambda m, trap: stops.append(trap.regs.ip)
    m.start("f", 1, flags=IF | TF)
    m.run()
    assert m.cpu[0].regs.ax == 1006 and p.hits == 1 and m["at"] + 4 in stops
    assert not any(m.kprobes.is_kprobe_optinsn_slot(ip) for ip in stops)


def test_a_handler_that_raises():
    """The instruction is executed with the registers as they were, and nothing of the hit is left."""
    m = machine()

    def pre(p, regs):
        regs.ax = 0
        raise RuntimeError("oops")

    _, p = optimized(m, pre_handler=pre)
    with pytest.raises(HandlerError, match="oops"):
        m.call("f", 1)
    assert m.kprobes.kprobe_running(0) is None and p.hits == 1
    m.run()
    assert m.cpu[0].regs.ax == 1006
    p.pre_handler = None
    assert m.call("f", 1) == 1006 and p.hits == 2
