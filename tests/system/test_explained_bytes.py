"""Explanations of every byte of compiled guests, in each way of executing: they are what registration then does."""

import pytest

from kprobes import Kprobe, KprobeError
from tests.system.everything import MODES, image_of


def taken(machine, p):
    """The way that the registry has chosen for a registered probe."""
    site = machine.kprobes._registry.site_of(p)
    if site.fentry:
        return "fentry"
    if site.jump is not None:
        return "optimised"
    return "boosted" if site.boosted else "emulated" if site.emulate is not None else machine.kprobes.options.step


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", ["forms", "demo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("strings", "wide"))])
def test_every_byte(name, options, machine_on):
    """Nothing runs, so the engine does not matter. Of the entry stubs, which are all alike, the first."""
    ways = {}
    with machine_on("compiled", image_of(name), probes=options) as m:
        before = m.engine.read_mem(0, 1 << 20)
        for symbol in m.symbols.symbols():
            if not m.symbols.is_text(symbol.start) or (symbol.name.startswith("trap_stub") and symbol.name[-2:] != "_0"):
                continue
            for offset in range(symbol.size):
                told = m.kprobes.explain(addr=symbol.start + offset)
                p = Kprobe(addr=symbol.start + offset)
                try:
                    m.kprobes.register_kprobe(p)
                except KprobeError as error:
                    assert told.way is None and str(told.refusal) == str(error), told
                    ways[error.rule] = ways.get(error.rule, 0) + 1
                    continue
                assert told.refusal is None and told.way == taken(m, p), (told, symbol)
                ways[told.way] = ways.get(told.way, 0) + 1
                m.kprobes.unregister_kprobe(p)
                m.kprobes.wait_for_optimizer()
        assert m.engine.read_mem(0, 1 << 20) == before
    assert ways["blacklist"] > 50 and ways["boundary"] > 100 and sum(ways.values()) > 500, ways
