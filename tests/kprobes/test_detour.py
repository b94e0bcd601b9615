"""The code of a detour, and running it on the hardware model (P03, P15, P16, P17, P20)."""

import capstone
import pytest

from kprobes import KprobeError, PtRegs
from kprobes.detour import detour, jump, room
from kprobes.insn import decode
from kprobes.ptregs import FIELDS
from kprobes.region import Region

ADDR, SLOT, DOOR, FRAMES, TOP = 0x1000, 0x3000, 0x2000, 0x5000, 0x9000
GENERAL = [name if name[0] == "r" else f"r{name}" for name in (*FIELDS[:15], "sp")]


def region(*codes, addr=ADDR):
    insns, at = [], addr
    for text in codes:
        insns.append(decode(bytes.fromhex(text), at))
        at += len(insns[-1].data)
    return Region(addr, tuple(insns), at)


LEA = "488d0510000000"


def test_P03_whole_instructions_then_back_behind_them():
    d = detour(region("31c0", "31c9", "4801f8"), SLOT, DOOR)
    tail = d.data[d.copy - d.start:]
    assert tail[:7] == bytes.fromhex("31c031c94801f8")
    back = decode(tail[7:], d.copy + 7)
    assert back.data == tail[7:] and d.copy + 7 + 5 + back.branch == ADDR + 7


def test_P16_operands_relative_to_ip_are_rewritten_for_each_place():
    r = region("90", LEA, "c70506000000efbeadde")
    d = detour(r, SLOT, DOOR)
    cs = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    cs.detail = True
    copied = list(cs.disasm(d.data[d.copy - d.start:], d.copy))[1:3]
    for insn, original in zip(copied, r.insns[1:], strict=True):
        target = next(op.mem.disp for op in insn.operands if op.type == capstone.x86.X86_OP_MEM) + insn.address + insn.size
        disp = int.from_bytes(original.data[original.rip_disp:original.rip_disp + 4], "little")
        assert target == original.addr + len(original.data) + disp and insn.bytes != original.data


def test_P23_targets_out_of_reach():
    far = region("488d0500000080", addr=0x90000000)  # 2 GiB below
    with pytest.raises(KprobeError, match="not within 2 GiB"):
        detour(far, 0x90000000 + (1 << 30), DOOR)
    with pytest.raises(OverflowError):
        jump(0, 1 << 33)
    with pytest.raises(ValueError, match="the door"):
        detour(region(LEA), SLOT, 1 << 40)


@pytest.mark.parametrize("addr", [ADDR, 0x7FFFFFFE, 0xFFFFFFFF80100000, 0x123456789000])
def test_every_detour_fits_its_slot(addr):
    codes = ["0f1f4000", "66" * 7 + "0f1f840000020000"]
    d = detour(region(*codes, addr=addr), addr + 0x100000, 0xFFFFFFFFFE000408)
    assert 100 < len(d.data) <= room(0xFFFFFFFFFE000408) < 160


@pytest.mark.parametrize("flags", [0x002, 0xCD7, 0x202], ids=hex)
def test_P17_flags_and_all_registers_are_kept(machine, flags):
    """With an interrupt handler's writes below sp after every instruction."""
    r = region("4889c8", "488d1510000000")  # mov rax, rcx; lea rdx, [rip + 0x10]
    d = detour(r, SLOT, DOOR)
    m = machine()
    m.load(ADDR, jump(ADDR, SLOT) + b"\xcc" * 5 + b"\xf4")
    m.mem.write(SLOT, d.data)
    regs = m.harts[0].regs
    for i, name in enumerate(GENERAL):
        regs[name] = 0x0123456789ABCDEF * (i + 1) & (1 << 63) - 1
    regs.rsp, regs.rflags = TOP, flags
    before = {name: regs[name] for name in (*GENERAL, "rflags")}
    while regs.rip != r.end:
        m.step()
        m.mem.write(regs.rsp - 256, bytes([0xA5]) * 256)
    after = before | {"rax": before["rcx"], "rdx": ADDR + 3 + 7 + 0x10}
    assert {name: regs[name] for name in after} == after


def test_P15_changes_of_registers_and_flags_come_through_and_those_of_ip_do_not(machine):
    d = detour(region("90", "0f1f4000"), SLOT, DOOR)
    m = machine()
    m.load(ADDR, jump(ADDR, SLOT) + b"\xf4")
    m.mem.write(SLOT, d.data)
    regs = m.harts[0].regs
    regs.rsp, regs.rflags = TOP, 0x202
    m.run(until=SLOT)
    store = next(i for i, insn in enumerate(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(d.data, SLOT))
                 if insn.mnemonic == "mov" and insn.op_str.endswith("rsp"))
    m.step(store + 1)
    frame = int.from_bytes(m.mem.read(DOOR, 8), "little")
    saved = PtRegs.unpack(m.mem.read(frame, 168))
    assert (saved.ip, saved.orig_ax, saved.sp, saved.flags) == (ADDR + 1, (1 << 64) - 1, TOP, 0x202)
    saved.di, saved.flags, saved.ip, saved.sp, saved.orig_ax = 77, 0x43, 1, 2, 3
    m.mem.write(frame, saved.pack())
    m.run(until=ADDR + 5)
    assert (regs.rdi, regs.rflags, regs.rip, regs.rsp) == (77, 0x43, ADDR + 5, TOP)
