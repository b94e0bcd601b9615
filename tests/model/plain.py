"""Plain instructions, executed by Unicorn (the processor emulator of QEMU as a library), one at a time.

What Unicorn is not asked for: flags beyond the status flags and DF, privilege, segments, exceptions' error codes. It runs
with TF set, so that a block that it translates holds one instruction and a repeated string instruction makes one iteration.

Guards against what it does otherwise than a processor:

* it stores the first half of an access whose second half faults: stores are noted first and taken back;
* its double faults are its own (it remembers an exception for ever): any exception of a division is #DE, and its state is
  put back to the beginning after each;
* it checks no canonical addresses: `missing` gets every address that is no RAM, with the exact first byte;
* `_normal` lists bytes that it reads otherwise: it executes them as others of the same length that mean the same;
* it keeps translated code when memory is changed behind its back: the bytes last seen at each address are remembered.
"""

from __future__ import annotations

import ctypes

from unicorn import (
    UC_ARCH_X86,
    UC_HOOK_INSN_INVALID,
    UC_HOOK_INTR,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_UNMAPPED,
    UC_HOOK_MEM_WRITE,
    UC_HOOK_TLB_FILL,
    UC_MEM_FETCH,
    UC_MEM_FETCH_UNMAPPED,
    UC_MEM_WRITE,
    UC_MEM_WRITE_UNMAPPED,
    UC_MODE_64,
    UC_PROT_ALL,
    UC_TLB_VIRTUAL,
    Uc,
    UcError,
    x86_const,
)
from unicorn.unicorn_py3.unicorn import uclib

from tests.model.decode import VEX, Insn
from tests.model.state import (
    CF,
    DF,
    HIGH,
    M64,
    RAX,
    RBP,
    RSP,
    SF,
    STATUS,
    TF,
    ZF,
    Fault,
    Memory,
    State,
    Unmodelled,
    canonical,
    gp,
    ud,
)

_NAMES = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15", "RIP", "EFLAGS", "FS_BASE", "GS_BASE"]
#: Where the high alias and pages that are missing lie among the emulator's physical addresses.
_HIGH_AT, _MISSING_AT = 1 << 32, 1 << 40
#: Where no program ends: the emulator does nothing if it starts where it is to stop.
_NOWHERE = 1 << 62
#: Explicit accesses that read the stack, though the instruction has a memory operand that it writes.
_POP = (0, 0x8F)


def normal(insn: Insn) -> bytes:
    """The instruction as Unicorn reads it rightly. What differs there from silicon (measured with `tests.silicon.executor`):

    * a CS, DS, ES or SS prefix after FS or GS cancels it (64 3E 48 8B 03 loads through FS on silicon);
    * a REX prefix with a legacy prefix behind it still counts (on silicon it does not);
    * F6 /1 and F7 /1 raise #UD (on silicon they are TEST, as /0);
    * REX.R before C6 and C7 raises #UD (on silicon it means nothing there);
    * SHLD and SHRD with an immediate take rip one byte too early (on silicon it is that of the next instruction);
    * 66 before POPCNT with REX.W makes it one of 16 bits (on silicon REX.W wins, as everywhere).
    """
    data = bytearray(insn.data)
    segment = insn.segment
    for at in range(insn.head - 1, -1, -1):
        dead = data[at] & 0xF0 == 0x40 and (at < insn.head - 1)
        if dead or (segment and data[at] in (0x26, 0x2E, 0x36, 0x3E)):
            data[at] = segment or (data[at + 1] if data[at + 1] & 0xF0 != 0x40 else 0x3E)
    if insn.map == 0 and insn.opcode in (0xF6, 0xF7) and insn.modrm & 0x38 == 8:
        data[insn.at] &= ~8
    if insn.map == 0 and insn.opcode in (0xC6, 0xC7) and insn.rex & 4:
        data[insn.head - 1] &= ~4
    if insn.map == 1 and insn.opcode in (0xA4, 0xAC) and insn.modrm & 0xC7 == 5:
        at = insn.at + 1
        disp = int.from_bytes(data[at : at + 4], "little") + 1
        data[at : at + 4] = (disp & 0xFFFFFFFF).to_bytes(4, "little")
    if (insn.map, insn.opcode) == (1, 0xB8) and insn.rex & 8:
        data[: insn.head] = bytes(0xF3 if byte == 0x66 else byte for byte in data[: insn.head])
    return bytes(data)


