"""Properties: the rewrite of RIP-relative operands, lengths against the assembler, slots, pt_regs."""

import errno

import capstone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kprobes import GuestMemoryError, KprobeError, PtRegs
from kprobes.insn import DecodeError, Fixup, Opcode, decode, walk
from kprobes.ptregs import FIELDS
from kprobes.slots import SLOTS_PER_PAGE, Slots, distance
from kprobes.step import displaced
from tests.kprobes.fakemachine import assemble

MASK64 = (1 << 64) - 1
TEXT = 0xFFFFFFFF81000000

#: (prefixes that may stand in front, opcode, ModRM reg field or None for any, bytes of immediate for 16, 32, 64 bits)
FORMS = [
    ("", "8b", None, 0), ("", "89", None, 0), ("", "03", None, 0), ("", "8d", None, 0), ("", "63", None, 0),
    ("", "81", None, -1), ("", "83", None, 1), ("", "80", None, 1), ("", "c7", 0, -1), ("", "c6", 0, 1),
    ("", "f7", 0, -1), ("", "f7", 4, 0), ("", "69", None, -1), ("", "6b", None, 1), ("", "c1", 4, 1), ("", "d1", 5, 0),
    ("", "ff", 0, 0), ("", "ff", 2, 0), ("", "ff", 4, 0), ("", "ff", 6, 0), ("", "87", None, 0), ("", "38", None, 0),
    ("", "0faf", None, 0), ("", "0fb6", None, 0), ("", "0fbf", None, 0), ("", "0f44", None, 0), ("", "0f94", None, 0),
    ("", "0fba", 4, 1), ("", "0fa4", None, 1), ("", "0fb1", None, 0), ("", "0fc1", None, 0), ("", "0f1f", 0, 0),
    ("f3", "0f6f", None, 0), ("66", "0f6f", None, 0), ("f2", "0f10", None, 0), ("", "0f28", None, 0),
    ("66", "0f3800", None, 0), ("66", "0f3a0f", None, 1), ("f2", "0f38f1", None, 0), ("66", "0f70", None, 1),
    ("", "c4e279" "18", None, 0), ("", "c5f8" "28", None, 0), ("", "c5f9" "6f", None, 0), ("", "c4e379" "0f", None, 1),
    ("", "62f17c48" "10", None, 0), ("", "62f1fd48" "6f", None, 0),
]


@st.composite
def rip_relative(draw):
    mandatory, opcode, reg, immediate = draw(st.sampled_from(FORMS))
    vector = opcode.startswith(("c4", "c5", "62")) and len(opcode) > 2
    code = bytearray()
    wide = False
    if not vector:
        prefixes = draw(st.lists(st.sampled_from([0x66, 0x2E, 0x64, 0x65, 0x3E]), max_size=2, unique=True))
        code += bytes(prefixes) + bytes.fromhex(mandatory)
        if draw(st.booleans()):
            code.append(0x40 | draw(st.integers(0, 15)))
            wide = bool(code[-1] & 8)
    size16 = 0x66 in code and not wide
    code += bytes.fromhex(opcode)
    reg = draw(st.integers(0, 7)) if reg is None else reg
    code.append(0x05 | reg << 3)
    disp = draw(st.integers(-(1 << 31), (1 << 31) - 1))
    at = len(code)
    code += disp.to_bytes(4, "little", signed=True)
    width = (2 if size16 else 4) if immediate < 0 else immediate
    code += draw(st.binary(min_size=width, max_size=width))
    return bytes(code), at, disp


@settings(max_examples=800, deadline=None)
@given(rip_relative(), st.integers(-(1 << 31), 1 << 31), st.binary(min_size=15, max_size=15))
def test_rewrite_keeps_the_target_and_everything_else(generated, delta, tail):
    code, at, disp = generated
    try:
        insn = decode(code + tail, TEXT)
    except DecodeError:
        return  # this combination of prefixes and opcode does not exist
    if insn.data != code:
        assert len(code) > 15 or not list(reference(code)), "only what the reference also reads otherwise"
        return
    assert insn.rip_disp == at
    slot = TEXT + delta & MASK64
    new = disp - delta
    if not -(1 << 31) <= new < 1 << 31:
        with pytest.raises(KprobeError) as info:
            displaced(insn, slot)
        assert info.value.errno == errno.EINVAL
        return
    copy = displaced(insn, slot)
    assert len(copy) == len(code) and copy[:at] == code[:at] and copy[at + 4:] == code[at + 4:]
    assert slot + int.from_bytes(copy[at:at + 4], "little", signed=True) & MASK64 == TEXT + disp & MASK64


_MD = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def reference(code):
    return (insn for insn in _MD.disasm(code, TEXT) if insn.size == len(code))


