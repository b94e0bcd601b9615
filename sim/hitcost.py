"""What a probe hit costs: cycles by kind of probe and way of execution, measured on a guest of a few instructions.

The cost is what a call takes longer with an empty handler than without a probe, averaged over calls with everything warm.
Every engine gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.elf import load_elf
from sim.engine import Engine, StopReason
from sim.guestbuild import build_text
from sim.machine import Jprobe, Kprobe, Kretprobe, Machine, Options

#: Calls before anything is counted, and calls that are counted. Jumps are in place long before the first of these.
WARM, COUNTED = 24, 32

_GUEST = r"""
#include "guest.h"

volatile long calls;

/* Two instructions that a jump can cover, and a branch. */
__asm__(
".globl probed\n.type probed, @function\n"
"probed:\n	mov %rdi, %rax\n	lea 1(%rax), %rax\n	jmp 1f\n1:	ret\n"
".size probed, .-probed\n");
long probed(long n);

int main(void)
{
	for (long i = calls; i; i--)
		probed(i);
	return 0;
}
"""
_BRANCH = 7  # the offset of the jmp


@dataclass(frozen=True)
class Kind:
    """A kind of hit: what is measured, with which options, and where in the function."""

    key: str
    about: str
    options: Options
    probe: type[Kprobe] | type[Jprobe] | type[Kretprobe] = Kprobe
    offset: int = 0


_TF, _INT3 = Options(), Options(step="int3")
_BOOST, _OPTIMIZE = Options(step="int3", boost=True), Options(step="int3", boost=True, optimize=True, optimize_delay=1)

#: The keys of the first five are those of `kprobes.explain.Way`.
KINDS = (
    Kind("tf", "kprobe, its instruction stepped by TF", _TF),
    Kind("int3", "kprobe, its instruction stepped up to an int3", _INT3),
    Kind("emulated", "kprobe on a branch, emulated", _INT3, offset=_BRANCH),
    Kind("boosted", "kprobe, boosted", _BOOST),
    Kind("optimised", "kprobe, a jump in place of the breakpoint", _OPTIMIZE),
    Kind("jprobe", "jprobe with a handler in Python", _TF, Jprobe),
    Kind("kretprobe", "kretprobe, entry stepped by TF", _TF, Kretprobe),
    Kind("kretprobe-boosted", "kretprobe, entry boosted", _BOOST, Kretprobe),
    Kind("kretprobe-optimised", "kretprobe, entry by a jump", _OPTIMIZE, Kretprobe),
)


def measure(engine: str | Engine = "auto", keys: tuple[str, ...] | None = None) -> dict[str, float]:
    """Return the cycles of a hit by the key of its kind. For a kretprobe: of entry and return together."""
    image = load_elf(build_text(_GUEST, name="hitcost"))
    with Machine(engine=engine) as machine:
        opened = machine.engine
        plain = _calls(image, opened, None)
        return {
            kind.key: round((_calls(image, opened, kind) - plain) / COUNTED, 1)
            for kind in KINDS if keys is None or kind.key in keys
        }


def _calls(image: object, engine: Engine, kind: Kind | None) -> int:
    """Return the cycles of the counted calls."""
    return _run(image, engine, kind, WARM + COUNTED) - _run(image, engine, kind, WARM)


def _run(image: object, engine: Engine, kind: Kind | None, calls: int) -> int:
    with Machine(image, engine=engine, probes=kind.options if kind else Options()) as machine:  # type: ignore[arg-type]
        where = machine.symbols.lookup("calls")
        assert where is not None
        machine.mem.write(where, calls.to_bytes(8, "little"))
        kp = _plant(machine, kind) if kind else None
        result = machine.run()
        if result.reason != StopReason.EXIT or (kp is not None and kp.hits != calls):
            raise RuntimeError(f"{kind.about if kind else 'no probe'}: {kp.hits if kp else 0} hits of {calls}: {result}")
        return result.cycles


def _plant(machine: Machine, kind: Kind) -> Kprobe:
    if kind.probe is Jprobe:
        jp = Jprobe(lambda n: None, symbol_name="probed")
        machine.kprobes.register_jprobe(jp)
        return jp.kp
    if kind.probe is Kretprobe:
        rp = Kretprobe(lambda ri, regs: None, symbol_name="probed")
        machine.kprobes.register_kretprobe(rp)
        return rp.kp
    p = Kprobe(symbol_name="probed", offset=kind.offset, pre_handler=lambda p, regs: 0)
    machine.kprobes.register_kprobe(p)
    return p
