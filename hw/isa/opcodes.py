"""THE table: one line per encoding, in opcode order. Notation: `hw.isa.rows`. Multi-uop instructions name a routine.

To add an instruction, add a line (and a routine in `hw/isa/routines.py` if one uop is not enough); the length decoder, the
decoder, the table page, coverage and the generator of differential tests follow from it.
"""

from hw.isa.facts import Op, Reg, Size, SysOp, SysReg
from hw.isa.rows import (
    LOCK,
    MEM,
    NO66,
    NOREP,
    NOREXB,
    REG,
    REP,
    REXB,
    RM,
    AMode,
    Flow,
    Need,
    Priv,
    Raise,
    Row,
    Sel,
    SizeRule,
    check,
    parse,
)

_ALL = "cpazso"
_LOGIC = "cpzso"
_INC = "pazso"
_ALU = (Op.ADD, Op.OR, Op.ADC, Op.SBB, Op.AND, Op.SUB, Op.XOR, Op.SUB)
_ALU_NAMES = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
_SHIFTS = (Op.ROL, Op.ROR, Op.RCL, Op.RCR, Op.SHL, Op.SHR, Op.SHL, Op.SAR)
_SHIFT_NAMES = ("rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar")
_CPL0 = dict(priv=Priv.CPL0)
_IOPL = dict(priv=Priv.IOPL)
_IO = dict(priv=Priv.IO)
_TSD = dict(priv=Priv.TSD)
_UMIP = dict(priv=Priv.UMIP)
_PLAIN = (NO66, NOREP)
_SYNC = dict(op=Op.SYS, sysop=SysOp.SYNC)
_BARE = dict(a=Sel.NONE, d=Sel.NONE, amode=AMode.NONE, size=SizeRule.D)

_rows: list[Row] = []


def E(encoding: str, mnemonic: str, operands: str = "", op: Op = Op.MOV, **marks) -> None:
    """Adds a line to the table; arguments as `hw.isa.rows.parse`."""
    _rows.append(parse(encoding, mnemonic, operands, op, **marks))


def _alu(n: int) -> dict:
    """Flags, legality and destination of ALU operation n of the eight."""
    logic = _ALU[n] in (Op.OR, Op.AND, Op.XOR)
    return dict(W=_ALL, U="a" if logic else "") | (dict(d=Sel.NONE) if n == 7 else {})


for n in range(8):
    lock = {} if n == 7 else dict(ok=LOCK)
    E(f"{8 * n + 0:02X} /r", _ALU_NAMES[n], "Eb,Gb", _ALU[n], **_alu(n), **lock)
    E(f"{8 * n + 1:02X} /r", _ALU_NAMES[n], "Ev,Gv", _ALU[n], **_alu(n), **lock)
    E(f"{8 * n + 2:02X} /r", _ALU_NAMES[n], "Gb,Eb", _ALU[n], **_alu(n))
    E(f"{8 * n + 3:02X} /r", _ALU_NAMES[n], "Gv,Ev", _ALU[n], **_alu(n))
    E(f"{8 * n + 4:02X}", _ALU_NAMES[n], "AL,Ib", _ALU[n], **_alu(n))
    E(f"{8 * n + 5:02X}", _ALU_NAMES[n], "rAX,Iz", _ALU[n], **_alu(n))

_PUSH = dict(amode=AMode.PUSH, store=True, stack=True, size=SizeRule.D64)
_POP = dict(amode=AMode.POP, load=True, stack=True, size=SizeRule.D64)

E("50+r",      "push",    "Zv",       Op.MOV, a=Sel.NONE, b=Sel.Z, d=Sel.NONE, **_PUSH)
E("58+r",      "pop",     "Zv",       Op.MOV, a=Sel.Z, b=Sel.MEM, **_POP)
E("63 /r",     "movsxd",  "Gv,Ed",    Op.MOVSX, bsize=Size.D)
E("6C",        "ins",     "Yb,DX",    size=SizeRule.B, ok=REP, routine="ins", **_IO)
E("6D",        "ins",     "Yz,DX",    size=SizeRule.Z, ok=REP, routine="ins", **_IO)
E("6E",        "outs",    "DX,Xb",    size=SizeRule.B, ok=REP, routine="outs", **_IO)
E("6F",        "outs",    "DX,Xz",    size=SizeRule.Z, ok=REP, routine="outs", **_IO)
E("68",        "push",    "Iz",       Op.MOV, a=Sel.NONE, b=Sel.IMM, d=Sel.NONE, **_PUSH)
E("69 /r",     "imul",    "Gv,Ev,Iz", Op.IMUL3, W="co", U="pazs")
E("6A",        "push",    "Ib",       Op.MOV, a=Sel.NONE, b=Sel.IMM, d=Sel.NONE, **_PUSH)
E("6B /r",     "imul",    "Gv,Ev,Ib", Op.IMUL3, W="co", U="pazs")
E("70+cc",     "j",       "Jb",       Op.JCC, a=Sel.NONE, d=Sel.NONE, size=SizeRule.Q, flow=Flow.COND)

