"""A kernel in a machine: its image at its link address, our stubs below it, memory for arguments above it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hw.config import Config
from sim.elf import Image, RawSymbol, Segment, SymbolTable, load_elf
from sim.engine import Engine, StopOn
from sim.guestbuild import build
from sim.kernel.image import KernelImage
from sim.machine import Machine

SUPPORT = Path(__file__).with_name("support.c")

#: Where a call returns to, and the IDT is set up when it is reached first (support.c).
RETURN = "kernel_return"

#: Executes CPUID and returns.
CPUID = "kernel_cpuid"

#: The first leaf of each range of CPUID: eax is the last one.
_RANGES = (0, 0x8000_0000)

#: Memory for the objects of a case, and its stack.
ARENA_BYTES = 4 << 20
STACK_BYTES = 64 << 10

#: Offset of the stack canary in the per-CPU area, which compiled code reads at gs:0x28, and what stands there.
CANARY, CANARY_VALUE = 0x28, 0x5AFE_C0DE_0123_4500

#: Beyond the arena: the runtime's slots and the stack of start-up (`sim.machine`).
_TOP_BYTES = 1 << 20

_PAGE = 4096


@dataclass(frozen=True)
class Layout:
    """Where things are in the guest, by virtual address."""

    percpu: int
    stack: int  # the lowest address
    arena: int
    ram_bytes: int

    @property
    def stack_top(self) -> int:
        """The first address above the stack."""
        return self.stack + STACK_BYTES


def layout_of(kernel: KernelImage, base: int) -> Layout:
    """Place everything behind the image, in the alias of RAM at `base`; RAM is as large as that needs."""
    percpu = (kernel.end + _PAGE - 1) & -_PAGE
    stack = (percpu + max(len(kernel.percpu), _PAGE) + 2 * _PAGE - 1) & -_PAGE
    arena = stack + STACK_BYTES + _PAGE
    needed = arena + ARENA_BYTES + _TOP_BYTES - base
    return Layout(percpu, stack, arena, 1 << (needed - 1).bit_length())


def kernel_image(kernel: KernelImage, layout: Layout) -> Image:
    """Return what to load: the kernel, the per-CPU area of one CPU, and support.c, where the machine starts."""
    support = load_elf(build([SUPPORT]))
    percpu = bytearray(kernel.percpu.ljust(CANARY + 8, b"\0"))
    percpu[CANARY : CANARY + 8] = CANARY_VALUE.to_bytes(8, "little")
    segments = [*support.segments, *kernel.segments, Segment(layout.percpu, bytes(percpu), len(percpu), 6)]
    own = [RawSymbol(symbol.name, symbol.start, symbol.size, "FUNC") for symbol in support.symbols.symbols()]
    edges = {name: support.symbols.lookup(name) for name in (RETURN, CPUID, "__entry_text_start", "__entry_text_end")}
    own += [RawSymbol(name, address) for name, address in edges.items() if address is not None]
    symbols: SymbolTable = kernel.symbols(own, support.segments)
    return Image(support.entry, segments, symbols)


def start(kernel: KernelImage, layout: Layout, engine: str | Engine) -> Machine:
    """Return a machine with the kernel loaded and the IDT set up, before the instruction at RETURN.

    `engine`: a name, or an open engine, whose RAM must be as large as the layout says.
    """
    machine = Machine(kernel_image(kernel, layout), engine=engine, config=Config(ram_bytes=layout.ram_bytes))
    machine.run(until=RETURN, max_cycles=100_000)
    machine.harts[0].regs.gs_base = layout.percpu
    return machine


def cpuid_of(machine: Machine) -> dict[tuple[int, int], tuple[int, int, int, int]]:
    """Ask the core for all that CPUID says: eax, ebx, ecx, edx by leaf and subleaf (0 and 1)."""
    regs = machine.harts[0].regs
    start = machine.symbols.lookup(CPUID)
    assert start is not None

    def ask(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        machine.engine.run(1000, StopOn(boundary=True, hart=0))
        regs.rax, regs.rcx, regs.rip = leaf, subleaf, start
        machine.run(until=RETURN, max_cycles=10_000)
        return regs.rax, regs.rbx, regs.rcx, regs.rdx

    leaves = [leaf for first in _RANGES for leaf in range(first, ask(first, 0)[0] + 1)]
    return {(leaf, subleaf): ask(leaf, subleaf) for leaf in leaves for subleaf in (0, 1)}
