"""A guest made of Python: memory, symbols, cpus, and traps that reach the runtime as a pt_regs in guest memory.

``FakeMachine`` is a ``kprobes.port.Guest``. Traps follow the hardware's rules that matter here: int3 saves the ip
after it, TF is sampled when an instruction starts, a fault saves the ip of its instruction, an interrupt needs IF, an
NMI does not. Whatever the runtime does not consume goes to ``guest_trap`` (the guest's own handler), or ends the test.
"""

import functools
import struct
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from elftools.elf.elffile import ELFFile

from kprobes import GuestMemoryError, Kprobe, Kprobes, Module, ModuleState, Options, PtRegs, Symbol, Trap
from kprobes.errors import GuestCallError
from tests.kprobes.fakecpu import IF, MASK64, TF, Cpu, Fault

TEXT = 0xFFFFFFFF80100000
DATA = 0xFFFFFFFF80200000
STACK = 0xFFFFFFFF80300000
STACK_SIZE = 0x4000
DOORS = 0xFFFFFFFFFE000000  # a store to this page reaches the runtime without a trap
MODULES = 0xFFFFFFFF80800000
HOME = 0xFFFFFFFF80400000  # where a called function returns to: the end of a run
DR6 = 0xFFFF0FF0

#: The ways of executing displaced instructions; a test with the fixture ``every_mode`` runs in each.
MODES = {
    "tf": Options(), "int3": Options(step="int3"), "inline": Options(step="inline"),
    "tf-boost": Options(boost=True), "int3-boost": Options(step="int3", boost=True),
}


@functools.cache
def assemble(source, text=TEXT, data=DATA):
    """Assemble Intel-syntax source into sections and symbols. ``func NAME`` ... ``endf NAME`` makes a sized symbol.

    ``extable INSN, FIXUP`` makes an entry of the exception table, ``fentry`` is a function's tracing nop.
    """
    macros = (".intel_syntax noprefix\n.macro func n\n.globl \\n\n.type \\n,@function\n\\n:\n.endm\n"
              ".macro endf n\n.size \\n, .-\\n\n.endm\n"
              ".macro extable insn, fixup\n.pushsection __ex_table, \"a\"\n.balign 8\n.long \\insn - .\n"
              ".long \\fixup - .\n.popsection\n.endm\n"
              ".macro fentry\n771: .byte 0x0f, 0x1f, 0x44, 0, 0\n.pushsection __mcount_loc, \"a\"\n.quad 771b\n"
              ".popsection\n.endm\n.text\n")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "a.s").write_text(macros + source + "\n")
        places = [f"-Ttext={text:#x}", f"-Tdata={data:#x}", "-e", "0", "--no-relax"]
        for command in (["as", "-o", "a.o", "a.s"], ["ld", "-o", "a.elf", *places, "a.o"]):
            done = subprocess.run(command, cwd=root, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        with (root / "a.elf").open("rb") as file:
            elf = ELFFile(file)
            sections = [(s["sh_addr"], s.data(), bool(s["sh_flags"] & 4))
                        for s in elf.iter_sections() if s["sh_flags"] & 2 and s["sh_size"]]
            table = elf.get_section_by_name(".symtab").iter_symbols()
            symbols = [Symbol(s.name, s["st_value"], s["st_size"]) for s in table
                       if s.name and s["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE")]
            for section, name in (("__ex_table", "__ex_table"), ("__mcount_loc", "mcount_loc")):
                place = elf.get_section_by_name(section)
                if place is not None:
                    start, size = place["sh_addr"], place["sh_size"]
                    symbols += [Symbol(f"__start_{name}", start, 0), Symbol(f"__stop_{name}", start + size, 0)]
    return tuple(sections), tuple(symbols)


class Memory:
    """Mapped pages; an access outside them is a page fault, a non-canonical one a general protection fault."""

    def __init__(self):
        self.pages = {}
        self.door = None  # the number of a door and what was stored there, until the machine looks

    def map(self, addr, size):
        for page in range(addr & -4096, addr + size, 4096):
            self.pages.setdefault(page & MASK64, bytearray(4096))

    def peek(self, addr, size):
        out = bytearray()
        while len(out) < size:
            at = addr + len(out)
            page = self.pages.get(at & -4096)
            if page is None:
                raise GuestMemoryError(f"{at:#x} is not mapped")
            out += page[at & 4095:(at & 4095) + size - len(out)]
        return bytes(out)

    def poke(self, addr, data):
        self.peek(addr, len(data))
        for i, byte in enumerate(data):
            self.pages[addr + i & -4096][addr + i & 4095] = byte

    def _check(self, addr, size, write):
        if addr >> 47 not in (0, 0x1FFFF):
            raise Fault(13, 0)
        for at in (addr, addr + size - 1):
            if at & -4096 not in self.pages:
                raise Fault(14, 2 * write, at)

    def load(self, addr, size):
        self._check(addr, size, False)
        return int.from_bytes(self.peek(addr, size), "little")

    def store(self, addr, value, size):
        if addr & -4096 == DOORS:
            self.door = (addr - DOORS) // 8, value
            return
        self._check(addr, size, True)
        self.poke(addr, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))

    def fetch(self, addr):
        self._check(addr, 1, False)
        for size in (15, 4096 - (addr & 4095)):
            try:
                return self.peek(addr, size)
            except GuestMemoryError:
                pass
        raise AssertionError


