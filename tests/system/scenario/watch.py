"""Scenarios of the trap semantics, 11.4: debug registers."""

from tests.system.scenario.row import Known, Row
from tests.system.scenario.step import REP

#: Breakpoint n on the instruction L, and what a handler does that lets it run.
ON_L = "set_dr 0, L; set_dr7 0x402; "
GO_ON = "; jmp done; fix1: orl $RF, R_FLAGS(%rdi); ret; done: jmp row_done"

#: A watch of 4 bytes for writes, on DR1; the same for reads and writes.
WRITES = "set_dr 1, data; set_dr7 0x00d0040a; "
BOTH = "set_dr 1, data; set_dr7 0x00f0040a; "

#: A watch of SS in memory for reads and writes, and a mov that does read it.
SS = "movw $DATA, data; set_dr 0, data; set_dr7 0x00070402; "

RF = "RF is clear after the instruction that it let run (3.5); QEMU leaves it set"
DETECT = "MOV DR with GD = 1 is a #DB (3.1); QEMU has no general detect"
SHADOW = "the data breakpoint of mov ss waits for the next instruction (3.6; appendix C); not in QEMU"

ROWS = [
    Row("086-dr4", "mov %rax, %db4; mov %db4, %rbx; mov %db6, %rcx", "rbx=ffff0ff0 rcx=ffff0ff0", "rbx rcx"),
    Row("087-dr4-de", "mov $0x28, %eax; mov %rax, %cr4; start: mov %db4, %rax", "#UD@start RF"),
    Row("088-dr6-0", "mov %rax, %db6; mov %db6, %rbx", "rbx=ffff0ff0", "rbx"),
    Row("089-dr6-ones", "mov $0xffffffff, %eax; mov %rax, %db6; mov %db6, %rbx", "rbx=ffffefff", "rbx",
        qemu=Known("rbx=ffffffff", "bit 12 of DR6 reads 0 (3.2); QEMU keeps it")),
    Row("090-dr7-high", "movabs $0x100000000, %rax; start: mov %rax, %db7", "#GP(0)@start RF"),
    Row("090-dr6-high", "movabs $0x100000000, %rax; start: mov %rax, %db6", "#GP(0)@start RF"),
    Row("091-dr7-ones", "mov $0xffffffff, %eax; btr $13, %eax; mov %rax, %db7; mov %db7, %rbx; mov $0x400, %eax; mov %rax, %db7", "rbx=ffff07ff", "rbx",
        qemu=Known("rbx=ffffdfff", "bits 11, 12, 14 and 15 of DR7 read 0 (3.2); QEMU keeps them")),
    Row("092-execute", ON_L + "L: inc %ecx; n: jmp done; fix1: set_dr7 0x400; ret; done: jmp row_done", "#DB[B0]@L rcx=1", "rcx"),
    Row("093-without-rf", ON_L + "L: inc %ecx", "; ".join(["#DB[B0]@L"] * 12) + "; and more"),
    Row("094-rf", ON_L + "L: inc %ecx; int3; m: nop" + GO_ON, "#DB[B0]@L; #BP@m rcx=1", "rcx", qemu=Known("#DB[B0]@L; #BP@m RF rcx=1", RF)),
    Row("095-ud", ON_L + "L: ud2" + GO_ON, "#DB[B0]@L; #UD@L RF",
        qemu=Known("#DB[B0]@L; #UD@L RF", "the same, but from the RF that iretq loaded: see " + RF)),
    Row("097-sticky", "mov $0xffff4ff2, %eax; mov %rax, %db6; " + ON_L + "L: nop" + GO_ON, "#DB[B0 BS]@L", keep_dr6=True),
    Row("098-store", WRITES + "mov %rax, data; n: mov data, %rcx", "#DB[B1]@n rcx=d0040a", "rcx"),
    Row("099-load", WRITES + "mov data, %rax; n: nop", ""),
    Row("100-load", BOTH + "mov data, %rax; n: nop", "#DB[B1]@n"),
    Row("101-byte", WRITES + "mov %al, data + 3; n: nop", "#DB[B1]@n"),
    Row("102-overlap", WRITES.replace("data", "data + 8") + "mov %eax, data + 6; n: nop", "#DB[B1]@n"),
    Row("103-before", WRITES.replace("data", "data + 8") + "mov %eax, data + 4; n: nop", ""),
    Row("104-eight", "set_dr 1, data; set_dr7 0x0090040a; mov %al, data + 7; n: nop", "#DB[B1]@n"),
    Row("105-rep", WRITES + "mov $data, %rdi; mov $4, %ecx; start: rep stosb; n: nop",
        "#DB[B1]@start RF; #DB[B1]@start RF; #DB[B1]@start RF; #DB[B1]@n",
        qemu=Known("#DB[B1]@start; #DB[B1]@start; #DB[B1]@start; #DB[B1]@n", REP)),
    Row("106-fault", "set_dr 1, MISSING; set_dr 2, data; set_dr7 0x0dd0042a; mov $MISSING, %ebx; start: mov %eax, (%rbx); n: jmp done; fix14: movq $data, R_BX(%rdi); ret; done: jmp row_done",
        "#PF(2)@start RF cr2=40000000; #DB[B2]@n"),
    Row("107-step", WRITES + "set_flags TF; mov %eax, data; done: jmp row_done", "#DB[B1 BS]@done TF",
        qemu=Known("#DB[B1 BS]@stub1 sp-40; #DB[]@done TF", "one trap with both bits (4); QEMU takes two")),
    Row("108-detect", "set_dr7 0x2400; start: mov %rcx, %db6; n: mov %db7, %rcx", "#DB[BD]@start RF rcx=400", "rcx",
        qemu=Known("rcx=2400", DETECT)),
    Row("109-mov-ss-detect", "mov %ss, %ebx; set_dr7 0x2400; set_flags TF; mov %ebx, %ss; start: mov %rcx, %db6; n: nop; done: jmp row_done",
        "#DB[BD]@start TF RF; #DB[BS]@n TF; #DB[BS]@done TF", qemu=Known("#DB[BS]@n TF; #DB[BS]@done TF", DETECT)),
    Row("110-mov-ss-execute", "mov %ss, %ebx; " + ON_L + "mov %ebx, %ss; L: nop" + GO_ON, "",
        qemu=Known("#DB[B0]@L", "mov ss suppresses it (3.6, the Intel rule); QEMU follows AMD")),
    Row("111-mov-ss-nop", SS + "mov data, %ss; a: nop; n: nop", "#DB[B0]@n", qemu=Known("#DB[B0]@a", SHADOW)),
    Row("112-mov-ss-int3", SS + "mov data, %ss; a: int3; n: nop", "#DB[B0]@stub3 sp-40; #BP@n", qemu=Known("#DB[B0]@a; #BP@n", SHADOW)),
    Row("113-mov-ss-int-1", SS + "mov data, %ss; a: int $1; n: nop", "#DB[B0]@stub1 sp-40; #DB[]@n", qemu=Known("#DB[B0]@a; #DB[]@n", SHADOW)),
    Row("114-mov-ss-icebp", SS + "mov data, %ss; a: .byte 0xf1; n: nop", "#DB[]@n", qemu=Known("#DB[B0]@a; #UD@a", SHADOW)),
    Row("115-mov-ss-ud", SS + "mov data, %ss; start: ud2; fix6: movq $done, R_IP(%rdi); mov %db6, %rax; mov %rax, R_CX(%rdi); ret; done: jmp row_done",
        "#UD@start RF rcx=ffff0ff0", "rcx", qemu=Known("#DB[B0]@start; #UD@start rcx=ffff0ff0", SHADOW)),
    Row("117-prefix", "set_dr 0, L + 1; set_dr7 0x402; L: .byte 0x66, 0x90; n: nop", ""),
    Row("118-step", "set_dr 0, L; set_dr7 0x402; set_flags TF; nop; L: nop; done: jmp row_done; fix1: incl data; cmpl $2, data; jne 1f; orl $RF, R_FLAGS(%rdi); 1: ret",
        "#DB[BS]@L TF; #DB[B0]@L TF; #DB[BS]@done TF",
        qemu=Known("#DB[B0 BS]@L TF; #DB[B0]@L TF; #DB[BS]@done TF", "the step comes before the breakpoint (4); QEMU reports both")),
    Row("119-disabled", "set_dr 0, L; set_dr 1, L; set_dr7 0x402; L: nop" + GO_ON, "#DB[B0]@L",
        qemu=Known("#DB[B0 B1]@L", "Bn of a breakpoint that is off stays 0 (3.2, DECISION); QEMU sets it")),
    Row("120-port", "mov $0x28, %eax; mov %rax, %cr4; mov $0x80, %eax; mov %rax, %db0; set_dr7 0x20402; out %al, $0x80; n: nop", "#DB[B0]@n"),
]
