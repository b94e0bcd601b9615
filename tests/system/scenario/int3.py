"""Scenarios of the trap semantics, 11.2: the breakpoint instructions."""

from tests.system.scenario.row import Known, Row

ICEBP = "F1 is a debug trap (2.1); QEMU 7.2 makes it #UD"

ROWS = [
    Row("037-cc", "int3; n: nop", "#BP@n"),
    Row("038-cd-03", ".byte 0xcd, 3; n: nop", "#BP@n"),
    Row("039-prefix", ".byte 0x66, 0xcc; n: nop", "#BP@n"),
    Row("039-prefixes", ".fill 14, 1, 0x2e; .byte 0xcc; n: nop", "#BP@n"),
    Row("040-too-long", "start: .fill 15, 1, 0x2e; .byte 0xcc; n: nop", "#GP(0)@start RF"),
    Row("041-lock", "start: .byte 0xf0, 0xcc; n: nop", "#UD@start RF",
        qemu=Known("#BP@n", "LOCK is for listed instructions with a memory operand (2.1); QEMU ignores it here")),
    Row("042-into", "start: .byte 0xce; n: nop", "#UD@start RF"),
    Row("043-icebp", "start: .byte 0xf1; n: nop", "#DB[]@n", qemu=Known("#UD@start", ICEBP)),
    Row("044-icebp-dr6", "mov $0xffff4ff0, %eax; mov %rax, %db6; start: .byte 0xf1; n: nop", "#DB[BS]@n", qemu=Known("#UD@start", ICEBP)),
    Row("045-restore", "start: .byte 0xcc; middle: .byte 0xc1; n: jmp done; fix3: movb $0xff, start; decq R_IP(%rdi); ret; done: jmp row_done",
        "#BP@middle rcx=1", "rcx"),
    Row("046-emulate", "int3; middle: .fill 6, 1, 0xcc; n: jmp done; fix3: addq $6, R_IP(%rdi); movq $7, R_CX(%rdi); ret; done: jmp row_done",
        "#BP@middle rcx=7", "rcx"),
    Row("047-end-of-page", "movb $0xcc, RAM_END - 1; mov $RAM_END - 1, %eax; jmp *%rax", "#BP@1000000; #PF(0)@1000000 RF cr2=1000000"),
    Row("048-three", "int3; a: int3; b: int3; c: nop", "#BP@a; #BP@b; #BP@c"),
    Row("049-nested", """int3; n: jmp done
        fix3: incq data; cmpq $1, data; jne 1f
        push %rbx; mov %rsp, %rbx; mov $stack_top - 2048, %rsp; int3; m: mov %rbx, %rsp; pop %rbx
        1: ret; done: jmp row_done""", "#BP@n; #BP@m sp-2048"),
    Row("053-pushf-image", "set_flags TF; pushfq; a: pop %rcx; b: and $0x10100, %ecx; done: jmp row_done",
        "#DB[BS]@a TF sp-8; #DB[BS]@b TF; #DB[BS]@done TF rcx=100", "rcx"),
]
