"""Compares what a core retired with the reference model, item by item, and tells the first difference.

The core's side is its retire records alone (`hw.bus.RetirePort`). The model is told at which boundaries interrupts were
accepted; that they were legal there, and that none was passed over, is part of the comparison. Flags and results that the
manual leaves undefined are taken from the core.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sim.engine import RetireFlag, RetireRecord
from tests.model import decode
from tests.model.delivery import INTR, NMI
from tests.model.model import Dead, Delivered, Illegal, Item, Model, Retired, Taken
from tests.model.state import M64, STATUS, ZF
from tests.silicon import flags

#: Names of event classes.
KINDS = ("fault", "trap", "software interrupt", "int1", "interrupt", "nmi")
_REGS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]

#: Where to look in the core, by what differs.
_LOOK = {
    "flags": "hw/execute.py and the unit of the operation; W= and U= of the row in hw/isa/opcodes.py",
    "register": "hw/execute.py, hw/operands.py, the bypasses in hw/regfile.py",
    "memory": "hw/address.py (conflicts of loads and stores), hw/retire.py (store)",
    "rip": "hw/execute.py (branches), hw/predict.py, hw/fetch.py (redirects), hw/length.py",
    "trap": "hw/trap.py (order of events), hw/legality.py and hw/address.py (what faults)",
    "frame": "hw/isa/routines.py (deliver), hw/gates.py, hw/trap.py (saved flags)",
    "interrupt": "hw/retire.py (shadow, boundary), hw/trap.py",
    "invariant": "the Assert of that name, and what it says of the cycle",
    "system": "hw/sysregs.py, hw/retire.py",
}


class Mismatch(AssertionError):
    """The first difference: `what` is a key of `_LOOK`."""

    def __init__(self, what: str, text: str):
        super().__init__(text)
        self.what, self.look = what, _LOOK[what]


@dataclass
class Group:
    """Records of one instruction ("insn"), of a trap and what it cut short ("trap"), or of a delivery ("delivery")."""

    kind: str
    records: list[RetireRecord]

    @property
    def end(self) -> RetireRecord:
        """The record that ends it."""
        return self.records[-1]

    def __str__(self) -> str:
        r = self.end
        if self.kind == "trap":
            error = f"({r.trap_error:#x})" if r.flags & RetireFlag.TRAP_HAS_ERROR else ""
            return f"{KINDS[r.trap_class]} {r.trap_vector}{error}, saved rip {r.trap_rip:#x}"
        if self.kind == "delivery":
            return f"end of a delivery, handler {r.next_pc:#x}"
        return f"{r.pc:#x} retires, next {r.next_pc:#x}"


def groups(records: Sequence[RetireRecord]) -> Iterator[Group]:
    """Records gathered; an instruction that is not complete at the end is left out."""
    gathered: list[RetireRecord] = []
    for record in records:
        gathered.append(record)
        if record.flags & RetireFlag.TRAP:
            yield Group("trap", gathered)
        elif record.flags & RetireFlag.LAST:
            yield Group("delivery" if record.flags & RetireFlag.DELIVER else "insn", gathered)
        else:
            continue
        gathered = []


def undefined(item: Retired, before: Sequence[int]) -> int:
    """Flags that the manual leaves undefined after this instruction; `before`: general registers before it."""
    _, mnemonic, operands = decode.text(item.insn.data, item.pc)
    mnemonic = mnemonic.split()[-1]
    insn = item.insn
    count = 0
    if mnemonic in ("shl", "sal", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd"):
        size = 1 if not insn.opcode & 1 and insn.map == 0 else insn.operand
        if insn.map == 0 and insn.opcode in (0xD0, 0xD1):
            count = 1
        elif operands.endswith("cl"):
            count = before[1] & 0xFF
        else:
            count = insn.data[decode.length(insn.data) - 1]
        if mnemonic in ("shld", "shrd") and size == 2 and count & 31 > 16:
            return STATUS
        return flags.effect(mnemonic, size, count)[1]
    return flags.effect(mnemonic)[1]


def free_result(item: Retired) -> bool:
    """Whether the result itself is undefined: a bit scan of 0, a double shift of 16 bits by more than 16."""
    insn = item.insn
    if insn.map != 1:
        return False
    if insn.opcode in (0xBC, 0xBD) and not insn.has(0xF3):
        return True  # asked only when results differ; the flags say whether the source was 0
    if 0xC8 <= insn.opcode <= 0xCF:
        return insn.operand == 2  # bswap
    return insn.opcode in (0xA4, 0xA5, 0xAC, 0xAD) and insn.operand == 2


@dataclass
class Requests:
    """What was asked of the interrupt pins, in order of cycle: (cycle, vector or "nmi")."""

    events: list[tuple[int, int | str]] = field(default_factory=list)

    def nmi(self, after: int, before: int) -> bool:
        """Whether an NMI was requested in cycles after to before."""
        return any(what == "nmi" and after <= cycle <= before for cycle, what in self.events)

    def vector(self, cycle: int, accepted: int) -> tuple[int, int] | None:
        """The interrupt requested last by this cycle, and since when, if that is after the one `accepted`."""
        found = [(at, what) for at, what in self.events if isinstance(what, int) and accepted < at <= cycle]
        return found[-1] if found else None


class Lockstep:
    """A model beside a stream of records."""

    def __init__(self, model: Model, requests: Requests | None = None):
        self.model, self.requests = model, requests or Requests()
        self.regs = list(model.state.regs)
        self.flags = model.state.rflags
        self.compared = 0
        self._accepted = {INTR: -1, NMI: -1}
        self.opcodes: Counter[tuple[int, int]] = Counter()  # map and opcode of what retired
        self.vectors: Counter[tuple[int, int]] = Counter()  # class and vector of what was taken
        self.trail: deque[int] = deque(maxlen=64)  # where the model was, at each step

    def run(self, records: Sequence[RetireRecord]) -> int:
        """Compare everything; the number of items. Raises Mismatch, and Unmodelled where the model ends."""
        waiting = list(groups(records))
        at = 0
        while at < len(waiting):
            group = waiting[at]
            try:
                before = list(self.model.state.regs)
                self.trail.append(self.model.state.rip)
                for item in self.model.step(self._offer(group)):
                    if at == len(waiting):
                        return self.compared
                    if not isinstance(item, Dead):
                        self._compare(item, waiting[at], before)
                        at += 1
                    self.compared += 1
            except Illegal as illegal:
                raise Mismatch("interrupt", f"{illegal}; the core says: {group}") from None
        return self.compared

    # --- interrupts

    def _offer(self, group: Group) -> tuple[int, int] | None:
        r = group.end
        if group.kind == "trap" and r.trap_class in (INTR, NMI):
            if r.trap_class == NMI and not self.requests.nmi(self._accepted[NMI] - 1, r.cycle - 1):
                raise Mismatch("interrupt", f"nobody asked for this: {group}")
            if r.trap_class == INTR:
                asked = self.requests.vector(r.cycle, self._accepted[INTR])
                if asked is None or asked[1] != r.trap_vector:
                    raise Mismatch("interrupt", f"asked for {asked and asked[1]}, but: {group}")
            self._accepted[r.trap_class] = r.cycle
            return r.trap_class, r.trap_vector
        self._not_passed_over(group)
        return None

    def _not_passed_over(self, group: Group) -> None:
        """No instruction may start while an interrupt that could be taken is waiting."""
        if group.kind != "insn" or group.records[0].flags & RetireFlag.MEM_WE:
            return  # a store that waits for the bus has begun before it retires
        start = group.records[0].cycle
        asked = self.requests.vector(start - 2, self._accepted[INTR])
        if asked is not None and self.model.accepts(INTR) is None:
            raise Mismatch("interrupt", f"interrupt {asked[1]} has been waiting since cycle {asked[0]}, but in cycle {start}: {group}")
        if self.requests.nmi(self._accepted[NMI] + 1, start - 3) and self.model.accepts(NMI) is None:
            raise Mismatch("interrupt", f"an NMI has been waiting, but in cycle {start}: {group}")

    # --- comparison

    def _compare(self, item: Item, group: Group, before: list[int]) -> None:
        if isinstance(item, Taken):
            self._trap(item, group)
        elif isinstance(item, Delivered):
            self._delivery(item, group)
        elif isinstance(item, Retired):
            self._instruction(item, group, before)

    def _writes(self, group: Group) -> list[tuple[int, int, int]]:
        """Apply the records to the core's registers; its stores: address, bytes, value."""
        stores = []
        for r in group.records:
            if r.flags & RetireFlag.TRAP:
                continue
            if r.flags & RetireFlag.SP_WE:
                self.regs[4] = r.sp
            if r.flags & RetireFlag.REG_WE and r.reg < 16:
                self.regs[r.reg] = r.reg_data  # pop rsp: what was loaded
            if r.flags & RetireFlag.MEM_WE:
                stores.append((r.mem_addr, 1 << r.mem_size, r.mem_data))
            self.flags = r.rflags
        return stores

    def _trap(self, item: Taken, group: Group) -> None:
        event, r = item.event, group.end
        self.vectors[event.kind, event.vector] += 1
        error = "" if event.error is None else f"({event.error:#x})"
        want = f"{KINDS[event.kind]} {event.vector}{error}, saved rip {event.rip:#x}"
        if group.kind != "trap":
            raise Mismatch("trap", f"the model takes {want}; the core: {group}")
        in_delivery = any(q.flags & RetireFlag.DELIVER for q in group.records[:-1])
        regs, state_flags = list(self.regs), self.flags
        stores = self._writes(group)
        # what sgdt, sidt and enter stored before the access that faults stays (enter: measured on silicon)
        cut = decode.decode(group.records[0].bytes) if len(group.records) > 1 and not in_delivery else None
        if cut is not None and (cut.map, cut.opcode) in ((0, 0xC8), (1, 0x01)) and self.regs == regs:
            for address, size, value in stores:
                self.model.memory.store(address, size, value)
        elif not in_delivery and (stores or self.regs != regs):
            raise Mismatch("trap", f"{group}: but the instruction that was cut short has already written {stores or 'registers'}")
        self.flags = state_flags
        if str(group) != want:
            raise Mismatch("trap", f"the model takes {want}; the core: {group}")
        if event.vector == 14 and event.kind == 0 and event.cr2 != r.trap_addr:
            raise Mismatch("trap", f"{group}: address {r.trap_addr:#x}, the model says {event.cr2:#x}")

    def _delivery(self, item: Delivered, group: Group) -> None:
        event = item.event
        if group.kind != "delivery":
            raise Mismatch("frame", f"the model delivers vector {event.vector}; the core: {group}")
        frame = {address: value for address, _, value in self._writes(group)}
        for address in sorted(frame.keys() | event.frame.keys(), reverse=True):
            got, want = frame.get(address), event.frame.get(address)
            if got != want:
                raise Mismatch("frame", f"vector {event.vector}, frame at {address:#x}: {_hex(got)}, the model says {_hex(want)}")
        self._state(group, f"after the delivery of vector {event.vector}")

    def _instruction(self, item: Retired, group: Group, before: list[int]) -> None:
        self.opcodes[item.insn.map, item.insn.opcode] += 1
        name = f"{item.pc:#x}: {' '.join(decode.text(item.insn.data, item.pc)[1:])}"
        r = group.end
        if group.kind != "insn" or r.pc != item.pc:
            raise Mismatch("trap" if group.kind == "trap" else "rip", f"the model retires {name}; the core: {group}")
        if r.bytes[: r.length] != item.insn.data[: r.length]:
            raise Mismatch("rip", f"{name}: the core executed {r.bytes[: r.length].hex()}")
        if bool(r.flags & RetireFlag.AGAIN) != item.again:
            raise Mismatch("rip", f"{name}: goes on with another iteration: {not item.again}, the model says {item.again}")
        stores = self._writes(group)
        for number in item.free:
            if self.regs[number] >> 32:
                raise Mismatch("register", f"{name}: {_REGS[number]} is {self.regs[number]:#x}, but has 32 bits")
            self.model.state.regs[number] = self.regs[number]
        self._undefined(item, before)
        self._stores(item, stores, name)
        self._state(group, f"after {name}")

    def _undefined(self, item: Retired, before: list[int]) -> None:
        """Take from the core what the manual leaves open, if it differs at all."""
        state = self.model.state
        if (state.rflags ^ self.flags) & STATUS:
            mask = undefined(item, before)
            state.rflags = state.rflags & ~mask | self.flags & mask
        opcode = item.insn.opcode
        if state.regs != self.regs and free_result(item) and (opcode not in (0xBC, 0xBD) or self.flags & ZF):
            swapped = opcode & 7 | (item.insn.rex & 1) << 3
            for number in (swapped,) if opcode >= 0xC8 else (item.insn.reg, item.insn.rm):
                state.regs[number] = self.regs[number]

    def _stores(self, item: Retired, stores: list[tuple[int, int, int]], name: str) -> None:
        memory = self.model.memory
        final: dict[int, int] = {}
        for address, size, value in stores:
            final.update((address + n & M64, value >> 8 * n & 0xFF) for n in range(size))
        for address, byte in final.items():
            here = memory.peek(address, 1)[0]
            if here != byte and free_result(item):
                memory.store(address, 1, byte)
            elif here != byte:
                raise Mismatch("memory", f"{name}: the byte at {address:#x} becomes {byte:#x}, the model says {here:#x}")
        got, want = set(final), set()
        for address, size in item.stores:
            want.update(address + n & M64 for n in range(size))
        if got != want:
            raise Mismatch("memory", f"{name}: stores to {_span(got)}, the model says {_span(want)}")

    def _state(self, group: Group, when: str) -> None:
        state, r = self.model.state, group.end
        for n, (got, want) in enumerate(zip(self.regs, state.regs, strict=True)):
            if got != want:
                raise Mismatch("register", f"{when}: {_REGS[n]} is {got:#x}, the model says {want:#x}")
        if self.flags != state.rflags:
            differs = "system" if not (self.flags ^ state.rflags) & STATUS else "flags"
            raise Mismatch(differs, f"{when}: rflags {self.flags:#x}, the model says {state.rflags:#x}")
        if r.next_pc != state.rip:
            raise Mismatch("rip", f"{when}: the next instruction is at {r.next_pc:#x}, the model says {state.rip:#x}")


def _hex(value: int | None) -> str:
    return "nothing" if value is None else f"{value:#x}"


def _span(addresses: set[int]) -> str:
    return f"{min(addresses):#x} to {max(addresses):#x}" if addresses else "nothing"
