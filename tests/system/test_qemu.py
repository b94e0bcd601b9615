"""Another opinion: QEMU runs the images that the core runs, and both say the same on the console and end alike."""

import json

import pytest

from sim import qemu
from sim.__main__ import main
from sim.elf import load_elf
from sim.engine import StopReason
from sim.guestbuild import PROGRAMS, build_program, build_text, expected_output

pytestmark = pytest.mark.skipif(qemu.missing() is not None, reason=str(qemu.missing()))

MAX_CYCLES = 2_000_000

#: Guests that check their own traps and end as on the core.
TRAPS = ("singlestep", "doublefault", "triple", "jprobe", "disturbed")

#: Guests that do not end there as on the core, and why.
NOT_HERE = {
    "traps": "looks at RF in the frames of faults, which QEMU 7.2 does not set; test_the_command_shows_differences runs it",
    "irq": "waits for interrupts, and nobody sends them",
    "harts": "needs several harts, and starts them in 64-bit mode",
    "patched": "needs several harts, too",
}

HOSTED = [name for name, program in PROGRAMS.items() if program.host]


def on_core(machine, image):
    """Console and ending, in QEMU's words, of a run on the core."""
    result = machine(image).run(max_cycles=MAX_CYCLES)
    reset = result.reason == StopReason.SHUTDOWN
    return qemu.QemuResult(result.console, result.exit, reset)


@pytest.mark.parametrize("name", HOSTED)
def test_workloads_print_what_their_native_twins_print(name):
    """The core's half of this comparison is tests/core/test_programs.py."""
    n = PROGRAMS[name].n_test
    for link in ("high", "low"):
        found = qemu.run(build_program(name, n=n, link=link))
        assert found == qemu.QemuResult(expected_output(name, n=n).encode(), 1, False), link


@pytest.mark.parametrize("name", TRAPS)
def test_trap_guests_end_as_on_the_core(machine, engine_name, name):
    image = load_elf(build_program(name, n=PROGRAMS[name].n_test))
    assert on_core(machine, image) == qemu.run(image)


def test_every_guest_runs_here_or_has_a_reason():
    assert {*HOSTED, *TRAPS, *NOT_HERE} == set(PROGRAMS)


#: Prints what a hart has at its first instruction, without the guest runtime: nothing was set up but by the loader.
START = r"""
    .globl _start
_start:
    pushfq
    push %rsp
    push %rbp; push %rdi; push %rsi; push %rdx; push %rcx; push %rbx; push %rax
    push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15
    mov %cs, %eax; push %rax
    mov %ss, %eax; push %rax
    mov %ds, %eax; push %rax
    mov %es, %eax; push %rax
    mov %fs, %eax; push %rax
    mov %gs, %eax; push %rax
    mov %cr0, %rax; push %rax
    mov %cr4, %rax; push %rax
    mov %cr8, %rax; push %rax
    mov %dr6, %rax; push %rax
    mov %dr7, %rax; push %rax
    str %eax; push %rax
    sidt -16(%rsp); movzwl -16(%rsp), %eax; push %rax
    mov 0, %rax; push %rax               /* RAM is zero, and the same at both addresses */
    movq $0x1234, 0x8000
    mov 0xffffffff80008000, %rax; push %rax
    mov $32, %ebx
next: pop %r8
    mov $16, %ecx
digit: rol $4, %r8
    mov %r8d, %eax
    and $15, %eax
    mov digits(%rax), %al
    out %al, $0xe9
    dec %ecx
    jnz digit
    mov $10, %al
    mov $0x3f8, %dx
    out %al, %dx                         /* COM1 writes where the console does */
    dec %ebx
    jnz next
    mov $7, %al
    out %al, $0xf4
digits: .ascii "0123456789abcdef"
"""


def test_a_guest_starts_as_on_the_core(machine, engine_name):
    image = load_elf(build_text(START, name="start", suffix=".S", runtime=False))
    found = qemu.run(image)
    assert found.exit == 15
    assert on_core(machine, image) == found


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("mov $5, %al; out %al, $0xf4", "status 11"),
        ("ud2", "triple fault"),
        ("cli; hlt", "does not end"),
    ],
)
def test_endings(code, ending):
    image = build_text(f".globl _start\n_start: {code}\n", name="end", suffix=".S", runtime=False)
    assert qemu.run(image, timeout=2).ending == ending


def test_the_command_compares(capsys):
    guest = build_text("#include \"guest.h\"\nint main(void) { puts(\"hello\\n\"); return 0; }\n", name="hello")
    assert main(["qemu", str(guest), "--compare"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == ["hello", f"qemu {qemu.version()}: status 1", "the core does the same"]


def test_the_command_shows_differences(capsys):
    """QEMU 7.2 does not set RF in the frame of a fault; the guest `traps` sees that."""
    guest = build_program("traps")
    assert main(["qemu", str(guest), "--compare", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["exit"] == 3
    assert report["differences"][0] == "line 1: core 'ok', qemu 'FAIL #DE RF: 0000000000000000 0000000000010000'"
    assert report["differences"][-1] == "end: core status 1, qemu status 3"


def test_a_guest_that_does_not_fit():
    source = ".globl _start\n_start: hlt\n.org 0x1000000\n.byte 1\n"
    with pytest.raises(qemu.QemuError, match="does not fit: 0x100000 is not in the 16 MiB"):
        qemu.run(build_text(source, name="large", suffix=".S", link="low", runtime=False))


def test_without_qemu_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.setattr(qemu, "PROGRAM", "qemu-system-none")
    assert "apt-get install" in (qemu.missing() or "")
    with pytest.raises(qemu.QemuError, match="qemu-system-none was not found"):
        qemu.run(build_program("demo"))
