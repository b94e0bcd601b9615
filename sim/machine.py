"""The machine: hardware on an engine, guest memory, the probe runtime behind the TrapPort. Only here do they meet."""

from __future__ import annotations

import time
from collections.abc import Container
from functools import cache
from pathlib import Path

from hw.bus import HIGH_BASE
from hw.config import Config
from kprobes import (
    Door,
    HandlerError,
    Jprobe,
    Kprobe,
    KprobeError,
    KprobePanic,
    Kprobes,
    Kretprobe,
    KretprobeInstance,
    Options,
    PtRegs,
    Region,
)
from kprobes.events import ProbeEvent
from kprobes.tracing import ProbeEvents
from sim.coresync import CoreSync, How
from sim.deliveries import Deliveries, Returns
from sim.elf import Image, SymbolTable, load_elf
from sim.engine import NEVER, Engine, Recording, SocFactory, StopOn, StopReason, default_soc, open_engine
from sim.events import Event, EventLog, ProbePhase, Shutdown, from_records
from sim.guestport import GuestPort
from sim.harts import HartView
from sim.memento import Memento, Snapshot
from sim.memory import GuestMemory, GuestMemoryError
from sim.modules import Modules
from sim.result import RunResult, run_result
from sim.runloop import RunLoop
from sim.trapport import TrapPort

#: This module is the one door to the runtime; what plants probes from within `sim` takes these from here.
__all__ = [
    "Door", "HandlerError", "Jprobe", "Kprobe", "KprobeError", "KprobePanic", "Kretprobe", "KretprobeInstance", "Machine",
    "Options", "PtRegs", "Region", "RunResult",
]

PAGE = 4096

#: Pages for the machine's own code, and for the runtime's: slots of 10 000 probes. They end 192 KiB below the top of RAM,
#: where the stack is.
SLOT_PAGES = 1 + 40
STACK_BYTES = 192 << 10

#: A step gives up after so many cycles for each instruction.
PATIENCE = 10_000

_DEFAULT_OPTIONS = Options()


@cache
def _zeros(size: int) -> bytes:
    return bytes(size)


