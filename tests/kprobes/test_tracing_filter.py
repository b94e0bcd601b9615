"""Filters on the fields of an event: what passes, and every refusal with its caret."""

import errno
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprobes.tracing import ErrorCode, ProbeEventError
from kprobes.tracing.filter import compile_filter
from kprobes.tracing.record import Field, Layout, TraceRecord
from kprobes.tracing.types import TYPES
from tests.kprobes.fakemachine import FakeMachine

SOURCE = """
func f
    mov eax, 1
    ret
endf f
.data
name: .asciz "xyz"
"""

LAYOUT = Layout("kprobes", "e", False, (
    Field("a", TYPES["u64"], 0), Field("b", TYPES["s32"], 0), Field("name", TYPES["string"], 0), Field("list", TYPES["u8"], 4)))


@pytest.fixture
def m():
    return FakeMachine(SOURCE)


def passes(text, a=0, b=0, name="xyz", cpu=0):
    keeps = compile_filter(text, LAYOUT, "guest")
    assert keeps is not None
    return keeps(TraceRecord(LAYOUT, cpu, 5, 0, 0x1000, None, (a, b, name, (1, 2, 3, 4))))


def test_the_example_of_the_task():
    text = 'a == 1 && (b < 0x10 || name ~ "x*")'
    assert passes(text, 1, 15, "abc") and passes(text, 1, 99, "x") and not passes(text, 1, 16, "abc")
    assert not passes(text, 2, 0, "x")


@pytest.mark.parametrize(("text", "values", "expected"), [
    ("a == 1", {"a": 1}, True), ("a==1", {"a": 2}, False), ("a != 1", {"a": 2}, True),
    ("a < 2", {"a": 1}, True), ("a <= 2", {"a": 2}, True), ("a > 2", {"a": 2}, False), ("a >= 2", {"a": 2}, True),
    ("a & 4", {"a": 6}, True), ("a & 4", {"a": 3}, False), ("b == -1", {"b": -1}, True), ("b<-1", {"b": -2}, True),
    ("a == 'A'", {"a": 65}, True), ("a == 0x10", {"a": 16}, True), ("a == 010", {"a": 8}, True),
    ("!a == 1", {"a": 2}, True), ("!(a == 1)", {"a": 1}, False), ("!!(a == 1)", {"a": 1}, True),
    ("a == 1 || a == 2 && b == 3", {"a": 1}, True), ("(a == 1 || a == 2) && b == 3", {"a": 1}, False),
    ("a == 1 && b == 0 && name == 'xyz'", {"a": 1}, True),
    ('name == "xyz"', {}, True), ('name != "xyz"', {}, False), ("name == 'x y'", {"name": "x y"}, True),
    ('name ~ "*z"', {}, True), ('name ~ "*y*"', {}, True), ('name ~ "x?z"', {}, True), ('name ~ "x"', {}, False),
    ('name ~ "[a-x]yz"', {}, True), ('name ~ "x.z"', {}, False), ('name ~ ""', {"name": ""}, True),
    ('name == ""', {"name": None}, False), ('name != ""', {"name": None}, True), ('name ~ "*"', {"name": None}, False),
    ("CPU == 1", {"cpu": 1}, True), ("cpu == 0", {"cpu": 1}, False), ("COMM == 'guest'", {}, True),
    ('comm ~ "g*"', {}, True), ("common_pid == 1", {}, True), ("__probe_ip == 0x1000", {}, True),
    ("((a==1))", {"a": 1}, True), ("  a  ==  1  ", {"a": 1}, True), ('name == "a && b"', {"name": "a && b"}, True),
])
def test_what_passes(text, values, expected):
    assert passes(text, **values) is expected


