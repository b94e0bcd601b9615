"""The execute stage: every operation, branch resolution, and the faults that only values can tell."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from hw.alu import Alu
from hw.bits import Bits
from hw.breakpoints import Watch
from hw.cpuid import lower_cpuid
from hw.crc import Crc32c
from hw.descriptor import canonical
from hw.flags import status_image, status_of
from hw.gates import Gates
from hw.handshake import has_room, register_output
from hw.isa.facts import STATUS_BITS, Op, RFlag, SysOp, SysReg, Vector
from hw.msr import NOWHERE, Msrs
from hw.muldiv import MulDiv
from hw.regfile import Bypass, merge
from hw.scatter import Scatter
from hw.shift import Shifter
from hw.types import BKind, Done, Flags, Operands, Redirect

_ALU = (Op.ADD, Op.OR, Op.ADC, Op.SBB, Op.AND, Op.SUB, Op.XOR, Op.INC, Op.DEC, Op.NOT, Op.NEG, Op.ANDN, Op.ADOX)
_SHIFT = (Op.ROL, Op.ROR, Op.RCL, Op.RCR, Op.SHL, Op.SHR, Op.SAR, Op.SHLD, Op.SHRD)
_BITS = (
    Op.BT, Op.BTS, Op.BTR, Op.BTC, Op.BSF, Op.BSR, Op.TZCNT, Op.LZCNT, Op.POPCNT, Op.BSWAP, Op.MOVBE, Op.BITOFF,
    Op.BEXTR, Op.BZHI, Op.BLSR, Op.BLSI, Op.BLSMSK,
)  # fmt: skip
_SCATTER = (Op.PDEP, Op.PEXT)
_CRC = (Op.CRC32, Op.CRC32B)
_MULDIV = (Op.IMUL2, Op.IMUL3, Op.MUL, Op.IMUL, Op.MULHI, Op.DIVHI, Op.DIV, Op.IDIV, Op.REM)
_GATES = (
    Op.GATE, Op.TARGET, Op.CODE, Op.STACK, Op.CSADDR, Op.CSCHK, Op.SSADDR, Op.SSCHK, Op.RETSP, Op.FARCHK,
    Op.SEGADDR, Op.SEGCHK, Op.SELADDR, Op.LAR, Op.LSL, Op.VERR, Op.VERW, Op.TRADDR, Op.TRCHK, Op.TRLIMIT, Op.TRBUSY,
    Op.IOBASE, Op.IOMAP, Op.IOBITS, Op.CANON, Op.EVENT,
)  # fmt: skip


#: RFLAGS bits that pushf does not take from the committed register: the status flags, and RF and VM, which read as 0.
_HIDDEN = sum(1 << bit for bit in (*STATUS_BITS, RFlag.RF, RFlag.VM))


class ExecuteStage(Component):
    """Stage X.

    Members
    -------
    i, o : uops with operands in, results out (registered). kill : drop both and restore the flags.
    flags_committed : what the status flags go back to with kill.
    redirect : a branch turned out otherwise than predicted; valid as the uop leaves.
    bypass : what this stage's uop will write.
    rflags : committed RFLAGS; its system bits are current here, since changing them refetches.
    sysreg, sysreg_data : system register port. tsc : its counter. apic : IA32_APIC_BASE.EN.
    resolved, resolved_pc, agreed : a conditional branch leaves; it went backward, or stayed (the static prediction).
    led : an indirect branch at resolved_pc leaves, to redirect.target.
    older : stage W holds something. io_valid, io_port, io_size, io_data : an `in`, when nothing older is in flight.
    """

    i: In(stream.Signature(Operands))
    o: Out(stream.Signature(Done))
    kill: In(1)
    flags_committed: In(Flags)
    redirect: Out(Redirect)
    bypass: Out(Bypass)
    rflags: In(64)
    sysreg: Out(6)
    sysreg_data: In(64)
    tsc: In(64)
    apic: In(1)
    resolved: Out(1)
    led: Out(1)
    resolved_pc: Out(64)
    agreed: Out(1)
    older: In(1)
    io_valid: Out(1)
    io_port: Out(16)
    io_size: Out(2)
    io_data: In(32)

    def __init__(self, number: int = 0):
        """`number` of the hart, which CPUID tells."""
        super().__init__()
        self._number = number
        self.gates = Gates()

    def elaborate(self, platform):
        m = Module()
        u = self.i.payload.u
        op, size = u.op, u.size
        a, b = Signal(64), Signal(64)
        m.d.comb += [a.eq(Mux(u.a_high, self.i.payload.a[8:16], self.i.payload.a)), b.eq(self.i.payload.b)]
        flags = Signal(Flags)
        holds = self.i.valid

        m.submodules.alu = alu = Alu()
        m.submodules.shifter = shifter = Shifter()
        m.submodules.bits = bits = Bits()
        m.submodules.muldiv = muldiv = MulDiv()
        m.submodules.scatter = scatter = Scatter()
        m.submodules.crc = crc = Crc32c()
        m.submodules.gates = gates = self.gates
        m.submodules.msrs = msrs = Msrs()
        is_shift, is_bits, is_muldiv, is_gate, is_scatter, is_crc = (Signal() for _ in range(6))
        for flag, ops in (
            (is_shift, _SHIFT),
            (is_bits, _BITS),
            (is_muldiv, _MULDIV),
            (is_gate, _GATES),
            (is_scatter, _SCATTER),
            (is_crc, _CRC),
        ):
            with m.Switch(op), m.Case(*ops):
                m.d.comb += flag.eq(holds)
        for unit in (alu, shifter, bits, muldiv):
            m.d.comb += [unit.op.eq(op), unit.size.eq(size), unit.a.eq(a), unit.flags_in.eq(flags)]
        m.d.comb += [
            alu.b.eq(b),
            shifter.b.eq(b),
            bits.b.eq(b),
            muldiv.b.eq(b),
            shifter.en.eq(is_shift),
            bits.en.eq(is_bits),
            muldiv.start.eq(is_muldiv & ~u.fault.valid),
            muldiv.flush.eq(self.kill),
            shifter.count.eq(self.i.payload.count),
            scatter.start.eq(is_scatter & ~u.fault.valid),
            scatter.flush.eq(self.kill),
            scatter.gather.eq(op == Op.PEXT),
            scatter.a.eq(a),
            scatter.mask.eq(Mux(size == 2, b[:32], b)),
            crc.en.eq(is_crc),
            crc.crc.eq(a[:32]),
            crc.data.eq(b),
            crc.size.eq(Mux(op == Op.CRC32B, 0, size)),
            gates.op.eq(op),
            gates.valid.eq(is_gate),
            gates.size.eq(size),
            gates.bsize.eq(u.bsize),
            gates.a.eq(Mux(is_gate, a, 0)),
            gates.b.eq(Mux(is_gate, b, 0)),
            gates.to_ss.eq(u.sysreg == SysReg.SS),
        ]
        with m.If(op == Op.IMUL3):
            m.d.comb += [muldiv.op.eq(Op.IMUL2), muldiv.a.eq(u.imm)]

        # conditions
        holds_cond = Signal()
        self._condition(m, u.cond, flags, holds_cond)

        result = Signal(64)  # before merging into a register
        port = Mux(u.b_kind == BKind.IMM, b[:8], b[:16])  # an immediate port is not sign-extended
        keep = Signal()  # the old register stays as it is, all 64 bits
        wide = Signal(2)
        after = Signal(Flags)  # flags if every bit were written
        decremented = Signal(64)
        count_zero, next_zero = Signal(), Signal()
        old = Signal(64)
        writes_system = (op == Op.WRSYS) | (op == Op.WRMSR)
        m.d.comb += [
            wide.eq(size),
            after.eq(flags),
            old.eq(self.i.payload.a),
            decremented.eq(a - 1),
            count_zero.eq(Mux(size == 2, a[:32] == 0, a == 0)),
            next_zero.eq(Mux(size == 2, a[:32] == 1, a == 1)),
            self.sysreg.eq(Mux((op == Op.RDMSR) | (op == Op.WRMSR), msrs.reg, u.sysreg)),
            msrs.number.eq(Mux((op == Op.RDMSR) | (op == Op.WRMSR), a, 0)),
            msrs.data.eq(Mux(writes_system, b, 0)),
            msrs.target.eq(Mux(writes_system, self.sysreg, NOWHERE)),
        ]
        with m.Switch(op):
            with m.Case(*_ALU):
                m.d.comb += [result.eq(alu.result), after.eq(alu.flags_out)]
            with m.Case(*_SHIFT):
                m.d.comb += [result.eq(shifter.result), after.eq(shifter.flags_out)]
            with m.Case(*_BITS):
                m.d.comb += [result.eq(bits.result), after.eq(bits.flags_out), keep.eq(bits.keep)]
                with m.If(op == Op.BITOFF):  # an address, whatever the operand size
                    m.d.comb += wide.eq(3)
            with m.Case(*_MULDIV):
                m.d.comb += [result.eq(muldiv.result), after.eq(muldiv.flags_out)]
                with m.If(size == 0):
                    m.d.comb += wide.eq(1)
            with m.Case(*_SCATTER):
                m.d.comb += result.eq(scatter.result)
            with m.Case(*_CRC):  # 32 bits, whatever the size of the data
                m.d.comb += [result.eq(crc.result), wide.eq(2)]
            with m.Case(*_GATES):
                m.d.comb += [result.eq(gates.result), keep.eq(gates.keep_register), after.z.eq(gates.zero)]
                with m.If((op != Op.LAR) & (op != Op.LSL)):  # an address or a selector, whatever the operand size
                    m.d.comb += wide.eq(3)
            with m.Case(Op.MOV, Op.WRSYS, Op.WRMSR, Op.JMPA, Op.SYSRET):
                m.d.comb += result.eq(b)
                with m.If((op == Op.WRSYS) & (size == 2)):  # wrfsbase of 32 bits
                    m.d.comb += result.eq(b[:32])
            with m.Case(Op.RDMSR):
                read = Mux(msrs.constant, msrs.value, self.sysreg_data)
                m.d.comb += result.eq(Mux(u.bsize == 1, read[32:], read[:32]))
            with m.Case(Op.PAIR):
                m.d.comb += [result.eq(Cat(b[:32], a[:32])), wide.eq(3)]
            with m.Case(Op.LMSW):
                m.d.comb += result.eq((self.sysreg_data & ~0xE) | b[:4])
            with m.Case(Op.CLTS):
                m.d.comb += result.eq(self.sysreg_data & ~0x8)
            with m.Case(Op.OUT):  # the port, whatever the operand size
                m.d.comb += [result.eq(port), wide.eq(3)]
            with m.Case(Op.MOVZX, Op.MOVSX):
                signed = op == Op.MOVSX
                with m.Switch(u.bsize):
                    for log, width in ((0, 8), (1, 16), (2, 32)):
                        with m.Case(log):
                            m.d.comb += result.eq(Cat(b[:width], (signed & b[width - 1]).replicate(64 - width)))
            with m.Case(Op.SIGN):
                with m.Switch(size):
                    for log, width in ((1, 16), (2, 32), (3, 64)):
                        with m.Case(log):
                            m.d.comb += result.eq(b[width - 1].replicate(64))
            with m.Case(Op.SETCC):
                m.d.comb += result.eq(holds_cond)
            with m.Case(Op.CMOV):
                m.d.comb += result.eq(Mux(holds_cond, b, a))
            with m.Case(Op.CMOVK):
                m.d.comb += [result.eq(b), keep.eq(~holds_cond)]
            with m.Case(Op.CALL, Op.CALLA):
                m.d.comb += result.eq(u.next_pc)
            with m.Case(Op.LOOP, Op.REPNEXT):
                m.d.comb += result.eq(decremented)
            with m.Case(Op.STEP):
                step = 1 << size
                m.d.comb += [result.eq(Mux(self.rflags[RFlag.DF], a - step, a + step)), wide.eq(u.bsize)]
            with m.Case(Op.CLC):
                m.d.comb += after.c.eq(0)
            with m.Case(Op.STC):
                m.d.comb += after.c.eq(1)
            with m.Case(Op.CMC):
                m.d.comb += after.c.eq(~flags.c)
            with m.Case(Op.LAHF):
                m.d.comb += result.eq(Cat(a[:8], status_image(flags)[:8] | 2))
            with m.Case(Op.SAHF):
                image = Cat(a[8:16], Const(0, 3), flags.o)
                m.d.comb += after.eq(status_of(image))
            with m.Case(Op.RDFLAGS, Op.SYSCALL):
                m.d.comb += result.eq((self.rflags & ~_HIDDEN) | status_image(flags))
            with m.Case(Op.RDSYS):
                m.d.comb += result.eq(self.sysreg_data)
            with m.Case(Op.IN):
                m.d.comb += result.eq(self.io_data)
            with m.Case(Op.CPUID):
                m.d.comb += result.eq(lower_cpuid(m, a[:32], b[:32], u.bsize, self.apic, self._number))
            with m.Case(Op.RDTSC):
                m.d.comb += result.eq(Mux(u.imm[0], self.tsc[32:], self.tsc[:32]))
        with m.If((u.sysop == SysOp.POPF) | (u.sysop == SysOp.IRETF) | (u.sysop == SysOp.SYSRET)):
            m.d.comb += after.eq(status_of(b))

        # where rip goes
        near = Signal(64)
        target = Signal(64)
        ends, again = Signal(), Signal()
        m.d.comb += [near.eq(u.next_pc + u.imm), target.eq(u.next_pc), ends.eq(u.last)]
        with m.Switch(op):
            with m.Case(Op.JMP, Op.CALL):
                m.d.comb += target.eq(near)
            with m.Case(Op.JCC):
                with m.If(holds_cond):
                    m.d.comb += target.eq(near)
            with m.Case(Op.JMPA, Op.CALLA, Op.SYSRET):
                m.d.comb += target.eq(a)
            with m.Case(Op.SYSCALL):
                m.d.comb += target.eq(self.sysreg_data)
            with m.Case(Op.LOOP):
                with m.If(~next_zero & ((u.bsize == 0) | holds_cond)):
                    m.d.comb += target.eq(near)
            with m.Case(Op.JCXZ):
                with m.If(count_zero):
                    m.d.comb += target.eq(near)
            with m.Case(Op.REPCHK):
                m.d.comb += ends.eq(count_zero | u.last)
            with m.Case(Op.REPNEXT):
                m.d.comb += again.eq(~next_zero & ((u.bsize == 0) | holds_cond))
                with m.If(again):
                    m.d.comb += target.eq(u.pc)

        # faults that values decide
        out = Signal(Done)
        error = Signal()
        vector = Signal(8)
        has_error = Signal()
        code = Signal(16)
        m.d.comb += [vector.eq(Vector.GP), has_error.eq(1)]
        with m.If(is_muldiv & muldiv.error):
            m.d.comb += [error.eq(1), vector.eq(Vector.DE), has_error.eq(0)]
        with m.If(is_gate & gates.fault):
            m.d.comb += [error.eq(1), vector.eq(gates.vector), code.eq(gates.error)]
        with m.If(u.branch & (target[47:].any() & ~target[47:].all())):
            m.d.comb += error.eq(1)
        with m.If(writes_system & msrs.refused):
            m.d.comb += error.eq(1)
        with m.If(((op == Op.RDMSR) & ~msrs.known) | ((op == Op.WRMSR) & (~msrs.known | msrs.msr_refused))):
            m.d.comb += error.eq(1)
        # there is no compatibility mode to return to
        with m.If((op == Op.SYSRET) & ((size != 3) | ~canonical(a))):
            m.d.comb += error.eq(1)

        full = merge(m, "result", wide, u.d_high, old, result)
        with m.If(keep):
            m.d.comb += full.eq(old)
        updated = Signal(Flags)
        # popf and iretq bring all six
        brings = (u.sysop == SysOp.POPF) | (u.sysop == SysOp.IRETF) | (u.sysop == SysOp.SYSRET)
        mask = Mux(brings, 0x3F, u.flags)
        m.d.comb += [
            updated.eq((flags.as_value() & ~mask) | (after.as_value() & mask)),
            out.u.eq(u),
            out.u.sysreg.eq(Mux(op == Op.WRMSR, msrs.reg, u.sysreg)),
            out.result.eq(full),
            out.u.store.eq(u.store & ~(u.touch & gates.keep_memory)),
            out.store.eq(Mux(op == Op.OUT, a, Mux(is_gate, gates.store, result))),
            out.flags.eq(updated),
            out.target.eq(target),
            out.again.eq(again),
            out.ends.eq(ends),
            out.la.eq(Mux(u.watch == Watch.PORT, port, self.i.payload.la)),
            out.pa.eq(self.i.payload.pa),
            out.split.eq(self.i.payload.split),
            out.rest.eq(self.i.payload.rest),
            out.sp.eq(self.i.payload.sp),
            out.mem.eq(self.i.payload.mem),
        ]
        faulty = Signal()
        m.d.comb += faulty.eq(error | u.fault.valid)
        with m.If(error & ~u.fault.valid):
            m.d.comb += [
                out.u.fault.valid.eq(1),
                out.u.fault.vector.eq(vector),
                out.u.fault.has_error.eq(has_error),
                out.u.fault.error.eq(code),
            ]

        # an `in` waits until it is the oldest, and so does a read of CR8: an older store may change the task priority; and
        # one of a debug register, since a write of one does not refetch
        is_in = op == Op.IN
        debug = u.sysreg[3:] == SysReg.DR0 >> 3
        waits = is_in | ((op == Op.RDSYS) & ((u.sysreg == SysReg.CR8) | debug))
        done = Signal()
        fire = Signal()
        m.d.comb += [
            done.eq(
                ((~is_muldiv | muldiv.done) & (~is_scatter | scatter.done) | u.fault.valid) & ~(waits & self.older)
            ),
            fire.eq(holds & done & has_room(self.o) & ~self.kill),
            self.i.ready.eq(fire),
            gates.fire.eq(fire & ~u.fault.valid & ~gates.fault),
            self.io_valid.eq(fire & is_in & ~u.fault.valid),
            self.io_port.eq(port),
            self.io_size.eq(size),
        ]
        register_output(m, self.o, fire, out, self.kill)
        with m.If(fire & ~faulty):
            m.d.sync += flags.eq(updated)
        with m.If(self.kill):
            m.d.sync += flags.eq(self.flags_committed)

        with m.Switch(op), m.Case(Op.JCC, Op.LOOP, Op.JCXZ):
            m.d.comb += self.resolved.eq(fire & ~faulty)
        m.d.comb += self.led.eq(fire & ~faulty & u.indirect)
        m.d.comb += [self.resolved_pc.eq(u.pc), self.agreed.eq((target != u.next_pc) == u.imm[63])]
        wrong = u.branch & (target != u.predicted)
        # what follows a delivery or a far transfer is always fetched anew
        leaves = (u.sysop == SysOp.DELIVER) | (u.sysop == SysOp.FAR)
        stops = ((op == Op.REPCHK) & count_zero) | ((op == Op.REPNEXT) & ~again)
        m.d.comb += [
            self.redirect.valid.eq(fire & ~faulty & (wrong | leaves | stops)),
            self.redirect.target.eq(target),
            self.bypass.d_we.eq(holds & u.d_we),
            self.bypass.d_reg.eq(u.d_reg),
            self.bypass.ready.eq(done),
            self.bypass.result.eq(full),
            self.bypass.sp_we.eq(holds & u.sp_we),
            self.bypass.sp.eq(self.i.payload.sp),
        ]
        return m

    def _condition(self, m, cond, flags, holds):
        """The condition codes (SDM vol. 1, appendix B)."""
        less = flags.s ^ flags.o
        with m.Switch(cond[1:4]):
            for code, value in enumerate(
                (flags.o, flags.c, flags.z, flags.c | flags.z, flags.s, flags.p, less, flags.z | less)
            ):
                with m.Case(code):
                    m.d.comb += holds.eq(value ^ cond[0])
