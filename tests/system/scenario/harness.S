/* Entry stubs that complete a struct pt_regs and call the harness, and the way into a row and out of it. */
#include "harness.h"

#define HAS_ERROR_CODE(v) ((v) < 32 && (1 << (v)) & ((1 << 8) | (0x1f << 10) | (1 << 17) | (1 << 21)))
#define VECTORS 256
#define LEAVE   0x7e		/* how a row at CPL 3 ends */

.macro push_rest			/* of a struct pt_regs, below rsi */
	push	%rdx
	push	%rcx
	push	%rax
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
.endm

.macro pop_saved			/* what a function saves */
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
.endm

	.text
	.altmacro
.macro stub vector
	.balign	16
	.if	!HAS_ERROR_CODE(\vector)
	push	$-1
	.endif
	push	%rdi
	push	%rsi
	mov	$\vector, %esi
	jmp	common
.endm
	.balign	16
	.globl	harness_stubs
harness_stubs:
	.set	v, 0
	.rept	VECTORS
	stub	%v
	.set	v, v + 1
	.endr

	.globl	stub1, stub3
	.set	stub1, harness_stubs + 16
	.set	stub3, harness_stubs + 3 * 16
	.globl	stub_of_int14
stub_of_int14:
	push	$-1
	push	%rdi
	push	%rsi
	mov	$14, %esi
	jmp	common

/* Nothing up to the pushfq changes a flag: it shows them as the handler got them. */
common:	push_rest
	pushfq
	pop	%rdx
	cld
	mov	%rsp, %rdi
	mov	%rsp, %rbx
	and	$-16, %rsp
	call	harness_trap
	mov	%rbx, %rsp
	pop_saved
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rax
	pop	%rcx
	pop	%rdx
	pop	%rsi
	pop	%rdi
	add	$8, %rsp
	iretq

/* On a stack of its own, and without return: rows may write to the end of RAM. */
	.globl	main
main:	mov	$main_top, %rsp
	call	run_rows
	xor	%eax, %eax
	out	%al, $0xf4

/* void enter_row(const void *code): returns when the row has ended. */
	.globl	enter_row
enter_row:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, outside
	mov	%rdi, target
	mov	$stack_top, %rsp
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%ebp, %ebp
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d
	xor	%eax, %eax
	inc	%eax			/* rflags = 2 */
	mov	$0, %eax
	jmp	*target

/* The end of a row: its registers into row_end, as a struct pt_regs. From CPL 3 by way of a gate. */
	.globl	row_done
row_done:
	mov	%rax, row_end + R_AX
	mov	%cs, %eax
	test	$3, %al
	mov	row_end + R_AX, %rax
	jnz	1f
	mov	%rsp, row_end + R_SP
	mov	$row_end + R_IP, %rsp
	push	$-1
	push	%rdi
	push	%rsi
	push_rest
	jmp	leave_row
1:	int	$LEAVE

/* Back to the caller of enter_row, from anywhere at CPL 0. */
	.globl	leave_row
leave_row:
	mov	outside, %rsp
	push	$2
	popfq
	pop_saved
	ret

/* void load_tables(void): the harness's own, and segments as at power-on. */
	.globl	load_tables
load_tables:
	lgdt	gdt_pointer
	lidt	idt_pointer
	mov	$TASK, %eax
	ltr	%ax
	mov	$DATA, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	%eax, %es
	push	$CODE
	push	$1f
	lretq
1:	ret

	.data
	.balign	8
	.globl	gdt_original, tss_original, idt_pointer, idt_pointer_row
gdt_original:
	.quad	0
	.quad	0x00af9b000000ffff
	.quad	0x00cf93000000ffff
	.quad	0, 0			/* TASK: harness.c knows the address */
	.quad	0x00cf9b000000ffff
	.quad	0x00af1b000000ffff
	.quad	0x00affb000000ffff
	.quad	0x00cff3000000ffff
	.quad	0x00cf91000000ffff
	.quad	0x00cf73000000ffff
	.quad	0x00af9f000000ffff
	.quad	0x00ef9b000000ffff
	.quad	0x00cff3000000ffff
	.quad	0x00affb000000ffff
gdt_original_end:
tss_original:
	.long	0
	.quad	rsp0_top, 0, 0
	.quad	0
	.quad	ist_top, ist_top + 4096, ist_top + 2 * 4096, ist_top + 3 * 4096
	.quad	ist_top + 4 * 4096, ist_top + 5 * 4096, ist_top + 6 * 4096
	.quad	0
	.word	0, 0x68
	.word	0, 0, 0
gdt_pointer:
	.word	gdt_original_end - gdt_original - 1
	.quad	gdt
	.word	0, 0, 0
idt_pointer:
	.word	VECTORS * 16 - 1
	.quad	idt
	.word	0, 0, 0
idt_pointer_row:
	.word	VECTORS * 16 - 1
	.quad	idt

	.bss
	.balign	4096
	.globl	idt, gdt, tss, stack_top, rsp0_top, ist_top, data, row_end
idt:	.zero	4096
	.zero	4096
main_top:
	.zero	4096
stack_top:
	.zero	4096 - 64
rsp0_top:
	.zero	64
	.zero	4096
ist_top:
	.zero	6 * 4096
	.balign	64
gdt:	.zero	128
tss:	.zero	128
data:	.zero	256
row_end:
	.zero	176
outside:
	.zero	8
target:	.zero	8

	.section .note.GNU-stack, "", @progbits
