"""What can be chosen of the hardware when it is built: one frozen value, from the machine down to the stages."""

from dataclasses import dataclass
from enum import Enum


class Vendor(Enum):
    """Whose processor the core follows where the two differ (trap semantics 3.5 and 3.6, docs/instructions.md)."""

    INTEL = "intel"
    AMD = "amd"


@dataclass(frozen=True)
class Config:
    """Parameters of a `hw.soc.Soc`. Equal values give equal hardware; engines are built and cached by them.

    ram_bytes : RAM on the buses, in bytes: a power of two. The default is 16 MiB.
    vendor : rules that differ between vendors. The default is Intel, whose manual documents them.
    """

    ram_bytes: int = 16 << 20
    vendor: Vendor = Vendor.INTEL
