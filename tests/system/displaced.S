/* What guests have in common whose code, `snippet`, is about instructions that are displaced: a place for results, registers that
   may be changed, something to call, something to read. */

	.text
	.globl	main
	.type	main, @function
main:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r15
	lea	results(%rip), %r15		/* where the next result goes */
	lea	number(%rip), %rdi
	mov	$7, %eax
	call	snippet
	pushfq
	.irp	reg, rax, rcx, rdx, rbx, rsi, rdi, r11, rsp
	mov	%\reg, (%r15)
	add	$8, %r15
	.endr
	popq	(%r15)
	cli
	cld
	pop	%r15
	pop	%r12
	pop	%rbp
	pop	%rbx
	xor	%eax, %eax
	ret
	.size	main, . - main

	.globl	leaf
	.type	leaf, @function
leaf:	mov	(%rsp), %rax			/* the return address that the call pushed */
	mov	%rsp, %rcx
	ret
	.size	leaf, . - leaf

	.data
	.globl	number
	.balign	16
number:	.quad	0x1112345678, 2, 3, 4, 7, 9, 0, 8
results: .skip	1600

	.section .note.GNU-stack, "", @progbits
