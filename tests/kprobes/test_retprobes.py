"""Kretprobes: hooked calls, their returns, pools, and what happens to calls that never return (scenarios K01 to K27)."""

import errno

import pytest

from kprobes import HandlerError, Jprobe, Kprobe, KprobeError, KprobeFlag, KprobePanic, Kretprobe
from kprobes.probes import Miss
from tests.kprobes.fakecpu import IF, MASK64
from tests.kprobes.fakemachine import HOME, STACK, FakeMachine

SOURCE = """
func add2
    lea rax, [rdi+rsi]
    ret
endf add2
func twice
    push rbx
    call add2
after_first:
    mov rbx, rax
    mov rdi, rax
    mov rsi, rax
    call add2
after_second:
    pop rbx
    ret
endf twice
func triangle
    push rdi
    xor eax, eax
    test rdi, rdi
    je 1f
    dec rdi
    call triangle
    add rax, [rsp]
1:  pop rdi
    ret
endf triangle
func only_ret
    ret
endf only_ret
func calls_only_ret
    mov eax, 7
    call only_ret
    inc eax
    ret
endf calls_only_ret
func tail
    add rdi, 10
    jmp add2
endf tail
func self_tail
    test rdi, rdi
    je 1f
    dec rdi
    jmp self_tail
1:  mov eax, 4
    ret
endf self_tail
func pops_arguments
    mov rax, [rsp+8]
    ret 8
endf pops_arguments
func calls_pops_arguments
    push rdi
    call pops_arguments
    ret
endf calls_pops_arguments
func outer
    push rbp
    mov rbp, rsp
    call inner
outer_resumes:
    inc rax
    pop rbp
    ret
endf outer
func inner
    push rbp
    mov rbp, rsp
    call leaf
inner_resumes:
    pop rbp
    ret
endf inner
func leaf
    mov rax, rdi
    ret
endf leaf
func entered_by_endbr
    endbr64
    mov eax, 3
    ret
endf entered_by_endbr
func loads
    mov rax, [rdi]
    ret
endf loads
func fills
    rep stosb
    ret
endf fills
func __switch_to
    ret
endf __switch_to
func jumps_out
    mov [rip+saved], rsp
    call never_returns
    ud2
resumed:
    mov eax, 9
    ret
endf jumps_out
func never_returns
    mov rsp, [rip+saved]
    jmp resumed
endf never_returns
func changes_flags
    mov rax, -1
    cmp rax, 1
    push 0xcd7
    popfq
    ret
endf changes_flags
func disables
    cli
    mov eax, 1
    ret
endf disables
func enables
    sti
    mov eax, 2
    ret
endf enables
func with_all_registers
    mov rax, 0x101
    mov rbx, 0x202
    mov rcx, 0x303
    mov rdx, 0x404
    mov rsi, 0x505
    mov rdi, 0x606
    mov rbp, 0x707
    mov r8, 0x808
    mov r9, 0x909
    mov r10, 0xa0a
    mov r11, 0xb0b
    mov r12, 0xc0c
    mov r13, 0xd0d
    mov r14, 0xe0e
    mov r15, 0xf0f
    cmp rax, rbx
    ret
endf with_all_registers
func switch_stack
    push rbx
    push rbp
    mov [rdi], rsp
    mov rsp, [rsi]
    pop rbp
    pop rbx
    ret
endf switch_stack
func worker
    push rbx
    mov rbx, rdi
    lea rdi, [rip+worker_sp]
    lea rsi, [rip+main_sp]
    call switch_stack
    lea rax, [rbx+rbx]
    pop rbx
    ret
endf worker
func worker_main
    mov rdi, 21
    call worker
    mov [rip+worker_result], rax
    lea rdi, [rip+worker_sp]
    lea rsi, [rip+main_sp]
    call switch_stack
    ud2
endf worker_main
func two_tasks
    push rbx
    mov rbx, rdi
    lea rdi, [rip+main_sp]
    lea rsi, [rip+worker_sp]
    call switch_stack
    mov rdi, rbx
    call mid
    pop rbx
    ret
endf two_tasks
func mid
    push rdi
    lea rdi, [rip+main_sp]
    lea rsi, [rip+worker_sp]
    call switch_stack
    pop rax
    ret
endf mid
.data
saved: .quad 0
main_sp: .quad 0
worker_sp: .quad 0
worker_result: .quad 0
.type worker_stack, @object
worker_stack: .fill 64, 8, 0
worker_stack_top:
.size worker_stack, .-worker_stack
"""


