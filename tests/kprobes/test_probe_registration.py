"""Registration, refusals and their messages (scenarios R01 to R44 of the 2004 set)."""

import errno

import pytest

from kprobes import Kprobe, KprobeError, KprobeFlag
from tests.kprobes.fakemachine import DATA, TEXT, FakeMachine

SOURCE = """
func add3
    push rbp
    mov rbp, rsp
    lea rax, [rdi+rsi]
    add rax, rdx
    pop rbp
    ret
endf add3
func next_one
    mov eax, 7
    ret
endf next_one
func add3.cold
    nop
    ret
endf add3.cold
func padded
    jmp 1f
    .byte 0xcc, 0xcc, 0xcc
1:  nop
    ret
endf padded
func broken
    nop
    .byte 0x06
    nop
endf broken
func odd
    ud2
    .byte 0x67, 0x0f, 0xb9, 0x40, 0x10
    int3
    nop
    hlt
    syscall
    sysretq
    sysenter
    mov ss, eax
    mov ds, eax
    int 0x80
    .byte 0xf1
    .byte 0x0f, 0xff, 0xc0
    ret
endf odd
func big
    .rept 300
    nop
    .endr
    ret
endf big
.byte 0x90
.data
value: .quad 1
.size value, 8
.type value, @object
"""


@pytest.fixture
def m():
    return FakeMachine(SOURCE)


def refused(m, p, code, *words, register=None):
    """Registering must fail with ``code``, say all ``words``, and leave no trace."""
    before, registered, free = m.snapshot(), m.kprobes.registered, m.text_pages
    state = (p.addr, p.offset, p.flags)
    with pytest.raises(KprobeError) as info:
        (register or m.kprobes.register_kprobe)(p)
    assert info.value.errno == code, info.value
    assert isinstance(info.value, OSError)
    name = "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode[code]
    assert str(info.value).splitlines()[0].endswith(f"({name})")
    for word in words:
        assert word in str(info.value), str(info.value)
    assert m.snapshot() == before and m.kprobes.registered == registered and m.text_pages == free
    assert (p.addr, p.offset, p.flags) == state
    return str(info.value)


def test_R01_hits_are_counted_and_results_unchanged(m):
    seen = []
    p = Kprobe(symbol_name="add3", pre_handler=lambda p, regs: seen.append(regs.di))
    m.kprobes.register_kprobe(p)
    assert m.read(m["add3"], 1) == b"\xcc" and p.opcode == 0x55
    assert [m.call("add3", i, 10, 100) for i in range(3)] == [110, 111, 112]
    assert seen == [0, 1, 2] and p.hits == 3 and p.nmissed == 0
    assert m.kprobes.get_kprobe(m["add3"]) is p and m.kprobes.registered == (p,)
    assert m.kprobes.kprobe_running(0) is None


def test_R02_slot_holds_the_copy(m):
    p = Kprobe(symbol_name="add3", offset=1)
    m.kprobes.register_kprobe(p)
    slot = m.kprobes.slot_of(p)
    assert m.read(slot, 15) == bytes.fromhex("4889e5") + b"\xcc" * 12
    assert m.kprobes.is_kprobe_insn_slot(slot) and not m.kprobes.is_kprobe_insn_slot(p.addr)


def test_R03_unregister_restores_and_frees(m):
    text = m.bytes_of("add3")
    p = Kprobe(symbol_name="add3")
    m.kprobes.register_kprobe(p)
    slot = m.kprobes.slot_of(p)
    m.kprobes.unregister_kprobe(p)
    assert m.bytes_of("add3") == text and m.kprobes.registered == ()
    assert m.call("add3", 1, 2, 3) == 6 and p.hits == 0 and not m.traps
    q = Kprobe(symbol_name="next_one")
    m.kprobes.register_kprobe(q)
    assert m.kprobes.slot_of(q) == slot


def test_text_writes_are_synchronised(m):
    p = Kprobe(symbol_name="add3")
    m.kprobes.register_kprobe(p)
    assert m.syncs == 1
    m.kprobes.unregister_kprobe(p)
    assert m.syncs == 2


def test_R04_both(m):
    refused(m, Kprobe(symbol_name="add3", addr=m["add3"]), errno.EINVAL, "both symbol_name 'add3'", "give one")


def test_R05_neither(m):
    refused(m, Kprobe(), errno.EINVAL, "neither symbol_name nor addr")


