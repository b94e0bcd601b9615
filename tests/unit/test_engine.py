"""Both engines on the toy Soc: the meaning of every stop, and that nothing tells one engine from the other."""

import random

import pytest
from toy_soc import Op, ToySoc, line

from hw.config import Config
from sim.engine import MAX_IPIS, DesignError, EngineError, Recording, StopOn, StopReason, open_engine

RAM = 1 << 16
DATA = 0x8000
CHECKSUM, IPIS = 32, 34
ENGINES = ("pysim", "compiled")


def new(name, program=(), *, harts=1, **options):
    engine = open_engine(name, harts=harts, config=Config(ram_bytes=RAM), soc_factory=ToySoc, **options)
    engine.write_mem(0, b"".join(program))
    return engine


def registers(engine, hart=0):
    return [engine.read_reg(hart, i) for i in (*range(17), CHECKSUM, 33, IPIS)]


@pytest.fixture(params=ENGINES)
def engine_of(request):
    """Opens an engine with a program."""
    made = []

    def make(program, **options):
        made.append(new(request.param, program, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def test_a_trap_request_stops_before_its_edge(engine_of):
    engine = engine_of([line(Op.IMM, 1, imm64=0x1234), line(Op.CALL, 1, imm32=3), line(Op.EXIT, imm32=7)])
    stop = engine.run(100)
    assert (stop.reason, stop.hart) == (StopReason.TRAP_REQUEST, 0)
    assert engine.trap_request(0) == (3, 0x1234)
    at = engine.cycle
    assert engine.run(100).cycles == 0, "it waits"
    engine.complete_trap(0, True)
    stop = engine.run(1)
    assert (stop.reason, engine.cycle) == (StopReason.MAX_CYCLES, at + 1)
    assert engine.read_reg(0, 14) == 1, "handled reaches the hart in that cycle"
    stop = engine.run(100)
    assert stop.reason == StopReason.EXIT
    assert engine.drain().exits == [(engine.cycle - 1, 7)]
    assert engine.retired(0) == 3


def test_an_interrupt_requested_while_a_trap_request_waits_comes_after_the_edge(engine_of):
    engine = engine_of([line(Op.CALL), line(Op.HLT)])
    assert engine.run(100).reason == StopReason.TRAP_REQUEST
    at = engine.cycle
    engine.sample(["h0_irq__valid", "h0_irq__vector"], at, at + 2)
    engine.set_irq(0, 0x40)
    engine.set_irq(0, None)
    engine.set_irq(0, 0x41)
    engine.complete_trap(0, True)
    engine.run(100)
    (_, valid, _), later = engine.drain_samples()
    assert valid == 0 and later == (at + 1, 1, 0x41)
    assert engine.read_reg(0, 33) == 0x41


def test_such_an_interrupt_outlives_a_register_write_of_another_hart(engine_of):
    engine = engine_of([line(Op.CALL), line(Op.HLT)], harts=2)
    engine.write_reg(1, 16, 16)
    while not engine.state(0).trap_request:
        engine.run(1)
    engine.set_irq(0, 0x41)
    engine.write_reg(1, 3, 7)
    engine.complete_trap(0, True)
    engine.run(100)
    assert engine.read_reg(0, 33) == 0x41


def test_completing_nothing_is_refused(engine_of):
    with pytest.raises(EngineError, match="no TrapPort request"):
        engine_of([]).complete_trap(0, True)


def test_max_cycles_retired_pc_reach_and_trap(engine_of):
    program = [line(Op.NOP), line(Op.NOP), line(Op.TRAP, imm32=6, imm64=0x40), line(Op.NOP), line(Op.JMP, imm32=0)]
    engine = engine_of(program)
    assert engine.run(2).reason == StopReason.MAX_CYCLES
    assert engine.cycle == 2
    assert engine.run(100, StopOn(retired=1)).reason == StopReason.RETIRED
    assert engine.read_reg(0, 16) == 0x10
    assert engine.run(100, StopOn(pc=0x10)).reason == StopReason.PC
    assert engine.read_reg(0, 16) == 0x20
    engine.drain()
    assert engine.run(100, StopOn(trap=True)).reason == StopReason.TRAP
    (trap,) = engine.drain().retires
    assert (trap.trap_vector, trap.trap_rip, trap.cycle) == (6, 0x20, engine.cycle - 1)
    assert engine.run(100, StopOn(reach=0x40)).reason == StopReason.REACHED
    assert engine.retired(0) == 2, "a delivery is no instruction"
    assert engine.run(100, StopOn(retired=3)).reason == StopReason.RETIRED


def test_a_repeated_instruction_retires_once(engine_of):
    engine = engine_of([line(Op.IMM, 1, imm64=5), line(Op.LOOP, 1), line(Op.EXIT)])
    assert engine.run(200, StopOn(retired=2)).reason == StopReason.RETIRED
    assert (engine.read_reg(0, 1), engine.retired(0)) == (0, 2)


def test_boundary_stops_before_the_edge_and_allows_a_write(engine_of):
    engine = engine_of([line(Op.LOAD, 1, imm32=DATA), line(Op.NOP), line(Op.JMP, imm32=16)], latency=5)
    while engine.state(0).boundary:
        engine.run(1)
    with pytest.raises(EngineError, match="run to a boundary"):
        engine.write_reg(0, 3, 1)
    assert engine.run(100, StopOn(boundary=True)).reason == StopReason.BOUNDARY
    at = engine.cycle
    assert engine.run(100, StopOn(boundary=True)).cycles == 0
    engine.write_reg(0, 3, 0xFEDCBA9876543210)
    assert engine.cycle == at, "a register write is not counted"
    assert engine.read_reg(0, 3) == 0xFEDCBA9876543210


def test_refetch_sees_changed_memory(engine_of):
    engine = engine_of([line(Op.NOP), line(Op.NOP), line(Op.HLT)])
    assert engine.run(100, StopOn(retired=1)).reason == StopReason.RETIRED
    engine.write_mem(16, line(Op.EXIT, imm32=5))
    engine.refetch(0)
    assert engine.run(100).reason == StopReason.EXIT


def test_halted_irq_nmi_and_shutdown(engine_of):
    engine = engine_of([line(Op.HLT), line(Op.HLT), line(Op.SHUTDOWN)])
    assert engine.run(1000).reason == StopReason.HALTED
    assert engine.state(0).halted
    engine.set_irq(0, 0x40)
    assert engine.run(1000).reason == StopReason.HALTED
    assert engine.read_reg(0, 33) == 0x40, "acknowledged once"
    engine.nmi(0)
    assert engine.run(1000).reason == StopReason.SHUTDOWN
    assert engine.read_reg(0, 33) == 0x40 + 1000
    assert engine.state(0).shutdown
    engine.reset()
    assert (engine.cycle, engine.state(0).shutdown, engine.run(1000).reason) == (0, False, StopReason.HALTED)


def test_ipis_arrive_one_a_cycle_in_order(engine_of):
    engine = engine_of([line(Op.CALL), line(Op.EXIT)], harts=2)
    engine.run(100)
    for destination, vector, mode in ((1, 0x41, 0), (0xFF, 0x42, 4), (0, 0x43, 0), (3, 0x44, 0)):
        engine.ipi(destination, vector, mode)
    assert engine.run(100).cycles == 0 and engine.read_reg(0, IPIS) == 0, "a cycle that is still to come sends nothing"
    for hart in (0, 1):
        engine.complete_trap(hart, True)
    arrived = []
    for _ in range(5):
        engine.run(1)
        arrived.append((engine.read_reg(0, IPIS), engine.read_reg(1, IPIS)))
    assert arrived == [(0, 0x41), (0x442, 0x41442), (0x442043, 0x41442), *2 * [(0x442043, 0x41442)]]


def test_a_register_write_sends_no_ipi(engine_of):
    engine = engine_of([line(Op.HLT)])
    engine.ipi(0, 0x55)
    engine.write_reg(0, 1, 1)
    assert engine.read_reg(0, IPIS) == 0
    engine.run(1)
    assert engine.read_reg(0, IPIS) == 0x55


def test_too_many_ipis(engine_of):
    engine = engine_of([line(Op.JMP)])
    for vector in range(MAX_IPIS):
        engine.ipi(0, vector)
    with pytest.raises(EngineError, match="64 IPIs wait to be sent, one a cycle"):
        engine.ipi(0, 1)
    engine.run(MAX_IPIS)
    assert engine.read_reg(0, IPIS) & 0xFFF == MAX_IPIS - 1
    engine.ipi(0, 7)
    engine.reset()
    engine.run(3)
    assert engine.read_reg(0, IPIS) == 0, "a reset drops them"


def test_memory_range(engine_of):
    engine = engine_of([])
    engine.write_mem(RAM - 4, b"abcd")
    assert engine.read_mem(RAM - 4, 4) == b"abcd"
    for address, size in ((RAM - 3, 4), (-1, 1)):
        with pytest.raises(IndexError):
            engine.read_mem(address, size)


def test_samples_carry_port_names(engine_of):
    engine = engine_of([line(Op.IMM, 1, imm64=9), line(Op.JMP, imm32=0)])
    with pytest.raises(KeyError):
        engine.sample(["h0_pipe__nothing"])
    engine.sample(["h0_pipe__x_valid", "h0_pipe__x_pc", "h0_fetch__resp_data"], 3, 8)
    engine.run(20)
    samples = engine.drain_samples()
    assert [row[0] for row in samples] == [3, 4, 5, 6, 7]
    assert engine.ports()["h0_fetch__resp_data"] == 128


def test_an_assert_that_fails_ends_the_run_in_its_cycle(engine_of):
    engine = engine_of([line(Op.CHECK, 2, imm32=7), line(Op.NOP), line(Op.CHECK, 12, imm32=0x123), line(Op.EXIT)])
    engine.record(Recording.ALL)
    engine.sample(["h0_pipe__x_valid"])
    for _ in range(2):  # it stays so
        with pytest.raises(DesignError) as caught:
            engine.run(100)
        error = caught.value
        assert (error.invariant, error.hart, error.path, error.cycle) == ("toy.bound", 0, "h0", engine.cycle)
        assert error.detail == "0x123 and 12, {in braces}"
        assert f"invariant toy.bound of hart 0 does not hold in cycle {engine.cycle}: 0x123 and 12" in str(error)
    assert engine.read_reg(0, 16) == 0x20, "the edge of that cycle has not come"
    assert engine.drain().retires[-1].cycle == engine.cycle == engine.drain_samples()[-1][0]
    engine.reset()
    engine.write_mem(0x24, bytes(4))
    engine.write_mem(0x21, bytes(1))
    assert engine.run(100).reason == StopReason.EXIT


def test_an_assert_of_one_hart_of_two_and_one_without_values(engine_of):
    engine = engine_of([line(Op.EXIT, imm32=0xBAD)], harts=2)
    with pytest.raises(DesignError, match=r"invariant toy.exit does not hold in cycle \d+: no detail \(top, engine"):
        engine.run(100)
    engine.reset()
    engine.write_mem(0, line(Op.NOP) + line(Op.CHECK, 0, imm32=9))
    engine.write_reg(1, 16, 0x10)
    engine.write_reg(0, 16, 0x100)
    with pytest.raises(DesignError) as caught:
        engine.run(100)
    assert (caught.value.path, caught.value.hart) == ("h1", 1)


def test_a_snapshot_before_a_failing_assert():
    engine = new("compiled", [line(Op.NOP), line(Op.CHECK, 9)])
    saved = engine.save()
    for _ in range(2):
        with pytest.raises(DesignError):
            engine.run(100)
        engine.restore(saved)


def random_program(rng, lines=120):
    """Straight-line work with loops, stores and loads of every size and alignment, traps, calls, console output."""
    program = [line(Op.IMM, r, imm64=rng.getrandbits(64)) for r in range(14)]
    while len(program) < lines:
        op = rng.choice([Op.ADD, Op.LOAD, Op.LOAD, Op.STORE, Op.STORE, Op.OUT, Op.CALL, Op.NOP, Op.LOOP, Op.TRAP, Op.HLT])
        at = len(program) * 16
        reg = rng.randrange(14)
        if op == Op.LOOP:
            program.append(line(Op.IMM, reg, imm64=rng.randrange(1, 5)))
            program.append(line(Op.LOOP, reg))
        elif op in (Op.LOAD, Op.STORE):
            address = rng.choice([rng.randrange(DATA, DATA + 64), RAM - rng.randrange(1, 12)])
            program.append(line(op, reg, rng.randrange(4), address, 0))
        elif op == Op.TRAP:
            program.append(line(op, reg, imm32=rng.randrange(32), imm64=at + 16))
        else:
            program.append(line(op, reg, imm32=rng.randrange(256), imm64=rng.getrandbits(64)))
    return [*program, line(Op.EXIT, imm32=rng.getrandbits(32))]


def history(engine, seed):
    """Run to the exit, with interruptions that depend on the seed only, and return all that can be seen."""
    rng, ipis = random.Random(seed), random.Random(seed + 1)
    seen = []
    engine.record(Recording.ALL, 0, 400)
    engine.sample([name for name in sorted(engine.ports()) if name not in ("clk", "rst")], 50, 250)
    for _ in range(3000):
        conditions = [StopOn(), StopOn(retired=rng.randrange(1, 9)), StopOn(trap=True), StopOn(boundary=True, hart=0)]
        stop = engine.run(rng.randrange(60), rng.choice(conditions))
        seen.append((stop, engine.cycle, [engine.state(h) for h in range(engine.harts)]))
        for hart in range(engine.harts):
            state = engine.state(hart)
            if state.trap_request:
                seen.append(engine.trap_request(hart))
                engine.complete_trap(hart, rng.random() < 0.5)
            elif state.boundary and rng.random() < 0.1:
                engine.write_reg(hart, rng.randrange(14), rng.getrandbits(64))
            if rng.random() < 0.2:
                engine.set_irq(hart, rng.choice([None, rng.randrange(256)]))
            if rng.random() < 0.2:
                engine.nmi(hart)
            if ipis.random() < 0.2:
                engine.ipi(ipis.choice([0, 1, 0xFF]), ipis.randrange(256), ipis.randrange(8))
            seen.append(registers(engine, hart))
        if stop.reason == StopReason.EXIT:
            break
    else:
        raise AssertionError("the program does not end")
    seen += [engine.read_mem(DATA, 128), engine.drain(), [engine.retired(h) for h in range(engine.harts)]]
    return seen, engine.drain_samples()


@pytest.mark.parametrize(
    "harts, latency, wait_seed", [(1, 1, None), (1, 1, 7), (1, 4, None), (1, 3, 99), (2, 1, None), (2, 2, 5)]
)
@pytest.mark.parametrize("seed", range(3))
def test_engines_agree(harts, latency, wait_seed, seed):
    program = random_program(random.Random(seed))
    histories = []
    for name in ENGINES:
        engine = new(name, program, harts=harts, latency=latency, wait_seed=wait_seed)
        histories.append(history(engine, seed))
        engine.close()
    for other in histories[1:]:
        for number, (a, b) in enumerate(zip(histories[0][0], other[0], strict=True)):
            assert a == b, f"step {number}"
        assert histories[0][1] == other[1]


def test_snapshot_returns_to_the_same_future():
    program = random_program(random.Random(11))
    engine = new("compiled", program, wait_seed=3)
    assert "snapshot" in engine.capabilities
    engine.run(200)
    engine.drain()
    saved = engine.save()
    futures = []
    for _ in range(2):
        futures.append((history(engine, 1), registers(engine)))
        engine.restore(saved)
    assert futures[0] == futures[1]


def test_a_full_buffer_does_not_show():
    loop = [line(Op.ADD, 1, imm64=1), line(Op.JMP, imm32=0)]
    engine = new("compiled", loop)
    engine.record(Recording.ALL)
    assert engine.run(600_000, StopOn(retired=170_000)).reason == StopReason.RETIRED
    assert len(engine.drain().retires) == 170_000 == engine.retired(0)
