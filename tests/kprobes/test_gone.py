"""Probes in modules, and what becomes of them when the text goes (R42, R43, A18, E21, section 10)."""

import errno

import pytest

from kprobes import Kprobe, KprobeError, KprobeFlag, ModuleState, Options, Rule
from tests.kprobes.fakemachine import FakeMachine

CORE = "func f\nmov eax, 1\nret\nendf f\n"
MODULE = """
func g
    mov eax, 5
    nop
    ret
endf g
func traced
    fentry
    mov eax, 6
    ret
endf traced
func setup
    mov eax, 7
    ret
endf setup
"""


def machine(**options):
    m = FakeMachine(CORE, options=Options(**options))
    m.load_module("mod", MODULE, init="setup")
    return m


def planted(m, symbol="mod:g", **fields):
    p = Kprobe(symbol_name=symbol, **fields)
    m.kprobes.register_kprobe(p)
    return p


def writes_of(m):
    """Record the guest's writes from now on."""
    written, write = [], m.write
    m.write = lambda addr, data: (written.append(addr), write(addr, data))[1]
    return written


def test_a_module_is_probed_as_anything_else():
    m = machine()
    p, q = planted(m), planted(m, "f")
    assert m.call("mod:g") == 5 and m.call("f") == 1 and (p.hits, q.hits) == (1, 1)


@pytest.mark.parametrize("options", [{}, {"boost": True}, {"step": "int3"}, {"optimize": True, "optimize_delay": 1}], ids=str)
def test_R42_unloaded_while_probed(options):
    m = machine(**options)
    core = planted(m, "f")
    probes = [planted(m), planted(m), planted(m, offset=5, flags=KprobeFlag.DISABLED), planted(m, "mod:setup")]
    m.kprobes.wait_for_optimizer()
    module = m.module(probes[0].addr)
    written = writes_of(m)
    m.unload_module("mod")
    assert all(p.flags & KprobeFlag.GONE and not p.flags & KprobeFlag.OPTIMIZED for p in probes)
    assert not core.flags & KprobeFlag.GONE and m.call("f") == 1 and core.hits == 1
    assert "[GONE]" in m.kprobes.files.list() and m.kprobes.get_kprobe(probes[1].addr) is probes[1]
    for p in probes:
        m.kprobes.unregister_kprobe(p)
    assert not [addr for addr in written if module.text[0] <= addr < module.init[1]], "no text is written"
    assert m.kprobes.registered == (core,)
    m.kprobes.wait_for_optimizer()
    m.kprobes.unregister_kprobe(core)
    m.kprobes.wait_for_optimizer()
    assert not any(any(m.read(page, 4096)) for page in set(m.allocated) - set(m.freed)), "all copies are given back"


def test_A18_enabling_and_disabling_what_is_gone():
    m = machine()
    p = planted(m)
    m.unload_module("mod")
    with pytest.raises(KprobeError) as caught:
        m.kprobes.enable_kprobe(p)
    assert caught.value.errno == errno.EINVAL and "gone" in str(caught.value)
    m.kprobes.disable_kprobe(p)
    assert p.flags & KprobeFlag.GONE and p.flags & KprobeFlag.DISABLED
    m.kprobes.enabled = False
    m.kprobes.enabled = True
    m.kprobes.unregister_kprobe(p)


def test_R43_init_text_after_it_has_run():
    m = machine()
    p = planted(m, "mod:setup")
    assert m.call("mod:setup") == 7 and p.hits == 1
    m.module_live("mod")
    assert p.flags & KprobeFlag.GONE and m.modules["mod"].state is ModuleState.LIVE
    with pytest.raises(KprobeError, match="has run and is gone") as caught:
        planted(m, "mod:setup")
    assert (caught.value.errno, caught.value.rule) == (errno.ENOENT, Rule.MODULE)
    planted(m)


def test_a_module_that_is_being_unloaded():
    m = machine()
    refused = []

    def going(module):
        with pytest.raises(KprobeError) as caught:
            planted(m)
        refused.append(caught.value)

    m.kprobes.module_going = going
    m.unload_module("mod")
    assert [(e.errno, e.rule) for e in refused] == [(errno.ENOENT, Rule.MODULE)]


def test_a_new_probe_at_the_address_of_a_gone_one():
    m = machine()
    old = planted(m)
    addr = old.addr
    m.unload_module("mod")
    m.load_module("mod", MODULE, init="setup")
    new = planted(m)
    assert new.addr == addr and m.call("mod:g") == 5 and (new.hits, old.hits) == (1, 0)
    assert old.flags & KprobeFlag.GONE and set(m.kprobes.registered) == {old, new}
    m.kprobes.unregister_kprobe(old)
    assert m.call("mod:g") == 5 and new.hits == 2
    m.kprobes.unregister_kprobe(new)
    assert m.call("mod:g") == 5 and m.kprobes.registered == ()


def test_a_cpu_in_the_slot_when_the_module_goes():
    m = machine()
    p = planted(m)
    m.start("mod:g")
    m.run(until=lambda regs: m.kprobes.is_kprobe_insn_slot(regs.ip))
    slot = m.kprobes.slot_of(p)
    m.kprobes.module_going(m.modules["mod"])
    assert any(m.read(slot, 5)), "its copy stays until it is out"
    m.step()
    assert m.cpu[0].regs.ip == p.addr + 5 and not any(m.read(slot, 15))


def test_E01_a_traced_function_of_a_module_is_detached():
    m = machine()
    p = planted(m, "mod:traced")
    assert p.flags & KprobeFlag.FTRACE and m.read(p.addr, 1) == b"\xe8"
    m.kprobes.module_going(m.modules["mod"])
    assert m.read(p.addr, 1) == b"\x0f" and p.flags & KprobeFlag.GONE


def test_E21_the_listing_names_the_module():
    m = machine()
    p = planted(m, flags=KprobeFlag.DISABLED)
    assert m.kprobes.files.list() == f"{p.addr:016x}  k  g+0x0  mod [DISABLED]\n"
    q = planted(m, "f")
    assert f"{q.addr:016x}  k  f+0x0    \n" in m.kprobes.files.list()
