"""What the instruction set has and this core has not: encodings that raise #UD, or #NM where CR0 and CR4 ask for that.

They are rows as those of the table, so that their lengths are exact: a fetch fault in the middle, or a length of more than 15,
goes before #UD (SDM vol. 3, 6.9). `hw.isa.reference.lookup` does not find them.
"""

from typing import Any

from hw.isa.facts import Op
from hw.isa.rows import MEM, NO66, NOREP, VEX, Raise, Row, SizeRule, parse

_rows: list[Row] = []


def _N(raises: Raise, *encodings: str, operands: str = "", **marks: Any) -> None:
    """Adds rows; names are those of the groups."""
    for encoding in encodings:
        name = raises.name.lower() if raises is not Raise.UD else "undefined"
        _rows.append(parse(encoding, name, operands, Op.MOV, raises=raises, size=SizeRule.D, **marks))


_NP: dict[str, Any] = dict(ok=(NO66, NOREP))
_NP_MEM: dict[str, Any] = dict(ok=(NO66, NOREP, MEM))


def _packed(*encodings: str, operands: str = "") -> None:
    """Integers side by side: with MMX registers, and with 66 in XMM registers."""
    _N(Raise.MMX, *encodings, operands=operands, ok=NOREP)
    _N(Raise.SSE, *(f"66 {encoding}" for encoding in encodings), operands=operands)


_N(Raise.X87, "D8-DF /r")

# --- 0F
_N(Raise.UD, "0F 0F /r", operands="Ib")  # 3DNow!
_N(Raise.SSE, "0F 10-17 /r", "0F 28-2F /r", "0F 50-5F /r")
_packed(
    "0F 60-6B /r",
    "0F 6E-6F /r",
    "0F 74-76 /r",
    "0F 7E-7F /r",
    "0F D1-D5 /r",
    "0F D7-E5 /r",
    "0F E7-EF /r",
    "0F F1-FE /r",
)
_packed("0F 70-73 /r", "0F C4-C5 /r", operands="Ib")
_N(Raise.MMX, "0F 77", **_NP)
_N(Raise.SSE, "66 0F 6C-6D /r", "F3 0F 6F /r", "66 0F 7C-7D /r", "F2 0F 7C-7D /r", "F3 0F 7E-7F /r")
_N(Raise.SSE, "F2 0F 70 /r", "F3 0F 70 /r", operands="Ib")
_N(Raise.UD, "0F 78-7B /r")  # vmread, vmwrite; with EVEX they and the last two are conversions
_N(Raise.X87, "0F AE /0", "0F AE /1", **_NP_MEM)  # fxsave, fxrstor
_N(Raise.SSE, "0F AE /2", "0F AE /3", **_NP_MEM)  # ldmxcsr, stmxcsr
_N(Raise.AVX, "0F AE /4", "0F AE /5", "0F AE /6", **_NP_MEM)  # xsave, xrstor, xsaveopt
_N(Raise.SSE, "0F C2 /r", "0F C6 /r", operands="Ib")
_N(Raise.AVX, "0F C7 /3", "0F C7 /4", "0F C7 /5", **_NP_MEM)  # xrstors, xsavec, xsaves
_N(Raise.SSE, "66 0F D0 /r", "F2 0F D0 /r", "66 0F D6 /r", "F2 0F D6 /r", "F3 0F D6 /r")
_N(Raise.SSE, "66 0F E6 /r", "F2 0F E6 /r", "F3 0F E6 /r", "F2 0F F0 /r")

# --- 0F 38 and 0F 3A: every opcode there has a ModRM byte, defined or not
_packed("0F 38 00-0B /r", "0F 38 1C-1E /r")
_N(Raise.SSE, *(f"66 0F 38 {codes} /r" for codes in ("10", "14-15", "17", "20-25", "28-2B", "30-41", "CF", "DB-DF")))
_N(Raise.SSE, "0F 38 C8-CD /r", **_NP)
_N(Raise.MMX, "0F 3A 0F /r", operands="Ib", **_NP)
_N(
    Raise.SSE,
    *(f"66 0F 3A {codes} /r" for codes in ("08-0F", "14-17", "20-22", "40-42", "44", "60-63", "CE-CF", "DF")),
    operands="Ib",
)
_N(Raise.SSE, "0F 3A CC /r", operands="Ib", **_NP)


# --- VEX: whatever prefix it stands for
def _vex(escape: str, opcodes: str, operands: str = "") -> None:
    _N(Raise.AVX, *(f"VEX {escape} {some} /r" for some in opcodes.split()), operands=operands)


_vex("0F", "10-17 28-2F 41-42 44-47 4A-4B 50-6F 74-76 7C-7F 90-93 98-99 AE D0-EF F0-FE")
_vex("0F", "70-73 C2 C4-C6", "Ib")
_N(Raise.AVX, "VEX 0F 77")
_vex("0F 38", "00-0F 13 16-1A 1C-1E 20-25 28-41 45-47 49 4B 50-53 58-5A 5C 5E 72 78-79 8C 8E 90-93 96-9F A6-AF B0-B1")
_vex("0F 38", "B4-BF CB-CD CF D2-D3 DA-EF")
_vex("0F 3A", "00-02 04-06 08-0F 14-19 1D 20-22 30-33 38-39 40-42 44 46 4A-4C 60-63 CE-CF DE-DF", "Ib")

#: The rows.
ABSENT: tuple[Row, ...] = tuple(_rows)

#: `Row.map` of everything that has an EVEX prefix.
EVEX = VEX