def test_R06_unknown_symbol(m):
    refused(m, Kprobe(symbol_name="ad3"), errno.ENOENT, "no symbol 'ad3'", "did you mean 'add3'")
    refused(m, Kprobe(symbol_name="zzzzzz"), errno.ENOENT, "no symbol 'zzzzzz'")
    refused(FakeMachine("nop"), Kprobe(symbol_name="x" * 9), errno.ENOENT)


def test_R06_suggests_the_compilers_own_names():
    m = FakeMachine("func work.constprop.0\nnop\nret\nendf work.constprop.0")
    refused(m, Kprobe(symbol_name="work"), errno.ENOENT, "'work.constprop.0'")


def test_R07_offset_on_a_boundary(m):
    p = Kprobe(symbol_name="add3", offset=4)
    m.kprobes.register_kprobe(p)
    assert p.addr == m["add3"] + 4 and p.name == "add3+0x4"
    assert m.call("add3", 1, 2, 3) == 6 and p.hits == 1


def test_R08_offset_into_the_next_symbol(m):
    p = Kprobe(symbol_name="add3", offset=m["next_one"] - m["add3"])
    m.kprobes.register_kprobe(p)
    assert p.addr == m["next_one"] and m.call("next_one") == 7 and p.hits == 1


def test_R09_no_symbol(m):
    end = m.symbols.containing(m["big"]).end
    refused(m, Kprobe(addr=end), errno.ENOENT, "is in no symbol", ".size")
    refused(m, Kprobe(addr=0x1234), errno.ENOENT, "0x1234")


def test_R10_not_text(m):
    refused(m, Kprobe(addr=DATA), errno.EINVAL, "value", "not in the guest's text")
    refused(m, Kprobe(symbol_name="value"), errno.EINVAL)


def test_R11_same_struct_twice(m):
    p = Kprobe(addr=m["add3"])
    m.kprobes.register_kprobe(p)
    refused(m, p, errno.EINVAL, "already registered")
    assert m.call("add3", 1, 2, 3) == 6 and p.hits == 1


def test_R12_again_by_symbol(m):
    p = Kprobe(symbol_name="add3")
    m.kprobes.register_kprobe(p)
    m.kprobes.unregister_kprobe(p)
    refused(m, p, errno.EINVAL, "p.addr = None")
    p.addr = None
    m.kprobes.register_kprobe(p)


def test_again_by_address_keeps_its_address(m):
    p = Kprobe(addr=m["add3"], offset=4)
    for _ in range(2):
        m.kprobes.register_kprobe(p)
        assert p.addr == m["add3"] + 4
        m.kprobes.unregister_kprobe(p)


def test_R15_no_slot_memory(m):
    m.text_pages = 0
    refused(m, Kprobe(symbol_name="add3"), errno.ENOMEM, "no page left")


def test_R16_two_pages_and_one_kept(m):
    probes = [Kprobe(symbol_name="big", offset=i) for i in range(274)]
    for p in probes:
        m.kprobes.register_kprobe(p)
    assert len(m.allocated) == 2
    assert [m.kprobes.slot_of(p) for p in probes] == [
        m.allocated[0] + 15 * i for i in range(273)] + [m.allocated[1]]
    m.call("big")
    assert all(p.hits == 1 for p in probes)
    for p in probes:
        m.kprobes.unregister_kprobe(p)
    assert len(m.freed) == 1 and len(m.allocated) == 2
    assert m.bytes_of("big") == b"\x90" * 300 + b"\xc3"


def test_R17_middle_of_an_instruction(m):
    message = refused(m, Kprobe(symbol_name="add3", offset=2), errno.EILSEQ)
    lines = message.splitlines()
    assert lines[0] == "add3+0x2 is inside an instruction (EILSEQ)"
    assert lines[1] == "   add3+0x1:  48 89 e5   mov rbp, rsp"
    assert lines[2].index("^") == lines[1].index("89") and "^ +0x2" in lines[2]
    assert "nearest boundaries: +0x1, +0x4" in lines[2]
    refused(m, Kprobe(addr=m["add3"] + 6), errno.EILSEQ, "add3+0x6")


def test_R17_every_offset_of_a_function(m):
    boundaries = {0, 1, 4, 8, 11, 12}
    for offset in range(13):
        p = Kprobe(symbol_name="add3", offset=offset)
        if offset in boundaries:
            m.kprobes.register_kprobe(p)
            m.kprobes.unregister_kprobe(p)
        else:
            refused(m, p, errno.EILSEQ)


