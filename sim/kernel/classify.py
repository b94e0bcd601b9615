"""A second opinion on instructions that the table does not have: their length, name and class, from capstone."""

from __future__ import annotations

from typing import NamedTuple

import capstone
from capstone import x86_const

#: Groups of instructions on the registers that the core does not have: class C.
_VECTOR_GROUPS = frozenset(
    getattr(x86_const, f"X86_GRP_{name}")
    for name in (
        *("FPU", "MMX", "3DNOW", "SSE1", "SSE2", "SSE3", "SSSE3", "SSE41", "SSE42", "SSE4A", "AES", "PCLMUL", "SHA"),
        *("AVX", "AVX2", "AVX512", "F16C", "FMA", "FMA4", "XOP", "PFI", "CDI", "ERI", "BWI", "DQI", "VLX"),
    )
)

#: In those groups by when they came, but on general registers or on none.
_INTEGER = frozenset(
    (
        *("movnti", "lfence", "mfence", "sfence", "clflush", "pause", "crc32", "popcnt", "monitor", "mwait"),
        *("prefetch", "prefetchw", "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2"),
    )
)

#: Whatever begins so is class C (AVX-512).
_EVEX = 0x62

#: Class C that capstone puts into no group: save, restore and control of that state, but for what only a kernel may do.
_STATE = ("fxsave", "fxrstor", "xsave", "xrstor", "fn", "ldmxcsr", "stmxcsr", "vldmxcsr", "vstmxcsr", "wait", "fwait")
SYSTEM = ("xsaves", "xrstors")

#: What capstone does not know, or calls by another name: bytes, mnemonic, whether it is of class C.
_UNKNOWN = tuple(
    (bytes.fromhex(code), name, vector)
    for code, name, vector in (
        ("c4e27849c0", "tilerelease", True),
        ("0f01e8", "serialize", False),
        ("f20f01ff", "pvalidate", False),
        ("f30f01fe", "rmpadjust", False),
        ("f30f01d9", "vmgexit", False),
        ("660f01cc", "tdcall", False),
        ("f20f00f7", "lkgs", False),
    )
)


class Opinion(NamedTuple):
    """What the second opinion says: length (0: it does not know either), mnemonic, whether it is of class C."""

    length: int
    mnemonic: str
    vector: bool


class Classifier:
    """Names what the table leaves out."""

    def __init__(self) -> None:
        self._capstone = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._capstone.detail = True

    def opinion(self, code: bytes) -> Opinion:
        """Return what the instruction is that `code` begins with."""
        for known, name, vector in _UNKNOWN:
            if code.startswith(known):
                return Opinion(len(known), name, vector)
        for insn in self._capstone.disasm(code, 0, 1):
            name = insn.mnemonic.split()[-1]
            grouped = name not in _INTEGER and not _VECTOR_GROUPS.isdisjoint(insn.groups)
            state = name.startswith(_STATE) and not name.startswith(SYSTEM)
            return Opinion(insn.size, name, grouped or state or code[0] == _EVEX)
        return Opinion(0, "", False)
