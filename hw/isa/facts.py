"""Facts of the architecture that logic, tests and documents share: registers, flags, conditions, vectors, operations.

Plain ``IntEnum``s: Amaranth takes them as shapes, and nothing here needs Amaranth. What the runtime needs of this is written
a second time in ``kprobes/ptregs.py``, as a processor and a kernel do; a test holds the two equal.
"""

from enum import IntEnum
from typing import NamedTuple


class Reg(IntEnum):
    """Register numbers of the register file (5 bits): 0 to 15 architectural, 16 to 23 temporaries of routines."""

    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15
    T0 = 16
    T1 = 17
    T2 = 18
    T3 = 19
    T4 = 20
    T5 = 21
    T6 = 22
    T7 = 23


class RFlag(IntEnum):
    """Bit positions in RFLAGS (SDM vol. 1, 3.4.3)."""

    CF = 0
    PF = 2
    AF = 4
    ZF = 6
    SF = 7
    TF = 8
    IF = 9
    DF = 10
    OF = 11
    IOPL = 12
    NT = 14
    RF = 16
    VM = 17
    AC = 18
    VIF = 19
    VIP = 20
    ID = 21


#: The status flags, in the order of their bits in the 6-bit flag bundles of the pipeline (bit 0 first).
STATUS_FLAGS = ("c", "p", "a", "z", "s", "o")

#: RFLAGS bit of each status flag, in the same order.
STATUS_BITS = (RFlag.CF, RFlag.PF, RFlag.AF, RFlag.ZF, RFlag.SF, RFlag.OF)


class Seg(IntEnum):
    """Segment register numbers, as in ModRM.reg of ``mov sreg``."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5


class VectorFacts(NamedTuple):
    """One row of the vector table: number, mnemonic, whether the frame carries an error code, double-fault class."""

    number: int
    mnemonic: str
    has_error: bool
    df_class: str  # "benign", "contributory", "page" or "double" (SDM vol. 3, table 6-5)


VECTORS = (
    VectorFacts(0, "#DE", False, "contributory"),
    VectorFacts(1, "#DB", False, "benign"),
    VectorFacts(2, "NMI", False, "benign"),
    VectorFacts(3, "#BP", False, "benign"),
    VectorFacts(4, "#OF", False, "benign"),
    VectorFacts(5, "#BR", False, "benign"),
    VectorFacts(6, "#UD", False, "benign"),
    VectorFacts(7, "#NM", False, "benign"),
    VectorFacts(8, "#DF", True, "double"),
    VectorFacts(10, "#TS", True, "contributory"),
    VectorFacts(11, "#NP", True, "contributory"),
    VectorFacts(12, "#SS", True, "contributory"),
    VectorFacts(13, "#GP", True, "contributory"),
    VectorFacts(14, "#PF", True, "page"),
    VectorFacts(16, "#MF", False, "benign"),
    VectorFacts(17, "#AC", True, "benign"),
    VectorFacts(18, "#MC", False, "benign"),
    VectorFacts(19, "#XM", False, "benign"),
)


class Vector(IntEnum):
    """Exception vectors (SDM vol. 3, table 6-1); `VECTORS` has their properties."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XM = 19


class EventClass(IntEnum):
    """Why a delivery happens (reference: trap semantics 1.2). It decides gate DPL check, EXT, and the RF image."""

    FAULT = 0  # exception before the instruction; RF image 1
    TRAP = 1  # debug trap after an instruction
    SOFT = 2  # int n, int3: gate DPL is checked, EXT = 0
    ICEBP = 3  # int1: no DPL check
    INTR = 4  # external interrupt
    NMI = 5


