"""Linux-style kprobes, as a runtime outside the machine.

    runtime = Kprobes(guest)                                   # guest: see kprobes.port.Guest
    runtime.register_kprobe(Kprobe(symbol_name="f", pre_handler=lambda p, regs: print(hex(regs.di))))
    runtime.on_trap(Trap(cpu, vector, regs))                   # by the machine, at each trap

Where to look: ``port`` (the machine's side), ``probes`` (the user's side), ``options``, ``checks`` and ``registry``
(registration, aggregates), ``grace`` (waiting for cpus that are inside), ``insn``, ``slots``, ``copies``, ``step``,
``emulate`` and ``boost`` (executing what a breakpoint displaced), ``region``, ``detour``, ``detours``, ``textpoke`` and
``optimizer`` (jumps in place of breakpoints), ``control``, ``handlers`` and ``faults`` (traps), ``jprobes``, ``savearea``,
``calls`` and ``retprobes`` (returns), ``unwind`` (back traces), ``listing`` (debugfs), ``explain`` (what would become of a
probe), ``queries`` and ``runtime`` (all together), ``tracing`` (the text language of probe events, a user of the rest). Data
flows one way: each module imports from those that ``tests/test_layers.py`` finds before it.
"""

from kprobes.ctypes_like import s8, s16, s32, s64, u8, u16, u32, u64
from kprobes.errors import HandlerError, KprobeError, KprobePanic, Rule
from kprobes.events import Phase, ProbeEvent
from kprobes.options import Options
from kprobes.port import Door, Guest, GuestMemoryError, Module, ModuleState, Symbol, Symbols, Trap
from kprobes.probes import Jprobe, Kprobe, KprobeFlag, Kretprobe, KretprobeInstance, Miss, jprobe_return
from kprobes.ptregs import Flag, PtRegs, Vector
from kprobes.region import Obstacle, Region
from kprobes.runtime import Kprobes
from kprobes.tracing import ProbeEventError, ProbeEvents

__all__ = [
    "Door", "Flag", "Guest", "GuestMemoryError", "HandlerError", "Jprobe", "Kprobe", "KprobeError", "KprobeFlag",
    "KprobePanic", "Kprobes", "Kretprobe", "KretprobeInstance", "Miss", "Module", "ModuleState", "Obstacle",
    "Options", "Phase", "ProbeEvent", "ProbeEventError", "ProbeEvents", "PtRegs", "Region", "Rule", "Symbol",
    "Symbols", "Trap", "Vector", "jprobe_return", "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64",
]
