"""Jprobes: Python and guest handlers, and the way back (scenarios J01 to J14)."""

import ctypes
import errno

import pytest

from kprobes import (
    HandlerError,
    Jprobe,
    Kprobe,
    KprobeError,
    KprobePanic,
    jprobe_return,
    s8,
    s16,
    s32,
    s64,
    u8,
    u16,
    u32,
    u64,
)
from tests.kprobes.fakecpu import CF, IF, TF
from tests.kprobes.fakemachine import DATA, HOME, STACK, FakeMachine, UnhandledTrap

TARGETS = """
func eight
    lea rax, [rdi+rsi]
    add rax, rdx
    add rax, rcx
    add rax, r8
    add rax, r9
    add rax, [rsp+8]
    add rax, [rsp+16]
    ret
endf eight
func framed
    push rbp
    mov rbp, rsp
    mov rax, rdi
    pop rbp
    ret
endf framed
func caller
    call helper
    ret
endf caller
func relative
    mov rax, [rip+value]
    ret
endf relative
func helper
    mov eax, 0x11
    ret
endf helper
func loops
    push rbx
    mov rbx, rdi
1:  mov rdi, rbx
    call framed
    dec rbx
    jne 1b
    pop rbx
    ret
endf loops
"""
RETURN = """
func jprobe_return
    int3
jprobe_return_end:
    ud2
endf jprobe_return
"""
MIRRORS = """
func m_call
    push rbp
    mov rbp, rsp
    sub rsp, 32
    mov [rip+seen], rdi
    mov [rip+seen+8], rsi
    call jprobe_return
    ud2
endf m_call
func m_clobber
    mov rax, -1
    mov rbx, rax
    mov rcx, rax
    mov rdx, rax
    mov rsi, rax
    mov rdi, rax
    mov rbp, rax
    mov r8, rax
    mov r9, rax
    mov r10, rax
    mov r11, rax
    mov r12, rax
    mov r13, rax
    mov r14, rax
    mov r15, rax
    add rax, 1
    jmp jprobe_return
endf m_clobber
func m_stack
    mov qword ptr [rsp+8], 1000
    mov qword ptr [rsp+56], 1001
    mov qword ptr [rsp+64], 1002
    jmp jprobe_return
endf m_stack
func m_calls_probed
    call helper
    mov [rip+seen], rax
    jmp jprobe_return
endf m_calls_probed
func m_calls_target
    call framed
    mov [rip+seen], rax
    jmp jprobe_return
endf m_calls_target
func m_returns
    mov eax, 5
    ret
endf m_returns
func m_int3
    int3
    jmp jprobe_return
endf m_int3
func m_pops
    add rsp, 8
    jmp jprobe_return
endf m_pops
func m_other_stack
    lea rsp, [rip+seen+128]
    jmp jprobe_return
endf m_other_stack
func m_pushf
    pushfq
    pop qword ptr [rip+seen]
    jmp jprobe_return
endf m_pushf
"""
DATA_SECTION = """
.data
value: .quad 0x7766
seen: .fill 32, 8, 0
.size seen, 256
.type seen, @object
"""


@pytest.fixture
def m():
    return FakeMachine(TARGETS + RETURN + MIRRORS + DATA_SECTION)


def plant(m, name, entry, **more):
    jp = Jprobe(entry=entry, symbol_name=name, **more)
    m.kprobes.register_jprobe(jp)
    return jp


def finish(m, name, *args, flags=IF, **registers):
    """Run a function and return the final registers."""
    regs = m.start(name, *args, flags=flags)
    for register, value in registers.items():
        setattr(regs, register, value)
    m.run()
    assert m.cpu[0].regs.ip == HOME and m.kprobes.kprobe_running(0) is None
    return m.cpu[0].regs.copy()


def plain(name, *args, **options):
    return finish(FakeMachine(TARGETS + RETURN + MIRRORS + DATA_SECTION), name, *args, **options)