class SymbolTable:
    def __init__(self, symbols):
        self._symbols = sorted(symbols, key=lambda s: s.start)

    def add(self, symbols):
        self._symbols = sorted((*self._symbols, *symbols), key=lambda s: s.start)

    def remove(self, prefix):
        self._symbols = [s for s in self._symbols if not s.name.startswith(prefix)]

    def lookup(self, name):
        return next((s.start for s in self._symbols if s.name == name), None)

    def addresses(self, name):
        return [s.start for s in self._symbols if s.name == name]

    def containing(self, addr):
        return next((s for s in self._symbols if s.start <= addr < s.end), None)

    def names(self):
        return [s.name for s in self._symbols]


class StillRunning(AssertionError):
    """A function has not returned within its limit."""


class UnhandledTrap(Exception):
    def __init__(self, trap):
        super().__init__(f"vector {trap.vector} at {trap.regs.ip:#x}")
        self.trap = trap


class Guest:
    """``kprobes.port.Guest``: the machine itself, but for ``call``, which means something else to tests."""

    def __init__(self, machine):
        self._machine = machine

    def __getattr__(self, name):
        return getattr(self._machine, name)

    def call(self, cpu, addr, args):
        machine = self._machine
        if not machine.depth:
            raise GuestCallError("no handler is under way")
        try:
            return machine.call(addr, *args, cpu=cpu)
        except (StillRunning, UnhandledTrap) as error:
            raise GuestCallError(f"the called function does not return: {error}") from error


