"""What lies where in memory while a random program runs: tables, stacks, handlers that return.

Every handler is a few instructions of its own. After a fault the program goes on behind the instruction that faulted: a table
at `SKIP` has the length of each instruction of the program, 0 elsewhere; a fault anywhere else ends the run.
"""

from __future__ import annotations

import struct
from random import Random

IDT, GDT, TSS, IST, CODE, HANDLERS, STACK, DATA, SKIP, COUNTS = (
    0x1000, 0x2000, 0x3000, 0x4000, 0x10000, 0x20000, 0x40000, 0x50000, 0x60000, 0x70000,
)  # fmt: skip
CODE_BYTES, DATA_BYTES, TOP = 0x8000, 0x8000, 0x80000
EXIT_VECTOR = 0x7F

#: In the order that SYSCALL and SYSRET want: data of CPL 3 before code.
CODE64, DATA64, TR, CODE32, CODE_NP, DATA3, CODE3, READ_ONLY, DATA_NP = 8, 16, 24, 40, 48, 56, 64, 72, 80
STAR = (CODE_NP | 3) << 48 | CODE64 << 32
#: Where SYSCALL goes.
ENTRY = 0x1F000
#: Accessed bits are set, so that no load of a segment writes the table.
DESCRIPTORS = {
    CODE64: 0x00AF9B000000FFFF,
    DATA64: 0x00CF93000000FFFF,
    TR: 0x00008B0000000067 | TSS << 16,
    CODE32: 0x00CF9B000000FFFF,
    CODE_NP: 0x00AF1B000000FFFF,
    CODE3: 0x00AFFB000000FFFF,
    DATA3: 0x00CFF3000000FFFF,
    READ_ONLY: 0x00CF91000000FFFF,
    DATA_NP: 0x00CF13000000FFFF,
}
GDT_LIMIT, TSS_LIMIT = 0xFF, 0x67

_WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)
_PUSH = b"\x50\x53"  # push rax; push rbx
_POP = b"\x5b\x58"
_IRETQ = b"\x48\xcf"
_EXIT = b"\xb0\x01\xe6\xf4\xeb\xfa"  # mov al, 1; out 0xf4, al; again
_READ_DR6, _READ_CR2 = b"\x0f\x21\xf0", b"\x0f\x20\xd0"


def _jump(opcode: bytes, body: bytes) -> bytes:
    """A conditional jump over `body`, before it."""
    return opcode + struct.pack("<i", len(body)) + body


def _count(vector: int) -> bytes:
    return b"\x48\xff\x04\x25" + struct.pack("<I", COUNTS + 8 * vector)  # inc qword [count]


def _skipping(vector: int) -> bytes:
    """Moves the saved rip behind the faulting instruction, or ends the run."""
    rip = 16 + 8 * (vector in _WITH_ERROR)
    done = b"\x48\x01\x5c\x24" + bytes([rip]) + _POP + b"\x48\x83\xc4\x08" * (vector in _WITH_ERROR) + _IRETQ
    known = b"\x0f\xb6\x98" + struct.pack("<I", SKIP) + b"\x85\xdb"  # movzx ebx, byte [rax + SKIP]; test ebx, ebx
    known += _jump(b"\x0f\x84", done)
    look = b"\x8b\x44\x24" + bytes([rip]) + b"\x25\xff\xff\xff\x7f"  # mov eax, [rsp + rip]; and eax, 0x7fffffff
    look += b"\x2d" + struct.pack("<I", CODE) + b"\x3d" + struct.pack("<I", CODE_BYTES)  # sub; cmp
    look += _jump(b"\x0f\x83", known)
    return _PUSH + (_READ_CR2 if vector == 14 else b"") + look + _EXIT


def _returning(vector: int, rng: Random) -> bytes:
    """Counts and returns; now and then with interrupts on, with a breakpoint of its own, or clearing TF for the program."""
    body = _count(vector)
    if rng.random() < 0.3:
        body += rng.choice((b"\xfb\x90", b"\xcc", b"\xfb\xfa", b"\x9c\x5b", b"\x0f\xa2"))
    if vector == 1:
        body = _READ_DR6 + body
        if rng.random() < 0.5:
            body += b"\xb8\xf0\x0f\xff\xff\x0f\x23\xf0"  # mov eax, 0xffff0ff0; mov dr6, rax
        if rng.random() < 0.8:
            body += b"\x81\x4c\x24\x20\x00\x00\x01\x00"  # or dword [rsp + 32], RF
        if rng.random() < 0.3:
            body += b"\x81\x64\x24\x20\xff\xfe\xff\xff"  # and dword [rsp + 32], ~TF
    return b"\x50\x53\x51\x52"[: 2 if vector == 1 else 4] + body + (_POP if vector == 1 else b"\x5a\x59" + _POP) + _IRETQ


def gate(offset: int, selector: int = CODE64, ist: int = 0, kind: int = 0xE, dpl: int = 0, present: int = 1) -> bytes:
    """A gate of 16 bytes."""
    attributes = kind | dpl << 5 | present << 7
    return struct.pack("<HHBBHII", offset & 0xFFFF, selector, ist, attributes, offset >> 16 & 0xFFFF, offset >> 32, 0)


def tables(rng: Random) -> bytearray:
    """Memory below `TOP` without a program: tables, handlers, random data."""
    image = bytearray(TOP)
    image[DATA : DATA + DATA_BYTES] = rng.randbytes(DATA_BYTES)
    faults = (0, 5, 6, 7, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19)
    at = shared = HANDLERS
    for vector in range(256):
        if vector in faults:
            body = _skipping(vector)
        elif vector in (8, EXIT_VECTOR):
            body = _EXIT
        elif vector < 0x30:
            body = _returning(vector, rng)
        else:
            body = _returning(0x30, rng) if vector == 0x30 else b""
        kind = rng.choice((0xE, 0xE, 0xF))
        ist = rng.choice((0, 0, 1, 2, 3)) if vector not in faults else rng.choice((0, 2, 3, 4))
        ist = 5 if vector == 8 else ist
        dpl = 3 if vector == EXIT_VECTOR or rng.random() < 0.4 else 0
        present = vector in (*faults, 8, EXIT_VECTOR) or rng.random() < 0.97
        if vector == 0x30:
            shared = at
        made = gate(at if body else shared, ist=ist, kind=kind, dpl=dpl, present=present)
        image[IDT + 16 * vector : IDT + 16 * vector + 16] = made
        image[at : at + len(body)] = body
        at += len(body) + rng.randrange(4)
    entry = rng.choice((b"", _count(0x40), b"\x90\x8c\xd0\x8e\xd0\x90")) + b"\x48\x0f\x07"  # ..., or mov eax, ss; mov ss, eax; sysretq
    image[ENTRY : ENTRY + len(entry)] = entry
    for selector, descriptor in DESCRIPTORS.items():
        struct.pack_into("<Q", image, GDT + selector, descriptor)
    stacks = [IST + 0x800 * n + rng.choice((0x800, 0x7F8, 0x7F1)) for n in range(10)]
    struct.pack_into("<I3QQ7QQHH", image, TSS, 0, *stacks[7:], 0, *stacks[:7], 0, 0, 0x68)
    return image
