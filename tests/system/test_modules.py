"""Modules on the hardware: probed, unloaded while they are probed, loaded again (R42, R43, A18, E21)."""

import errno

import pytest

from kprobes import Kprobe, KprobeError, KprobeFlag, Options
from sim.elf import load_elf
from sim.engine import StopReason
from sim.guestbuild import build_text
from sim.machine import Machine
from sim.modules import ModuleError

CORE = """
#include "guest.h"
uint64_t (*volatile hook)(uint64_t);
uint64_t sum;
noinline void tick(void) { __asm__ volatile("" : : : "memory"); }
int main(void)
{
	for (int i = 0; i < 40; i++) {
		tick();
		if (hook)
			sum += hook(i);
	}
	report("sum", sum);
	return 0;
}
"""
MODULE = """
#include "guest.h"
uint64_t g(uint64_t x) { return x * 5 + 1; }
__attribute__((section(".init.text"))) uint64_t setup(uint64_t x) { return x * 7 + 1; }
"""


@pytest.fixture(scope="module")
def images():
    core = build_text(CORE, name="core")
    module = build_text(MODULE, name="late", link="module", runtime=False)
    return load_elf(core), load_elf(module)


def ticks(m, count):
    for _ in range(count):
        assert m.run(until="tick").reason == StopReason.REACHED
        m.step()


def hook(m, symbol):
    m.mem.write(m.symbols.lookup("hook"), (m.symbols.lookup(symbol) if symbol else 0).to_bytes(8, "little"))


def total(m):
    return int.from_bytes(m.mem.read(m.symbols.lookup("sum"), 8), "little")


def planted(m, symbol, **fields):
    p = Kprobe(symbol_name=symbol, pre_handler=lambda p, regs: None, **fields)
    m.kprobes.register_kprobe(p)
    return p


@pytest.mark.parametrize("options", [Options(), Options(optimize=True, optimize_delay=1)], ids=["tf", "optimised"])
def test_R42_a_module_comes_is_probed_goes_and_comes_back(images, engine_name, options):
    core, module = images
    with Machine(core, engine=engine_name, probes=options) as m:
        ticks(m, 2)
        m.modules.load("mod", module)
        hook(m, "mod:g")
        p = planted(m, "mod:g")
        ticks(m, 4)
        assert p.hits == 4 and total(m) == sum(x * 5 + 1 for x in (1, 2, 3, 4))
        hits, so_far = p.hits, total(m)
        hook(m, None)
        m.modules.unload("mod")
        assert p.flags & KprobeFlag.GONE and m.symbols.lookup("mod:g") is None
        with pytest.raises(KprobeError) as caught:
            m.kprobes.enable_kprobe(p)
        assert caught.value.errno == errno.EINVAL
        ticks(m, 2)
        m.kprobes.unregister_kprobe(p)
        assert (p.hits, total(m)) == (hits, so_far)
        m.modules.load("mod", module)
        hook(m, "mod:g")
        q = planted(m, "mod:g")
        result = m.run()
        assert result.reason == StopReason.EXIT and q.hits > 20 and p.hits == hits


def test_R43_init_text(images, engine_name):
    core, module = images
    with Machine(core, engine=engine_name) as m:
        m.modules.load("mod", module)
        p = planted(m, "mod:setup")
        hook(m, "mod:setup")
        ticks(m, 3)
        assert p.hits == 2
        hook(m, "mod:g")
        m.modules.live("mod")
        assert p.flags & KprobeFlag.GONE
        with pytest.raises(KprobeError, match="has run and is gone") as caught:
            planted(m, "mod:setup")
        assert caught.value.errno == errno.ENOENT
        q = planted(m, "mod:g", flags=KprobeFlag.DISABLED)
        assert f"{q.addr:016x}  k  g+0x0  mod [DISABLED]" in m.kprobes.files.list()
        assert m.run().reason == StopReason.EXIT


def test_what_cannot_be_loaded(images, engine_name):
    core, module = images
    with Machine(core, engine=engine_name) as m:
        with pytest.raises(ModuleError, match="there is no module 'mod'; loaded: none"):
            m.modules.unload("mod")
        m.modules.load("mod", module)
        with pytest.raises(ModuleError, match="is loaded; unload it first"):
            m.modules.load("mod", module)
        with pytest.raises(ModuleError, match="would lie on mod:"):
            m.modules.load("twin", module)