class FakeMachine:
    """One guest image, ``cpus`` cpus, and a runtime on it as ``kprobes``."""

    mode = MODES["tf"]  # what ``every_mode`` sets
    patience = 0  # instructions of each cpu that the runtime may wait for: none, so that tests say when a cpu runs

    def __init__(self, source="", *, text=TEXT, cpus=1, text_pages=64, page_distance=0x10000000, blacklist=(), options=None):
        sections, symbols = assemble(source, text)
        self.memory = Memory()
        self.text = []
        for addr, data, executable in sections:
            self.memory.map(addr, len(data))
            self.memory.poke(addr, data)
            if executable:
                self.text.append((addr, addr + len(data)))
        self.memory.map(STACK - STACK_SIZE * cpus, STACK_SIZE * cpus)
        self.symbols = SymbolTable(symbols)
        self.cpus = cpus
        self.cpu = [Cpu(i, self.memory) for i in range(cpus)]
        self.syncs = 0
        self.text_pages = text_pages
        self.page_distance = page_distance
        self.allocated, self.freed = [], []
        self.black = list(blacklist)
        self.events = []
        self.traps = []
        self.unclaimed = []
        self.modules = {}      # name -> Module
        self.guest_trap = {}   # vector -> function(machine, trap), the guest's own handler, for traps not consumed
        self.injections = []   # (condition(cpu), "irq" | "nmi", handler address)
        self.depth = 0
        self.now = 0           # instructions executed
        self.guest = Guest(self)
        self.kprobes = Kprobes(self.guest, self.events.append, options or self.mode)

    def read(self, addr, n):
        return self.memory.peek(addr, n)

    def write(self, addr, data):
        self.memory.poke(addr, data)

    def is_text(self, addr):
        return any(start <= addr < end for start, end in self.text)

    def alloc_text_page(self, near):
        if self.text_pages <= 0:
            raise MemoryError("no text pages left")
        self.text_pages -= 1
        page = (near & -4096) + self.page_distance + 4096 * len(self.allocated) & MASK64
        self.memory.map(page, 4096)
        self.allocated.append(page)
        return page

    def free_text_page(self, addr):
        assert not any(self.memory.pages.pop(addr)), "a page is given back as it came: zero"
        self.freed.append(addr)
        self.text_pages += 1

    def blacklist(self):
        return self.black

    def stack_end(self, cpu, sp):
        return STACK - STACK_SIZE * cpu

    def sync_cores(self):
        self.syncs += 1

    def wait(self, done):
        for _ in range(self.patience):
            if done() or self.depth:
                break
            for core in self.cpu:
                if core.regs.ip not in (0, HOME):
                    self.step(core.number)
        return done()

    def door(self, number):
        return DOORS + 8 * number

    def fixup(self, addr):
        start, stop = (self.symbols.lookup(f"__{edge}___ex_table") for edge in ("start", "stop"))
        for at in range(start or 0, stop or 0, 8):
            insn, target = struct.unpack("<ii", self.read(at, 8))
            if at + insn == addr:
                return at + 4 + target
        return None

    def module(self, addr):
        return next((m for m in self.modules.values()
                     if any(start <= addr < end for start, end in (m.text, m.init))), None)

    def load_module(self, name, source, init=None):
        """Load a module in state COMING; the function ``init``, the last of its text, is its init text."""
        base = MODULES + 0x100000 * len(self.modules)
        sections, symbols = assemble(source, base, base + 0x80000)
        for addr, data, executable in sections:
            self.memory.map(addr, len(data))
            self.memory.poke(addr, data)
            if executable:
                text = (addr, addr + len(data))
                self.text.append(text)
        start = next((s.start for s in symbols if s.name == init), text[1])
        self.symbols.add(Symbol(f"{name}:{s.name}", s.start, s.size) for s in symbols)
        self.modules[name] = Module(name, ModuleState.COMING, (text[0], start), (start, text[1]))
        return self.modules[name]

    def module_live(self, name):
        """The init text of a module has run: it goes."""
        module = self.modules[name]
        self.kprobes.module_live(module)
        self.modules[name] = replace(module, state=ModuleState.LIVE)
        self.memory.poke(module.init[0], b"\xcc" * (module.init[1] - module.init[0]))

    def unload_module(self, name):
        """Take a module's text and symbols away."""
        self.modules[name] = module = replace(self.modules[name], state=ModuleState.GOING)
        self.kprobes.module_going(module)
        self.text.remove((module.text[0], module.init[1]))
        self.symbols.remove(f"{name}:")
        for page in range(module.text[0] & -4096, module.init[1], 4096):
            del self.memory.pages[page]
        del self.modules[name]

    def fentry(self, addr):
        for where in ("", *(f"{name}:" for name in self.modules)):
            start, stop = (self.symbols.lookup(f"{where}__{edge}_mcount_loc") for edge in ("start", "stop"))
            if any(self.memory.load(at, 8) == addr for at in range(start or 0, stop or 0, 8)):
                return True
        return False

    def settled(self, start, end):
        return not self.depth and not any(
            start <= addr < end for core in self.cpu for addr in (core.regs.ip, *core.interrupted))

    def __getitem__(self, name):
        """Return the address of a symbol."""
        addr = self.symbols.lookup(name)
        assert addr is not None, name
        return addr

    def bytes_of(self, name):
        """Return the bytes of a sized symbol."""
        symbol = self.symbols.containing(self[name])
        return self.read(symbol.start, symbol.size)

    def snapshot(self):
        """Return all guest memory."""
        return {page: bytes(data) for page, data in self.memory.pages.items()}

    def word(self, addr, size=8):
        return self.memory.load(addr, size)

    def start(self, addr, *args, cpu=0, flags=IF, sp=None):
        """Set a cpu to the start of a function that returns HOME."""
        if isinstance(addr, str):
            addr = self[addr]
        regs = self.cpu[cpu].regs
        regs.sp = (STACK - STACK_SIZE * cpu - 0x108) if sp is None else sp
        self.memory.store(regs.sp, HOME, 8)
        for name, value in zip(("di", "si", "dx", "cx", "r8", "r9"), args, strict=False):
            setattr(regs, name, value & MASK64)
        for i, value in enumerate(args[6:]):
            self.memory.store(regs.sp + 8 + 8 * i, value, 8)
        regs.ip, regs.flags = addr, 2 | flags
        return regs

    def call(self, addr, *args, cpu=0, flags=IF, limit=10000):
        """Call a guest function and return rax; from inside a handler, on the stack below the trap."""
        outer = self.cpu[cpu].regs
        if not self.depth:
            self.start(addr, *args, cpu=cpu, flags=flags)
            self.run(cpu, limit)
            return self.cpu[cpu].regs.ax
        self.cpu[cpu].regs = PtRegs(cs=outer.cs, ss=outer.ss)
        try:
            self.start(addr, *args, cpu=cpu, flags=0, sp=((outer.sp & -16) - 0x408))
            self.run(cpu, limit)
            return self.cpu[cpu].regs.ax
        finally:
            self.cpu[cpu].regs = outer

    def run(self, cpu=0, limit=10000, until=None):
        """Run until the function returned HOME, or ``until(regs)``."""
        for _ in range(limit):
            regs = self.cpu[cpu].regs
            if regs.ip == HOME or (until and until(regs)):
                return
            self.step(cpu)
        raise StillRunning(f"still running at {self.cpu[cpu].regs.ip:#x} after {limit} instructions")

    def irq(self, handler):
        """Request an interrupt, which comes as soon as IF allows it."""
        self.injections.append((lambda core: True, "irq", handler))

    def due(self, core):
        """Take out the injections whose moment has come, one after the other: kind and handler."""
        for injection in list(self.injections):
            condition, kind, handler = injection
            if condition(core) and (kind == "nmi" or core.regs.flags & IF):
                self.injections.remove(injection)
                yield kind, handler

    def step(self, cpu=0):
        """Interrupts, then one instruction, then its traps."""
        core = self.cpu[cpu]
        for _, handler in self.due(core):
            self._interrupt(core, handler)
        self.now += 1
        if not self.depth and (self.kprobes.deadline or self.now + 1) <= self.now:
            self.kprobes.work()
        tf = core.regs.flags & TF
        try:
            core.execute()
        except Fault as fault:
            self._trap(core, Trap(cpu, fault.vector, core.regs, fault.error, fault.cr2))
            return
        if self.memory.door:
            (number, at), self.memory.door = self.memory.door, None
            self._door(core, number, at)
        if tf:
            self._trap(core, Trap(cpu, 1, core.regs, dr6=DR6 | 1 << 14))

    def _door(self, core, number, at):
        """Code of the runtime has stored the address of a pt_regs: it goes on with what lies there afterwards."""
        trap = Trap(core.number, number, PtRegs.unpack(self.read(at, 168)))
        self.depth += 1
        try:
            assert self.kprobes.on_trap(trap), f"nobody stands behind door {number:#x}"
        finally:
            self.depth -= 1
            self.write(at, trap.regs.pack())

    def _interrupt(self, core, handler):
        regs = core.regs
        frame = (regs.ip, regs.cs, regs.flags, regs.sp, regs.ss)
        regs.sp &= -16
        for value in reversed(frame):
            core.push(value)
        core.interrupted.append(regs.ip)
        regs.flags &= ~(TF | IF)
        regs.ip = handler

    def _trap(self, core, trap):
        """Deliver as the entry stub does: pt_regs in guest memory, the port, then iretq from what lies there."""
        at = (core.regs.sp & -16) - 168 & MASK64
        self.write(at, trap.regs.pack())
        trap.regs = PtRegs.unpack(self.read(at, 168))
        self.traps.append((trap.vector, trap.regs.ip))
        self.depth += 1
        frame = core.regs
        core.regs = trap.regs.copy()
        core.regs.sp = at
        try:
            handled = self.kprobes.on_trap(trap)
            if not handled:
                self.unclaimed.append((trap.vector, trap.regs.copy()))
                if trap.vector not in self.guest_trap:
                    raise UnhandledTrap(trap)
                self.guest_trap[trap.vector](self, trap)
        finally:
            self.depth -= 1
            core.regs = frame
            frame.assign(PtRegs.unpack(trap.regs.pack()))


def plant(m, name, offset=0, **handlers):
    """Register a Kprobe on a symbol of a machine and return it."""
    p = Kprobe(symbol_name=name, offset=offset, **handlers)
    m.kprobes.register_kprobe(p)
    return p
