"""A snippet under construction: registers and memory as they are before its next instruction.

The initial value of a register or byte that no instruction has referred to is still free to choose. That is how
operands are steered: an address lands in mapped memory because a free register, or a displacement, was solved for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from random import Random

from tests.silicon.executor import REGIONS, REGS, Outcome

M64 = (1 << 64) - 1
ARITH = 0x8D5
DF = 0x400
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)

#: Canonical addresses where neither the models nor the executor have memory: page fault.
_UNMAPPED = (0x1_0000_0000, 0x12_3456_7000, 0x0FFF_FFFF_F000, 0xFFFF_8800_0000_0000, 0xFFFF_FFFF_0000_0000)
_NON_CANONICAL = (0x8000_0000_0000_0000, 0x0001_0000_0000_0000, 0x7FFF_8000_0000_0000, 0xFFFE_1234_5678_0000)


class Reject(Exception):
    """This instance cannot be built in this state; try another."""


def interesting(rng: Random, bits: int = 64) -> int:
    """A value where carries, signs and widths change, or a random one."""
    kind = rng.random()
    if kind < 0.35:
        value = rng.getrandbits(bits)
    elif kind < 0.5:
        value = rng.choice((0, 1, 2, -1, -2, rng.randrange(256), -rng.randrange(256)))
    elif kind < 0.7:
        width = rng.choice((8, 16, 32, 64))
        value = (1 << rng.choice((width - 1, width))) + rng.choice((-1, 0, 1))
    elif kind < 0.85:
        value = (1 << rng.randrange(bits)) + rng.choice((-1, 0, 0, 1))
    elif kind < 0.95:
        value = rng.getrandbits(bits) >> rng.randrange(bits)
    else:
        value = int.from_bytes(bytes([rng.choice((0, 0x80, 0xFF, 0x7F, 0x55))]) * 8, "little")
    return value & ((1 << bits) - 1)


class State:
    """Registers by number 0..15 and by name, memory byte by byte, each as initial and as current value."""

    def __init__(self, rng: Random):
        self.rng = rng
        self.regs = {name: interesting(rng) for name in REGS[:16]}
        start, length = REGIONS["code"]
        line = start + 256 + rng.randrange(length - 0x1200) // 64 * 64
        self.regs["rip"] = rng.choice((line, line + rng.randrange(64), (line | 0xFFF) - rng.randrange(8)))
        self.regs["rflags"] = 2 | (rng.getrandbits(12) & ARITH) | (DF if rng.random() < 0.3 else 0)
        self.regs["fs_base"], self.regs["gs_base"] = rng.getrandbits(46), rng.getrandbits(rng.choice((20, 46)))
        self.regs["rsp"] = self.place("stack", 64)
        self.first = dict(self.regs)
        self.mem: dict[int, int] = {}
        self.first_mem: dict[int, int] = {}
        self.code: dict[int, int] = {}
        self.used: set[str] = {"rsp"}  # always a stack
        self.undefined = 0

    def fork(self) -> State:
        """A copy to try an instruction on; the generator's randomness is shared."""
        twin = copy.copy(self)
        twin.regs, twin.first, twin.used = dict(self.regs), dict(self.first), set(self.used)
        twin.mem, twin.first_mem, twin.code = dict(self.mem), dict(self.first_mem), dict(self.code)
        return twin

    # --- registers

    def reg(self, number: int) -> int:
        """The current value of a general register."""
        return self.regs[REGS[number]]

    def free(self, *names: str | int) -> bool:
        """Whether the initial value can still be chosen."""
        return not any((REGS[n] if isinstance(n, int) else n) in self.used for n in names)

    def pin(self, name: str | int, value: int) -> None:
        """Choose the initial value of a free register."""
        name = REGS[name] if isinstance(name, int) else name
        if name in self.used:
            if self.regs[name] == value & M64:
                return
            raise Reject(f"{name} is in use")
        if name.endswith("_base") and value >> 47:
            raise Reject("a process cannot have a segment base above user space")
        self.regs[name] = self.first[name] = value & M64
        self.used.add(name)

    def use(self, numbers: Iterable[int]) -> None:
        """An instruction refers to these registers: their initial values are settled."""
        self.used.update(REGS[n] for n in numbers)

    def steer(self, number: int, value: int, low: int = 0) -> None:
        """Give a register this value, or accept what it has when it is in a data region with `low` bytes of room."""
        if self.free(number):
            self.pin(number, value)
        elif not self.mapped(self.reg(number) - low, 2 * low + 8):
            raise Reject(f"{REGS[number]} does not point to data")

    # --- memory

    def place(self, region: str, room: int) -> int:
        """An address in a region with room on both sides: aligned, odd, or just below an 8/16/64/4096-byte boundary."""
        start, length = REGIONS[region]
        address = start + room + self.rng.randrange(length - 2 * room)
        kind = self.rng.random()
        if kind < 0.4:
            return max(address & ~7, start + room)
        if kind < 0.7:
            edge = self.rng.choice((8, 16, 64, 4096))
            address = (address | (edge - 1)) + 1 - self.rng.randrange(1, 8)
        return min(address, start + length - room)

    def spot(self, size: int) -> int:
        """An address for a memory operand: fresh, or among bytes already there so that instructions meet in memory."""
        if self.mem and self.rng.random() < 0.35:
            address = self.rng.choice(list(self.mem)) - self.rng.choice((0, 0, 0, 1, 4))
            if self.mapped(address, size):
                return address
        return self.place(self.rng.choice(("data", "data", "data", "high")), 128)

    def bad_spot(self) -> int:
        """An address that faults the same way in user mode here and in a model: never the RAM of either."""
        base = self.rng.choice(_UNMAPPED if self.rng.random() < 0.6 else _NON_CANONICAL)
        return base + self.rng.randrange(0xF00)

    @staticmethod
    def mapped(address: int, size: int) -> bool:
        """Whether data may live there; code is kept apart, so that no snippet modifies itself."""
        return any(
            start <= address and address + size <= start + length
            for name, (start, length) in REGIONS.items()
            if name != "code"
        )

    def touch(self, address: int, size: int) -> int:
        """Make sure that these bytes are named in the vector; the little-endian value there."""
        if not self.mapped(address, size):
            raise Reject(f"{address:#x} is not data")
        if any(address + i not in self.mem for i in range(size)):
            fresh = b"".join(interesting(self.rng).to_bytes(8, "little") for _ in range(0, size, 8))
            if size in (1, 2, 4):
                fresh = interesting(self.rng, 8 * size).to_bytes(size, "little")
            for i in range(size):
                if address + i not in self.mem:
                    self.mem[address + i] = self.first_mem[address + i] = fresh[i]
        return int.from_bytes(bytes(self.mem[address + i] for i in range(size)), "little")

    def poke(self, address: int, size: int, value: int) -> bool:
        """Choose the initial bytes there if none is settled yet; whether the value is there now."""
        if not self.mapped(address, size):
            raise Reject(f"{address:#x} is not data")
        data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        if not any(address + i in self.mem for i in range(size)):
            for i in range(size):
                self.mem[address + i] = self.first_mem[address + i] = data[i]
        return self.touch(address, size) == int.from_bytes(data, "little")

    # --- code

    def code_target(self) -> int:
        """Somewhere to jump to, with room for what may follow."""
        start, length = REGIONS["code"]
        return start + 64 + self.rng.randrange(length - 192)

    @staticmethod
    def is_code(address: int) -> bool:
        """Whether an instruction may be placed there."""
        start, length = REGIONS["code"]
        return start + 16 <= address < start + length - 64

    def put_code(self, code: bytes) -> None:
        """Lay the next instruction at rip."""
        rip = self.regs["rip"]
        if not self.is_code(rip) or any(rip + i in self.code for i in range(len(code))):
            raise Reject("no room for code at rip")
        self.code.update({rip + i: byte for i, byte in enumerate(code)})

    # --- in and out

    def absorb(self, outcome: Outcome) -> None:
        """The current state is what silicon left after all instructions so far."""
        self.regs, self.mem = dict(outcome.regs), self.after(outcome)

    def after(self, outcome: Outcome) -> dict[int, int]:
        """The memory that silicon left."""
        memory = dict(self.first_mem)
        for address, data in outcome.changed:
            memory.update({address + i: byte for i, byte in enumerate(data)})
        return memory

    def initial(self) -> dict:
        """The `initial` part of a vector; all registers that are not zero are named."""
        regs = {name: value for name, value in self.first.items() if value != (2 if name == "rflags" else 0)}
        return {"regs": regs, "mem": runs({**self.first_mem, **self.code})}


def runs(memory: dict[int, int]) -> list[list]:
    """Single bytes gathered into runs, in the format of `initial.mem`."""
    found: list[tuple[int, bytearray]] = []
    for address in sorted(memory):
        if found and found[-1][0] + len(found[-1][1]) == address:
            found[-1][1].append(memory[address])
        else:
            found.append((address, bytearray([memory[address]])))
    return [[address, data.hex()] for address, data in found]
