"""What a hit of each kind of probe costs in cycles, beside the kernel's published figures; and what registering costs.

A hit is the same function call in a loop, probed and not probed: the difference, for each call. The runtime itself takes no
cycles (the hart stands still while it works), and no handler does anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from sim.elf import load_elf
from sim.engine import Engine, StopReason
from sim.guestbuild import build_text
from sim.machine import Jprobe, Kprobe, Kretprobe, Machine, Options

ROUNDS = 40
PATIENCE = 1_000_000

#: Probes registered by the benchmark of registrations: a tenth, and all of them.
COUNTS = (1_000, 10_000)

_LOOP = f"""
	.globl	main
	.type	main, @function
main:	push	%rbx
	mov	${ROUNDS}, %ebx
1:	call	target
	call	traced
	dec	%ebx
	jne	1b
	pop	%rbx
	xor	%eax, %eax
	ret
	.size	main, . - main

	.type	target, @function
target:	mov	%rdi, %rax
	lea	1(%rax), %rax
branch:	jmp	1f
1:	ret
	.size	target, . - target

	.type	traced, @function
traced:	.byte	0x0f, 0x1f, 0x44, 0, 0
	ret
	.size	traced, . - traced
	.section __mcount_loc, "a", @progbits
	.quad	traced
	.text

	.type	mirror, @function
mirror:	call	jprobe_return
	ud2
	.size	mirror, . - mirror
"""


@dataclass(frozen=True)
class Kind:
    """A kind of probe. ``published``: cycles of the kernel's documentation on an Opteron 246 (2004, x86-64) and a Xeon
    E5410 (x86-64), computed from its microseconds; None where it has no figure. ``way``: of `kprobes.explain.Way`, that
    this kind is an example of."""

    name: str
    options: Options
    plant: Callable[[Machine], None]
    published: tuple[int | None, int | None] = (None, None)
    way: str | None = None


def _pre(p: Kprobe, regs: object) -> None:
    pass


def _kprobe(machine: Machine) -> None:
    machine.kprobes.register_kprobe(Kprobe(symbol_name="target", pre_handler=_pre))


def _branch(machine: Machine) -> None:
    machine.kprobes.register_kprobe(Kprobe(symbol_name="target", offset=7, pre_handler=_pre))


def _fentry(machine: Machine) -> None:
    machine.kprobes.register_kprobe(Kprobe(symbol_name="traced", pre_handler=_pre))


def _jprobe(machine: Machine) -> None:
    machine.kprobes.register_jprobe(Jprobe("mirror", "target"))


def _kretprobe(machine: Machine) -> None:
    machine.kprobes.register_kretprobe(Kretprobe(lambda ri, regs: None, "target"))


def _both(machine: Machine) -> None:
    _kretprobe(machine)
    _kprobe(machine)


_BOOST, _OPTIMIZE = Options(boost=True), Options(boost=True, optimize=True)

#: Published: Documentation/trace/kprobes.rst (jprobe: the text before 4.15).
KINDS = (
    Kind("kprobe", Options(), _kprobe, (977, 2307), way="tf"),
    Kind('kprobe, step="int3"', Options(step="int3"), _kprobe, way="int3"),
    Kind("kprobe, emulated (a jmp)", Options(step="int3"), _branch, way="emulated"),
    Kind("kprobe, boosted", _BOOST, _kprobe, (None, 1002), way="boosted"),
    Kind("kprobe, optimised", _OPTIMIZE, _kprobe, (None, 140), way="optimised"),
    Kind("kprobe at a nop for tracing", Options(), _fentry, way="fentry"),
    Kind("jprobe", Options(), _jprobe, (1515, None)),
    Kind("kretprobe", Options(), _kretprobe, (1595, 2889)),
    Kind("kretprobe, boosted", _BOOST, _kretprobe, (None, 1584)),
    Kind("kretprobe, optimised", _OPTIMIZE, _kretprobe, (None, 699)),
    Kind("kprobe and kretprobe", Options(), _both, (1635, None)),
)


class HitError(RuntimeError):
    """A probe of the benchmark that was not hit, or a guest that did not end."""


def hit_cycles(engine: Engine) -> dict[str, float]:
    """Return the cycles of a hit of each kind, by its name."""
    return _measured(engine, {kind.name: kind for kind in KINDS})


def way_cycles(engine: Engine) -> dict[str, float]:
    """Return the cycles of a kprobe's hit by the way in which its instruction is executed."""
    return _measured(engine, {kind.way: kind for kind in KINDS if kind.way is not None})


