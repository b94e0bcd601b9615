"""The demo's probes: a kprobe and a jprobe, in the words of the announcement of kprobes for x86-64 in 2004.

    python -m sim run                                    # builds the guest, runs it with these probes
    python -m sim run GUEST.elf --script this_file.py

Every Kprobe and Jprobe that a script holds in a variable is registered. A script that wants more of the machine (its
memory, its symbols) defines `setup(machine)` instead, and registers its probes through `machine.kprobes`.
"""

from kprobes import Jprobe, Kprobe, PtRegs, jprobe_return, s32, u64


def probe_handler(p: Kprobe, regs: PtRegs) -> int:
    """Runs before the first instruction of __blockdev_direct_IO: its arguments are in the registers."""
    rw = ("READ", "WRITE")[regs.di & 1]
    print(f"probe_handler: p->addr={p.addr:#x} {rw} sector={regs.dx} segments={regs.cx}")
    return 0


def post_handler(p: Kprobe, regs: PtRegs, flags: int) -> None:
    """Runs after that instruction was stepped out of line; ip is behind it."""
    assert p.addr is not None and regs.ip > p.addr


def jip_queue_xmit(skb: u64, ipfragok: s32) -> None:
    """Has the parameters of ip_queue_xmit, and runs in its place, before it."""
    print(f"jprobe: ip_queue_xmit(skb={skb:#x}, ipfragok={ipfragok})")
    jprobe_return()


kp = Kprobe(symbol_name="__blockdev_direct_IO", pre_handler=probe_handler, post_handler=post_handler)
jp = Jprobe(symbol_name="ip_queue_xmit", entry=jip_queue_xmit)
