"""Scenarios of the trap semantics, 11.3: single step."""

from tests.system.scenario.int3 import ICEBP
from tests.system.scenario.row import Known, Row

SS = "mov %ss, %eax; "
LSS = "lss casts no shadow (3.6); in QEMU it does"
REP = "a trap between the iterations of a rep instruction saves RF = 1 (3.5, the Intel rule); QEMU saves 0"

ROWS = [
    Row("054-popf", "set_flags TF; nop; a: nop; done: jmp row_done", "#DB[BS]@a TF; #DB[BS]@done TF"),
    Row("055-iretq", "frame L, flags=TF+2; iretq; L: nop; done: jmp row_done", "#DB[BS]@done TF"),
    Row("056-popf-clears", "set_flags TF; push $2; a: popfq; b: nop; c: nop", "#DB[BS]@a TF sp-8; #DB[BS]@b"),
    Row("057-iretq-clears", "frame L; set_flags TF; iretq; L: nop; n: nop", "#DB[BS]@L"),
    Row("058-jump", "set_flags TF; jmp L; ud2; L: nop; done: jmp row_done", "#DB[BS]@L TF; #DB[BS]@done TF"),
    Row("059-call", "set_flags TF; call f; r: jmp done; f: ret; done: jmp row_done",
        "#DB[BS]@f TF sp-8; #DB[BS]@r TF; #DB[BS]@done TF"),
    Row("060-int3", "set_flags TF; int3; n: nop; done: jmp row_done", "#BP@n TF; #DB[BS]@done TF"),
    Row("061-int-n", "set_flags TF; int $0x40; n: nop; done: jmp row_done", "v64@n TF; #DB[BS]@done TF"),
    Row("062-icebp", "set_flags TF; start: .byte 0xf1; n: nop; done: jmp row_done", "#DB[]@n TF; #DB[BS]@done TF",
        qemu=Known("#UD@start TF", ICEBP)),
    Row("063-mov-ss", SS + "set_flags TF; mov %eax, %ss; a: nop; done: jmp row_done", "#DB[BS]@done TF"),
    Row("064-mov-ss-twice", SS + "set_flags TF; mov %eax, %ss; a: mov %eax, %ss; b: nop; done: jmp row_done",
        "#DB[BS]@b TF; #DB[BS]@done TF",
        qemu=Known("#DB[BS]@done TF", "the second of two mov ss casts no shadow (3.6, the Intel rule); QEMU follows AMD")),
    Row("065-lss", "movw $DATA, data + 4; set_flags TF; lss data, %ecx; a: nop; done: jmp row_done", "#DB[BS]@a TF; #DB[BS]@done TF",
        qemu=Known("#DB[BS]@done TF", LSS)),
    Row("066-mov-ss-lss", "mov %ss, %eax; movw $DATA, data + 4; set_flags TF; mov %eax, %ss; lss data, %ecx; a: nop; done: jmp row_done",
        "#DB[BS]@a TF; #DB[BS]@done TF", qemu=Known("#DB[BS]@done TF", LSS)),
    Row("067-sti", "set_flags TF; sti; a: and %eax, %eax; done: jmp row_done", "#DB[BS]@a TF IF; #DB[BS]@done TF IF",
        qemu=Known("#DB[BS]@done TF IF", "the shadow of sti does not hold back #DB (3.7; appendix C); in QEMU it does")),
    Row("068-rep", "mov $data, %rsi; lea 8(%rsi), %rdi; mov $3, %ecx; set_flags TF; start: rep movsb; done: jmp row_done",
        "#DB[BS]@start TF RF; #DB[BS]@start TF RF; #DB[BS]@done TF",
        qemu=Known("#DB[BS]@start TF; #DB[BS]@start TF; #DB[BS]@done TF", REP)),
    Row("069-rep-0", "mov $data, %rsi; lea 8(%rsi), %rdi; set_flags TF; start: rep movsb; done: jmp row_done", "#DB[BS]@done TF"),
    Row("070-repe", "mov $data, %rsi; lea 8(%rsi), %rdi; movb $1, 9(%rsi); mov $5, %ecx; set_flags TF; start: repe cmpsb; done: jmp row_done",
        "#DB[BS]@start TF RF; #DB[BS]@done TF rcx=3", "rcx",
        qemu=Known("#DB[BS]@start TF; #DB[BS]@done TF rcx=3", REP)),
    Row("071-ud", "set_flags TF; start: ud2", "#UD@start TF RF"),
    Row("072-page-fault", "mov $MISSING, %ebx; set_flags TF; start: mov (%rbx), %rax; n: jmp done; fix14: movq $data, R_BX(%rdi); ret; done: jmp row_done",
        "#PF(0)@start TF RF cr2=40000000; #DB[BS]@n TF; #DB[BS]@done TF"),
    Row("073-divide", "set_flags TF; start: div %ecx", "#DE@start TF RF"),
    Row("074-cpuid", "set_flags TF; cpuid; done: jmp row_done", "#DB[BS]@done TF"),
    Row("074-in", "set_flags TF; in $0xe9, %al; done: jmp row_done", "#DB[BS]@done TF rax=e9", "rax"),
    Row("074-fence", "set_flags TF; lfence; a: pause; b: cli; c: lock incl data; done: jmp row_done",
        "#DB[BS]@a TF; #DB[BS]@b TF; #DB[BS]@c TF; #DB[BS]@done TF",
        qemu=Known("#DB[BS]@a TF; #DB[BS]@c TF; #DB[BS]@done TF", "pause is stepped like any other (3.3); not in QEMU")),
    Row("074-leave", "set_flags TF; push %rbp; a: mov %rsp, %rbp; b: leave; done: jmp row_done",
        "#DB[BS]@a TF sp-8; #DB[BS]@b TF sp-8; #DB[BS]@done TF"),
    Row("082-goes-on", "set_flags TF; inc %ecx; a: inc %ecx; b: inc %ecx; done: jmp row_done",
        "#DB[BS]@a TF; #DB[BS]@b TF; #DB[BS]@done TF rcx=3", "rcx"),
    Row("083-fetch", "movb $0x90, RAM_END - 1; mov $RAM_END - 1, %eax; set_flags TF; jmp *%rax",
        "#DB[BS]@ffffff TF; #DB[BS]@1000000 TF; #PF(0)@1000000 TF RF cr2=1000000"),
    Row("084-loop", "mov $3, %ecx; set_flags TF; start: loop start; done: jmp row_done",
        "#DB[BS]@start TF; #DB[BS]@start TF; #DB[BS]@done TF"),
]

#: A guest each, because QEMU does not come back.
ALONE = [
    Row("075-hlt", "set_flags TF; hlt; n: nop; done: jmp row_done", "#DB[BS]@n TF; #DB[BS]@done TF",
        qemu=Known("", "the step of hlt is pending, and wakes it (3.3); QEMU sleeps on", ends="does not end")),
]
