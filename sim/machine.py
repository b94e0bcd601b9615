"""The machine: hardware on an engine, guest memory, the probe runtime behind the TrapPort. Only here do they meet."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from hw.bus import HIGH_BASE
from hw.config import Config
from hw.isa.facts import VECTORS, DebugReg, SysReg, Vector
from kprobes import GuestMemoryError as KprobesMemoryError
from kprobes import HandlerError, Jprobe, Kprobe, KprobeError, KprobePanic, Kprobes, Options, PtRegs, Symbols
from kprobes import Trap as ProbeTrap
from kprobes.tracing import ProbeEvents
from sim.deliveries import Deliveries, shutdown_text
from sim.elf import Image, SymbolTable, load_elf
from sim.engine import NEVER, Engine, Recording, SocFactory, Stop, StopOn, StopReason, default_soc, open_engine
from sim.events import Event, EventLog, Lost, ProbePhase, Shutdown, Trap, TrapPortCall, from_records
from sim.harts import HartView
from sim.memento import Memento
from sim.memory import GuestMemory, GuestMemoryError

#: This module is the one door to the runtime; what plants probes from within `sim` takes these from here.
__all__ = ["HandlerError", "Jprobe", "Kprobe", "KprobeError", "KprobePanic", "Machine", "Options", "PtRegs", "RunResult"]

PT_REGS_BYTES = len(PtRegs().pack())
PAGE = 4096

#: Pages for the runtime's slots: 64 KiB, which end 192 KiB below the top of RAM, where the stack is.
SLOT_PAGES = 16
STACK_BYTES = 192 << 10

#: A run that waits for a boundary gives up after so many cycles.
PATIENCE = 10_000

_DEFAULT_OPTIONS = Options()

_HAS_ERROR = {row.number for row in VECTORS if row.has_error}


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `exit` is the status that QEMU would give, None if the guest did not end itself.

    `unhandled`: TrapPort requests that the runtime did not take. `lost`: interrupts that a fault in their delivery lost.
    `shutdown`: the traps that ended in a triple fault, and `why`: the same in words, with what to look at.
    """

    reason: StopReason
    cycles: int
    retired: int
    exit: int | None
    console: bytes
    hits: int
    engine: str
    seconds: float
    unhandled: list[TrapPortCall] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    shutdown: list[Trap] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A machine at a moment: hardware and RAM as the engine saves them, and what the software around it holds."""

    cycle: int
    hardware: bytes
    software: Memento


class Machine:
    """Harts with RAM, loaded with an ELF image or with code, and `kprobes` on them.

    `image` is a path or a `sim.elf.Image`. `engine` is a name, or an open engine, which is reset, its RAM cleared, and left
    open at the end: starting one takes seconds. The clock stands still between calls: memory, registers and events may be
    read then, memory may be written at any time, registers at a boundary. Retire events are kept with
    ``record=Recording.ALL`` only. `probes` says how probed instructions are executed.

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
            engine.write_mem(0, bytes(config.ram_bytes))
        self.engine: Engine = engine
        self.engine.record(record)
        self._record = record
        #: Addresses whose instructions get Retire events, with Recording.ALL; None: all.
        self.watch: Container[int] | None = None
        self.mem = GuestMemory(self.engine, self._memory_changed)
        self.harts = [HartView(self.engine, number) for number in range(harts)]
        self.events = EventLog()
        self._deliveries = Deliveries()
        self.symbols = SymbolTable()
        self._stale: set[int] = set()
        self._user: list[object] = []
        self._ended: Stop | None = None
        self._text: list[tuple[int, int]] = []
        ram_bytes = config.ram_bytes
        area = max(ram_bytes - STACK_BYTES - SLOT_PAGES * PAGE, ram_bytes // 2) & -PAGE
        self._free_pages = [area + PAGE * i for i in range(SLOT_PAGES) if area + PAGE * (i + 1) <= ram_bytes - PAGE]
        guest = _Guest(self)
        self.kprobes = Kprobes(guest, self._on_probe, probes)
        self.probe_events = ProbeEvents(self.kprobes, guest, comm)
        if image is not None:
            self.load_image(image)

    @property
    def cycle(self) -> int:
        """Number of the current cycle."""
        return self.engine.cycle

    def load(self, address: int, code: bytes, *, start: bool = True) -> None:
        """Place code, and with `start` let hart 0 begin there. The code counts as text that can be probed."""
        self.mem.write(address, code)
        self._text.append((address, address + len(code)))
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

        `until`: a symbol or an address (stop before the instruction there), or a `StopOn`. A handler's exception comes
        out as `kprobes.HandlerError` with the trap completed, so that the machine can be looked at and run on. An
        invariant of the hardware that fails comes out as `sim.engine.DesignError`. A hart that shut down runs on if it gets
        an NMI (`HartView.nmi`), unless one is in service.
        """
        stop = self._stop_on(until)
        began, first, start = time.perf_counter(), len(self.events), self.cycle
        retired = [hart.retired for hart in self.harts]
        ended, self._ended = self._ended or self._refetch(stop), None
        while ended is None:
            left = stop
            if stop.retired is not None:
                done = [h.retired - r for h, r in zip(self.harts, retired, strict=True)]
                left = replace(stop, retired=stop.retired - (sum(done) if stop.hart is None else done[stop.hart]))
            ended = self._clocked(max(0, start + max_cycles - self.cycle), left)
        if ended.reason == StopReason.SHUTDOWN:
            self.events.append(Shutdown(ended.hart, self.cycle - 1, tuple(self._deliveries.chain(ended.hart))))
        return self._result(ended.reason, first, start, retired, time.perf_counter() - began)

    def step(self, count: int = 1, hart: int = 0) -> RunResult:
        """Run until a hart has retired `count` instructions more."""
        return self.run(until=StopOn(retired=count, hart=hart), max_cycles=PATIENCE * max(1, count))

    def sync(self) -> None:
        """Let every hart fetch again what it had fetched before memory was written; it runs on to a boundary for that.

        `run` begins with the same; after this alone, the cycle is known from which no hart runs old code. If the guest
        ends meanwhile, the next `run` says so.
        """
        self._ended = self._ended or self._refetch(NEVER)

    def keep(self, state: object) -> None:
        """Let snapshots include an object of the user: a list, a dict, a set that handlers change, and what is in it.

        Without this `restore` knows nothing of what handlers have written down.
        """
        self._user.append(state)

    def snapshot(self) -> Snapshot:
        """Return the whole state between two runs: hardware, RAM, probes, hits under way, events, what `keep` was told.

        EngineError if the engine has not the capability ``snapshot``.
        """
        hardware = self.engine.save()
        self.events.extend(self._deliveries.follow(self._drained()))
        return Snapshot(self.cycle, hardware, Memento([self], [self.engine, self.symbols]))

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

    def _clocked(self, max_cycles: int, stop: StopOn) -> Stop | None:
        """Run the engine and log what happened; None if it stopped for the runtime, which has then answered."""
        try:
            ended = self.engine.run(max_cycles, stop)
        finally:  # a DesignError leaves the events that led to it
            self.events.extend(self._deliveries.follow(self._drained()))
        if ended.reason != StopReason.TRAP_REQUEST:
            return ended
        assert ended.hart is not None
        self._trap_request(ended.hart)
        return None

    def _drained(self) -> list[Event]:
        retires = self._record == Recording.ALL and (True if self.watch is None else self.watch)
        return from_records(self.engine.drain(), retires)

    def _stop_on(self, until: str | int | StopOn | None) -> StopOn:
        if until is None:
            return NEVER
        if isinstance(until, StopOn):
            return until
        if isinstance(until, str):
            address = self.symbols.lookup(until)
            if address is None:
                raise ValueError(f"there is no symbol {until!r} in the guest")
            until = address
        return StopOn(reach=until)

    def _result(self, reason: StopReason, first: int, start: int, retired: list[int], seconds: float) -> RunResult:
        events = [self.events[i] for i in range(first, len(self.events))]
        exits = [event.value for event in events if event.kind == "exit"]  # type: ignore[attr-defined]
        down = events[-1] if events else None
        chain = list(down.chain) if isinstance(down, Shutdown) else []
        return RunResult(
            reason=reason,
            cycles=self.cycle - start,
            retired=sum(h.retired - r for h, r in zip(self.harts, retired, strict=True)),
            exit=((exits[0] << 1) | 1) & 0xFF if exits else None,
            console=bytes(event.byte for event in events if event.kind == "console"),  # type: ignore[attr-defined]
            hits=sum(isinstance(event, ProbePhase) and event.phase == "hit" for event in events),
            engine=self.engine.name,
            seconds=seconds,
            unhandled=[event for event in events if isinstance(event, TrapPortCall) and not event.handled],
            lost=[event for event in events if isinstance(event, Lost)],
            shutdown=chain,
            why=f"hart {down.hart} {shutdown_text(chain, self.symbols)}" if isinstance(down, Shutdown) else "",
        )

    # Memory that changed under way.

    def _memory_changed(self) -> None:
        self._stale.update(range(len(self.harts)))

    def _refetch(self, stop: StopOn) -> Stop | None:
        """As `sync`; what ended the run, if anything did. Of `stop`, only events of the hart that is waited for count.

        A hart that waits in a TrapPort store needs nothing: the entry stub leaves by iretq, which refetches.
        """
        for hart in sorted(self._stale):
            watched = replace(stop if stop.hart in (None, hart) else NEVER, retired=None, boundary=True, hart=hart)
            while not self.engine.state(hart).trap_request and not self.engine.state(hart).shutdown:
                ended = self._clocked(PATIENCE, watched)
                if ended is None:  # the runtime had to answer, this hart or another
                    continue
                if ended.reason == StopReason.BOUNDARY:
                    self.engine.refetch(hart)
                elif ended.reason != StopReason.MAX_CYCLES:
                    return ended
                break
            self._stale.discard(hart)
        return None

    # The runtime.

    def _trap_request(self, hart: int) -> None:
        """Give a TrapPort request to the runtime, write back what it changed, and arm the answer."""
        vector, where = self.engine.trap_request(hart)
        try:
            regs = PtRegs.unpack(self.mem.read(where, PT_REGS_BYTES))
        except GuestMemoryError:
            self._answer(hart, TrapPortCall(hart, self.cycle, vector, where, 0, 0, False))
            return
        trap = ProbeTrap(cpu=hart, vector=vector, regs=regs)
        if vector in _HAS_ERROR:
            trap.error = regs.orig_ax
        if vector == Vector.PF:
            trap.cr2 = self.engine.read_reg(hart, DebugReg.SYS + SysReg.CR2)
        if vector == Vector.DB:
            # BS is sticky: the entry stub clears DR6 if this trap is handled
            trap.dr6 = self.engine.read_reg(hart, DebugReg.SYS + SysReg.DR6)
        before, handled = regs.ip, False
        packed = regs.pack()
        try:
            handled = self.kprobes.on_trap(trap)
        except HandlerError:
            handled = True
            raise
        finally:
            if trap.regs.pack() != packed:
                self.engine.write_mem(self.mem.translate(where), trap.regs.pack())
            # Nothing to refetch on this hart: the stub reads pt_regs after this store, and leaves by iretq.
            self._stale.discard(hart)
            self._answer(hart, TrapPortCall(hart, self.cycle, vector, where, before, trap.regs.ip, handled))

    def _answer(self, hart: int, call: TrapPortCall) -> None:
        self.events.append(call)
        self.engine.complete_trap(hart, call.handled)

    def _on_probe(self, event: object) -> None:
        address = event.addr  # type: ignore[attr-defined]
        self.events.append(
            ProbePhase(
                event.cpu,  # type: ignore[attr-defined]
                self.cycle,
                str(event.kind),  # type: ignore[attr-defined]
                address,
                self.symbols.describe(address),
                event.ip,  # type: ignore[attr-defined]
                event.result,  # type: ignore[attr-defined]
                event.reason and str(event.reason),  # type: ignore[attr-defined]
            )
        )


class _Guest:
    """`kprobes.port.Guest` over a machine."""

    def __init__(self, machine: Machine):
        self._machine = machine

    @property
    def cpus(self) -> int:
        return len(self._machine.harts)

    @property
    def now(self) -> int:
        return self._machine.cycle

    @property
    def symbols(self) -> Symbols:
        return cast(Symbols, self._machine.symbols)  # the same members, read-only here

    def read(self, addr: int, n: int) -> bytes:
        try:
            return self._machine.mem.read(addr, n)
        except GuestMemoryError as error:
            raise KprobesMemoryError(str(error)) from None

    def write(self, addr: int, data: bytes) -> None:
        try:
            self._machine.mem.write(addr, data)
        except GuestMemoryError as error:
            raise KprobesMemoryError(str(error)) from None

    def is_text(self, addr: int) -> bool:
        machine = self._machine
        return machine.symbols.is_text(addr) or any(start <= addr < end for start, end in machine._text)

    def alloc_text_page(self, near: int) -> int:
        if not self._machine._free_pages:
            raise MemoryError("all pages for slots are in use")
        physical = self._machine._free_pages.pop()
        self._machine.engine.write_mem(physical, bytes(PAGE))
        return physical + (HIGH_BASE if near >= HIGH_BASE else 0)

    def free_text_page(self, addr: int) -> None:
        self._machine._free_pages.append(self._machine.mem.translate(addr, PAGE))

    def blacklist(self) -> Iterable[tuple[int, int, str]]:
        start, end = (self._machine.symbols.lookup(f"__entry_text_{edge}") for edge in ("start", "end"))
        if start is not None and end is not None:
            yield start, end, "the entry code of the traps"

    def stack_end(self, cpu: int, sp: int) -> int:
        ram = self._machine.engine.config.ram_bytes
        return ram + (HIGH_BASE if sp >= HIGH_BASE else 0)

    def fixup(self, addr: int) -> int | None:
        return None

    def settled(self, start: int, end: int) -> bool:
        return not any(start <= hart.regs.rip < end for hart in self._machine.harts)

    def sync_cores(self) -> None:
        """Nothing at once: every write marked the harts, and they fetch again before they run on."""