for n in range(8):
    lock = {} if n == 7 else dict(ok=LOCK)
    E(f"80 /{n}", _ALU_NAMES[n], "Eb,Ib", _ALU[n], **_alu(n), **lock)
    E(f"81 /{n}", _ALU_NAMES[n], "Ev,Iz", _ALU[n], **_alu(n), **lock)
    E(f"83 /{n}", _ALU_NAMES[n], "Ev,Ib", _ALU[n], **_alu(n), **lock)

E("84 /r",     "test",    "Eb,Gb",    Op.AND, W=_ALL, U="a", d=Sel.NONE)
E("85 /r",     "test",    "Ev,Gv",    Op.AND, W=_ALL, U="a", d=Sel.NONE)
E("86 /r",     "xchg",    "Eb,Gb",    ok=(LOCK, MEM), routine="xchg_mem")
E("86 /r",     "xchg",    "Eb,Gb",    ok=REG, routine="xchg_reg")
E("87 /r",     "xchg",    "Ev,Gv",    ok=(LOCK, MEM), routine="xchg_mem")
E("87 /r",     "xchg",    "Ev,Gv",    ok=REG, routine="xchg_reg")
E("88 /r",     "mov",     "Eb,Gb")
E("89 /r",     "mov",     "Ev,Gv")
E("8A /r",     "mov",     "Gb,Eb")
E("8B /r",     "mov",     "Gv,Ev")
E("8C /r",     "mov",     "Ev,Sw",    Op.RDSYS, b=Sel.FIELD, ok=REG, sysreg=SysReg.ES)
E("8C /r",     "mov",     "Ev,Sw",    Op.RDSYS, b=Sel.FIELD, ok=MEM, sysreg=SysReg.ES, size=SizeRule.W)
E("8D /r",     "lea",     "Gv,M",     Op.MOV, b=Sel.ADDR, ok=MEM)
E("8E /r",     "mov",     "Sw,Ew",    Op.WRSYS, a=Sel.FIELD, b=Sel.E, d=Sel.NONE, sysop=SysOp.WRITE, sysreg=SysReg.ES, routine="mov_seg")
E("8F /0",     "pop",     "Ev",       size=SizeRule.D64, ok=MEM, routine="pop_mem")
E("8F /0",     "pop",     "Ev",       Op.MOV, b=Sel.MEM, ok=REG, **_POP)
E("90",        "nop",     "",         Op.MOV, ok=NOREXB, size=SizeRule.V)
E("90",        "xchg",    "Zv,rAX",   ok=REXB, routine="xchg_acc")
E("F3 90",     "pause",   "",         Op.MOV, size=SizeRule.V)  # with REX.B too: AMD has xchg there
for n in range(1, 8):
    E(f"{0x90 + n:02X}", "xchg", "Zv,rAX", routine="xchg_acc")
