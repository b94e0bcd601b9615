"""Instructions that take several uops, and trap delivery: rows in the order of issue.

A routine writes nothing architectural before its last possible fault: above the line ``# --- point of no return ---`` only
temporaries, below it only uops that cannot fault. Operand sizes that a row leaves open are the instruction's.
"""

from hw.isa.facts import Op, Reg, Size, SysOp, SysReg
from hw.isa.rows import AMode, Flow, Row, Sel, SizeRule, Uop, When

_ALL = "cpazso"
T0, T1, T2, T3, T4, T5, T6 = range(Reg.T0, Reg.T7)
_Q = dict(size=SizeRule.Q)
_EA_LOAD = dict(b=Sel.MEM, amode=AMode.EA, load=True)
_EA_STORE = dict(amode=AMode.EA, store=True)


def _item(n: int, base: int = Reg.RSP) -> dict:
    """Item n of a frame, each as large as the operand size says."""
    return dict(amode=AMode.BASE, base=base, disp=n, scaled=True, load=True, stack=True)


def _frame(n: int, d: int, base: int = Reg.RSP, **what) -> Uop:
    """Loads item n of a frame into a temporary."""
    return Uop(Op.MOV, b=Sel.MEM, d=d, **_item(n, base), **what)


def _below(n: int, op: Op, **what) -> Uop:
    """Stores item n below the stack pointer."""
    return Uop(op, amode=AMode.BASE, base=Reg.RSP, disp=-n, scaled=True, store=True, stack=True, **what)


def _load(d: int, base: int, disp: int = 0, **what) -> Uop:
    """Loads a quadword of a descriptor table or TSS."""
    return Uop(Op.MOV, b=Sel.MEM, d=d, amode=AMode.BASE, base=base, disp=disp, load=True, implicit=True, **_Q, **what)


#: The descriptor at T5 is read as operand a, and written back if it has to be marked accessed.
_TOUCH = dict(a=Sel.MEM, amode=AMode.BASE, base=T5, load=True, store=True, touch=True, implicit=True, **_Q)

#: A selector, from a register or from 16 bits of memory.
_SELECTOR = Uop(Op.MOV, b=Sel.E, d=T0, amode=AMode.EA, size=SizeRule.W)

#: A far pointer in memory: T0 the offset, and the checks of its code segment.
_FAR = (
    Uop(Op.MOV, d=T0, **_EA_LOAD),
    Uop(Op.CSADDR, a=Sel.MEM, d=T5, amode=AMode.EA, load=True, disp=1, scaled=True, msize=Size.W),
    Uop(Op.FARCHK, b=T0, **_TOUCH),
)


def _far_pointer(reg: SysReg) -> tuple[Uop, ...]:
    """lss and its kin. No interrupt shadow: the last uop is not the load of the segment register."""
    return (
        Uop(Op.MOV, d=T0, **_EA_LOAD),
        Uop(Op.SEGADDR, a=Sel.MEM, d=T5, sysreg=reg, amode=AMode.EA, load=True, disp=1, scaled=True, msize=Size.W),
        Uop(Op.SEGCHK, d=T6, sysreg=reg, if_switch=True, **_TOUCH),
        # --- point of no return ---
        Uop(Op.WRSYS, b=T6, sysop=SysOp.SEGMENT, sysreg=reg, **_Q),
        Uop(Op.MOV, a=Sel.G, b=T0, d=Sel.G, sysop=SysOp.SYNC),
    )


def _pop_segment(reg: SysReg) -> tuple[Uop, ...]:
    """pop fs and pop gs."""
    return (
        Uop(Op.MOV, b=Sel.MEM, d=T0, amode=AMode.BASE, base=Reg.RSP, load=True, stack=True),
        Uop(Op.SEGADDR, a=T0, d=T5, sysreg=reg),
        Uop(Op.SEGCHK, d=T6, sysreg=reg, if_switch=True, **_TOUCH),
        # --- point of no return ---
        Uop(Op.WRSYS, b=T6, sysop=SysOp.SEGMENT, sysreg=reg, **_Q),
        Uop(Op.MOV, amode=AMode.POP, sysop=SysOp.SYNC),
    )


