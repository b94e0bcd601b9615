"""Probe events on the hardware: a compiled guest traced in the kernel's text language (scenarios E04 to E20)."""

import json
import re

import pytest

from hw.isa.reference import split
from kprobes import Options, ProbeEventError
from sim.elf import load_elf
from sim.engine import StopReason
from sim.guestbuild import build_program, expected_output

MAX_CYCLES = 3_000_000

#: What the guest opens, in its order, and what do_open returns. It has memory at 0, and none at its wild pointer.
OPENED = (("/etc/passwd", 0), ("/dev/null", 1), ("", -2), (None, 2), ("b", 3), ("c", -24))


@pytest.fixture(scope="module")
def opens():
    return build_program("opens", n=1)


@pytest.fixture
def traced(machine, opens):
    """Runs the guest with events enabled, and returns the machine; the run must be what it is without them."""

    def run(*definitions, filters=()):
        made = machine(load_elf(opens), comm="opens")
        made.probe_events.write("\n".join(definitions))
        for name, text in filters:
            made.probe_events.set_filter(name, text)
        made.probe_events.enable()
        result = made.run(MAX_CYCLES)
        assert result.reason is StopReason.EXIT and result.exit == 1 and not result.unhandled
        assert result.console.decode() == expected_output("opens", n=1)
        return made

    return run


def fields(machine, name):
    return [record.fields[name] for record in machine.probe_events.records]


def test_E04_registers_and_memory(traced):
    machine = traced("p:e do_open %di path=+0(%di):string flags=%si:u32 mode=$arg3:x32 first=+0(%di):u8")
    assert fields(machine, "path") == [name for name, _ in OPENED]
    assert fields(machine, "flags") == [0, 1, 2, 3, 4, 5] and set(fields(machine, "mode")) == {0o644}
    assert fields(machine, "first") == [ord((name or "\0")[0]) for name, _ in OPENED]
    size = machine.symbols.containing(machine.symbols.lookup("do_open")).size
    lines = machine.probe_events.trace().splitlines()[5:]
    address = fields(machine, "arg1")[0]
    assert re.fullmatch(
        rf" +opens-1 +\[000\] [.d]\.\.\.\. +\d+: e: \(do_open\+0x0/{size:#x}\) arg1={address:#x} "
        r'path="/etc/passwd" flags=0 mode=0x1a4 first=47', lines[0])
    times = [record.time for record in machine.probe_events.records]
    assert times == sorted(set(times)) and times[-1] < machine.cycle


def test_E05_E18_returns(traced):
    machine = traced("r:opened do_open fd=$retval:s32 path=+0($arg1):string", "r3:depth depth n=$arg1:u8 sum=$retval:u8")
    opened = [record for record in machine.probe_events.records if record.layout.event == "opened"]
    assert [(record.fields["path"], record.fields["fd"]) for record in opened] == list(OPENED)
    body = machine.probe_events.format.body(opened[0])
    size = machine.symbols.containing(machine.symbols.lookup("main")).size
    assert re.fullmatch(rf'opened: \(main\+0x[0-9a-f]+/{size:#x} <- do_open\) fd=0 path="/etc/passwd"', body), body
    depth = [record.fields for record in machine.probe_events.records if record.layout.event == "depth"]
    assert depth == [{"n": n, "sum": sum(range(n + 1))} for n in (3, 4, 5)]
    assert [line.split() for line in machine.probe_events.profile().splitlines()] == [["opened", "6", "0"], ["depth", "3", "3"]]


def test_E07_a_pointer_to_nothing_is_a_fault(traced):
    machine = traced("p:e do_open path=+0(%di):string word=+0(%di):u64")
    assert fields(machine, "path")[3] is None and fields(machine, "word")[3] == 0
    assert machine.probe_events.trace().count("path=(fault) word=0\n") == 1


def test_E08_bit_fields_and_the_stack(traced):
    machine = traced("p:e do_close $stack0:b4@4/32 ret=$stack0:symbol full=$stack0")
    for record in machine.probe_events.records:
        assert record.fields["arg1"] == record.fields["full"] >> 4 & 15
    assert "ret=main+0x" in machine.probe_events.trace()


def test_E09_E10_arrays(traced):
    machine = traced("p:e do_close fd=%di:s32 bytes=@files+14:x8[4] tag=@files+14:char[4] names=@files:string[1]",
                     "p:words do_close modes=@files+8:u32[1]")
    first = next(line for line in machine.probe_events.trace().splitlines() if ": e: (" in line)
    assert "bytes={0x74,0x65,0x73,0x74} tag={'t','e','s','t'} names={\"/etc/passwd\"}" in first
    assert (0o644,) in [record.fields.get("modes") for record in machine.probe_events.records]


def test_E13_one_event_on_two_functions(traced):
    machine = traced("p:e do_open x=%di", "p:e do_close x=%di")
    names = [machine.symbols.describe(record.ip) for record in machine.probe_events.records]
    assert names == ["do_open"] * 6 + ["do_close"] * 5


