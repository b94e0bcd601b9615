"""What would become of a probe: explanations agree with what registration does, and with what hits then do."""

import json

import pytest

from kprobes import Kprobe, KprobeError, KprobeFlag, Options
from kprobes.explain import Way
from kprobes.picture import picture
from tests.kprobes.fakemachine import TEXT, FakeMachine

SOURCE = """
func f
    mov rax, rdi
    add rax, 1
    jmp 1f
1:  pushfq
    pop rcx
    test rax, rax
    js 2f
    nop
2:  mov ecx, 5
    ret
endf f
func bad
    nop
    ud2
    ret
endf bad
func blocked
    nop
    nop
endf blocked
func traced
    fentry
    mov eax, 2
    ret
endf traced
func far_jump
    jmp fword ptr [rax]
endf far_jump
"""
EVERYTHING = Options(step="int3", boost=True, optimize=True)
OPTIONS = {
    "tf": Options(), "inline": Options(step="inline"), "int3": Options(step="int3"), "tf-boost": Options(boost=True),
    "int3-boost": Options(step="int3", boost=True), "all": EVERYTHING,
}
PLACES = [("f", o) for o in (0, 3, 7, 9, 10, 11, 14, 16, 17, 22)]


def machine(options):
    m = FakeMachine(SOURCE, options=options)
    m.black.append((m["blocked"], m["blocked"] + 2, "the test says so"))
    return m


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("name, offset", PLACES)
def test_the_way_is_the_one_that_registration_takes(options, post, name, offset):
    m = machine(options)
    told = m.kprobes.explain(name, offset=offset, post=post)
    assert told.refusal is None and told.probes == ()
    p = Kprobe(symbol_name=name, offset=offset, post_handler=(lambda p, regs, flags: None) if post else None)
    m.kprobes.register_kprobe(p)
    m.kprobes.wait_for_optimizer()
    m.call("f", 5)  # all of its instructions run
    kinds = {str(e.kind) for e in m.events}
    phases = {"detour": "optimised", "boost": "boosted", "emulate": "emulated", "step": options.step}
    assert [phases[kind] for kind in phases if kind in kinds] == [told.way] and p.hits == 1
    obstacles = {v.way: v.obstacle for v in told.verdicts}
    assert obstacles[told.way] is None


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("post", [False, True])
def test_E01_a_nop_for_tracing_becomes_a_call(options, post):
    m = machine(options)
    told = m.kprobes.explain("traced", post=post)
    p = Kprobe(symbol_name="traced", post_handler=(lambda p, regs, flags: None) if post else None)
    m.kprobes.register_kprobe(p)
    assert p.flags & KprobeFlag.FTRACE and told.way is Way.FENTRY
    assert [v.way for v in told.verdicts if v.obstacle is None] == [Way.FENTRY]


@pytest.mark.parametrize("name, offset", [("bad", 1), ("f", 1), ("blocked", 1), ("nobody", 0), ("far_jump", 0)])
def test_a_refusal_is_the_one_of_registration(name, offset):
    m = machine(EVERYTHING)
    told = m.kprobes.explain(name, offset=offset)
    with pytest.raises(KprobeError) as error:
        m.kprobes.register_kprobe(Kprobe(symbol_name=name, offset=offset))
    assert told.way is None and told.refusal is not None
    assert (told.refusal.errno, told.refusal.rule, str(told.refusal)) == (
        error.value.errno, error.value.rule, str(error.value))


def test_what_the_other_way_of_stepping_could_probe():
    told = machine(EVERYTHING).kprobes.explain("far_jump")
    assert told.refusal is not None and told.refusal.rule == "emulation"
    assert {v.way for v in told.verdicts if v.obstacle is None} == {Way.TF, Way.INLINE}


def test_reasons():
    told = machine(EVERYTHING).kprobes.explain("f", offset=7)  # jmp
    reasons = {v.way: v.obstacle or "" for v in told.verdicts}
    assert "branch" in reasons[Way.BOOSTED] and "goes to f+0x9" in reasons[Way.OPTIMIZED] and reasons[Way.INT3] == "it is emulated"


def test_a_probe_inside_the_region_is_named():
    m = machine(EVERYTHING)
    m.kprobes.register_kprobe(Kprobe(symbol_name="f", offset=17 + 5))
    assert m.kprobes.explain("f", offset=17).way is Way.OPTIMIZED
    m.kprobes.register_kprobe(Kprobe(symbol_name="f", offset=3))
    told = m.kprobes.explain("f")
    assert told.way is Way.BOOSTED
    assert "a probe on f+0x3" in str({v.way: v.obstacle for v in told.verdicts}[Way.OPTIMIZED])


def test_probes_that_are_there_already():
    m = machine(EVERYTHING)
    m.kprobes.register_kprobe(Kprobe(symbol_name="f", post_handler=lambda p, regs, flags: None))
    told = m.kprobes.explain("f")
    assert told.probes == ("f",) and told.way is Way.INT3
    obstacles = {v.way: v.obstacle for v in told.verdicts}
    assert "in use" in str(obstacles[Way.BOOSTED]) and "post_handler" in str(obstacles[Way.OPTIMIZED])


def test_explaining_changes_nothing():
    m = machine(EVERYTHING)
    before = m.snapshot()
    for offset in range(25):
        m.kprobes.explain("f", offset=offset)
    m.kprobes.explain(addr=TEXT + 1, offset=3)
    m.kprobes.explain()
    assert m.snapshot() == before and not m.allocated and not m.events


def test_as_data():
    told = json.loads(json.dumps(machine(EVERYTHING).kprobes.explain("f").as_dict()))
    assert told["way"] == "optimised" and told["instruction"] == "mov rax, rdi" and told["bytes"] == "48 89 f8"
    assert told["refusal"] is None and told["ways"]["boosted"] is None
    refused = machine(EVERYTHING).kprobes.explain("bad", offset=1).as_dict()
    assert refused["refusal"]["errno"] == "EILSEQ" and refused["refusal"]["rule"] == "boundary"


def test_picture_has_the_caret_under_the_byte():
    m = machine(Options())
    function = m.kprobes._registry.text.function(m.symbols.containing(m["f"]))
    lines = picture(function, m["f"] + 3, "here").splitlines()
    assert lines[1:3] == ["   f+0x3:  48 83 c0 01  add rax, 1", "           ^~~~~~~~~~~ here"]
    lines = picture(function, m["f"] + 5).splitlines()
    assert lines[2].index("^") == lines[1].index("c0") and lines[2].endswith("^")
    assert picture(function, m["f"] + 1000) == ""


def test_refusals_show_the_code():
    m = machine(Options())
    with pytest.raises(KprobeError) as error:
        m.kprobes.register_kprobe(Kprobe(symbol_name="bad", offset=1))
    text = str(error.value)
    assert "   bad+0x1:  0f 0b  ud2\n             ^~~~~ not probed" in text and text.splitlines()[0].endswith("(EILSEQ)")