def test_J01_python_handler_sees_all_arguments(m):
    seen = []
    jp = plant(m, "eight", lambda a, b, c, d, e, f, g, h: seen.append((a, b, c, d, e, f, g, h)))
    assert finish(m, "eight", *range(1, 9)) == plain("eight", *range(1, 9))
    assert seen == [(1, 2, 3, 4, 5, 6, 7, 8)] and jp.kp.hits == 1
    assert [vector for vector, _ in m.traps] == [3, 3, 3, 1]
    assert [e.kind for e in m.events] == ["hit", "jprobe_entry", "jprobe_return", "step", "resume"]


def test_J01_guest_handler_that_calls_jprobe_return(m):
    plant(m, "eight", "m_call")
    assert finish(m, "eight", *range(1, 9)) == plain("eight", *range(1, 9))
    assert (m.word(m["seen"]), m.word(m["seen"] + 8)) == (1, 2)
    assert m.word(m.cpu[0].regs.sp - 8) == HOME, "the return address is the caller's again"


def test_J01_guest_handler_by_address(m):
    jp = plant(m, "eight", m["m_call"])
    assert finish(m, "eight", *range(1, 9)).ax == 36 and jp.entry_addr == m["m_call"]


def test_jprobe_by_address_and_registered_again(m):
    seen = []
    jp = Jprobe(lambda a: seen.append(a), addr=m["framed"])
    for _ in range(2):
        m.kprobes.register_jprobe(jp)
        assert m.call("framed", 3) == 3
        m.kprobes.unregister_jprobe(jp)
    assert seen == [3, 3] and m.call("framed", 4) == 4 and seen == [3, 3]
    by_name = plant(m, "framed", lambda a: None)
    m.kprobes.unregister_jprobe(by_name)
    m.kprobes.register_jprobe(by_name)


def test_the_address_may_be_written_into_kp_as_in_C(m):
    seen = []
    jp = Jprobe(entry=lambda a: seen.append(a))
    jp.kp.symbol_name = "framed"
    m.kprobes.register_jprobe(jp)
    m.call("framed", 3)
    assert seen == [3]


def test_jprobe_return_in_python_ends_the_handler(m):
    seen = []

    def handler(a):
        seen.append(a)
        jprobe_return()
        raise AssertionError("not reached")

    plant(m, "framed", handler)
    assert m.call("framed", 9) == 9 and seen == [9]


def test_J02_registers_and_flags_are_undone(m):
    def handler(a, *, regs):
        assert regs.di == a == 5 and regs.ip == m["framed"] + 1 and regs.flags & IF
        regs.di = regs.sp = regs.ip = regs.flags = 0

    options = dict(flags=IF | CF, bx=1, r12=2, r15=3)
    for entry in (handler, "m_clobber"):
        jp = plant(m, "framed", entry)
        assert finish(m, "framed", 5, **options) == plain("framed", 5, **options)
        m.kprobes.unregister_jprobe(jp)


def test_J03_stack_arguments_within_64_bytes_are_undone(m):
    plant(m, "eight", "m_stack")
    regs = finish(m, "eight", *range(1, 9))
    assert regs.ax == 36
    sp = regs.sp - 8
    assert m.word(sp + 8) == 7 and m.word(sp + 56) != 1001 and m.word(sp + 64) == 1002


def test_J04_stack_end_limits_what_is_saved(m):
    plant(m, "framed", "m_stack")
    sp = STACK - 16
    m.memory.map(STACK, 4096)
    m.start("framed", 5, sp=sp)
    m.run()
    assert m.cpu[0].regs.ax == 5 and m.word(sp + 8) != 1000, "two words are saved"
    assert m.word(sp + 56) == 1001 and m.word(sp + 64) == 1002, "what lies above the stack is not"


def test_J04_nothing_left_of_the_stack(m):
    plant(m, "framed", "m_call")
    m.memory.map(STACK, 4096)
    m.start("framed", 5, sp=STACK)
    m.run()
    assert m.cpu[0].regs.ax == 5 and m.cpu[0].regs.ip == HOME


@pytest.mark.parametrize("flags", [0, IF, IF | CF])
def test_J05_interrupts_are_off_in_the_handler(m, flags):
    plant(m, "framed", "m_pushf")
    assert finish(m, "framed", 5, flags=flags).flags == 2 | flags
    assert m.word(m["seen"]) == 2 | (flags & ~IF)


