/* Every form of instruction that displacing may get wrong, each leaving what it did at %r15 (displaced.S). */

	.macro	note value			/* the next quadword of results */
	mov	\value, (%r15)
	add	$8, %r15
	.endm

	.macro	note_flags			/* all flags, as the hardware pushes them */
	pushfq
	pop	(%r15)
	add	$8, %r15
	.endm

	.text
	.globl	snippet
	.type	snippet, @function
snippet:
	call	calls
	call	jumps
	call	loops
	call	returns
	call	flags
	call	strings
	call	operands
	call	stack
	ret
	.size	snippet, . - snippet

	.type	calls, @function
calls:
	call	leaf
	note	%rax
	.byte	0x66, 0xe8			/* with prefixes that do nothing */
	.long	leaf - . - 4
	note	%rax
	.byte	0xf2, 0xe8
	.long	leaf - . - 4
	note	%rax
	.byte	0x48, 0xe8
	.long	leaf - . - 4
	note	%rax
	lea	leaf(%rip), %rbx
	call	*%rbx
	note	%rax
	mov	%rbx, %r11
	call	*%r11
	note	%rax
	call	*table + 8(%rip)
	note	%rax
	lea	table(%rip), %rdx
	mov	$1, %ecx
	call	*(%rdx, %rcx, 8)
	note	%rax
	call	*8(%rdx)
	note	%rax
	push	%rbx
	call	*(%rsp)				/* through the word that its own push covers from below */
	pop	%rbx
	note	%rax
	push	$0xc3				/* a ret, on the stack */
	call	*%rsp
	pop	%rax
	note	%rsp
	ret
	.size	calls, . - calls

	.type	jumps, @function
jumps:
	mov	$1, %eax
	jmp	2f
1:	add	$4, %eax
	jmp	3f
2:	add	$2, %eax
	jmp	1b
	.skip	200, 0x90
3:	lea	4f(%rip), %rdx
	jmp	*%rdx
	ud2
4:	lea	5f(%rip), %r9
	push	%r9
	jmp	*(%rsp)
	ud2
5:	pop	%r9
	jmp	*table(%rip)
	ud2
table_target:
	mov	$16, %ecx			/* conditions: all 16 with 16 settings of the flags */
6:	mov	%cl, %ah
	shl	$4, %ah
	sahf
	seto	%bl
	xor	%edx, %edx
	.irp	cc, o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g
	mov	%cl, %ah
	shl	$4, %ah
	sahf
	j\cc	7f
	jmp	8f
7:	bts	$0, %rdx
8:	shl	$1, %rdx
	.endr
	note	%rdx
	mov	%cl, %ah
	shl	$4, %ah
	sahf
	jle	far_away			/* rel32 */
back:	dec	%ecx
	jne	6b
	ret
	.skip	200, 0x90
far_away:
	inc	%rdx
	note	%rdx
	jmp	back
	.size	jumps, . - jumps

	.type	loops, @function
loops:
	xor	%eax, %eax
	mov	$3, %ecx
1:	inc	%eax
	loop	1b
	note	%rax
	mov	$1, %ecx
	loop	2f
	inc	%eax
2:	note	%rax
	note	%rcx
	xor	%ecx, %ecx
	loop	3f				/* 0 counts as 2^64 */
	inc	%eax
3:	note	%rcx
	mov	$0x100000001, %rcx
	addr32 loop	4f			/* clears the upper half */
	inc	%eax
4:	note	%rcx
	mov	$5, %ecx
	cmp	%eax, %eax
5:	loope	5b
	note	%rcx
	mov	$5, %ecx
6:	loopne	6b
	note	%rcx
	jrcxz	7f
	inc	%eax
7:	mov	$0x100000000, %rcx
	jrcxz	8f
	jecxz	8f
	inc	%eax
8:	note	%rax
	ret
	.size	loops, . - loops

	.type	takes_16, @function
takes_16:
	mov	8(%rsp), %rax
	ret	$16
	.size	takes_16, . - takes_16

	.type	returns_far, @function
returns_far:
	lretq
	.size	returns_far, . - returns_far

	.type	returns, @function
returns:
	push	$1
	push	$2
	call	takes_16
	note	%rax
	note	%rsp
	mov	%cs, %eax
	push	%rax
	lea	1f(%rip), %rax
	push	%rax
	jmp	returns_far
1:	note	%rsp
	push	$7				/* freed by the next one */
	mov	%cs, %eax
	push	%rax
	lea	2f(%rip), %rax
	push	%rax
	lretq	$8
