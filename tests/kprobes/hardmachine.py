"""The same guest as `FakeMachine`'s, on the hardware: its sections, stacks and pages at the same addresses, by page tables.

``HardMachine`` has the interface of ``FakeMachine``, so that one test holds on both. Traps come through gates and entry
stubs in guest memory, an interrupt is an interrupt, what is not mapped is a page fault. What differs: time (``now`` counts
cycles), and that a repeated string instruction is one step.
"""

import functools
import struct

from hw.bus import DEVICE_VIRT, HIGH_BASE, TRAP_RESULT
from hw.isa.facts import VECTORS
from kprobes import HandlerError, Kprobes
from sim.engine import Recording, StopOn, StopReason
from sim.events import Trap
from sim.guestport import GuestPort
from sim.machine import Machine
from tests.kprobes.fakecpu import IF, TF
from tests.kprobes.fakemachine import (
    HOME,
    STACK,
    STACK_SIZE,
    TEXT,
    FakeMachine,
    StillRunning,
    SymbolTable,
    UnhandledTrap,
    assemble,
)
from tests.kprobes.hardcpu import Cpu
from tests.kprobes.hardmemory import Memory

SYSTEM = 0xFFFFFFFF80500000  # entry stubs, then the tables
IDT, GDT = SYSTEM + 0x4000, SYSTEM + 0x5000
IRQ = 0x20                   # the vector of interrupts that tests inject
CYCLES = 40                  # for each instruction of a limit
_HAS_ERROR = {row.number for row in VECTORS if row.has_error}


@functools.cache
def stubs():
    """The entry code of all vectors: bytes, and the address of each stub."""
    pushed = ["rdi", "rsi", "rdx", "rcx", "rax", "r8", "r9", "r10", "r11", "rbx", "rbp", "r12", "r13", "r14", "r15"]
    lines = []
    for vector in range(32):
        lines += [f"stub{vector}:", *(["push -1"] if vector not in _HAS_ERROR else []), *(f"push {r}" for r in pushed),
                  f"mov [{DEVICE_VIRT + 8 * vector:#x}], rsp", f"cmp dword ptr [{DEVICE_VIRT + TRAP_RESULT:#x}], 1",
                  *(["mov eax, 0xffff0ff0", "mov dr6, rax"] if vector == 1 else []), "jmp back"]
    lines += ["back:", *(f"pop {r}" for r in reversed(pushed)), "add rsp, 8", "iretq"]
    sections, symbols = assemble("\n".join(lines), SYSTEM)
    (_, code, _), = [section for section in sections if section[2]]
    return code, [next(s.start for s in symbols if s.name == f"stub{v}") for v in range(32)]


class _Stopped(HandlerError):
    """Something is to be raised once the hart has left its trap."""

    def __init__(self):
        super().__init__("", "", "")


class _Runtime:
    """What stands behind the TrapPort: the runtime, and then the guest's own handlers, which are functions of the test."""

    def __init__(self, owner):
        self._owner = owner

    def __getattr__(self, name):
        return getattr(self._owner.kprobes, name)

    def on_trap(self, trap):
        """Offer a trap to the runtime, then to the test's handler."""
        m = self._owner
        if trap.vector < 32:
            m.traps.append((trap.vector, trap.regs.ip))
        m.depth += 1
        try:
            if not m.kprobes.on_trap(trap):
                m.unclaimed.append((trap.vector, trap.regs.copy()))
                if trap.vector not in m.guest_trap:
                    raise UnhandledTrap(trap)
                m.guest_trap[trap.vector](m, trap)
        except BaseException as error:
            if m.depth > 1:  # within a function that a handler has called, which gets the error
                raise
            m.error = error
            raise _Stopped from error
        finally:
            m.depth -= 1
        return True


