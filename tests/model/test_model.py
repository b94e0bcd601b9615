"""The reference model alone, against what the manual says (trap semantics, the section is named at each test)."""

import struct

import pytest

from tests.model import layout
from tests.model.delivery import FAULT, ICEBP, INTR, NMI, SOFT, TRAP
from tests.model.model import Dead, Delivered, Illegal, Model, Retired, Taken
from tests.model.state import HIGH, IF, NT, RF, SS, TF, ZF, Memory

CODE, HANDLER, STACK = 0x10000, 0x20000, 0x40000


@pytest.fixture(scope="module")
def whole():
    return Model(Memory(16 << 20))


@pytest.fixture
def model(whole):
    """A model with tables, and handlers of one iretq each."""
    whole.memory.put(0, bytes(0x80000))
    for vector in range(256):
        whole.memory.put(layout.IDT + 16 * vector, layout.gate(HANDLER + 16 * vector))
        whole.memory.put(HANDLER + 16 * vector, b"\x48\xcf")
    for selector, descriptor in layout.DESCRIPTORS.items():
        whole.memory.put(layout.GDT + selector, struct.pack("<Q", descriptor))
    whole.reset()
    state = whole.state
    state.idt, state.gdt, state.tr, state.tss = (layout.IDT, 0xFFF), (layout.GDT, 0xFF), layout.TR, (layout.TSS, 0x67)
    state.rip, state.regs[4] = CODE, STACK
    return whole


def run(model, code, steps=1, rflags=2, **regs):
    """Put code at rip and step; all items."""
    model.memory.put(CODE, code)
    model.state.rflags = rflags
    for name, value in regs.items():
        model.state.regs[["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"].index(name)] = value
    return [item for _ in range(steps) for item in model.step()]


def taken(items):
    return [(i.event.vector, i.event.kind, i.event.error, i.event.rip) for i in items if isinstance(i, Taken)]


def test_a_plain_instruction_changes_registers_and_flags(model):
    (item,) = run(model, b"\x48\x29\xd8", rax=5, rbx=5)  # sub rax, rbx
    assert isinstance(item, Retired) and model.state.regs[0] == 0 and model.state.rflags & ZF
    assert model.state.rip == CODE + 3


@pytest.mark.parametrize(("code", "control", "expected"), [
    (b"\xc4\xe2\x70\xf7\xc3", 0x1B0A, 0x2D3A8D),               # bextr eax, ebx, ecx: 27 bits from bit 10 of 32
    (b"\xc4\xe2\xf0\xf7\xc3", 0x1B0A, 0x6AD3A8D),              # bextr rax, rbx, rcx: of 64
    (b"\xc4\xe2\xf0\xf7\xc3", 0x8000, 0xFFA1441AB4EA343E),     # more bits than there are: all 64
    (b"\xc4\xe2\x70\xf7\xc3", 0x0000, 0),
])
def test_bextr_is_that_of_silicon(model, code, control, expected):
    """The emulator shifts 64 bits for an operand of 32, and loses bit 63 of a long field."""
    run(model, code, rbx=0xFFA1441AB4EA343E, rcx=control, rax=1)
    assert model.state.regs[0] == expected and bool(model.state.rflags & ZF) == (expected == 0)


def test_memory_is_the_same_in_the_alias(model):
    run(model, b"\x48\x89\x03\x48\x8b\x0e", 2, rax=0x1122, rbx=HIGH + 0x50000, rsi=0x50000)
    assert model.state.regs[1] == 0x1122


@pytest.mark.parametrize(
    "code, regs, expected",
    [
        (b"\x48\x8b\x03", {"rbx": 0x40000000}, (14, 0, 0x40000000)),
        (b"\x48\x01\x03", {"rbx": 0x40000000}, (14, 2, 0x40000000)),  # a read that will be written
        (b"\x48\x8b\x03", {"rbx": 0xFFFFFD}, (14, 0, 0x1000000)),  # the second page of a split access (1.7)
        (b"\x48\x8b\x03", {"rbx": 1 << 63}, (13, 0, None)),
        (b"\x48\x8b\x45\x00", {"rbp": 1 << 63}, (12, 0, None)),  # 2.3: by rbp is the stack
        (b"\xf7\xf1", {"rcx": 0}, (0, None, None)),
        (b"\xff\xe0", {"rax": 1 << 63}, (13, 0, None)),
        (b"\x66" * 15 + b"\x90", {}, (13, 0, None)),
        (b"\xf0\x90", {}, (6, None, None)),
        (b"\x06", {}, (6, None, None)),
    ],
)
def test_faults_name_the_instruction_and_change_nothing(model, code, regs, expected):
    items = run(model, code, **regs)
    event = items[0].event
    assert (event.vector, event.error, event.cr2) == expected
    assert event.rip == CODE and event.flags & RF  # 3.5
    assert isinstance(items[1], Delivered) and model.state.rip == HANDLER + 16 * event.vector


def test_a_store_that_faults_half_way_leaves_memory_alone(model):
    before = bytes(model.memory.bytes[0xFFFFF0:])
    assert taken(run(model, b"\x48\x89\x03", rbx=0xFFFFFD, rax=-1 & (1 << 64) - 1)) == [(14, FAULT, 2, CODE)]
    assert bytes(model.memory.bytes[0xFFFFF0:]) == before


def test_int3_saves_the_next_instruction_and_a_clear_rf(model):
    taken_, delivered = run(model, b"\xcc", rflags=2 | IF)
    assert (taken_.event.kind, taken_.event.rip, taken_.event.flags) == (SOFT, CODE + 1, 2 | IF)
    assert [delivered.event.frame[STACK - 8 * n] for n in range(1, 6)] == [0x10, STACK, 2 | IF, 8, CODE + 1]
    assert not model.state.rflags & IF


