"""RAM: the Amaranth component does what the engines' models do, in every cycle; its parameters are checked."""

import random

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator
from test_engine import DATA, RAM, new, random_program, registers
from toy_soc import ToySoc

from hw.config import Config
from hw.ram import Ram, check_parameters
from sim.engine import Recording, StopOn, open_engine


class Reference:
    """The toy Soc with `hw.ram.Ram` in Amaranth's own simulator."""

    def __init__(self, program, harts, latency, wait_seed):
        self.domain, top = ClockDomain("sync"), Module()
        top.domains += self.domain
        top.submodules.soc = self.soc = ToySoc(harts, Config(RAM))
        top.submodules.ram = self.ram = Ram(harts, RAM, latency, wait_seed)
        for hart in range(harts):
            for port in (f"h{hart}_fetch", f"h{hart}_data"):
                connect(top, getattr(self.soc, port), getattr(self.ram, port))
        image = b"".join(program).ljust(RAM, b"\0")
        for parity, bank in enumerate(self.ram.banks):
            bank.init = [int.from_bytes(image[at : at + 8], "little") for at in range(8 * parity, RAM, 16)]
        simulator = Simulator(top)

        async def keep(ctx):
            self.ctx = ctx

        simulator.add_testbench(keep)
        simulator.advance()

    def edge(self):
        self.ctx.set(self.domain.clk, 1)
        self.ctx.set(self.domain.clk, 0)

    def port(self, name):
        interface, member = name.split("__")
        return getattr(getattr(self.soc, interface), member)


@pytest.mark.parametrize("harts, latency, wait_seed", [(1, 1, None), (1, 4, None), (1, 1, 21), (2, 3, 22)])
def test_ports_in_every_cycle(harts, latency, wait_seed):
    program = random_program(random.Random(5))
    reference = Reference(program, harts, latency, wait_seed)
    engine = new("pysim", program, harts=harts, latency=latency, wait_seed=wait_seed)
    names = [n for n in engine.ports() if "_fetch__" in n or "_data__" in n or "retire" in n]
    engine.sample(names)
    for _ in range(600):
        row, valid = {}, {}
        for name in names:
            row[name] = reference.ctx.get(reference.port(name))
        done = [reference.ctx.get(reference.port(f"h{h}_trap__req")) for h in range(harts)]
        for hart in range(harts):
            reference.ctx.set(reference.port(f"h{hart}_trap__done"), done[hart])
            if done[hart] and engine.state(hart).trap_request:
                engine.complete_trap(hart, False)
        for name in names:
            row[name] = reference.ctx.get(reference.port(name))
        engine.run(1)
        (sample,) = engine.drain_samples()
        for name, value in zip(names, sample[1:], strict=True):
            valid = row.get(name.replace("resp_data", "resp_valid"), 1)
            if not name.endswith("resp_data") or valid:
                assert row[name] == value, f"{name} in cycle {sample[0]}"
        reference.edge()


@pytest.mark.parametrize("engine", ["pysim", "compiled"])
def test_wait_patterns_differ_but_results_do_not(engine):
    program = random_program(random.Random(8))
    seen = set()
    for latency, seed in ((1, None), (1, 1), (1, 2), (6, 3)):
        machine = new(engine, program, latency=latency, wait_seed=seed)
        machine.record(Recording.OFF)
        while True:
            stop = machine.run(100_000, StopOn())
            if stop.reason.name == "EXIT":
                break
            if stop.reason.name == "HALTED":
                machine.nmi(0)
            else:
                machine.complete_trap(0, True)
        seen.add((tuple(registers(machine)[:14]), machine.read_mem(DATA, 64)))
        machine.close()
    assert len(seen) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"config": Config(ram_bytes=5000)}, "power of two"),
        ({"config": Config(ram_bytes=1024)}, "power of two"),
        ({"latency": 0}, "latency must be 1 to"),
        ({"latency": 33}, "latency must be 1 to"),
    ],
)
@pytest.mark.parametrize("engine", ["pysim", "compiled"])
def test_parameters(engine, options, message):
    with pytest.raises(ValueError, match=message):
        open_engine(engine, soc_factory=ToySoc, **options)
    with pytest.raises(ValueError, match=message):
        check_parameters(options.get("config", Config()).ram_bytes, options.get("latency", 1))
