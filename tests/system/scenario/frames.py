"""Scenarios of the trap semantics, 11.1: the IDT, gates, frames, stacks."""

from typing import Any

from tests.system.scenario.row import QUIRKS, Known, Row, apply

IST_SS = "SS stays as it was when a gate's IST switches the stack without a change of CPL (1.4, DECISION); QEMU makes it null"
AT_TARGET = "a gate's offset is checked by the delivery (1.3, step 11); QEMU delivers, and faults at the target"


def ist_ss(expect: str) -> dict[str, Any]:
    """The expected line, and the one of QEMU: without RF where a fault saves it, and with a null SS on the IST's stack."""
    return {"expect": expect, "qemu": Known(apply(QUIRKS, expect).replace(" on IST", " now ss=0 on IST"), IST_SS)}


ROWS = [
    Row("001-align", "sub $8, %rsp; int3; n: nop", "#BP@n sp-8"),
    Row("002-aligned", "int3; n: nop", "#BP@n"),
    Row("003-error-code", "sub $8, %rsp; movabs $NONCANONICAL, %rbx; start: mov (%rbx), %rax", "#GP(0)@start RF sp-8"),
    Row("004-interrupt-gate", "set_flags IF; int3; n: nop", "#BP@n IF"),
    Row("005-trap-gate", "movb $0xef, GATE_TYPE(3); set_flags IF; int3; n: nop", "#BP@n IF / IF"),
    Row("006-flags", "set_flags TF+NT+AC+DF+IOPL; int3; n: nop; done: jmp row_done",
        "#BP@n TF DF IOPL NT AC; #DB[BS]@done TF DF IOPL NT AC"),
    Row("007-idt-limit", "lidt_limit 16*40+14; start: int $40; n: nop", "#GP(142)@start RF"),
    Row("008-idt-limit", "lidt_limit 16*40+15; start: int $40; n: nop", "v40@n"),
    *(Row(f"009-type-{attributes:x}", f"movb ${attributes:#x}, GATE_TYPE(3); start: int3; n: nop", "#GP(1a)@start RF")
      for attributes in (0x85, 0x86, 0x87, 0x8C, 0x9E)),
    Row("010-not-present", "movb $0x0e, GATE_TYPE(3); start: int3; n: nop", "#NP(1a)@start RF"),
    Row("018-null-selector", "movw $0, GATE_SELECTOR(40); start: int $40; n: nop", "#GP(0)@start RF"),
    Row("018-null-selector-fault", "movw $0, GATE_SELECTOR(6); start: ud2", "#GP(1)@start RF"),
    Row("019-beyond-gdt", "movw $0x123b, GATE_SELECTOR(40); start: int $40; n: nop", "#GP(1238)@start RF"),
    Row("019-beyond-gdt-fault", "movw $0x123b, GATE_SELECTOR(6); start: ud2", "#GP(1239)@start RF"),
    Row("020-data-segment", "movw $DATA, GATE_SELECTOR(40); start: int $40; n: nop", "#GP(10)@start RF"),
    Row("020-data-segment-fault", "movw $DATA, GATE_SELECTOR(6); start: ud2", "#GP(11)@start RF"),
    Row("021-32-bit-code", "movw $CODE32, GATE_SELECTOR(40); start: int $40; n: nop", "#GP(28)@start RF"),
    Row("021-l-and-d", "movw $CODE_LD, GATE_SELECTOR(40); start: int $40; n: nop", "#GP(60)@start RF"),
    Row("022-code-not-present", "movw $CODE_NP, GATE_SELECTOR(40); start: int $40; n: nop", "#NP(30)@start RF"),
    Row("023-outer-code", "movw $USER_CODE, GATE_SELECTOR(40); start: int $40; n: nop", "#GP(38)@start RF"),
    Row("025-offset", "far_gate 40; start: int $40; n: nop", "#GP(0)@start RF", qemu=Known("#GP(0)@800000000000 sp-40", AT_TARGET)),
    Row("025-offset-fault", "far_gate 6; start: ud2", "#GP(1)@start RF", qemu=Known("#GP(0)@800000000000 sp-40", AT_TARGET)),
    Row("026-ist", "movb $2, GATE_IST(3); int3; n: nop", **ist_ss("#BP@n on IST2")),
    Row("026-ist-odd", "movb $2, GATE_IST(3); decq TSS_IST(2); int3; n: nop", **ist_ss("#BP@n on IST2-16")),
    Row("027-tss-limit", "tr_limit 0x5a; movb $7, GATE_IST(40); start: int $40; n: nop", "#TS(18)@start RF"),
    Row("027-tss-limit-fault", "tr_limit 0x5a; movb $7, GATE_IST(6); start: ud2", "#TS(19)@start RF"),
    Row("030-stack-missing", "mov $MISSING, %esp; movb $1, GATE_IST(14); start: int3; n: nop",
        **ist_ss("#PF(2)@start RF sp=40000000 on IST1 cr2=3ffffff8")),
    Row("030-stack-crosses", "mov $16, %esp; movb $1, GATE_IST(14); start: int3; n: nop",
        **ist_ss("#PF(2)@start RF sp=10 on IST1 cr2=fffffffffffffff8")),
    Row("031-idt-missing", """mov $idt, %rsi; mov $RAM_END - 16*40, %edi; mov $80, %ecx; rep movsq
        movq $RAM_END - 16*40, idt_pointer_row + 2; lidt idt_pointer_row; movq $idt, idt_pointer_row + 2
        start: int $40; n: nop""", "#PF(0)@start RF cr2=1000000"),
    Row("032-int-14", "without_error_code 14; int $14; n: nop", "#PF@n"),
    Row("034-same-ist", "mov $ist_top + 4096 - 64, %rsp; movb $2, GATE_IST(3); int3; n: nop",
        **ist_ss("#BP@n sp=IST2-64 on IST2")),
    Row("036-accessed", "andb $0xfe, gdt + CODE + 5; int3; n: movzbl gdt + CODE + 5, %ecx", "#BP@n rcx=9b", "rcx",
        qemu=Known("#BP@n rcx=9a", "a delivery sets the accessed bit of its code descriptor (1.3); not in QEMU")),
    Row("035-data-segments", "mov $READ_ONLY, %eax; mov %eax, %ds; mov %eax, %es; int3; n: mov %ds, %ecx; mov %es, %edx",
        "#BP@n rcx=48 rdx=48", "rcx rdx"),
]  # fmt: skip
