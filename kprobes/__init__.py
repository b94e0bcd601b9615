"""Linux-style kprobes, as a runtime outside the machine.

    runtime = Kprobes(guest)                                   # guest: see kprobes.port.Guest
    runtime.register_kprobe(Kprobe(symbol_name="f", pre_handler=lambda p, regs: print(hex(regs.di))))
    runtime.on_trap(Trap(cpu, vector, regs))                   # by the machine, at each trap

Where to look: ``port`` (the machine's side), ``probes`` (the user's side), ``checks`` and ``registry`` (registration),
``insn``, ``slots`` and ``step`` (out-of-line stepping), ``savearea``
(code that reaches the runtime without a trap), ``handlers`` (traps), ``jprobes``, ``runtime`` (all together).
Each module imports only from those before it: ptregs, savearea, port, errors, ctypes_like, probes, events, insn, slots,
step, checks, registry, jprobes, handlers, runtime. Several probes at one address would extend ``step.Site``, a probe on a
function's return would be a module beside ``jprobes``, and a faster way than stepping a branch in ``handlers._step``.
"""

from kprobes.ctypes_like import s8, s16, s32, s64, u8, u16, u32, u64
from kprobes.errors import HandlerError, KprobeError, KprobePanic
from kprobes.events import Phase, ProbeEvent
from kprobes.port import Guest, GuestMemoryError, Symbol, Symbols, Trap
from kprobes.probes import Jprobe, Kprobe, KprobeFlag, jprobe_return
from kprobes.ptregs import Flag, PtRegs, Vector
from kprobes.runtime import Kprobes

__all__ = [
    "Flag", "Guest", "GuestMemoryError", "HandlerError", "Jprobe", "Kprobe", "KprobeError", "KprobeFlag", "KprobePanic",
    "Kprobes", "Phase", "ProbeEvent", "PtRegs", "Symbol", "Symbols", "Trap", "Vector", "jprobe_return",
    "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64",
]
