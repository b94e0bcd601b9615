"""Port input and output: which port is named, and what a read brings."""

import pytest

CODE = 0x10000


def run(machine, code, **regs):
    m = machine()
    m.load(CODE, code.data)
    for name, value in regs.items():
        m.harts[0].regs[name] = value
    m.run(max_cycles=1000)
    return m, bytes(e.byte for e in m.events if e.kind == "console")


@pytest.mark.parametrize(
    "instruction",
    ["outb %al, $0xe9", "outw %ax, $0xe9", "outl %eax, $0xe9", "outb %al, %dx", "outw %ax, %dx", "outl %eax, %dx"],
)
def test_output_names_the_port_alone(machine, assemble, instruction):
    """Neither the rest of rax nor the upper half of edx takes part in the port's number."""
    _, console = run(machine, assemble(f"{instruction}; hlt", at=CODE), rax=0x1122334455667721, rdx=0xFFFF00E9)
    assert console == b"!"


@pytest.mark.parametrize("instruction", ["inb $0xe9, %al", "inb %dx, %al"])
def test_input(machine, assemble, instruction):
    m, _ = run(machine, assemble(f"{instruction}; hlt", at=CODE), rax=0x1122334455667788, rdx=0xABCD00E9)
    assert m.harts[0].regs.rax == 0x11223344556677E9


def test_input_of_a_port_where_nothing_is(machine, assemble):
    m, _ = run(machine, assemble("inl $0x80, %eax; inb %dx, %al; hlt", at=CODE), rax=1 << 40, rdx=0x3FD)
    assert m.harts[0].regs.rax == 0xFFFFFF60
