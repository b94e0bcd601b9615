"""The rows that vectors are made of: `hw.isa.opcodes.TABLE` without what user mode on silicon cannot show."""

from __future__ import annotations

from functools import cache

from hw.isa.rows import REG, Priv, Raise, Row, SizeRule

#: Mnemonics that are never generated, with the reason.
EXCLUDE = {
    **dict.fromkeys(("in", "out", "ins", "outs", "insb", "insw", "insd", "outsb", "outsw", "outsd"), "I/O needs IOPL"),
    **dict.fromkeys(("cli", "sti", "hlt", "swapgs", "wrmsr", "rdmsr", "invlpg", "wbinvd", "invd"), "privileged"),
    **dict.fromkeys(("lgdt", "lidt", "lldt", "ltr", "lmsw", "clts", "xsetbv", "rdpmc", "mwait"), "privileged"),
    **dict.fromkeys(("sgdt", "sidt", "sldt", "str", "smsw"), "the host's tables, behind UMIP"),
    **dict.fromkeys(("iret", "iretq", "iretd", "lret", "retf", "lcall", "ljmp"), "depends on the descriptor tables"),
    **dict.fromkeys(("lar", "lsl", "verr", "verw", "lss", "lfs", "lgs"), "depends on the descriptor tables"),
    **dict.fromkeys(("syscall", "sysret", "sysretq", "sysenter", "sysexit"), "enters the host's kernel"),
    **dict.fromkeys(("int1", "icebp"), "a hypervisor or kernel sees it first"),
    "serialize": "one of several instructions at 0F 01 /5, which the host may not have",
    "int": "the host's gates have DPL 0",
    **dict.fromkeys(("rdtsc", "rdtscp", "rdrand", "rdseed", "rdpid"), "a different result each time"),
    **dict.fromkeys(("cpuid", "xgetbv"), "describes the host"),
    **dict.fromkeys(("rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase"), "needs CR4.FSGSBASE on the host"),
    **dict.fromkeys(("clac", "stac", "invpcid", "xsave", "xrstor", "fxsave", "fxrstor"), "system state"),
}

#: Rows with an operand that is a segment, control or debug register.
_SYSTEM_OPERANDS = "SCD"

#: Words that the disassembler uses where the table has another, for the same instruction.
ALIASES = {"sal": "shl", "movabs": "mov", "cwde": "cbw", "cdqe": "cbw", "cdq": "cwd", "cqo": "cwd"}


def excluded(row: Row) -> str | None:
    """Why this row is not generated, or None when it is."""
    if row.mnemonic == "xchg" and row.prefix == 0xF3:
        return "F3 with REX.B and 90: pause on Intel, xchg on AMD (seen on a Xeon and on Zen 4)"
    if row.mnemonic in EXCLUDE:
        return EXCLUDE[row.mnemonic]
    if row.priv is not Priv.ANY:
        return "privileged"
    if any((name[0] in _SYSTEM_OPERANDS and name not in ("CL", "DX")) or name in ("FS", "GS") for name in row.operands):
        return "system register"
    if row.raises in (Raise.INTN, Raise.ICEBP):
        return "the host's gates have DPL 0"
    return None


@cache
def rows(only: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """The rows to generate from; `only` keeps these mnemonics. Rows of one mnemonic share its weight in `generate`."""
    from hw.isa.opcodes import TABLE

    found = tuple(row for row in TABLE if excluded(row) is None)
    unknown = [name for name in only if not any(row.mnemonic == name for row in found)]
    if unknown:
        reasons = "; ".join(f"{name}: {EXCLUDE.get(name, 'not in the table')}" for name in unknown)
        raise ValueError(f"no row to generate for {reasons}")
    return tuple(row for row in found if not only or row.mnemonic in only)


def operand_size(row: Row, opsize: bool, rexw: bool) -> int:
    """Bytes of the operand, from the row's rule and the prefixes."""
    rule = row.uop.size or SizeRule.V
    fixed = {SizeRule.B: 1, SizeRule.W: 2, SizeRule.D: 4, SizeRule.Q: 8}
    if rule in fixed:
        return fixed[rule]
    if rule is SizeRule.Y:
        return 8 if rexw else 4
    if rexw:
        return 8
    if opsize:
        return 2
    return 8 if rule is SizeRule.D64 else 4


def suffix_size(operand: str, size: int) -> int:
    """Bytes of one operand; `size` is the instruction's operand size."""
    return {"b": 1, "w": 2, "d": 4, "q": 8, "y": max(size, 4), "z": min(size, 4)}.get(operand[1:2], size)


def register_only(row: Row) -> bool:
    """Whether ModRM must have mod = 3."""
    return REG in row.ok or any(name[0] == "R" and name[1:2] in "bwdqvy" for name in row.operands)