E("98",        "cbw",     "rAX",      Op.MOVSX, b=Reg.RAX, bsize=Size.Q)  # bsize Q: half of the operand size
E("99",        "cwd",     "rDX",      Op.SIGN, a=Reg.RDX, b=Reg.RAX, d=Reg.RDX)
E("9B",        "wait",    "",         Op.MOV, size=SizeRule.V, raises=Raise.WAIT)
E("9C",        "pushf",   "",         Op.RDFLAGS, **_PUSH)
E("9D",        "popf",    "",         Op.MOV, b=Sel.MEM, sysop=SysOp.POPF, W=_ALL, **_POP)
E("9E",        "sahf",    "",         Op.SAHF, a=Reg.RAX, size=SizeRule.B, W="cpazs")
E("9F",        "lahf",    "",         Op.LAHF, a=Reg.RAX, d=Reg.RAX, size=SizeRule.W)
E("A0",        "mov",     "AL,Ob",    Op.MOV, b=Sel.MEM, amode=AMode.MOFFS, load=True)
E("A1",        "mov",     "rAX,Ov",   Op.MOV, b=Sel.MEM, amode=AMode.MOFFS, load=True)
E("A2",        "mov",     "Ob,AL",    Op.MOV, a=Sel.NONE, d=Sel.NONE, amode=AMode.MOFFS, store=True, size=SizeRule.B)
E("A3",        "mov",     "Ov,rAX",   Op.MOV, a=Sel.NONE, d=Sel.NONE, amode=AMode.MOFFS, store=True, size=SizeRule.V)
E("A4",        "movs",    "Yb,Xb",    size=SizeRule.B, ok=REP, routine="movs")
E("A5",        "movs",    "Yv,Xv",    size=SizeRule.V, ok=REP, routine="movs")
E("A6",        "cmps",    "Xb,Yb",    size=SizeRule.B, ok=REP, routine="cmps", W=_ALL)
E("A7",        "cmps",    "Xv,Yv",    size=SizeRule.V, ok=REP, routine="cmps", W=_ALL)
E("A8",        "test",    "AL,Ib",    Op.AND, W=_ALL, U="a", d=Sel.NONE)
E("A9",        "test",    "rAX,Iz",   Op.AND, W=_ALL, U="a", d=Sel.NONE)
E("AA",        "stos",    "Yb,AL",    size=SizeRule.B, ok=REP, routine="stos")
E("AB",        "stos",    "Yv,rAX",   size=SizeRule.V, ok=REP, routine="stos")
E("AC",        "lods",    "AL,Xb",    size=SizeRule.B, ok=REP, routine="lods")
E("AD",        "lods",    "rAX,Xv",   size=SizeRule.V, ok=REP, routine="lods")
E("AE",        "scas",    "AL,Yb",    size=SizeRule.B, ok=REP, routine="scas", W=_ALL)
E("AF",        "scas",    "rAX,Yv",   size=SizeRule.V, ok=REP, routine="scas", W=_ALL)
E("B0+r",      "mov",     "Zb,Ib")
E("B8+r",      "mov",     "Zv,Iv")


def _shift(n: int) -> dict:
    """Flags of shift n of the eight: rotates leave p, a, z and s alone."""
    return dict(W="co", U="o") if n < 4 else dict(W=_ALL, U="ao")


for n in range(8):
    E(f"C0 /{n}", _SHIFT_NAMES[n], "Eb,Ib", _SHIFTS[n], **_shift(n))
    E(f"C1 /{n}", _SHIFT_NAMES[n], "Ev,Ib", _SHIFTS[n], **_shift(n))
    E(f"D0 /{n}", _SHIFT_NAMES[n], "Eb,1",  _SHIFTS[n], **_shift(n))
    E(f"D1 /{n}", _SHIFT_NAMES[n], "Ev,1",  _SHIFTS[n], **_shift(n))
    E(f"D2 /{n}", _SHIFT_NAMES[n], "Eb,CL", _SHIFTS[n], **_shift(n))
    E(f"D3 /{n}", _SHIFT_NAMES[n], "Ev,CL", _SHIFTS[n], **_shift(n))

_RET = dict(amode=AMode.POP, load=True, stack=True, size=SizeRule.Q, a=Sel.MEM, d=Sel.NONE, flow=Flow.RET)

