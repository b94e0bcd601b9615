"""Cases on a made-up kernel of a few functions: what is equal, and that every kind of difference is found and named."""

import pytest

from hw.bus import HIGH_BASE
from hw.config import Config
from sim.elf import RawSymbol, Segment
from sim.engine import open_engine
from sim.kernel import campaign, guest
from sim.kernel.cases.base import At, Call, Case, Load, Mem, Result, Sym, room, text
from sim.kernel.image import KernelImage, Section
from sim.kernel.probes import instructions, places
from sim.kernel.runner import Outcome, Runner, first_difference

pytest.importorskip("unicorn", reason="unicorn, the emulator, is in the extra `kernel`")

BASE = 0xFFFFFFFF81000000

SOURCE = """
add7:   mov 8(%rsp), %rax               /* the seventh argument */
        add %rdi, %rax
        ret
store:  mov %rsi, (%rdi)
        mov %rdi, %rax
        ret
beyond: movb $1, 16(%rdi)
        ret
twice:  push %rbx
        mov $2, %ebx
1:      call *%rdi
        dec %ebx
        jnz 1b
        pop %rbx
        ret
canary: mov %gs:0x28, %rax
        ret
trap:   ud2
who:    push %rbx
        xor %eax, %eax
        cpuid
        pop %rbx
        ret
copy:   mov %rdx, %rcx
        rep movsb
        ret
global: incq counter(%rip)
        ret
__blockdev_direct_IO:
        push %r15
        pop %r15
        ret
        .balign 64
counter: .quad 0
"""

FUNCTIONS = ("add7", "store", "beyond", "twice", "canary", "trap", "who", "copy", "global", "__blockdev_direct_IO", "counter")


@pytest.fixture(scope="module")
def kernel(assemble):
    code = assemble(SOURCE, at=BASE)
    symbols = [RawSymbol(name, code.labels[name], 0, "FUNC", False) for name in FUNCTIONS]
    segments = [Segment(BASE, code.data, len(code.data) + 4096, 7)]
    return KernelImage("made-up", segments, b"per-CPU", [Section(".text", BASE, code.data)], symbols, "here")


@pytest.fixture(scope="module")
def engine(kernel):
    """One engine for all: starting it takes most of the time."""
    engine = open_engine("pysim", config=Config(ram_bytes=guest.layout_of(kernel, HIGH_BASE).ram_bytes))
    yield engine
    engine.close()


@pytest.fixture
def runner(kernel, engine):
    layout = guest.layout_of(kernel, HIGH_BASE)
    return Runner(guest.start(kernel, layout, engine), layout, HIGH_BASE)


def test_what_is_equal(runner):
    target, value = room(8), Mem(0x1234, name="value")
    for case in (
        Case("seven arguments", Call("add7", 1, 0, 0, 0, 0, 0, -3, returns=-2)),
        Case("a pointer", Call("store", target, At(value, 2), returns=target), after={target: (At(value, 2),)}),
        Case("a symbol", Call("store", target, Sym("store")), after={target: (Sym("store"),)}),
        Case("a result", Call("add7", 5, 0, 0, 0, 0, 0, 1), Call("store", target, Result(0)), after={target: (6,)}),
        Case("a load", Call("store", target, Load(value)), after={target: (0x1234,)}),
        Case("low bits", Call("add7", 0x1FF, 0, 0, 0, 0, 0, 0, returns=0xFF, bits=8)),
        Case("the canary", Call("canary", returns=guest.CANARY_VALUE)),
        Case("CPUID", Call("who")),
        Case("a string", Call("copy", target, text("abc"), 4), after={target: b"abc\0"}),
    ):
        outcome = runner.run(case)
        assert outcome.equal, (case.name, outcome.difference)
        assert outcome.instructions >= len(case.calls) and outcome.cycles
        assert outcome.checks == len(case.after) + sum(call.returns is not None for call in case.calls)


def test_what_python_knows_otherwise(runner):
    target = room(8)
    wrong = runner.run(Case("", Call("add7", 1, 0, 0, 0, 0, 0, 1, returns=3)))
    assert wrong.difference == "call 0 (add7) returns 0x2, Python has 0x3"
    wrong = runner.run(Case("", Call("store", target, 0x1122), after={target: (0x1022,)}))
    assert "0x11 in buffer" in wrong.difference and "offset 0x1 of 0x8, Python has 0x10" in wrong.difference