class Plain:
    """Unicorn over the memory of a model."""

    def __init__(self, memory: Memory):
        self.memory = memory
        self.uc = uc = Uc(UC_ARCH_X86, UC_MODE_64)
        uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_EPYC_ROME)
        base = ctypes.addressof(memory.buffer)
        uc.mem_map_ptr(0, memory.size, UC_PROT_ALL, base)
        uc.mem_map_ptr(_HIGH_AT, memory.size, UC_PROT_ALL, base)
        uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
        uc.hook_add(UC_HOOK_TLB_FILL, self._fill)
        uc.hook_add(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._access)
        uc.hook_add(UC_HOOK_MEM_UNMAPPED, self._unmapped)
        uc.hook_add(UC_HOOK_INTR, self._interrupt)
        uc.hook_add(UC_HOOK_INSN_INVALID, self._invalid)
        self._first = uc.context_save()
        self._pages: dict[int, int] = {}
        self._missing: list[int] = []
        self._seen: dict[int, bytes] = {}
        self._fault: tuple[bool, int, int] | None = None  # write, address, accesses before it
        self._raised: int | None = None
        self._undefined = self._unaligned = False
        self._before: list[int] = []
        count = len(_NAMES)
        self._ids = (ctypes.c_int32 * count)(*(getattr(x86_const, f"UC_X86_REG_{name}") for name in _NAMES))
        self._values = (ctypes.c_uint64 * count)()
        size = ctypes.sizeof(ctypes.c_uint64)
        where = ctypes.addressof(self._values)
        self._pointers = (ctypes.c_void_p * count)(*(where + size * i for i in range(count)))

    # --- hooks

    def _fill(self, uc: Uc, address: int, access: int, entry: object, data: object) -> bool:
        del uc, access, data
        page = address & M64 & ~0xFFF
        offset = self.memory.offset(page)
        if offset is None:
            if page not in self._pages:
                self._pages[page] = len(self._missing)
                self._missing.append(page)
            offset = _MISSING_AT + (self._pages[page] << 12)
        elif page >= HIGH:
            offset += _HIGH_AT
        entry.paddr, entry.perms = offset, UC_PROT_ALL  # type: ignore[attr-defined]
        return True

    def _linear(self, physical: int) -> int:
        if physical >= _MISSING_AT:
            return self._missing[(physical - _MISSING_AT) >> 12] | physical & 0xFFF
        return physical if physical < _HIGH_AT else physical - _HIGH_AT + HIGH

    def _access(self, uc: Uc, access: int, address: int, size: int, value: int, data: object) -> None:
        del uc, value, data
        if self._fault is not None or address >= _MISSING_AT:
            return
        linear, memory = self._linear(address), self.memory
        self._unaligned |= memory.aligned and linear % size != 0
        if access == UC_MEM_WRITE:
            at = address if address < _HIGH_AT else address - _HIGH_AT
            memory.note(linear, at, min(size, memory.size - at))
        else:
            memory.loads.append((linear, size))

    def _unmapped(self, uc: Uc, access: int, address: int, size: int, value: int, data: object) -> bool:
        del uc, value, data
        if self._fault is None:
            linear = self._linear(address)
            self._unaligned |= self.memory.aligned and linear % size != 0 and canonical(linear)
            write = access in (UC_MEM_WRITE, UC_MEM_WRITE_UNMAPPED)
            assert access not in (UC_MEM_FETCH, UC_MEM_FETCH_UNMAPPED)
            self._fault = (write, self._linear(address), len(self.memory.loads) + len(self.memory.stores))
        return False

    def _interrupt(self, uc: Uc, number: int, data: object) -> None:
        del data
        if number != 1:
            self._raised = number
        uc.emu_stop()

    def _invalid(self, uc: Uc, data: object) -> bool:
        del uc, data
        self._undefined = True
        return False

    # --- a step

    def step(self, state: State, insn: Insn) -> None:
        """Execute the instruction (or one iteration) at rip; raise its `Fault` with nothing changed."""
        values, rip, before, memory = self._values, state.rip, state.rflags, self.memory
        values[:16] = state.regs
        values[16], values[17] = rip, before & (STATUS | DF) | TF | 2
        values[18], values[19] = state.fs_base, state.gs_base
        count = len(values)
        data = normal(insn)
        if self._seen.get(rip) != data:
            self.uc.ctl_remove_cache(rip, rip + 16)
            self._seen[rip] = data
        if data != insn.data:
            self._put(rip, data)
        self._fault, self._raised, self._undefined, self._unaligned = None, None, False, False
        uclib.uc_reg_write_batch(self.uc._uch, self._ids, self._pointers, count)
        failed, self._before = False, list(state.regs)
        try:
            self.uc.emu_start(rip, _NOWHERE, 0, 1)
        except UcError:
            failed = True
        if data != insn.data:
            here = memory.offset(rip) or 0
            places = ((memory.offset(at) or 0, n) for at, n in memory.stores + memory.loads)
            if any(at < here + 15 and here < at + n for at, n in places):
                raise Unmodelled(f"{insn.data.hex()} accesses itself")
            self._put(rip, insn.data)
        if self._undefined or self._raised is not None or failed or self._fault is not None or self._unaligned:
            self._refuse(state, insn)
        uclib.uc_reg_read_batch(self.uc._uch, self._ids, self._pointers, count)
        if (insn.map, insn.opcode) == (0, 0xC8):  # the new top of the stack must be writable (on silicon; not asked here)
            try:
                memory.check(values[RSP], insn.stack, 2, True, state.cpl == 3)
            except Fault:
                memory.undo()
                raise
        if not canonical(values[16]):
            memory.undo()
            raise gp()
        if (insn.map, insn.opcode) == (1, 0xB1) and insn.modrm >= 0xC0 and insn.operand == 4:
            # of the two registers of cmpxchg the one that is not written keeps its upper half (on silicon)
            kept = RAX if values[17] & ZF else insn.rm
            if insn.rm != RAX:
                values[kept] = state.regs[kept]
        if insn.map == VEX + 2:
            self._bmi(insn, values)
        if (insn.map, insn.opcode) == (0, 0xC8) and insn.stack == 2:
            values[RBP] = state.regs[RBP] & ~0xFFFF | values[RBP] & 0xFFFF  # on silicon; here all of rbp
        state.regs[:] = values[:16]
        state.rip = values[16]
        state.rflags = before & ~(STATUS | DF) | values[17] & (STATUS | DF)

    def _bmi(self, insn: Insn, values: ctypes.Array[ctypes.c_uint64]) -> None:
        """On silicon: CF of BLSI is set unless the source is 0; BZHI from a bit beyond the operand keeps the whole of it; PDEP of
        32 bits clears the upper half; BEXTR shifts an operand of 32 bits as one of 32 and keeps bit 63 of a long field."""
        size = 8 if insn.wide else 4
        if insn.opcode == 0xF3 and insn.modrm >> 3 & 7 == 3:
            values[17] ^= CF
        elif insn.opcode == 0xF5 and not insn.data[insn.at - 2] & 3 and values[17] & CF:
            loads = self.memory.loads
            before = self._before if insn.modrm >= 0xC0 else None
            source = before[insn.rm] if before else int.from_bytes(self.memory.peek(*loads[-1]), "little")
            result = values[insn.reg] = source & ((1 << 8 * size) - 1)
            values[17] = values[17] & ~(ZF | SF) | (0 if result else ZF) | (SF if result >> 8 * size - 1 else 0)
        elif insn.opcode == 0xF5 and size == 4:
            values[insn.reg] &= 0xFFFFFFFF
        elif insn.opcode == 0xF7 and not insn.data[insn.at - 2] & 3:
            control = self._before[~insn.data[insn.at - 2] >> 3 & 15]
            loads = self.memory.loads
            source = self._before[insn.rm] if insn.modrm >= 0xC0 else int.from_bytes(self.memory.peek(*loads[-1]), "little")
            field = (source & ((1 << 8 * size) - 1)) >> (control & 0xFF)
            result = values[insn.reg] = field & ((1 << (control >> 8 & 0xFF)) - 1)
            values[17] = values[17] & ~ZF | (0 if result else ZF)

    def _put(self, rip: int, data: bytes) -> None:
        """Replace the bytes of the instruction, behind the emulator's back."""
        at = self.memory.offset(rip)
        assert at is not None
        size = min(15, self.memory.size - at)
        self.memory.bytes[at : at + size] = data[:size]

    def _refuse(self, state: State, insn: Insn) -> None:
        """Raise what the emulator refused to do as the fault of a processor."""
        fault, raised, undefined = self._fault, self._raised, self._undefined
        self.memory.undo()
        self.uc.context_restore(self._first)
        if undefined:
            raise ud()
        if raised is not None:
            if insn.map == 0 and insn.opcode in (0xF6, 0xF7):
                raise Fault(0)
            raise gp()  # more than 15 bytes, or an operand of 16 bytes that is not aligned
        if self._unaligned:
            raise Fault(17, 0)
        assert fault is not None, f"Unicorn stops at {state.rip:#x}: {insn.data.hex()}"
        write, address, accesses = fault
        if not canonical(address):
            raise Fault(12 if self._by_stack(insn, write) else 13, 0)
        operand = not write and insn.writes and not ((insn.map, insn.opcode) == _POP and not accesses)
        raise Fault(14, (write or operand) << 1 | (state.cpl == 3) << 2, address)

    @staticmethod
    def _by_stack(insn: Insn, write: bool) -> bool:
        """Whether the access that failed was of the stack segment."""
        op = insn.opcode
        if insn.map == 0:
            if 0x50 <= op < 0x60 or op in (0x68, 0x6A, 0xC2, 0xC3, 0xC8, 0xC9, 0xE8):
                return True
            if op == 0x8F and not write:
                return True
            if op == 0xFF and insn.modrm >> 3 & 7 in (2, 6) and write:
                return True
            if 0xA0 <= op < 0xB0 or 0x6C <= op < 0x70 or op == 0xD7:
                return False
        return insn.on_stack

