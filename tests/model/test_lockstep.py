"""Random programs on the core, compared with the reference model step by step; and that a difference is found and shown."""

import pytest

from hw.config import Config, Vendor
from sim.engine import RetireFlag, StopReason
from tests.model import system
from tests.model.campaign import report, share
from tests.model.lockstep import Lockstep, Mismatch
from tests.model.programs import program
from tests.model.rig import TIMINGS, Rig

#: Programs for each engine.
COUNT = {"pysim": 3, "compiled": 140}


@pytest.fixture
def rig(engine_name, engine_pool):
    """On pysim every program runs with fast memory: opening an engine costs seconds there."""

    def open(latency, wait_seed):
        return engine_pool.borrow(engine_name, latency=latency, wait_seed=wait_seed)

    return Rig(open, timings=TIMINGS[:1] if engine_name == "pysim" else TIMINGS)


def test_random_programs(rig, engine_name, seed):
    result = share(seed, range(COUNT[engine_name]), rig, limit=1)
    assert not result.failures, "\n".join(report(rig, seed, result.failures[0][0]))
    # a wild jump may meet bytes that are an instruction which the model does not know: rarely
    assert sum(result.unmodelled.values()) <= result.programs // 50, f"the model does not know {result.unmodelled}"
    assert result.items > 100 * result.programs
    assert engine_name == "pysim" or result.ends[StopReason.EXIT.name] > COUNT[engine_name] // 2


@pytest.mark.parametrize("engine_name", ["compiled"], scope="session")
def test_random_programs_by_the_rules_of_amd(engine_pool, engine_name, seed):
    config = Config(vendor=Vendor.AMD)
    rig = Rig(lambda latency, wait: engine_pool.borrow(engine_name, config=config, latency=latency, wait_seed=wait), vendor="amd")
    result = share(seed, range(1000, 1030), rig, limit=1)
    assert not result.failures, "\n".join(report(rig, seed, result.failures[0][0]))


def _spoil(records, kind):
    """The records with one thing wrong, near the middle."""

    def first(condition, **change):
        at = next(n for n, r in enumerate(records) if n > len(records) // 3 and condition(r))
        return [*records[:at], records[at]._replace(**{k: f(records[at]) for k, f in change.items()}), *records[at + 1 :]]

    plain = RetireFlag.TRAP | RetireFlag.DELIVER
    match kind:
        case "register":
            return first(lambda r: r.flags & RetireFlag.REG_WE and r.reg < 16 and not r.flags & plain, reg_data=lambda r: r.reg_data ^ 1 << 40)
        case "flags":
            return first(lambda r: r.flags & RetireFlag.LAST and not r.flags & plain, rflags=lambda r: r.rflags ^ 1 << 6)
        case "memory":
            return first(lambda r: r.flags & RetireFlag.MEM_WE and not r.flags & plain, mem_data=lambda r: r.mem_data ^ 1)
        case "rip":
            return first(lambda r: r.flags & RetireFlag.LAST and not r.flags & plain, next_pc=lambda r: r.next_pc + 1)
        case "frame":
            return first(lambda r: r.flags & RetireFlag.DELIVER and r.flags & RetireFlag.MEM_WE, mem_data=lambda r: r.mem_data ^ 1)
        case "trap":
            return first(lambda r: r.flags & RetireFlag.TRAP, trap_rip=lambda r: r.trap_rip + 1)
        case _:  # an interrupt that nobody asked for
            return first(lambda r: r.flags & RetireFlag.TRAP, trap_class=lambda r: 4, trap_vector=lambda r: 0x99)


@pytest.mark.parametrize("engine_name", ["compiled"], scope="session")
@pytest.mark.parametrize("kind", ["register", "flags", "memory", "rip", "frame", "trap", "interrupt"])
def test_what_differs_is_found(rig, kind):
    chosen = program("spoilt/1")
    rig.load(chosen)
    _, records, requests = rig.execute(chosen)
    assert Lockstep(rig.model, requests).run(records) > 50
    rig.load(chosen)
    with pytest.raises(Mismatch) as found:
        Lockstep(rig.model, requests).run(_spoil(records, kind))
    assert found.value.what == kind


@pytest.mark.parametrize("engine_name", ["compiled"], scope="session")
def test_a_failing_program_is_made_small(rig, monkeypatch):
    """A model in which sti spoils r11: few pieces are left, and the text says where."""
    sti = system.SYSTEM[0, 0xFB]

    def wrong(state, insn):
        effects = sti(state, insn)
        state.regs[11] ^= 1
        return effects

    monkeypatch.setitem(system.SYSTEM, (0, 0xFB), wrong)
    number = next(n for n in range(50) if rig.run(program(f"1/{n}")).mismatch)
    lines = list(report(rig, 1, number))
    assert any("sti" in line and "r11" in line for line in lines)
    assert any("<--" in line for line in lines) and lines[-1].endswith(f"--seed 1 --number {number}")
    assert sum(line.startswith("  0x") for line in lines) < 15
