"""Scenarios of the trap semantics, 11.7: double faults and page faults; and what the other faults save."""

from tests.system.scenario.frames import ist_ss
from tests.system.scenario.row import Known, Row

AT_TARGET = "a branch checks its target (2.3, DECISION: as Intel); QEMU faults at the target"
SS = "a non-canonical address based on RSP or RBP is #SS (2.3); QEMU makes it #GP"

ROWS = [
    Row("163-de-np", "movb $0x0e, GATE_TYPE(0); start: div %ecx", "#DF(0)@start"),
    Row("164-de-pf-serial", "mov $MISSING, %esp; movb $1, GATE_IST(14); start: div %ecx; fix14: movq $stack_top, R_SP(%rdi); ret",
        **ist_ss("#PF(2)@start RF sp=40000000 on IST1 cr2=3ffffff8; #DE@start RF")),
    Row("165-np-pf-serial", "mov $MISSING, %esp; movb $1, GATE_IST(14); movw $CODE_NP, GATE_SELECTOR(40); start: int $40; n: nop; fix14: movq $stack_top, R_SP(%rdi); ret",
        **ist_ss("#PF(2)@start RF sp=40000000 on IST1 cr2=3ffffff8; #NP(30)@start RF")),
    Row("166-pf-np", "mov $MISSING, %ebx; movb $0x0e, GATE_TYPE(14); start: mov (%rbx), %eax", "#DF(0)@start"),
    Row("167-pf-pf", "mov $MISSING, %ebx; mov $MISSING + 0x2000, %esp; movb $1, GATE_IST(8); start: mov (%rbx), %eax; fix8: mov %cr2, %rax; mov %rax, R_CX(%rdi); movq $stack_top, R_SP(%rdi); movq $n, R_IP(%rdi); ret; n: nop; done: jmp row_done",
        show="rcx", **ist_ss("#DF(0)@start sp=40002000 on IST1 rcx=40001ff8")),
    Row("168-ud-np", "movb $0x0e, GATE_TYPE(6); start: ud2", "#NP(33)@start RF"),
    Row("169-bp-np", "movb $0x0e, GATE_TYPE(3); start: int3; n: nop", "#NP(1a)@start RF"),
    Row("171-df-handler", "movb $0x0e, GATE_TYPE(0); movw $0, idt+128; movw $MISSING >> 16, idt+134; movl $0, GATE_63_32(8); start: div %ecx",
        "#PF(0)@40000000 RF sp-48 cr2=40000000"),
    Row("174-split-load", "start: mov RAM_END - 4, %rax", "#PF(0)@start RF cr2=1000000"),
    Row("174-split-store", "mov %rcx, RAM_END - 8; start: mov %rsp, RAM_END - 4; fix14: mov RAM_END - 4, %eax; mov %rax, R_CX(%rdi); movq $done, R_IP(%rdi); ret; done: jmp row_done",
        "#PF(2)@start RF cr2=1000000 rcx=0", "rcx"),
    Row("174-split-rmw", "start: add %rax, RAM_END - 1", "#PF(2)@start RF cr2=1000000",
        qemu=Known("#PF(0)@start cr2=1000000", "what will be written is checked for it when it is read (measured); QEMU reads first")),
    Row("187-and", "mov $0xff, %eax; mov $0xf0, %ebx; stc; and %ebx, %eax; pushfq; pop %rcx; and $0x8c5, %ecx", "rcx=4", "rcx"),
    Row("185-shl-0", "movabs $0x1234567890abcdef, %rax; stc; shl %cl, %eax; pushfq; pop %rdx; and $0x8d5, %edx", "rax=90abcdef rdx=1", "rax rdx"),
    Row("186-bsf-0", "bsf %ebx, %eax; pushfq; pop %rcx; and $0x40, %ecx", "rcx=40", "rcx"),
    Row("188-shld", "mov $1, %ebx; shld $20, %bx, %ax; mov $0x8000, %eax; shld $1, %bx, %ax; pushfq; pop %rcx; and $0x8c5, %ecx",
        "rax=0 rcx=845", "rax rcx"),
    Row("192-mov-ss-null", "mov %ecx, %ss; n: mov %ss, %ebx; mov $DATA, %eax; mov %eax, %ss", "rbx=0", "rbx"),
    Row("192-mov-ss-null-rpl", "mov $3, %ecx; start: mov %ecx, %ss", "#GP(0)@start RF",
        qemu=Known("", "a null SS has the RPL of the CPL (scenario 192); QEMU does not look")),
    Row("193-rsp", "movabs $NONCANONICAL, %rbx; mov %rbx, %rsp; movb $1, GATE_IST(12); movb $1, GATE_IST(13); start: orb $0, (%rsp)", "#SS(0)@start RF sp=8000000000000000 on IST1",
        qemu=Known("#GP(0)@start sp=8000000000000000 now ss=0 on IST1", SS)),
    Row("193-rbp", "movabs $NONCANONICAL, %rbp; start: orb $0, (%rbp)", "#SS(0)@start RF", qemu=Known("#GP(0)@start", SS)),
    Row("193-rax", "movabs $NONCANONICAL, %rax; start: orb $0, (%rax)", "#GP(0)@start RF"),
    Row("194-jump", "movabs $NONCANONICAL, %rax; start: jmp *%rax", "#GP(0)@start RF", qemu=Known("#GP(0)@8000000000000000", AT_TARGET)),
    Row("194-call", "movabs $NONCANONICAL, %rax; start: call *%rax", "#GP(0)@start RF", qemu=Known("#GP(0)@8000000000000000 sp-8", AT_TARGET)),
    Row("194-ret", "movabs $NONCANONICAL, %rax; push %rax; start: ret", "#GP(0)@start RF sp-8", qemu=Known("#GP(0)@8000000000000000", AT_TARGET)),
    Row("177-next-immediate", "movb $5, imm + 1; imm: mov $3, %ecx", "rcx=5", "rcx"),
    Row("178-alias", "mov $imm + 1, %rdi; and $0x7fffffff, %edi; movb $5, (%rdi); imm: mov $3, %ecx", "rcx=5", "rcx"),
]

#: A guest each: these end it, or QEMU does not come back.
ALONE = [
    Row("176-cr4-reserved", "mov $0x8020, %eax; start: mov %rax, %cr4", "#GP(0)@start RF",
        qemu=Known("", "reserved bits are refused (scenario 176; appendix C); QEMU hangs", ends="does not end")),
    Row("029-rsp0", "movabs $NONCANONICAL, %rax; mov %rax, TSS_RSP0; user; start: int3", "", ends="triple fault"),
    Row("170-df-np", "movb $0x0e, GATE_TYPE(0); movb $0x0e, GATE_TYPE(8); start: div %ecx", "", ends="triple fault"),
    Row("170-df-pf", "movb $0x0e, GATE_TYPE(0); movq $MISSING, TSS_IST(1); movb $1, GATE_IST(8); start: div %ecx", "", ends="triple fault"),
    Row("170-idt", "lidt_limit 0; start: int3", "", ends="triple fault"),
]
