"""Faults of the stepped instruction and faults inside handlers (scenarios F01 to F11), and handlers that raise."""

import pytest

from kprobes import GuestMemoryError, HandlerError, Kprobe, PtRegs, Trap, Vector
from tests.kprobes.fakecpu import CF, IF, TF
from tests.kprobes.fakemachine import HOME, FakeMachine, UnhandledTrap

RF = 1 << 16  # set in the frame of a fault
HOLE = 0x12345000
SOURCE = """
func fetch
    mov rax, [rdi]
    add rax, 1
    ret
endf fetch
func pushes
    pushfq
    pop rax
    ret
endf pushes
func calls
    call fetch
    ret
endf calls
func divide
    div rcx
    ret
endf divide
func mirror
    mov rbx, [rsi]
    mov eax, 3
    ret
endf mirror
func scan
    repne scasb
    ret
endf scan
"""


@pytest.fixture
def m():
    return FakeMachine(SOURCE)


class Count:
    """Handlers that count, and a fault_handler with a chosen result."""

    def __init__(self, m, name, fault=None, **extra):
        self.pre = self.post = 0
        self.faults = []
        self.fault = fault
        self.p = Kprobe(symbol_name=name, pre_handler=self.on_pre, post_handler=self.on_post,
                        fault_handler=self.on_fault if fault else None, **extra)
        m.kprobes.register_kprobe(self.p)

    def on_pre(self, p, regs):
        self.pre += 1

    def on_post(self, p, regs, flags):
        self.post += 1

    def on_fault(self, p, regs, trapnr):
        self.faults.append((trapnr, regs.ip, regs.flags & ~RF))
        return self.fault(regs)


def map_page(m, trap):
    m.memory.map(trap.cr2, 1)
    m.memory.store(trap.cr2, 41, 8)


def test_F01_page_is_mapped_and_the_instruction_restarted(m):
    c = Count(m, "fetch")
    m.guest_trap[14] = map_page
    assert m.call("fetch", HOLE) == 42
    assert (c.pre, c.post) == (2, 1)
    (vector, regs), = m.unclaimed
    assert vector == 14 and regs.ip == m["fetch"] and regs.flags & (TF | IF) == IF
    assert " ".join(e.kind for e in m.events) == "hit pre step fault resume hit pre step post resume"


def test_F02_exception_table(m):
    c = Count(m, "fetch")
    m.guest_trap[14] = lambda m, trap: setattr(trap.regs, "ip", m["fetch"] + 3)
    assert m.call("fetch", HOLE, flags=IF | CF) == 1
    assert (c.pre, c.post) == (1, 0) and m.kprobes.kprobe_running(0) is None


@pytest.mark.parametrize("flags", [0, IF, IF | CF])
def test_F03_reported_at_the_probed_address(m, flags):
    Count(m, "fetch")
    with pytest.raises(UnhandledTrap) as info:
        m.call("fetch", HOLE, flags=flags)
    regs = info.value.trap.regs
    assert regs.ip == m["fetch"] and regs.flags & ~RF == 2 | flags and info.value.trap.cr2 == HOLE
    assert m.kprobes.kprobe_running(0) is None


def test_F03_TF_of_a_debugger_survives_the_fault(m):
    Count(m, "fetch")
    with pytest.raises(UnhandledTrap) as info:
        m.call("fetch", HOLE, flags=TF | IF)
    assert info.value.trap.regs.flags & ~RF == 2 | TF | IF


def test_F07_fault_handler_that_declines(m):
    c = Count(m, "fetch", lambda regs: 0)
    with pytest.raises(UnhandledTrap):
        m.call("fetch", HOLE)
    assert c.faults == [(14, m["fetch"], 2 | IF)] and c.post == 0


def test_F07_fault_handler_that_repairs(m):
    def repair(regs):
        m.memory.map(HOLE, 1)
        return 1

    c = Count(m, "fetch", repair)
    assert m.call("fetch", HOLE) == 1
    assert (c.pre, c.post, len(c.faults)) == (1, 1, 1), "the instruction is tried again in the slot"
    assert not m.unclaimed and m.cpu[0].regs.flags & (TF | IF) == IF


def test_F07_fault_handler_that_corrects_a_register(m):
    def repair(regs):
        regs.di = m["fetch"]
        return True

    c = Count(m, "fetch", repair)
    m.call("fetch", HOLE)
    assert (c.pre, c.post) == (1, 1)


