"""Events: life cycle, several probes under one name, counters, modules, and the lines of the trace (E12 to E20)."""

import errno
import json

import pytest

from kprobes import HandlerError, Kprobe, KprobeError, ProbeEventError, ProbeEvents, Symbol
from tests.kprobes.fakecpu import IF
from tests.kprobes.fakemachine import FakeMachine, SymbolTable

SOURCE = """
func f
    mov eax, 1
    nop
    ret
endf f
func g
    mov eax, 2
    ret
endf g
func many
    .rept 256
    nop
    .endr
    ret
endf many
func mixed
    .rept 12
    mov rax, [rsp]
    nop
    lea rdx, [rax + 8*rcx + 0x1234]
    add eax, 1
    .endr
    ret
endf mixed
.data
path: .asciz "/etc/passwd"
"""


@pytest.fixture
def m(every_mode):
    return FakeMachine(SOURCE)


def refused(number, call, *arguments, match=None):
    with pytest.raises(KprobeError, match=match) as info:
        call(*arguments)
    assert info.value.errno == number, info.value


def test_events_are_created_disabled(m, events):
    before = m.bytes_of("f")
    events.write("p:e f")
    assert m.bytes_of("f") == before and not events["e"].enabled
    m.call("f")
    assert not events.records
    events.enable("e")
    assert m.bytes_of("f")[0] == 0xCC
    m.call("f")
    assert len(events.records) == 1
    events.disable("e")
    assert m.bytes_of("f") == before
    m.call("f")
    assert len(events.records) == 1 and events["e"].hits == 1
    events.write("-:e")
    assert events.read() == [] and m.kprobes.registered == ()


def test_E12_clear_while_an_event_is_enabled(m, events):
    events.write("p:a f\np:b g")
    events.enable("b")
    before = events.read()
    refused(errno.EBUSY, events.clear, match="kprobes/b is enabled; disable it first")
    refused(errno.EBUSY, events.write, "-:b")
    refused(errno.EBUSY, events.write, "-:b g")
    assert events.read() == before
    m.call("g")
    assert len(events.records) == 1
    events.disable("b")
    events.clear()
    assert events.read() == [] and m.kprobes.registered == ()


def test_E13_several_probes_under_one_name(m, events):
    events.write("p:e f x=%di\np:e g x=%di\np:e f+5 x=%di")
    assert events.read() == ["p:kprobes/e f x=%di", "p:kprobes/e g x=%di", "p:kprobes/e f+5 x=%di"]
    assert len(events) == 1 and len(events["e"].probes) == 3
    events.enable("e")
    m.call("f", 1)
    m.call("g", 2)
    assert [(record.ip, record.fields["x"]) for record in events.records] == [(m["f"], 1), (m["f"] + 5, 1), (m["g"], 2)]
    assert events.profile().split() == ["e", "1", "0"] * 3 and events["e"].hits == 3
    events.disable()
    events.write("-:e g")
    assert events.read() == ["p:kprobes/e f x=%di", "p:kprobes/e f+5 x=%di"]
    events.write("-:e f+5 x=%di")
    assert events.read() == ["p:kprobes/e f x=%di"]
    events.write("p:e g x=%di\n-:e")
    assert events.read() == [] and m.kprobes.registered == ()


def test_E13_a_probe_that_joins_an_enabled_event_is_armed(m, events):
    events.write("p:e f")
    events.enable("e")
    events.write("p:e g")
    m.call("g")
    assert len(events.records) == 1


def test_E14_the_same_probe_twice(m, events):
    events.write("p:e f x=%di")
    with pytest.raises(ProbeEventError) as info:
        events.write("p:e f x=%di")
    assert info.value.code.name == "SAME_PROBE" and info.value.errno == errno.EEXIST
    assert events.read() == ["p:kprobes/e f x=%di"]
    events.write("p:other g x=%di")
    assert len(events) == 2


def test_E17_the_profile_after_no_hit_and_after_n(m, events):
    events.write("p:e f")
    row = "  {:<44} {:>15} {:>15}\n".format
    assert events.profile() == row("e", 0, 0)
    m.call("f")
    assert events.profile() == row("e", 0, 0)
    events.enable("e")
    for _ in range(7):
        m.call("f")
    assert events.profile() == row("e", 7, 0)
    events.disable("e")
    events.write("-:e")
    assert events.profile() == ""


def test_hits_inside_a_hit_are_misses(m, events):
    events.write("p:e g")
    events.enable("e")
    m.kprobes.register_kprobe(Kprobe("f", pre_handler=lambda p, regs: m.call("g") and 0))
    m.call("f")
    assert events.profile().split() == ["e", "0", "1"] and not events.records
    assert (events["e"].hits, events["e"].misses, events["e"].reasons) == (0, 1, {"re-entrant": 1})