@pytest.fixture
def m(every_mode):
    return FakeMachine(SOURCE)


class Log:
    """A kretprobe that writes down its entries and returns."""

    def __init__(self, m, name, log=None, **more):
        self.log = [] if log is None else log
        self.m, self.name = m, name
        handlers = {"handler": self.returned} | more
        self.rp = Kretprobe(symbol_name=name, **handlers)
        m.kprobes.register_kretprobe(self.rp)

    def returned(self, ri, regs):
        assert ri.rp is self.rp
        self.log.append((self.name, regs.ax, ri.ret_addr))

    @property
    def returns(self):
        return [value for _, value, _ in self.log]


def refused(m, number, **fields):
    before = m.snapshot(), len(m.allocated) - len(m.freed)
    with pytest.raises(KprobeError) as error:
        m.kprobes.register_kretprobe(Kretprobe(lambda ri, regs: None, **fields))
    assert error.value.errno == number, error.value
    if before[1]:
        assert (m.snapshot(), len(m.allocated) - len(m.freed)) == before
    else:
        assert {page: data for page, data in m.snapshot().items() if page in before[0]} == before[0]
        assert len(m.allocated) == len(m.freed)
    return error.value


def test_K01_handler_sees_the_result_and_the_real_return_address(m, every_mode):
    log = Log(m, "add2")
    assert m.call("twice", 3, 4) == 14
    assert log.log == [("add2", 7, m["after_first"]), ("add2", 14, m["after_second"])]
    assert log.rp.nmissed == log.rp.kp.nmissed == 0 and log.rp.kp.hits == 2
    step = [] if every_mode.boost else [1 if every_mode.step != "int3" else 3]
    assert [vector for vector, _ in m.traps] == [3, *step] * 2, "no trap at the return"


def test_K01_registers_at_the_return(m):
    seen = []
    Log(m, "add2", handler=lambda ri, regs: seen.append((regs.copy(), ri.fp)))
    regs = m.start("add2", 1, 2)
    sp = regs.sp
    m.run()
    regs, fp = seen[0]
    assert (regs.ip, regs.sp, fp, regs.orig_ax) == (HOME, sp + 8, sp, MASK64)
    assert (regs.cs, regs.ss) == (m.cpu[0].regs.cs, m.cpu[0].regs.ss)
    assert m.cpu[0].regs.sp == sp + 8 and m.word(sp) == HOME


def test_K02_handler_changes_the_result(m):
    def double(ri, regs):
        regs.return_value *= 2

    Log(m, "add2", handler=double)
    assert m.call("twice", 3, 4) == 2 * (2 * 7 + 2 * 7)


def test_K02_what_a_handler_writes_to_ip_and_sp_is_lost(m):
    def wild(ri, regs):
        regs.ip = regs.sp = 0x1234

    Log(m, "add2", handler=wild)
    assert m.call("twice", 3, 4) == 14


def test_K03_only_at_a_function_entry(m):
    error = refused(m, errno.EINVAL, symbol_name="add2", offset=4)
    assert "not the entry of 'add2'" in str(error) and error.rule == "entry"
    refused(m, errno.EINVAL, addr=m["add2"] + 4)
    refused(m, errno.EINVAL)
    refused(m, errno.EINVAL, symbol_name="add2", addr=m["add2"])
    assert "did you mean 'add2'" in str(refused(m, errno.ENOENT, symbol_name="add3"))


