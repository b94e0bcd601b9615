"""Requests while other cpus run through the code that they change: what a cpu finds between the write and the last sync."""

import errno

import pytest

from kprobes import GuestMemoryError, Jprobe, Kprobe, KprobeError, KprobeFlag, Kretprobe, Options, Phase
from tests.kprobes.fakemachine import FakeMachine

pytestmark = pytest.mark.fake_only("cpu 1 runs at moments of its choice; tests/smp has the same with harts")

SOURCE = """
func f
    mov rax, rdi
at: add rax, 5
    xor ecx, ecx
    mov rdx, rax
    ret
endf f
"""
RESULT = 12 + 5


class LiveMachine(FakeMachine):
    """While the runtime waits for the cpus to serialise, cpu 1 calls the function; ``results`` are what it got."""

    def __init__(self, **options):
        super().__init__(SOURCE, cpus=2, **options)
        self.results, self.live = [], True

    def sync_cores(self):
        super().sync_cores()
        if self.live:
            self.results.append(self.call("f", 12, cpu=1))


@pytest.fixture
def m():
    return LiveMachine()


def kinds(m):
    return [(event.kind, event.cpu) for event in m.events]


HIT = [(Phase.HIT, 1), (Phase.PRE, 1), (Phase.STEP, 1), (Phase.RESUME, 1)]


def test_H16_hit_before_the_registration_returns(m):
    """The other cpu hits the breakpoint as soon as the byte is there: its hit is handled, counted, and not forgotten."""
    seen = []
    p = Kprobe(symbol_name="f", offset=3, pre_handler=lambda p, regs: seen.append((p.addr, p.opcode, m.kprobes.cpu)))
    m.kprobes.register_kprobe(p)
    assert seen == [(m["at"], 0x48, 1)]
    assert (p.hits, p.nmissed, p.addr) == (1, 0, m["at"])
    assert m.results == [RESULT] and kinds(m) == HIT


def test_H16_the_second_probe_of_an_address(m):
    seen = []
    first, second = (Kprobe(addr=m["at"], pre_handler=lambda p, regs, n=n: seen.append(n)) for n in (1, 2))
    first.flags = KprobeFlag.DISABLED
    m.kprobes.register_kprobe(first)
    assert not m.syncs
    m.kprobes.register_kprobe(second)
    assert seen == [2] and second.hits == 1 and m.results == [RESULT]


def test_H16_enabled_while_the_other_cpu_runs(m):
    p = Kprobe(addr=m["at"], pre_handler=lambda p, regs: 0, flags=KprobeFlag.DISABLED)
    m.kprobes.register_kprobe(p)
    m.kprobes.enable_kprobe(p)
    assert p.hits == 1 and not p.misses and m.results == [RESULT]
    m.kprobes.enabled = False
    m.kprobes.enabled = True
    assert p.hits == 2 and m.results == [RESULT] * 3


def test_H16_a_kretprobe_hooks_a_call_before_the_registration_returns(m):
    seen = []
    rp = Kretprobe(handler=lambda ri, regs: seen.append(regs.ax), symbol_name="f")
    m.kprobes.register_kretprobe(rp)
    assert seen == [RESULT] and rp.nmissed == 0 and rp.kp.hits == 1
    assert m.results == [RESULT] * 2  # once while the trampoline was written
    m.kprobes.unregister_kretprobe(rp)
    assert seen == [RESULT] and m.results == [RESULT] * 3


def test_H16_a_jprobe(m):
    seen = []
    m.kprobes.register_jprobe(Jprobe(lambda a: seen.append(a), symbol_name="f"))
    assert seen == [12] and m.results[-1] == RESULT


def test_H13_H17_no_handler_runs_once_the_byte_is_back(m):
    for remove in (m.kprobes.disable_kprobe, m.kprobes.unregister_kprobe):
        p = Kprobe(addr=m["at"], pre_handler=lambda p, regs: 0)
        m.kprobes.register_kprobe(p)
        hits, syncs = p.hits, m.syncs
        remove(p)
        assert p.hits == hits and m.syncs == syncs + 1 and m.results[-1] == RESULT
        m.kprobes.unregister_kprobe(p)


def test_a_refusal_leaves_the_struct_as_it_was(m, monkeypatch):
    """Text that cannot be written is found out when the probe is in the table already."""
    p = Kprobe(symbol_name="f", offset=3, pre_handler=lambda p, regs: 0)
    m.kprobes.register_kprobe(p)
    m.kprobes.unregister_kprobe(p)
    rp = Kretprobe(handler=lambda ri, regs: 0, symbol_name="f")
    p.addr, p.offset, p.misses["x"], p.nmissed = None, 3, 7, 9
    before, write = (dict(vars(p)), dict(p.misses)), m.write

    def refuse(addr, data):
        if m.is_text(addr):
            raise GuestMemoryError("read-only")
        write(addr, data)

    monkeypatch.setattr(m, "write", refuse)
    with pytest.raises(KprobeError) as refused:
        m.kprobes.register_kprobe(p)
    assert refused.value.errno == errno.EINVAL
    assert (vars(p), p.misses) == before and not m.kprobes.registered
    with pytest.raises(KprobeError):
        m.kprobes.register_kretprobe(rp)
    assert rp.maxactive == 0 and m.kprobes.in_flight(rp) == 0 and m.kprobes.kretprobe_trampoline is None


def test_P24_jump_planted_and_removed_under_a_running_cpu():
    """Breakpoint, temporary breakpoint, jump and back: each call of the other cpu is one hit, until there is no probe."""
    m = LiveMachine(options=Options(optimize=True, optimize_delay=50))
    p = Kprobe(addr=m["at"], pre_handler=lambda p, regs: 0)
    m.kprobes.register_kprobe(p)
    m.kprobes.wait_for_optimizer()
    assert m.read(m["at"], 1) == b"\xe9"
    assert p.hits == len(m.results) == 1 + 3
    m.kprobes.optimization = False
    assert m.read(m["at"], 1) == b"\xcc"
    assert p.hits == len(m.results) == 4 + 2
    m.kprobes.optimization = True
    m.kprobes.wait_for_optimizer()
    hits = p.hits
    m.kprobes.unregister_kprobe(p)
    m.events.clear()
    m.kprobes.wait_for_optimizer()
    assert m.read(m["at"], 1) == b"\x48"
    assert p.hits == hits and set(m.results) == {RESULT}
    assert [kind for kind, _ in kinds(m)] == [Phase.DETOUR, Phase.RESUME] * 2, "two breakpoints that nobody asked for"
