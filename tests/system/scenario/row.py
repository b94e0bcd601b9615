"""A row of a scenario table, the assembly that is made of a table, and what QEMU is known to do differently."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sim.guestbuild import build_text

HERE = Path(__file__).parent

#: struct pt_regs, lowest first (sim/guest/guest.h).
_FIELDS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_ax", "rip", "cs", "rflags", "rsp", "ss"),
)  # fmt: skip
_SYMBOLS = ("data", "stack_top", "rsp0_top", "ist_top", "stub1", "stub3")


@dataclass(frozen=True)
class Known:
    """QEMU 7.2 writes `line` instead of what the reference says, and `why`: the reference's statement, and what QEMU does.

    `ends` is as in `Row`.
    """

    line: str
    why: str
    ends: str = "status 1"


@dataclass(frozen=True)
class Quirk:
    """What QEMU 7.2 does differently wherever it comes up: `pattern` in a line by the reference becomes `replacement`."""

    pattern: str
    replacement: str | Callable[[re.Match[str]], str]
    why: str


#: Applied in this order to every row.
QUIRKS = (
    Quirk(r"(#(?:DE|UD|NM|TS|NP|SS|GP|PF|AC)(?:\(\w+\))?@\w+(?: TF| IF| DF| IOPL| NT)*) RF", r"\1",
          "the frame of a fault has RF = 1 (3.5); QEMU saves 0"),
    Quirk(r"(#(?:TS|NP|SS|GP)\(\w*)([13579bdf])\)", lambda m: f"{m[1]}{int(m[2], 16) - 1:x})",
          "EXT is set in the error code of a fault in the delivery of an event other than int n (1.7); QEMU never sets it"),
    Quirk(r"#(GP|NP)\((\w*[26ae])\)", lambda m: f"#{m[1]}({(int(m[2], 16) & ~7) * 2 + 2:x})",
          "the error code of a bad gate is 8 * vector + 2 (1.3); QEMU gives 16 * vector + 2"),
)  # fmt: skip


def apply(quirks: Iterable[Quirk], line: str) -> str:
    """A line by the reference, as QEMU writes it."""
    for quirk in quirks:
        line = re.sub(quirk.pattern, quirk.replacement, line)
    return line


@dataclass(frozen=True)
class Row:
    """A scenario.

    `name`: number and words, for example "037-cc". `code`: assembly, statements separated by ";" or lines; it begins at its
    first instruction and ends at ``done``, a label after its last one unless the code has it. Labels are the row's
    own. A label ``fix14`` begins a function that is called with rdi = struct pt_regs after a trap of vector 14 was written
    down, to mend its cause. `expect`: what follows "NAME:" on the line, by the reference. `show`: registers that end it.
    `ends`: how the guest ends that has only this row, in the words of `sim.qemu.QemuResult.ending`. `keep_dr6`: the harness does not clear DR6. `qemu`: a difference of QEMU in this row, beside `QUIRKS`.
    """

    name: str
    code: str
    expect: str
    show: str = ""
    keep_dr6: bool = False
    ends: str = "status 1"
    qemu: Known | None = None

    @property
    def line(self) -> str:
        """The line by the reference."""
        return f"{self.name}: {self.expect}".rstrip()

    @property
    def qemu_line(self) -> str:
        """The line that QEMU 7.2 writes."""
        if self.qemu:
            return f"{self.name}: {self.qemu.line}".rstrip()
        return apply(QUIRKS, self.line)

    def assembly(self) -> str:
        """The code with the row's labels made unique, and its tables."""
        me = "row_" + re.sub(r"\W", "_", self.name)
        code = self.code if re.search(r"\bdone:", self.code) else f"{self.code}\ndone: jmp row_done"
        labels = list(dict.fromkeys(re.findall(r"(?:^|[;\n])\s*([A-Za-z_]\w*):", code)))
        code = re.sub(rf"(?<![%\w.])({'|'.join(labels)})\b", rf"{me}_\1", code)
        own = [f".quad {me}_{name}, {me}_name_{name}" for name in labels]
        own += [f".quad {name}, name_{name}" for name in _SYMBOLS]
        strings = [f'{me}_name_{name}: .asciz "{name}"' for name in labels]
        fixes = [f".quad {name[3:]}, {me}_{name}" for name in labels if re.fullmatch(r"fix\d+", name)]
        shown = self.show.split()
        offsets = [f".quad {8 * _FIELDS.index(name)}, {me}_show_{name}" for name in shown]
        strings += [f'{me}_show_{name}: .asciz "{name}"' for name in shown]
        return "\n".join([
            ".text", ".balign 16", f"{me}:", code,
            ".section .rodata", *strings, f'{me}_name: .asciz "{self.name}"', ".balign 8",
            f"{me}_labels:", *own, ".quad 0",
            f"{me}_fixes:", *fixes, ".quad 0, 0",
            f"{me}_shown:", *offsets, ".quad 0, 0",
            '.section .rodata.rows, "a"',
            f".quad {me}_name, {me}, {me}_labels, {me}_fixes, {me}_shown, {int(self.keep_dr6)}",
        ])  # fmt: skip


def image(rows: Iterable[Row], name: str, link: str = "high") -> Path:
    """Build the guest that runs these rows; its console is their lines."""
    head = '#include "harness.h"\n.section .rodata\n' + "".join(f'name_{n}: .asciz "{n}"\n' for n in _SYMBOLS)
    head += '.section .rodata.rows, "a"\n.balign 8\n.globl rows\nrows:\n'
    text = head + "\n".join(row.assembly() for row in rows) + '\n.section .rodata.rows, "a"\n.quad 0\n'
    return build_text(text, name=name, suffix=".S", link=link, beside=(HERE / "harness.S", HERE / "harness.c"))
