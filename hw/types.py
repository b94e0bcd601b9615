"""What travels between the stages. Each boundary carries one struct; a later one contains what still matters of the former.

Program order is everything: a struct belongs to one uop, and a `Fault` found anywhere rides in it to retirement.
"""

from amaranth.hdl import unsigned
from amaranth.lib import data, enum

from hw.breakpoints import Watch
from hw.isa.facts import EventClass, Op, SysOp


class AKind(enum.Enum, shape=2):
    """Where operand a comes from."""

    NONE = 0  # reads as 0
    REG = 1
    MEM = 2


class BKind(enum.Enum, shape=3):
    """Where operand b comes from."""

    NONE = 0
    REG = 1
    MEM = 2
    IMM = 3
    ADDR = 4


class Rep(enum.Enum, shape=2):
    """The last F2 or F3 prefix."""

    NONE = 0
    F2 = 2
    F3 = 3


class Override(enum.Enum, shape=2):
    """Segment override that matters in 64-bit mode."""

    NONE = 0
    FS = 1
    GS = 2


class Fault(data.Struct):
    """An event that takes the place of a uop's effects. Valid together with the payload it rides in.

    ``kind`` is an `EventClass`: for SOFT and ICEBP the saved rip is the next instruction, else this one.
    ``addr`` is the linear address of a page fault (CR2).
    """

    valid: 1
    vector: 8
    kind: EventClass
    has_error: 1
    error: 16
    addr: 64


class Insn(data.Struct):
    """An instruction's bytes taken apart, without meaning. From the length stage to the decoder.

    ``imm`` and ``disp`` are extended from what was encoded. ``map`` is `hw.isa.rows.Row.map`. A VEX prefix shows as the
    prefixes that it stands for, with ``vvvv`` (a register number) and ``long`` (VEX.L; 1 with EVEX).
    """

    pc: 64
    next_pc: 64
    length: 4
    bytes: 120
    map: 3
    opcode: 8
    modrm: 8
    sib: 8
    disp: 32
    imm: 64
    rex: 4  # W R X B, W highest
    has_rex: 1
    vvvv: 4
    long: 1
    refused: 1  # VEX or EVEX after a prefix that it must not have, or of a map that it has not: undefined
    opsize: 1
    asize: 1
    lock: 1
    rep: Rep
    seg: Override
    fault: Fault


class Uop(data.Struct):
    """One step of the machine, fully decoded; constant from decode to retirement."""

    pc: 64
    next_pc: 64
    length: 4
    bytes: 120
    first: 1
    last: 1
    deliver: 1
    iret: 1
    op: Op
    size: 2
    bsize: 2
    a_kind: AKind
    a_reg: 5
    a_high: 1
    b_kind: BKind
    b_reg: 5
    b_high: 1
    d_we: 1
    d_reg: 5
    d_high: 1
    cl: 1
    cond: 4
    flags: 6
    imm: 64
    sysop: SysOp
    sysreg: 6
    branch: 1
    indirect: 1  # a jump or call whose target the table of targets predicts
    predicted: 64  # rip that fetch went on with; meaningful with branch
    load: 1
    store: 1
    probe: 1  # the address is checked as a load's; nothing is accessed
    implicit: 1  # an access of the supervisor whatever the CPL, which matches no breakpoint
    touch: 1  # the store depends on the result: the accessed bit of a descriptor
    msize: 2
    watch: Watch
    lock: 1  # the instruction is locked; or it is mfence, which orders loads as a locked one does
    sp_we: 1
    fault: Fault


class Address(data.Struct):
    """How the address stage makes the uop's address: base + index * 2**scale + disp, then the segment base."""

    gate: 1  # base is the gate of the vector being delivered
    rip: 1  # base is the next instruction
    base_en: 1
    base: 5
    index_en: 1
    index: 5
    scale: 2
    disp: 64
    seg: Override
    asize: 1
    stack: 1
    intent: 1
    align: 1  # the operand is twice the access: 16 bytes must be aligned
    if_switch: 1
    sp_delta: 32


class FpuControl(data.Struct):
    """What decides how an instruction of the floating-point and vector extensions is refused: bits of CR0 and CR4."""

    mp: 1
    em: 1
    ts: 1
    osfxsr: 1
    osxsave: 1


class Modes(data.Struct):
    """System state, beside CPL and IOPL, that decides in decode whether an instruction may execute. A change refetches."""

    nt: 1
    tsd: 1  # CR4.TSD
    umip: 1  # CR4.UMIP
    fsgsbase: 1  # CR4.FSGSBASE
    sce: 1  # EFER.SCE


class Decoded(data.Struct):
    """From decode to address generation."""

    u: Uop
    g: Address


class Addressed(data.Struct):
    """From address generation to memory: ``ea`` without, ``la`` with segment base; ``pa`` for stores, and ``rest``, the frame
    in which a ``split`` one goes on; ``sp`` the new rsp."""

    u: Uop
    ea: 64
    la: 64
    pa: 32
    split: 1
    rest: 20
    sp: 64


class Operands(data.Struct):
    """From memory to execute: operand values (a and b full registers or zero-extended memory), ``count`` = cl or immediate."""

    u: Uop
    a: 64
    b: 64
    count: 8
    la: 64
    pa: 32
    split: 1
    rest: 20
    sp: 64
    mem: 64


class Flags(data.Struct):
    """The six status flags, in the order of `hw.isa.facts.STATUS_FLAGS`."""

    c: unsigned(1)
    p: unsigned(1)
    a: unsigned(1)
    z: unsigned(1)
    s: unsigned(1)
    o: unsigned(1)


class Done(data.Struct):
    """From execute to write-back: the result as it goes to the register, the data to store, and where rip goes."""

    u: Uop
    result: 64
    store: 64
    flags: Flags
    target: 64  # rip after the instruction
    again: 1
    ends: 1  # the uop ends its instruction (last, or a rep count of 0)
    la: 64  # or the port of an `in` or `out`
    pa: 32
    split: 1
    rest: 20
    sp: 64
    mem: 64


class Redirect(data.Struct):
    """Fetch goes on at ``target``; everything younger than the source is dropped. Valid in the cycle of ``valid``."""

    valid: 1
    target: 64
