"""Scenarios of the trap semantics with syscall and sysret, and faults of model-specific registers."""

from tests.system.scenario.row import Known, Row
from tests.system.scenario.watch import SHADOW

BACK = "cs=73 ss=6b on RSP0"

ROWS = [
    Row("052-int3-at-entry", "syscalls entry; user; syscall; n: ud2; entry: int3; m: nop", "#BP@m"),
    Row("052-int3-ist", "movb $3, GATE_IST(3); syscalls entry; user; syscall; n: ud2; entry: int3; m: nop", "#BP@m on IST3",
        qemu=Known("#BP@m now ss=0 on IST3", "as 026")),
    Row("076-masked", "syscalls entry, TF; user TF+2; syscall; n: ud2; entry: nop; m: nop", "r11=102", "r11"),
    Row("077-not-masked", "syscalls entry; user TF+2; syscall; n: ud2; entry: nop; done: jmp row_done", "#DB[BS]@entry TF; #DB[BS]@done TF"),
    Row("078-sysret", "syscalls done; mov $L, %rcx; mov $TF+2, %r11d; sysretq; L: nop; done: jmp row_done",
        f"#DB[BS]@L TF {BACK}; #DB[BS]@done TF {BACK}"),
    Row("079-iretq", """syscalls entry, TF; user TF+2; syscall; L: nop; done: jmp row_done
        entry: frame L, cs=USER_CODE+3, flags=TF+2, ss=USER_DATA+3; iretq""", "#DB[BS]@done TF cs=3b ss=43 on RSP0"),
    Row("116-mov-ss", """movw $USER_DATA+3, data; set_dr 0, data; set_dr7 0x00070402; syscalls entry; user
        mov data, %ss; a: syscall; n: ud2; entry: nop; m: nop""", "#DB[B0]@entry",
        qemu=Known("#DB[B0]@a cs=3b ss=43 on RSP0", SHADOW)),
    Row("190-flags", "syscalls done; mov $L, %rcx; mov $~TF, %r11; sysretq; L: int3; n: nop", f"#BP@n IF DF IOPL NT AC {BACK}",
        qemu=Known(f"#BP@n IF DF IOPL NT RF AC VM {BACK}", "sysret masks R11 with 0x3C7FD7 (9); QEMU lets RF and VM through")),
    Row("190-return", "syscalls entry; user; syscall; L: mov %cs, %ebx; mov %ss, %edx; jmp done; entry: sysretq; done: jmp row_done",
        "rbx=73 rdx=6b", "rbx rdx"),
    Row("190-not-canonical", "syscalls done; movabs $NONCANONICAL, %rcx; start: sysretq", "#GP(0)@start RF",
        qemu=Known(f"#GP(0)@8000000000000000 {BACK}", "sysret checks RCX at CPL 0 (9, DECISION: as Intel); QEMU faults at the target")),
    Row("190-user", "syscalls done; user; start: sysretq", "#GP(0)@start RF cs=3b ss=43 on RSP0"),
    Row("190-sce", "start: syscall", "#UD@start RF"),
    Row("190-msr-unknown", "mov $0x12345678, %ecx; start: rdmsr", "#GP(0)@start RF", qemu=Known("", "an MSR that is not there is #GP (SDM vol. 2, RDMSR); QEMU reads 0")),
    Row("190-msr-canonical", "mov $0xc0000101, %ecx; mov $0x80000000, %edx; start: wrmsr", "#GP(0)@start RF",
        qemu=Known("", "a base is canonical (SDM vol. 2, WRMSR); QEMU does not look")),
    Row("190-msr-user", "user; start: rdmsr", "#GP(0)@start RF cs=3b ss=43 on RSP0"),
    Row("190-efer-reserved", "mov $0xc0000080, %ecx; mov $0x502, %eax; start: wrmsr", "#GP(0)@start RF",
        qemu=Known("", "reserved bits are #GP (SDM vol. 2, WRMSR); QEMU drops them")),
]
