"""Catches lost updates of a counter with two kprobes: on the load and on the store, with hart, cycle and value of each.

An update is lost if two harts store the same value: both had loaded the one before it, and the second store undoes the first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kprobes import Kprobe, PtRegs
from sim import Machine


@dataclass(frozen=True)
class Update:
    """One load of the counter and the store that followed it on the same hart."""

    hart: int
    loaded: int
    load_cycle: int
    store_cycle: int


@dataclass
class Race:
    """What the probes have seen: the last load of each hart, updates by stored value, and pairs of which one was lost."""

    loads: dict[int, tuple[int, int]] = field(default_factory=dict)
    updates: dict[int, Update] = field(default_factory=dict)
    lost: list[tuple[Update, Update]] = field(default_factory=list)

    def describe(self, number: int) -> str:
        """Return a finding in words."""
        first, second = self.lost[number]
        return (
            f"hart {first.hart} loaded {first.loaded} in cycle {first.load_cycle} and stored {first.loaded + 1} in cycle "
            f"{first.store_cycle};\n  hart {second.hart} had loaded {second.loaded} in cycle {second.load_cycle} and "
            f"stored {second.loaded + 1}, too, in cycle {second.store_cycle}: one count is lost"
        )


def setup(machine: Machine) -> Race:
    """Plant the probes; `kphw run --script` calls this."""
    race = Race()
    machine.keep(race)

    def loaded(p: Kprobe, regs: PtRegs, flags: int) -> None:  # after the load: its result is in rax
        race.loads[machine.kprobes.cpu] = (regs.ax, machine.cycle)

    def storing(p: Kprobe, regs: PtRegs) -> int:  # before the store: its value is in rdi
        hart = machine.kprobes.cpu
        value, cycle = race.loads[hart]
        update = Update(hart, value, cycle, machine.cycle)
        if regs.di in race.updates:
            race.lost.append((race.updates[regs.di], update))
            if len(race.lost) == 1:
                print(race.describe(0))
        race.updates[regs.di] = update
        return 0

    machine.kprobes.register_kprobe(Kprobe(symbol_name="counter_load", post_handler=loaded))
    machine.kprobes.register_kprobe(Kprobe(symbol_name="counter_store", pre_handler=storing))
    return race