class Machine:
    """Harts with RAM, loaded with an ELF image or with code, and `kprobes` on them.

    `image` is a path or a `sim.elf.Image`. `engine` is a name, or an open engine, which is reset, its RAM cleared, and left
    open at the end: starting one takes seconds. The clock stands still between calls: memory, registers and events may be
    read then, memory may be written at any time, registers at a boundary. Retire events are kept with
    ``record=Recording.ALL`` only. `probes` says how probed instructions are executed, `sync` how harts come to see code that
    the runtime has changed (`sim.coresync`): by interrupts if there are several harts. A request to the runtime then takes
    guest time; what the guest or a handler ends meanwhile, the next `run` says.

    `probe_events` are dynamic probes in the kernel's text language (``probe_events.write("p:open do_open %di")``); `comm` is
    what they call the guest's task, by default the name of its file.
    """

    def __init__(
        self,
        image: str | Path | Image | None = None,
        engine: str | Engine = "auto",
        harts: int = 1,
        config: Config = Config(),
        *,
        latency: int = 1,
        wait_seed: int | None = None,
        record: Recording = Recording.TRAPS,
        soc_factory: SocFactory = default_soc,
        probes: Options = _DEFAULT_OPTIONS,
        comm: str | None = None,
        sync: How | None = None,
    ):
        if isinstance(image, (str, Path)):
            comm, image = comm or Path(image).stem, load_elf(image)
        self._owns_engine = isinstance(engine, str)
        if isinstance(engine, str):
            engine = open_engine(
                engine, harts=harts, config=config, latency=latency, wait_seed=wait_seed, soc_factory=soc_factory
            )
        else:
            harts, config = engine.harts, engine.config
            engine.reset()
            engine.write_mem(0, _zeros(config.ram_bytes))
        self.engine: Engine = engine
        self.engine.record(record)
        self.record_mode = record
        #: Addresses whose instructions get Retire events, with Recording.ALL; None: all.
        self.watch: Container[int] | None = None
        self.loop = RunLoop(self)
        self.mem = GuestMemory(self.engine, self.loop.fetch_anew)
        self.harts = [HartView(self.engine, number) for number in range(harts)]
        self.events = EventLog()
        self._deliveries = Deliveries()
        self.returns = Returns()
        self.symbols = SymbolTable()
        self._user: list[object] = []
        self.text: list[tuple[int, int]] = []
        ram_bytes = config.ram_bytes
        area = max(ram_bytes - STACK_BYTES - SLOT_PAGES * PAGE, ram_bytes // 2) & -PAGE
        own, *free = range(area, min(area + SLOT_PAGES * PAGE, ram_bytes - PAGE), PAGE)
        #: Code that is loaded later: `modules.load(name, image)`, `modules.unload(name)`.
        self.modules = Modules(self)
        self.cores = CoreSync(self, sync)
        self.port, self.guest = TrapPort(self, own), GuestPort(self, free)
        self.kprobes = Kprobes(self.guest, self._on_probe, probes)
        self.probe_events = ProbeEvents(self.kprobes, self.guest, comm)
        if image is not None:
            self.load_image(image)

    @property
    def cycle(self) -> int:
        """Number of the current cycle."""
        return self.engine.cycle

    @property
    def deadline(self) -> int | None:
        """Cycle at which the runtime wants to work next."""
        return self.kprobes.deadline

    @property
    def idle(self) -> bool:
        """Whether neither a handler nor a request to the runtime is under way."""
        return self.port.idle and not self.loop.requested

    def load(self, address: int, code: bytes, *, start: bool = True) -> None:
        """Place code, and with `start` let hart 0 begin there. The code counts as text that can be probed."""
        self.mem.write(address, code)
        self.text.append((address, address + len(code)))
        if start:
            self._start(address)

    def load_image(self, image: Image) -> None:
        """Place the segments of an image, take its symbols, and let hart 0 begin at its entry."""
        for segment in image.segments:
            try:
                self.mem.write(segment.vaddr, segment.data + bytes(segment.memsz - len(segment.data)))
            except GuestMemoryError as error:
                self.close()
                raise GuestMemoryError(f"the image does not fit: {error}; give the machine more (Config.ram_bytes)") from None
        self.symbols = image.symbols
        self._start(image.entry)

    def _start(self, entry: int) -> None:
        """Let hart 0 begin: the stack pointer is at the top of RAM less 16, in the alias of the entry."""
        regs = self.harts[0].regs
        regs.rsp = self.engine.config.ram_bytes - 16 + (HIGH_BASE if entry >= HIGH_BASE else 0)
        regs.rip = entry

    def run(self, max_cycles: int = 10_000_000, until: str | int | StopOn | None = None) -> RunResult:
        """Run until the guest ends, `until` happens, or `max_cycles` cycles are over.

        `until`: a symbol or an address (stop before the instruction there), or a `StopOn`; in a guest function that a handler
        calls, and while the runtime waits for harts to serialise, it is not looked at. A handler's exception comes out as
        `kprobes.HandlerError` with the trap completed, so that the machine can be looked at and run on. An invariant of the
        hardware that fails comes out as `sim.engine.DesignError`. A hart that shut down runs on if it gets an NMI
        (`HartView.nmi`), unless one is in service.
        """
        stop = self._stop_on(until)
        began, first, start = time.perf_counter(), len(self.events), self.cycle
        retired = [hart.retired for hart in self.harts]
        ended = self.loop.run(max_cycles, stop)
        if ended.reason == StopReason.SHUTDOWN:
            self.note(Shutdown(ended.hart, self.cycle - 1, tuple(self._deliveries.chain(ended.hart))))
        return run_result(
            ended.reason, [self.events[i] for i in range(first, len(self.events))], self.symbols,
            cycles=self.cycle - start,
            retired=sum(hart.retired - before for hart, before in zip(self.harts, retired, strict=True)),
            engine=self.engine.name,
            seconds=time.perf_counter() - began,
        )

    def step(self, count: int = 1, hart: int = 0) -> RunResult:
        """Run until a hart has retired `count` instructions more."""
        return self.run(until=StopOn(retired=count, hart=hart), max_cycles=PATIENCE * max(1, count))

    def sync(self) -> None:
        """Let every hart fetch again what it had fetched before memory was written; it runs on to a boundary for that.

        `run` begins with the same; after this alone, the cycle is known from which no hart runs old code. If the guest
        ends meanwhile, the next `run` says so.
        """
        self.loop.sync()
        self.drain()

    def keep(self, state: object) -> None:
        """Let snapshots include an object of the user that handlers change, with the lists, dicts and sets in it.

        Without this `restore` knows nothing of what handlers have written down.
        """
        self._user.append(state)

    def snapshot(self) -> Snapshot:
        """Return the whole state between two runs: hardware, RAM, probes, hits under way, events, what `keep` was told.

        EngineError if the engine has not the capability ``snapshot``.
        """
        hardware = self.engine.save()
        self.drain()
        return Snapshot(self.cycle, hardware, Memento([self, *self._user], [self.engine, self.symbols]))

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this machine; what runs next is the same again, to the cycle."""
        self.engine.restore(snapshot.hardware)
        snapshot.software.restore()

    def close(self) -> None:
        """Free the engine, unless it was lent."""
        if self._owns_engine:
            self.engine.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _stop_on(self, until: str | int | StopOn | None) -> StopOn:
        if isinstance(until, str):
            address = self.symbols.lookup(until)
            if address is None:
                raise ValueError(f"there is no symbol {until!r} in the guest")
            until = address
        if isinstance(until, int):
            return StopOn(reach=until)
        return NEVER if until is None else until

    # For the parts of the machine, which meet here.

    def drain(self) -> None:
        """Take what the engine has recorded into the log."""
        retires = self.record_mode == Recording.ALL and (True if self.watch is None else self.watch)
        for event in self._deliveries.follow(from_records(self.engine.drain(), retires)):
            self.note(event)

    def note(self, event: Event) -> None:
        """Put an event into the log."""
        self.events.append(event)
        self.returns.follow(event)

    def _on_probe(self, event: ProbeEvent) -> None:
        at, reason = self.symbols.describe(event.addr), event.reason and str(event.reason)
        self.note(ProbePhase(event.cpu, self.cycle, str(event.kind), event.addr, at, event.ip, event.result, reason))