def test_K03_kprobe_on_func_entry(m):
    entry = m.kprobes.kprobe_on_func_entry
    entry(symbol_name="add2")
    entry(addr=m["add2"])
    entry(symbol_name="entered_by_endbr")
    entry(symbol_name="entered_by_endbr", offset=4)
    for number, fields in [
        (errno.EINVAL, {"symbol_name": "add2", "offset": 4}), (errno.EINVAL, {}), (errno.ENOENT, {"symbol_name": "nobody"}),
        (errno.EINVAL, {"symbol_name": "add2", "addr": 1}), (errno.EINVAL, {"symbol_name": "entered_by_endbr", "offset": 9}),
    ]:
        with pytest.raises(KprobeError) as error:
            entry(**fields)
        assert error.value.errno == number


@pytest.mark.parametrize("offset", [0, 4])
def test_K03_behind_endbr_is_the_entry_too(m, offset):
    log = Log(m, "entered_by_endbr", offset=offset)
    assert m.call("entered_by_endbr") == 3 and log.returns == [3]


def test_K04_a_function_that_switches_stacks(m):
    assert "another stack" in str(refused(m, errno.EINVAL, symbol_name="__switch_to"))
    m.kprobes.register_kprobe(Kprobe(symbol_name="__switch_to"))


@pytest.mark.parametrize("size", [4097, -1])
def test_K05_data_size_has_a_limit(m, size):
    assert refused(m, errno.E2BIG, symbol_name="add2", data_size=size).rule == "size"


def test_K05_data_size_of_4096(m):
    sizes = []
    Log(m, "add2", data_size=4096, handler=lambda ri, regs: sizes.append(len(ri.data)))
    m.call("add2", 1, 1)
    assert sizes == [4096]


@pytest.mark.fake_only("needs several harts")
@pytest.mark.parametrize("cpus, wanted, maxactive", [(1, 0, 10), (4, -1, 10), (8, 0, 16), (4, 3, 3)])
def test_K06_maxactive_that_is_not_given(cpus, wanted, maxactive):
    m = FakeMachine(SOURCE, cpus=cpus)
    assert Log(m, "add2", maxactive=wanted).rp.maxactive == maxactive


@pytest.mark.parametrize("depth, maxactive", [(5, 3), (1, 1), (7, 1), (4, 4), (3, 9), (12, 0)])
def test_K07_recursion_beyond_maxactive_is_missed(m, depth, maxactive):
    log = Log(m, "triangle", maxactive=maxactive)
    assert m.call("triangle", depth - 1) == sum(range(depth))
    hooked = min(depth, maxactive or 10)
    assert log.rp.nmissed == depth - hooked == log.rp.kp.misses[Miss.MAXACTIVE]
    assert log.returns == [sum(range(n)) for n in range(depth - hooked + 1, depth + 1)]
    assert log.rp.kp.nmissed == 0 and log.rp.kp.hits == depth
    assert [e.kind for e in m.events if e.reason is Miss.MAXACTIVE] == ["miss"] * (depth - hooked)
    assert m.call("triangle", depth - 1) == sum(range(depth)) and log.rp.nmissed == 2 * (depth - hooked)


def test_K08_entry_handler_declines(m):
    seen = []

    def entry(ri, regs):
        seen.append(regs.di)
        return regs.di % 2

    log = Log(m, "triangle", maxactive=2, entry_handler=entry)
    assert m.call("triangle", 3) == 6
    assert seen == [3, 2, 1, 0] and log.returns == [0, 3] and log.rp.nmissed == 0
    assert m.call("triangle", 3) == 6 and log.returns == [0, 3] * 2


def test_K09_data_goes_from_entry_to_return(m):
    seen = []

    def entry(ri, regs):
        ri.data[:8] = regs.di.to_bytes(8, "little")
        ri.user = [regs.di]

    def handler(ri, regs):
        seen.append((int.from_bytes(ri.data[:8], "little"), ri.user, regs.ax))

    Log(m, "triangle", entry_handler=entry, handler=handler, data_size=8)
    m.call("triangle", 4)
    assert seen == [(n, [n], sum(range(n + 1))) for n in range(5)]


