"""The row of the instruction table: its notation, what follows from the notation alone, and the checks at import.

Notation (SDM vol. 2, 3.1.1 and appendix A, as Linux' ``x86-opcode-map.txt`` uses it)::

    E("01 /r",  "add",  "Ev,Gv",  Op.ADD, W="oszapc", ok=LOCK)

* encoding: bytes in hex; ``F3``, ``F2`` or ``66`` first is a mandatory prefix; ``/r`` a ModRM byte; ``/4`` a ModRM byte whose
  reg field is 4; ``+r`` eight opcodes with a register in the low bits; ``+cc`` sixteen with a condition; ``10-17`` the
  opcodes from the one to the other; ``VEX`` before it all: the prefix and the escapes are in a VEX prefix.
* operands: letter = where (E ModRM r/m, G ModRM reg, M memory only, R register only, Z opcode register, I immediate,
  J relative target, O memory offset, S C D segment, control and debug register of ModRM.reg, X Y string source and
  destination, B register of VEX.vvvv), suffix = size (b w d q; v 16/32/64; z 16/32 for an immediate; y 32/64). Registers and
  ``1`` stand for themselves.
* W, U: status flags written, undefined afterwards.

From the operand letters alone follow the presence of ModRM and the size of the immediate.
"""

import re
from dataclasses import dataclass, field
from enum import Enum

from hw.isa.facts import STATUS_FLAGS, Op, Reg, Size, SysOp, SysReg


class Sel(Enum):
    """Where an operand comes from or goes to, besides fixed registers (`hw.isa.facts.Reg`)."""

    NONE = 32
    E = 33  # ModRM r/m: register or memory
    G = 34  # ModRM reg
    Z = 35  # register in the opcode
    MEM = 36  # what the uop's own load brings
    IMM = 37
    V = 38  # VEX.vvvv
    ADDR = 39  # the effective address, without segment base
    FIELD = 40  # ModRM reg as a number: the index of a segment, control or debug register


class AMode(Enum):
    """How a uop's address is made."""

    NONE = 0
    EA = 1  # ModRM, SIB, displacement
    PUSH = 2  # rsp - operand size; rsp := address
    POP = 3  # rsp; rsp := address + operand size (+ imm for ret imm16)
    LEAVE = 4  # rbp; rsp := address + operand size
    SI = 5  # rsi, with segment
    DI = 6  # rdi
    MOFFS = 7  # the immediate
    BASE = 8  # `base` + `disp`
    GATE = 9  # the gate of the vector being delivered + `disp`
    SETSP = 10  # `base` + `disp`; rsp := address; no access


class SizeRule(Enum):
    """How prefixes make the operand size."""

    B = 0  # 8
    W = 1  # 16
    D = 2  # 32
    Q = 3  # 64
    V = 4  # 16 with 66, 64 with REX.W, else 32
    D64 = 5  # 16 with 66, else 64 (stack)
    Y = 6  # 64 with REX.W, else 32
    A = 7  # the address size: 64, or 32 with 67
    Z = 8  # 16 with 66, else 32 (ports)


class Flow(Enum):
    """What the decoder does to the fetch address."""

    NEXT = 0
    JUMP = 1  # direct, taken
    COND = 2  # direct, predicted
    CALL = 3  # direct, taken; pushes the return stack
    RET = 4  # predicted by the return stack
    INDIRECT = 5  # not predicted
    CALLIND = 6  # not predicted; pushes the return stack


class When(Enum):
    """Whether the sequencer issues or skips a row of a routine; known when the routine starts."""

    ALWAYS = 0
    REP = 1  # with a rep prefix
    ERROR = 2  # in a delivery that pushes an error code
    NOERROR = 3  # in one that does not
    NESTED = 4  # enter with a nesting level above 0
    TURN = 5  # enter, once for each level below its own (`Uop.turn`)


class Priv(Enum):
    """Who may execute it; otherwise #GP(0)."""

    ANY = 0
    CPL0 = 1
    IOPL = 2  # CPL <= IOPL
    IO = 3  # CPL <= IOPL, or the permission bitmap of the TSS, which the row's routine looks at
    NT = 4  # RFLAGS.NT is 0
    TSD = 5  # CPL 0, or CR4.TSD is 0
    UMIP = 6  # CPL 0, or CR4.UMIP is 0