class Op(IntEnum):
    """What the execute stage does with operands a and b. The result replaces operand a unless said otherwise."""

    # moves and extensions
    MOV = 0  # b
    MOVZX = 1  # b, zero-extended from bsize
    MOVSX = 2  # b, sign-extended from bsize
    SIGN = 3  # every bit = sign of b (cwd, cdq, cqo)
    BSWAP = 4  # b
    SETCC = 5  # 1 if the condition holds
    CMOV = 6  # condition ? b : a; a 32-bit result is zero-extended either way
    CMOVK = 7  # condition ? b : a with all 64 bits of a kept (the accumulator of cmpxchg)
    # arithmetic and logic
    ADD = 8
    OR = 9
    ADC = 10
    SBB = 11
    AND = 12
    SUB = 13
    XOR = 14
    INC = 15
    DEC = 16
    NOT = 17
    NEG = 18
    # shifts: a by count (c: cl, or imm)
    ROL = 20
    ROR = 21
    RCL = 22
    RCR = 23
    SHL = 24
    SHR = 25
    SAR = 26
    SHLD = 27
    SHRD = 28
    # bits
    BT = 30
    BTS = 31
    BTR = 32
    BTC = 33
    BSF = 34
    BSR = 35
    TZCNT = 36
    LZCNT = 37
    POPCNT = 38
    BITOFF = 39  # byte offset of the unit that bit b of a bit string in memory lies in
    ANDN = 110  # ~a and b
    BEXTR = 111  # b[15:8] bits of a from bit b[7:0] on
    BZHI = 112  # a without its bits from b[7:0] on
    BLSR = 113  # b without its lowest 1
    BLSI = 114  # the lowest 1 of b
    BLSMSK = 115  # the lowest 1 of b and all below
    PDEP = 116  # the low bits of a where b has ones
    PEXT = 117  # the bits of a where b has ones, side by side
    ADOX = 118  # a + b + OF, carry to OF
    MOVBE = 119  # b, bytes reversed
    CRC32 = 120  # a, with b of the operand size
    CRC32B = 121  # a, with the byte b
    # multiply and divide
    IMUL2 = 40  # a times b, low half, signed flags
    IMUL3 = 49  # b times imm, likewise
    MUL = 41  # a times b, low half; the high half stays in the unit for MULHI (8-bit: 16-bit result)
    IMUL = 42
    MULHI = 43
    DIVHI = 44  # the unit takes a as the high half of the next dividend
    DIV = 45  # quotient of (high : a) by b; the remainder stays in the unit for REM (8-bit: ah:al result)
    IDIV = 46
    REM = 47
    STEP = 48  # a plus the operand size, or minus if DF (string indices)
    # control transfer: next_pc becomes
    JMP = 50  # next + imm
    JCC = 51  # next + imm if the condition holds
    JMPA = 52  # a; the result is b
    CALL = 53  # next + imm; the result is next
    CALLA = 54  # a; the result is next
    LOOP = 55  # a - 1; next + imm if the new count is not 0 (cond: LOOPE, LOOPNE variants by LoopKind in bsize)
    JCXZ = 56  # next + imm if a is 0
    REPCHK = 57  # ends the instruction if a (the count) is 0
    REPNEXT = 58  # a - 1; the instruction again unless the new count is 0 or the condition of repe/repne ends it
    # flags
    CLC = 60
    STC = 61
    CMC = 62
    LAHF = 63
    SAHF = 64
    RDFLAGS = 65  # the image that pushf stores
    # system: reads happen here, writes at retirement (SysOp)
    RDSYS = 70  # system register of index imm
    WRSYS = 71  # b goes to system register of index imm at retirement
    SYS = 72  # no result; SysOp says what retirement does
    IN = 73  # port b
    OUT = 74  # port b, data a
    CPUID = 75  # register imm[1:0] (eax ebx ecx edx) of leaf a, subleaf b
    RDTSC = 76  # imm[0]: high half
    # trap delivery and return: checks of trap.py's gate logic
    GATE = 80  # a, b = quadwords of a gate: checks it, result = address of the code descriptor
    TARGET = 81  # the gate's offset: checked
    CODE = 82  # a = code descriptor: checks it, result = address of the new stack pointer in the TSS; store: accessed
    STACK = 84  # a = quadword read from there, b = rsp: result = the aligned top of the new stack
    CSADDR = 85  # a = code selector, b = stack selector if iret: checks a, result = address of its descriptor
    CSCHK = 86  # a = that descriptor; store: accessed; result = iret: address of the stack descriptor, else b
    SSADDR = 87  # b = stack selector that lret popped: result = address of its descriptor
    SSCHK = 88  # a = stack descriptor, b = new rip; store: accessed
    TRADDR = 89  # a = selector of ltr, or lldt (bsize W)
    TRCHK = 90  # a = low descriptor quadword, b = high: result = base
    TRLIMIT = 91  # a = low descriptor quadword: result = limit
    TRBUSY = 92  # a = low descriptor quadword: store: marked busy
    CANON = 93  # checks that a is canonical
    EVENT = 94  # what is saved of the event being delivered: bsize 0 rip, 1 rflags image, 2 error code
    SEGADDR = 95  # a = selector for segment register imm: checks it, result = address of its descriptor
    SEGCHK = 96  # a = that descriptor; store: accessed; result = what `SysOp.SEGMENT` writes
    SELADDR = 97  # a = selector of lar, lsl, verr, verw: result = address of its descriptor
    LAR = 98  # b = that descriptor: result = access rights; z
    LSL = 99  # b = that descriptor: result = limit; z
    VERR = 100  # b = that descriptor; z
    VERW = 101
    RETSP = 102  # a if lret goes to another privilege, else b
    FARCHK = 103  # a = code descriptor of a far jmp or call, b = new rip; store: accessed
    IOBASE = 104  # result = address of the I/O map base in the TSS
    IOMAP = 105  # a = that, b = port: result = address of the port's bits
    IOBITS = 106  # a = those, b = port: checks them
    RDMSR = 107  # MSR a: low half, or with bsize W the high one
    PAIR = 108  # a : b, 32 bits each
    WRMSR = 109  # b goes to MSR a at retirement
    SYSCALL = 83  # the image of RFLAGS that pushf stores; next_pc becomes system register imm
    SYSRET = 79  # b, for RFLAGS; next_pc becomes a
    LMSW = 78  # CR0 with the low four bits of b, of which the first stays
    CLTS = 77  # CR0 without TS


