"""Paging: every scenario again with tables in place of the static map, and what only tables can do."""

import struct
from itertools import product

import pytest
import test_debug_registers as watched
import test_single_step as stepped
from rows import S, equal, regs, run_row
from test_double_fault import DOUBLE
from test_frames import FRAMES
from test_int3 import BREAKPOINTS
from test_iretq import IRETQ
from test_other_traps import OTHERS
from trapbench import RAM_END, STACK

from tests.unit.pagetables import NX, A, Builder, D, P, U, W

#: Where tables lie, and the page that tests remap.
TABLES, PAGE = 0xC00000, 0x600000


def tables(*pages: tuple) -> Builder:
    """The static map as tables, with pages of 4 KiB put over it: (linear, physical, rights)."""
    builder = Builder(TABLES)
    builder.like_the_static_map()
    for la, pa, *rights in pages:
        small = [page for page in pages if page[0] >> 21 == la >> 21]
        if la == small[0][0]:  # a page table takes the place of the large page, which all else of it keeps
            base = la & ~0x1FFFFF
            builder.map(base, base, level=1)
            where = next(place for place, entry in builder.memory.items() if entry == base | P | W | U | 0x80)
            del builder.memory[where]
            if base < RAM_END:
                for page in range(base, base + (1 << 21), 0x1000):
                    builder.map(page, page)
        builder.map(la, pa, *rights)
    return builder


def paged(builder: Builder, **setup) -> dict:
    """A set-up with these tables."""
    memory = {where: struct.pack("<Q", entry) for where, entry in builder.memory.items()}
    return setup | dict(mem=setup.get("mem", {}) | memory, cr3=builder.root)


AGAIN = [
    *FRAMES, *BREAKPOINTS, *stepped.STEPS, *stepped.STRINGS, *IRETQ, *DOUBLE, *OTHERS,
    *watched.CODE, *watched.DATA, *watched.DETECT, *watched.SHADOWS, *watched.STRINGS,
]  # fmt: skip


@pytest.mark.parametrize("row", [S(row.values, id=row.id, marks=row.marks) for row in AGAIN])
def test_again_with_tables(sampled, bench, row):
    text, expect, setup, check = row
    run_row(bench, text, expect, paged(tables(), **setup), check)


MATRIX = [
    S(kind, rights, id=f"s173-{kind}-{'u' if rights & U else 's'}{'w' if rights & W else 'r'}{'p' if rights & P else '-'}"
      f"{'x' if not rights & NX else '-'}{'-rsvd' if rights >> 40 & 1 else ''}")
    for kind, rights in product(("load", "store", "fetch"), (r | n | p | v for r in (0, U, W, U | W) for n in (0, NX)
                                                             for p in (0, P) for v in (0, 1 << 40)))
]  # fmt: skip


@pytest.mark.parametrize("user", (0, 1), ids=("cpl0", "cpl3"))
@pytest.mark.parametrize(("kind", "rights"), MATRIX)
def test_error_codes(sampled, bench, kind, rights, user):
    """s173: the error code of every combination of access and rights (1.7), CR0.WP and EFER.NXE set."""
    builder = tables((PAGE, PAGE, rights))
    move = {"load": "mov (%rbx), %eax", "store": "mov %eax, (%rbx)", "fetch": "jmp *%rbx"}[kind]
    start = dict(cs=0x3B, ss=0x43) if user else {}
    bench.load(f"start: {move}; done: int $0x40; h14: hlt", rbx=PAGE, efer=0xD00, gates={0x40: dict(dpl=3)},
               **paged(builder, **start, mem={PAGE: b"\xcd\x40"}))
    bench.run()
    write, fetch = kind == "store", kind == "fetch"
    code = write << 1 | user << 2 | fetch << 4
    if not rights & P:
        wanted = code
    elif rights >> 40 & 1:
        wanted = code | 9
    elif (user and not rights & U) or (write and not rights & W) or (fetch and rights & NX):
        wanted = code | 1
    else:
        wanted = None
    first = bench.taken[0]
    if wanted is None:
        assert first.vector == 0x40
    else:
        assert (first.vector, first.error, first.cr2) == (14, wanted, PAGE)


def entry(frame: int, value: int):
    """The entry of a frame, at the end."""

    def check(bench):
        where = next(w for w, e in bench.tables.memory.items() if e & 0xFFFFF000 == frame and not e & 0x80)
        equal(hex(bench.quad(where)), hex(value))

    return check


