"""The instruction table lowered to constants: one control word per row and per routine row.

`Ctl` is the constant half of a uop; the decoder adds what the instruction's bytes say. The lowering is a nested Switch with
one constant per row (measured: several times cheaper to elaborate and to simulate than a chain of Ifs), legal because
`hw.isa.rows.check` forbids rows that overlap.
"""

from dataclasses import replace

from amaranth.hdl import Cat, Module
from amaranth.lib import data, enum

from hw.config import Vendor
from hw.isa.absent import ABSENT, EVEX
from hw.isa.facts import STATUS_FLAGS, Op, SysOp, SysReg
from hw.isa.opcodes import TABLE
from hw.isa.reference import uses_vvvv
from hw.isa.routines import ROUTINES, asking
from hw.isa.rows import LOCK, MEM, NO66, NOREP, NOREXB, REG, REXB, RM, Priv, Raise, Row, Sel, Uop, When, reads_a
from hw.types import Rep

#: `Ctl.size` of a routine row that leaves the size to the instruction.
SIZE_OF_INSN = 15

#: `Ctl.msize` where the memory size is the operand size.
MSIZE_OF_OPERAND = 4


class SysClass(enum.Enum, shape=2):
    """Which registers ModRM.reg names in a move to or from a system register."""

    FIXED = 0
    SEGMENT = 1
    CONTROL = 2
    DEBUG = 3


class Ctl(data.Struct):
    """What a row decides. Selectors are register numbers or 32 + `Sel`; ``last0``/``last1``: the row ends its routine
    without, with the routine's condition (`When`)."""

    op: Op
    size: 4
    bsize: 2
    half: 1
    a: 6
    a_read: 1
    b: 6
    d: 6
    flags: 6
    amode: 4
    load: 1
    store: 1
    msize: 3
    base: 5
    disp: 8
    scaled: 1
    bias: 1
    seg: 1
    intent: 1
    stack: 1
    if_switch: 1
    implicit: 1
    touch: 1
    cl: 1
    one: 1
    fixed_cond: 1
    cond: 4
    sysop: SysOp
    sysreg: 6
    sysclass: SysClass
    flow: 3
    when: 3
    loop: 1
    probe: 1
    align: 1
    turn: 1
    back: 1
    last0: 1
    last1: 1
    iret: 1
    # facts of the row, 0 in routine rows
    valid: 1
    routine: 9  # index of the routine's first row in the ROM + 1
    asking: 9  # the same of the routine that asks the I/O permission bitmap first
    lock_ok: 1
    lock: 1  # orders and locks without a prefix (xchg, mfence)
    need_mem: 1
    no_opsize: 1
    no_rep: 1
    vvvv: 1  # VEX.vvvv may name a register
    long: 1  # VEX.L may be 1
    priv: 3
    need: 2
    raises: 4


def _sel(place) -> int:
    return place.value if isinstance(place, Sel) else int(place)


_CLASSES = {SysReg.ES: SysClass.SEGMENT, SysReg.CR0: SysClass.CONTROL, SysReg.DR0: SysClass.DEBUG}


def word(uop: Uop) -> dict:
    """The control word of a uop, as the dictionary that `Ctl.const` takes."""
    field = Sel.FIELD in (uop.a, uop.b)
    return dict(
        op=uop.op,
        size=SIZE_OF_INSN if uop.size is None else uop.size.value,
        bsize=uop.bsize,
        half=uop.op == Op.MOVSX and uop.bsize == 3,
        a=_sel(Sel.NONE if uop.a is Sel.FIELD else uop.a),
        a_read=reads_a(uop.op),
        b=_sel(Sel.NONE if uop.b is Sel.FIELD else uop.b),
        d=_sel(uop.d),
        flags=sum(1 << STATUS_FLAGS.index(f) for f in uop.flags),
        amode=uop.amode.value,
        load=uop.load,
        store=uop.store,
        msize=MSIZE_OF_OPERAND if uop.msize is None else uop.msize,
        base=uop.base,
        disp=uop.disp & 0xFF,
        scaled=uop.scaled,
        bias=uop.bias,
        seg=uop.seg,
        intent=uop.intent,
        stack=uop.stack,
        if_switch=uop.if_switch,
        implicit=uop.implicit,
        touch=uop.touch,
        cl=uop.cl,
        one=uop.one,
        fixed_cond=uop.cond is not None,
        cond=uop.cond or 0,
        sysop=uop.sysop,
        sysreg=uop.sysreg or 0,
        sysclass=_CLASSES[uop.sysreg] if field else SysClass.FIXED,
        flow=uop.flow.value,
        when=uop.when.value,
        loop=uop.loop,
        probe=uop.probe,
        align=uop.align,
        turn=uop.turn,
        back=uop.back,
        last0=1,
        last1=1,
    )


def row_word(row: Row) -> dict:
    """The control word of a table row."""
    own = word(row.uop)
    facts = dict(
        valid=1,
        routine=ROM_START[row.routine] + 1 if row.routine else 0,
        lock_ok=LOCK in row.ok,
        lock=row.routine == "xchg_mem" or row.mnemonic == "mfence",
        need_mem=any(operand[0] == "M" for operand in row.operands),
        no_opsize=NO66 in row.ok,
        no_rep=NOREP in row.ok,
        vvvv=uses_vvvv(row) or row.raises is Raise.AVX,
        long=row.raises is Raise.AVX,
        asking=ROM_START[asking(row)] + 1 if row.priv is Priv.IO else 0,
        priv=row.priv.value,
        need=row.need.value,
        raises=row.raises.value,
    )
    return own | facts