def test_the_forms_do_exist():
    """Without prefixes every form decodes to its full length, so that the property above is not empty."""
    for mandatory, opcode, reg, immediate in FORMS:
        code = bytes.fromhex(mandatory + opcode) + bytes([5 | (reg or 0) << 3]) + b"\1\2\3\4"
        code += bytes(4 if immediate < 0 else immediate)
        insn = decode(code + b"\x90" * 4, TEXT)
        assert insn.data == code and insn.rip_disp == len(bytes.fromhex(mandatory + opcode)) + 1, code.hex()


def test_the_66_prefix_that_misleads_capstone():
    code = bytes.fromhex("660f6f0578563412")
    assert displaced(decode(code, TEXT), TEXT - 0x100) == bytes.fromhex("660f6f0578573412")


@settings(max_examples=400, deadline=None)
@given(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, (1 << 31) - 1))
def test_eip_relative_wraps_at_32_bits(disp, slot):
    code = b"\x67\x8b\x05" + disp.to_bytes(4, "little", signed=True)
    copy = displaced(decode(code, 0x1000), slot)
    new = int.from_bytes(copy[3:], "little", signed=True)
    assert (slot + new) % (1 << 32) == (0x1000 + disp) % (1 << 32)


@pytest.mark.parametrize("code", ["8b0425aabbccdd", "8b45fc", "8b8011223344", "0f2205", "c3", "e811223344"])
def test_other_operands_are_left_alone(code):
    data = bytes.fromhex(code)
    insn = decode(data, TEXT)
    assert insn.rip_disp is None and displaced(insn, TEXT + 1000) == data


@settings(max_examples=500, deadline=None)
@given(st.binary(min_size=1, max_size=15))
def test_random_bytes_decode_or_are_refused(data):
    try:
        insn = decode(data, TEXT)
    except DecodeError:
        return
    assert 1 <= len(insn.data) <= 15 and data.startswith(insn.data)
    walked = walk(data, TEXT)
    assert walked[0][:2] == (TEXT, len(insn.data))


def test_lengths_against_the_assembler():
    source = """
    mov rax, [rip+0x10]\n jmp [rax+rax*4+0x1234]\n call [rip+4]\n ud1 eax, [eax+0x10]\n ret 8\n enter 16, 0\n
    movabs rax, 0x1122334455667788\n test dword ptr [rbp+rax*2+7], 0x11223344\n rep stosq\n data16 rex.W call 1f\n1:\n
    lock cmpxchg16b [rdi]\n vpaddd ymm8, ymm1, [rip+99]\n pushfw\n iretq\n jecxz 1b\n xbegin 1b\n
    nop word ptr cs:[rax+rax]
    """.replace("\\n", "\n")
    lines = [line.strip() for line in source.splitlines() if line.strip() and not line.strip().endswith(":")]
    marked = "\n".join(f"L{i}:\n{line}" for i, line in enumerate(lines)).replace("1f", "L11").replace("1b", "L0")
    (code,), symbols = (assemble(marked + "\nend_of_code: nop"))
    ends = sorted(s.start for s in symbols if s.name.startswith(("L", "end_of")))
    assert [addr for addr, _, _ in walk(code[1], code[0])][:len(ends)] == ends


@pytest.mark.parametrize(("code", "fixup", "pushed"), [
    ("e811223344", Fixup.CALL, 8), ("ffd0", Fixup.CALL_ABSOLUTE, 8), ("41ffd3", Fixup.CALL_ABSOLUTE, 8),
    ("ff18", Fixup.CALL_ABSOLUTE, 4), ("48ff18", Fixup.CALL_ABSOLUTE, 8), ("66ff18", Fixup.CALL_ABSOLUTE, 2),
    ("ffe0", Fixup.ABSOLUTE, 8), ("ff28", Fixup.ABSOLUTE, 8), ("c3", Fixup.ABSOLUTE, 8), ("f3c3", Fixup.ABSOLUTE, 8),
    ("c20800", Fixup.ABSOLUTE, 8), ("48cb", Fixup.ABSOLUTE, 8), ("ca0800", Fixup.ABSOLUTE, 8),
    ("48cf", Fixup.ABSOLUTE, 8),
    ("9c", Fixup.PUSHF, 8), ("669c", Fixup.PUSHF, 2), ("66489c", Fixup.PUSHF, 8), ("48669c", Fixup.PUSHF, 2),
    ("ff00", Fixup.MOVE_IP, 8), ("ff08", Fixup.MOVE_IP, 8), ("ff30", Fixup.MOVE_IP, 8), ("c5f877", Fixup.MOVE_IP, 8),
    ("eb10", Fixup.MOVE_IP, 8), ("7410", Fixup.MOVE_IP, 8), ("0f84aabbccdd", Fixup.MOVE_IP, 8),
])
def test_classes(code, fixup, pushed):
    insn = decode(bytes.fromhex(code), TEXT)
    assert (insn.fixup, insn.pushed) == (fixup, pushed)


