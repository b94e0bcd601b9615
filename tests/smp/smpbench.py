"""Several harts on the tables of `trapbench`: one program, in which hart i begins at the label ``start{i}``."""

from __future__ import annotations

from typing import Any

from sim.engine import StopReason
from sim.harts import REGISTERS
from tests.traps.trapbench import STACK, Bench, Taken

#: The stack of hart i ends here less i times this.
STACK_STEP = 0x800

_TABLES = ("idt_base", "idt_limit", "gdt_base", "gdt_limit", "tr", "tr_base", "tr_limit")


class SmpBench(Bench):
    """An engine with several harts."""

    def load(self, text: str, *, regs: dict[int, dict[str, int]] | None = None, **setup: Any) -> None:
        """Lay out everything as `Bench.load` does, and give all harts its tables and a stack. None runs yet.

        `regs`: registers of single harts.
        """
        super().load(text, **setup)
        self.engine.reset()
        for hart in range(self.engine.harts):
            values = dict(zip(_TABLES, (0x1000, 0xFFF, 0x2000, 0xFF, 24, 0x3000, 0x67), strict=True))
            values |= {"rsp": STACK - STACK_STEP * hart} | (regs or {}).get(hart, {})
            for name, value in values.items():
                self.set(hart, name, value)
        self.engine.drain()

    def set(self, hart: int, name: str, value: int) -> None:
        """Set a register of a hart."""
        self.engine.write_reg(hart, REGISTERS[name], value)

    def get(self, hart: int, name: str) -> int:
        """A register of a hart."""
        return self.engine.read_reg(hart, REGISTERS[name])

    def start(self, *late: int, until: int = 20_000) -> None:
        """Let hart i begin `late[i]` cycles after the first, and run until all of them sleep."""
        order = sorted(range(len(late)), key=lambda hart: late[hart])
        first = late[order[0]]
        for hart in order:
            if late[hart] > first:
                self.engine.run(late[hart] - first)
                first = late[hart]
            self.set(hart, "rip", self.labels[f"start{hart}"])
        self.finish(until)

    def finish(self, until: int = 20_000) -> None:
        """Run until all harts sleep."""
        self.reason = self.engine.run(until).reason
        assert self.reason == StopReason.HALTED, f"{self.reason.name}, {[hex(self.get(h, 'rip')) for h in self.harts]}"

    @property
    def harts(self) -> range:
        """Numbers of the harts."""
        return range(self.engine.harts)

    def traps(self) -> list[list[Taken]]:
        """The traps of each hart since `load`."""
        records = self.engine.drain().retires
        return [self._read([r for r in records if r.hart == hart], []) for hart in self.harts]

    def long(self, label: str) -> int:
        """The 32-bit variable at a label."""
        return int.from_bytes(self.engine.read_mem(self.labels[label], 4), "little")
