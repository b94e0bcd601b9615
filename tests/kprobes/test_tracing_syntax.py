"""The probe-event language: what is accepted, what is read back, and every refusal with its code and its caret.

In the tables of refusals ``^`` stands where the caret must be; it is taken out of the command.
"""

import errno

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kprobes import Kprobe, KprobeError, ProbeEvents, Symbol
from kprobes.tracing import ErrorCode, ProbeEventError
from kprobes.tracing.types import TYPES
from tests.kprobes.fakemachine import DATA, TEXT, FakeMachine, SymbolTable

SOURCE = """
func do_open
    mov eax, 1
    ret
endf do_open
func do_close
    endbr64
    mov eax, 2
    ret
endf do_close
func twin
    ret
endf twin
func in_module
    nop
    ret
endf in_module
.data
counter: .quad 1
.size counter, 8
.type counter, @object
"""

NAME64, DEEP = "n" * 64, "+0(" * 13 + "%ax" + ")" * 13

#: What is refused: the code, the command with its caret, and the errno where it is not the code's own.
REFUSED = [
    ("BAD_COMMAND", "^x:e do_open", errno.EINVAL),
    ("BAD_COMMAND", "p:e^", errno.EINVAL),
    ("BAD_COMMAND", "^-e", errno.EINVAL),
    ("BAD_MAXACT_TYPE", "p^100 do_open", errno.EINVAL),
    ("BAD_MAXACT_TYPE", "p^10:e do_open%return", errno.EINVAL),
    ("BAD_MAXACT", "r^1a11 do_open", errno.EINVAL),
    ("BAD_MAXACT", "r^0 do_open", errno.EINVAL),
    ("BAD_MAXACT", "r^-1:e do_open", errno.EINVAL),
    ("MAXACT_TOO_BIG", "r^4097 do_open", errno.EINVAL),
    ("MAXACT_TOO_BIG", "r^10000:e do_open", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^non_exist_func", errno.ENOENT),
    ("BAD_PROBE_ADDR", "p ^hoge-fuga", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^do_open+1000-1000", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^do_open-1", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^do_open+0x100000000", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^do_open+", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^do_open+x", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^a:b:c", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^-4", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^do_open+08", errno.EINVAL),
    ("BAD_PROBE_ADDR", "p ^0x123 %di", errno.ENOENT),
    ("BAD_PROBE_ADDR", "p ^mod:other", errno.ENOENT),
    ("NON_UNIQ_SYMBOL", "p:e ^twin", errno.EADDRNOTAVAIL),
    ("BAD_RETPROBE", "r ^do_open+5", errno.EINVAL),
    ("BAD_RETPROBE", "p ^do_open+5%return", errno.EINVAL),
    ("BAD_ADDR_SUFFIX", "p do_open^%hoge", errno.EINVAL),
    ("BAD_ADDR_SUFFIX", "p do_open^%", errno.EINVAL),
    ("NO_GROUP_NAME", "p:^/e do_open", errno.EINVAL),
    ("GROUP_TOO_LONG", f"p:^{NAME64}/e do_open", errno.EINVAL),
    ("BAD_GROUP_NAME", "p:^a.1/e do_open", errno.EINVAL),
    ("BAD_GROUP_NAME", "p:^1a/e do_open", errno.EINVAL),
    ("NO_EVENT_NAME", "p:^ do_open", errno.EINVAL),
    ("NO_EVENT_NAME", "-:^", errno.EINVAL),
    ("EVENT_TOO_LONG", f"p:g/^{NAME64} do_open", errno.EINVAL),
    ("EVENT_TOO_LONG", f"p ^mod:{NAME64}", errno.EINVAL),
    ("BAD_EVENT_NAME", "p:g/^e.1 do_open", errno.EINVAL),
    ("BAD_EVENT_NAME", "p:^1 do_open", errno.EINVAL),
    ("BAD_EVENT_NAME", "p ^a$b", errno.EINVAL),
    ("RETVAL_ON_PROBE", "p do_open ^$retval", errno.EINVAL),
    ("RETVAL_ON_PROBE", "p do_open x=+0(^$retval):u8", errno.EINVAL),
    ("BAD_STACK_NUM", "p do_open ^$stack10000", errno.EINVAL),
    ("BAD_STACK_NUM", "p do_open ^$stack2049", errno.EINVAL),
    ("BAD_ARG_NUM", "p do_open ^$arg10000", errno.EINVAL),
    ("BAD_ARG_NUM", "p do_open %di ^$arg0", errno.EINVAL),
    ("BAD_VAR", "p do_open ^$foo", errno.EINVAL),
    ("BAD_VAR", "p do_open ^$stackx", errno.EINVAL),
    ("BAD_VAR", "p do_open ^$", errno.EINVAL),
    ("BAD_REG_NAME", "p do_open ^%ex", errno.EINVAL),
    ("BAD_REG_NAME", "p do_open x=^%rdi:u8", errno.EINVAL),
    ("BAD_MEM_ADDR", "p do_open ^@123abcxyz", errno.EINVAL),
    ("BAD_MEM_ADDR", "p do_open ^@", errno.EINVAL),
    ("BAD_MEM_ADDR", "p do_open ^@counter+x", errno.EINVAL),
    ("BAD_MEM_ADDR", "p do_open ^@nothing", errno.ENOENT),
    ("BAD_IMM", "p do_open \\^x", errno.EINVAL),
    ("BAD_IMM", "p do_open x=\\^", errno.EINVAL),
    ("IMMSTR_NO_CLOSE", 'p do_open x=\\"abc^', errno.EINVAL),
    ("FILE_ON_KPROBE", "p do_open ^@+10", errno.EINVAL),
    ("TOO_MANY_OPS", f"p do_open {DEEP[:36]}^{DEEP[36:]}", errno.E2BIG),
    ("DEREF_NEED_BRACE", "p do_open ^+0@0)", errno.EINVAL),
    ("BAD_DEREF_OFFS", "p do_open ^+0ab(@0)", errno.EINVAL),
    ("BAD_DEREF_OFFS", "p do_open ^+(@0)", errno.EINVAL),
    ("BAD_DEREF_OFFS", "p do_open ^+u(%di)", errno.EINVAL),
    ("DEREF_OPEN_BRACE", "p do_open +0(@0^", errno.EINVAL),
    ("DEREF_OPEN_BRACE", "p do_open +0(+0(@0^)", errno.EINVAL),
    ("COMM_CANT_DEREF", "p do_open +0(^$comm)", errno.EINVAL),
    ("COMM_CANT_DEREF", 'p do_open +0(^\\"a")', errno.EINVAL),
    ("BAD_FETCH_ARG", "p do_open ^&1", errno.EINVAL),
    ("BAD_FETCH_ARG", "p do_open +0(^)", errno.EINVAL),
    ("BAD_FETCH_ARG", "p do_open +0(%di)^x", errno.EINVAL),
    ("BAD_FETCH_ARG", "p do_open x=^:u8", errno.EINVAL),
    ("ARRAY_NO_CLOSE", "p do_open +0(%di):u8[10^", errno.EINVAL),
    ("BAD_ARRAY_SUFFIX", "p do_open +0(%di):u8[10]^a", errno.EINVAL),
    ("BAD_ARRAY_NUM", "p do_open +0(%di):u8[^10a]", errno.EINVAL),
    ("BAD_ARRAY_NUM", "p do_open +0(%di):u8[^0]", errno.EINVAL),
    ("ARRAY_TOO_BIG", "p do_open +0(%di):u8[^65]", errno.EINVAL),
    ("BAD_TYPE", "p do_open %di:^u7", errno.EINVAL),
    ("BAD_TYPE", "p do_open x=@11:^", errno.EINVAL),
    ("BAD_TYPE", "p do_open %di:^%pd", errno.EINVAL),
    ("BAD_STRING", "p do_open $stack0:^string", errno.EINVAL),
    ("BAD_STRING", "p do_open $stack:^string", errno.EINVAL),
    ("BAD_SYMSTRING", "p do_open $stack:^symstr", errno.EINVAL),
    ("BAD_SYMSTRING", "p do_open \\1:^symstr", errno.EINVAL),
    ("BAD_SYMSTRING", "p do_open +u0(%di):^symstr", errno.EINVAL),
    ("BAD_BITFIELD", "p do_open @11:^b10@a/16", errno.EINVAL),
    ("BAD_BITFIELD", "p do_open %di:^b0@1/16", errno.EINVAL),
    ("BAD_BITFIELD", "p do_open %di:^b9@8/16", errno.EINVAL),
    ("BAD_BITFIELD", "p do_open %di:^b9@8/24", errno.EINVAL),
    ("NEED_STRING_TYPE", "p do_open $comm:^u8", errno.EINVAL),
    ("NEED_STRING_TYPE", "p do_open $comm:^string[2]", errno.EINVAL),
    ("NEED_STRING_TYPE", 'p do_open \\"a:b":^u8', errno.EINVAL),
    ("ARG_NAME_TOO_LONG", f"p do_open ^{'a' * 33}=%di", errno.EINVAL),
    ("NO_ARG_NAME", "p do_open ^=@11", errno.EINVAL),
    ("BAD_ARG_NAME", "p do_open ^var.1=@11", errno.EINVAL),
    ("USED_ARG_NAME", "p do_open var=%di ^var=%si", errno.EINVAL),
    ("USED_ARG_NAME", "p do_open ^__probe_ip=%si", errno.EINVAL),
    ("USED_ARG_NAME", "p do_open arg2=%di ^%si", errno.EINVAL),
    ("ARG_TOO_LONG", f"p do_open x=^+{'1' * 63}(%di)", errno.EINVAL),
    ("NO_ARG_BODY", "p do_open a=^", errno.EINVAL),
    ("TOO_MANY_ARGS", f"p do_open{' %di' * 128} ^%di", errno.E2BIG),
    ("BAD_INSN_BNDRY", "p do_open^+3", errno.EILSEQ),
    ("BAD_INSN_BNDRY", f"p ^{TEXT + 3:#x}", errno.EILSEQ),
    ("FAIL_REG_PROBE", "p ^counter", errno.EINVAL),
    ("NOSUP_BTFARG", "p do_open ^hoge", errno.EOPNOTSUPP),
    ("NOSUP_BTFARG", "p do_open x=^file->f_flags", errno.EOPNOTSUPP),
    ("NOSUP_BTFARG", "p do_open ^$arg*", errno.EOPNOTSUPP),
    ("NOSUP_BTFARG", "r do_open ^$arg*", errno.EOPNOTSUPP),
    ("BAD_HYPHEN", "p do_open a^-b", errno.EINVAL),
    ("BAD_VAR_ARGS", "p do_open x=^$arg*", errno.EINVAL),
    ("BAD_VAR_ARGS", "p do_open ^$arg*:u8", errno.EINVAL),
    ("BAD_VAR_ARGS", "p do_open +0(^$arg*)", errno.EINVAL),
    ("DOUBLE_ARGS", "p do_open $arg* ^$arg*", errno.EINVAL),
    ("NOFENTRY_ARGS", "p do_open+5 ^$arg*", errno.EINVAL),
    ("NOFENTRY_ARGS", "p do_open+5 ^$arg1", errno.EINVAL),
]

#: What is refused because of an event that exists: its definition first.
REFUSED_BESIDE = [
    ("DIFF_PROBE_TYPE", "p:e do_open", "^r:e do_close", errno.EEXIST),
    ("DIFF_ARG_TYPE", "p:e do_open a=%di", "p:e do_close ^b=%di", errno.EEXIST),
    ("DIFF_ARG_TYPE", "p:e do_open a=%di", "p:e do_close ^a=%di:u8", errno.EEXIST),
    ("DIFF_ARG_TYPE", "p:e do_open a=+0(%di):u8", "p:e do_close ^a=+0(%di):u8[2]", errno.EEXIST),
    ("DIFF_ARG_TYPE", "p:e do_open a=%di", "p:e do_close a=%di ^%si", errno.EEXIST),
    ("DIFF_ARG_TYPE", "p:e do_open a=%di %si", "p:e do_close a=%di^", errno.EEXIST),
    ("SAME_PROBE", "p:e do_open a=%di", "^p:e do_open a=%di", errno.EEXIST),
]


@pytest.fixture
def m():
    """A guest with two functions of one name, and one with the name of a module's."""
    machine = FakeMachine(SOURCE)
    start = machine["in_module"]
    machine.symbols = SymbolTable([
        Symbol("twin", TEXT + 6, 0), Symbol("mod:func.isra.0", start, 2),
        *(symbol for symbol in machine.symbols._symbols if symbol.start != start)])
    return machine


def refused(m, events, marked, code, number):
    """The command must be refused with this code, errno and caret, and leave no trace."""
    position, command = marked.index("^"), marked.replace("^", "", 1)
    before, read, registered = m.snapshot(), events.read(), m.kprobes.registered
    with pytest.raises(ProbeEventError) as info:
        events.write(command)
    error = info.value
    assert (error.code.name, error.errno, error.position) == (code, number, position), error
    what, shown, caret, *picture = str(error).split("\n")
    assert not picture or error.code in (ErrorCode.BAD_INSN_BNDRY, ErrorCode.FAIL_REG_PROBE)
    assert what.startswith(f"{code}: ") and shown == f"  {command}" and caret == " " * (2 + position) + "^"
    assert (m.snapshot(), events.read(), m.kprobes.registered) == (before, read, registered)


@pytest.mark.parametrize(("code", "marked", "number"), REFUSED, ids=lambda value: str(value)[:50])
def test_refusal(m, events, code, marked, number):
    refused(m, events, marked, code, number)


@pytest.mark.parametrize(("code", "first", "marked", "number"), REFUSED_BESIDE)
def test_E14_refusal_beside_another_event(m, events, code, first, marked, number):
    events.write(first)
    refused(m, events, marked, code, number)


def test_E06_no_return_value_on_a_probe(m, events):
    refused(m, events, "p do_open ^$retval", "RETVAL_ON_PROBE", errno.EINVAL)


def test_E11_no_array_in_a_register(m, events):
    refused(m, events, "p do_open %di:^x8[4]", "BAD_STRING", errno.EINVAL)
    refused(m, events, "p do_open $stack0:^u8[4]", "BAD_STRING", errno.EINVAL)
    refused(m, events, "p do_open \\1:^u8[4]", "BAD_STRING", errno.EINVAL)


def test_E16_too_many_instances(m, events):
    refused(m, events, "r^10000 do_open", "MAXACT_TOO_BIG", errno.EINVAL)
    events.write("r4096:e do_open")
    assert events.read() == ["r4096:kprobes/e do_open"]


def test_every_code_of_the_language_has_a_test():
    tested = {row[0] for row in (*REFUSED, *REFUSED_BESIDE)}
    filters = list(ErrorCode)[list(ErrorCode).index(ErrorCode.NO_FILTER):]
    assert tested == {code.name for code in ErrorCode} - {code.name for code in filters}


ACCEPTED = [
    ("p do_open", "p:kprobes/p_do_open_0 do_open"),
    ("p do_open+5", "p:kprobes/p_do_open_5 do_open+5"),
    ("p:g/e do_open+0x5 %di", "p:g/e do_open+5 arg1=%di"),
    ("p:g.e do_open", "p:g/e do_open"),
    ("p:g/ do_open", "p:g/p_do_open_0 do_open"),
    (f"p {TEXT:#X}".replace("0X", "0x"), f"p:kprobes/p_{TEXT:#x} {TEXT:#x}"),
    (f"p:e {TEXT}", f"p:kprobes/e {TEXT:#x}"),
    ("  p:e\tdo_open   a=%di  # what follows is no argument", "p:kprobes/e do_open a=%di"),
    ("p:e do_open a=+4(+0(%di)):s16 +u8(%si) -8($stack)", "p:kprobes/e do_open a=+4(+0(%di)):s16 arg2=+u8(%si) arg3=-8($stack)"),
    ("p:e do_open @counter @counter+1 @counter-1 @0x1000", "p:kprobes/e do_open arg1=@counter arg2=@counter+1 arg3=@counter-1 arg4=@0x1000"),
    ("p:e do_open \\1 \\-1 \\017 \\\"text\" \\\"a=b:c\"", "p:kprobes/e do_open arg1=\\1 arg2=\\-1 arg3=\\017 arg4=\\\"text\" arg5=\\\"a=b:c\""),
    ("p:e do_open $comm $comm:string $stack $stack0 $arg1 $arg7", "p:kprobes/e do_open arg1=$comm arg2=$comm:string arg3=$stack arg4=$stack0 arg5=$arg1 arg6=$arg7"),
    ("p:e do_open %di:symbol %di:symstr @counter:symstr %di:b3@2/32", "p:kprobes/e do_open arg1=%di:symbol arg2=%di:symstr arg3=@counter:symstr arg4=%di:b3@2/32"),
    ("p:e do_open +0(%di):string[3] +0(%di):ustring \\0x1000:string", "p:kprobes/e do_open arg1=+0(%di):string[3] arg2=+0(%di):ustring arg3=\\0x1000:string"),
    (f"p:e do_open {DEEP[3:-1]}", f"p:kprobes/e do_open arg1={DEEP[3:-1]}"),
    (f"p:{'n' * 63} do_open {'a' * 32}=%di", f"p:kprobes/{'n' * 63} do_open {'a' * 32}=%di"),
    ("p:e do_close+4 $arg1", "p:kprobes/e do_close+4 arg1=$arg1"),
    ("r:e do_open $retval $arg2", "r:kprobes/e do_open arg1=$retval arg2=$arg2"),
    ("r20:e do_open", "r20:kprobes/e do_open"),
    ("p:e do_open%return", "r:kprobes/e do_open"),
    ("r do_open", "r:kprobes/r_do_open_0 do_open"),
]


@pytest.mark.parametrize(("command", "read_back"), ACCEPTED)
def test_accepted_and_read_back(m, events, command, read_back):
    before = m.snapshot()
    events.write(command)
    assert events.read() == [read_back]
    events.clear()
    assert events.read() == []
    events.write(read_back)
    assert events.read() == [read_back]
    events.clear()
    assert m.kprobes.registered == () and all(m.snapshot()[page] == data for page, data in before.items())


def test_E15_default_names(m, events):
    events.write("p mod:func.isra.0")
    assert events.read() == ["p:kprobes/p_mod_func_isra_0_0 mod:func.isra.0"]


def test_comments_and_empty_lines_do_nothing(m, events):
    events.write("\n# a comment\n   \n")
    assert events.read() == []


def test_every_named_type_is_accepted_in_memory(m, events):
    for name in TYPES:
        events.write(f"p:{name}_ do_open x=+0(%di):{name} y=+0(%di):{name}[64]")
        assert len(events[f"{name}_"].layout.fields) == 2
        events.clear()


def test_a_line_that_fails_ends_the_write_and_the_lines_before_it_stay(m, events):
    with pytest.raises(ProbeEventError):
        events.write("p:a do_open\np:b do_open %ex\np:c do_open+5")
    assert events.read() == ["p:kprobes/a do_open"]


def test_refusals_of_the_runtime_carry_its_reason_and_its_picture(m, events):
    with pytest.raises(ProbeEventError, match="inside an instruction") as info:
        events.write("p:e do_open+1")
    what, _, caret, *picture = str(info.value).split("\n")
    assert what == "BAD_INSN_BNDRY: do_open+0x1 is inside an instruction (EILSEQ)" and caret.strip() == "^"
    assert "b8 01 00 00 00   mov eax, 1" in picture[0] and "nearest boundaries: +0x0, +0x5" in picture[1]
    assert isinstance(info.value.__cause__, KprobeError)
    assert not isinstance(info.value.__cause__, ProbeEventError)


def test_unknown_symbols_are_met_with_suggestions(m, events):
    with pytest.raises(ProbeEventError, match="did you mean do_open"):
        events.write("p:e do_opne")


def test_the_caret_of_a_line_with_tabs_is_under_the_place(m, events):
    with pytest.raises(ProbeEventError) as info:
        events.write("p:e\tdo_open\t%ex")
    assert str(info.value).split("\n")[1:] == ["  p:e do_open %ex", "              ^"]


def test_requests_from_inside_a_handler_are_refused(m, events):
    caught = []

    def handler(p, regs):
        with pytest.raises(KprobeError) as info:
            events.write("p:e do_close")
        caught.append(info.value.errno)

    m.kprobes.register_kprobe(Kprobe("do_open", pre_handler=handler))
    m.call("do_open")
    assert caught == [errno.EDEADLK] and events.read() == []


# --- properties ---

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
OFFSETS = st.integers(0, 0xFFFF).map(str) | st.integers(0, 0xFFFF).map(hex)
LEAVES = st.sampled_from(["%di", "%r8", "%flags", "$stack", "$stack3", "$arg1", "$arg9", "@counter", "@counter+8", "@0x1234", "\\1", "\\-0x10"])
MEMORY = st.recursive(LEAVES, lambda inner: st.builds("{0}{1}({2})".format, st.sampled_from(["+", "-", "+u", "-u"]), OFFSETS, inner), max_leaves=4)
SCALARS = st.sampled_from([name for name in TYPES if "string" not in name and name != "symstr"]) | st.sampled_from(["b1@0/8", "b5@3/64"])
BODIES = st.builds("{0}:{1}".format, MEMORY, SCALARS) | MEMORY | st.just("$comm") | st.builds('\\"{0}"'.format, NAMES) | st.builds("+0({0}):string[{1}]".format, LEAVES, st.integers(1, 64))


@given(
    st.lists(st.tuples(NAMES, BODIES.filter(lambda body: len(body) <= 63)), max_size=6, unique_by=lambda pair: pair[0]),
    NAMES, NAMES, st.sampled_from(["do_open", "do_close", "do_open+5", f"{TEXT:#x}"]),
)
@example([("__probe_func_", "%di")], "g", "e", "do_open")
def test_what_is_read_back_defines_the_same(arguments, group, event, place):
    if place in ("do_open+5", f"{TEXT:#x}"):
        arguments = [(name, body.replace("$arg", "$stack")) for name, body in arguments]
    m = FakeMachine(SOURCE)
    events = ProbeEvents(m.kprobes, m, "guest")
    events.write(" ".join([f"p:{group}/{event}", place, *(f"{name}={body}" for name, body in arguments)]))
    read = events.read()
    fields = events[event].layout.fields
    assert [field.name for field in fields] == [name for name, _ in arguments]
    events.clear()
    events.write("\n".join(read))
    assert events.read() == read and events[event].layout.fields == fields


@given(
    st.lists(BODIES.filter(lambda body: len(body) <= 63), min_size=1, max_size=6),
    st.lists(st.sampled_from([0, 1, TEXT, DATA, DATA + 4090, (1 << 64) - 1, 1 << 63]) | st.integers(0, (1 << 64) - 1), max_size=6),
    st.sampled_from("pr"),
)
def test_a_hit_reads_whatever_is_there_and_its_line_is_one_line(bodies, parameters, kind):
    m = FakeMachine(SOURCE)
    events = ProbeEvents(m.kprobes, m, "guest")
    events.write(f"{kind}:e do_open {' '.join(bodies)}")
    events.enable()
    assert m.call("do_open", *parameters) == 1
    (record,) = events.records
    line = events.format.line(record)
    assert line.count("\n") == 0 and all(f" arg{number}=" in line for number in range(1, len(bodies) + 1))
    for field, value in zip(record.layout.fields, record.values, strict=True):
        for element in value if field.count else [value]:
            assert isinstance(element, str | None) if field.type.is_string else isinstance(element, int)
        assert not field.count or len(value) == field.count


@given(st.text(alphabet="pr-:/ .+()@$%\\\"=[]0129abcxu do_open\t#", max_size=60))
def test_any_text_is_accepted_or_refused_with_a_caret_in_it(text):
    m = FakeMachine(SOURCE)
    events = ProbeEvents(m.kprobes, m, "guest")
    before = m.snapshot()
    try:
        events.write(text)
    except ProbeEventError as error:
        assert 0 <= error.position <= len(error.command) and error.command == text.rstrip("\n")
        assert events.read() == [] and m.snapshot() == before
    except KprobeError as error:
        assert error.errno in (errno.ENOENT, errno.EBUSY)