def test_K09_user_is_new_for_each_call_and_data_is_not(m):
    seen = []

    def entry(ri, regs):
        seen.append((ri.user, ri.data[0]))
        ri.user, ri.data[0] = object(), 5

    Log(m, "add2", entry_handler=entry, data_size=1, maxactive=1)
    m.call("twice", 1, 1)
    assert seen == [(None, 0), (None, 5)]


def test_K10_A15_two_kretprobes_on_one_function(m):
    """Entries newest first, returns oldest first, and all see the real address."""
    seen = []
    probes = [Kretprobe(
        lambda ri, regs, n=n: seen.append(("return", n, ri.ret_addr)), symbol_name="add2",
        entry_handler=lambda ri, regs, n=n: seen.append(("entry", n, ri.ret_addr))) for n in range(3)]
    m.kprobes.register_kretprobes(probes)
    m.kprobes.register_kprobe(Kprobe(symbol_name="add2", pre_handler=lambda p, regs: seen.append(("kprobe", regs.di))))
    assert m.call("add2", 1, 2) == 3
    assert seen == [("kprobe", 1), *(("entry", n, HOME) for n in (2, 1, 0)), *(("return", n, HOME) for n in (0, 1, 2))]
    assert not any(m.kprobes.in_flight(rp) for rp in probes)


def test_K10_one_of_two_declines_or_has_no_instance_left(m):
    first = Log(m, "triangle", maxactive=2)
    second = Log(m, "triangle", entry_handler=lambda ri, regs: regs.di != 1)
    assert m.call("triangle", 3) == 6
    assert (first.returns, first.rp.nmissed) == ([3, 6], 2) and (second.returns, second.rp.nmissed) == ([1], 0)


def test_K10_J06_jprobe_and_kretprobe_on_one_function(m):
    seen = []
    log = Log(m, "add2")
    m.kprobes.register_jprobe(Jprobe(lambda a, b: seen.append((a, b)), symbol_name="add2"))
    assert m.call("add2", 1, 2) == 3 and seen == [(1, 2)] and log.log == [("add2", 3, HOME)]


def test_K11_tail_call_of_two_hooked_functions(m):
    log = Log(m, "tail")
    Log(m, "add2", log.log)
    assert m.call("tail", 1, 2) == 13
    assert log.log == [("add2", 13, HOME), ("tail", 13, HOME)]


def test_K11_tail_call_of_itself(m):
    log = Log(m, "self_tail")
    assert m.call("self_tail", 3) == 4
    assert log.log == [("self_tail", 4, HOME)] * 4


def test_K12_nested_functions(m):
    seen = []
    for name in ("outer", "inner", "leaf"):
        Log(m, name, seen)
    assert m.call("outer", 5) == 6
    assert seen == [("leaf", 5, m["inner_resumes"]), ("inner", 5, m["outer_resumes"]), ("outer", 6, HOME)]


def test_K18_callee_that_pops_its_arguments_is_a_panic(m):
    Log(m, "pops_arguments")
    with pytest.raises(KprobePanic, match="popped its own arguments"):
        m.call("calls_pops_arguments", 77)


def tasks(m):
    """Make a second task: its first switch arrives at worker_main."""
    top = m["worker_stack_top"]
    m.memory.store(top - 8, m["worker_main"], 8)
    m.memory.store(m["worker_sp"], top - 24, 8)


def test_K13_task_switch_inside_hooked_functions(m):
    """main: switch -> worker enters `worker`, switches back -> main enters `mid`, switches -> `worker` returns -> `mid`."""
    seen = []
    for name in ("worker", "mid", "two_tasks"):
        Log(m, name, seen)
    tasks(m)
    assert m.call("two_tasks", 5) == 5
    assert [(name, value) for name, value, _ in seen] == [("worker", 42), ("mid", 5), ("two_tasks", 5)]
    assert m.word(m["worker_result"]) == 42
    assert not any(log.misses.total() for log in m.kprobes.registered)


