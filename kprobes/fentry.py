"""Probes at the nop that a compiler leaves at a function's entry for tracing: a call instead of a breakpoint.

    call stub            5 bytes over a nop of 5, at the function's entry or behind its endbr64
    save                 a whole pt_regs, sp as it was before the call
    mov %rsp, door       the runtime runs the handlers; no trap
    restore, ret         behind the nop, or where a pre_handler has sent the program: by the return address

There is nothing to displace, so that a post_handler costs nothing and a hit inside another hit is only counted.

Source: kprobe_ftrace_handler, arch/x86/kernel/kprobes/ftrace.c; ftrace_regs_caller, arch/x86/kernel/ftrace_64.S.
"""

from __future__ import annotations

from kprobes.port import Door, Guest, GuestMemoryError
from kprobes.ptregs import MASK64, PtRegs
from kprobes.savearea import Line, code, through
from kprobes.slots import Slots, distance
from kprobes.text import Text
from kprobes.textpoke import Poke, TextPoke

CALL, CALL_SIZE = 0xE8, 5

#: What stands there while nobody traces (gcc -mnop-mcount); anything else belongs to the guest's own tracer.
NOP = bytes.fromhex("0f1f440000")

_REACH = (1 << 31) - (1 << 12)


class Fentry:
    """The calls of one guest's function entries. A stub stays where it was made, since a cpu may be in it at any time."""

    def __init__(self, guest: Guest, text: Text, poke: TextPoke):
        self._guest = guest
        self._text = text
        self._poke = poke
        self._slots: Slots | None = None
        self._stubs: list[int] = []

    def owns(self, addr: int) -> bool:
        """Whether ``addr`` lies in a page of stubs."""
        return self._slots is not None and self._slots.owns(addr)

    def attach(self, addr: int) -> None:
        """Turn the nop at ``addr`` into a call. Raise ``GuestMemoryError`` with nothing changed when it cannot be written.

        Raise ``KprobeError`` as ``Slots.allocate`` when there is no place for the stub.
        """
        self._guest.read(addr, CALL_SIZE)
        self._poke.write([Poke(addr, self._call(addr))])

    def detach(self, addr: int) -> None:
        """Put the nop back, unless somebody else has written over the call."""
        try:
            ours = self._guest.read(addr, CALL_SIZE) == self._call(addr)
        except GuestMemoryError:
            ours = False
        if ours:
            self._poke.restore([(addr, CALL_SIZE)])
        else:
            self._text.forget(addr, addr + CALL_SIZE)

    def origin(self, regs: PtRegs) -> int:
        """Return the address of the nop that a stub was called from."""
        return (int.from_bytes(self._guest.read(_return_slot(regs), 8), "little") - CALL_SIZE) & MASK64

    def redirect(self, regs: PtRegs) -> None:
        """Let the stub return to ``regs.ip``."""
        self._guest.write(_return_slot(regs), (regs.ip & MASK64).to_bytes(8, "little"))

    def _call(self, addr: int) -> bytes:
        return bytes([CALL]) + distance(self._stub(addr), addr + CALL_SIZE).to_bytes(4, "little", signed=True)

    def _stub(self, near: int) -> int:
        for stub in self._stubs:
            if abs(distance(stub, near)) < _REACH:
                return stub
        data = code((*through(self._guest.door(Door.FENTRY), above=8), Line(b"\xc3", "ret")))
        if self._slots is None:
            self._slots = Slots(self._guest, len(data))
        stub = self._slots.allocate(near)
        self._slots.fill(stub, data)
        self._slots.keep(stub)
        self._stubs.append(stub)
        return stub


def _return_slot(regs: PtRegs) -> int:
    return (regs.sp - 8) & MASK64