E("C2",        "ret",     "Iw",       Op.JMPA, b=Sel.NONE, **_RET)
E("C3",        "ret",     "",         Op.JMPA, **_RET)
E("C6 /0",     "mov",     "Eb,Ib")
E("C7 /0",     "mov",     "Ev,Iz")
E("C8",        "enter",   "Iw,Ib",    size=SizeRule.D64, routine="enter")
E("C9",        "leave",   "",         Op.MOV, a=Reg.RBP, b=Sel.MEM, d=Reg.RBP, amode=AMode.LEAVE, load=True, stack=True, size=SizeRule.D64)
E("CA",        "lret",    "Iw",       size=SizeRule.V, routine="lret")
E("CB",        "lret",    "",         size=SizeRule.V, routine="lret")
E("CC",        "int3",    "",         raises=Raise.INT3, size=SizeRule.D)
E("CD",        "int",     "Ib",       raises=Raise.INTN, size=SizeRule.D, a=Sel.NONE, d=Sel.NONE)
E("CF",        "iret",    "",         size=SizeRule.V, routine="iret", priv=Priv.NT)
E("D7",        "xlat",    "",         size=SizeRule.B, routine="xlat")
E("E0",        "loopne",  "Jb",       Op.LOOP, a=Reg.RCX, d=Reg.RCX, cond=5, bsize=Size.W, size=SizeRule.A, flow=Flow.COND)
E("E1",        "loope",   "Jb",       Op.LOOP, a=Reg.RCX, d=Reg.RCX, cond=4, bsize=Size.W, size=SizeRule.A, flow=Flow.COND)
E("E2",        "loop",    "Jb",       Op.LOOP, a=Reg.RCX, d=Reg.RCX, size=SizeRule.A, flow=Flow.COND)
E("E3",        "jrcxz",   "Jb",       Op.JCXZ, a=Reg.RCX, d=Sel.NONE, size=SizeRule.A, flow=Flow.COND)
E("E4",        "in",      "AL,Ib",    Op.IN, **_IO)
E("E5",        "in",      "eAX,Ib",   Op.IN, size=SizeRule.Z, **_IO)
E("E6",        "out",     "Ib,AL",    Op.OUT, a=Reg.RAX, b=Sel.IMM, d=Sel.NONE, sysop=SysOp.OUT, size=SizeRule.B, **_IO)
E("E7",        "out",     "Ib,eAX",   Op.OUT, a=Reg.RAX, b=Sel.IMM, d=Sel.NONE, sysop=SysOp.OUT, size=SizeRule.Z, **_IO)
E("E8",        "call",    "Jz",       Op.CALL, a=Sel.NONE, d=Sel.NONE, flow=Flow.CALL, **_PUSH | dict(size=SizeRule.Q))
E("E9",        "jmp",     "Jz",       Op.JMP, a=Sel.NONE, d=Sel.NONE, size=SizeRule.Q, flow=Flow.JUMP)
E("EB",        "jmp",     "Jb",       Op.JMP, a=Sel.NONE, d=Sel.NONE, size=SizeRule.Q, flow=Flow.JUMP)
E("EC",        "in",      "AL,DX",    Op.IN, **_IO)
E("ED",        "in",      "eAX,DX",   Op.IN, size=SizeRule.Z, **_IO)
E("EE",        "out",     "DX,AL",    Op.OUT, a=Reg.RAX, b=Reg.RDX, d=Sel.NONE, sysop=SysOp.OUT, size=SizeRule.B, **_IO)
E("EF",        "out",     "DX,eAX",   Op.OUT, a=Reg.RAX, b=Reg.RDX, d=Sel.NONE, sysop=SysOp.OUT, size=SizeRule.Z, **_IO)
E("F1",        "int1",    "",         raises=Raise.ICEBP, size=SizeRule.D)
E("F4",        "hlt",     "",         Op.SYS, sysop=SysOp.HLT, size=SizeRule.D, **_CPL0)
E("F5",        "cmc",     "",         Op.CMC, W="c", size=SizeRule.D)
E("F6 /0",     "test",    "Eb,Ib",    Op.AND, W=_ALL, U="a", d=Sel.NONE)
E("F6 /1",     "test",    "Eb,Ib",    Op.AND, W=_ALL, U="a", d=Sel.NONE)
E("F6 /2",     "not",     "Eb",       Op.NOT, ok=LOCK)
E("F6 /3",     "neg",     "Eb",       Op.NEG, W=_ALL, ok=LOCK)
E("F6 /4",     "mul",     "Eb",       Op.MUL, a=Reg.RAX, b=Sel.E, d=Reg.RAX, W="co", U="pazs")
E("F6 /5",     "imul",    "Eb",       Op.IMUL, a=Reg.RAX, b=Sel.E, d=Reg.RAX, W="co", U="pazs")
E("F6 /6",     "div",     "Eb",       Op.DIV, a=Reg.RAX, b=Sel.E, d=Reg.RAX, U=_ALL)
E("F6 /7",     "idiv",    "Eb",       Op.IDIV, a=Reg.RAX, b=Sel.E, d=Reg.RAX, U=_ALL)
E("F7 /0",     "test",    "Ev,Iz",    Op.AND, W=_ALL, U="a", d=Sel.NONE)
E("F7 /1",     "test",    "Ev,Iz",    Op.AND, W=_ALL, U="a", d=Sel.NONE)
E("F7 /2",     "not",     "Ev",       Op.NOT, ok=LOCK)
E("F7 /3",     "neg",     "Ev",       Op.NEG, W=_ALL, ok=LOCK)
E("F7 /4",     "mul",     "Ev",       W="co", U="pazs", routine="mul")
E("F7 /5",     "imul",    "Ev",       W="co", U="pazs", routine="imul")
E("F7 /6",     "div",     "Ev",       U=_ALL, routine="div")
E("F7 /7",     "idiv",    "Ev",       U=_ALL, routine="idiv")
E("F8",        "clc",     "",         Op.CLC, W="c", size=SizeRule.D)
E("F9",        "stc",     "",         Op.STC, W="c", size=SizeRule.D)
E("FA",        "cli",     "",         Op.SYS, sysop=SysOp.CLI, size=SizeRule.D, **_IOPL)
E("FB",        "sti",     "",         Op.SYS, sysop=SysOp.STI, size=SizeRule.D, **_IOPL)
E("FC",        "cld",     "",         Op.SYS, sysop=SysOp.CLD, size=SizeRule.D)
E("FD",        "std",     "",         Op.SYS, sysop=SysOp.STD, size=SizeRule.D)
E("FE /0",     "inc",     "Eb",       Op.INC, W=_INC, ok=LOCK)
E("FE /1",     "dec",     "Eb",       Op.DEC, W=_INC, ok=LOCK)
E("FF /0",     "inc",     "Ev",       Op.INC, W=_INC, ok=LOCK)
E("FF /1",     "dec",     "Ev",       Op.DEC, W=_INC, ok=LOCK)
E("FF /2",     "call",    "Ev",       Op.CALLA, d=Sel.NONE, ok=REG, flow=Flow.CALLIND, **_PUSH | dict(size=SizeRule.Q))
E("FF /2",     "call",    "Ev",       size=SizeRule.Q, ok=MEM, routine="call_mem")
E("FF /3",     "lcall",   "M",        size=SizeRule.V, ok=MEM, routine="call_far")
E("FF /4",     "jmp",     "Ev",       Op.JMPA, b=Sel.NONE, d=Sel.NONE, size=SizeRule.Q, flow=Flow.INDIRECT)
E("FF /5",     "ljmp",    "M",        size=SizeRule.V, ok=MEM, routine="jmp_far")
E("FF /6",     "push",    "Ev",       Op.MOV, a=Sel.NONE, b=Sel.E, d=Sel.NONE, ok=REG, **_PUSH)
E("FF /6",     "push",    "Ev",       size=SizeRule.D64, ok=MEM, routine="push_mem")

