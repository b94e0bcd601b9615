"""A small x86-64 executor: one instruction at a time, or one iteration of a REP string instruction.

It knows only what the tests' code uses, and shares nothing with the runtime except Capstone's decoding and the layout
of pt_regs. Anything it does not know is an error, never a guess.
"""

import capstone
from capstone import x86

from kprobes.ptregs import PtRegs

MASK64 = (1 << 64) - 1
CF, PF, AF, ZF, SF, TF, IF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
ARITHMETIC = CF | PF | AF | ZF | SF | OF
POPPABLE = 0x247FD5  # ID AC NT IOPL OF DF IF TF SF ZF AF PF CF

_MD = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_MD.detail = True


class Fault(Exception):
    """A fault or a software trap; ip is left at the instruction for a fault, after it for int3."""

    def __init__(self, vector, error=None, cr2=None):
        super().__init__(vector, error, cr2)
        self.vector, self.error, self.cr2 = vector, error, cr2


def _register_table():
    table = {}
    for name in ("ax", "bx", "cx", "dx"):
        table[f"r{name}"], table[f"e{name}"], table[name] = (name, 0, 8), (name, 0, 4), (name, 0, 2)
        table[f"{name[0]}l"], table[f"{name[0]}h"] = (name, 0, 1), (name, 8, 1)
    for name in ("si", "di", "bp", "sp"):
        table[f"r{name}"], table[f"e{name}"], table[name] = (name, 0, 8), (name, 0, 4), (name, 0, 2)
        table[f"{name}l"] = (name, 0, 1)
    for n in range(8, 16):
        table[f"r{n}"], table[f"r{n}d"], table[f"r{n}w"], table[f"r{n}b"] = (
            (f"r{n}", 0, 8), (f"r{n}", 0, 4), (f"r{n}", 0, 2), (f"r{n}", 0, 1))
    return table


_REGISTERS = _register_table()
_ALIASES = {"je": "e", "jne": "ne"}
_SEGMENTS = {"cs": 8, "ss": 16, "ds": 0, "es": 0, "fs": 0, "gs": 0}


def condition(cc, f):
    """Evaluate a condition by its mnemonic suffix."""
    less = bool(f & SF) != bool(f & OF)
    value = {"o": f & OF, "b": f & CF, "e": f & ZF, "be": f & (CF | ZF), "s": f & SF, "p": f & PF, "l": less,
             "le": less or f & ZF}
    inverted = {"no": "o", "ae": "b", "ne": "e", "a": "be", "ns": "s", "np": "p", "ge": "l", "g": "le"}
    return bool(value[cc]) if cc in value else not value[inverted[cc]]


