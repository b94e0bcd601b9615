"""Every instruction of the guests probed, in every way of executing it, all at once and one probe at a time: nothing but
time may change.

Compared with the unprobed run: the console, the exit status, all registers, and all memory but what a kernel would not
look at either: the dead stack below rsp, and the pages of the machine and its runtime. Hits are counted against what
retired unprobed: each execution is one hit, whatever runs in the slot. The one exception is arithmetic, too: a step by TF
ends after each iteration of a REP instruction, so there each iteration is a hit (and no iteration at all is one).

One at a time, a run takes a sample: an address for each kind of instruction in the guests. ``--every-probe`` takes all.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hw.isa.reference import split
from kprobes import Kprobe, KprobeError, Options
from kprobes.boost import can_boost
from kprobes.insn import decode
from sim.elf import load_elf
from sim.engine import Recording, StopReason
from sim.guestbuild import build, build_program
from sim.machine import PAGE, SLOT_PAGES, STACK_BYTES, Machine

MAX_CYCLES = 3_000_000

MODES = {
    "tf": Options(),
    "tf+boost": Options(boost=True),
    "int3": Options(step="int3"),
    "int3+boost": Options(step="int3", boost=True),
}

#: Guest and its size parameter, None: it has none. `forms` has every form of instruction that displacing can get wrong.
GUESTS = {
    "forms": None, "demo": 1, "linkedlist": 4, "matrix": 2, "tokeniser": 8, "crc": 2, "sort": 6, "strings": 1, "dispatch": 4,
    "wide": 1, "recursion": 1, "bitops": 1, "sieve": 12, "records": 1, "atomics": 4, "mix": 1, "jprobe": 1,
}


@dataclass
class Guest:
    """A guest's unprobed run: how it ends, and how often each instruction was executed, and each iteration of a REP."""

    image: object
    state: dict
    executions: Counter
    iterations: Counter
    addresses: list[int]
    insns: dict = field(default_factory=dict)

    def hits(self, address, options):
        """How often a probe is hit."""
        insn = self.insns[address]
        stepped = options.step == "tf" and not (options.boost and can_boost(insn, False))
        return (self.iterations if stepped else self.executions)[address]


def instructions(image):
    """Addresses of the instructions of all sized functions, but those of the entry stubs."""
    found = set()
    low, high = image.symbols.lookup("__entry_text_start"), image.symbols.lookup("__entry_text_end")
    for symbol in image.symbols.symbols():
        if not image.symbols.is_text(symbol.start) or low <= symbol.start < high or not symbol.size:
            continue
        at = symbol.start
        while at < symbol.start + symbol.size:
            found.add(at)
            at += split(image_bytes(image, at, 15)).length
    return sorted(found)


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


class Runs:
    """Runs guests on one engine, with and without probes."""

    def __init__(self, engine):
        self._engine = engine
        self._guests = {}

    def guest(self, name):
        """The unprobed run."""
        if name not in self._guests:
            size = GUESTS[name]
            path = build([Path(__file__).parent / "forms.S"]) if name == "forms" else build_program(name, n=size)
            image = load_elf(path)
            with Machine(image, engine=self._engine, record=Recording.ALL) as machine:
                result = machine.run(MAX_CYCLES)
                assert (result.reason, result.exit) == (StopReason.EXIT, 1), name
                state = final_state(machine, result)
                retired = [event for event in machine.events if event.kind == "retire" and event.last]
            addresses = instructions(image)
            self._guests[name] = Guest(
                image, state, Counter(e.pc for e in retired if not e.again), Counter(e.pc for e in retired), addresses,
                {address: decode(image_bytes(image, address, 15), address) for address in addresses})
        return self._guests[name]

    def probed(self, name, addresses, options):
        """Runs a guest with probes; the same as unprobed, and all hits where they belong. Returns the hits, and refusals."""
        guest = self.guest(name)
        posts = Counter()

        def count(p, regs, flags):
            posts[p.addr] += 1

        post_handler = None if options.boost else count
        refused = {}
        with Machine(guest.image, engine=self._engine, probes=options) as machine:
            probes = {}
            for address in addresses:
                probe = Kprobe(addr=address, pre_handler=lambda p, regs: None, post_handler=post_handler)
                try:
                    machine.kprobes.register_kprobe(probe)
                    probes[address] = probe
                except KprobeError as error:
                    refused[address] = error
            result = machine.run(MAX_CYCLES)
            assert result.reason == StopReason.EXIT, f"{result.reason}: {result.why}"
            hits = {address: probe.hits for address, probe in probes.items()}
            missed = {address: probe.nmissed for address, probe in probes.items() if probe.nmissed}
            for probe in probes.values():
                machine.kprobes.unregister_kprobe(probe)
            state = final_state(machine, result)
        where = guest.image.symbols.describe
        wrong = {where(at): (n, guest.hits(at, options)) for at, n in hits.items() if n != guest.hits(at, options)}
        assert not wrong, "hits, and how many there should be"
        assert not missed
        assert options.boost or posts == Counter({at: n for at, n in hits.items() if n})
        assert state == guest.state
        return hits, refused


@pytest.fixture(scope="module")
def runs(engine_name):
    if engine_name == "pysim":
        pytest.skip("tens of thousands of hits: on the compiled engine only")
    return Runs(engine_name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GUESTS)
def test_all_at_once(name, mode, runs):
    guest = runs.guest(name)
    hits, refused = runs.probed(name, guest.addresses, MODES[mode])
    assert sum(hits.values()) > 100 and len(refused) < len(hits) // 4
    may_refuse = ("hlt", "int3", "ud2") + (("iret",) if MODES[mode].step == "int3" else ())
    assert all(guest.insns[address].text.startswith(may_refuse) for address in refused), refused


def sample(runs):
    """The first executed instruction of each kind in the guests: opcode, prefixes, and kind of operand; by guest."""
    seen = set()
    for name in GUESTS:
        guest = runs.guest(name)
        for address in guest.addresses:
            insn = guest.insns[address]
            kind = insn.text.split()[0], insn.rip_disp is None, "[" in insn.text, "rsp" in insn.text, name == "forms" and address
            if guest.executions[address] and kind not in seen:
                seen.add(kind)
                yield name, address


@pytest.mark.parametrize("mode", MODES)
def test_one_at_a_time(mode, runs, request):
    if request.config.getoption("--every-probe"):
        chosen = ((name, address) for name in GUESTS for address in runs.guest(name).addresses)
    else:
        chosen = sample(runs)
    done = 0
    for name, address in chosen:
        try:
            hits, _ = runs.probed(name, [address], MODES[mode])
        except Exception as error:
            guest = runs.guest(name)
            error.add_note(f"{name}: {guest.image.symbols.describe(address)}: {guest.insns[address].text}")
            raise
        done += len(hits)
    assert done > 100
    print(f"{mode}: {done} runs")


