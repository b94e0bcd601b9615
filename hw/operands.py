"""The fields of a uop that depend on the instruction's bytes: sizes, registers, memory, address. Parts of the decode stage.

Each function adds combinational logic to the decoder's module. What is read again within the decoder is a signal of its own
(``size``, ``load``, ``store``), never a field of the uop being made, so that no signal seems to depend on itself.
"""

from amaranth.hdl import Cat, Mux, Signal

from hw.control import MSIZE_OF_OPERAND, SIZE_OF_INSN, SysClass
from hw.isa.facts import Op, Reg
from hw.isa.rows import AMode, Sel, SizeRule
from hw.types import AKind, BKind, Override


def lower_sizes(m, ctl, row, insn, u, size):
    """Operand size, source size and memory size, as log2 of bytes, from the row's rule and the prefixes.

    Returns the operand size of the whole instruction.
    """
    whole = Signal(2)  # of the instruction, whatever this row's own
    wide, short = insn.rex[3], insn.opsize & ~insn.rex[3]

    def follow(rule, chosen):
        with m.Switch(rule):
            for fixed in (SizeRule.B, SizeRule.W, SizeRule.D, SizeRule.Q):
                with m.Case(fixed.value):
                    m.d.comb += chosen.eq(fixed.value)
            with m.Case(SizeRule.V.value):
                m.d.comb += chosen.eq(Mux(wide, 3, Mux(short, 1, 2)))
            with m.Case(SizeRule.D64.value):
                m.d.comb += chosen.eq(Mux(short, 1, 3))
            with m.Case(SizeRule.Y.value):
                m.d.comb += chosen.eq(Mux(wide, 3, 2))
            with m.Case(SizeRule.Z.value):
                m.d.comb += chosen.eq(Mux(short, 1, 2))
            with m.Case(SizeRule.A.value):
                m.d.comb += chosen.eq(Mux(insn.asize, 2, 3))
            if chosen is size:
                with m.Case(SIZE_OF_INSN):
                    m.d.comb += chosen.eq(whole)

    follow(row.size, whole)
    follow(ctl.size, size)
    m.d.comb += [
        u.size.eq(size),
        u.bsize.eq(Mux(ctl.half, size - 1, ctl.bsize)),
        u.msize.eq(Mux(ctl.msize == MSIZE_OF_OPERAND, size, ctl.msize)),
    ]
    with m.If(ctl.op == Op.STEP):  # an index has the address size, its step the operand size
        m.d.comb += u.bsize.eq(Mux(insn.asize, 2, 3))
    with m.If(_is_narrow(ctl) & (ctl.amode == AMode.EA.value)):
        m.d.comb += u.msize.eq(ctl.bsize)
    return whole


def _is_narrow(ctl):
    """Operand b is of the source size, not the operand size."""
    return (ctl.op == Op.MOVZX) | (ctl.op == Op.MOVSX) | (ctl.op == Op.CRC32B)


def lower_operands(m, ctl, insn, u, size, load, store, fault):
    """Registers of operands a, b and d. Byte registers 4 to 7 without REX are ah to bh."""
    memory = Signal()
    m.d.comb += memory.eq((ctl.amode == AMode.EA.value) & (insn.modrm[6:8] != 3))
    rm = Cat(insn.modrm[0:3], insn.rex[0])
    reg = Cat(insn.modrm[3:6], insn.rex[2])
    low = Cat(insn.opcode[0:3], insn.rex[0])
    byte_b = Mux(_is_narrow(ctl), ctl.bsize == 0, size == 0)

    def place(sel, number, high, byte):
        with m.If(sel < 32):
            m.d.comb += number.eq(sel)
        for code, field in ((Sel.E, rm), (Sel.G, reg), (Sel.Z, low)):
            with m.If(sel == code.value):
                legacy = byte & ~insn.has_rex & (field[2:4] == 1) & ~(memory & (code is Sel.E))
                m.d.comb += [number.eq(Mux(legacy, field[0:2], field)), high.eq(legacy)]
        with m.If(sel == Sel.V.value):
            m.d.comb += number.eq(insn.vvvv)

    def is_register(sel):
        named = (sel == Sel.G.value) | (sel == Sel.Z.value) | (sel == Sel.V.value)
        return (sel < 32) | named | ((sel == Sel.E.value) & ~memory)

    place(ctl.a, u.a_reg, u.a_high, size == 0)
    place(ctl.b, u.b_reg, u.b_high, byte_b)
    place(ctl.d, u.d_reg, u.d_high, size == 0)
    a_memory = (ctl.a == Sel.MEM.value) | ((ctl.a == Sel.E.value) & memory & ctl.a_read)
    b_memory = (ctl.b == Sel.MEM.value) | ((ctl.b == Sel.E.value) & memory)
    with m.If(a_memory):
        m.d.comb += u.a_kind.eq(AKind.MEM)
    with m.Elif(is_register(ctl.a)):
        m.d.comb += u.a_kind.eq(AKind.REG)
    with m.If(b_memory):
        m.d.comb += u.b_kind.eq(BKind.MEM)
    with m.Elif(is_register(ctl.b)):
        m.d.comb += u.b_kind.eq(BKind.REG)
    for code, kind in ((Sel.IMM, BKind.IMM), (Sel.ADDR, BKind.ADDR)):
        with m.If(ctl.b == code.value):
            m.d.comb += u.b_kind.eq(kind)

    live = ~fault
    m.d.comb += [
        u.d_we.eq(is_register(ctl.d) & live),
        load.eq((ctl.load | a_memory | b_memory) & live),
        store.eq((ctl.store | ((ctl.d == Sel.E.value) & memory)) & live),
        u.load.eq(load),
        u.store.eq(store),
        u.probe.eq(ctl.probe & live),
        u.implicit.eq(ctl.implicit),
        u.touch.eq(ctl.touch),
    ]
    field = insn.modrm[3:6]
    with m.Switch(ctl.sysclass):
        with m.Case(SysClass.FIXED):
            m.d.comb += u.sysreg.eq(ctl.sysreg)
        with m.Case(SysClass.SEGMENT):  # REX.R is ignored
            m.d.comb += u.sysreg.eq(ctl.sysreg + field)
        with m.Case(SysClass.CONTROL):
            m.d.comb += u.sysreg.eq(ctl.sysreg + reg)
        with m.Case(SysClass.DEBUG):  # dr4 and dr5 are dr6 and dr7
            m.d.comb += u.sysreg.eq(ctl.sysreg + Mux(field[1:3] == 2, field + 2, field))