def test_K14_task_dies_inside_a_hooked_function(m):
    log = Log(m, "worker", maxactive=1)
    tasks(m)
    m.start("two_tasks", 5)
    m.run(until=lambda regs: regs.ip == m["mid"])
    assert m.kprobes.in_flight(log.rp) == 1
    top = m["worker_stack_top"]
    assert m.kprobes.flush_task(top - 512, top) == 1 and m.kprobes.in_flight(log.rp) == 0
    tasks(m)
    m.call("two_tasks", 5)
    assert log.returns == [42] and log.rp.nmissed == 0


def test_K14_a_new_call_in_the_place_of_a_dead_one(m):
    """The task was not reported dead; its stack is used again."""
    log = Log(m, "worker", maxactive=1)
    tasks(m)
    m.start("two_tasks", 5)
    m.run(until=lambda regs: regs.ip == m["mid"])
    tasks(m)
    m.call("two_tasks", 5)
    assert log.returns == [42] and log.rp.nmissed == 0 and log.rp.kp.misses == {Miss.ABANDONED: 1}


def test_K15_unregistered_with_a_call_under_way(m):
    log = Log(m, "outer")
    inner = Log(m, "inner")
    m.start("outer", 5)
    m.run(until=lambda regs: regs.ip == m["leaf"])
    m.kprobes.unregister_kretprobe(log.rp)
    assert m.kprobes.in_flight(log.rp) == 0
    m.run()
    assert m.cpu[0].regs.ax == 6 and not log.log and inner.returns == [5]


def test_K15_registered_again_before_the_call_returns(m):
    log = Log(m, "outer", maxactive=1)
    m.start("outer", 5)
    m.run(until=lambda regs: regs.ip == m["leaf"])
    m.kprobes.unregister_kretprobe(log.rp)
    m.kprobes.register_kretprobe(log.rp)
    m.run()
    assert not log.log
    assert m.call("outer", 5) == 6 and log.returns == [6] and log.rp.nmissed == 0


def test_K16_disabled_with_a_call_under_way(m):
    log = Log(m, "outer")
    m.start("outer", 5)
    m.run(until=lambda regs: regs.ip == m["leaf"])
    m.kprobes.disable_kretprobe(log.rp)
    m.run()
    assert log.returns == [6]
    assert m.call("outer", 5) == 6 and log.returns == [6]
    m.kprobes.enable_kretprobe(log.rp)
    assert m.call("outer", 5) == 6 and log.returns == [6, 6]


def test_K16_registered_disabled(m):
    rp = Kretprobe(lambda ri, regs: seen.append(regs.ax), symbol_name="add2")
    seen = []
    rp.kp.flags = KprobeFlag.DISABLED
    m.kprobes.register_kretprobe(rp)
    m.call("add2", 1, 1)
    m.kprobes.enable_kretprobe(rp)
    m.call("add2", 1, 2)
    assert seen == [3]


def test_K17_post_handler_of_the_embedded_probe_is_ignored(m):
    rp = Kretprobe(symbol_name="add2")
    rp.kp.post_handler = lambda p, regs, flags: pytest.fail("it ran")
    rp.kp.pre_handler = lambda p, regs: pytest.fail("it ran")
    m.kprobes.register_kretprobe(rp)
    assert rp.kp.post_handler is None and m.call("add2", 1, 2) == 3


def test_K18_function_that_is_jumped_out_of(m):
    log = Log(m, "never_returns", maxactive=1)
    outer = Log(m, "jumps_out")
    assert m.call("jumps_out") == 9
    assert outer.log == [("jumps_out", 9, HOME)] and not log.log
    assert log.rp.kp.misses == {Miss.ABANDONED: 1}
    assert [(e.kind, e.reason, e.probe) for e in m.events if e.reason] == [("miss", "abandoned", log.rp.kp)]
    assert m.kprobes.in_flight(log.rp) == 1, "nothing has been written over its return address yet"
    assert m.call("jumps_out") == 9, "the same place on the stack, so the first call is over for certain"
    assert log.rp.kp.misses == {Miss.ABANDONED: 2} and m.kprobes.in_flight(log.rp) == 1 and log.rp.nmissed == 0