class Need(Enum):
    """What must be switched on; otherwise #UD."""

    NOTHING = 0
    SCE = 1  # EFER.SCE
    FSGSBASE = 2  # CR4.FSGSBASE


class Raise(Enum):
    """An event that decoding alone decides."""

    NONE = 0
    UD = 1
    INT3 = 2
    INTN = 3
    ICEBP = 4
    # what this core does not have, and says so as CR0 and CR4 tell (`hw.isa.absent`)
    X87 = 5
    WAIT = 6  # #NM, or nothing
    MMX = 7
    SSE = 8
    AVX = 9
    GP = 10  # rdpmc: there are no counters


#: `Row.map` of an opcode behind a VEX prefix, less its map; by itself the number of EVEX, which no row has.
VEX = 4

#: Legality marks of a row.
LOCK = "lock"  # LOCK allowed when the destination is memory
REG = "reg"  # only with mod = 3
MEM = "mem"  # only with mod != 3
REXB = "rexb"  # only with REX.B
NOREXB = "norexb"  # only without REX.B
NO66 = "no66"  # undefined with 66
NOREP = "norep"  # undefined with F2 or F3
REP = "rep"  # F2 and F3 repeat
RM = tuple(f"rm{n}" for n in range(8))  # only with ModRM.rm = n

_READS_A_NOT = {Op.MOV, Op.MOVZX, Op.MOVSX, Op.SETCC, Op.RDFLAGS, Op.RDSYS, Op.JMP, Op.JCC, Op.CALL, Op.IMUL3, Op.SIGN}
_READS_A_NOT |= {Op.BSWAP, Op.MOVBE, Op.BLSR, Op.BLSI, Op.BLSMSK}


@dataclass(frozen=True)
class Uop:
    """One step of the machine: the constant part that a table row or a routine row decides.

    Selectors are a `Sel` or a register number; everything that depends on the instruction's bytes is resolved by the
    decode stage.
    """

    op: Op = Op.MOV
    a: object = Sel.NONE
    b: object = Sel.NONE
    d: object = Sel.NONE
    size: SizeRule | None = None  # None in a routine: as the instruction's row says
    bsize: Size = Size.B
    flags: str = ""
    amode: AMode = AMode.NONE
    load: bool = False  # a load whatever ModRM says
    store: bool = False
    msize: Size | None = None  # memory size where it is not the operand size
    base: int = 0
    disp: int = 0
    cl: bool = False  # the shift count is cl
    one: bool = False  # the immediate is 1
    cond: int | None = None
    sysop: SysOp = SysOp.NONE
    sysreg: SysReg | None = None
    flow: Flow = Flow.NEXT
    when: When = When.ALWAYS
    scaled: bool = False  # disp counts operands, not bytes
    bias: bool = False  # an address based on rsp counts from after the pop
    seg: bool = False  # a BASE address takes the instruction's segment base
    if_switch: bool = False  # the access happens only if `hw.gates.Gates.switch`
    intent: bool = False  # the load checks for a write, because a store to the same place follows
    stack: bool = False  # a bad address is a stack fault
    implicit: bool = False  # of a descriptor table or TSS: the supervisor's whatever the CPL; no data breakpoint sees it
    touch: bool = False  # the store happens only if the operation says so (accessed bit)
    loop: bool = False  # the sequencer starts the instruction over (next string iteration)
    probe: bool = False  # the address is checked as for a load, and nothing accessed
    align: bool = False  # 16-byte operands must be aligned
    turn: bool = False  # the number of the turn counts with disp: the first is 1
    back: bool = False  # the end of a turn: the sequencer goes back one row