REFUSED = [
    ("NO_FILTER", "^"),
    ("NO_FILTER", "a == 1 &&^"),
    ("NO_FILTER", "!^"),
    ("NO_FILTER", "a == 1 || (^"),
    ("FIELD_NOT_FOUND", "^c == 1"),
    ("FIELD_NOT_FOUND", "a == 1 && ^c == 1"),
    ("FIELD_NOT_FOUND", "^== 1"),
    ("FIELD_NOT_FOUND", "^__probe_func == 1"),
    ("INVALID_OP", "a^"),
    ("INVALID_OP", "a ^= 1"),
    ("INVALID_OP", "a ^+ 1"),
    ("INVALID_OP", "a ^=! 1"),
    ("INVALID_OP", "a == 1 ^b == 2"),
    ("INVALID_OP", "(a == 1 ^b == 2)"),
    ("INVALID_OP", "a == 1 ^& b == 2"),
    ("ILLEGAL_FIELD_OP", "name ^> 'a'"),
    ("ILLEGAL_FIELD_OP", "a ^~ 'a'"),
    ("ILLEGAL_FIELD_OP", "list ^== 1"),
    ("ILLEGAL_INTVAL", "a == ^x"),
    ("ILLEGAL_INTVAL", "a ==^"),
    ("ILLEGAL_INTVAL", 'a == ^"A"'),
    ("ILLEGAL_INTVAL", "a == ^'AB'"),
    ("EXPECT_STRING", "name == ^xyz"),
    ("EXPECT_STRING", "name ==^"),
    ("MISSING_QUOTE", 'name == "xyz^'),
    ("MISSING_QUOTE", "a == 'A^"),
    ("TOO_MANY_OPEN", "(a == 1^"),
    ("TOO_MANY_CLOSE", "a == 1^)"),
    ("TOO_MANY_CLOSE", "^)"),
]


@pytest.mark.parametrize(("code", "marked"), REFUSED)
def test_refusal(code, marked):
    at = marked.index("^")
    with pytest.raises(ProbeEventError) as info:
        compile_filter(marked.replace("^", "", 1), LAYOUT, "guest")
    error = info.value
    assert (error.code.name, error.errno, error.position) == (code, errno.EINVAL, at), error


def test_every_code_of_filters_has_a_test():
    codes = list(ErrorCode)
    assert {code for code, _ in REFUSED} == {code.name for code in codes[codes.index(ErrorCode.NO_FILTER):]}


def test_a_filter_drops_records_and_counts_hits(m, events):
    events.write("p:e f n=%di:u32 s=+0(%si):string")
    events.enable()
    events.set_filter("e", 'n > 2 && s == "xyz"')
    assert events["e"].filter == 'n > 2 && s == "xyz"'
    for n in range(6):
        m.call("f", n, m["name"])
    assert [record.fields["n"] for record in events.records] == [3, 4, 5]
    assert events["e"].hits == 6
    with pytest.raises(ProbeEventError):
        events.set_filter("e", "n >")
    assert events["e"].filter == 'n > 2 && s == "xyz"', "a filter that is refused leaves the old one"
    events.set_filter("e", "0")
    m.call("f", 0, 0)
    assert len(events.records) == 4 and events["e"].filter == ""


def test_a_filter_for_a_group_is_set_on_all_its_events_or_on_none(m, events):
    events.write("p:g/a f n=%di\np:g/b f+5 n=%di")
    events.set_filter("g/", "n == 1")
    assert [event.filter for event in events] == ["n == 1"] * 2
    events.clear()
    events.write("p:g/a f n=%di\np:g/b f+5 k=%di")
    with pytest.raises(ProbeEventError):
        events.set_filter("g/", "n == 1")
    assert [event.filter for event in events] == ["", ""]


OPERATORS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
             "&": lambda x, y: bool(x & y)}
PREDICATES = st.builds(lambda field, sign, value: (f"{field} {sign} {value}", lambda env: OPERATORS[sign](env[field], value)),
                       st.sampled_from(["a", "b"]), st.sampled_from(list(OPERATORS)), st.integers(-3, 5))
EXPRESSIONS = st.recursive(PREDICATES, lambda inner: st.one_of(
    st.builds(lambda x, y: (f"({x[0]}) && ({y[0]})", lambda env: x[1](env) and y[1](env)), inner, inner),
    st.builds(lambda x, y: (f"({x[0]}||{y[0]})", lambda env: x[1](env) or y[1](env)), PREDICATES, PREDICATES),
    st.builds(lambda x, y: (f"({x[0]}) || ({y[0]})", lambda env: x[1](env) or y[1](env)), inner, inner),
    st.builds(lambda x: (f"!({x[0]})", lambda env: not x[1](env)), inner)), max_leaves=8)


@given(EXPRESSIONS, st.integers(0, 5), st.integers(-3, 5))
def test_a_filter_is_what_its_text_says(expression, a, b):
    text, expected = expression
    assert passes(text, a, b) is bool(expected({"a": a, "b": b}))
