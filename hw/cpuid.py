"""What CPUID says (SDM vol. 2, CPUID): only what the core does."""

from amaranth.hdl import Module, Signal

VENDOR = b"KprobesOnRTL"

#: Family 6, model 0, stepping 0.
SIGNATURE = 0x600

# leaf 1 edx and ecx, leaf 0x80000001 edx and ecx; BMI1's bit stays clear: only its tzcnt is there
_TSC, _CMOV, _POPCNT = 1 << 4, 1 << 15, 1 << 23
_LM, _LAHF, _ABM = 1 << 29, 1 << 0, 1 << 5

_word = [int.from_bytes(VENDOR[i : i + 4], "little") for i in (0, 4, 8)]

#: leaf: (eax, ebx, ecx, edx); other leaves read as 0.
LEAVES: dict[int, tuple[int, int, int, int]] = {
    0x00000000: (1, _word[0], _word[2], _word[1]),
    0x00000001: (SIGNATURE, 0, _POPCNT, _TSC | _CMOV),
    0x80000000: (0x80000001, 0, 0, 0),
    0x80000001: (0, 0, _LAHF | _ABM, _LM),
}


def lower_cpuid(m: Module, leaf, register) -> Signal:
    """The value of register eax, ebx, ecx or edx (0 to 3) of ``leaf``: 32 bits, combinational."""
    value = Signal(32, name="cpuid")
    with m.Switch(leaf):
        for number, words in LEAVES.items():
            with m.Case(number), m.Switch(register):
                for i, word in enumerate(words):
                    with m.Case(i):
                        m.d.comb += value.eq(word)
    return value