2:	note	%rsp
	mov	%ss, %eax
	mov	%rsp, %rdx
	push	%rax
	push	%rdx
	pushfq
	mov	%cs, %eax
	push	%rax
	lea	3f(%rip), %rax
	push	%rax
	iretq
3:	note	%rsp
	ret
	.size	returns, . - returns

	.type	flags, @function
flags:
	cli
	note_flags
	stc
	sti
	note_flags
	pushfw
	movzwl	(%rsp), %eax
	add	$2, %rsp
	note	%rax
	pushfq
	andq	$~0x200, (%rsp)			/* IF off */
	popfq
	note_flags
	pushfq
	orq	$0x240601, (%rsp)		/* ID, AC, OF left alone, DF, IF, CF */
	popfq
	note_flags
	cld
	pushw	$0x0202
	popfw
	note_flags
	pushfq
	andq	$~0x240000, (%rsp)
	popfq
	cli
	note_flags
	ret
	.size	flags, . - flags

	.type	strings, @function
strings:
	lea	source(%rip), %rsi
	lea	target(%rip), %rdi
	mov	$5, %ecx
	rep movsb
	note	%rsi
	note	%rdi
	xor	%ecx, %ecx
	rep stosq
	note	%rdi
	mov	$3, %ecx
	mov	%rsi, %rax
	rep stosq
	lea	source(%rip), %rdi
	mov	$'d', %eax
	mov	$20, %ecx
	repne scasb
	note	%rcx
	lea	source(%rip), %rsi
	lea	target(%rip), %rdi
	mov	$20, %ecx
	repe cmpsb
	note	%rcx
	note_flags
	movsq
	lodsb
	note	%rax
	std
	lodsb
	cld
	note	%rsi
	ret
	.size	strings, . - strings

	.type	operands, @function
operands:
	mov	number(%rip), %rax
	note	%rax
	lea	number(%rip), %rax
	note	%rax
	cmpl	$0x12345678, number(%rip)	/* an immediate behind the displacement */
	note_flags
	movw	$0x1234, number + 8(%rip)
	movb	$0x56, number + 10(%rip)
	movq	$-1, number + 16(%rip)
	lock incl	number(%rip)
	lock xadd	%rax, number + 24(%rip)
	note	%rax
	xchg	%rax, number + 24(%rip)
	note	%rax
	imul	$3, number(%rip), %rax
	note	%rax
	mov	number, %eax			/* absolute, not relative to rip */
	note	%rax
	mov	%gs:0x1000, %rax
	note	%rax
	mov	%fs:(%r15), %rax
	note	%rax
	mov	$7, %eax
	mov	$9, %edx
	lea	number(%rip), %rdi
	nopl	(%edi)
	push	%rbx
	mov	%rax, %rbx
	mov	%rdx, %rcx
	lock cmpxchg16b number + 32(%rip)
	lock cmpxchg16b number + 32(%rip)
	pop	%rbx
	note	%rax
	note	%rdx
	mov	$100, %eax
	xor	%edx, %edx
	mov	$7, %ecx
	div	%ecx
	note	%rax
	note	%rdx
	mov	%cr0, %rax
	mov	%rax, %cr0
	note	%rax
	mov	$0x80000008, %eax
	cpuid
	note	%rax
	mov	$0xc0000100, %ecx
	rdmsr
	note	%rax
	nopl	0(%rax, %rax)
	nopw	%cs:0x200(%rax, %rax)
	mov	$0x1122334455667788, %rax
	bswap	%rax
	note	%rax
	sete	%al
	cmovne	%rcx, %rax
	note	%rax
	mov	%ss, %eax
	mov	%eax, %ds
	ret
	.size	operands, . - operands

	.type	stack, @function
stack:
	push	%rsp
	pop	%rax
	note	%rax
	push	$5
	push	$6
	pop	(%rsp)
	pop	%rax
	note	%rax
	enter	$24, $0
	mov	%rax, -8(%rbp)
	leave
	note	%rsp
	push	number(%rip)
	pop	number + 48(%rip)
	pushw	$3
	popw	%ax
	note	%rax
	note	%rsp
	ret
	.size	stack, . - stack

	.data
	.balign	16
table:	.quad	table_target, leaf
source:	.ascii	"abcdefghijklmnopqrstuvwxyz"
	.balign	8
target:	.skip	64

	.section .note.GNU-stack, "", @progbits