def _measured(engine: Engine, kinds: dict[str, Kind]) -> dict[str, float]:
    plain = _loop(engine, Options(), lambda machine: None)
    return {key: round((_loop(engine, kind.options, kind.plant) - plain) / ROUNDS, 1) for key, kind in kinds.items()}


def _loop(engine: Engine, options: Options, plant: Callable[[Machine], None]) -> int:
    with Machine(build_text(_LOOP, name="hitcost", suffix=".S"), engine=engine, probes=options) as machine:
        plant(machine)
        if options.optimize:
            machine.kprobes.wait_for_optimizer()
        result = machine.run(PATIENCE)
        hits = sum(p.hits for p in machine.kprobes.registered)
    probes = len(machine.kprobes.registered)
    if result.reason != StopReason.EXIT or result.exit != 1 or hits != probes * ROUNDS:
        raise HitError(f"the loop of probe hits did not end well ({result.reason.name.lower()}, {hits} hits)")
    return result.cycles


def registration(engine: Engine) -> dict[str, dict[str, float]]:
    """Return, by the number of probes: microseconds of the processor that registering and unregistering one take, and that
    the runtime takes for a hit with so many registered."""
    image = load_elf(build_text(_many(max(COUNTS)), name="registration", suffix=".S"))
    found: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        with Machine(image, engine=engine) as machine:
            start = image.symbols.lookup("many0")
            assert start is not None
            probes = [Kprobe(addr=start + i, pre_handler=_pre) for i in range(count)]
            began = time.process_time()
            for probe in probes:
                machine.kprobes.register_kprobe(probe)
            registered = time.process_time()
            hit = _hit_seconds(machine)
            ran = time.process_time()
            for probe in probes:
                machine.kprobes.unregister_kprobe(probe)
            unregistered = time.process_time()
        found[str(count)] = {
            name: round(seconds * 1e6, 1) for name, seconds in
            (("register", (registered - began) / count), ("unregister", (unregistered - ran) / count), ("hit", hit))
        }  # fmt: skip
    return found


def _hit_seconds(machine: Machine) -> float:
    """Run the guest, which executes a hundred of the probed instructions; the median of what a trap costs the runtime."""
    handle, spent = machine.kprobes.on_trap, list[float]()

    def timed(trap: object) -> bool:
        began = time.process_time()
        try:
            return handle(trap)  # type: ignore[arg-type]
        finally:
            spent.append(time.process_time() - began)

    machine.kprobes.on_trap = timed  # type: ignore[method-assign]
    try:
        result = machine.run(PATIENCE)
    finally:
        machine.kprobes.on_trap = handle  # type: ignore[method-assign]
    if result.reason != StopReason.EXIT or len(spent) < 200:
        raise HitError(f"the guest of {len(spent)} hits did not end well ({result.reason.name.lower()})")
    return median(spent)


def _many(count: int, size: int = 100) -> str:
    """Return a guest with functions of `size` instructions of a byte each, the first of which is called."""
    text = "\t.globl main\n" + _function("main", "call many0; xor %eax, %eax")
    return text + "".join(_function(f"many{number}", f".fill {size - 1}, 1, 0x90") for number in range(count // size))


def _function(name: str, body: str) -> str:
    return f"\t.type {name}, @function\n{name}: {body}; ret\n\t.size {name}, . - {name}\n"