def test_K18_instances_of_abandoned_calls_are_found_when_the_pool_is_dry(m):
    log = Log(m, "never_returns", maxactive=1)
    m.call("jumps_out")
    sp = STACK - 0x108
    m.memory.store(sp - 8, 0, 8)  # the stack is used for something else
    m.start("jumps_out", sp=sp + 0x80)
    m.run()
    assert log.rp.kp.misses == {Miss.ABANDONED: 1} and log.rp.nmissed == 0


def test_K18_return_on_a_copied_stack_is_a_panic(m):
    Log(m, "outer")
    m.start("outer", 5)
    m.run(until=lambda regs: regs.ip == m["leaf"])
    regs = m.cpu[0].regs
    m.write(regs.sp - 0x200, m.read(regs.sp, 64))
    regs.sp -= 0x200
    regs.bp -= 0x200
    with pytest.raises(KprobePanic, match="no hooked call"):
        m.run()


def test_K19_probe_on_the_trampoline(m):
    Log(m, "add2")
    page = m.allocated[0]
    for addr in (page, page + 5, page + 100):
        with pytest.raises(KprobeError, match="the probe runtime's own text") as error:
            m.kprobes.register_kprobe(Kprobe(addr=addr))
        assert error.value.errno == errno.EINVAL


def test_K20_back_trace_shows_return_addresses_instead_of_the_trampoline(m):
    traces = []
    for name in ("outer", "inner", "leaf"):
        Log(m, name, handler=lambda ri, regs, name=name: traces.append((name, m.kprobes.stack_trace(regs))))
    m.kprobes.register_kprobe(Kprobe(
        symbol_name="leaf", pre_handler=lambda p, regs: traces.append(("entry", m.kprobes.stack_trace(regs)))))
    regs = m.start("outer", 5)
    regs.bp = 0
    m.run()
    up = [m["inner_resumes"], m["outer_resumes"], HOME]
    assert traces == [("entry", [m["leaf"], *up]), ("leaf", up), ("inner", up[1:]), ("outer", up[2:])]


def test_K20_real_address_of_a_slot(m):
    Log(m, "outer")
    regs = m.start("outer", 5)
    slot = regs.sp
    m.run(until=lambda regs: regs.ip == m["leaf"])
    assert m.word(slot) == m.allocated[0] and m.kprobes.kretprobe_find_ret_addr(slot) == HOME
    assert m.kprobes.kretprobe_find_ret_addr(slot - 8) is None
    m.run()
    assert m.word(slot) == HOME and m.kprobes.kretprobe_find_ret_addr(slot) is None


@pytest.mark.parametrize("flags", [0, IF], ids=["off", "on"])
@pytest.mark.parametrize("name, after", [("add2", None), ("disables", 0), ("enables", IF)])
def test_K21_interrupt_state_is_the_functions(m, name, after, flags):
    seen = []
    Log(m, name, handler=lambda ri, regs: seen.append(regs.flags & IF))
    m.start(name, 1, 2, flags=flags)
    m.run()
    wanted = flags if after is None else after
    assert seen == [wanted] and m.cpu[0].regs.flags & IF == wanted


@pytest.mark.parametrize("name", ["with_all_registers", "changes_flags"])
def test_K22_registers_and_flags_are_preserved(m, name):
    plain = FakeMachine(SOURCE)
    plain.start(name, 1, 2)
    plain.run()
    Log(m, name)
    m.start(name, 1, 2)
    m.run()
    assert m.cpu[0].regs == plain.cpu[0].regs