def _layout_rom() -> tuple[dict[str, int], list[dict]]:
    start, words = {}, []
    for name, rows in ROUTINES.items():
        start[name] = len(words)
        for i, uop in enumerate(rows):
            rest = rows[i + 1 :]
            last1 = all(later.when is When.NOERROR for later in rest)
            last0 = all(later.when in (When.REP, When.ERROR) for later in rest)
            words.append(word(uop) | dict(last0=last0, last1=last1, iret=name == "iret"))
    return start, words


#: First row of each routine in the ROM, and the ROM.
ROM_START, ROM = _layout_rom()

#: ROM address of trap delivery.
DELIVER = ROM_START["deliver"]


def _keys(row: Row) -> dict:
    """What distinguishes a row among those of its opcode; None where anything goes."""
    mod3 = 1 if REG in row.ok else 0 if MEM in row.ok else None
    rexb = 1 if REXB in row.ok else 0 if NOREXB in row.ok else None
    rm = next((n for n, mark in enumerate(RM) if mark in row.ok), None)
    return dict(reg=row.reg, mod3=mod3, rexb=rexb, rm=rm, prefix=row.prefix)


def _pattern(key: dict) -> str:
    """Switch pattern over Cat(prefix[2], rexb, rm[3], mod3, reg[3]), most significant first."""

    def bits(value, width):
        return "-" * width if value is None else format(value, f"0{width}b")

    return bits(key["reg"], 3) + bits(key["mod3"], 1) + bits(key["rm"], 3) + bits(key["rexb"], 1)


def _rows(vendor: Vendor) -> tuple[Row, ...]:
    """The table as a vendor has it: the one difference is F3 REX.B 90, `xchg` with AMD."""
    if vendor is Vendor.INTEL:
        return (*TABLE, *ABSENT)
    return (*(replace(row, ok=row.ok | {NOREXB}) if row.mnemonic == "pause" else row for row in TABLE), *ABSENT)


def lower_table(m: Module, ctl, insn, vendor: Vendor = Vendor.INTEL) -> None:
    """Drives ``ctl`` (a `Ctl` view) from ``insn`` (an `Insn` view): combinational; ``valid`` is 0 where no row matches."""
    key = Cat(insn.rex[0], insn.modrm[0:3], insn.modrm[6:8] == 3, insn.modrm[3:6])
    by_map: dict[int, dict[int, list[Row]]] = {}
    for row in _rows(vendor):
        for opcode in row.opcodes():
            by_map.setdefault(row.map, {}).setdefault(opcode, []).append(row)
    with m.Switch(insn.map):
        with m.Case(EVEX):
            m.d.comb += ctl.eq(Ctl.const(dict(valid=1, vvvv=1, long=1, raises=Raise.AVX.value)))
        for number, opcodes in by_map.items():
            with m.Case(number), m.Switch(insn.opcode):
                for same, group in _groups(opcodes):
                    with m.Case(*same):
                        _lower_opcode(m, ctl, insn, key, group)


def _groups(opcodes: dict[int, list[Row]]):
    """Opcodes that share the same rows (+r, +cc) become one Case."""
    seen: dict[tuple[int, ...], list[int]] = {}
    for opcode, rows in opcodes.items():
        seen.setdefault(tuple(id(row) for row in rows), []).append(opcode)
    for same in seen.values():
        yield same, opcodes[same[0]]


def _lower_opcode(m: Module, ctl, insn, key, rows: list[Row]) -> None:
    """One opcode: rows of a mandatory prefix go before those without; F2 and F3 go before 66 (SDM vol. 2, 2.1.2)."""
    plain = [row for row in rows if row.prefix is None]
    strict = rows[0].vex  # there, no prefix is a prefix too
    open_ = [row for row in plain if not strict or row.raises is Raise.AVX]
    present = {row.prefix for row in rows} - {None}
    conditions = {0xF2: insn.rep == Rep.F2, 0xF3: insn.rep == Rep.F3, 0x66: (insn.rep == Rep.NONE) & insn.opsize}
    chosen = sorted(conditions, reverse=True) if strict else sorted(present, reverse=True)
    for i, prefix in enumerate(chosen):
        with m.If(conditions[prefix]) if i == 0 else m.Elif(conditions[prefix]):
            _lower_group(m, ctl, key, [row for row in rows if row.prefix == prefix] + open_)
    if chosen:
        with m.Else():
            _lower_group(m, ctl, key, plain)
    else:
        _lower_group(m, ctl, key, plain)


def _lower_group(m: Module, ctl, key, rows: list[Row]) -> None:
    """Rows that ModRM and REX.B tell apart; of two that fit, the first."""
    patterns = [_pattern(_keys(row)) for row in rows]
    if rows and set(patterns[0]) == {"-"}:
        m.d.comb += ctl.eq(Ctl.const(row_word(rows[0])))
        return
    with m.Switch(key):
        for row, pattern in zip(rows, patterns, strict=True):
            with m.Case(pattern):
                m.d.comb += ctl.eq(Ctl.const(row_word(row)))


def lower_rom(m: Module, ctl, address) -> None:
    """Drives ``ctl`` with the ROM's row at ``address`` (9 bits)."""
    with m.Switch(address):
        for i, entry in enumerate(ROM):
            with m.Case(i):
                m.d.comb += ctl.eq(Ctl.const(entry))