def test_a_debuggers_TF_skips_the_handler(m):
    steps = []
    m.guest_trap[1] = lambda m, trap: steps.append(trap.regs.ip)
    plant(m, "framed", "m_pushf")
    m.start("framed", 5, flags=TF | IF)
    m.run()
    assert steps == [m["framed"] + offset for offset in (1, 4, 7, 8)] + [HOME] and m.cpu[0].regs.ax == 5


def test_J06_int3_in_the_handler(m):
    plant(m, "framed", "m_int3")
    with pytest.raises(UnhandledTrap) as info:
        m.call("framed", 5)
    assert info.value.trap.regs.ip == m["m_int3"] + 1
    m.guest_trap[3] = lambda m, trap: None
    m.run()
    assert m.cpu[0].regs.ip == HOME and m.cpu[0].regs.ax == 5


@pytest.mark.parametrize("mirror", ["m_pops", "m_other_stack"])
def test_J07_wrong_stack_at_jprobe_return(m, mirror):
    def stack_end(cpu, sp):
        return STACK if sp > DATA + 4096 else DATA + 4096

    m.stack_end = stack_end
    m.memory.map(DATA - 4096, 4096)
    jp = plant(m, "framed", mirror)
    regs = m.start("framed", 5)
    before = regs.copy()
    with pytest.raises(KprobePanic) as info:
        m.run()
    message = str(info.value)
    assert "framed" in message and mirror in message and "registers at jprobe_return" in message and "r15" in message
    assert m.cpu[0].regs == before and m.kprobes.kprobe_running(0) is None
    m.kprobes.unregister_jprobe(jp)
    m.run()
    assert m.cpu[0].regs.ax == 5


def test_J08_handler_that_returns(m):
    jp = plant(m, "framed", "m_returns")
    regs = m.start("framed", 5)
    before = regs.copy()
    with pytest.raises(KprobePanic, match="m_returns of the jprobe on framed returned without calling jprobe_return"):
        m.run()
    assert m.cpu[0].regs == before and m.word(before.sp) == HOME and m.kprobes.kprobe_running(0) is None
    m.kprobes.unregister_jprobe(jp)
    m.run()
    assert m.cpu[0].regs.ax == 5


def test_J09_handler_hits_another_probe(m):
    p = Kprobe(symbol_name="helper", pre_handler=lambda *a: 1 / 0)
    m.kprobes.register_kprobe(p)
    plant(m, "framed", "m_calls_probed")
    assert m.call("framed", 5) == 5 and m.word(m["seen"]) == 0x11 and p.nmissed == 1


def test_J09_nested_jprobe(m):
    jp = plant(m, "framed", "m_calls_target")
    assert m.call("framed", 5) == 5
    assert m.word(m["seen"]) == 5 and (jp.kp.hits, jp.kp.nmissed) == (1, 1)


def test_J10_post_handler_of_a_jprobe(m):
    seen = []
    jp = Jprobe(lambda a: None, symbol_name="framed")
    jp.kp.post_handler = lambda p, regs, flags: seen.append((p, regs.ip))
    m.kprobes.register_jprobe(jp)
    m.call("framed", 5)
    assert seen == [(jp.kp, m["framed"] + 1)]


@pytest.mark.fake_only("needs several harts")
def test_J11_two_cpus_at_once():
    m = FakeMachine(TARGETS + RETURN + MIRRORS + DATA_SECTION, cpus=2)
    plant(m, "framed", "m_clobber")
    for cpu in (0, 1):
        m.start("framed", 5 + cpu, cpu=cpu)
    for _ in range(100):
        for cpu in (0, 1):
            if m.cpu[cpu].regs.ip != HOME:
                m.step(cpu)
    assert [m.cpu[cpu].regs.ax for cpu in (0, 1)] == [5, 6]


