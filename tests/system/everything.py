"""The guests that are probed everywhere, and what a probed run of one has to leave the same.

Compared with the unprobed run: the console, the exit status, all registers, and all memory but what a kernel would not
look at either: the dead stack below rsp, and the pages of the machine and its runtime. Hits are counted against what
retired unprobed: each execution is one hit, whatever runs in the slot. The one exception is arithmetic, too: a step by TF
ends after each iteration of a REP instruction, so there each iteration is a hit (and no iteration at all is one).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hw.isa.reference import split
from kprobes import Kprobe, KprobeError, KprobeFlag, Options, Region
from kprobes.boost import can_boost
from kprobes.insn import decode
from sim.elf import Image, load_elf
from sim.engine import Engine, Recording, StopReason
from sim.guestbuild import build, build_program
from sim.machine import PAGE, SLOT_PAGES, STACK_BYTES, Machine

MAX_CYCLES = 3_000_000
PIECE = 1 << 16  # memory is compared in pieces of so many bytes
_NOTHING = bytes(PIECE)

MODES = {
    "tf": Options(),
    "tf+boost": Options(boost=True),
    "int3": Options(step="int3"),
    "int3+boost": Options(step="int3", boost=True),
    "tf+optimise": Options(boost=True, optimize=True),
    "int3+optimise": Options(step="int3", boost=True, optimize=True),
}

FORMS, DISPLACED = (Path(__file__).with_name(name) for name in ("forms.S", "displaced.S"))

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

    @property
    def executed(self):
        """The addresses of instructions that are executed."""
        return [address for address in self.addresses if self.executions[address]]

    def hits(self, address, options):
        """How often a probe is hit."""
        insn = self.insns[address]
        stepped = options.step == "tf" and not (options.boost and can_boost(insn, False))
        return (self.iterations if stepped else self.executions)[address]


def image_of(name: str) -> Image:
    """Build a guest."""
    return load_elf(build([FORMS, DISPLACED]) if name == "forms" else build_program(name, n=GUESTS[name]))


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
    memory = {}  # pieces that are not all 0, by address
    for start, end in ((0, slots), (regs["rsp"] % ram, ram)):
        for at in range(start, end, PIECE):
            piece = machine.engine.read_mem(at, min(PIECE, end - at))
            if piece != _NOTHING[:len(piece)]:
                memory[hex(at)] = hash(piece)
    return {"console": result.console, "exit": result.exit, "regs": regs, "memory": memory}


@dataclass
class Probed:
    """What a probed run did: hits by address, refusals, the probes that were jumps, and the traps that were taken."""

    hits: dict[int, int] = field(default_factory=dict)
    refused: dict[int, KprobeError] = field(default_factory=dict)
    optimised: set[int] = field(default_factory=set)
    traps: list = field(default_factory=list)


class Runs:
    """Runs guests on one engine, with and without probes."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._guests: dict[str, Guest] = {}

    def guest(self, name: str) -> Guest:
        """The unprobed run."""
        if name not in self._guests:
            image = image_of(name)
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

    def probed(self, name: str, addresses: Iterable[int], options: Options, *, wait: bool = True) -> Probed:
        """Run a guest with probes and compare everything with the unprobed run. `wait`: jumps are there from the start."""
        guest = self.guest(name)
        posts: Counter[int] = Counter()

        def count(p, regs, flags):
            posts[p.addr] += 1

        post_handler = None if options.boost else count
        done = Probed()
        with Machine(guest.image, engine=self._engine, probes=options) as machine:
            probes = {}
            for address in addresses:
                probe = Kprobe(addr=address, pre_handler=lambda p, regs: None, post_handler=post_handler)
                try:
                    machine.kprobes.register_kprobe(probe)
                    probes[address] = probe
                except KprobeError as error:
                    done.refused[address] = error
            if wait and options.optimize:
                machine.kprobes.wait_for_optimizer()
            done.optimised = {address for address, probe in probes.items() if probe.flags & KprobeFlag.OPTIMIZED}
            result = machine.run(MAX_CYCLES)
            assert result.reason == StopReason.EXIT, f"{result.reason}: {result.why}"
            done.traps = [event for event in machine.events if event.kind == "trap"]
            done.hits = {address: probe.hits for address, probe in probes.items()}
            done.optimised |= {address for address, probe in probes.items() if probe.flags & KprobeFlag.OPTIMIZED}
            missed = {address: probe.nmissed for address, probe in probes.items() if probe.nmissed}
            for probe in probes.values():
                machine.kprobes.unregister_kprobe(probe)
            machine.kprobes.wait_for_optimizer()
            state = final_state(machine, result)
        where = guest.image.symbols.describe
        wrong = {where(at): (n, guest.hits(at, options)) for at, n in done.hits.items() if n != guest.hits(at, options)}
        assert not wrong, "hits, and how many there should be"
        assert not missed
        assert options.boost or posts == Counter({at: n for at, n in done.hits.items() if n})
        assert state == guest.state
        return done

    def disjoint(self, name: str) -> list[int]:
        """Return addresses that can be optimised and whose regions do not overlap, from the first on."""
        guest, picked, end = self.guest(name), [], 0
        with Machine(guest.image, engine=self._engine, probes=Options(optimize=True)) as machine:
            for address in guest.addresses:
                probe = Kprobe(addr=address)
                if address >= end and not guest.insns[address].refusal:
                    machine.kprobes.register_kprobe(probe)
                    region = machine.kprobes.region_of(probe)
                    if isinstance(region, Region):
                        picked.append(address)
                        end = region.end
                    machine.kprobes.unregister_kprobe(probe)
        return picked


def sample(runs: Runs) -> Iterator[tuple[str, int]]:
    """The first executed instruction of each kind: in `forms` by its text without numbers; elsewhere by its mnemonic, whether
    it is relative to rip, and whether memory and the stack pointer are among its operands."""
    seen = set()
    for name in GUESTS:
        guest = runs.guest(name)
        for address in guest.executed:
            insn = guest.insns[address]
            rough = insn.text.split()[0], insn.rip_disp is None, "[" in insn.text, "rsp" in insn.text
            kind = (*rough, name == "forms" and re.sub(r"0x[0-9a-f]+|\b\d+\b", "", insn.text))
            if kind not in seen:
                seen.add(kind)
                yield name, address