def test_a_rex_that_is_not_in_front_of_the_opcode_does_not_count():
    assert Opcode.parse(bytes.fromhex("48669c")).rex == 0
    assert Opcode.parse(bytes.fromhex("66489c")) == Opcode(frozenset({0x66}), 0x48, 2)


@pytest.mark.parametrize(("code", "ends", "not_ends"), [
    ("90", [1], [0, 2]), ("7410", [2, 0x12], [0, 3]), ("74f0", [2, -14], [4]), ("e8fcffffff", [5, 1], [2]),
    ("f3a4", [0, 2], [1]), ("a4", [1], [0]), ("c3", [-5, 12345], []), ("e2fe", [2, 0], [1]),
    ("c7f800010000", [6, 0x106], [7]),
])
def test_where_a_step_may_end(code, ends, not_ends):
    insn = decode(bytes.fromhex(code), TEXT)
    assert all(insn.may_end_at(offset) for offset in ends) and not any(insn.may_end_at(offset) for offset in not_ends)


class Pages:
    """Only the page side of a guest."""

    def __init__(self):
        self.live = {}
        self.next = 0

    def alloc_text_page(self, near):
        self.next += 4096
        page = (near & -(1 << 32)) + 0x10000000 + self.next
        self.live[page] = bytearray(4096)
        return page

    def free_text_page(self, addr):
        assert not any(self.live.pop(addr))

    def write(self, addr, data):
        page = self.live.get(addr & -4096)
        if page is None:
            raise GuestMemoryError(hex(addr))
        page[addr & 4095:(addr & 4095) + len(data)] = data


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("aaaaaf"), st.integers(0, 10**6), st.booleans()), max_size=60),
       st.sampled_from([0, 1, 270, 273, 560]))
def test_slots(operations, start):
    guest = Pages()
    slots = Slots(guest)  # pyright: ignore
    used = set()
    for kind, number, far in [*[("a", 0, False)] * start, *operations]:
        if kind == "a":
            near = 0x1000 if not far else 0x7F00_0000_0000
            slot = slots.allocate(near)
            assert slot not in used and abs(distance(slot, near)) < 1 << 31 and slots.owns(slot)
            page = slot & -4096
            index, rest = divmod(slot - page, 15)
            assert rest == 0 and index < SLOTS_PER_PAGE
            assert all(page + 15 * i in used for i in range(index)), "lowest free first"
            slots.fill(slot, b"\x90\xc3")
            slots.keep(slot)
            used.add(slot)
        elif used:
            slot = sorted(used)[number % len(used)]
            used.remove(slot)
            slots.release(slot)
        assert set(guest.live) == set(slots.pages)
    filled = {page for page, data in guest.live.items() if any(data)}
    assert {slot & -4096 for slot in used} == filled and len(guest.live) <= len(filled) + 1
    for slot in used:
        slots.release(slot)
    assert len(guest.live) <= 1


def test_slots_are_not_freed_twice():
    slots = Slots(Pages())  # pyright: ignore
    slot = slots.allocate(0x1000)
    with pytest.raises(ValueError, match="not a slot in use"):
        slots.release(slot + 1)
    slots.release(slot)
    with pytest.raises(ValueError, match="not a slot in use"):
        slots.release(slot)


@given(st.lists(st.integers(0, MASK64), min_size=21, max_size=21))
def test_pt_regs_round_trip(values):
    regs = PtRegs(*values)
    data = regs.pack()
    assert len(data) == 168 and PtRegs.unpack(data) == regs == regs.copy()
    assert [int.from_bytes(data[i * 8:i * 8 + 8], "little") for i in range(21)] == values


def test_pt_regs_order_and_access():
    assert " ".join(FIELDS) == "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss"
    regs = PtRegs(di=1, si=2, dx=3, cx=4, r8=5, r9=6, sp=0x100, ax=9)
    assert [regs.argument(n) for n in range(6)] == [1, 2, 3, 4, 5, 6] and regs.stack_argument(6) == 0x108
    with pytest.raises(IndexError, match=r"stack_argument\(6\)"):
        regs.argument(6)
    with pytest.raises(IndexError, match="register di"):
        regs.stack_argument(0)
    regs.return_value = -1
    assert regs.ax == regs.return_value == MASK64
    with pytest.raises(ValueError, match="168 bytes, not 3"):
        PtRegs.unpack(b"abc")
    regs.bx = -1
    assert PtRegs.unpack(regs.pack()).bx == MASK64 and "bx ffffffffffffffff" in regs.dump()
    assert PtRegs(cs=0x33).user_mode and not regs.user_mode
