"""What can be chosen of the hardware when it is built: one frozen value, from the machine down to the stages."""

from dataclasses import dataclass
from enum import Enum


class Vendor(Enum):
    """Whose processor the core follows where the two differ (trap semantics 3.5 and 3.6, docs/instructions.md)."""

    INTEL = "intel"
    AMD = "amd"


class Snoop(Enum):
    """Which stores to code a hart sees before it fetches again (trap semantics 8)."""

    OWN = "own"  # its own, at once; those of others when it fetches again
    NONE = "none"  # none: as up to the 486, which had to jump after the store


@dataclass(frozen=True)
class Config:
    """Parameters of a `hw.soc.Soc`. Equal values give equal hardware; engines are built and cached by them.

    ram_bytes : RAM on the buses, in bytes: a power of two. The default is 16 MiB.
    vendor : rules that differ between vendors. The default is Intel, whose manual documents them.
    snoop : stores to code that a hart sees before it fetches again.
    stale_lines : lines of 16 bytes of code that each hart keeps, and does not fetch again before it serialises
    (`hw.linebuffer`): how wide the window is in which it may run old code. 0, or a power of two from 2 to 256.
    """

    ram_bytes: int = 16 << 20
    vendor: Vendor = Vendor.INTEL
    snoop: Snoop = Snoop.OWN
    stale_lines: int = 0
