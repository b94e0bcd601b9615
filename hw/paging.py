"""What paging knows of a page, and who may use it (SDM vol. 3, 4.5 to 4.7): shared by the TLBs and the walker.

A linear page number is bits 47 to 12 of a canonical address; physical addresses have 32 bits.
"""

from amaranth.lib import data
from amaranth.lib.wiring import In, Out, Signature

#: Bits of a linear page number, and of a physical one (a frame).
PAGE_BITS, FRAME_BITS = 36, 20

#: Bits of a paging-structure entry.
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, NO_EXECUTE = 0, 1, 2, 5, 6, 7, 63

#: Bits of a page fault's error code (SDM vol. 3, 4.7).
ERROR_PRESENT, ERROR_WRITE, ERROR_USER, ERROR_RESERVED, ERROR_FETCH = range(5)


class Rules(data.Struct):
    """What control registers and RFLAGS say about pages. ``on`` is 0 while CR3 holds no table: then the map is static."""

    on: 1
    root: FRAME_BITS  # frame of the PML4
    root_high: 1  # CR3 points beyond 32 bits
    wp: 1  # CR0.WP: a supervisor may not write what is read-only
    nxe: 1  # EFER.NXE
    smep: 1  # CR4.SMEP


class Page(data.Struct):
    """A translation: frame, and rights gathered over all levels. ``dirty``: the entry's D bit is set, a store needs no walk."""

    frame: FRAME_BITS
    writable: 1
    user: 1
    executable: 1
    dirty: 1


class Access(data.Struct):
    """Who asks for a page: a store (or a load that a store follows), CPL 3, a fetch; else a supervisor's load. ``smap``: it may
    not touch a user's page (CR4.SMAP, not lifted by RFLAGS.AC)."""

    write: 1
    user: 1
    fetch: 1
    smap: 1


class WalkPort(Signature):
    """Between a stage with a TLB and the walker.

    Members (stage's side)
    ----------------------
    rules : of the control registers. flush : the TLB is emptied at the clock edge.
    miss, wanted, access : the stage needs this page and does not have it, or not with these rights.
    walked : the walk for it ends in this cycle; fault, error : with a page fault, and its error code.
    fill, page, with_ : a translation to be entered at the clock edge.
    """

    def __init__(self):
        super().__init__(
            {
                "rules": In(Rules),
                "flush": In(1),
                "miss": Out(1),
                "wanted": Out(PAGE_BITS),
                "access": Out(Access),
                "walked": In(1),
                "fault": In(1),
                "error": In(16),
                "fill": In(1),
                "page": In(PAGE_BITS),
                "with_": In(Page),
            }
        )


def allows(page, access, rules):
    """May the access use the page? Combinational (SDM vol. 3, 4.6.1)."""
    supervisor_data = ~page.user | ~access.smap
    supervisor_fetch = ~page.user | ~rules.smep
    reach = (~access.user & ((access.fetch & supervisor_fetch) | (~access.fetch & supervisor_data))) | (
        access.user & page.user
    )
    write = ~access.write | page.writable | (~access.user & ~rules.wp)
    return reach & write & (~access.fetch | page.executable)
