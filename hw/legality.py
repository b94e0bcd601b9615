"""What decoding alone can find wrong with an instruction, and the events that an opcode is made for."""

from amaranth.hdl import Mux, Signal

from hw.control import SysClass
from hw.isa.facts import EventClass, SysOp, Vector
from hw.isa.rows import Need, Priv, Raise
from hw.types import Fault, Rep


def lower_checks(m, row, delivering, cpl, iopl, guard, de, modes, fpu, insn, bad):
    """Faults known now, in the order of the manual: fetch, invalid opcode, privilege, #NM, general detect.

    ``guard`` is DR7.GD; ``de`` is CR4.DE, without which DR4 and DR5 are names of DR6 and DR7.
    """
    memory = insn.modrm[6:8] != 3
    writes_memory = row.lock_ok & memory
    illegal = ~row.valid | (insn.lock & ~writes_memory) | (row.need_mem & ~memory)
    illegal |= row.no_opsize & insn.opsize
    illegal |= row.no_rep & (insn.rep != Rep.NONE)
    illegal |= insn.refused | (insn.long & ~row.long) | (insn.vvvv.any() & ~row.vvvv)
    field, extended = insn.modrm[3:6], insn.rex[2]
    undefined = Signal()
    missing = Signal()  # #NM goes before the #UD of an extension that is not there
    m.d.comb += undefined.eq(illegal | (row.raises == Raise.UD.value))
    with m.Switch(row.raises):
        for raises, off, trapped in (
            (Raise.X87, 0, fpu.em | fpu.ts),
            (Raise.WAIT, 0, fpu.mp & fpu.ts),
            (Raise.MMX, fpu.em, fpu.ts),
            (Raise.SSE, fpu.em | ~fpu.osfxsr, fpu.ts),
            (Raise.AVX, ~fpu.osxsave, fpu.ts),
        ):
            with m.Case(raises.value):
                m.d.comb += missing.eq(~off & trapped)
                if raises is not Raise.WAIT:
                    m.d.comb += undefined.eq(illegal | ~missing)
    with m.Switch(row.sysclass):
        with m.Case(SysClass.SEGMENT):
            with m.If((field > 5) | ((row.sysop != SysOp.NONE) & (field == 1))):
                m.d.comb += undefined.eq(1)
        with m.Case(SysClass.CONTROL):
            with m.If(Mux(extended, field != 0, (field == 1) | (field > 4))):
                m.d.comb += undefined.eq(1)
        with m.Case(SysClass.DEBUG):
            with m.If(extended | (de & (field[1:3] == 2))):
                m.d.comb += undefined.eq(1)
    with m.Switch(row.need):
        with m.Case(Need.SCE.value):
            with m.If(~modes.sce):
                m.d.comb += undefined.eq(1)
        with m.Case(Need.FSGSBASE.value):
            with m.If(~modes.fsgsbase):
                m.d.comb += undefined.eq(1)
    with m.If(undefined):
        m.d.comb += [bad.valid.eq(1), bad.vector.eq(Vector.UD)]
    with m.Else():
        refused = Signal()
        with m.Switch(row.priv):
            with m.Case(Priv.CPL0.value):
                m.d.comb += refused.eq(cpl != 0)
            with m.Case(Priv.IOPL.value):
                m.d.comb += refused.eq(cpl > iopl)
            with m.Case(Priv.NT.value):
                m.d.comb += refused.eq(modes.nt)
            with m.Case(Priv.TSD.value):
                m.d.comb += refused.eq(modes.tsd & (cpl != 0))
            with m.Case(Priv.UMIP.value):
                m.d.comb += refused.eq(modes.umip & (cpl != 0))
        with m.If(row.raises == Raise.GP.value):
            m.d.comb += refused.eq(1)
        with m.If(refused):
            m.d.comb += [
                bad.valid.eq(1),
                bad.vector.eq(Vector.GP),
                bad.has_error.eq(1),
            ]
        with m.Elif(guard & (row.sysclass == SysClass.DEBUG)):
            m.d.comb += [bad.valid.eq(1), bad.vector.eq(Vector.DB)]
        with m.Elif(missing):
            m.d.comb += [bad.valid.eq(1), bad.vector.eq(Vector.NM)]
        with m.Elif(row.raises == Raise.INT3.value):
            m.d.comb += [bad.valid.eq(1), bad.vector.eq(Vector.BP), bad.kind.eq(EventClass.SOFT)]
        with m.Elif(row.raises == Raise.INTN.value):
            m.d.comb += [bad.valid.eq(1), bad.vector.eq(insn.imm[0:8]), bad.kind.eq(EventClass.SOFT)]
        with m.Elif(row.raises == Raise.ICEBP.value):
            m.d.comb += [bad.valid.eq(1), bad.vector.eq(Vector.DB), bad.kind.eq(EventClass.ICEBP)]
    with m.If(insn.fault.valid):
        m.d.comb += bad.eq(insn.fault)
    with m.If(delivering):
        m.d.comb += bad.eq(Fault.const({}))
