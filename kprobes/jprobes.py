"""Jprobes: the detour through a handler with the probed function's parameters, and the way back.

    int3 at the function     enter():   save pt_regs and up to 64 stack bytes; ip = handler; IF = TF = 0
    Python handler           the runtime's text holds an int3, at which call() runs the function, and a second one:
    int3 in jprobe_return    leave():   everything put back; the caller then steps the probed instruction

A guest handler gets a return address of ours, so that one which returns without jprobe_return traps at once; it is
among the saved stack bytes. ``sp`` at jprobe_return may be below the saved one (the handler pushed, or called
jprobe_return) and is forced back, as jprobe_return itself did in 2004; above it, or on another stack, nothing is
certain any more. Sources: setjmp_pre_handler, jprobe_return, longjmp_break_handler, arch/x86_64/kernel/kprobes.c, 2004.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from kprobes.checks import Checks
from kprobes.ctypes_like import CInteger
from kprobes.errors import KprobeError, KprobePanic
from kprobes.port import PAGE_SIZE, Guest, GuestMemoryError
from kprobes.probes import Jprobe, JprobeReturn, Kprobe
from kprobes.ptregs import ARGUMENT_REGISTERS, TF_IF, PtRegs

#: How much of the stack above sp a handler may change without effect (the callee owns its arguments there).
MAX_STACK_SIZE = 64

#: The types of ctypes that are integers. Its pointers are not: they would be followed in the host's memory.
_C_INTEGERS = (
    ctypes.c_byte, ctypes.c_ubyte, ctypes.c_short, ctypes.c_ushort, ctypes.c_int, ctypes.c_uint, ctypes.c_long,
    ctypes.c_ulong, ctypes.c_longlong, ctypes.c_ulonglong,
)

#: What the runtime's text page holds: three int3s, told apart by their address.
_ENTRY, _RETURN, _MISSED = 0, 1, 2


@dataclass(eq=False, slots=True)
class Mirror:
    """A jprobe's handler under way on one cpu: what has to be put back after it."""

    jprobe: Jprobe
    regs: PtRegs
    stack: bytes


