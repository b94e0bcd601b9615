"""Every rule that refuses a registration, in the order in which they are asked: its errno, its name, its words, and that
nothing has changed after it (register_kprobe, kernel/kprobes.c)."""

import errno
import re
from dataclasses import dataclass, field

import pytest

from kprobes import GuestMemoryError, Jprobe, Kprobe, KprobeError, Options, Rule
from tests.kprobes.fakemachine import FakeMachine

SOURCE = """
func f
    mov rax, rdi
    add rax, 1
    ret
endf f
func odd
    mov ss, ax
    hlt
    syscall
    nop
    int3
    ud2
    iretq
    .byte 0x2e,0x2e,0x2e,0x2e,0x2e,0x2e,0x2e,0x2e,0x48,0xc7,0xc0,5,0,0,0
    mov rax, [rip-0x7fffff00]
    ret
endf odd
func junk
    nop
    .byte 0x06
    nop
endf junk
func blocked
    nop
    ret
endf blocked
func blocked.cold
    nop
    ret
endf blocked.cold
func __cfi_f
    nop
endf __cfi_f
bare: nop
.data
.globl variable
.type variable, @object
variable: .quad 0
.size variable, 8
"""
INT3 = Options(step="int3")
MS, HLT, SYSCALL, TRAP, UD2, IRETQ, LONG, FAR, END = 0, 2, 3, 6, 7, 9, 11, 26, 33


@dataclass
class Refused:
    """What is asked for, and how it is refused."""

    rule: Rule
    errno: int
    words: str
    probe: dict = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    break_it: object = None  # called with the machine before the request


def no_pages(m):
    m.text_pages = 0


def padded(m):
    """Make the int3 in front a nop: it is not a probe's, and would hide what is behind it."""
    m.memory.poke(m["odd"] + TRAP, b"\x90")


def far_pages(m):
    m.page_distance = 0x90000000


def read_only(m):
    m.write = unwritable


def unwritable(addr, data):
    raise GuestMemoryError(f"{addr:#x} is read-only")


def at(offset, name="odd"):
    return {"symbol_name": name, "offset": offset}


RULES = [
    Refused(Rule.ADDRESS, errno.EINVAL, "both symbol_name 'f' and addr", {"symbol_name": "f", "addr": 0x1000}),
    Refused(Rule.ADDRESS, errno.EINVAL, "neither symbol_name nor addr", {}),
    Refused(Rule.ADDRESS, errno.EINVAL, "offset -1 is negative", {"symbol_name": "f", "offset": -1}),
    Refused(Rule.ADDRESS, errno.ENOENT, "no symbol 'blockd'; did you mean 'blocked'", {"symbol_name": "blockd"}),
    Refused(Rule.ADDRESS, errno.ENOENT, "in no symbol of the guest", {"addr": 0x1234}),
    Refused(Rule.TEXT, errno.EINVAL, "variable .* is not in the guest's text", at(0, "variable")),
    Refused(Rule.BLACKLIST, errno.EINVAL, "blocked\\+0x1 must not be probed: it handles traps", at(1, "blocked")),
    Refused(Rule.BLACKLIST, errno.EINVAL, "blocked.cold must not be probed: it handles traps", at(0, "blocked.cold")),
    Refused(Rule.BLACKLIST, errno.EINVAL, "control-flow integrity", at(0, "__cfi_f")),
    Refused(Rule.BOUNDARY, errno.EILSEQ, "f\\+0x1 is inside an instruction", at(1, "f")),
    Refused(Rule.BOUNDARY, errno.EILSEQ, "cannot be reached by decoding", at(2, "junk")),
    Refused(Rule.BOUNDARY, errno.EILSEQ, "int3.* a software interrupt", at(TRAP)),
    Refused(Rule.BOUNDARY, errno.EILSEQ, "odd\\+0x6 holds an int3 that is not a probe's", at(UD2)),
    Refused(Rule.MEMORY, errno.ENOMEM, "no page left", at(0, "f"), break_it=no_pages),
    Refused(Rule.MEMORY, errno.EINVAL, "not within 2 GiB", at(0, "f"), break_it=far_pages),
    Refused(Rule.INSTRUCTION, errno.EINVAL, "not within 2 GiB of its copy", at(FAR), break_it=padded),
    Refused(Rule.INSTRUCTION, errno.EINVAL, "mov ss.* holds back the single-step trap", at(MS)),
    Refused(Rule.EMULATION, errno.EOPNOTSUPP, "hlt would be stepped with interrupts off", at(HLT)),
    Refused(Rule.EMULATION, errno.EOPNOTSUPP, "syscall.* control does not come back", at(SYSCALL)),
    Refused(Rule.ARMING, errno.EINVAL, "cannot be written: .* is read-only", at(0, "f"), break_it=read_only),
]
INT3_RULES = [
    Refused(Rule.EMULATION, errno.EOPNOTSUPP, 'iretq.* with step="int3"', at(IRETQ), INT3, padded),
    Refused(Rule.ROOM, errno.ENOSPC, 'with step="int3"', at(LONG), INT3, padded),
]


