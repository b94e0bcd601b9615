"""Writing a pt_regs back when the stack that was interrupted has grown into it.

The frame of a trap lies right below the interrupted stack. The runtime may push there itself, for a call or a pushf that it
has executed (`kprobes.emulate`); then the word that iretq takes SS from is the word that was pushed. Kernels leave a gap
below the stack in every int3. Here the few returns that need it go a longer way instead, which costs the others nothing:

    the entry stub's iretq returns to `CODE`, on a stack below the frame
    `CODE` copies the words that were pushed to where they belong, over the frame
    it restores the registers from there and returns to the guest by an iretq of its own
"""

from __future__ import annotations

from collections.abc import Callable

from kprobes import PtRegs

PT_REGS_BYTES = len(PtRegs().pack())

#: At rsp: the number of quadwords to copy, where to, the quadwords, and a pt_regs.
CODE = bytes.fromhex(
    "59 5f 4889e6 f348a5 4889f4"  # pop %rcx; pop %rdi; mov %rsp, %rsi; rep movsq; mov %rsi, %rsp
    "415f 415e 415d 415c 5d 5b 415b 415a 4159 4158 58 59 5a 5e 5f 4883c408 48cf"  # pop r15 .. rdi; add $8, %rsp; iretq
)


def written_back(
    read: Callable[[int, int], bytes], where: int, before: PtRegs, after: PtRegs, code: int
) -> list[tuple[int, bytes]]:
    """Return what to write, and where, so that the stub whose pt_regs lies at `where` returns with `after`.

    `read` reads the guest's memory; `code` is the guest address of `CODE`.
    """
    end = where + PT_REGS_BYTES
    if not where < after.sp < end:
        return [(where, after.pack())]
    start = after.sp - (after.sp - end) % 8
    pushed = read(start, end - start)
    below = [len(pushed) // 8, start]
    block = b"".join(word.to_bytes(8, "little") for word in below) + pushed + after.pack()
    first = PtRegs(ip=code, cs=before.cs, flags=2, sp=where - len(block), ss=before.ss)
    return [(where - len(block), block), (where, first.pack())]