class Jprobes:
    """The jprobes of one guest, and the small page of text that they share."""

    def __init__(self, guest: Guest):
        self._guest = guest
        self._text: int | None = None

    def owns(self, addr: int) -> bool:
        """Whether ``addr`` lies in the runtime's text page, or in the guest's ``jprobe_return``."""
        start, end = self.return_range()
        return start <= addr < end or (self._text is not None and 0 <= addr - self._text < PAGE_SIZE)

    def prepare(self, jp: Jprobe, checks: Checks) -> None:
        """Check the handler and make sure that the page exists; raise ``KprobeError`` before anything is planted."""
        jp.entry_addr = None
        if isinstance(jp.entry, str):
            jp.entry_addr = checks.lookup(jp.entry)
        elif isinstance(jp.entry, int):
            jp.entry_addr = jp.entry
        elif callable(jp.entry):
            jp.parameters = parameters_of(jp.entry)
        else:
            raise KprobeError(errno.EINVAL, "a jprobe's entry is a Python function, a guest address or a symbol name")
        if jp.entry_addr is not None:
            symbol = self._guest.symbols.containing(jp.entry_addr)
            if not self._guest.is_text(jp.entry_addr):
                raise KprobeError(errno.EINVAL, f"the jprobe's handler {jp.entry_name} is not in the guest's text")
            if symbol is not None and symbol.start != jp.entry_addr:
                raise KprobeError(errno.EINVAL, (
                    f"the jprobe's handler {jp.entry_addr:#x} is inside '{symbol.name}', not at its start"))

    def acquire(self, near: int) -> bool:
        """Make sure of the text page; whether it was made just now. ENOMEM without memory."""
        if self._text is None:
            try:
                self._text = self._guest.alloc_text_page(near)
            except MemoryError as exc:
                raise KprobeError(errno.ENOMEM, f"the guest has no text page left for jprobes: {exc}") from exc
            self._guest.write(self._text, b"\xcc" * 3)
            self._guest.sync_cores()
            return True
        return False

    def discard(self) -> None:
        """Give the text page back: the registration that it was made for was refused."""
        if self._text is not None:
            self._guest.write(self._text, bytes(3))
            self._guest.free_text_page(self._text)
            self._text = None

    def return_range(self) -> tuple[int, int]:
        """Return [start, end) of guest code whose int3 means jprobe_return; our own int3 when the guest has none."""
        start = self._guest.symbols.lookup("jprobe_return")
        if start is None:
            return (0, 0) if self._text is None else (self._text + _RETURN, self._text + _RETURN + 1)
        end = self._guest.symbols.lookup("jprobe_return_end")
        if end is None:
            symbol = self._guest.symbols.containing(start)
            end = symbol.end if symbol is not None and symbol.size else start + 1
        return start, end

    def enter(self, cpu: int, jp: Jprobe, regs: PtRegs) -> Mirror:
        """Save, and point the registers at the handler (setjmp_pre_handler)."""
        mirror = Mirror(jp, regs.copy(), self._stack(cpu, regs.sp))
        regs.flags &= ~TF_IF
        assert self._text is not None, "a jprobe is registered, so the page exists"
        if jp.entry_addr is None:
            regs.ip = self._text + _ENTRY
        else:
            regs.ip = jp.entry_addr
            if len(mirror.stack) >= 8:
                self._guest.write(regs.sp, (self._text + _MISSED).to_bytes(8, "little"))
        return mirror

    def is_entry(self, mirror: Mirror, addr: int) -> bool:
        """Whether this int3 is the place of a Python handler."""
        return mirror.jprobe.entry_addr is None and self._text is not None and addr == self._text + _ENTRY

    def call(self, mirror: Mirror) -> None:
        """Run the Python handler on the probed function's arguments; its ``regs`` is a copy: all is undone anyway."""
        entry = mirror.jprobe.entry
        assert callable(entry)
        regs = mirror.regs.copy()
        annotations, takes_regs = mirror.jprobe.parameters
        arguments = [_as_type(annotation, self._argument(regs, n)) for n, annotation in enumerate(annotations)]
        with contextlib.suppress(JprobeReturn):
            entry(*arguments, **({"regs": regs} if takes_regs else {}))

    def is_return(self, mirror: Mirror, addr: int) -> bool:
        """Whether this int3 is jprobe_return's."""
        if mirror.jprobe.entry_addr is None:
            return self._text is not None and addr == self._text + _RETURN
        start, end = self.return_range()
        return start <= addr < end or (self._text is not None and addr == self._text + _RETURN)

    def leave(self, cpu: int, mirror: Mirror, regs: PtRegs) -> None:
        """Put registers and stack back (longjmp_break_handler); panic when sp cannot be the handler's."""
        saved = mirror.regs.sp
        if regs.sp > saved or self._guest.stack_end(cpu, regs.sp) != self._guest.stack_end(cpu, saved):
            here = regs.copy()
            self.restore(mirror, regs)
            raise KprobePanic(
                f"the jprobe on {mirror.jprobe.kp.name}: at jprobe_return sp is {here.sp:#x}, but the handler "
                f"{mirror.jprobe.entry_name} was entered with sp {saved:#x}; it popped what was not its own or changed "
                f"stacks\nregisters at jprobe_return:\n{here.dump()}\nregisters at the probe:\n{regs.dump()}")
        self.restore(mirror, regs)

    def is_missed_return(self, addr: int) -> bool:
        """Whether this int3 is where a guest handler lands that returns without jprobe_return."""
        return self._text is not None and addr == self._text + _MISSED

    def restore(self, mirror: Mirror, regs: PtRegs) -> None:
        """Make registers and stack those of the hit."""
        regs.assign(mirror.regs)
        if mirror.stack:
            self._guest.write(regs.sp, mirror.stack)

    def _argument(self, regs: PtRegs, n: int) -> int:
        """Return the ``n``-th argument at a function's first instruction."""
        if n < len(ARGUMENT_REGISTERS):
            return regs.argument(n)
        return int.from_bytes(self._guest.read(regs.stack_argument(n), 8), "little")

    def _stack(self, cpu: int, sp: int) -> bytes:
        """Return the stack from ``sp`` up: 64 bytes, or what is left of it (MIN_STACK_SIZE)."""
        size = min(MAX_STACK_SIZE, max(0, self._guest.stack_end(cpu, sp) - sp))
        try:
            return self._guest.read(sp, size)
        except GuestMemoryError:
            return b""


def kprobe_of(probe: Kprobe | Jprobe) -> Kprobe:
    """Return the probe itself, or the one embedded in a jprobe."""
    return probe.kp if isinstance(probe, Jprobe) else probe


def parameters_of(entry: Callable[..., object]) -> tuple[tuple[object, ...], bool]:
    """Return the annotations of a Python handler's parameters, one for each argument, and whether it takes ``regs``.

    Raise ``KprobeError`` (EINVAL) when the signature does not say how many arguments the function has.
    """
    try:
        signature = inspect.signature(entry)
    except (ValueError, TypeError) as exc:
        raise KprobeError(errno.EINVAL, (
            f"the parameters of the jprobe's handler {entry!r} cannot be seen ({exc}); wrap it in a def")) from exc
    with contextlib.suppress(Exception):  # annotations may be any text, such as C declarations
        signature = inspect.signature(entry, eval_str=True)
    annotations: list[object] = []
    takes_regs = False
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            annotations.append(parameter.annotation)
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.name == "regs":
            takes_regs = True
        elif parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise KprobeError(errno.EINVAL, (
                f"the jprobe's handler {entry!r} has the parameter '{parameter}', but its parameters are the probed "
                "function's arguments, one name each, and optionally a keyword-only 'regs'"))
    return tuple(annotations), takes_regs


def _as_type(annotation: object, value: int) -> object:
    """Convert an unsigned 64-bit argument to the annotated C type; without one of those it stays as it is."""
    if annotation is bool:
        return bool(value & 0xFF)
    if isinstance(annotation, type):
        if issubclass(annotation, CInteger):
            return annotation(value)
        if annotation in _C_INTEGERS:
            return annotation(value).value
    return value