def _look(op: Op, d) -> tuple[Uop, ...]:
    """lar and its kin: a descriptor is looked at, if there is one."""
    return (
        _SELECTOR,
        Uop(Op.SELADDR, a=T0, d=T5),
        Uop(op, a=d, b=Sel.MEM, d=d, amode=AMode.BASE, base=T5, load=True, msize=Size.Q, if_switch=True, implicit=True, flags="z"),
    )


def _task(what: Size) -> tuple[Uop, ...]:
    """ltr (B) or lldt (W), whose selector is in T0."""
    regs = (SysReg.LDT_BASE, SysReg.LDT_LIMIT, SysReg.LDTR) if what else (SysReg.TR_BASE, SysReg.TR_LIMIT, SysReg.TR)
    busy = Uop(Op.TRBUSY, a=T1, amode=AMode.BASE, base=T5, store=True, implicit=True, **_Q)
    return (
        Uop(Op.TRADDR, a=T0, d=T5, bsize=what),
        _load(T1, T5, if_switch=True),
        _load(T2, T5, 8, if_switch=True),
        Uop(Op.TRCHK, a=T1, b=T2, d=T3, bsize=what),
        Uop(Op.TRLIMIT, a=T1, d=T4),
        *((busy,) if what == Size.B else ()),
        # --- point of no return ---
        *(Uop(Op.WRSYS, b=b, sysop=SysOp.WRITE, sysreg=reg, **_Q) for reg, b in zip(regs, (T3, T4, T0), strict=True)),
    )


def _push(disp: int, **what) -> Uop:
    """Stores into the frame that a delivery builds below T6."""
    return Uop(amode=AMode.BASE, base=T6, disp=disp, store=True, stack=True, **_Q, **what)


def _bit_string(op: Op) -> tuple[Uop, ...]:
    """A bit of a string in memory: the register is a signed bit number that may lie outside the addressed operand."""
    writes = op != Op.BT
    place = dict(amode=AMode.BASE, base=T0, seg=True)
    rows = [
        Uop(Op.MOV, b=Sel.ADDR, d=T0, amode=AMode.EA, **_Q),
        Uop(Op.BITOFF, b=Sel.G, d=T1),
        Uop(Op.ADD, a=T0, b=T1, d=T0, size=SizeRule.A),
        Uop(op, a=Sel.MEM, b=Sel.G, d=T2 if writes else Sel.NONE, load=True, intent=writes, flags="c", **place),
    ]
    return (*rows, Uop(Op.MOV, b=T2, store=True, **place)) if writes else tuple(rows)


_ADDRESS = dict(size=SizeRule.A)
_REPCHK = Uop(Op.REPCHK, a=Reg.RCX, when=When.REP, **_ADDRESS)
_REPNEXT = Uop(Op.REPNEXT, a=Reg.RCX, d=Reg.RCX, when=When.REP, loop=True, **_ADDRESS)
_REPNEXT_COND = Uop(Op.REPNEXT, a=Reg.RCX, d=Reg.RCX, when=When.REP, loop=True, bsize=Size.W, **_ADDRESS)
_STEP_SI = Uop(Op.STEP, a=Reg.RSI, d=Reg.RSI)
_STEP_DI = Uop(Op.STEP, a=Reg.RDI, d=Reg.RDI)

#: Places in the frames of enter: the outer one's at rbp, the new one's at rsp, both counted downward.
_OUTER = dict(amode=AMode.BASE, base=Reg.RBP, scaled=True, turn=True, stack=True)
_INNER = dict(amode=AMode.BASE, base=Reg.RSP, disp=-1, scaled=True, turn=True, stack=True)

