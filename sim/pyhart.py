"""What the engine pysim keeps of a hart: where its ports are, and the answers that its memory ports owe it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hw.ram import EXTRA, wait_seed_of
from sim.engine import RetireFlag, RetireRecord

#: Members of RetirePort in the order of RetireRecord, after the cycle and without hart and flags.
_RETIRE_WIDE = RetireRecord._fields[1:10]
_RETIRE_NARROW = ("length", "reg", "mem_size", "trap_vector", "trap_class")


@dataclass
class Answers:
    """The requests of one port that wait for their answer: `RamQueue` of ``native/ram.h``, and `hw.ram.Ram`."""

    latency: int
    random: int | None
    now: int = 0
    waiting: list[tuple[int, int]] = field(default_factory=list)  # data, the cycle from which it may leave

    def ready(self) -> bool:
        """Whether a request may be accepted in this cycle."""
        return self.random is None or (bool(self.random & 3) and len(self.waiting) < self.latency + EXTRA)

    def answer(self) -> int | None:
        """Return the answer of this cycle, if there is one."""
        if self.waiting and self.waiting[0][1] <= self.now and (self.random is None or self.random >> 8 & 3):
            return self.waiting[0][0]
        return None

    def edge(self, answered: bool, accepted: int | None) -> None:
        """Execute the clock edge; `accepted`: what the load accepted in this cycle reads."""
        if accepted is not None:
            self.waiting.append((accepted, self.now + self.latency))
        if answered:
            self.waiting.pop(0)
        self.now += 1
        if self.random is not None:
            x = self.random
            x ^= x << 13 & 0xFFFFFFFF
            x ^= x >> 17
            self.random = x ^ (x << 5 & 0xFFFFFFFF)


class Hart:
    """Indices of a hart's signals in the design's values, and what the engine remembers of the hart."""

    def __init__(self, number: int, index: dict[str, int], ram: tuple[int, int | None]):
        prefix = f"h{number}_"
        at = {name.removeprefix(prefix): i for name, i in index.items() if name.startswith(prefix)}
        self.number, self.at = number, at
        self.flags = [(at["retire__" + flag.name.lower()], flag.value) for flag in RetireFlag]
        self.wide = [at[f"retire__{name}"] for name in _RETIRE_WIDE]
        self.narrow = [at[f"retire__{name}"] for name in _RETIRE_NARROW]
        self.retire_bytes, self.trap_error = at["retire__bytes"], at["retire__trap_error"]
        self.retire_valid, self.retire_trap = at["retire__valid"], at["retire__trap"]
        self.retire_last, self.retire_again = at["retire__last"], at["retire__again"]
        self.retire_deliver, self.retire_iret = at["retire__deliver"], at["retire__iret"]
        self.pc, self.next_pc = at["retire__pc"], at["retire__next_pc"]
        self.fetch = tuple(at[f"fetch__{m}"] for m in ("req_valid", "req_ready", "req_addr", "resp_valid", "resp_data"))
        self.data = tuple(at[f"data__{m}"] for m in ("req_valid", "req_ready", "req_addr", "resp_valid", "resp_data"))
        self.size, self.write, self.stored = at["data__req_size"], at["data__req_write"], at["data__req_data"]
        self.ack, self.irq, self.nmi = at["irq__ack"], at["irq__valid"], at["irq__nmi"]
        self.irq_vector = at["irq__vector"]
        self.trap_req, self.trap_done, self.handled = at["trap__req"], at["trap__done"], at["trap__handled"]
        self.boundary, self.halted, self.shutdown = at["dbg__boundary"], at["dbg__halted"], at["dbg__shutdown"]
        self.reset(*ram)

    def reset(self, latency: int, seed: int | None) -> None:
        """Forget everything."""
        starts = [None if seed is None else wait_seed_of(seed, 2 * self.number + port) for port in (0, 1)]
        self.fetches, self.loads = (Answers(latency, start) for start in starts)
        self.retired = 0
        #: The answer to a TrapPort request, for the next cycle.
        self.done: int | None = None
        self.nmi_wanted = False
        #: Valid and vector of the interrupt line after the next edge, if it changes there.
        self.irq_next: tuple[int, int] | None = None

    def record(self, cycle: int, v: list[int]) -> RetireRecord:
        """Return what the RetirePort shows."""
        fields = [cycle, *(v[i] for i in self.wide), v[self.retire_bytes].to_bytes(16, "little"), v[self.trap_error]]
        fields += [self.number, *(v[i] for i in self.narrow), sum(value for i, value in self.flags if v[i])]
        return RetireRecord._make(fields)
