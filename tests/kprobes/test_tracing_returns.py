"""Return events: the line, parameters as they were at the entry, and what is missed (scenarios E05, E18)."""

import errno

import pytest

from kprobes import KprobeError
from tests.kprobes.fakemachine import FakeMachine

SOURCE = """
func f
    lea rax, [rdi + 1]
    mov edi, 0
    mov esi, 0
    ret
endf f
func sum
    push rdi
    xor eax, eax
    test rdi, rdi
    jz 1f
    dec rdi
    call sum
1:  pop rdi
    add rax, rdi
    ret
endf sum
func caller
    push rbx
    call f
    pop rbx
    ret
endf caller
func eight
    mov rax, [rsp + 8]
    add rax, [rsp + 16]
    mov qword ptr [rsp + 8], 0
    ret
endf eight
func marked
    endbr64
    mov eax, 5
    ret
endf marked
.data
path: .asciz "/etc/passwd"
"""


@pytest.fixture
def m(every_mode):
    return FakeMachine(SOURCE)


def bodies(events):
    return [events.format.body(record) for record in events.records]


def test_E05_the_value_and_the_place_of_a_return(m, events):
    events.write("r:e f $retval")
    assert events.read() == ["r:kprobes/e f arg1=$retval"]
    events.enable("e")
    assert m.call("caller", 41) == 42
    assert bodies(events) == ["e: (caller+0x6/0x8 <- f) arg1=0x2a"]
    (record,) = events.records
    assert (record.ip, record.ret_ip, record.as_dict()["ret_ip"]) == (m["f"], m["caller"] + 6, m["caller"] + 6)


def test_a_return_to_an_address_without_a_symbol(m, events):
    events.write("p:e f%return ret=$retval:s32")
    events.enable("e")
    m.call("f", -6)
    assert bodies(events) == [f"e: ({events.records[0].ret_ip:#x} <- f) ret=-5"]


def test_parameters_are_those_of_the_entry(m, events):
    events.write("r:e f first=$arg1:s32 path=+0($arg2):string again=$arg1 late=%di byte=+1($arg2):char")
    events.enable()
    m.call("caller", 7, m["path"])
    assert bodies(events) == ["e: (caller+0x6/0x8 <- f) first=7 path=\"/etc/passwd\" again=0x7 late=0x0 byte='e'"]


def test_parameters_on_the_stack_are_those_of_the_entry(m, events):
    events.write("r:e eight seven=$arg7 eight=$arg8 none=$arg2048 ret=$retval:u8")
    events.enable()
    m.call("eight", 1, 2, 3, 4, 5, 6, 70, 80)
    assert events.records[0].fields == {"seven": 70, "eight": 80, "none": 0, "ret": 150}


def test_calls_inside_calls_keep_their_own_parameters(m, events):
    events.write("r:e sum n=$arg1:u8 sum=$retval:u8")
    events.enable()
    assert m.call("sum", 4) == 10
    assert [tuple(record.fields.values()) for record in events.records] == [(0, 0), (1, 1), (2, 3), (3, 6), (4, 10)]


def test_E18_misses_of_an_exhausted_pool_are_in_the_profile(m, events):
    events.write("r3:e sum")
    events.enable()
    m.call("sum", 7)
    assert events.profile().split() == ["e", "3", "5"]
    assert (events["e"].hits, events["e"].misses, len(events.records)) == (3, 5, 3)
    assert events["e"].reasons == {"maxactive": 5}


def test_return_probes_after_an_endbr(m, events):
    events.write("r:e marked $retval\nr:k marked+4 $retval")
    events.enable()
    m.call("marked")
    assert [record.fields for record in events.records] == [{"arg1": 5}] * 2


def test_probes_and_return_probes_on_one_function(m, events):
    events.write("p:in f n=%di:u8\nr:out f n=$retval:u8")
    events.enable()
    m.call("caller", 1)
    assert bodies(events) == ["in: (f+0x0/0xf) n=1", "out: (caller+0x6/0x8 <- f) n=2"]
    events.disable()
    events.write("-:in\n-:out")
    assert m.kprobes.registered == ()


def test_one_return_event_on_two_functions(m, events):
    events.write("r:e f v=$retval\nr:e marked v=$retval")
    events.enable()
    m.call("f", 1)
    m.call("marked")
    assert [record.fields["v"] for record in events.records] == [2, 5]
    assert [record.ip for record in events.records] == [m["f"], m["marked"] + 4], "a probe on an ENDBR64 goes behind it"


def test_a_call_under_way_when_the_event_is_disabled_is_counted_and_not_recorded(m, events):
    events.write("r:e f")
    events.enable()
    m.start("caller", 1)
    m.run(until=lambda regs: regs.ip == m["f"] + 4)
    events.disable()
    m.run()
    assert not events.records and events["e"].hits == 1
    m.call("caller", 1)
    assert events["e"].hits == 1


def test_a_call_under_way_when_the_event_is_removed_returns(m, events):
    events.write("r:e f $arg1")
    events.enable()
    m.start("caller", 1)
    m.run(until=lambda regs: regs.ip == m["f"] + 4)
    events.disable()
    events.clear()
    m.run()
    assert m.cpu[0].regs.ax == 2 and not events.records and events.read() == []


def test_filters_on_returns(m, events):
    events.write("r:e f v=$retval:s32")
    events.enable()
    events.set_filter("e", f"v > 2 && __probe_func == {m['f']:#x} && __probe_ret_ip == {m['caller'] + 6:#x}")
    for n in range(4):
        m.call("caller", n)
        m.call("f", n)
    assert [record.fields["v"] for record in events.records] == [3, 4]


def test_a_refused_return_probe_leaves_nothing(m, events):
    before = m.snapshot()
    m.text_pages = 0
    with pytest.raises(KprobeError) as info:
        events.write("r:e f")
    assert info.value.errno == errno.ENOMEM
    assert events.read() == [] and m.kprobes.registered == () and m.snapshot() == before