_INS = (
    Uop(Op.MOV, amode=AMode.DI, probe=True, intent=True),  # before the port is read
    Uop(Op.IN, b=Reg.RDX, d=T0),
    Uop(Op.MOV, b=T0, amode=AMode.DI, store=True),
    _STEP_DI,
    _REPNEXT,
)
_OUTS = (
    Uop(Op.MOV, b=Sel.MEM, d=T0, amode=AMode.SI, load=True),
    # --- point of no return ---
    Uop(Op.OUT, a=T0, b=Reg.RDX, sysop=SysOp.OUT),
    _STEP_SI,
    _REPNEXT,
)
_PORTS = {"imm": Sel.IMM, "dx": Reg.RDX}


def _ask(port) -> tuple[Uop, ...]:
    """The I/O permission bitmap of the TSS: two bytes of it, which hold the bits of four ports from any one on."""
    bits = dict(a=Sel.MEM, b=port, amode=AMode.BASE, base=T5, load=True, msize=Size.W, implicit=True)
    return (
        Uop(Op.IOBASE, d=T5),
        Uop(Op.IOMAP, d=T5, **bits),
        Uop(Op.IOBITS, **bits),
    )


ROUTINES: dict[str, tuple[Uop, ...]] = {
    "xchg_reg": (
        Uop(Op.MOV, b=Sel.E, d=T0),
        Uop(Op.MOV, a=Sel.E, b=Sel.G, d=Sel.E),
        Uop(Op.MOV, a=Sel.G, b=T0, d=Sel.G),
    ),
    "xchg_acc": (
        Uop(Op.MOV, b=Sel.Z, d=T0),
        Uop(Op.MOV, a=Sel.Z, b=Reg.RAX, d=Sel.Z),
        Uop(Op.MOV, a=Reg.RAX, b=T0, d=Reg.RAX),
    ),
    "xchg_mem": (
        Uop(Op.MOV, d=T0, intent=True, **_EA_LOAD),
        Uop(Op.MOV, b=Sel.G, **_EA_STORE),
        # --- point of no return ---
        Uop(Op.MOV, a=Sel.G, b=T0, d=Sel.G),
    ),
    "pop_mem": (
        Uop(Op.MOV, b=Sel.MEM, d=T0, amode=AMode.BASE, base=Reg.RSP, load=True, stack=True),
        Uop(Op.MOV, b=T0, bias=True, **_EA_STORE),
        # --- point of no return ---
        Uop(Op.MOV, amode=AMode.POP),
    ),
    "push_mem": (
        Uop(Op.MOV, d=T0, **_EA_LOAD),
        Uop(Op.MOV, b=T0, amode=AMode.PUSH, store=True, stack=True),
    ),
    "call_mem": (
        Uop(Op.MOV, d=T0, **_EA_LOAD),
        Uop(Op.CALLA, a=T0, amode=AMode.PUSH, store=True, stack=True, flow=Flow.CALLIND),
    ),
    "mul": (
        Uop(Op.MUL, a=Reg.RAX, b=Sel.E, d=Reg.RAX, amode=AMode.EA, flags="co"),
        Uop(Op.MULHI, a=Reg.RDX, d=Reg.RDX),
    ),
    "imul": (
        Uop(Op.IMUL, a=Reg.RAX, b=Sel.E, d=Reg.RAX, amode=AMode.EA, flags="co"),
        Uop(Op.MULHI, a=Reg.RDX, d=Reg.RDX),
    ),
    "div": (
        Uop(Op.DIVHI, a=Reg.RDX),
        Uop(Op.DIV, a=Reg.RAX, b=Sel.E, d=Reg.RAX, amode=AMode.EA),
        Uop(Op.REM, a=Reg.RDX, d=Reg.RDX),
    ),
    "idiv": (
        Uop(Op.DIVHI, a=Reg.RDX),
        Uop(Op.IDIV, a=Reg.RAX, b=Sel.E, d=Reg.RAX, amode=AMode.EA),
        Uop(Op.REM, a=Reg.RDX, d=Reg.RDX),
    ),
    "cmpxchg_reg": (
        Uop(Op.MOV, b=Sel.E, d=T0),
        Uop(Op.SUB, a=Reg.RAX, b=T0, flags=_ALL),
        Uop(Op.CMOVK, a=Sel.E, b=Sel.G, d=Sel.E, cond=4),
        Uop(Op.CMOVK, a=Reg.RAX, b=T0, d=Reg.RAX, cond=5),
    ),
    "cmpxchg_mem": (
        Uop(Op.MOV, d=T0, intent=True, **_EA_LOAD),
        # --- point of no return: the load has checked the store ---
        Uop(Op.SUB, a=Reg.RAX, b=T0, flags=_ALL),
        Uop(Op.CMOV, a=T0, b=Sel.G, d=T1, cond=4),
        Uop(Op.MOV, b=T1, **_EA_STORE),
        Uop(Op.CMOVK, a=Reg.RAX, b=T0, d=Reg.RAX, cond=5),
    ),
    "xadd_reg": (
        Uop(Op.MOV, b=Sel.E, d=T0),
        Uop(Op.ADD, a=T0, b=Sel.G, d=T1, flags=_ALL),
        Uop(Op.MOV, a=Sel.G, b=T0, d=Sel.G),
        Uop(Op.MOV, a=Sel.E, b=T1, d=Sel.E),
    ),
    "xadd_mem": (
        Uop(Op.MOV, d=T0, intent=True, **_EA_LOAD),
        # --- point of no return: the load has checked the store ---
        Uop(Op.ADD, a=T0, b=Sel.G, d=T1, flags=_ALL),
        Uop(Op.MOV, b=T1, **_EA_STORE),
        Uop(Op.MOV, a=Sel.G, b=T0, d=Sel.G),
    ),
    "cmpxchg8b": (
        Uop(Op.MOV, d=T0, intent=True, align=True, **_EA_LOAD),
        Uop(Op.MOV, d=T1, intent=True, disp=1, scaled=True, **_EA_LOAD),
        # --- point of no return: the loads have checked the stores ---
        Uop(Op.XOR, a=Reg.RAX, b=T0, d=T2),
        Uop(Op.XOR, a=Reg.RDX, b=T1, d=T3),
        Uop(Op.OR, a=T2, b=T3, flags="z"),
        Uop(Op.CMOV, a=T0, b=Reg.RBX, d=T2, cond=4),
        Uop(Op.CMOV, a=T1, b=Reg.RCX, d=T3, cond=4),
        Uop(Op.MOV, b=T2, **_EA_STORE),
        Uop(Op.MOV, b=T3, disp=1, scaled=True, **_EA_STORE),
        Uop(Op.CMOVK, a=Reg.RAX, b=T0, d=Reg.RAX, cond=5),
        Uop(Op.CMOVK, a=Reg.RDX, b=T1, d=Reg.RDX, cond=5),
    ),
    "bt_mem": _bit_string(Op.BT),
    "bts_mem": _bit_string(Op.BTS),
    "btr_mem": _bit_string(Op.BTR),
    "btc_mem": _bit_string(Op.BTC),
    "mulx": (
        Uop(Op.MUL, a=Reg.RDX, b=Sel.E, d=Sel.V, amode=AMode.EA),
        Uop(Op.MULHI, d=Sel.G),
    ),
    "xlat": (
        Uop(Op.MOVZX, b=Reg.RAX, d=T0, bsize=Size.B, **_Q),
        Uop(Op.ADD, a=T0, b=Reg.RBX, d=T0, **_Q),
        Uop(Op.MOV, a=Reg.RAX, b=Sel.MEM, d=Reg.RAX, amode=AMode.BASE, base=T0, seg=True, load=True),
    ),
    "enter": (
        Uop(Op.MOV, b=Sel.ADDR, d=T0, amode=AMode.BASE, base=Reg.RSP, disp=-1, scaled=True, **_Q),
        Uop(Op.MOV, b=Reg.RBP, amode=AMode.BASE, base=Reg.RSP, disp=-1, scaled=True, store=True, stack=True),
        Uop(Op.MOV, b=T0, d=T2, **_Q),
        Uop(Op.MOV, b=Sel.MEM, d=T1, load=True, when=When.TURN, **_OUTER),
        Uop(Op.MOV, b=T1, store=True, when=When.TURN, back=True, **_INNER),
        Uop(Op.MOV, b=T0, store=True, when=When.NESTED, **_INNER),
        Uop(Op.MOV, b=Sel.ADDR, d=T2, when=When.NESTED, **_INNER, **_Q),
        Uop(Op.MOVZX, b=Sel.IMM, d=T1, bsize=Size.W, **_Q),
        Uop(Op.SUB, a=T2, b=T1, d=T2, **_Q),
        Uop(Op.MOV, amode=AMode.BASE, base=T2, probe=True, intent=True, stack=True),
        # --- point of no return; what was stored lies below rsp ---
        Uop(Op.MOV, a=Reg.RBP, b=T0, d=Reg.RBP),
        Uop(Op.MOV, b=T2, d=Reg.RSP, **_Q),
    ),
    "ins": (_REPCHK, *_INS),
    "outs": (_REPCHK, *_OUTS),
    # with CPL above IOPL (`asking`)
    "ask_ins_dx": (_REPCHK, *_ask(Reg.RDX), *_INS),
    "ask_outs_dx": (_REPCHK, *_ask(Reg.RDX), *_OUTS),
    **{f"ask_in_{name}": (*_ask(port), Uop(Op.IN, a=Reg.RAX, b=port, d=Reg.RAX)) for name, port in _PORTS.items()},
    **{f"ask_out_{name}": (*_ask(port), Uop(Op.OUT, a=Reg.RAX, b=port, sysop=SysOp.OUT)) for name, port in _PORTS.items()},
    "movs": (
        _REPCHK,
        Uop(Op.MOV, b=Sel.MEM, d=T0, amode=AMode.SI, load=True),
        Uop(Op.MOV, b=T0, amode=AMode.DI, store=True),
        _STEP_SI,
        _STEP_DI,
        _REPNEXT,
    ),
    "stos": (
        _REPCHK,
        Uop(Op.MOV, b=Reg.RAX, amode=AMode.DI, store=True),
        _STEP_DI,
        _REPNEXT,
    ),
    "lods": (
        _REPCHK,
        Uop(Op.MOV, a=Reg.RAX, b=Sel.MEM, d=Reg.RAX, amode=AMode.SI, load=True),
        _STEP_SI,
        _REPNEXT,
    ),
    "cmps": (
        _REPCHK,
        Uop(Op.MOV, b=Sel.MEM, d=T0, amode=AMode.DI, load=True),  # first: processors report its fault
        Uop(Op.SUB, a=Sel.MEM, b=T0, amode=AMode.SI, load=True, flags=_ALL),
        _STEP_SI,
        _STEP_DI,
        _REPNEXT_COND,
    ),
    "scas": (
        _REPCHK,
        Uop(Op.SUB, a=Reg.RAX, b=Sel.MEM, amode=AMode.DI, load=True, flags=_ALL),
        _STEP_DI,
        _REPNEXT_COND,
    ),
    "rdtsc": (
        Uop(Op.RDTSC, d=Reg.RAX),
        Uop(Op.RDTSC, d=Reg.RDX, one=True),
    ),
    "cpuid": (
        Uop(Op.MOV, b=Reg.RAX, d=T0),
        Uop(Op.MOV, b=Reg.RCX, d=T1),
        Uop(Op.CPUID, a=T0, b=T1, d=Reg.RAX, bsize=Size.B),
        Uop(Op.CPUID, a=T0, b=T1, d=Reg.RBX, bsize=Size.W),
        Uop(Op.CPUID, a=T0, b=T1, d=Reg.RCX, bsize=Size.D),
        Uop(Op.CPUID, a=T0, b=T1, d=Reg.RDX, bsize=Size.Q, sysop=SysOp.SYNC),
    ),
    "rdtscp": (
        Uop(Op.RDTSC, d=Reg.RAX),
        Uop(Op.RDTSC, d=Reg.RDX, one=True),
        Uop(Op.RDSYS, d=Reg.RCX, sysreg=SysReg.TSC_AUX),
    ),
    "rdmsr": (
        Uop(Op.RDMSR, a=Reg.RCX, d=Reg.RAX),
        # --- point of no return ---
        Uop(Op.RDMSR, a=Reg.RCX, d=Reg.RDX, bsize=Size.W),
    ),
    "wrmsr": (
        Uop(Op.PAIR, a=Reg.RDX, b=Reg.RAX, d=T0),
        Uop(Op.WRMSR, a=Reg.RCX, b=T0, sysop=SysOp.WRITE, **_Q),
    ),
    "syscall": (
        Uop(Op.CALL, d=Reg.RCX, **_Q),  # for its result, the next instruction
        Uop(Op.SYSCALL, d=Reg.R11, sysop=SysOp.SYSCALL, sysreg=SysReg.LSTAR, **_Q),
    ),
    "lmsw": (_SELECTOR, Uop(Op.LMSW, b=T0, sysop=SysOp.WRITE, sysreg=SysReg.CR0, **_Q)),
    "sgdt": (
        Uop(Op.RDSYS, sysreg=SysReg.GDT_LIMIT, msize=Size.W, **_EA_STORE),
        Uop(Op.RDSYS, sysreg=SysReg.GDT_BASE, disp=2, **_EA_STORE),
    ),
    "sidt": (
        Uop(Op.RDSYS, sysreg=SysReg.IDT_LIMIT, msize=Size.W, **_EA_STORE),
        Uop(Op.RDSYS, sysreg=SysReg.IDT_BASE, disp=2, **_EA_STORE),
    ),
    "lgdt": (
        Uop(Op.MOV, d=T0, msize=Size.W, **_EA_LOAD),
        Uop(Op.MOV, d=T1, disp=2, **_EA_LOAD),
        Uop(Op.CANON, a=T1),
        # --- point of no return ---
        Uop(Op.WRSYS, b=T1, sysop=SysOp.WRITE, sysreg=SysReg.GDT_BASE),
        Uop(Op.WRSYS, b=T0, sysop=SysOp.WRITE, sysreg=SysReg.GDT_LIMIT),
    ),
    "lidt": (
        Uop(Op.MOV, d=T0, msize=Size.W, **_EA_LOAD),
        Uop(Op.MOV, d=T1, disp=2, **_EA_LOAD),
        Uop(Op.CANON, a=T1),
        # --- point of no return ---
        Uop(Op.WRSYS, b=T1, sysop=SysOp.WRITE, sysreg=SysReg.IDT_BASE),
        Uop(Op.WRSYS, b=T0, sysop=SysOp.WRITE, sysreg=SysReg.IDT_LIMIT),
    ),
    "ltr": (_SELECTOR, *_task(Size.B)),
    "lldt": (_SELECTOR, *_task(Size.W)),
    "mov_seg": (
        _SELECTOR,
        Uop(Op.SEGADDR, a=T0, b=Sel.FIELD, d=T5, sysreg=SysReg.ES),
        Uop(Op.SEGCHK, d=T6, b=Sel.FIELD, sysreg=SysReg.ES, if_switch=True, **_TOUCH),
        Uop(Op.WRSYS, a=Sel.FIELD, b=T6, sysop=SysOp.SEGMENT, sysreg=SysReg.ES, **_Q),
    ),
    **{f"l{reg.name.lower()}": _far_pointer(reg) for reg in (SysReg.SS, SysReg.FS, SysReg.GS)},
    **{f"pop_{reg.name.lower()}": _pop_segment(reg) for reg in (SysReg.FS, SysReg.GS)},
    "lar": _look(Op.LAR, Sel.G),
    "lsl": _look(Op.LSL, Sel.G),
    "verr": _look(Op.VERR, Sel.NONE),
    "verw": _look(Op.VERW, Sel.NONE),
    "jmp_far": (
        *_FAR,
        # --- point of no return ---
        Uop(Op.JMPA, a=T0, sysop=SysOp.FAR, **_Q),
    ),
    "call_far": (
        *_FAR,
        _below(1, Op.RDSYS, sysreg=SysReg.CS),
        _below(2, Op.CALL),
        # --- point of no return ---
        Uop(Op.JMPA, a=T0, amode=AMode.SETSP, base=Reg.RSP, disp=-2, scaled=True, sysop=SysOp.FAR),
    ),
    "lret": (
        _frame(0, T0),
        _frame(1, T1),
        Uop(Op.ADD, a=Reg.RSP, b=Sel.IMM, d=T2, **_Q),
        Uop(Op.CSADDR, a=T1, d=T5),
        Uop(Op.CSCHK, b=T2, d=T6, **_TOUCH),
        _frame(2, T3, base=T6, if_switch=True),
        Uop(Op.SSADDR, b=Sel.MEM, d=T5, if_switch=True, **_item(3, base=T6)),
        Uop(Op.SSCHK, b=T0, if_switch=True, **_TOUCH),
        Uop(Op.RETSP, a=T3, b=Sel.ADDR, d=T4, amode=AMode.BASE, base=Reg.RSP, disp=2, scaled=True),
        Uop(Op.ADD, a=T4, b=Sel.IMM, d=T4, **_Q),
        # --- point of no return ---
        Uop(Op.JMPA, a=T0, b=T4, d=Reg.RSP, sysop=SysOp.FAR, **_Q),
    ),
    "iret": (
        _frame(0, T0),
        _frame(1, T1),
        _frame(2, T2),
        _frame(3, T3),
        Uop(Op.CSADDR, a=T1, b=Sel.MEM, d=T5, **_item(4)),
        Uop(Op.CSCHK, d=T5, bsize=Size.W, **_TOUCH),
        Uop(Op.SSCHK, b=T0, if_switch=True, **_TOUCH),
        # --- point of no return ---
        Uop(Op.MOV, b=T2, sysop=SysOp.IRETF),  # first: what may change depends on the old CPL
        Uop(Op.JMPA, a=T0, b=T3, d=Reg.RSP, sysop=SysOp.FAR, **_Q),
    ),
    "deliver": (
        Uop(Op.MOV, b=Sel.MEM, d=T0, amode=AMode.GATE, load=True, implicit=True, **_Q),
        Uop(Op.GATE, a=T0, b=Sel.MEM, d=T5, amode=AMode.GATE, disp=8, load=True, implicit=True, **_Q),
        Uop(Op.CODE, d=T5, **_TOUCH),
        Uop(Op.STACK, a=Sel.MEM, b=Reg.RSP, d=T6, amode=AMode.BASE, base=T5, load=True, if_switch=True, implicit=True, **_Q),
        Uop(Op.TARGET, d=T2, **_Q),
        _push(-8, op=Op.RDSYS, sysreg=SysReg.SS),
        _push(-16, op=Op.MOV, b=Reg.RSP),
        _push(-24, op=Op.EVENT, bsize=Size.W),
        _push(-32, op=Op.RDSYS, sysreg=SysReg.CS),
        _push(-40, op=Op.EVENT, bsize=Size.B),
        # --- point of no return, without an error code: first, because to skip a row takes a cycle ---
        Uop(Op.JMPA, a=T2, amode=AMode.SETSP, base=T6, disp=-40, sysop=SysOp.DELIVER, when=When.NOERROR, **_Q),
        _push(-48, op=Op.EVENT, bsize=Size.D, when=When.ERROR),
        # --- point of no return, with one ---
        Uop(Op.JMPA, a=T2, amode=AMode.SETSP, base=T6, disp=-48, sysop=SysOp.DELIVER, when=When.ERROR, **_Q),
    ),
}


def asking(row: Row) -> str:
    """The routine of a row with `hw.isa.rows.Priv.IO` where CPL is above IOPL."""
    return f"ask_{row.mnemonic}_{'imm' if 'Ib' in row.operands else 'dx'}"
