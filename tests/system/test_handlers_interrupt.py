"""Handlers that request interrupts: the hit that they are in comes first, whatever the way, and happens once."""

import pytest

from kprobes import Kprobe, Kretprobe, Options
from sim.guestbuild import build_text

CALLS = 8
SOURCE = f"""
#include "guest.h"
noinline long work(long x) {{ __asm__ volatile("imul $3, %0; xor $5, %0; add $9, %0" : "+r"(x)); return x; }}
int main(void) {{
    long sum = 0;
    sti();
    for (int i = 0; i < {CALLS}; i++)
        sum = work(sum);
    cli();
    puthex(sum, 8);
    return 0;
}}
"""
WAYS = {
    "tf": Options(), "int3": Options(step="int3"), "boosted": Options(boost=True), "optimised": Options(optimize=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_hit_happens_once(machine, way):
    """The guest's interrupts are on in a detour and in the trampoline of a kretprobe, unlike in a trap."""
    with machine(build_text(SOURCE, name="requests"), probes=WAYS[way]) as m:
        plain = m.run(100_000)
    with machine(build_text(SOURCE, name="requests"), probes=WAYS[way]) as m:
        seen = []

        def requests(name):
            return lambda *rest: seen.append((name, m.harts[0].irq(33)))

        p = Kprobe(symbol_name="work", pre_handler=requests("pre"))
        rp = Kretprobe(symbol_name="work", handler=requests("return"))
        m.kprobes.register_kprobe(p)
        m.kprobes.register_kretprobe(rp)
        m.kprobes.wait_for_optimizer()
        result = m.run(100_000)
        assert (result.exit, result.console) == (plain.exit, plain.console) and result.exit == 1
        assert [name for name, _ in seen] == ["pre", "return"] * CALLS and p.hits == CALLS
        assert m.mem.read(m.symbols.lookup("irq_count"), 1) == bytes([2 * CALLS])