@dataclass(frozen=True)
class Row:
    """One encoding of the table, parsed."""

    encoding: str
    mnemonic: str
    operands: tuple[str, ...]
    uop: Uop
    routine: str | None
    written: str
    undefined: str
    ok: frozenset[str]
    priv: Priv
    raises: Raise
    need: Need = Need.NOTHING
    map: int = 0  # 0 one byte, 1 after 0F, 2 after 0F 38, 3 after 0F 3A; `VEX` + 1 to 3: the same with VEX
    opcode: int = 0
    span: int = 1  # 1, 8 (+r) or 16 (+cc)
    reg: int | None = None  # the required ModRM.reg
    prefix: int | None = None  # mandatory F3, F2 or 66
    attributes: dict = field(default_factory=dict, hash=False, compare=False)

    @property
    def vex(self) -> bool:
        """True if a VEX prefix is part of the encoding."""
        return self.map > VEX

    @property
    def modrm(self) -> bool:
        """True if a ModRM byte follows the opcode."""
        return any(operand[0] in "EGMRSCD" and operand not in _FIXED for operand in self.operands) or "/" in self.encoding

    @property
    def immediate(self) -> str:
        """Class of the immediate bytes: "", "b", "w", "z", "v", "a" (address size), "wb" (enter)."""
        kinds = [operand for operand in self.operands if operand[0] in "IJO" and operand not in _FIXED]
        return "".join(_JUMP[k[1]] if k[0] == "J" else "a" if k[0] == "O" else k[1] for k in kinds)

    @property
    def signed_immediate(self) -> bool:
        """True if an 8- or 32-bit immediate is sign-extended to the operand size (all but ports, int n and enter)."""
        return self.mnemonic not in ("in", "out", "int", "enter", "ret", "lret")

    @property
    def e_operand(self) -> str | None:
        """The operand that ModRM r/m names, or None."""
        return next((operand for operand in self.operands if operand[0] in "EMR" and operand not in _FIXED), None)

    def opcodes(self) -> range:
        """The opcodes the row covers in its map."""
        return range(self.opcode, self.opcode + self.span)

    def __str__(self):
        return f"{self.encoding}  {self.mnemonic} {','.join(self.operands)}".rstrip()


#: Operands that are registers or constants and not letter + suffix.
_FIXED = {"AL", "AH", "rAX", "eAX", "CL", "DX", "1", "rDX", "FS", "GS"}

_REGISTERS = {
    **dict.fromkeys(("AL", "AH", "rAX", "eAX"), Reg.RAX),
    **dict.fromkeys(("DX", "rDX"), Reg.RDX),
    "CL": Reg.RCX,
    "1": Sel.IMM,
    **dict.fromkeys(("FS", "GS"), Sel.NONE),
}
_PLACES = {"E": Sel.E, "M": Sel.E, "R": Sel.E, "G": Sel.G, "Z": Sel.Z, "I": Sel.IMM, "J": Sel.IMM, "B": Sel.V}

#: Relative targets: a 66 prefix does not change their size (Intel; AMD's 16-bit form is left out, see docs).
_JUMP = {"b": "b", "z": "d"}

_OPERAND = re.compile(r"^([BEGMRZIJOSCDXY])([bwdqvzy]?)$")

_SIZES = {"b": SizeRule.B, "w": SizeRule.W, "d": SizeRule.D, "q": SizeRule.Q, "v": SizeRule.V, "y": SizeRule.Y, "z": SizeRule.V}


class TableError(ValueError):
    """A row is malformed, or two rows match the same bytes. Raised when the table is imported."""


def parse(
    encoding, mnemonic, operands, op, *,
    W="", U="", ok=(), priv=Priv.ANY, raises=Raise.NONE, need=Need.NOTHING, routine=None, **uop,
) -> Row:  # fmt: skip
    """Makes a `Row` of the arguments of one table line; raises `TableError` that names the line."""
    where = f"{encoding!r} {mnemonic}"
    names = tuple(filter(None, operands.split(",")))
    for name in names:
        if name not in _FIXED and not _OPERAND.match(name):
            raise TableError(f"{where}: unknown operand {name!r}")
    for letter in W + U:
        if letter not in STATUS_FLAGS:
            raise TableError(f"{where}: unknown flag {letter!r}")
    marks = frozenset((ok,) if isinstance(ok, str) else ok)
    fields = _parse_encoding(encoding, where)
    uop.setdefault("flags", W)
    row = Row(
        encoding, mnemonic, names, Uop(op=op, **_selectors(names, op, uop)), routine, W, U, marks, priv, raises, need, **fields
    )
    if LOCK in marks and not (names and names[0][0] in "EM"):
        raise TableError(f"{where}: LOCK needs a memory destination")
    return row


