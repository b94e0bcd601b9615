"""The other executor: the `unicorn` emulator over a copy of the machine's memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from unicorn import unicorn_const as const
from unicorn import x86_const
from unicorn.unicorn import Uc, UcError

#: The registers of a call and of its result, as `sim.harts` names them.
NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")

_IDS = {name: getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in NAMES}


#: eax, ebx, ecx, edx by leaf and subleaf.
CpuidTable = dict[tuple[int, int], tuple[int, int, int, int]]


class EmulatorError(RuntimeError):
    """The emulator did not reach the end of a call; the message says why and where."""


class Emulator:
    """Executes calls on `ram`, which lies at `base`. CPUID says what `cpuid` has, and 0 for what is not there."""

    def __init__(self, ram: bytes, base: int, gs_base: int, cpuid: CpuidTable):
        self._uc = Uc(const.UC_ARCH_X86, const.UC_MODE_64)
        self._uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_HASWELL)  # executes what CPUID may offer
        self._uc.ctl_set_tlb_mode(const.UC_TLB_VIRTUAL)  # addresses of the upper half are not cut to physical ones
        self._uc.mem_map(base, len(ram))
        self._uc.mem_write(base, ram)
        self._uc.reg_write(x86_const.UC_X86_REG_GS_BASE, gs_base)
        self._uc.hook_add(const.UC_HOOK_INSN, self._identify, cpuid, 1, 0, x86_const.UC_X86_INS_CPUID)
        self.counts: Counter[int] = Counter()

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of memory."""
        return bytes(self._uc.mem_read(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Change memory."""
        self._uc.mem_write(address, data)

    def count(self, addresses: Iterable[int]) -> None:
        """From now on count in `counts` how often the instructions there are executed (a `rep` one each time)."""
        for address in dict.fromkeys(addresses):
            self._uc.hook_add(const.UC_HOOK_CODE, self._seen, begin=address, end=address)

    def _identify(self, uc: Uc, table: CpuidTable) -> int:
        leaf, subleaf = (uc.reg_read(_IDS[name]) & 0xFFFF_FFFF for name in ("rax", "rcx"))
        key = (leaf, subleaf)
        if key not in table and table.get((leaf, 0)) == table.get((leaf, 1)):  # a leaf without subleaves
            key = (leaf, 0)
        for name, value in zip(("rax", "rbx", "rcx", "rdx"), table.get(key, (0, 0, 0, 0)), strict=True):
            uc.reg_write(_IDS[name], value)
        return 1  # instead of the instruction

    def _seen(self, _uc: Uc, address: int, _size: int, _data: object) -> None:
        self.counts[address] += 1

    def call(self, registers: dict[str, int], until: int, timeout: float) -> dict[str, int]:
        """Execute from registers["rip"] until `until` is next; return the registers. EmulatorError if that never is."""
        for name, value in registers.items():
            self._uc.reg_write(_IDS[name], value)
        try:
            self._uc.emu_start(registers["rip"], until, timeout=int(timeout * 1_000_000))
        except UcError as error:
            raise EmulatorError(f"the emulator stops at {self._uc.reg_read(_IDS['rip']):#x}: {error}") from None
        after = {name: self._uc.reg_read(_IDS[name]) for name in NAMES}
        if after["rip"] != until:
            raise EmulatorError(f"the emulator is still at {after['rip']:#x} after {timeout:.0f} s")
        return after