NO_WP = 0x80040033
RIGHTS = [
    S("start: mov (%rbx), %eax; done: hlt", "", [(PAGE, PAGE)], dict(rbx=PAGE), entry(PAGE, PAGE | P | W | U | A), id="accessed"),
    S("start: mov %eax, (%rbx); done: hlt", "", [(PAGE, PAGE)], dict(rbx=PAGE), entry(PAGE, PAGE | P | W | U | A | D), id="dirty"),
    S("start: mov (%rbx), %eax; mov %eax, (%rbx); done: hlt", "", [(PAGE, PAGE)], dict(rbx=PAGE), entry(PAGE, PAGE | P | W | U | A | D),
      id="dirty-after-accessed"),
    S("start: lock addl $1, (%rbx); done: hlt", "#PF(3)@start", [(PAGE, PAGE, P | U)], dict(rbx=PAGE), entry(PAGE, PAGE | P | U),
      id="refused-store-marks-nothing"),
    S("start: mov %eax, (%rbx); done: hlt", "", [(PAGE, PAGE, P)], dict(rbx=PAGE, cr0=NO_WP), entry(PAGE, PAGE | P | A | D), id="without-wp"),
    S("start: mov (%rbx), %rax; done: hlt", "", [(PAGE, 0x5000), (PAGE + 0x1000, 0x9000)],
      dict(rbx=PAGE + 0xFFD, mem={0x5FFD: b"\x11\x22\x33", 0x9000: b"\x44\x55\x66\x77\x88"}), regs(rax=0x8877665544332211), id="split-load"),
    S("start: mov %rax, (%rbx); mov (%rbx), %rcx; done: hlt", "", [(PAGE, 0x5000), (PAGE + 0x1000, 0x9000)],
      dict(rbx=PAGE + 0xFFA, rax=0x8877665544332211), [regs(rcx=0x8877665544332211),
      lambda b: equal((b.engine.read_mem(0x5FFA, 6), b.engine.read_mem(0x9000, 2)), (b"\x11\x22\x33\x44\x55\x66", b"\x77\x88"))],
      id="split-store"),
    S("start: lock xadd %rax, (%rbx); done: hlt", "", [(PAGE, 0x5000), (PAGE + 0x1000, 0x9000)],
      dict(rbx=PAGE + 0xFFC, rax=1, mem={0x5FFC: b"\xff\xff\xff\xff", 0x9000: b"\x01\0\0\0"}),
      [regs(rax=0x1FFFFFFFF), lambda b: equal((b.engine.read_mem(0x5FFC, 4), b.engine.read_mem(0x9000, 4)), (bytes(4), b"\2\0\0\0"))],
      id="split-locked"),
    S("start: mov %rax, (%rbx); done: hlt", "#PF(2)@start", [(PAGE, 0x5000), (PAGE + 0x1000, 0x9000, 0)],
      dict(rbx=PAGE + 0xFFC, rax=(1 << 64) - 1), [lambda b: equal(b.engine.read_mem(0x5FFC, 4), bytes(4)), lambda b: equal(b.reg("cr2"), PAGE + 0x1000)],
      id="s174-second-page"),
    S("start: jmp *%rbx; done: hlt", "#PF(0)@0x600ffe", [(PAGE, 0x5000), (PAGE + 0x1000, 0x9000, 0)],
      dict(rbx=PAGE + 0xFFE, mem={0x5FFE: b"\x0f\x1f"}), lambda b: equal(b.reg("cr2"), PAGE + 0x1000), id="s174-second-page-of-an-instruction"),
    S("start: jmp *%rbx; done: hlt", "", [(PAGE, 0x5000), (PAGE + 0x1000, 0x9000)],
      dict(rbx=PAGE + 0xFFE, mem={0x5FFE: b"\xb8\x78", 0x9000: b"\x56\x34\x12\xff\xe1"}, rcx=0x10002), regs(rax=0x12345678),
      id="instruction-over-two-frames"),
    *(S("start: int3; n: hlt", "#BP@n; #PF(0)@start RF", [(PAGE, PAGE, 0)],
        dict(idt=PAGE + 0xFC0, gates={3: dict(dpl=3)}, **who), lambda b: equal(b.reg("cr2"), PAGE + 0xFF0), id=name)
      for name, who in (("s031-idt-missing", {}), ("s175-idt-missing-at-cpl-3", dict(cs=0x3B, ss=0x43)))),
    S("start: push %rax; h: hlt; h14: hlt", "#PF(2)@start RF", [(PAGE, 0, 0)], dict(rsp=PAGE + 4, gates={14: dict(ist=1)}),
      lambda b: equal(b.taken[0].frame.rsp, PAGE + 4), id="s030-push-into-a-missing-page"),
    S("start: int3; n: hlt", "#BP@n; #PF(2)@start RF", [(PAGE, 0, 0)], dict(rsp=PAGE + 0x1010, gates={14: dict(ist=1)}),
      lambda b: equal((b.reg("cr2"), b.taken[1].frame.rsp), (PAGE + 0xFF8, PAGE + 0x1010)), id="s030-frame-into-a-missing-page"),
    S("start: iretq; n: hlt", "#PF(0)@start RF", [(PAGE, 0, 0)], dict(rsp=PAGE, gates={14: dict(ist=1)}),
      lambda b: equal((b.reg("cr2"), b.taken[0].frame.rsp), (PAGE, PAGE)), id="s135-frame-on-a-missing-page"),
]