E("0F 00 /0",  "sldt",    "Ev",       Op.RDSYS, b=Sel.NONE, sysreg=SysReg.LDTR, ok=REG, **_UMIP)
E("0F 00 /0",  "sldt",    "Ev",       Op.RDSYS, b=Sel.NONE, sysreg=SysReg.LDTR, ok=MEM, size=SizeRule.W, **_UMIP)
E("0F 00 /1",  "str",     "Ev",       Op.RDSYS, b=Sel.NONE, sysreg=SysReg.TR, ok=REG, **_UMIP)
E("0F 00 /1",  "str",     "Ev",       Op.RDSYS, b=Sel.NONE, sysreg=SysReg.TR, ok=MEM, size=SizeRule.W, **_UMIP)
E("0F 00 /2",  "lldt",    "Ew",       routine="lldt", **_CPL0)
E("0F 00 /3",  "ltr",     "Ew",       routine="ltr", **_CPL0)
E("0F 00 /4",  "verr",    "Ew",       routine="verr", W="z")
E("0F 00 /5",  "verw",    "Ew",       routine="verw", W="z")
E("0F 01 /0",  "sgdt",    "M",        size=SizeRule.Q, ok=MEM, routine="sgdt", **_UMIP)
E("0F 01 /1",  "sidt",    "M",        size=SizeRule.Q, ok=MEM, routine="sidt", **_UMIP)
E("0F 01 /2",  "lgdt",    "M",        size=SizeRule.Q, ok=MEM, routine="lgdt", **_CPL0)
E("0F 01 /3",  "lidt",    "M",        size=SizeRule.Q, ok=MEM, routine="lidt", **_CPL0)
E("0F 01 /7",  "invlpg",  "M",        Op.SYS, sysop=SysOp.SYNC, a=Sel.NONE, d=Sel.NONE, size=SizeRule.B, ok=MEM, amode=AMode.NONE, **_CPL0)
E("0F 01 /1",  "clac",    "R",        Op.SYS, sysop=SysOp.CLAC, ok=(REG, RM[2], *_PLAIN), **_BARE, **_CPL0)
E("0F 01 /1",  "stac",    "R",        Op.SYS, sysop=SysOp.STAC, ok=(REG, RM[3], *_PLAIN), **_BARE, **_CPL0)
E("0F 01 /4",  "smsw",    "Ev",       Op.RDSYS, b=Sel.NONE, sysreg=SysReg.CR0, ok=REG, **_UMIP)
E("0F 01 /4",  "smsw",    "Ev",       Op.RDSYS, b=Sel.NONE, sysreg=SysReg.CR0, ok=MEM, size=SizeRule.W, **_UMIP)
E("0F 01 /5",  "serialize", "R",      Op.SYS, sysop=SysOp.SYNC, ok=(REG, RM[0], *_PLAIN), **_BARE)
E("0F 01 /6",  "lmsw",    "Ew",       routine="lmsw", **_CPL0)
E("0F 01 /7",  "rdtscp",  "R",        size=SizeRule.D, ok=(REG, RM[1]), routine="rdtscp", **_TSD)
E("0F 01 /7",  "swapgs",  "R",        Op.SYS, sysop=SysOp.SWAPGS, a=Sel.NONE, d=Sel.NONE, size=SizeRule.Q, ok=(REG, RM[0]), amode=AMode.NONE, **_CPL0)
E("0F 02 /r",  "lar",     "Gv,Ew",    routine="lar", W="z")
E("0F 03 /r",  "lsl",     "Gv,Ew",    routine="lsl", W="z")
E("0F 05",     "syscall", "",         size=SizeRule.Q, routine="syscall", need=Need.SCE)
E("0F 06",     "clts",    "",         Op.CLTS, sysop=SysOp.WRITE, sysreg=SysReg.CR0, size=SizeRule.Q, **_CPL0)
E("0F 07",     "sysret",  "",         Op.SYSRET, a=Reg.RCX, b=Reg.R11, sysop=SysOp.SYSRET, size=SizeRule.Y, need=Need.SCE, **_CPL0)
E("0F 08",     "invd",    "",         size=SizeRule.D, **_SYNC, **_CPL0)
E("0F 09",     "wbinvd",  "",         size=SizeRule.D, **_SYNC, **_CPL0)
E("0F 0B",     "ud2",     "",         raises=Raise.UD, size=SizeRule.D)
E("0F 0D /r",  "prefetchw", "M",      Op.MOV, ok=MEM, a=Sel.NONE, d=Sel.NONE, b=Sel.NONE, amode=AMode.NONE, size=SizeRule.B)
E("0F 18 /r",  "prefetch", "Ev",      Op.MOV, a=Sel.NONE, d=Sel.NONE, b=Sel.NONE, amode=AMode.NONE, size=SizeRule.B)
for n in range(0x19, 0x20):
    E(f"0F {n:02X} /r", "nop", "Ev", Op.MOV, a=Sel.NONE, d=Sel.NONE, b=Sel.NONE, amode=AMode.NONE)
