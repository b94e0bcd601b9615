/* Start-up. The loader has zeroed memory and copied the segments; the CPU is in 64-bit mode at CPL 0 with flat
 * segments (CS selector 0x08), interrupts off, and the stack pointer at the top of RAM. All tables are initialised
 * data, so start-up is a dozen instructions. */

	.section .entry.text, "ax", @progbits
	.globl	_start
	.type	_start, @function
_start:
	lgdt	gdt_pointer
	lidt	idt_pointer
	mov	$0x10, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	%eax, %es
	mov	$0x18, %eax
	ltr	%ax
	xor	%ebp, %ebp		/* the end of the chain of frames */
	call	main
	out	%al, $0xf4		/* ends the run with status (value << 1) | 1 */
1:	hlt
	jmp	1b
	.size	_start, . - _start

	.data
	.balign	8
	.type	guest_gdt, @object
guest_gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* 0x08: 64-bit code, DPL 0, accessed */
	.quad	0x00cf93000000ffff	/* 0x10: data, writable, DPL 0, accessed */
	.word	0x67, __tss_15_0	/* 0x18: available 64-bit TSS, 104 bytes */
	.byte	__tss_23_16, 0x89, 0, __tss_31_24
	.long	__tss_63_32, 0
gdt_end:
	.size	guest_gdt, . - guest_gdt

	.balign	8
	.globl	guest_tss
	.type	guest_tss, @object
guest_tss:
	.long	0
	.quad	fault_stack_top, 0, 0	/* RSP0..2; nothing runs at another privilege yet */
	.quad	0
	.quad	fault_stack_top		/* IST1: #DF */
	.quad	nmi_stack_top		/* IST2: NMI */
	.quad	0, 0, 0, 0, 0		/* IST3..7 */
	.quad	0
	.word	0, 0x68			/* no I/O bitmap */
	.size	guest_tss, . - guest_tss

	.balign	8
	.word	0, 0, 0			/* so that the base is aligned */
gdt_pointer:
	.word	gdt_end - guest_gdt - 1
	.quad	guest_gdt
	.word	0, 0, 0
idt_pointer:
	.word	256 * 16 - 1
	.quad	guest_idt

	.bss
	.balign	16
	.globl	fault_stack, fault_stack_top, nmi_stack, nmi_stack_top
fault_stack:
	.zero	4096
fault_stack_top:
nmi_stack:
	.zero	4096
nmi_stack_top:

	.section .note.GNU-stack, "", @progbits
