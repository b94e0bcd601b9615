"""What CPUID says (SDM vol. 2, CPUID): only what the core does.

There is no floating point and no vector unit: the bits of FPU, MMX, SSE to AVX, FXSR and XSAVE are clear. crc32 works but is
not announced: its bit is that of all of SSE4.2, and would promise XMM registers. rdrand and rdseed do not exist.
"""

from amaranth.hdl import Module, Mux, Signal

from hw.bus import PHYS_BITS

VENDOR = b"KprobesOnRTL"

#: Family 6, model 0, stepping 0.
SIGNATURE = 0x600

#: Bytes of a cache line, as programs that flush a range step through it. There is no cache.
LINE = 64

# leaf 1: edx, ecx
_TSC, _CX8, _CMOV, _CLFSH = 1 << 4, 1 << 8, 1 << 15, 1 << 19
_DE, _PSE, _MSR, _PAE, _PGE, _PAT = 1 << 2, 1 << 3, 1 << 5, 1 << 6, 1 << 13, 1 << 16
_APIC = 9
_CX16, _MOVBE, _POPCNT = 1 << 13, 1 << 22, 1 << 23
# leaf 7: ebx, ecx, edx
_FSGSBASE, _SMEP, _SMAP, _UMIP, _SERIALIZE = 1 << 0, 1 << 7, 1 << 20, 1 << 2, 1 << 14
_BMI1, _BMI2, _ADX, _CLFLUSHOPT, _CLWB = 1 << 3, 1 << 8, 1 << 19, 1 << 23, 1 << 24
# leaf 0x80000001: edx, ecx
_LM, _LAHF, _ABM = 1 << 29, 1 << 0, 1 << 5
_SYSCALL, _NX, _RDTSCP = 1 << 11, 1 << 20, 1 << 27

_FEATURES = _DE | _PSE | _TSC | _MSR | _PAE | _CX8 | _PGE | _CMOV | _PAT | _CLFSH
_word = [int.from_bytes(VENDOR[i : i + 4], "little") for i in (0, 4, 8)]

#: leaf: (eax, ebx, ecx, edx); other leaves, and subleaves of leaf 7 beyond the first, read as 0.
LEAVES: dict[int, tuple[int, int, int, int]] = {
    0x00000000: (7, _word[0], _word[2], _word[1]),
    0x00000001: (SIGNATURE, LINE // 8 << 8, _CX16 | _MOVBE | _POPCNT, _FEATURES),
    0x00000007: (0, _FSGSBASE | _BMI1 | _SMEP | _BMI2 | _ADX | _SMAP | _CLFLUSHOPT | _CLWB, _UMIP, _SERIALIZE),
    0x80000000: (0x80000008, 0, 0, 0),
    0x80000001: (0, 0, _LAHF | _ABM, _SYSCALL | _NX | _RDTSCP | _LM),
    0x80000008: (48 << 8 | PHYS_BITS, 0, 0, 0),
}

#: Leaves with subleaves: only the first, 0, says anything.
SUBLEAVES = (7,)


def leaves_of(number: int) -> dict[int, tuple[int, int, int, int]]:
    """`LEAVES` as hart `number` says them: with its initial APIC ID."""
    eax, ebx, ecx, edx = LEAVES[1]
    return LEAVES | {1: (eax, ebx | number << 24, ecx, edx)}


def lower_cpuid(m: Module, leaf, subleaf, register, apic, number: int = 0) -> Signal:
    """The value of register eax, ebx, ecx or edx (0 to 3) of ``leaf`` and ``subleaf``: 32 bits, combinational.

    ``apic`` : the local interrupt controller is enabled, which its bit follows. ``number`` : of the hart.
    """
    value = Signal(32, name="cpuid")
    with m.Switch(leaf):
        for leaf_number, words in leaves_of(number).items():
            with m.Case(leaf_number), m.Switch(Mux(subleaf == 0, register, 4) if leaf_number in SUBLEAVES else register):
                for i, word in enumerate(words):
                    with m.Case(i):
                        m.d.comb += value.eq(word)
    with m.If((leaf == 1) & (register == 3)):
        m.d.comb += value[_APIC].eq(apic)
    return value