def test_E19_every_offset_of_a_function(m, events):
    expected, before = m.bytes_of("mixed"), m.call("mixed")
    accepted = []
    for offset in range(len(expected)):
        try:
            events.write(f"p:at{offset} mixed+{offset}")
            accepted.append(offset)
        except ProbeEventError as error:
            assert error.code.name == "BAD_INSN_BNDRY" and error.errno == errno.EILSEQ
            assert error.position == len(f"p:at{offset} mixed")
    assert len(accepted) == 12 * 4 + 1
    events.enable()
    assert m.call("mixed") == before
    assert [record.ip - m["mixed"] for record in events.records] == accepted
    events.disable()
    assert m.bytes_of("mixed") == expected


def test_E20_256_probes(m, events):
    before = m.bytes_of("many")
    events.write("\n".join(f"p:e{i} many+{i}" for i in range(256)))
    events.enable()
    assert m.bytes_of("many")[:-1] == b"\xcc" * 256
    m.call("many")
    assert [record.layout.event for record in events.records] == [f"e{i}" for i in range(256)]
    assert [line.split()[1:] for line in events.profile().splitlines()] == [["1", "0"]] * 256
    events.disable()
    assert m.bytes_of("many") == before
    events.clear()
    assert m.kprobes.registered == () and events.read() == []


def test_an_offset_may_reach_the_next_symbol(m, events):
    events.write("p:e f+7 x=$arg1")
    assert events.read() == ["p:kprobes/e f+7 x=$arg1"]
    events.enable()
    m.call("g", 9)
    assert [events.format.body(record) for record in events.records] == ["e: (g+0x0/0x6) x=0x9"]


def test_a_return_probe_by_address(m, events):
    events.write(f"r:e {m['g']:#x} $retval")
    assert events.read() == [f"r:kprobes/e {m['g']:#x} arg1=$retval"]
    events.enable()
    m.call("g")
    assert events.records[0].fields == {"arg1": 2}


# --- names ---


def test_groups_are_enabled_together(m, events):
    events.write("p:one/a f\np:one/b g\np:two/a f+5")
    events.enable("one/")
    assert [(event.name, event.enabled) for event in events] == [("one/a", True), ("one/b", True), ("two/a", False)]
    events.enable("a")
    assert all(event.enabled for event in events)
    events.disable("two/a")
    assert [event.enabled for event in events] == [True, True, False]
    events.disable()
    assert not any(event.enabled for event in events)
    events.write("-:one/")
    assert events.read() == ["p:two/a f+5"]
    events.write("p:one/a f")
    with pytest.raises(KeyError):
        events["a"]
    assert events["one/a"].name == "one/a"
    events.write("-:a")
    assert events.read() == []


def test_unknown_names_are_refused(m, events):
    refused(errno.ENOENT, events.enable, "e", match="there is no event 'e'; there are none")
    events.write("p:e f")
    refused(errno.ENOENT, events.enable, "g/", match="there are kprobes/e")
    refused(errno.ENOENT, events.disable, "x")
    refused(errno.ENOENT, events.set_filter, "x", "a == 1")
    refused(errno.ENOENT, events.write, "-:x")
    refused(errno.ENOENT, events.write, "-:e g")
    refused(errno.ENOENT, events.write, "-:e f x=%di")
    refused(errno.EINVAL, events.enable, "a b")
    assert events.read() == ["p:kprobes/e f"]


def test_enabling_is_all_or_nothing(m, events, monkeypatch):
    events.write("p:e f\np:e g\np:other f+5")
    enable, asked = m.kprobes.enable_kprobe, []

    def fail_at_third(p):
        asked.append(p)
        if len(asked) == 3:
            raise KprobeError(errno.ENOMEM, "no more")
        enable(p)

    monkeypatch.setattr(m.kprobes, "enable_kprobe", fail_at_third)
    before = m.bytes_of("f"), m.bytes_of("g")
    refused(errno.ENOMEM, events.enable)
    assert not any(event.enabled for event in events) and (m.bytes_of("f"), m.bytes_of("g")) == before


def test_boot_parameter(m, events):
    events.boot("p:e,f,x=%di;p:k,g")
    assert events.read() == ["p:kprobes/e f x=%di", "p:kprobes/k g"]
    m.call("f", 3)
    assert events.records[0].fields == {"x": 3}


# --- the trace ---


def test_lines_of_the_trace(m, events):
    events.write("p:open f path=+0(%di):string $comm")
    events.enable()
    m.call("f", m["path"])
    m.call("f", m["path"], flags=0)
    first, second = events.records
    assert first.time < second.time
    assert events.trace().splitlines() == [
        "# tracer: nop", "#", "# entries-in-buffer/entries-written: 2/2   #P:1", "#",
        "#            TASK-PID    CPU#  FLAGS        CYCLE  EVENT",
        f'           guest-1       [000] ..... {first.time:12}: open: (f+0x0/0x7) path="/etc/passwd" arg2="guest"',
        f'           guest-1       [000] d.... {second.time:12}: open: (f+0x0/0x7) path="/etc/passwd" arg2="guest"',
    ]
    events.clear_trace()
    assert "written: 0/0" in events.trace()


