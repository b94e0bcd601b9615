"""Every instruction of compiled functions probed, one probe at a time and all at once: nothing but time may change.

Compared with the unprobed run: the console, the exit status, all registers, and all memory but what a kernel would not
look at either: the dead stack below rsp, and the runtime's slot pages. Hits are compared with what retired unprobed.
"""

from collections import Counter

import pytest

from hw.isa.reference import split
from kprobes import Kprobe, KprobeError
from sim.elf import load_elf
from sim.engine import Recording, StopReason
from sim.guestbuild import build_program
from sim.machine import PAGE, SLOT_PAGES, STACK_BYTES, Machine

MAX_CYCLES = 3_000_000

#: Guest, its size parameter, and the functions whose instructions are probed (None: every function of the program).
GUESTS = {
    "demo": (1, ("__blockdev_direct_IO", "ip_queue_xmit")),
    "crc": (2, None),
    "recursion": (1, None),
    "strings": (1, None),
}

#: What the runtime owns: stubs and start-up are on its blacklist, these are the guest's library.
_LIBRARY = ("_start", "memcpy", "memset", "memmove", "memcmp")


def instructions(image, wanted):
    """Addresses of the instructions of the program's own functions."""
    found = []
    low, high = image.symbols.lookup("__entry_text_start"), image.symbols.lookup("__entry_text_end")
    for symbol in image.symbols.symbols():
        own = image.symbols.is_text(symbol.start) and not low <= symbol.start < high and symbol.size
        if not own or symbol.name in _LIBRARY or (wanted and symbol.name not in wanted):
            continue
        at = symbol.start
        while at < symbol.start + symbol.size:
            parts = split(image_bytes(image, at, 15))
            found.append(at)
            at += parts.length
    return sorted(set(found))


def image_bytes(image, address, count):
    """Bytes of the image at a virtual address."""
    for segment in image.segments:
        offset = address - segment.vaddr
        if 0 <= offset < len(segment.data):
            return segment.data[offset : offset + count].ljust(count, b"\x90")
    raise AssertionError(f"{address:#x} is in no segment")


def final_state(machine, result):
    """Everything that a run must leave the same."""
    regs = machine.harts[0].regs.as_dict()
    regs.pop("tsc")  # a run with probes takes longer
    ram = machine.engine.config.ram_bytes
    slots = ram - STACK_BYTES - SLOT_PAGES * PAGE
    memory = machine.engine.read_mem(0, slots) + machine.engine.read_mem(regs["rsp"] % ram, ram - regs["rsp"] % ram)
    return {"console": result.console, "exit": result.exit, "regs": regs, "memory": hash(memory)}


def run(image, engine, addresses=(), record=Recording.TRAPS):
    """Runs a guest to its end with probes at the addresses; returns state, hits by address, and the machine's events."""
    with Machine(image, engine=engine, record=record) as machine:
        probes = {}
        for address in addresses:
            probe = Kprobe(addr=address, pre_handler=lambda p, regs: None, post_handler=lambda p, regs, flags: None)
            try:
                machine.kprobes.register_kprobe(probe)
            except KprobeError as error:
                assert "hlt" in str(error) or "int3" in str(error), error
                continue
            probes[address] = probe
        result = machine.run(MAX_CYCLES)
        assert result.reason == StopReason.EXIT, result
        hits = {address: probe.hits for address, probe in probes.items()}
        missed = sum(probe.nmissed for probe in probes.values())
        for probe in probes.values():
            machine.kprobes.unregister_kprobe(probe)
        return final_state(machine, result), hits, missed, machine.events


@pytest.fixture(scope="module")
def unprobed(engine_name):
    """The unprobed run of each guest: final state, and how often each instruction was executed."""
    runs = {}

    def get(name):
        if name not in runs:
            image = load_elf(build_program(name, n=GUESTS[name][0]))
            state, _, _, events = run(image, engine_name, record=Recording.ALL)
            retired = Counter(event.pc for event in events if event.kind == "retire" and event.last)
            runs[name] = image, state, retired
        return runs[name]

    return get


@pytest.mark.parametrize("name", GUESTS)
def test_all_at_once(name, engine_name, unprobed):
    if engine_name == "pysim" and name != "demo":
        pytest.skip("thousands of hits: on the compiled engine only")
    image, state, retired = unprobed(name)
    addresses = instructions(image, GUESTS[name][1])
    probed, hits, missed, _ = run(image, engine_name, addresses)
    assert probed == state
    assert missed == 0
    assert hits == {address: retired[address] for address in hits}
    assert sum(hits.values()) > len(addresses) // 2


@pytest.mark.parametrize("name", ["demo", "crc"])
def test_one_at_a_time(name, engine_name, unprobed):
    if engine_name == "pysim":
        pytest.skip("hundreds of runs: on the compiled engine only")
    image, state, retired = unprobed(name)
    for address in instructions(image, GUESTS[name][1]):
        probed, hits, missed, _ = run(image, engine_name, [address])
        where = image.symbols.describe(address)
        assert probed == state, where
        assert missed == 0, where
        assert hits == {address: retired[address]}, where
