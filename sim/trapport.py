"""The machine's side of the TrapPort: requests to the runtime and its answers, and guest functions that a handler calls.

A call in steps, all of it on the hardware:

    the hart stands in its store to the TrapPort, inside `Kprobes.on_trap`
    it is sent to the function, by the iretq of its entry stub, or from a place that has none through the debug port
    the function returns to code of the machine (`_CODE`), which stores rax to a door of the machine's own: the result
    that code restores every register of the hart as it stood, and its iretq leads back to the store, which is executed again

So a handler, and what comes after it, finds the hart in the same request at the same place, any number of times. What traps
on the way is served as always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hw.bus import DEVICE_VIRT, HIGH_BASE, TRAP_RESULT
from hw.isa.facts import VECTORS, DebugReg, Reg, SysReg, Vector
from kprobes import HandlerError, PtRegs
from kprobes import Trap as ProbeTrap
from kprobes.errors import GuestCallError
from sim.engine import StopReason
from sim.events import GuestCall, TrapPortCall
from sim.frames import CODE, PT_REGS_BYTES, written_back
from sim.memory import GuestMemoryError

if TYPE_CHECKING:
    from sim.machine import Machine

#: The first vector that is no trap: the number of a door (`kprobes.port.Door`), and the doors of the machine's own: a hart
#: has serialised (`sim.coresync`), a called function has returned.
DOORS, SYNCED, RETURN = 0x80, 0xFE, 0xFF

#: A called function must return within so many cycles.
CALL_PATIENCE = 200_000

_HAS_ERROR = {row.number for row in VECTORS if row.has_error}
_SEGMENTS = {"cs": DebugReg.SYS + SysReg.CS, "ss": DebugReg.SYS + SysReg.SS}
_REGISTERS = {
    **{reg.name.lower().removeprefix("r") if reg < 8 else reg.name.lower(): reg.value for reg in Reg if reg < 16},
    "ip": DebugReg.RIP.value,
    "flags": DebugReg.RFLAGS.value,
}


def _absolute(address: int) -> bytes:
    return (address & 0xFFFFFFFF).to_bytes(4, "little")


#: Where a called function returns to. The loop ends when the store was answered with "handled".
_CODE = (
    bytes.fromhex("48890425") + _absolute(DEVICE_VIRT + 8 * RETURN)  # 1: mov %rax, RETURN
    + bytes.fromhex("833c25") + _absolute(DEVICE_VIRT + TRAP_RESULT) + b"\x01"  # cmpl $1, TRAP_RESULT
    + bytes.fromhex("75ee")  # jne 1b
    + bytes.fromhex("415f415e415d415c5d5b415b415a415941585859 5a5e5f")  # pop r15 .. rdi, as pt_regs lies in memory
    + bytes.fromhex("4883c40848cf")  # add $8, %rsp; iretq
)  # fmt: skip
_RESTORE = 18

#: Where in the page the code of `sim.frames` is.
_GROWN = 64


@dataclass(eq=False)
class Call:
    """A guest function under way on a hart, and the request that the hart is to stand in afterwards.

    ``frame``: the address of a pt_regs that holds its registers there; the function's return address lies right below.
    """

    hart: int
    vector: int
    where: int
    regs: PtRegs
    frame: int
    code: int
    ends: bool = False
    given_up: bool = False


class TrapPort:
    """Serves the TrapPort requests of a machine's harts."""

    def __init__(self, machine: Machine, page: int):
        """`page`: a physical page of RAM that is left to this."""
        self._machine, self._engine = machine, machine.engine
        self._page = page
        self._calls: list[list[Call]] = [[] for _ in machine.harts]
        self._answered: dict[int, int] = {}
        self._depth = 0
        self.patience = CALL_PATIENCE
        machine.engine.write_mem(page, _CODE.ljust(_GROWN, b"\xcc") + CODE)

    @property
    def idle(self) -> bool:
        """Whether no handler is under way."""
        return not self._depth

    @property
    def code(self) -> tuple[int, int]:
        """Physical range of the code that ends calls, and of that of `sim.frames`."""
        return self._page, self._page + _GROWN + len(CODE)

    def waits(self, hart: int) -> bool:
        """Whether a hart stands in a request that has not been answered."""
        return self._engine.state(hart).trap_request and self._answered.get(hart) != self._engine.cycle

    def leaves_by_iretq(self, hart: int) -> bool:
        """Whether the code that made a hart's request fetches everything anew, as an iretq does."""
        return self._engine.trap_request(hart)[0] < DOORS

    def serve(self, hart: int) -> None:
        """Give a request to the runtime, write back what it changed, and arm the answer."""
        vector, where = self._engine.trap_request(hart)
        if vector == SYNCED:
            self._machine.cores.synced(hart)
            self._complete(hart, True)
            return
        if self._calls[hart] and self._postpone(self._calls[hart][-1], vector):
            return
        try:
            regs = PtRegs.unpack(self._machine.mem.read(where, PT_REGS_BYTES))
        except GuestMemoryError:
            self._answer(TrapPortCall(hart, self._engine.cycle, vector, where, 0, 0, False))
            return
        trap = ProbeTrap(cpu=hart, vector=vector, regs=regs)
        if vector in _HAS_ERROR:
            trap.error = regs.orig_ax
        if vector == Vector.PF:
            trap.cr2 = self._engine.read_reg(hart, DebugReg.SYS + SysReg.CR2)
        if vector == Vector.DB:
            # BS is sticky: the entry stub clears DR6 if this trap is handled
            trap.dr6 = self._engine.read_reg(hart, DebugReg.SYS + SysReg.DR6)
        before, handled = regs.ip, False
        packed = regs.pack()
        self._depth += 1
        try:
            handled = self._machine.kprobes.on_trap(trap)
        except HandlerError:
            handled = True
            raise
        finally:
            self._depth -= 1
            if trap.regs.pack() != packed:
                self._write_back(vector, where, PtRegs.unpack(packed), trap.regs)
            if self.leaves_by_iretq(hart):
                self._machine.loop.fetches(hart)
            self._answer(TrapPortCall(hart, self._engine.cycle, vector, where, before, trap.regs.ip, handled))

    def _write_back(self, vector: int, where: int, before: PtRegs, after: PtRegs) -> None:
        """Let the code that made a request, which goes on at `where`, leave with other registers."""
        if vector >= DOORS:
            self._write(where, after.pack())
            return
        code = self._page + _GROWN + (HIGH_BASE if where >= HIGH_BASE else 0)
        for address, data in written_back(self._machine.mem.read, where, before, after, code):
            self._write(address, data)

    def _answer(self, call: TrapPortCall) -> None:
        assert call.hart is not None
        self._machine.note(call)
        if self._engine.state(call.hart).trap_request:  # unless a function that a handler called has shut the hart down
            self._complete(call.hart, call.handled)

    def _complete(self, hart: int, handled: bool) -> None:
        self._engine.complete_trap(hart, handled)
        self._answered[hart] = self._engine.cycle

    def _write(self, address: int, data: bytes) -> None:
        self._machine.mem.store(address, data)

    # Guest functions.

    def call(self, hart: int, address: int, args: tuple[int, ...]) -> int:
        """Run a guest function on a hart whose handler is under way, and return its rax (`kprobes.port.Guest.call`).

        It has `patience` cycles. GuestCallError if it does not return; the hart then stands where it stood.
        """
        if not self.waits(hart):
            raise GuestCallError(f"hart {hart} is in no handler: a guest function can be called from inside one only")
        if len(args) > 6:
            raise GuestCallError(f"{len(args)} arguments: a guest function gets up to 6, in registers")
        vector, where = self._engine.trap_request(hart)
        regs = PtRegs()
        for name, index in (_REGISTERS | _SEGMENTS).items():
            setattr(regs, name, self._engine.read_reg(hart, index))
        frame = regs.sp - PT_REGS_BYTES & -16
        code = self._page + (HIGH_BASE if address >= HIGH_BASE else 0)
        call = Call(hart, vector, where, regs, frame, code)
        begin = PtRegs(ip=address, cs=regs.cs, flags=2, sp=frame - 8, ss=regs.ss)
        for name, value in zip(("di", "si", "dx", "cx", "r8", "r9"), args, strict=False):
            setattr(begin, name, value)
        kept = self._machine.mem.read(where, PT_REGS_BYTES)
        self._write(frame - 8, code.to_bytes(8, "little"))
        self._write(frame, regs.pack())
        started = self._engine.cycle
        self._calls[hart].append(call)
        try:
            self._send(call, begin)
            self._await(call)
            result = self._engine.trap_request(hart)[1]
            self._back(call)
        except GuestCallError:
            raise
        except BaseException:  # of another handler, or of a trap that the runtime gave up
            self._give_up(call)
            raise
        finally:
            self._calls[hart].pop()
            self._write(where, kept)
        self._machine.note(GuestCall(hart, self._engine.cycle, address, result, started))
        return result

    def meets(self, call: Call) -> bool:
        """Whether the request that the call's hart stands in is the one that is waited for."""
        vector, where = self._engine.trap_request(call.hart)
        if self._calls[call.hart][-1] is not call or (call.given_up and not call.ends):
            return False
        if vector == RETURN:
            return True
        return call.ends and (vector, where, self._rip(call.hart)) == (call.vector, call.where, call.regs.ip)

    def _rip(self, hart: int) -> int:
        return self._engine.read_reg(hart, DebugReg.RIP)

    def _postpone(self, call: Call, vector: int) -> bool:
        """Let a hart wait while a call on another hart, which began later, is waited for; False: its request is no end."""
        if vector == RETURN or (call.given_up and not call.ends):
            self._complete(call.hart, False)  # the machine's code asks again
        elif self.meets(call):
            self._send(call, PtRegs(ip=call.code, cs=call.regs.cs, flags=2, sp=call.frame, ss=call.regs.ss))
        else:
            return False
        return True

    def _send(self, call: Call, begin: PtRegs) -> None:
        """Let a hart leave its request for somewhere else: by the iretq that follows, or by the machine's own.

        The stub of #DB clears DR6, which may still be wanted.
        """
        if call.vector < DOORS and call.vector != Vector.DB:
            self._write(call.where, begin.pack())
            self._complete(call.hart, True)
            return
        at = call.frame - 16 - PT_REGS_BYTES & -16
        self._write(at, begin.pack())
        self._complete(call.hart, False)
        self._to_boundary(call.hart)
        self._engine.write_reg(call.hart, Reg.RSP, at)
        self._engine.write_reg(call.hart, DebugReg.RIP, call.code + _RESTORE)

    def _to_boundary(self, hart: int) -> None:
        """Run until a hart is between two instructions, and in no request."""
        state = self._engine.state(hart)
        while state.trap_request or not state.boundary:
            self._machine.loop.advance(1)
            state = self._engine.state(hart)

    def _await(self, call: Call) -> None:
        """Run until the request that a call waits for."""
        left, why = self.patience, f"has not returned after {self.patience} cycles"
        while left > 0:
            ended = self._machine.loop.advance(left, call=call)
            left -= ended.cycles
            if ended.reason == StopReason.TRAP_REQUEST:
                return
            if ended.reason == StopReason.SHUTDOWN and ended.hart == call.hart:
                why, left = "shut the hart down by a triple fault", 0
            elif ended.reason == StopReason.HALTED:
                why, left = "halted with interrupts off", 0
        where = self._machine.symbols.describe(self._rip(call.hart))
        self._give_up(call)
        raise GuestCallError(f"the called guest function {why}; the hart was at {where}")

    def _back(self, call: Call) -> None:
        """Bring a hart from the machine's code to the request that it came from, once more if it was sent away there."""
        call.ends = True
        while self._engine.trap_request(call.hart)[0] == RETURN:
            self._complete(call.hart, True)
            self._await(call)

    def _give_up(self, call: Call) -> None:
        """Put a hart back to where a call found it, wherever it is now; what it was doing there is lost."""
        hart = call.hart
        if call.given_up or self._engine.state(hart).shutdown:
            return
        call.given_up = True
        self._to_boundary(hart)
        for name, index in (_SEGMENTS | _REGISTERS).items():
            if self._engine.read_reg(hart, index) != getattr(call.regs, name):
                self._engine.write_reg(hart, index, getattr(call.regs, name))
        call.ends = True
        self._await(call)
        self._back(call)