def test_E17_the_profile_counts(machine, opens):
    made = machine(opens)
    made.probe_events.write("p:opened do_open\np:closed do_close\np:never report")
    made.probe_events.enable("opened")
    made.probe_events.enable("closed")
    assert [line.split() for line in made.probe_events.profile().splitlines()] == [
        ["opened", "0", "0"], ["closed", "0", "0"], ["never", "0", "0"]]
    made.run(MAX_CYCLES)
    assert [line.split() for line in made.probe_events.profile().splitlines()] == [
        ["opened", "6", "0"], ["closed", "5", "0"], ["never", "0", "0"]]


def test_E19_every_offset_of_a_function(machine, opens):
    made = machine(opens)
    start, size = made.symbols.lookup("do_open"), 0
    size = made.symbols.containing(start).size
    accepted = []
    for offset in range(size):
        try:
            made.probe_events.write(f"p:at{offset} do_open+{offset}")
            accepted.append(offset)
        except ProbeEventError as error:
            assert error.code.name == "BAD_INSN_BNDRY"
    made.probe_events.enable()
    result = made.run(MAX_CYCLES)
    assert result.exit == 1
    assert 10 < len(accepted) < size
    reached = {record.ip - start for record in made.probe_events.records}
    assert reached <= set(accepted) and 0 in reached
    assert made.probe_events["at0"].hits == 6


@pytest.mark.slow
def test_E20_many_probes_at_once(machine):
    """The instructions of whole functions, at least 256 of them, enabled and disabled together."""
    made = machine(build_program("strings", n=1, opt="-O1"))
    before = {symbol.name: made.mem.read(symbol.start, symbol.size) for symbol in made.symbols.symbols()}
    count = 0
    for symbol in made.symbols.symbols():
        for offset in range(symbol.size if count < 256 and made.symbols.is_text(symbol.start) else 0):
            try:
                made.probe_events.write(f"p:n{count} {symbol.name}+{offset}")
                count += 1
            except ProbeEventError:
                pass
    assert count >= 256
    for _ in range(2):
        made.probe_events.enable()
        made.probe_events.disable()
    assert {symbol.name: made.mem.read(symbol.start, symbol.size) for symbol in made.symbols.symbols()} == before
    made.probe_events.enable()
    made.run(MAX_CYCLES)
    made.probe_events.disable()
    made.probe_events.clear()
    assert made.kprobes.registered == ()


def test_filters_on_the_hardware(traced):
    machine = traced("p:e do_open path=+0(%di):string flags=%si:s32", filters=[("e", 'path ~ "/*" || flags & 4')])
    assert fields(machine, "path") == ["/etc/passwd", "/dev/null", "b", "c"]
    assert machine.probe_events["e"].hits == 6


@pytest.mark.parametrize("mode", [
    Options(boost=True), Options(step="int3"), Options(step="int3", boost=True),
    Options(step="int3", boost=True, optimize=True, optimize_delay=0)], ids=["boost", "int3", "int3-boost", "optimized"])
def test_every_way_of_execution_gives_the_same_records(machine, opens, mode):
    """Registers, ip included, and memory are what the first way shows."""
    found, image = [], load_elf(opens)
    start = image.symbols.lookup("do_open")
    text = next(s for s in image.segments if s.vaddr <= start < s.vaddr + len(s.data))
    first_size = split(text.data[start - text.vaddr:][:15]).length
    for options in (Options(), mode):
        made = machine(image, probes=options)
        made.probe_events.write("p:e do_open %ip path=+0(%di):string $stack0 flags=%flags:x32\n"
                                "r:e2 do_open $retval fd=$arg2:u8 %sp\nr3:d depth n=$arg1:u8")
        made.probe_events.write(f"p:inside do_open+{first_size} %ip %sp")
        made.probe_events.enable()
        assert made.run(MAX_CYCLES).console.decode() == expected_output("opens", n=1)
        records = made.probe_events.records
        found.append([(record.layout.event, record.ip, record.ret_ip, record.values, record.flags) for record in records])
    assert len(found[0]) == 6 + 6 + 6 + 3 and found[1] == found[0]


def test_the_image_and_the_name_of_the_task(machine, opens):
    assert machine(load_elf(opens)).probe_events.format.comm == "<...>"
    assert machine(opens).probe_events.format.comm == opens.stem


def test_a_snapshot_holds_the_events(machine, opens):
    made = machine(opens)
    if "snapshot" not in made.engine.capabilities:
        pytest.skip(f"the engine {made.engine.name} has no snapshots")
    made.probe_events.write("p:e do_close fd=%di:s32")
    made.probe_events.enable()
    made.run(MAX_CYCLES, until="do_close")
    kept = made.snapshot()
    made.run(MAX_CYCLES)
    all_of_them = [record.as_dict() for record in made.probe_events.records]
    made.restore(kept)
    assert made.probe_events["e"].hits == 0 and not made.probe_events.records
    made.run(MAX_CYCLES)
    assert [record.as_dict() for record in made.probe_events.records] == all_of_them and len(all_of_them) == 5
    json.dumps(all_of_them)