class Guest(GuestPort):
    """What the runtime asks for: pages, symbols and text are those of the test."""

    def __init__(self, owner):
        super().__init__(owner.machine, [])
        self._owner = owner

    symbols = property(lambda self: self._owner.symbols)

    def read(self, addr, n):
        return self._owner.read(addr, n)

    def write(self, addr, data):
        self._owner.write(addr, data)

    def is_text(self, addr):
        return self._owner.is_text(addr)

    def module(self, addr):
        return self._owner.module(addr)

    def fentry(self, addr):
        return self._owner.fentry(addr)

    def call(self, cpu, addr, args):
        return self._owner.call(addr, *args, cpu=cpu)

    def alloc_text_page(self, near):
        return self._owner.alloc_text_page(near)

    def free_text_page(self, addr):
        self._owner.free_text_page(addr)

    def blacklist(self):
        return self._owner.black

    def stack_end(self, cpu, sp):
        return self._owner.stack_end(cpu, sp)

    def wait(self, done):
        return super().wait(done) if self._owner.patience else done()

    def sync_cores(self):
        self._owner.syncs += 1
        super().sync_cores()


class HardMachine(FakeMachine):
    """One guest image on one hart, and a runtime on it as ``kprobes``. ``borrow`` gives the engine."""

    borrow = None

    def __init__(self, source="", *, text=TEXT, cpus=1, text_pages=64, page_distance=0x10000000, blacklist=(), options=None):
        assert cpus == 1, "mark this test: fake_only('needs several harts')"
        sections, symbols = assemble(source, text)
        self.machine = machine = Machine(engine=type(self).borrow(self), record=Recording.TRAPS)
        self.memory = machine.mem = Memory(machine)
        machine.kprobes = _Runtime(self)
        self.text = []
        for addr, data, executable in sections:
            self.memory.map(addr, len(data))
            self.memory.poke(addr, data)
            if executable:
                self.text.append((addr, addr + len(data)))
        self.memory.map(STACK - STACK_SIZE, STACK_SIZE)
        self.symbols = SymbolTable(symbols)
        machine.symbols = Names(self.symbols)
        self.cpus, self.cpu = 1, [Cpu(machine, 0)]
        self.syncs, self.text_pages, self.page_distance = 0, text_pages, page_distance
        self.allocated, self.freed, self.black = [], [], list(blacklist)
        self.events, self.traps, self.unclaimed = [], [], []
        self.guest_trap, self.injections, self.modules = {}, [], {}
        self.depth, self.error = 0, None
        self._boot()
        self.guest = Guest(self)
        self.kprobes = Kprobes(self.guest, self.events.append, options or FakeMachine.mode)

    now = property(lambda self: self.machine.cycle, lambda self, value: None)

    def _boot(self):
        memory, port = self.memory, self.machine.port
        code, entries = stubs()
        for page in range(SYSTEM, SYSTEM + 0x6000, 4096):
            memory.map_system(page)
        for alias in (0, HIGH_BASE):
            memory.map_system(alias + port.code[0], port.code[0])
        memory.map_system(HOME)
        memory.write(HOME, b"\xeb\xfe")  # a debug trap may be due there
        memory.write(SYSTEM, code)
        self._entry_text = SYSTEM, SYSTEM + len(code)
        for vector, entry in enumerate(entries):
            self._gate(vector, entry)
        segments = [0, 0x00AF9B000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF]
        memory.write(GDT, struct.pack("<5Q", *segments))
        registers = self.machine.harts[0].regs
        for name, value in {
            "cr3": memory.root, "idt_base": IDT, "idt_limit": 256 * 16 - 1, "gdt_base": GDT, "gdt_limit": 39, "cs": 0x10,
            "ss": 0x18, "rip": HOME, "rsp": STACK - 0x100, "rflags": 2 | IF,
        }.items():
            registers[name] = value

    def _gate(self, vector, entry):
        low = entry & 0xFFFF | 0x10 << 16 | 0x8E << 40 | (entry >> 16 & 0xFFFF) << 48
        self.memory.write(IDT + 16 * vector, struct.pack("<QQ", low, entry >> 32))

    def write(self, addr, data):
        """Write; harts fetch anew at `sync_cores`."""
        self.memory.peek(addr, len(data))
        self.memory.store(addr, bytes(data))

    def snapshot(self):
        """Return all guest memory."""
        return {page: self.memory.peek(page, 4096) for page in self.memory.pages}

    def call(self, addr, *args, cpu=0, flags=IF, limit=10000):
        """Call a guest function and return rax; from inside a handler, on the stack below the trap."""
        if self.depth:
            return self._call_inside(cpu, self[addr] if isinstance(addr, str) else addr, args)
        return super().call(addr, *args, cpu=cpu, flags=flags, limit=limit)

    def _call_inside(self, cpu, addr, args):
        """Nobody steps the hart here: an interrupt that waits to be injected is requested once the hart has left the store
        that it stands in, and comes as IF lets it."""
        hart, machine = self.machine.harts[cpu], self.machine
        waiting = [injection for injection in self.injections if injection[1] == "irq"]
        before, send = len(machine.events), machine.port._send
        if waiting:
            self._gate(IRQ, waiting[0][2])
            machine.port._send = lambda *where: (send(*where), hart.irq(IRQ))
        try:
            return machine.port.call(cpu, addr, args)
        finally:
            if waiting:
                machine.port._send = send
                hart.irq(None)
                taken = (machine.events[i] for i in range(before, len(machine.events)))
                if any(isinstance(event, Trap) and event.vector == IRQ for event in taken):
                    self.injections.remove(waiting[0])

    def run(self, cpu=0, limit=10000, until=None):
        """Run until the function returned HOME, or ``until(regs)``: at once, unless each instruction has to be looked at."""
        if until or self.injections:
            super().run(cpu, limit, until)
        elif self.cpu[0].regs.ip != HOME:
            self._go(StopOn(reach=HOME, hart=0), CYCLES * limit)
            if self.cpu[0].regs.flags & TF and not self._in_entry(cpu):
                self._retire(cpu)  # the debug trap that is due
            self._out(cpu)
            if self.cpu[0].regs.ip != HOME:
                raise StillRunning(f"still running at {self.cpu[0].regs.ip:#x} after {CYCLES * limit} cycles")

    def irq(self, handler):
        """Request an interrupt, which comes as soon as IF allows it."""
        self._gate(IRQ, handler)
        self.machine.harts[0].irq(IRQ)

    def step(self, cpu=0):
        """Interrupts, then one instruction, then its traps."""
        core, hart = self.cpu[cpu], self.machine.harts[cpu]
        for kind, handler in self.due(core):
            if kind == "nmi":
                self._gate(2, handler)
                hart.nmi()
            else:
                self._gate(IRQ, handler)
                hart.irq(IRQ)
        stepped = core.regs.flags & TF
        self._retire(cpu)
        if stepped and not self._in_entry(cpu):
            self._retire(cpu)
        self._out(cpu)

    def _retire(self, cpu):
        self._go(StopOn(retired=1, hart=cpu), 5000)

    def _go(self, stop, cycles):
        try:
            ended = self.machine.run(max_cycles=cycles, until=stop)
        except _Stopped:
            return
        assert ended.reason not in (StopReason.SHUTDOWN, StopReason.EXIT), ended.why

    def _in_entry(self, cpu):
        """Whether a hart is in entry stubs or in code of the machine's own."""
        ip, (first, last) = self.cpu[cpu].regs.ip, self.machine.port.code
        own = [(alias + first, alias + last) for alias in (0, HIGH_BASE)]
        return any(start <= ip < end for start, end in (self._entry_text, *own)) or not self.machine.harts[cpu].state.boundary

    def _out(self, cpu):
        """Let the hart leave entry code, and raise what a handler has raised."""
        while self._in_entry(cpu):
            self._retire(cpu)
        if self.error is not None:
            error, self.error = self.error, None
            raise error


class Names:
    """The symbols as `sim` asks for them."""

    def __init__(self, symbols):
        self._symbols = symbols
        self.lookup, self.containing, self.names = symbols.lookup, symbols.containing, symbols.names

    def describe(self, addr):
        """Return a name and an offset."""
        symbol = self.containing(addr)
        return hex(addr) if symbol is None else f"{symbol.name}+{addr - symbol.start:#x}"
