"""Scenarios of the trap semantics at CPL 3: gates and stacks of 11.1, steps of 11.3, iretq of 11.5, flags of 11.9."""

from tests.system.scenario.int3 import ICEBP
from tests.system.scenario.row import Known, Row

#: What a trap from CPL 3 saves and where.
FROM = "cs=3b ss=43 on RSP0"

ROWS = [
    Row("011-gate-dpl", "movb $0x8e, GATE_TYPE(3); user; start: int3; n: nop", f"#GP(1a)@start RF {FROM}"),
    Row("012-int3", "user; int3; n: nop", f"#BP@n {FROM}"),
    Row("012-rsp0-odd", "decq TSS_RSP0; user; int3; n: nop", "#BP@n cs=3b ss=43 on RSP0-16"),
    Row("012-ist", "movb $3, GATE_IST(3); user; int3; n: nop", "#BP@n cs=3b ss=43 on IST3"),
    Row("013-dpl-before-p", "movb $0x0e, GATE_TYPE(3); user; start: int3; n: nop", f"#GP(1a)@start RF {FROM}"),
    Row("013-p", "movb $0x6e, GATE_TYPE(3); user; start: int3; n: nop", f"#NP(1a)@start RF {FROM}"),
    Row("014-fault", "user; start: div %ecx", f"#DE@start RF {FROM}"),
    Row("015-icebp", "user; start: .byte 0xf1; n: nop", f"#DB[]@n {FROM}", qemu=Known(f"#UD@start {FROM}", ICEBP)),
    Row("016-int-1", "user; start: int $1; n: nop", f"#GP(a)@start RF {FROM}"),
    Row("017-int-21", "user; start: int $0x21; n: nop", f"#GP(10a)@start RF {FROM}"),
    Row("024-conforming", "movw $CONFORM, GATE_SELECTOR(3); user IOPL+2; int3; n: nop", "#BP@n IOPL cs=3b ss=43 now cs=5b"),
    Row("029-rsp0-ist", "movabs $NONCANONICAL, %rax; mov %rax, TSS_RSP0; movb $1, GATE_IST(12); user; start: int3; n: nop",
        "#SS(0)@start RF cs=3b ss=43 on IST1"),
    Row("031-idt-missing-user", """mov $idt, %rsi; mov $RAM_END - 16*40, %edi; mov $80, %ecx; rep movsq
        movq $RAM_END - 16*40, idt_pointer_row + 2; lidt idt_pointer_row; movq $idt, idt_pointer_row + 2
        user; start: int $40; n: nop""", f"#PF(0)@start RF {FROM} cr2=1000000"),
    Row("085-int-20", "movb $0xee, GATE_TYPE(0x20); user TF+2; int $0x20; n: nop; done: jmp row_done",
        f"v32@n TF {FROM}; #DB[BS]@done TF {FROM}"),
    Row("121-mov-dr", "user; start: mov %rax, %db7", f"#GP(0)@start RF {FROM}"),
    Row("125-cs-rpl", "user; frame L, cs=CODE, ss=USER_DATA+3; start: iretq; L: nop", "#GP(8)@start RF cs=3b ss=43 sp-40 on RSP0"),
    Row("129-ss-null", "frame L, cs=USER_CODE+3, ss=0; start: iretq; L: nop", "#GP(0)@start RF sp-40"),
    Row("130-ss-np", "frame L, cs=USER_CODE+3, ss=DATA_NP+3; start: iretq; L: nop", "#SS(50)@start RF sp-40",
        qemu=Known("#NP(50)@start sp-40", "SS that is not present is #SS (6, check 4); QEMU makes it #NP")),
    Row("130-ss-rpl", "frame L, cs=USER_CODE+3, ss=USER_DATA; start: iretq; L: nop", "#GP(40)@start RF sp-40"),
    Row("131-if-iopl", "user; frame L, cs=USER_CODE+3, flags=IF+IOPL+2, ss=USER_DATA+3; iretq; L: int3; n: nop", f"#BP@n {FROM}"),
    Row("134-ds", "mov $DATA, %eax; mov %eax, %ds; user; L: mov %ds, %ecx", "rcx=0", "rcx"),
    Row("134-ds-user", "mov $USER_DATA+3, %eax; mov %eax, %ds; user; L: mov %ds, %ecx", "rcx=43", "rcx"),
    Row("136-user-to-user", "user; frame L, cs=USER_CODE+3, sp=stack_top-256, ss=USER_DATA+3; iretq; L: int3; n: nop",
        "#BP@n cs=3b ss=43 sp-256 on RSP0"),
    Row("175-pf-in-idt", """mov $idt, %rsi; mov $RAM_END - 16*40, %edi; mov $80, %ecx; rep movsq
        movq $RAM_END - 16*40, idt_pointer_row + 2; lidt idt_pointer_row; movq $idt, idt_pointer_row + 2
        user; start: int $41; n: nop""", f"#PF(0)@start RF {FROM} cr2=1000010"),
    Row("175-pf-user", "mov $MISSING, %ebx; user; start: mov %rax, (%rbx)", f"#PF(6)@start RF {FROM} cr2=40000000"),
    Row("189-popf", "user; push $IF+IOPL+2; popfq; int3; n: nop", f"#BP@n {FROM}"),
    Row("191-cli", "user; start: cli", f"#GP(0)@start RF {FROM}"),
    Row("191-sti", "user; start: sti", f"#GP(0)@start RF {FROM}"),
    Row("191-cli-iopl", "user IOPL+IF+2; cli; int3; n: nop", f"#BP@n IOPL {FROM}"),
    Row("191-hlt", "user; start: hlt", f"#GP(0)@start RF {FROM}"),
    Row("191-in", "user; start: in $0xe9, %al", f"#GP(0)@start RF {FROM}"),
    Row("191-lidt", "user; start: lidt idt_pointer_row", f"#GP(0)@start RF {FROM}"),
    Row("191-mov-cr", "user; start: mov %cr0, %rax", f"#GP(0)@start RF {FROM}"),
]
