"""Scenarios of the trap semantics, 11.8: code that changes itself."""

import pytest

from hw.bus import HIGH_BASE
from hw.config import Snoop

SELF_MODIFYING = {
    "s177-next-instruction": "start: movb $5, l+1; l: mov $1, %eax; hlt",
    "s178-through-the-alias": f"start: mov ${HIGH_BASE:#x}, %rbx; movb $5, l+1(%rbx); l: mov $1, %eax; hlt",
    "s177-loop": "start: mov $5, %ecx; 1: incb l+1; l: mov $0, %eax; loop 1b; hlt",
    "s177-stos": "start: lea l+1(%rip), %rdi; mov $5, %eax; mov $1, %ecx; rep stosb; l: mov $1, %eax; hlt",
    "s177-push": "start: mov %rsp, %rbx; lea m(%rip), %rsp; push %rdx; l: mov $1, %eax; .fill 3, 1, 0x90; m: mov %rbx, %rsp; hlt",
    "s177-after-a-rep": "start: lea q(%rip), %rdi; mov $0x90, %eax; mov $4, %ecx; rep stosb; q: .fill 4, 1, 0xcc; mov $5, %eax; hlt",
}


@pytest.mark.parametrize("name", SELF_MODIFYING)
def test_self_modifying(bench, name):
    push = int.from_bytes(bytes([0xB8, 5, 0, 0, 0, 0x90, 0x90, 0x90]), "little")
    text = SELF_MODIFYING[name]
    bench.load(text, rdx=push)
    bench.run()
    bench.expect("")
    assert bench.reg("rax") == 5


@pytest.mark.parametrize("alias", [0, HIGH_BASE], ids=["low", "alias"])
@pytest.mark.parametrize("ahead", range(13))
def test_store_ahead(bench, ahead, alias):
    """s177: a store to an instruction that is so many instructions ahead."""
    nops = "nop; " * ahead
    text = f"start: mov ${alias:#x}, %rbx; movb $5, l+1(%rbx); {nops} l: mov $1, %eax; hlt"
    bench.load(text)
    bench.run()
    assert bench.reg("rax") == 5


@pytest.mark.parametrize("prefixes", range(1, 13))
@pytest.mark.parametrize("ahead", range(4))
def test_a_prefix_alone_in_its_page(bench, ahead, prefixes):
    """A store to a prefix that is the last byte of its page, while the length stage is at the prefixes of the next page."""
    nops, more = "nop; " * ahead, ".byte 0x2e; " * prefixes
    far = f".balign 4096; .fill 4095, 1, 0x90; p: .byte 0x66; {more} inc %eax; hlt"
    text = f"start: mov $0xffff, %eax; movb $0x2e, p; {nops} jmp p; {far}"
    bench.load(text)
    bench.run()
    assert bench.reg("rax") == 0x10000


@pytest.mark.config(snoop=Snoop.NONE)
@pytest.mark.parametrize("jump", (False, True), ids=("straight", "after a jump"))
def test_stale_mode(bench, jump):
    """s177-stale: a hart that does not snoop runs the old bytes; a jump fetches the new, once the store is in memory."""
    bench.load(f"start: movb $5, l+1; {'.fill 12, 1, 0x90; jmp l;' if jump else ''} .fill 3, 1, 0x90; l: mov $1, %eax; hlt")
    bench.run()
    assert bench.reg("rax") == (5 if jump else 1)
