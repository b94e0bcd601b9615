"""The code around a door store: its bytes are those that an assembler makes, and the machine is as before behind it."""

import subprocess

import capstone
import pytest

from kprobes.ptregs import FIELDS, PtRegs
from kprobes.savearea import code, restore, save, through

DOOR = 0xFFFFFFFFFE000400
FULL_NAMES = [name if name[0] == "r" else f"r{name}" for name in FIELDS[:FIELDS.index("orig_ax")]]


def assembled(text, folder):
    (folder / "a.s").write_text(text + "\n")
    subprocess.run(["as", "-o", folder / "a.o", folder / "a.s"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", folder / "a.o", folder / "a.bin"], check=True)
    return (folder / "a.bin").read_bytes()


@pytest.mark.parametrize("lines", [
    save(), save(8), restore(), through(DOOR), through(0x7FFFF000, 16), save(0, 0xFFFFFFFF80100001), save(0, 0x7FFFFFFF),
    save(0, 0x80000000), save(0, 0x123456789ABCDEF0), save(0, 0x1234567800000000), save(0, 0xFFFFFFFF7FFFFFFF)])
def test_bytes_are_what_an_assembler_makes_of_the_text(lines, tmp_path):
    assert code(lines) == assembled("\n".join(line.text for line in lines), tmp_path)
    reader = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    assert [insn.bytes for insn in reader.disasm(code(lines), 0)] == [line.code for line in lines]


@pytest.mark.parametrize("door", [1 << 31, 1 << 40, (1 << 64) - (1 << 31) - 1])
def test_a_door_out_of_reach_is_refused(door):
    with pytest.raises(ValueError, match="not within"):
        through(door)


CELL, BASE, TOP = 0x8000, 0x1000, 0x9000  # the door of these tests is a word of RAM


@pytest.mark.parametrize("flags", [0x002, 0xCD7, 0x202], ids=hex)
@pytest.mark.parametrize(("above", "ip"), [(0, 0xFFFFFFFF80100001), (8, 0), (0, 0x123456789ABCDEF0)])
def test_all_registers_are_saved_and_restored(machine, flags, above, ip):
    """Whoever interrupts writes below sp, so that is done here after every instruction."""
    body = code(through(CELL, above, ip))
    m = machine()
    m.load(BASE, body + b"\xf4")
    regs = m.harts[0].regs
    for i, name in enumerate(FULL_NAMES):
        regs[name] = 0x1111111111111111 * i
    regs.rsp, regs.rflags = TOP, flags
    before = {name: regs[name] for name in (*FULL_NAMES, "rsp", "rflags", "cs", "ss")}
    while regs.rip != BASE + len(body):
        m.step()
        m.mem.write(regs.rsp - 256, bytes([0xA5]) * 256)
    assert {name: regs[name] for name in before} == before

    regs.rip = BASE
    m.run(until=BASE + len(body))
    frame = int.from_bytes(m.mem.read(CELL, 8), "little")
    assert frame == TOP - 8 * len(FIELDS)
    saved = PtRegs.unpack(m.mem.read(frame, 8 * len(FIELDS)))
    expected = {field: before[name] for field, name in zip(FIELDS, FULL_NAMES, strict=False)}
    expected |= {"orig_ax": (1 << 64) - 1, "ip": ip, "flags": flags, "sp": TOP + above}
    expected |= {"cs": before["cs"], "ss": before["ss"]}
    assert {field: getattr(saved, field) for field in FIELDS} == expected