def request(m, fields):
    p = Kprobe(**fields)
    before, pages, state = m.snapshot(), m.text_pages, (p.addr, p.offset, p.flags)
    registered = m.kprobes.registered
    with pytest.raises(KprobeError) as info:
        m.kprobes.register_kprobe(p)
    assert m.snapshot() == before and m.kprobes.registered == registered
    assert m.text_pages == pages and (p.addr, p.offset, p.flags) == state
    return info.value


@pytest.mark.parametrize("case", RULES + INT3_RULES, ids=lambda case: f"{case.rule}: {case.words[:40]}")
def test_refused_and_nothing_changed(case):
    m = FakeMachine(SOURCE, options=case.options)
    m.black.append((m["blocked"], m["blocked"] + 2, "it handles traps"))
    if case.break_it:
        case.break_it(m)
    error = request(m, case.probe)
    assert error.errno == case.errno and error.rule is case.rule
    assert re.search(case.words, str(error)), str(error)
    m.text_pages, m.page_distance = 64, 0x10000000
    m.__dict__.pop("write", None)
    good = Kprobe(symbol_name="f")
    m.kprobes.register_kprobe(good)
    assert m.call("f", 4) == 5 and good.hits == 1


def test_the_order_of_the_rules():
    """Of two reasons the earlier one is given."""
    m = FakeMachine(SOURCE)
    m.black.append((m["odd"], m["odd"] + END, "it handles traps"))
    no_pages(m)
    assert request(m, {"symbol_name": "odd", "offset": 1}).rule is Rule.BLACKLIST  # before the boundary
    assert request(m, {"symbol_name": "f", "offset": 1}).rule is Rule.BOUNDARY     # before memory
    assert request(m, {"symbol_name": "f"}).rule is Rule.MEMORY


def test_registered_twice_and_two_jprobes():
    m = FakeMachine(SOURCE)
    p, jp = Kprobe(addr=m["f"]), Jprobe(lambda x: 0, symbol_name="f")
    m.kprobes.register_kprobe(p)
    m.kprobes.register_jprobe(jp)
    before = m.snapshot()
    for rule, code, again in ((Rule.REGISTERED, errno.EINVAL, lambda: m.kprobes.register_kprobe(p)),
                              (Rule.REGISTERED, errno.EINVAL, lambda: m.kprobes.register_jprobe(jp)),
                              (Rule.AGGREGATE, errno.EEXIST,
                               lambda: m.kprobes.register_jprobe(Jprobe(lambda x: 0, symbol_name="f")))):
        with pytest.raises(KprobeError) as info:
            again()
        assert (info.value.rule, info.value.errno) == (rule, code)
        assert m.snapshot() == before and m.kprobes.registered == (p, jp.kp)
    assert m.call("f", 4) == 5 and p.hits == jp.kp.hits == 1
