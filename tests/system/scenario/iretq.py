"""Scenarios of the trap semantics, 11.5: iretq."""

from tests.system.scenario.frames import ist_ss
from tests.system.scenario.row import Known, Row

ROWS = [
    Row("122-same-privilege", "frame L, sp=stack_top-512; iretq; L: int3; n: nop", "#BP@n sp-512"),
    Row("122-flags", "frame L, flags=IF+DF+AC+NT+2; iretq; L: int3; n: nop", "#BP@n IF DF NT AC"),
    Row("123-nt", "frame L; set_flags NT; start: iretq; L: nop", "#GP(0)@start NT RF sp-40"),
    Row("124-cs-null", "frame L, cs=0; start: iretq; L: nop", "#GP(0)@start RF sp-40"),
    Row("124-cs-data", "frame L, cs=DATA; start: iretq; L: nop", "#GP(10)@start RF sp-40"),
    Row("124-cs-beyond", "frame L, cs=0x1230; start: iretq; L: nop", "#GP(1230)@start RF sp-40"),
    Row("124-cs-np", "frame L, cs=CODE_NP; start: iretq; L: nop", "#NP(30)@start RF sp-40"),
    Row("124-cs-l-and-d", "frame L, cs=CODE_LD; start: iretq; L: nop", "#GP(60)@start RF sp-40",
        qemu=Known("", "L = 1 with D = 1 is refused (6, check 3); QEMU loads it")),
    Row("124-cs-dpl", "frame L, cs=USER_CODE; start: iretq; L: nop", "#GP(38)@start RF sp-40"),
    Row("126-rip", "frame NONCANONICAL; start: iretq; L: nop", "#GP(0)@start RF sp-40",
        qemu=Known("#GP(0)@8000000000000000", "the new rip is checked by iretq (6, check 5); QEMU faults at the target")),
    Row("127-ss-null", "frame L, ss=0; iretq; L: mov %ss, %ecx; mov $DATA, %eax; mov %eax, %ss", "rcx=0", "rcx"),
    Row("128-ss-null-rpl", "frame L, ss=3; start: iretq; L: nop", "#GP(0)@start RF sp-40",
        qemu=Known("", "a null SS has the RPL of the new CPL (6, check 4); QEMU does not look")),
    Row("128-ss-code", "frame L, ss=CODE; start: iretq; L: nop", "#GP(8)@start RF sp-40"),
    Row("128-ss-read-only", "frame L, ss=READ_ONLY; start: iretq; L: nop", "#GP(48)@start RF sp-40"),
    Row("132-vm", "frame L, flags=VM+2; iretq; L: int3; n: nop", "#BP@n"),
    Row("133-rf", "frame L, flags=RF+TF+2; iretq; L: nop; done: jmp row_done", "#DB[BS]@done TF"),
    Row("133-rf-saved", "frame MISSING, flags=RF+2; iretq", "#PF(0)@40000000 RF cr2=40000000",
        qemu=Known("#PF(0)@40000000 RF cr2=40000000", "the same: the RF that iretq loaded is saved, whatever QEMU does for faults")),
    Row("135-frame-missing", "mov $MISSING, %esp; movb $1, GATE_IST(14); start: iretq",
        **ist_ss("#PF(0)@start RF sp=40000000 on IST1 cr2=40000000")),
    Row("137-iretd", """mov $0x7000 - 20, %esp; mov $L, %rax; and $0x7fffffff, %eax; mov %eax, (%rsp); movl $CODE, 4(%rsp); movl $2, 8(%rsp); movl $0x8000, 12(%rsp)
        movl $DATA, 16(%rsp); iretl; L: mov %rsp, %rcx""", "rcx=8000", "rcx"),
]