def test_tf_is_sampled_at_the_start(model):  # 3.3: popf that clears TF still traps, once
    items = run(model, b"\x68\x02\x00\x00\x00\x9d\x90", 5, rflags=2)
    assert not taken(items)
    model.state.rip = CODE
    items = run(model, b"\x6a\x02\x9d\x90", 1, rflags=2 | TF)
    assert isinstance(items[0], Retired)
    (event,) = (i.event for i in model.step() if isinstance(i, Taken))
    assert (event.vector, event.kind, event.rip, event.flags & TF) == (1, TRAP, CODE + 2, TF)
    assert model.state.dr[6] == 0xFFFF4FF0  # rule 6


def test_mov_ss_loses_its_single_step(model):  # 3.6
    items = run(model, b"\x8e\xd0\x90\x90", 3, rflags=2 | TF, rax=0x10)
    assert taken(items) == [(1, TRAP, None, CODE + 3)]


def test_shadows_refuse_interrupts(model):
    run(model, b"\xfb\x90", 1)
    with pytest.raises(Illegal, match="shadow of sti"):
        list(model.step((INTR, 0x20)))
    list(model.step())
    assert taken(model.step((INTR, 0x20))) == [(0x20, INTR, None, CODE + 2)]


def test_interrupts_need_if_and_nmis_do_not(model):
    run(model, b"\x90\x90", 1)
    with pytest.raises(Illegal, match="IF is 0"):
        list(model.step((INTR, 0x20)))
    list(model.step((NMI, 2)))
    with pytest.raises(Illegal, match="blocked until iret"):
        list(model.step((NMI, 2)))
    list(model.step())  # the handler's iretq
    assert taken(model.step((NMI, 2))) == [(2, NMI, None, CODE + 1)]


def test_a_debug_trap_comes_before_an_interrupt(model):  # 4
    run(model, b"\x90", rflags=2 | TF | IF)
    with pytest.raises(Illegal, match="debug trap"):
        list(model.step((INTR, 0x20)))


def test_string_instructions_make_one_iteration_a_step(model):  # 3.5: RF is saved between iterations
    items = run(model, b"\xf3\xaa", 2, rflags=2 | IF, rcx=3, rdi=0x50000, rax=7)
    assert [item.again for item in items] == [True, True] and model.state.rip == CODE
    (event,) = (i.event for i in model.step((INTR, 0x20)) if isinstance(i, Taken))
    assert event.rip == CODE and event.flags & RF


def test_faults_in_a_delivery(model):  # 5
    model.memory.put(layout.IDT, layout.gate(HANDLER, present=0))
    assert taken(run(model, b"\xf7\xf1", rcx=0)) == [(0, FAULT, None, CODE), (8, FAULT, 0, CODE)]
    model.memory.put(layout.IDT + 16 * 8, layout.gate(HANDLER, present=0))
    model.state.rip = CODE
    items = run(model, b"\xf7\xf1", rcx=0)
    assert [i[0] for i in taken(items)] == [0, 8, 11] and isinstance(items[-1], Dead) and model.dead


def test_a_benign_first_event_makes_a_serial_fault(model):
    model.memory.put(layout.IDT + 16 * 3, layout.gate(HANDLER, present=0))
    assert taken(run(model, b"\xcc")) == [(3, SOFT, None, CODE + 1), (11, FAULT, 0x1A, CODE)]


def test_int1_needs_no_gate_privilege_and_int_does(model):  # rules 7, 9
    model.state.selectors[1], model.state.selectors[SS] = layout.CODE3 | 3, layout.DATA3 | 3
    model.memory.put(layout.TSS + 4, struct.pack("<Q", 0x60000))
    assert taken(run(model, b"\xcd\x20")) == [(0x20, SOFT, None, CODE + 2), (13, FAULT, 0x102, CODE)]
    assert model.state.regs[4] == 0x60000 - 48 and model.state.selectors[SS] == 0
    model.state.selectors[1], model.state.rip = layout.CODE3 | 3, CODE
    assert taken(run(model, b"\xf1")) == [(1, ICEBP, None, CODE + 1)]


def test_iret_refuses_nt(model):  # 6
    assert taken(run(model, b"\x48\xcf", rflags=2 | NT)) == [(13, FAULT, 0, CODE)]


def test_data_breakpoints_and_single_step_make_one_trap(model):  # 4
    model.state.dr[0], model.state.dr[7] = 0x50000, 0x400 | 1 | 1 << 16 | 3 << 18
    run(model, b"\x88\x03", rflags=2 | TF, rbx=0x50003)
    (event,) = (i.event for i in model.step() if isinstance(i, Taken))
    assert event.rip == CODE + 2 and model.state.dr[6] == 0xFFFF4FF1


def test_an_instruction_breakpoint_is_a_fault_that_rf_suppresses(model):  # 3.5
    model.state.dr[1], model.state.dr[7] = CODE, 0x400 | 4
    assert taken(run(model, b"\x90")) == [(1, FAULT, None, CODE)]
    model.state.rip = CODE
    assert taken(run(model, b"\x90", rflags=2 | RF)) == []


def test_the_model_knows_nothing_of_the_core():
    """Its modules import neither hw nor sim: `lockstep`, `programs` and what runs them do."""
    from pathlib import Path

    for name in ("state", "decode", "plain", "delivery", "returns", "system", "model"):
        text = Path(__file__).with_name(f"{name}.py").read_text()
        assert "from hw" not in text and "import hw" not in text and "from sim" not in text