def test_F07_fault_handler_that_skips(m):
    def skip(regs):
        regs.ip += 3
        regs.ax = 7
        return 1

    c = Count(m, "fetch", skip)
    assert m.call("fetch", HOLE) == 8
    assert (c.pre, c.post) == (1, 0) and m.kprobes.kprobe_running(0) is None


def test_fault_handler_is_not_called_without_a_fault(m):
    c = Count(m, "fetch", lambda regs: 0)
    m.call("fetch", m["fetch"])
    assert c.faults == []


@pytest.mark.fake_only("a trap needs a stack for its frame: on the hardware this is a double fault")
@pytest.mark.parametrize("name", ["pushes", "calls"])
def test_F08_a_push_that_faults_changes_nothing(m, name):
    m.kprobes.register_kprobe(Kprobe(symbol_name=name))
    m.memory.map(0x20000, 4096)
    slot_trap = []
    m.write(0x20000, b"\xaa" * 16)
    m.start(name)
    m.cpu[0].regs.sp = 0x20000
    real = m.write

    def write(addr, data):  # the frame of the traps goes to another stack, as with IST
        if addr < 0x20000 and len(data) == 168:
            slot_trap.append(data)
        else:
            real(addr, data)

    m.write = write
    read = m.read
    m.read = lambda addr, n: slot_trap[-1] if n == 168 and addr < 0x20000 else read(addr, n)
    with pytest.raises(UnhandledTrap) as info:
        m.run()
    assert info.value.trap.regs.ip == m[name] and info.value.trap.regs.sp == 0x20000
    assert m.memory.peek(0x20000, 16) == b"\xaa" * 16


def test_F10_general_protection(m):
    Count(m, "fetch")
    with pytest.raises(UnhandledTrap) as info:
        m.call("fetch", 0x8000_0000_0000_0000)
    assert info.value.trap.vector == 13 and info.value.trap.regs.ip == m["fetch"]


def test_I40_scan_faults_in_an_iteration(m):
    c = Count(m, "scan")
    m.memory.map(HOLE, 1)
    m.write(HOLE + 4094, b"ab")
    m.guest_trap[14] = lambda m, trap: (m.memory.map(trap.cr2, 1), m.memory.store(trap.cr2, ord("x"), 1))
    regs = m.start("scan", HOLE + 4094)
    regs.cx, regs.ax = 10, ord("x")
    m.run()
    assert m.cpu[0].regs.di == HOLE + 4097 and m.cpu[0].regs.cx == 7
    assert (c.pre, c.post) == (4, 3)


def test_I54_divide_error_is_reported_at_the_probe(m):
    Count(m, "divide")
    with pytest.raises(UnhandledTrap) as info:
        m.call("divide")
    assert info.value.trap.vector == 0 and info.value.trap.regs.ip == m["divide"]


def test_F11_a_fault_outside_any_hit_is_left_alone(m):
    c = Count(m, "divide", lambda regs: 1)
    regs = PtRegs(ip=0x1234, cs=0x10)
    assert not m.kprobes.on_trap(Trap(0, Vector.PF, regs, 0, HOLE)) and regs == PtRegs(ip=0x1234, cs=0x10)
    assert c.faults == []


def test_F05_fault_in_guest_code_that_a_handler_runs(m):
    def repair(p, regs, trapnr):
        faults.append((trapnr, regs.ip))
        m.memory.map(HOLE, 1)
        return 1

    faults, results = [], []
    p = Kprobe(symbol_name="divide", fault_handler=repair)
    p.pre_handler = lambda p, regs: results.append(m.call("fetch", HOLE))
    m.kprobes.register_kprobe(p)
    m.start("divide").cx = 1
    m.run()
    assert results == [1] and faults == [(14, m["fetch"])] and not m.unclaimed


def test_F05_declined_fault_in_guest_code_goes_to_the_guest(m):
    m.guest_trap[14] = map_page
    results = []
    p = Kprobe(symbol_name="divide", post_handler=lambda p, regs, flags: results.append(m.call("fetch", HOLE)))
    m.kprobes.register_kprobe(p)
    m.start("divide").cx = 1
    m.run()
    assert results == [42] and m.unclaimed[0][1].ip == m["fetch"]