class Cpu:
    """One cpu: registers, the segment bases, xmm registers, and the way to memory."""

    def __init__(self, number, memory):
        self.number = number
        self.memory = memory
        self.regs = PtRegs(cs=0x10, ss=0x18, flags=2 | IF)
        self.bases = {"fs": 0, "gs": 0}
        self.xmm = {}
        self.halted = False
        self.interrupted = []  # where interrupts came, innermost last

    def execute(self):
        """Execute one instruction; raise ``Fault`` with all registers as they were."""
        saved = self.regs.copy()
        try:
            insn = next(_MD.disasm(self.memory.fetch(saved.ip), saved.ip, 1), None)
            if insn is None:
                raise Fault(6)
            self.next = saved.ip + insn.size & MASK64
            self.insn = insn
            self._do(insn)
            self.regs.ip = self.next
        except Fault as fault:
            self.regs = saved
            if fault.vector == 3:
                self.regs.ip = self.next
            raise

    def get(self, name):
        """Read a register by name."""
        if name in _SEGMENTS:
            return {"cs": self.regs.cs, "ss": self.regs.ss}.get(name, _SEGMENTS[name])
        if name.startswith("xmm"):
            return self.xmm.get(name, 0)
        field, shift, size = _REGISTERS[name]
        return getattr(self.regs, field) >> shift & ((1 << 8 * size) - 1)

    def put(self, name, value):
        """Write a register by name: 32-bit writes clear the upper half, narrower ones merge."""
        if name in ("ds", "es", "fs", "gs"):
            return
        if name.startswith("xmm"):
            self.xmm[name] = value
            return
        field, shift, size = _REGISTERS[name]
        mask = (1 << 8 * size) - 1
        old = 0 if size >= 4 else getattr(self.regs, field) & ~(mask << shift)
        setattr(self.regs, field, old | (value & mask) << shift)

    def address(self, op):
        mem = op.mem
        total = mem.disp
        wide = True
        for reg, scale in ((mem.base, 1), (mem.index, mem.scale)):
            if reg:
                name = self.insn.reg_name(reg)
                wide &= not (name.startswith("e") or name.endswith("d"))
                value = self.next if name in ("rip", "eip") else 0 if name in ("riz", "eiz") else self.get(name)
                total += value * scale
        total &= MASK64 if wide else 0xFFFFFFFF
        segment = self.insn.reg_name(mem.segment) if mem.segment else None
        return total + self.bases.get(segment, 0) & MASK64

    def load(self, op):
        if op.type == x86.X86_OP_IMM:
            return op.imm & ((1 << 8 * op.size) - 1)
        if op.type == x86.X86_OP_REG:
            return self.get(self.insn.reg_name(op.reg))
        return self.memory.load(self.address(op), op.size)

    def store(self, op, value):
        if op.type == x86.X86_OP_REG:
            self.put(self.insn.reg_name(op.reg), value)
        else:
            self.memory.store(self.address(op), value, op.size)

    def push(self, value, size=8):
        self.memory.store(self.regs.sp - size & MASK64, value, size)
        self.regs.sp = self.regs.sp - size & MASK64

    def pop(self, size=8):
        value = self.memory.load(self.regs.sp, size)
        self.regs.sp = self.regs.sp + size & MASK64
        return value

    def flags(self, result, size, carry=False, overflow=False):
        bits = 8 * size
        result &= (1 << bits) - 1
        f = self.regs.flags & ~ARITHMETIC
        f |= CF * carry | OF * overflow | ZF * (result == 0) | SF * (result >> bits - 1)
        f |= PF * (bin(result & 0xFF).count("1") % 2 == 0)
        self.regs.flags = f
        return result

    def _do(self, insn):
        name = insn.mnemonic.split()[-1].rstrip("q") if insn.mnemonic not in ("shr", "cqo") else insn.mnemonic
        ops = insn.operands
        if name in ("movs", "movsb", "movsw", "movsd", "stosb", "stosw", "stosd", "stos", "scasb", "lodsb") and not (
                ops and any(op.type == x86.X86_OP_REG and insn.reg_name(op.reg).startswith("xmm") for op in ops)):
            self._string(insn, name)
        elif name.startswith("j") and len(ops) == 1 and name not in ("jmp", "jrcxz", "jecxz", "jrcxz"):
            if condition(name[1:], self.regs.flags):
                self.next = ops[0].imm & MASK64
        elif name.startswith("cmov"):
            value = self.load(ops[1])
            self.store(ops[0], value if condition(name[4:], self.regs.flags) else self.load(ops[0]))
        elif name.startswith("set"):
            self.store(ops[0], condition(name[3:], self.regs.flags))
        else:
            getattr(self, f"_{name}", self._unknown)(*ops)

    def _unknown(self, *_):
        raise NotImplementedError(f"fake cpu: {self.insn.mnemonic} {self.insn.op_str}")

    def _string(self, insn, name):
        unit = {"b": 1, "w": 2, "d": 4}.get(name[4:] or "q", 8)
        repeat = insn.mnemonic.split()[0] if " " in insn.mnemonic else ""
        regs = self.regs
        if repeat and regs.cx == 0:
            return
        step = -unit if regs.flags & DF else unit
        more = True
        if name.startswith("movs"):
            self.memory.store(regs.di, self.memory.load(regs.si, unit), unit)
            regs.si = regs.si + step & MASK64
        elif name.startswith("stos"):
            self.memory.store(regs.di, regs.ax, unit)
        else:
            a, b = regs.ax & 0xFF, self.memory.load(regs.di, unit)
            self.flags(a - b, 1, a < b)
            more = (a == b) == (repeat == "repe")
        regs.di = regs.di + step & MASK64
        if repeat:
            regs.cx = regs.cx - 1 & MASK64
            if regs.cx and more:
                self.next = regs.ip

    def _mov(self, d, s):
        self.store(d, self.load(s))

    _movabs = _movzx = _movdqu = _movups = _movdqa = _mov

    def _movsx(self, d, s):
        value = self.load(s)
        self.store(d, value - (value >> 8 * s.size - 1 << 8 * s.size))

    _movsxd = _movsx

    def _lea(self, d, s):
        self.store(d, self.address(s))

    def _push(self, s):
        self.push(self.load(s) if s.type != x86.X86_OP_IMM else s.imm & MASK64, 2 if s.size == 2 else 8)

    def _pop(self, d):
        value = self.pop(d.size)
        self.store(d, value)

    def _alu(self, d, s, operation, write=True):
        a, b = self.load(d), self.load(s) & ((1 << 8 * d.size) - 1)
        self._put(d, a, b, operation, write)

    def _put(self, d, a, b, operation, write=True):
        bits = 8 * d.size
        if operation in "+-":
            result = a + b if operation == "+" else a - b
            sa, sb, sr = a >> bits - 1, b >> bits - 1, result >> bits - 1 & 1
            overflow = (sa == sb != sr) if operation == "+" else (sa != sb and sr != sa)
            carry = result < 0 or result >> bits
        else:
            result = {"&": a & b, "|": a | b, "^": a ^ b}[operation]
            overflow = carry = 0
        old = self.regs.flags
        if write:
            self.store(d, result)
        self.flags(result, d.size, bool(carry), bool(overflow))
        return old

    def _add(self, d, s):
        self._alu(d, s, "+")

    def _sub(self, d, s):
        self._alu(d, s, "-")

    def _cmp(self, d, s):
        self._alu(d, s, "-", False)

    def _and(self, d, s):
        self._alu(d, s, "&")

    def _or(self, d, s):
        self._alu(d, s, "|")

    def _xor(self, d, s):
        self._alu(d, s, "^")

    def _test(self, d, s):
        self._alu(d, s, "&", False)

    def _inc(self, d, operation="+"):
        carry = self._put(d, self.load(d), 1, operation) & CF
        self.regs.flags = self.regs.flags & ~CF | carry

    def _dec(self, d):
        self._inc(d, "-")

    def _neg(self, d):
        self._put(d, 0, self.load(d), "-")

    def _not(self, d):
        self.store(d, ~self.load(d))

    def _imul(self, d, s, i=None):
        self.store(d, self.load(s) * (self.load(d) if i is None else i.imm))

    def _shl(self, d, s):
        self.store(d, self.flags(self.load(d) << (self.load(s) & 63), d.size))

    def _shr(self, d, s):
        self.store(d, self.flags(self.load(d) >> (self.load(s) & 63), d.size))

    def _sar(self, d, s):
        value = self.load(d)
        value -= value >> 8 * d.size - 1 << 8 * d.size
        self.store(d, self.flags(value >> (self.load(s) & 63), d.size))

    def _adc(self, d, s, operation="+"):
        carry = self.regs.flags & CF
        a, b = self.load(d), self.load(s) & ((1 << 8 * d.size) - 1)
        self._put(d, a, b + carry, operation)

    def _sbb(self, d, s):
        self._adc(d, s, "-")

    def _mul(self, s):
        assert s.size == 8
        product = self.regs.ax * self.load(s)
        self.regs.ax, self.regs.dx = product & MASK64, product >> 64

    def _cdqe(self):
        low = self.regs.ax & 0xFFFFFFFF
        self.regs.ax = low - (low >> 31 << 32) & MASK64

    def _xchg(self, d, s):
        a, b = self.load(d), self.load(s)
        self.store(d, b)
        self.store(s, a)

    def _div(self, s):
        divisor = self.load(s)
        if divisor == 0:
            raise Fault(0)
        assert s.size == 8
        self.regs.ax, self.regs.dx = divmod(self.regs.dx << 64 | self.regs.ax, divisor)

    def _call(self, s):
        target = s.imm & MASK64 if s.type == x86.X86_OP_IMM else self.load(s)
        if self.insn.op_str.startswith("ptr"):  # far, 32-bit: offset and selector
            return self._lcall(s)
        self.push(self.next)
        self.next = target

    def _lcall(self, s):
        size = 8 if self.insn.rex & 8 else 4
        at = self.address(s)
        target, selector = self.memory.load(at, size), self.memory.load(at + size, 2)
        self.push(self.regs.cs, size)
        self.push(self.next, size)
        self.regs.cs, self.next = selector, target

    def _jmp(self, s):
        if self.insn.op_str.startswith("ptr"):
            return self._ljmp(s)
        self.next = s.imm & MASK64 if s.type == x86.X86_OP_IMM else self.load(s)

    def _ljmp(self, s):
        size = 8 if self.insn.rex & 8 else 4
        at = self.address(s)
        self.regs.cs, self.next = self.memory.load(at + size, 2), self.memory.load(at, size)

    def _ret(self, n=None):
        self.next = self.pop()
        self.regs.sp += n.imm if n else 0

    def _retf(self, n=None):
        size = 8 if self.insn.rex & 8 else 2 if 0x66 in self.insn.prefix else 4
        self.next = self.pop(size)
        self.regs.cs = self.pop(size) & 0xFFFF
        self.regs.sp += n.imm if n else 0

    def _iret(self):
        frame = [self.pop() for _ in range(5)]
        self.next, self.regs.cs, flags, self.regs.sp, self.regs.ss = frame
        self.regs.flags = flags & (POPPABLE | 0x10000) | 2
        if self.next in self.interrupted:
            self.interrupted.remove(self.next)

    def _loop(self, target, wanted=True):
        narrow = 0x67 in self.insn.prefix
        count = self.regs.cx - 1 & (0xFFFFFFFF if narrow else MASK64)
        self.regs.cx = count
        if count and wanted:
            self.next = target.imm & MASK64

    def _loope(self, target):
        self._loop(target, bool(self.regs.flags & ZF))

    def _loopne(self, target):
        self._loop(target, not self.regs.flags & ZF)

    def _jrcxz(self, target):
        if self.regs.cx == 0:
            self.next = target.imm & MASK64

    def _jecxz(self, target):
        if self.regs.cx & 0xFFFFFFFF == 0:
            self.next = target.imm & MASK64

    def _pushf(self):
        short = 0x66 in self.insn.prefix and not self.insn.rex & 8
        self.push(self.regs.flags & ~0x30000, 2 if short else 8)

    def _popf(self):
        short = 0x66 in self.insn.prefix and not self.insn.rex & 8
        mask = POPPABLE & 0xFFFF if short else POPPABLE
        self.regs.flags = self.pop(2 if short else 8) & mask | self.regs.flags & ~mask & ~0x10000 | 2

    def _cli(self):
        self.regs.flags &= ~IF

    def _sti(self):
        self.regs.flags |= IF

    def _leave(self):
        self.regs.sp = self.regs.bp
        self.regs.bp = self.pop()

    def _enter(self, size, level):
        assert level.imm == 0
        self.push(self.regs.bp)
        self.regs.bp = self.regs.sp
        self.regs.sp -= size.imm

    def _nop(self, *_):
        pass

    _endbr64 = _nop

    def _hlt(self):
        self.halted = True

    def _int3(self):
        raise Fault(3)

    def _ud2(self):
        raise Fault(6)