E("0F 20 /r",  "mov",     "Rq,Cq",    Op.RDSYS, b=Sel.FIELD, sysreg=SysReg.CR0, **_CPL0)
E("0F 21 /r",  "mov",     "Rq,Dq",    Op.RDSYS, b=Sel.FIELD, sysreg=SysReg.DR0, **_CPL0)
E("0F 22 /r",  "mov",     "Cq,Rq",    Op.WRSYS, a=Sel.FIELD, b=Sel.E, d=Sel.NONE, sysop=SysOp.WRITE, sysreg=SysReg.CR0, **_CPL0)
E("0F 23 /r",  "mov",     "Dq,Rq",    Op.WRSYS, a=Sel.FIELD, b=Sel.E, d=Sel.NONE, sysop=SysOp.WRITE, sysreg=SysReg.DR0, **_CPL0)
E("0F 30",     "wrmsr",   "",         size=SizeRule.D, routine="wrmsr", **_CPL0)
E("0F 31",     "rdtsc",   "",         size=SizeRule.D, routine="rdtsc", **_TSD)
E("0F 32",     "rdmsr",   "",         size=SizeRule.D, routine="rdmsr", **_CPL0)
E("0F 33",     "rdpmc",   "",         raises=Raise.GP, size=SizeRule.D)
E("0F 40+cc",  "cmov",    "Gv,Ev",    Op.CMOV)
E("0F 80+cc",  "j",       "Jz",       Op.JCC, a=Sel.NONE, d=Sel.NONE, size=SizeRule.Q, flow=Flow.COND)
E("0F 90+cc",  "set",     "Eb",       Op.SETCC)
E("0F A0",     "push",    "FS",       Op.RDSYS, sysreg=SysReg.FS, **_PUSH)
E("0F A1",     "pop",     "FS",       size=SizeRule.D64, routine="pop_fs")
E("0F A2",     "cpuid",   "",         size=SizeRule.D, routine="cpuid")

_BITS = dict(W="c", U="paso")
_NOTHING = dict(op=Op.MOV, a=Sel.NONE, d=Sel.NONE, amode=AMode.NONE, size=SizeRule.D)
_LINE = dict(op=Op.MOV, a=Sel.NONE, d=Sel.NONE, probe=True, size=SizeRule.B)

