"""The machine around an engine: names, memory, stepping, events, and the way of a trap to the runtime and back."""

import json

import pytest
from toy_soc import Op, ToySoc, line

from hw.bus import HIGH_BASE
from hw.config import Config
from kprobes import HandlerError, Kprobe, PtRegs
from sim.engine import DesignError, EngineError, Recording, StopOn, StopReason
from sim.events import Console, Deliver, EventLog, Exit, Iret, ProbePhase, Retire, Trap, TrapPortCall
from sim.machine import Machine
from sim.memory import GuestMemoryError
from sim.wave import WaveRecorder

RAM = 1 << 20
ENGINES = ("pysim", "compiled")
REGS = 0x8000


@pytest.fixture(params=ENGINES)
def toy(request):
    """A machine of the toy Soc with a program at 0."""
    machines = []

    def make(program, **options):
        machine = Machine(engine=request.param, config=Config(ram_bytes=RAM), soc_factory=ToySoc, **options)
        machine.load(0, b"".join(program))
        machines.append(machine)
        return machine

    yield make
    for machine in machines:
        machine.close()


def test_registers_by_name(toy):
    regs = toy([line(Op.HLT)]).harts[0].regs
    regs.rax = 5
    regs["r9"] = -1
    assert (regs.rax, regs["r9"], regs.rip) == (5, (1 << 64) - 1, 0)
    assert {"rflags", "fs_base", "gs_base", "cr2", "dr6", "cpl"} <= set(regs.keys())
    with pytest.raises(AttributeError, match="no register 'rxa'; did you mean"):
        _ = regs.rxa
    with pytest.raises(KeyError, match="no register 'eax'"):
        regs["eax"] = 1


def test_memory_map(toy):
    memory = toy([]).mem
    memory.write(0x4000, b"hello")
    assert memory.read(HIGH_BASE + 0x4000, 5) == b"hello"
    for address, size in ((RAM - 2, 3), (HIGH_BASE - 1, 1), (1 << 40, 8)):
        with pytest.raises(GuestMemoryError, match="not mapped"):
            memory.read(address, size)
    with pytest.raises(GuestMemoryError):
        memory.write(RAM - 1, b"no")
    assert memory.read(RAM - 1, 1) == b"\0"


def test_run_step_and_result(toy):
    machine = toy([line(Op.IMM, 1, imm64=72), line(Op.OUT, 1), line(Op.OUT, 1), line(Op.EXIT, imm32=5)])
    result = machine.step(2)
    assert (result.reason, result.retired, result.console) == (StopReason.RETIRED, 2, b"H")
    assert machine.harts[0].regs.rip == 0x20
    result = machine.run()
    assert (result.reason, result.exit, result.console, result.retired) == (StopReason.EXIT, 11, b"H", 2)
    assert [type(event) for event in machine.events] == [Console, Console, Exit]
    assert result.seconds > 0 and result.cycles + 0 < machine.cycle


def test_until(toy):
    machine = toy([line(Op.NOP), line(Op.NOP), line(Op.JMP, imm32=0)])
    assert machine.run(until=0x20).reason == StopReason.REACHED
    assert machine.harts[0].regs.rip == 0x20
    assert machine.run(100, until=StopOn(pc=0x10)).reason == StopReason.PC
    assert machine.run(10).reason == StopReason.MAX_CYCLES
    with pytest.raises(ValueError, match="no symbol 'nowhere'"):
        machine.run(until="nowhere")


def test_memory_changed_under_way_is_fetched_again(toy):
    machine = toy([line(Op.NOP), line(Op.NOP), line(Op.JMP, imm32=16)])
    machine.run(until=0x10)
    machine.engine.run(2)
    machine.mem.write(0x10, line(Op.EXIT, imm32=1))
    assert machine.run(200).exit == 3


def test_a_request_that_nobody_handles(toy):
    machine = toy([line(Op.IMM, 1, imm64=REGS), line(Op.CALL, 1, imm32=6), line(Op.IMM, 14), line(Op.EXIT)])
    machine.mem.write(REGS, PtRegs(ip=0x1234).pack())
    result = machine.run()
    (call,) = result.unhandled
    assert (call.vector, call.regs, call.rip, call.handled, call.hart) == (6, REGS, 0x1234, False, 0)
    assert machine.events.of(TrapPortCall) == [call]


def test_a_request_with_a_bad_address(toy):
    machine = toy([line(Op.IMM, 1, imm64=1 << 50), line(Op.CALL, 1, imm32=3), line(Op.EXIT)])
    assert [call.handled for call in machine.run().unhandled] == [False]