def lower_address(m, ctl, delivering, insn, u, g, size, whole, turn, load, store, fault):
    """How the address stage makes the address (`hw.types.Address`), and whether rsp changes with it.

    ``whole`` is the operand size of the instruction, ``turn`` the number of the turn of enter.
    """
    mod, rm, sib = insn.modrm[6:8], insn.modrm[0:3], insn.sib
    bytes_ = Signal(4)
    disp = insn.disp.as_signed()
    small = Signal(64)
    items = Signal(8)
    m.d.comb += [
        bytes_.eq(1 << size),
        items.eq(ctl.disp - Mux(ctl.turn, turn, 0)),
        small.eq(Mux(ctl.scaled, items.as_signed() << whole, ctl.disp.as_signed())),
        g.asize.eq(insn.asize & ~delivering),
        g.stack.eq(ctl.stack),
        g.intent.eq(ctl.intent | (load & store & ~ctl.touch)),
        g.if_switch.eq(ctl.if_switch),
        g.align.eq(ctl.align),
    ]
    base, base_en = Signal(5), Signal()
    # the register that ModRM and SIB name as base; rsp and rbp make a bad address a stack fault
    named, has_base, on_stack = Signal(4), Signal(), Signal()
    g_index = Cat(sib[3:6], insn.rex[1])
    m.d.comb += [
        named.eq(Cat(Mux(rm == 4, sib[0:3], rm), insn.rex[0])),
        has_base.eq(Mux(rm == 4, (sib[0:3] != 5) | (mod != 0), (rm != 5) | (mod != 0))),
        on_stack.eq(has_base & ((named == Reg.RSP) | (named == Reg.RBP)) & (insn.seg == Override.NONE)),
    ]
    m.d.comb += [g.base.eq(base), g.base_en.eq(base_en)]
    with m.Switch(ctl.amode):
        with m.Case(AMode.EA.value):
            m.d.comb += [
                g.disp.eq(disp + small.as_signed()),
                g.seg.eq(insn.seg),
                g.rip.eq((mod == 0) & (rm == 5)),
                base.eq(named),
                base_en.eq(has_base),
                g.index.eq(Cat(sib[3:6], insn.rex[1])),
                g.index_en.eq((rm == 4) & (g_index != 4)),
                g.scale.eq(sib[6:8]),
                g.stack.eq(ctl.stack | on_stack),
            ]
            with m.If(ctl.bias & has_base & (named == Reg.RSP)):
                m.d.comb += g.disp.eq(disp + bytes_)
        with m.Case(AMode.PUSH.value):
            m.d.comb += [base.eq(Reg.RSP), base_en.eq(1), g.disp.eq(-bytes_), u.sp_we.eq(~fault), g.asize.eq(0)]
        with m.Case(AMode.POP.value):
            m.d.comb += [
                base.eq(Reg.RSP),
                base_en.eq(1),
                g.sp_delta.eq(bytes_ + insn.imm[0:16]),
                u.sp_we.eq(~fault),
                g.asize.eq(0),
            ]
        with m.Case(AMode.LEAVE.value):
            m.d.comb += [
                base.eq(Reg.RBP),
                base_en.eq(1),
                g.sp_delta.eq(bytes_),
                u.sp_we.eq(~fault),
                g.asize.eq(0),
            ]
        with m.Case(AMode.SI.value):
            m.d.comb += [base.eq(Reg.RSI), base_en.eq(1), g.seg.eq(insn.seg)]
        with m.Case(AMode.DI.value):
            m.d.comb += [base.eq(Reg.RDI), base_en.eq(1)]
        with m.Case(AMode.MOFFS.value):
            m.d.comb += [g.disp.eq(insn.imm), g.seg.eq(insn.seg)]
        with m.Case(AMode.BASE.value):
            m.d.comb += [base.eq(ctl.base), base_en.eq(1), g.disp.eq(small), g.asize.eq(0)]
            with m.If(ctl.seg):  # a bit string or a table (xlat), addressed through a temporary
                m.d.comb += [g.seg.eq(insn.seg), g.stack.eq(on_stack), g.asize.eq(insn.asize)]
        with m.Case(AMode.GATE.value):
            m.d.comb += [g.gate.eq(1), g.disp.eq(ctl.disp), g.asize.eq(0)]
        with m.Case(AMode.SETSP.value):
            m.d.comb += [
                base.eq(ctl.base),
                base_en.eq(1),
                g.disp.eq(small),
                g.sp_delta.eq(Mux(delivering, 0, insn.imm[0:16])),
                u.sp_we.eq(~fault),
                g.asize.eq(0),
            ]
    with m.If(delivering):
        m.d.comb += g.seg.eq(Override.NONE)
