"""Which flags an instruction reads, defines and leaves undefined, with the cases that depend on operand values.

Written from the manuals, apart from the table under test, so that the two can be compared.
"""

from __future__ import annotations

CF, PF, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800
DF = 0x400
ALL = CF | PF | AF | ZF | SF | OF

_ADD_LIKE = ("add", "adc", "sub", "sbb", "cmp", "neg", "cmpxchg", "xadd", "cmps", "scas")
_LOGIC = ("and", "or", "xor", "test")
_CONDITION = {
    "o": OF, "no": OF, "b": CF, "ae": CF, "e": ZF, "ne": ZF, "be": CF | ZF, "a": CF | ZF, "s": SF, "ns": SF,
    "p": PF, "np": PF, "l": SF | OF, "ge": SF | OF, "le": SF | OF | ZF, "g": SF | OF | ZF,
}  # fmt: skip
CONDITIONS = tuple(_CONDITION)

#: mnemonic -> (defined, undefined) when the operands' values do not matter.
_FIXED: dict[str, tuple[int, int]] = {
    **dict.fromkeys(_ADD_LIKE, (ALL, 0)),
    **dict.fromkeys(_LOGIC, (ALL & ~AF, AF)),
    **dict.fromkeys(("inc", "dec"), (ALL & ~CF, 0)),
    **dict.fromkeys(("mul", "imul"), (CF | OF, PF | AF | ZF | SF)),
    **dict.fromkeys(("div", "idiv"), (0, ALL)),
    **dict.fromkeys(("bsf", "bsr"), (ZF, ALL & ~ZF)),
    **dict.fromkeys(("bt", "bts", "btr", "btc"), (CF, ALL & ~(CF | ZF))),
    **dict.fromkeys(("tzcnt", "lzcnt"), (CF | ZF, ALL & ~(CF | ZF))),
    "popcnt": (ALL, 0),
    "cmpxchg8b": (ZF, 0),
    "adcx": (CF, 0),
    "adox": (OF, 0),
    **dict.fromkeys(("andn", "blsr", "blsi", "blsmsk", "bzhi"), (CF | ZF | SF | OF, AF | PF)),
    "bextr": (CF | ZF | OF, AF | PF | SF),
    **dict.fromkeys(("clc", "stc", "cmc"), (CF, 0)),
    "sahf": (CF | PF | AF | ZF | SF, 0),
    **dict.fromkeys(("popf"), (ALL, 0)),
}
_READS = {
    **dict.fromkeys(("adc", "sbb", "rcl", "rcr", "cmc", "adcx"), CF),
    "adox": OF,
    **dict.fromkeys(("pushf",), ALL),
    "lahf": CF | PF | AF | ZF | SF,
    **dict.fromkeys(("loope", "loopne"), ZF),
}


def reads(mnemonic: str, condition: int | None) -> int:
    """Flags that the result depends on."""
    if condition is not None:
        return _CONDITION[CONDITIONS[condition]]
    return _READS.get(mnemonic, 0)


def effect(mnemonic: str, size: int = 8, count: int = 0, repeated_zero: bool = False) -> tuple[int, int]:
    """(defined, undefined) flags; the rest is unchanged. `count` is a shift's, before masking."""
    if repeated_zero:
        return 0, 0
    if mnemonic in _FIXED:
        return _FIXED[mnemonic]
    count &= 63 if size == 8 else 31
    if mnemonic in ("shl", "sal", "shr", "sar", "shld", "shrd", "rol", "ror", "rcl", "rcr") and not count:
        return 0, 0
    if mnemonic in ("rol", "ror", "rcl", "rcr"):
        return (CF | OF, 0) if count == 1 else (CF, OF)
    if mnemonic in ("shl", "sal", "shr", "sar", "shld", "shrd"):
        unknown = AF | (OF if count > 1 else 0)
        if mnemonic in ("shl", "sal", "shr") and count >= 8 * size:
            unknown |= CF
        return ALL & ~unknown, unknown
    return 0, 0


def accumulate(undefined: int, defined: int, unknown: int) -> int:
    """The mask after an instruction: what it leaves undefined comes in, what it defines goes out."""
    return (undefined & ~defined) | unknown