@pytest.mark.parametrize(("name", "result"), [("framed", 5), ("relative", 0x7766), ("caller", 0x11)])
@pytest.mark.parametrize("entry", [lambda a: None, "m_clobber"])
def test_J12_any_first_instruction(m, name, result, entry):
    plant(m, name, entry)
    assert finish(m, name, 5) == plain(name, 5) and m.cpu[0].regs.ax == result


def test_J13_unregistered_while_the_handler_runs(m):
    text = m.bytes_of("framed")
    jp = plant(m, "framed", "m_clobber")
    m.start("framed", 5)
    m.run(until=lambda regs: regs.ip == m["m_clobber"] + 7)
    assert m.kprobes.kprobe_running(0) is jp.kp
    slot = m.kprobes.slot_of(jp)
    m.kprobes.unregister_jprobe(jp)
    assert m.bytes_of("framed") == text and any(m.read(slot, 15))
    m.run()
    assert m.cpu[0].regs.ax == 5 and m.kprobes.kprobe_running(0) is None and not any(m.read(slot, 15))


def test_many_hits_in_a_loop(m):
    seen = []
    plant(m, "framed", lambda a: seen.append(a))
    assert finish(m, "loops", 4).ip == HOME and seen == [4, 3, 2, 1]


def test_a_guest_without_jprobe_return_uses_the_runtimes():
    mirror = "func m_own\nmov [rip+seen], rdi\njmp [rip+seen+8]\nendf m_own\n"
    m = FakeMachine(TARGETS + mirror + DATA_SECTION)
    with pytest.raises(KprobeError) as info:
        _ = m.kprobes.jprobe_return
    assert info.value.errno == errno.ENOENT
    plant(m, "framed", "m_own")
    m.memory.store(m["seen"] + 8, m.kprobes.jprobe_return, 8)
    assert m.call("framed", 5) == 5 and m.word(m["seen"]) == 5


def test_jprobe_return_without_a_jprobe(m):
    with pytest.raises(UnhandledTrap):
        m.call("jprobe_return")
    assert m.kprobes.jprobe_return == m["jprobe_return"]


@pytest.mark.fake_only("a trap needs a stack for its frame: on the hardware this is a double fault")
def test_fault_in_a_guest_handler(m):
    faults = []
    jp = Jprobe("m_call", symbol_name="framed")

    def fault_handler(p, regs, trapnr):
        faults.append((trapnr, regs.ip))
        m.memory.map(regs.sp - 4096, 4096)
        return 1

    jp.kp.fault_handler = fault_handler
    m.kprobes.register_jprobe(jp)
    m.memory.map(0x9000, 4096)
    m.start("framed", 5, sp=0x9000 + 16)
    m.stack_end = lambda cpu, sp: 0xA000
    m.memory.map(0x8000, 4096)
    m.run(until=lambda regs: regs.ip == m["m_call"] + 1)
    del m.memory.pages[0x8000]
    m.cpu[0].regs.sp = 0x9000
    trap_frames = m.write
    m.write = lambda addr, data: trap_frames(addr, data) if len(data) != 168 else frames.append(data)
    read = m.read
    frames = []
    m.read = lambda addr, n: read(addr, n) if n != 168 else frames[-1]
    m.run()
    assert faults == [(14, m["m_call"] + 16)] or faults[0][0] == 14
    assert m.cpu[0].regs.ax == 5


@pytest.mark.parametrize(("annotation", "value", "expected"), [
    (s8, 0x1FF, -1), (s16, 0x18000, -0x8000), (s32, 0xFFFFFFFFFFFFFFFE, -2), (s64, 2**64 - 3, -3),
    (u8, 0x1FF, 0xFF), (u16, 0x12345, 0x2345), (u32, 2**64 - 1, 2**32 - 1), (u64, 2**64 - 1, 2**64 - 1),
    (int, 2**64 - 1, 2**64 - 1), (bool, 0x100, False), (bool, 0x101, True), (ctypes.c_int, 2**64 - 2, -2),
    (ctypes.c_uint8, 0x1FF, 0xFF), (ctypes.c_char_p, 5, 5), (ctypes.c_size_t, 7, 7),
     ("s32", 2**32 - 1, -1), ("struct sk_buff *", 2**64 - 1, 2**64 - 1),
])
def test_parameter_types(m, annotation, value, expected):
    seen = []

    def handler(a):
        seen.append(a)

    handler.__annotations__["a"] = annotation
    plant(m, "framed", handler)
    assert m.call("framed", value) == value & (2**64 - 1)
    assert seen == [expected] and type(seen[0]) is not str