E("0F A3 /r",  "bt",      "Ev,Gv",    Op.BT, d=Sel.NONE, ok=REG, **_BITS)
E("0F A3 /r",  "bt",      "Ev,Gv",    ok=MEM, routine="bt_mem", **_BITS)
E("0F A4 /r",  "shld",    "Ev,Gv,Ib", Op.SHLD, W=_ALL, U="ao")
E("0F A5 /r",  "shld",    "Ev,Gv,CL", Op.SHLD, W=_ALL, U="ao")
E("0F A8",     "push",    "GS",       Op.RDSYS, sysreg=SysReg.GS, **_PUSH)
E("0F A9",     "pop",     "GS",       size=SizeRule.D64, routine="pop_gs")
E("0F AB /r",  "bts",     "Ev,Gv",    Op.BTS, ok=REG, **_BITS)
E("0F AB /r",  "bts",     "Ev,Gv",    ok=(MEM, LOCK), routine="bts_mem", **_BITS)
E("0F AC /r",  "shrd",    "Ev,Gv,Ib", Op.SHRD, W=_ALL, U="ao")
E("0F AD /r",  "shrd",    "Ev,Gv,CL", Op.SHRD, W=_ALL, U="ao")
for n, base in enumerate((SysReg.FS_BASE, SysReg.GS_BASE)):
    name, on = ("fs", "gs")[n], dict(need=Need.FSGSBASE, ok=REG)
    E(f"F3 0F AE /{n}", f"rd{name}base", "Ry", Op.RDSYS, sysreg=base, **on)
    E(f"F3 0F AE /{n + 2}", f"wr{name}base", "Ry", Op.WRSYS, a=Sel.NONE, b=Sel.E, d=Sel.NONE, sysop=SysOp.WRITE, sysreg=base, **on)
E("0F AE /5",  "lfence",  "R",        ok=(REG, NO66, NOREP), **_NOTHING)
E("0F AE /6",  "mfence",  "R",        ok=(REG, NO66, NOREP), **_NOTHING)
E("0F AE /7",  "sfence",  "R",        ok=(REG, NO66, NOREP), **_NOTHING)
E("66 0F AE /6", "clwb",  "Mb",       ok=(MEM, NOREP), **_LINE)
E("0F AE /7",  "clflush", "Mb",       ok=(MEM, NOREP), **_LINE)
E("66 0F AE /7", "clflushopt", "Mb",  ok=(MEM, NOREP), **_LINE)
E("0F AF /r",  "imul",    "Gv,Ev",    Op.IMUL2, W="co", U="pazs")
E("0F B0 /r",  "cmpxchg", "Eb,Gb",    ok=(LOCK, MEM), routine="cmpxchg_mem", W=_ALL)
E("0F B0 /r",  "cmpxchg", "Eb,Gb",    ok=REG, routine="cmpxchg_reg", W=_ALL)
E("0F B1 /r",  "cmpxchg", "Ev,Gv",    ok=(LOCK, MEM), routine="cmpxchg_mem", W=_ALL)
E("0F B1 /r",  "cmpxchg", "Ev,Gv",    ok=REG, routine="cmpxchg_reg", W=_ALL)
E("0F B2 /r",  "lss",     "Gv,M",     ok=MEM, routine="lss")
E("0F B3 /r",  "btr",     "Ev,Gv",    Op.BTR, ok=REG, **_BITS)
E("0F B3 /r",  "btr",     "Ev,Gv",    ok=(MEM, LOCK), routine="btr_mem", **_BITS)
E("0F B4 /r",  "lfs",     "Gv,M",     ok=MEM, routine="lfs")
E("0F B5 /r",  "lgs",     "Gv,M",     ok=MEM, routine="lgs")
E("0F B6 /r",  "movzx",   "Gv,Eb",    Op.MOVZX, bsize=Size.B)
E("0F B7 /r",  "movzx",   "Gv,Ew",    Op.MOVZX, bsize=Size.W)
E("F3 0F B8 /r", "popcnt", "Gv,Ev",   Op.POPCNT, W=_ALL)
E("0F B9 /r",  "ud1",     "Gv,Ev",    raises=Raise.UD)
E("0F BA /4",  "bt",      "Ev,Ib",    Op.BT, d=Sel.NONE, **_BITS)
E("0F BA /5",  "bts",     "Ev,Ib",    Op.BTS, ok=LOCK, **_BITS)
E("0F BA /6",  "btr",     "Ev,Ib",    Op.BTR, ok=LOCK, **_BITS)
E("0F BA /7",  "btc",     "Ev,Ib",    Op.BTC, ok=LOCK, **_BITS)
E("0F BB /r",  "btc",     "Ev,Gv",    Op.BTC, ok=REG, **_BITS)
E("0F BB /r",  "btc",     "Ev,Gv",    ok=(MEM, LOCK), routine="btc_mem", **_BITS)
E("0F BC /r",  "bsf",     "Gv,Ev",    Op.BSF, W="z", U="cpaso")
E("F3 0F BC /r", "tzcnt", "Gv,Ev",    Op.TZCNT, W="cz", U="paso")
E("0F BD /r",  "bsr",     "Gv,Ev",    Op.BSR, W="z", U="cpaso")
E("F3 0F BD /r", "lzcnt", "Gv,Ev",    Op.LZCNT, W="cz", U="paso")
E("0F BE /r",  "movsx",   "Gv,Eb",    Op.MOVSX, bsize=Size.B)
E("0F BF /r",  "movsx",   "Gv,Ew",    Op.MOVSX, bsize=Size.W)
E("0F C0 /r",  "xadd",    "Eb,Gb",    ok=(LOCK, MEM), routine="xadd_mem", W=_ALL)
E("0F C0 /r",  "xadd",    "Eb,Gb",    ok=REG, routine="xadd_reg", W=_ALL)
E("0F C1 /r",  "xadd",    "Ev,Gv",    ok=(LOCK, MEM), routine="xadd_mem", W=_ALL)
E("0F C1 /r",  "xadd",    "Ev,Gv",    ok=REG, routine="xadd_reg", W=_ALL)
E("0F C3 /r",  "movnti",  "My,Gy",    Op.MOV, ok=(MEM, NO66, NOREP))
E("0F C7 /1",  "cmpxchg8b", "My",     ok=(MEM, LOCK), routine="cmpxchg8b", W="z")  # with REX.W cmpxchg16b
E("0F C8+r",   "bswap",   "Zv",       Op.BSWAP, b=Sel.Z)
E("0F FF /r",  "ud0",     "Gv,Ev",    raises=Raise.UD)