def _parse_encoding(text: str, where: str) -> dict:
    fields: dict = {"map": 0, "span": 1, "reg": None, "prefix": None}
    parts = text.split()
    vex = parts[0] == "VEX"
    parts = parts[vex:]
    if len(parts) > 1 and parts[0] in ("F3", "F2", "66") and not parts[1].startswith("/"):
        fields["prefix"] = int(parts.pop(0), 16)
    if parts[0] == "0F":
        parts.pop(0)
        fields["map"] = 1
        if parts[0] in ("38", "3A") and len(parts) > 1 and not parts[1].startswith("/"):
            fields["map"] = {"38": 2, "3A": 3}[parts.pop(0)]
    if vex:
        if not fields["map"]:
            raise TableError(f"{where}: VEX needs the map of its opcode (0F, 0F 38 or 0F 3A)")
        fields["map"] += VEX
    byte, plus, kind = parts.pop(0).partition("+")
    byte, _, last = byte.partition("-")
    fields["opcode"] = int(byte, 16)
    fields["span"] = {"r": 8, "cc": 16}[kind] if plus else int(last or byte, 16) - fields["opcode"] + 1
    for part in parts:
        if part == "/r":
            pass
        elif re.fullmatch(r"/[0-7]", part):
            fields["reg"] = int(part[1])
        else:
            raise TableError(f"{where}: cannot read {part!r} in the encoding")
    return fields


def _selectors(names: tuple[str, ...], op: Op, given: dict) -> dict:
    """Fills in the selectors that the operand letters imply: first operand is a and d, the second b."""
    uop = dict(given)
    places = [_place(name) for name in names]
    if "a" not in uop:
        uop["a"] = places[0] if places else Sel.NONE
    if "d" not in uop:
        uop["d"] = places[0] if places else Sel.NONE
    if "b" not in uop:
        uop["b"] = places[1] if len(places) > 1 else Sel.NONE
    if "size" not in uop and names:
        first = names[0]
        fixed = {"AL": SizeRule.B, "AH": SizeRule.B, "eAX": SizeRule.D}
        uop["size"] = fixed.get(first, SizeRule.V) if first in _FIXED else _SIZES[first[1] or "v"]
    if names and any(n[0] in "EM" and n not in _FIXED for n in names) and "amode" not in uop:
        uop["amode"] = AMode.EA
    if "1" in names:
        uop["one"] = True
    if "CL" in names:
        uop["cl"] = True
    return uop


def _place(name: str):
    if name in _FIXED:
        return _REGISTERS[name]
    return _PLACES.get(name[0], Sel.NONE)


def reads_a(op: Op) -> bool:
    """True if the operation needs operand a for more than merging a partial register."""
    return op not in _READS_A_NOT


def check(table: tuple[Row, ...]) -> None:
    """Refuses a table in which two rows match the same bytes or disagree on ModRM; raises `TableError` naming the rows."""
    by_opcode: dict[tuple[int, int], list[Row]] = {}
    for row in table:
        for opcode in row.opcodes():
            by_opcode.setdefault((row.map, opcode), []).append(row)
    for (_, opcode), rows in by_opcode.items():
        if len({row.modrm for row in rows}) > 1:
            raise TableError(f"opcode {opcode:02X}: rows disagree on ModRM: {'; '.join(map(str, rows))}")
        for i, one in enumerate(rows):
            for other in rows[i + 1 :]:
                if _overlap(one, other):
                    raise TableError(f"rows match the same bytes: {one}  and  {other}")


def _overlap(one: Row, other: Row) -> bool:
    if one.reg is not None and other.reg is not None and one.reg != other.reg:
        return False
    if one.prefix != other.prefix:  # the row without a prefix stands for the rest
        return False
    exclusive = ({REG, MEM}, {REXB, NOREXB})
    if any((one.ok | other.ok) >= pair for pair in exclusive):
        return False
    rms = one.ok & set(RM), other.ok & set(RM)
    return not all(rms) or rms[0] == rms[1]
