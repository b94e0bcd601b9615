"""A hart of `HardMachine` as tests of the fake machine see a cpu: registers by the names of pt_regs."""

from kprobes import PtRegs
from kprobes.ptregs import FIELDS
from tests.kprobes.fakecpu import MASK64

_REGISTERS = {"ip": "rip", "flags": "rflags", "cs": "cs", "ss": "ss"} | {
    name: name if name.startswith("r") else f"r{name}" for name in FIELDS if name not in ("orig_ax", "ip", "flags", "cs", "ss")}


class Registers:
    """The registers of a hart by the names of pt_regs."""

    def __init__(self, registers):
        object.__setattr__(self, "_registers", registers)

    def __getattr__(self, name):
        if name == "orig_ax":
            return 0
        try:
            return self._registers[_REGISTERS[name]]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        self._registers[_REGISTERS[name]] = value & MASK64

    def copy(self):
        """Return them as PtRegs."""
        return PtRegs(**{name: getattr(self, name) for name in FIELDS})

    def __eq__(self, other):
        return all(getattr(self, name) == getattr(other, name) for name in FIELDS)

    __hash__ = None

    def __repr__(self):
        return repr(self.copy())


class Bases:
    """Segment bases."""

    def __init__(self, registers):
        self._registers = registers

    def __setitem__(self, segment, base):
        self._registers[f"{segment}_base"] = base


class Cpu:
    """A hart as tests of the fake machine see a cpu."""

    def __init__(self, machine, number):
        self.number, self.memory = number, machine.mem
        self._registers = machine.harts[number].regs
        self.bases = Bases(self._registers)

    @property
    def regs(self):
        """Its registers."""
        return Registers(self._registers)