def refused(m, jp, code, *words):
    before = m.snapshot()
    with pytest.raises(KprobeError) as info:
        m.kprobes.register_jprobe(jp)
    assert info.value.errno == code
    for word in words:
        assert word in str(info.value)
    assert m.snapshot() == before and m.kprobes.registered == ()


def test_A19_two_jprobes_at_one_address(m):
    first = plant(m, "framed", lambda a: None)
    with pytest.raises(KprobeError) as info:
        plant(m, "framed", lambda a: None)
    assert info.value.errno == errno.EEXIST
    with pytest.raises(KprobeError) as info:
        m.kprobes.register_jprobe(first)
    assert info.value.errno == errno.EINVAL and "already registered" in str(info.value)
    assert m.call("framed", 5) == 5 and first.kp.hits == 1


def test_refusals(m):
    refused(m, Jprobe(lambda a: 0, symbol_name="frame"), errno.ENOENT, "did you mean 'framed'")
    refused(m, Jprobe(lambda a: 0), errno.EINVAL, "neither")
    refused(m, Jprobe(lambda a: 0, symbol_name="framed", offset=2), errno.EILSEQ, "inside an instruction")
    refused(m, Jprobe("m_cal", symbol_name="framed"), errno.ENOENT, "'m_call'")
    refused(m, Jprobe(DATA, symbol_name="framed"), errno.EINVAL, "not in the guest's text")
    refused(m, Jprobe(m["m_call"] + 1, symbol_name="framed"), errno.EINVAL, "inside 'm_call'")
    refused(m, Jprobe(None, symbol_name="framed"), errno.EINVAL, "Python function")
    refused(m, Jprobe(lambda *a: 0, symbol_name="framed"), errno.EINVAL, "'*a'", "one name each")
    refused(m, Jprobe(lambda a, *, b: 0, symbol_name="framed"), errno.EINVAL, "keyword-only 'regs'")
    refused(m, Jprobe(min, symbol_name="framed"), errno.EINVAL, "wrap it in a def")
    refused(m, Jprobe(lambda a: 0, symbol_name="jprobe_return"), errno.EINVAL, "own text")
    m.text_pages = 0
    refused(m, Jprobe(lambda a: 0, symbol_name="framed"), errno.ENOMEM, "no text page")
    m.text_pages = 1
    refused(m, Jprobe(lambda a: 0, symbol_name="framed"), errno.ENOMEM, "no page left")


def test_the_kprobe_of_a_jprobe_is_not_registered_alone(m):
    jp = Jprobe(lambda a: None, symbol_name="framed")
    with pytest.raises(KprobeError, match="register_jprobe"):
        m.kprobes.register_kprobe(jp.kp)


def test_handler_that_raises(m):
    jp = plant(m, "framed", lambda a: 1 / 0)
    regs = m.start("framed", 5)
    before = regs.copy()
    with pytest.raises(HandlerError, match="jprobe handler of the probe on framed raised ZeroDivisionError"):
        m.run()
    assert m.cpu[0].regs == before and m.kprobes.kprobe_running(0) is None
    m.kprobes.unregister_jprobe(jp)
    m.run()
    assert m.cpu[0].regs.ax == 5


def test_registering_from_a_jprobe_handler(m):
    plant(m, "framed", lambda a: m.kprobes.register_kprobe(Kprobe(symbol_name="helper")))
    with pytest.raises(HandlerError, match="register_kprobe was called from inside the jprobe handler of framed"):
        m.call("framed", 5)


def test_disable_and_enable(m):
    seen = []
    jp = plant(m, "framed", lambda a: seen.append(a))
    m.kprobes.disable_kprobe(jp)
    m.call("framed", 1)
    m.kprobes.enable_kprobe(jp)
    m.call("framed", 2)
    assert seen == [2]