def test_retire_events_and_digest(toy):
    program = [line(Op.IMM, 3, imm64=7), line(Op.STORE, 3, 2, 0x5000), line(Op.TRAP, imm32=13, imm64=0x30),
               line(Op.IRET, 4), line(Op.NOP), line(Op.NOP)]  # fmt: skip
    machine = toy(program, record=Recording.ALL)
    machine.harts[0].regs.rsp = 0x40
    machine.run(30)
    first, store = machine.events.of(Retire)[:2]
    assert (first.pc, first.register, first.store) == (0, (3, 7), None)
    assert store.store == (0x5000, 4, 7)
    (trap,), (deliver,), (iret,) = (machine.events.of(kind) for kind in (Trap, Deliver, Iret))
    assert (trap.vector, trap.rip, trap.error) == (13, 0x20, None)
    assert (deliver.handler, iret.rip) == (0x30, 0x40)
    assert trap.cycle < deliver.cycle < iret.cycle
    lines = [json.loads(text) for text in machine.events.lines()]
    assert lines[0] == {"kind": "log", "schema": 1}
    assert {"retire", "trap", "deliver", "iret"} == {row["kind"] for row in lines[1:]}
    assert len(machine.events.digest()) == 64 and machine.events.digest() != EventLog().digest()


def test_an_invariant_that_fails_leaves_the_events_and_a_wave_that_ends_with_it(toy):
    machine = toy([line(Op.IMM, 3, imm64=7), line(Op.CHECK, 9)], record=Recording.ALL)
    recorder = WaveRecorder(machine)
    recorder.window()
    with pytest.raises(DesignError, match=r"toy.bound of hart 0 .* --wave --wave-around cycle:") as caught:
        machine.run()
    assert [event.pc for event in machine.events.of(Retire)] == [0, 0x10]
    assert recorder.trace().cycles[-1] == caught.value.cycle == machine.cycle


def test_setting_a_register_inside_an_instruction(toy):
    machine = toy([line(Op.LOAD, 1, imm32=64)], latency=6)
    while machine.harts[0].state.boundary:
        machine.run(1)
    with pytest.raises(EngineError, match="between two instructions"):
        machine.harts[0].regs.rax = 1


def test_shutdown_names_the_traps_that_led_to_it(toy):
    machine = toy([line(Op.TRAP, imm32=3, imm64=0x10), line(Op.TRAP, imm32=14, imm64=0x20), line(Op.SHUTDOWN)])
    result = machine.run(1000)
    assert result.reason == StopReason.SHUTDOWN
    assert machine.events[len(machine.events) - 1].kind == "shutdown"
    assert result.shutdown == [], "both were delivered"


GUEST = """
#include "guest.h"
noinline int work(int a, int b) { return a * 3 + b; }
int main(void)
{
	int sum = 0;
	for (int i = 0; i < 3; i++)
		sum = work(sum, i);
	puts("sum ");
	putdec(sum);
	return 5;
}
"""


@pytest.fixture(scope="module", params=ENGINES)
def guest(request):
    """Opens machines with a guest of one probed function on the real core."""
    pytest.importorskip("hw.soc")
    from sim.guestbuild import build_text

    image = build_text(GUEST)
    return lambda **options: Machine(image, engine=request.param, **options)


def test_a_probe_fires_on_the_core(guest):
    with guest() as machine:
        assert machine.symbols.lookup("work")
        plain = machine.run(100_000)
        text = machine.mem.read(machine.symbols.lookup("work"), 16)
    seen = []

    def handler(p, regs):
        seen.append((regs.di, regs.si))

    with guest() as machine:
        probe = Kprobe(symbol_name="work", pre_handler=handler)
        machine.kprobes.register_kprobe(probe)
        result = machine.run(100_000)
        assert (result.exit, result.console) == (plain.exit, plain.console) == (11, b"sum 5")
        assert seen == [(0, 0), (0, 1), (1, 2)]
        assert result.hits == 3 and not result.unhandled
        phases = [event.phase for event in machine.events.of(ProbePhase)]
        assert phases == ["hit", "pre", "step", "resume"] * 3
        kinds = [e.kind for e in machine.events if e.kind not in ("probe", "console", "exit")]
        assert kinds == ["trap", "deliver", "trapport", "iret"] * 6, "int3 and #DB of each hit"
        machine.kprobes.unregister_kprobe(probe)
        assert machine.mem.read(machine.symbols.lookup("work"), 16) == text


def test_a_handler_that_raises_leaves_the_machine_usable(guest):
    def handler(p, regs):
        raise ZeroDivisionError("oops")

    with guest() as machine:
        probe = Kprobe(symbol_name="work", pre_handler=handler)
        machine.kprobes.register_kprobe(probe)
        with pytest.raises(HandlerError, match="oops"):
            machine.run(100_000)
        assert machine.mem.read(machine.symbols.lookup("work"), 1) == b"\xcc"
        machine.kprobes.unregister_kprobe(probe)
        assert machine.run(100_000).console == b"sum 5"


def test_both_engines_give_the_same_events(guest, tmp_path):
    if guest().engine.name != "compiled":
        pytest.skip("compared once")
    digests = set()
    for engine in ENGINES:
        with Machine(build_demo(), engine=engine, record=Recording.ALL, wait_seed=4, latency=2) as machine:
            machine.kprobes.register_kprobe(Kprobe(symbol_name="work"))
            machine.run(100_000)
            machine.events.write_jsonl(tmp_path / f"{engine}.jsonl")
            digests.add(machine.events.digest())
    assert len(digests) == 1


def build_demo():
    from sim.guestbuild import build_text

    return build_text(GUEST)