def test_a_task_without_a_name(m):
    events = ProbeEvents(m.kprobes, m)
    events.write("p:e f $comm")
    events.enable()
    m.call("f")
    assert events.trace().splitlines()[-1].startswith("           <...>-1       [000] ")
    assert events.records[0].fields == {"arg1": "<...>"}
    long = ProbeEvents(m.kprobes, m, "a_name_of_more_than_15")
    assert long.format.line(events.records[0]).startswith(" a_name_of_more_-1")


@pytest.mark.fake_only("needs several harts")
def test_records_name_their_cpu():
    m = FakeMachine(SOURCE, cpus=2)
    events = ProbeEvents(m.kprobes, m)
    events.write("p:e f $stack0 $stack")
    events.enable()
    m.call("f", cpu=1)
    m.call("f", cpu=0)
    assert [record.cpu for record in events.records] == [1, 0]
    assert "#P:2" in events.trace() and " [001] " in events.trace()


def test_observers_see_records_as_they_come_and_old_ones_make_room(m):
    events = ProbeEvents(m.kprobes, m, capacity=2)
    seen = []
    events.observers.append(lambda record: seen.append(events.format.body(record)))
    events.write("p:e f n=%di:u8")
    events.enable()
    for n in range(5):
        m.call("f", n)
        assert len(seen) == n + 1
    assert seen == [f"e: (f+0x0/0x7) n={n}" for n in range(5)]
    assert [record.fields["n"] for record in events.records] == [3, 4]
    assert "entries-written: 2/5" in events.trace()


def test_records_as_json(m, events):
    events.write("p:g/e f n=%di:u8 s=+0(%di):string l=+0(%si):u8[2]")
    events.enable()
    m.call("f", 7, m["path"])
    (record,) = events.records
    assert json.loads(json.dumps(record.as_dict())) == {
        "group": "g", "event": "e", "cpu": 0, "time": record.time, "ip": m["f"], "ret_ip": None,
        "fields": {"n": 7, "s": None, "l": [47, 101]}}


def test_an_observer_that_raises_is_a_handler_that_raises(m, events):
    events.observers.append(lambda record: 1 // 0)
    events.write("p:e f")
    events.enable()
    with pytest.raises(HandlerError, match="ZeroDivisionError"):
        m.call("f")
    events.observers.clear()
    events.disable()
    events.clear()
    assert m.kprobes.registered == ()


# --- modules ---


def test_a_probe_in_a_module_that_is_not_loaded_waits_for_it(m, events):
    events.write("p:e mod:h x=%di\np:g f")
    assert events.read() == ["p:kprobes/e mod:h x=%di", "p:kprobes/g f"]
    events.enable()
    events.module_loaded("mod_")
    with pytest.raises(ProbeEventError, match="BAD_PROBE_ADDR"):
        events.write("p:k unknown")
    plain = m.symbols
    m.symbols = SymbolTable([*plain._symbols, Symbol("mod:h", m["g"], 0)])
    events.module_loaded("mod")
    m.call("g", 5)
    assert [record.fields for record in events.records] == [{"x": 5}]
    events.module_unloading("mod")
    m.symbols = plain
    m.call("g", 6)
    assert len(events.records) == 1
    assert events.read() == ["p:kprobes/e mod:h x=%di", "p:kprobes/g f"]
    assert events.profile().split() == ["e", "1", "0", "g", "0", "0"]
    m.symbols = SymbolTable([*plain._symbols, Symbol("mod:h", m["g"], 0)])
    events.module_loaded("mod")
    m.call("g", 7)
    assert events["e"].hits == 2
    events.disable()
    events.clear()
    assert m.kprobes.registered == ()


def test_a_loaded_module_without_the_symbol_is_an_error(m, events):
    m.symbols = SymbolTable([*m.symbols._symbols, Symbol("mod:h", m["g"], 0)])
    with pytest.raises(ProbeEventError, match="no symbol 'mod:other'"):
        events.write("p:e mod:other")


def test_a_module_whose_function_is_gone_is_reported(m, events):
    events.write("p:e mod:h\np:k mod:i")
    m.symbols = SymbolTable([*m.symbols._symbols, Symbol("mod:i", m["g"], 0)])
    refused(errno.ENOENT, events.module_loaded, "mod")
    events.enable("k")
    m.call("g")
    assert len(events.records) == 1


def test_interrupts_off_is_seen_in_the_flags(m, events):
    events.write("p:e f")
    events.enable()
    m.call("f", flags=IF)
    assert events.records[0].flags & IF