E("0F 38 F0 /r", "movbe", "Gv,Mv",    Op.MOVBE, ok=(MEM, NOREP))
E("0F 38 F1 /r", "movbe", "Mv,Gv",    Op.MOVBE, ok=(MEM, NOREP))
E("F2 0F 38 F0 /r", "crc32", "Gy,Eb", Op.CRC32B, bsize=Size.B)
E("F2 0F 38 F1 /r", "crc32", "Gy,Ev", Op.CRC32, size=SizeRule.V)
E("66 0F 38 F6 /r", "adcx", "Gy,Ey",  Op.ADC, W="c")
E("F3 0F 38 F6 /r", "adox", "Gy,Ey",  Op.ADOX, W="o")

_BMI = dict(W="czso", U="pa")

E("VEX 0F 38 F2 /r",    "andn",   "Gy,By,Ey", Op.ANDN, a=Sel.V, b=Sel.E, **_BMI)
E("VEX 0F 38 F3 /1",    "blsr",   "By,Ey",    Op.BLSR, a=Sel.NONE, **_BMI)
E("VEX 0F 38 F3 /2",    "blsmsk", "By,Ey",    Op.BLSMSK, a=Sel.NONE, **_BMI)
E("VEX 0F 38 F3 /3",    "blsi",   "By,Ey",    Op.BLSI, a=Sel.NONE, **_BMI)
E("VEX 0F 38 F5 /r",    "bzhi",   "Gy,Ey,By", Op.BZHI, a=Sel.E, b=Sel.V, **_BMI)
E("VEX F3 0F 38 F5 /r", "pext",   "Gy,By,Ey", Op.PEXT, a=Sel.V, b=Sel.E)
E("VEX F2 0F 38 F5 /r", "pdep",   "Gy,By,Ey", Op.PDEP, a=Sel.V, b=Sel.E)
E("VEX F2 0F 38 F6 /r", "mulx",   "Gy,By,Ey", routine="mulx")
E("VEX 0F 38 F7 /r",    "bextr",  "Gy,Ey,By", Op.BEXTR, a=Sel.E, b=Sel.V, W="czo", U="pas")
E("VEX 66 0F 38 F7 /r", "shlx",   "Gy,Ey,By", Op.SHL, a=Sel.E, b=Sel.V, cl=True)
E("VEX F3 0F 38 F7 /r", "sarx",   "Gy,Ey,By", Op.SAR, a=Sel.E, b=Sel.V, cl=True)
E("VEX F2 0F 38 F7 /r", "shrx",   "Gy,Ey,By", Op.SHR, a=Sel.E, b=Sel.V, cl=True)
E("VEX F2 0F 3A F0 /r", "rorx",   "Gy,Ey,Ib", Op.ROR, a=Sel.E, b=Sel.NONE)

#: Every row, in opcode order per map.
TABLE: tuple[Row, ...] = tuple(_rows)

check(TABLE)
