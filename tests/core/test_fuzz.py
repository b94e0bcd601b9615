"""Random bytes and random instructions as code, with no IDT: the core always ends in a defined fault, and never hangs."""

from hw.isa.facts import DebugReg
from hw.isa.opcodes import TABLE
from sim.engine import Recording, StopOn, StopReason
from tests.isa.instances import instance

CODE = 0x20000

#: Programs for each engine.
COUNT = {"pysim": 60, "compiled": 1500}

#: No program runs longer than this without a fault, unless it loops.
CYCLES = 20_000


def program(rng, number):
    """Random bytes, or random instructions of the table."""
    return rng.randbytes(256) if number % 2 else b"".join(instance(rng, rng.choice(TABLE)) for _ in range(30))


def registers(rng):
    """Values that point into RAM, anywhere, or are small."""
    for index in range(16):
        yield index, rng.choice([rng.randrange(0x30000, 0x80000), rng.getrandbits(64), rng.randrange(64)])


def test_random_code_ends_in_a_fault(engine, engine_name, rng):
    for number in range(COUNT[engine_name]):
        engine.reset()
        engine.record(Recording.TRAPS)
        code = program(rng, number)
        engine.write_mem(CODE, code)
        for index, value in registers(rng):
            engine.write_reg(0, index, value)
        engine.write_reg(0, DebugReg.RFLAGS, 2 | rng.getrandbits(12) & 0xDD5)
        engine.write_reg(0, DebugReg.RIP, CODE)
        ended = engine.run(CYCLES, StopOn(trap=True))
        if ended.reason == StopReason.MAX_CYCLES:  # a loop is no hang: it goes on retiring
            ended = engine.run(CYCLES, StopOn(retired=1, trap=True))
            assert ended.reason in (StopReason.RETIRED, StopReason.TRAP), f"hangs: {code.hex()}"
        elif ended.reason == StopReason.TRAP:  # the IDT is empty: the fault becomes a triple fault
            ended = engine.run(CYCLES)
            assert ended.reason == StopReason.SHUTDOWN, f"{ended} after a trap: {code.hex()}"
        else:
            assert ended.reason in (StopReason.HALTED, StopReason.EXIT, StopReason.TRAP_REQUEST), f"{ended}: {code.hex()}"