class SysOp(IntEnum):
    """What retirement does beside writing registers and memory.

    All but OUT and a WRITE of DR0 to DR3 or DR6 refetch what follows.
    """

    NONE = 0
    WRITE = 1  # system register imm := result
    POPF = 2  # RFLAGS := result, as CPL and IOPL allow
    IRETF = 3  # RFLAGS := result, as iretq loads it; unblocks NMI
    CLI = 4
    STI = 5
    CLD = 6
    STD = 7
    HLT = 8
    SWAPGS = 9
    OUT = 10
    DELIVER = 11  # the last step of a delivery: CS, SS, RFLAGS as the gate says
    SYNC = 12  # nothing but the refetch (serialising instructions)
    SEGMENT = 13  # segment register imm, hidden part and base := result (`hw.sysregs`)
    FAR = 14  # the last step of a far transfer: CS and SS as the checks kept them
    SYSCALL = 15  # CS, SS and RFLAGS as STAR and FMASK say; TF as it then is decides on a single step
    SYSRET = 16  # RFLAGS := result, CS and SS as STAR says; TF likewise
    CLAC = 17
    STAC = 18


class SysReg(IntEnum):
    """System registers, the index of `Op.RDSYS`, `SysOp.WRITE` and, from 32 up, of the debug port."""

    CR0 = 0
    CR2 = 2
    CR3 = 3
    CR4 = 4
    CR8 = 8
    ES = 9
    CS = 10
    SS = 11
    DS = 12
    FS = 13
    GS = 14
    TR = 15
    DR0 = 16
    DR1 = 17
    DR2 = 18
    DR3 = 19
    DR6 = 22
    DR7 = 23
    IDT_BASE = 24
    IDT_LIMIT = 25
    GDT_BASE = 26
    GDT_LIMIT = 27
    TR_BASE = 28
    TR_LIMIT = 29
    FS_BASE = 30
    GS_BASE = 31
    KERNEL_GS_BASE = 32
    EFER = 33
    LDTR = 34
    LDT_BASE = 36
    LDT_LIMIT = 37
    STAR = 38
    LSTAR = 39
    CSTAR = 40
    FMASK = 41
    PAT = 42
    TSC_AUX = 43
    TSC = 44
    APIC_BASE = 35


class DebugReg(IntEnum):
    """Index space of the debug port (7 bits): 0 to 15 the GPRs, then these, and 32 + a `SysReg`."""

    RIP = 16
    RFLAGS = 17
    CPL = 18
    SYS = 32


class Size(IntEnum):
    """Operand sizes as the pipeline carries them: log2 of bytes."""

    B = 0
    W = 1
    D = 2
    Q = 3