@pytest.mark.parametrize("role", ["pre_handler", "post_handler"])
def test_F05_page_fault_of_a_python_handler(m, role):
    asked = []

    def handler(p, regs, *flags):
        m.read(HOLE, 8)

    def pardon(p, regs, trapnr):
        asked.append(trapnr)
        return 1

    p = Kprobe(symbol_name="divide", fault_handler=pardon, **{role: handler})
    m.kprobes.register_kprobe(p)
    m.start("divide").cx = 1
    m.run()
    assert asked == [14] and m.cpu[0].regs.ip == HOME


def test_page_fault_of_a_python_handler_that_nobody_handles(m):
    p = Kprobe(symbol_name="divide", pre_handler=lambda p, regs: m.read(HOLE, 8) and 0)
    m.kprobes.register_kprobe(p)
    with pytest.raises(HandlerError, match="GuestMemoryError") as info:
        m.call("divide")
    assert isinstance(info.value.__cause__, GuestMemoryError)


def bad(*args):
    args[1].ax = 0xBAD
    args[1].ip = 0xBAD
    raise ValueError("no such thing")


def test_pre_handler_that_raises(m):
    p = Kprobe(symbol_name="fetch", pre_handler=bad)
    m.kprobes.register_kprobe(p)
    regs = m.start("fetch", m["divide"])
    before = regs.copy()
    with pytest.raises(HandlerError) as info:
        m.run()
    assert str(info.value) == "pre_handler of the probe on fetch raised ValueError: no such thing"
    assert (info.value.probe, info.value.handler) == ("fetch", "pre_handler")
    assert isinstance(info.value.__cause__, ValueError) and info.value.__cause__.__cause__ is None
    after = m.cpu[0].regs.copy()
    after.flags &= ~RF
    assert after == before and m.kprobes.kprobe_running(0) is None
    m.kprobes.unregister_kprobe(p)
    m.run()
    assert m.cpu[0].regs.ip == HOME and m.cpu[0].regs.ax == m.word(m["divide"]) + 1


def test_post_handler_that_raises(m):
    p = Kprobe(symbol_name="fetch", post_handler=bad)
    m.kprobes.register_kprobe(p)
    m.start("fetch", m["divide"])
    with pytest.raises(HandlerError, match="post_handler of the probe on fetch raised ValueError"):
        m.run()
    assert m.cpu[0].regs.ip == m["fetch"] + 3 and not m.cpu[0].regs.flags & TF
    m.run()
    assert m.cpu[0].regs.ax == m.word(m["divide"]) + 1


def test_fault_handler_that_raises(m):
    p = Kprobe(symbol_name="fetch", fault_handler=bad)
    m.kprobes.register_kprobe(p)
    regs = m.start("fetch", HOLE)
    before = regs.copy()
    with pytest.raises(HandlerError, match="fault_handler of the probe on fetch"):
        m.run()
    after = m.cpu[0].regs.copy()
    after.flags &= ~RF
    assert after == before and m.kprobes.kprobe_running(0) is None


def test_result_of_a_wrong_type(m):
    p = Kprobe(symbol_name="fetch", pre_handler=lambda p, regs: "yes")
    m.kprobes.register_kprobe(p)
    with pytest.raises(HandlerError, match="must be an int, a bool or None"):
        m.call("fetch", m["divide"])


def test_interrupting_a_handler_is_not_wrapped(m):
    def stop(p, regs):
        raise KeyboardInterrupt

    p = Kprobe(symbol_name="fetch", pre_handler=stop)
    m.kprobes.register_kprobe(p)
    with pytest.raises(KeyboardInterrupt):
        m.call("fetch", m["divide"])
    assert m.kprobes.kprobe_running(0) is None
    m.kprobes.unregister_kprobe(p)


@pytest.mark.fake_only("needs several harts")
def test_a_failing_handler_leaves_the_other_cpus_alone():
    m = FakeMachine(SOURCE, cpus=2)
    p = Kprobe(symbol_name="fetch", pre_handler=lambda p, regs: bad(p, regs) if regs.di == 0 else 0)
    m.kprobes.register_kprobe(p)
    m.start("fetch", m["divide"], cpu=0)
    m.step(0)
    m.start("fetch", 0, cpu=1)
    with pytest.raises(HandlerError):
        m.run(1)
    assert m.kprobes.kprobe_running(0) is p and m.kprobes.kprobe_running(1) is None
    m.run(0)
    assert m.cpu[0].regs.ip == HOME