@pytest.mark.parametrize(("text", "expect", "pages", "setup", "check"), RIGHTS)
def test_pages(bench, text, expect, pages, setup, check):
    bench.tables = tables(*pages)
    run_row(bench, text, expect, paged(bench.tables, **setup), check)


def test_a_stale_translation_lasts_until_invlpg(bench):
    """A page that was changed is still the old one, or already the new; after invlpg and after mov to CR3 it is the new one."""
    builder = tables((PAGE, 0x5000))
    where = builder.map(PAGE, 0x5000)
    text = (
        "start: mov (%rbx), %eax; movl $0x9007, (%rdi); invlpg (%rbx); mov (%rbx), %ecx;"
        "movl $0x5007, (%rdi); mov %cr3, %rsi; mov %rsi, %cr3; mov (%rbx), %edx; done: hlt"
    )
    bench.load(text, rbx=PAGE, rdi=where, **paged(builder, mem={0x5000: b"five", 0x9000: b"nine"}))
    bench.run()
    bench.expect("")
    five, nine = (int.from_bytes(word, "little") for word in (b"five", b"nine"))
    assert [bench.reg(name) for name in ("rax", "rcx", "rdx")] == [five, nine, five]


def test_a_page_that_becomes_present_needs_no_invlpg(bench):
    """What faulted is not kept: the handler maps the page, and the access is made."""
    builder = tables((PAGE, 0x5000, 0))
    where = builder.map(PAGE, 0x5000, 0)
    bench.load("start: mov (%rbx), %eax; done: hlt; h14: movl $0x5007, (%rdi); add $8, %rsp; iretq", rbx=PAGE, rdi=where,
               **paged(builder, mem={0x5000: b"five"}))
    bench.run()
    bench.expect("#PF(0)@start RF")
    assert bench.reg("rax") == int.from_bytes(b"five", "little") and bench.reg("rip") == bench.labels["done"] + 1


def test_code_is_modified_through_another_page(bench):
    """s178: a store through a second linear address of the frame reaches the instruction behind it."""
    builder = tables((PAGE, 0x10000))
    bench.load("start: movb $5, 1+l-start(%rbx); l: mov $1, %eax; done: hlt", rbx=PAGE, **paged(builder))
    bench.run()
    bench.expect("")
    assert bench.reg("rax") == 5


def test_many_pages(bench):
    """More pages than the TLB has entries, over and over; every store arrives in its frame."""
    pages = [(PAGE + 0x1000 * i, 0x700000 + 0x1000 * (i * 37 % 80)) for i in range(80)]
    builder = tables(*pages)
    text = (
        "start: mov $3, %edx; 2: mov $80, %ecx; mov %rbx, %rdi; 1: add %rdi, (%rdi); add $0x1000, %rdi; loop 1b;"
        "dec %edx; jnz 2b; done: hlt"
    )
    bench.load(text, rbx=PAGE, **paged(builder))
    bench.run(max_cycles=60000)
    bench.expect("")
    for la, pa in pages:
        assert bench.quad(pa) == 3 * la


def test_the_map_is_static_again_without_a_table(bench):
    builder = tables((PAGE, 0x5000))
    bench.load("start: mov (%rbx), %eax; xor %ecx, %ecx; mov %rcx, %cr3; mov (%rbx), %edx; done: hlt", rbx=PAGE,
               **paged(builder, mem={0x5000: b"five", PAGE: b"page"}))
    bench.run()
    bench.expect("")
    assert (bench.reg("rax"), bench.reg("rdx")) == tuple(int.from_bytes(w, "little") for w in (b"five", b"page"))


@pytest.mark.parametrize("cycle", range(0, 60))
def test_interrupts_during_walks(sampled, bench, cycle):
    """An interrupt in any cycle of an access whose page is walked for: the end is the same."""
    builder = tables((PAGE, 0x5000), (PAGE + 0x1000, 0x9000))
    bench.load("start: mov (%rbx), %rax; add %rax, (%rbx); n: cli; done: hlt; h32: push %rax; pop %rax; iretq",
               flags="IF", rbx=PAGE + 0xFFC, **paged(builder, mem={0x5FFC: b"\1\0\0\0", 0x9000: b"\2\0\0\0"}))
    bench.run([(cycle, 32)])
    assert bench.reg("rax") == 0x2_0000_0001
    assert bench.engine.read_mem(0x5FFC, 4) + bench.engine.read_mem(0x9000, 4) == struct.pack("<Q", 0x4_0000_0002)
    assert bench.reg("rsp") == STACK