def test_R19_boundary_check_sees_through_other_probes(m):
    probes = [Kprobe(symbol_name="add3", offset=offset) for offset in (0, 1, 4, 8, 11, 12)]
    for p in probes:
        m.kprobes.register_kprobe(p)
    refused(m, Kprobe(symbol_name="add3", offset=5), errno.EILSEQ, "48 8d 04 37", "lea rax")
    assert m.call("add3", 1, 2, 3) == 6 and all(p.hits == 1 for p in probes)


def test_R22_foreign_breakpoint_before_the_address(m):
    m.write(m["add3"] + 1, b"\xcc")
    refused(m, Kprobe(symbol_name="add3", offset=4), errno.EILSEQ, "add3+0x1 holds an int3", "remove that breakpoint")
    m.kprobes.register_kprobe(Kprobe(symbol_name="padded", offset=5))


def test_R22_undecodable_before_the_address(m):
    refused(m, Kprobe(symbol_name="broken", offset=2), errno.EILSEQ, "broken+0x1 holds 06", "not an instruction")


@pytest.mark.parametrize(("offset", "code", "words"), [
    (0, errno.EILSEQ, "'ud2'"), (2, errno.EILSEQ, "'ud1'"), (7, errno.EILSEQ, "'int3'"), (9, errno.EOPNOTSUPP, "'hlt'"),
    (10, errno.EOPNOTSUPP, "'syscall'"), (12, errno.EOPNOTSUPP, "'sysretq'"), (15, errno.EOPNOTSUPP, "'sysenter'"),
    (17, errno.EINVAL, "'mov ss, eax'"), (21, errno.EILSEQ, "'int 0x80'"), (23, errno.EILSEQ, "'int1'"),
    (24, errno.EILSEQ, "'ud0'"),
])
def test_R23_refused_instructions(m, offset, code, words):
    refused(m, Kprobe(symbol_name="odd", offset=offset), code, words, f"odd+{offset:#x}" if offset else "odd")


def test_I35_mov_ds_is_allowed_and_ud1_has_a_modrm(m):
    m.kprobes.register_kprobe(Kprobe(symbol_name="odd", offset=8))
    m.kprobes.register_kprobe(Kprobe(symbol_name="odd", offset=19))
    m.kprobes.register_kprobe(Kprobe(symbol_name="odd", offset=27))


def test_R24_R25_blacklist(m):
    start = m["add3"]
    m.black = [(start, start + 13, "it is the entry stub of vector 3")]
    refused(m, Kprobe(symbol_name="add3"), errno.EINVAL, "entry stub of vector 3")
    refused(m, Kprobe(symbol_name="add3", offset=4), errno.EINVAL, "add3+0x4 must not be probed")
    refused(m, Kprobe(symbol_name="add3.cold"), errno.EINVAL)
    m.kprobes.register_kprobe(Kprobe(symbol_name="next_one"))


def test_R26_the_runtimes_own_text(m):
    p = Kprobe(symbol_name="add3")
    m.kprobes.register_kprobe(p)
    refused(m, Kprobe(addr=m.kprobes.slot_of(p)), errno.EINVAL, "own text")
    refused(m, Kprobe(addr=m.kprobes.slot_of(p) + 100), errno.EINVAL)


def test_R28_control_flow_integrity_symbols():
    m = FakeMachine("func __pfx_f\nnop\nnop\nendf __pfx_f")
    refused(m, Kprobe(symbol_name="__pfx_f"), errno.EINVAL, "__pfx_f")


def test_R30_only_disabled_may_be_passed(m):
    entry, inside = Kprobe(symbol_name="add3", flags=0xFF), Kprobe(symbol_name="add3", offset=4, flags=0xFF)
    m.kprobes.register_kprobes([entry, inside])
    assert entry.flags == KprobeFlag.DISABLED | KprobeFlag.ON_FUNC_ENTRY and inside.flags == KprobeFlag.DISABLED


def test_R31_registered_disabled(m):
    text = m.bytes_of("add3")
    p = Kprobe(symbol_name="add3", flags=KprobeFlag.DISABLED)
    m.kprobes.register_kprobe(p)
    assert m.bytes_of("add3") == text and p.disabled
    assert m.call("add3", 1, 2, 3) == 6 and p.hits == 0
    m.kprobes.enable_kprobe(p)
    assert m.call("add3", 1, 2, 3) == 6 and p.hits == 1 and not p.disabled


def test_R34_R35_unregister_what_is_not_registered(m):
    p = Kprobe(addr=m["add3"])
    m.kprobes.unregister_kprobe(p)
    assert p.addr is None
    q = Kprobe(addr=m["add3"])
    m.kprobes.register_kprobe(q)
    m.kprobes.unregister_kprobe(Kprobe(addr=m["add3"]))
    assert m.kprobes.get_kprobe(m["add3"]) is q
    m.kprobes.unregister_kprobe(q)
    m.kprobes.unregister_kprobe(q)
    assert q.addr is None