def test_K22_registers_that_a_handler_changes(m):
    def change(ri, regs):
        regs.bx, regs.r15, regs.flags = 1, 2, regs.flags ^ 1

    plain = FakeMachine(SOURCE)
    plain.start("with_all_registers")
    plain.run()
    Log(m, "with_all_registers", handler=change)
    m.start("with_all_registers")
    m.run()
    plain.cpu[0].regs.bx, plain.cpu[0].regs.r15 = 1, 2
    plain.cpu[0].regs.flags ^= 1
    assert m.cpu[0].regs == plain.cpu[0].regs


def test_K23_function_that_is_only_a_return(m):
    log = Log(m, "only_ret")
    assert m.call("calls_only_ret") == 8 and log.returns == [7]


def test_K25_registered_twice(m):
    for fields in ({"addr": m["add2"]}, {"symbol_name": "add2"}):
        rp = Kretprobe(symbol_name=fields.get("symbol_name"), addr=fields.get("addr"))
        m.kprobes.register_kretprobe(rp)
        with pytest.raises(KprobeError, match="already registered") as error:
            m.kprobes.register_kretprobe(rp)
        assert error.value.errno == errno.EINVAL and rp.kp.addr == m["add2"]
        m.kprobes.unregister_kretprobe(rp)


def test_K27_entry_missed_by_re_entrancy(m):
    log = Log(m, "add2")
    m.kprobes.register_kprobe(Kprobe(symbol_name="leaf", pre_handler=lambda p, regs: m.call("add2", 1, 1) and None))
    assert m.call("leaf", 5) == 5
    assert (log.rp.kp.nmissed, log.rp.nmissed, log.log) == (1, 0, [])


def test_N10_probe_hit_inside_a_return_handler_is_missed(m):
    running = []

    def handler(ri, regs):
        running.append(m.kprobes.kprobe_running(0))
        m.call("leaf", 1)

    log = Log(m, "add2", handler=handler)
    p = Kprobe(symbol_name="leaf", pre_handler=lambda p, regs: pytest.fail("it ran"))
    m.kprobes.register_kprobe(p)
    assert m.call("add2", 1, 2) == 3
    assert running == [log.rp.kp] and (p.nmissed, p.hits) == (1, 0) and m.kprobes.kprobe_running(0) is None


def test_handler_that_raises_leaves_the_guest_as_if_it_had_not_run(m):
    def bad(ri, regs):
        regs.ax = 0
        raise ZeroDivisionError("oops")

    log = Log(m, "add2", handler=bad, maxactive=1)
    m.start("twice", 3, 4)
    with pytest.raises(HandlerError, match=r"return handler of the probe on add2 raised ZeroDivisionError: oops"):
        m.run()
    assert m.kprobes.kprobe_running(0) is None and m.kprobes.in_flight(log.rp) == 0
    log.rp.handler = log.returned
    m.run()
    assert m.cpu[0].regs.ax == 14 and log.returns == [14] and log.rp.nmissed == 0


def test_K10_handlers_run_although_another_raises(m):
    def bad(ri, regs):
        regs.bx = 99
        raise ZeroDivisionError("oops")

    logs = [Log(m, "add2"), Log(m, "add2", handler=bad), Log(m, "add2", handler=bad), Log(m, "add2")]
    m.start("add2", 3, 4)
    m.cpu[0].regs.bx = 5
    with pytest.raises(HandlerError, match="oops"):
        m.run()
    m.run()
    assert [log.returns for log in logs] == [[7], [], [], [7]] and (m.cpu[0].regs.ax, m.cpu[0].regs.bx) == (7, 5)
    assert not any(m.kprobes.in_flight(log.rp) for log in logs)


def test_entry_handler_that_raises_hooks_nothing(m):
    def bad(ri, regs):
        raise ZeroDivisionError("oops")

    log = Log(m, "add2", entry_handler=bad, maxactive=1)
    m.start("add2", 3, 4)
    before = m.word(m.cpu[0].regs.sp)
    with pytest.raises(HandlerError, match="entry_handler of the probe on add2"):
        m.run()
    assert m.word(m.cpu[0].regs.sp) == before and m.kprobes.in_flight(log.rp) == 0
    log.rp.entry_handler = None
    m.run()
    assert log.returns == [7]


