/* Where harts other than 0 begin, with all registers 0 (smp.c), and their stacks. */
	.text
	.globl	hart_start
	.type	hart_start, @function
hart_start:
	mov	$0xfee00020, %ebx	/* the number of the hart, from its interrupt controller */
	mov	(%rbx), %edi
	shr	$24, %edi
	movl	$0x1ff, 0xd0(%rbx)	/* spurious vector register: on, before the IDT that says so */
	lea	(%rdi, %rdi, 2), %eax
	mov	hart_starts(, %rax, 8), %rsp
	mov	hart_starts + 8(, %rax, 8), %rbx
	lgdt	(%rbx)
	mov	hart_starts + 16(, %rax, 8), %rbx
	lidt	(%rbx)
	mov	$0x10, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	%eax, %es
	mov	$0x18, %eax
	ltr	%ax
	xor	%ebp, %ebp
	call	hart_main
1:	sti				/* for IPIs */
	hlt
	jmp	1b
	.size	hart_start, . - hart_start

.macro stack name
	.globl	\name, \name\()_top
\name:
	.zero	4096
\name\()_top:
.endm

	.bss
	.balign	16
	stack	hart1_stack
	stack	hart2_stack
	stack	hart3_stack
	stack	hart1_nmi_stack
	stack	hart2_nmi_stack
	stack	hart3_nmi_stack

	.section .note.GNU-stack, "", @progbits