def test_what_the_emulator_does_otherwise(runner):
    """The core's copy of the code is changed, as if it computed something else."""
    address = runner.address("add7")
    code = runner.machine.mem.read(address + 5, 3)
    assert code == bytes.fromhex("4801f8")
    runner.machine.mem.write(address + 5, bytes.fromhex("4829f8"))  # sub %rdi, %rax
    try:
        outcome = runner.run(Case("", Call("add7", 1, 0, 0, 0, 0, 0, 5)))
        assert outcome.difference == "call 0 (add7): rax is 0x4, the emulator has 0x6"
        assert "add7" in runner.compare_all()
    finally:
        runner.machine.mem.write(address + 5, code)
    assert runner.compare_all() is None


def test_a_write_beyond_an_object_is_seen(runner):
    """Both do it, so that only the Python side can tell: nothing but the object may have changed."""
    target = room(16)
    outcome = runner.run(Case("", Call("beyond", target), after={target: target.data + b"\xa5"}))
    assert "outside of every object, Python has 0xa5" in outcome.difference


def test_what_does_not_return(runner):
    outcome = runner.run(Case("", Call("trap")))
    assert "emulator stops" in outcome.difference
    assert runner.run(Case("", Call("canary", returns=guest.CANARY_VALUE))).equal  # and the next one runs


def test_a_trap_on_the_core_alone(runner):
    address = runner.address("canary")
    code = runner.machine.mem.read(address, 2)
    runner.machine.mem.write(address, b"\x0f\x0b")
    try:
        outcome = runner.run(Case("", Call("canary")))
        assert outcome.difference.startswith("call 0 (canary) does not return: trap 6 at canary")
    finally:
        runner.machine.mem.write(address, code)
    assert runner.run(Case("", Call("canary", returns=guest.CANARY_VALUE))).equal


def test_a_function_that_is_missing_is_no_difference(runner):
    outcome = runner.run(Case("", Call("add7"), Call("nowhere")))
    assert (outcome.missing, outcome.difference, outcome.equal) == ("nowhere", None, False)


def test_first_difference():
    assert first_difference(b"abc", b"abc") is None
    assert first_difference(b"", b"") is None
    for at in range(50):
        data = bytearray(50)
        data[at] = 1
        assert first_difference(bytes(50), bytes(data)) == at
    assert first_difference(b"ab", b"abc") == 2


def test_places_are_instructions_that_can_be_counted(runner):
    machine = runner.machine
    assert [code.hex() for _, code in instructions(machine, "copy")] == ["4889d1", "f3a4", "c3"]
    address = runner.address("copy")
    assert places(machine, "copy", 3) == [address, address + 5]
    assert places(machine, "twice", 2)[0] == runner.address("twice")
    assert places(machine, "nowhere", 2) == []


def test_a_campaign_with_probes(kernel, engine):
    target = room(8)
    cases = {
        "one": [
            Case("", Call("twice", Sym("global"))),
            Case("", Call("add7", 1, 0, 0, 0, 0, 0, 1, returns=2)),
            Case("", Call("store", target, 7), Call("copy", target, text("x"), 1), after={target: b"x"}),
            Case("", Call("nowhere")),
        ]
    }
    report = campaign.run(kernel, cases, engine=engine, probes="all")
    assert report.fine, (report.differences, report.functions)
    assert [f.name for f in report.run] == ["twice", "add7", "store", "copy"] == [f.name for f in report.equal]
    assert report.functions["nowhere"].missing
    assert report.seeds == ["__blockdev_direct_IO"]
    # the entries, and up to three more instructions of each: the last of add7 is its `ret`, which is stepped, too
    assert report.hits > 2 * report.probed_cases == 6
    assert report.probes > 10 and not report.refused


def test_the_cases_that_run_again():
    def outcome(name, instructions, *functions, **more):
        return Outcome(Case(name, *(Call(function) for function in functions)), instructions=instructions, **more)

    outcomes = [
        outcome("short", 10, "f"),
        outcome("longer", 20, "f", "g"),
        outcome("too long", campaign.SHORT + 1, "f"),
        outcome("different", 30, "f", difference="rax"),
        outcome("missing", 0, "h", missing="h"),
        outcome("other", 5, "k"),
    ]
    assert [o.case.name for o in campaign.short_cases(outcomes)] == ["longer", "other"]


def test_a_probe_that_is_missed_is_a_difference(kernel, engine, monkeypatch):
    """As if the emulator had seen one execution more."""
    real = Runner.run

    def one_more(self, case, **options):
        outcome = real(self, case, **options)
        outcome.executed[self.address("add7")] += 1
        return outcome

    monkeypatch.setattr(Runner, "run", one_more)
    cases = {"one": [Case("", Call("add7", 1, 0, 0, 0, 0, 0, 1, returns=2))]}
    report = campaign.run(kernel, cases, engine=engine)
    assert not report.fine
    assert report.differences == ["the probe at add7 has 1 hits, the instruction was executed 2 times"]