def test_R37_an_instruction_of_15_bytes():
    m = FakeMachine("func f\n.byte 0x2e,0x2e,0x2e,0x2e,0x2e,0x2e,0x2e,0x2e,0x48,0xc7,0xc0,5,0,0,0\nret\nendf f")
    p = Kprobe(symbol_name="f")
    m.kprobes.register_kprobe(p)
    assert m.call("f") == 5 and p.hits == 1 and m.read(m.kprobes.slot_of(p), 15) == b"\x2e" * 8 + m.read(p.addr + 8, 7)


def test_R38_memory_ends_behind_the_function():
    m = FakeMachine(".org 4093\nfunc f\nxor eax, eax\nret\nendf f")
    p = Kprobe(symbol_name="f")
    m.kprobes.register_kprobe(p)
    assert m.call("f") == 0 and p.hits == 1


def test_R39_page_out_of_reach():
    m = FakeMachine("func f\nmov rax, [rip+0x1000]\nret\nendf f", page_distance=0x90000000)
    refused(m, Kprobe(symbol_name="f"), errno.EINVAL, "not within 2 GiB")
    assert m.freed == m.allocated


def test_R39_displacement_does_not_fit():
    m = FakeMachine("func f\nmov rax, [rip-0x7fffff00]\nret\nendf f")
    message = refused(m, Kprobe(symbol_name="f"), errno.EINVAL, "not within 2 GiB of its copy")
    assert "mov rax" in message
    assert m.freed == m.allocated


def test_R40_requests_from_inside_a_handler(m):
    other, errors = Kprobe(symbol_name="next_one"), []

    def handler(p, regs):
        for request in (m.kprobes.register_kprobe, m.kprobes.unregister_kprobe, m.kprobes.enable_kprobe,
                        m.kprobes.disable_kprobe):
            with pytest.raises(KprobeError) as info:
                request(other)
            errors.append((info.value.errno, str(info.value)))

    p = Kprobe(symbol_name="add3", pre_handler=handler)
    m.kprobes.register_kprobe(p)
    assert m.call("add3", 1, 2, 3) == 6
    assert [code for code, _ in errors] == [errno.EDEADLK] * 4
    assert "register_kprobe was called from inside the pre_handler of add3" in errors[0][1]
    m.kprobes.register_kprobe(other)


def test_R41_last_instruction(m):
    p = Kprobe(symbol_name="add3", offset=12)
    m.kprobes.register_kprobe(p)
    assert m.call("add3", 1, 2, 3) == 6 and p.hits == 1


def test_negative_offset(m):
    refused(m, Kprobe(symbol_name="next_one", offset=-1), errno.EINVAL, "negative")


def test_text_that_cannot_be_written(m):
    from kprobes import GuestMemoryError
    write = m.write

    def failing(addr, data):
        if addr == m["add3"]:
            raise GuestMemoryError("write-protected")
        write(addr, data)

    m.write = failing
    refused(m, Kprobe(symbol_name="add3"), errno.EINVAL, "cannot be written", "write-protected")
    m.write = write
    m.kprobes.register_kprobe(Kprobe(symbol_name="add3"))


def test_unregister_leaves_replaced_text_alone(m):
    p = Kprobe(symbol_name="add3")
    m.kprobes.register_kprobe(p)
    m.write(p.addr, b"\x90")
    m.kprobes.unregister_kprobe(p)
    assert m.read(m["add3"], 1) == b"\x90"


def test_A08_A09_enable_disable(m):
    p = Kprobe(symbol_name="add3")
    for request in (m.kprobes.enable_kprobe, m.kprobes.disable_kprobe):
        with pytest.raises(KprobeError) as info:
            request(p)
        assert info.value.errno == errno.EINVAL and "not registered" in str(info.value)
    m.kprobes.register_kprobe(p)
    text = m.read(TEXT, 1)
    assert text == b"\xcc"
    for _ in range(2):
        m.kprobes.disable_kprobe(p)
        assert m.call("add3", 1, 2, 3) == 6 and p.hits == 0 and m.read(TEXT, 1) == b"\x55"
    for _ in range(2):
        m.kprobes.enable_kprobe(p)
    assert m.call("add3", 1, 2, 3) == 6 and p.hits == 1
    m.kprobes.disable_kprobe(p)
    m.kprobes.unregister_kprobe(p)
    assert m.read(TEXT, 1) == b"\x55"