def test_older_pre_handler_that_raises_takes_the_hook_back(m):
    """The hit is undone and happens again, so it must not leave an instance behind."""
    def bad(p, regs):
        raise ZeroDivisionError("oops")

    p = Kprobe(symbol_name="add2", pre_handler=bad)
    m.kprobes.register_kprobe(p)
    logs = [Log(m, "add2"), Log(m, "add2")]
    m.start("add2", 3, 4)
    with pytest.raises(HandlerError):
        m.run()
    assert not any(m.kprobes.in_flight(log.rp) for log in logs) and m.word(m.cpu[0].regs.sp) == HOME
    p.pre_handler = None
    m.run()
    assert [log.returns for log in logs] == [[7], [7]]


def test_fault_of_the_first_instruction_hooks_the_call_once(m):
    """The guest maps the page and comes back to the entry, where the breakpoint is hit again."""
    missing = 0xFFFFFFFF80700000
    m.guest_trap[14] = lambda m, trap: m.memory.map(trap.cr2, 8)
    log = Log(m, "loads")
    assert m.call("loads", missing) == 0
    assert log.returns == [0] and log.rp.kp.hits == 2 and m.kprobes.in_flight(log.rp) == 0


def test_repeated_first_instruction_hooks_the_call_once(m):
    """With step="tf" each iteration is a hit."""
    log = Log(m, "fills")
    m.start("fills", m["worker_stack"])
    m.cpu[0].regs.cx, m.cpu[0].regs.ax = 5, 1
    m.run()
    assert log.returns == [1] and m.kprobes.in_flight(log.rp) == 0
    assert m.read(m["worker_stack"], 6) == b"\1\1\1\1\1\0"


def test_refused_registration_gives_the_trampoline_back(m):
    m.text_pages = 1  # one page for the trampoline, none for the slot
    refused(m, errno.ENOMEM, symbol_name="add2")
    m.text_pages = 0
    error = refused(m, errno.ENOMEM, symbol_name="add2")
    assert error.rule == "memory" and "trampoline" in str(error)


def test_several_at_once(m):
    seen = []
    probes = [Kretprobe(lambda ri, regs: seen.append(regs.ax), symbol_name=name) for name in ("add2", "tail")]
    m.kprobes.register_kretprobes(probes)
    m.call("tail", 1, 2)
    assert seen == [13, 13]
    m.kprobes.unregister_kretprobes(probes)
    m.call("tail", 1, 2)
    assert seen == [13, 13] and not m.kprobes.registered
    with pytest.raises(KprobeError) as error:
        m.kprobes.register_kretprobes([])
    assert error.value.errno == errno.EINVAL


def test_several_at_once_all_or_none(m):
    probes = [Kretprobe(symbol_name="add2"), Kretprobe(symbol_name="nobody")]
    before = m.bytes_of("add2")
    with pytest.raises(KprobeError) as error:
        m.kprobes.register_kretprobes(probes)
    assert error.value.errno == errno.ENOENT and not m.kprobes.registered and m.bytes_of("add2") == before


def test_embedded_probe_is_not_registered_by_itself(m):
    with pytest.raises(KprobeError, match="register_kretprobe"):
        m.kprobes.register_kprobe(Kretprobe(symbol_name="add2").kp)


def test_K14_a_probe_on_the_end_of_a_task_recycles_its_calls(m):
    log = Log(m, "worker", maxactive=1)
    top = m["worker_stack_top"]
    m.kprobes.register_kprobe(Kprobe(
        symbol_name="leaf", pre_handler=lambda p, regs: freed.append(m.kprobes.flush_task(top - 512, top))))
    freed = []
    tasks(m)
    m.start("two_tasks", 5)
    m.run(until=lambda regs: regs.ip == m["mid"])
    m.call("leaf", 1)  # says that the worker is dead
    tasks(m)
    m.call("two_tasks", 5)
    assert freed == [1] and log.returns == [42] and log.rp.nmissed == 0
