/* Entry stubs of all vectors, and the IDT that leads to them.
 *
 * A stub completes the five quadwords that the CPU pushed into a struct pt_regs (guest.h), hands its address to the
 * TrapPort, and returns with whatever the runtime put there. The hart stands still during the store, so the runtime
 * takes no guest instruction at all.
 *
 * Length of the path that a probe hit takes, once for int3 and once for #DB:
 *
 *     push orig_ax           1
 *     push registers        15
 *     mov  %rsp, TrapPort    1      17 up to the runtime
 *     cmpl, jne              2
 *     mov, mov %db6          2      (#DB only)
 *     pop  registers        15
 *     add  $8, %rsp          1
 *     iretq                  1      19 from the runtime back
 *
 * 36 instructions, 17 stores, 16 loads and the pops of iretq. Nothing in it depends on memory other than the stack.
 *
 * DR6.BS is sticky, so whoever handles a #DB clears DR6: here, as Linux does, for those that the runtime takes. It has
 * read the register by then (at the TrapPort store). A #DB that it leaves to the guest keeps its DR6.
 */

#define TRAP_PORT    0xfffffffffe000000
#define TRAP_HANDLED 0xfffffffffe000800
#define DR6_CLEAN    0xffff0ff0

#define GATE_INT     0x8e	/* present, DPL 0, 64-bit interrupt gate */
#define GATE_INT_U   0xee	/* the same with DPL 3, so that int3 works at any privilege */
#define CODE_SEL     0x08

/* Vectors for which the CPU pushes an error code: 8 10 11 12 13 14 17 21. */
#define HAS_ERROR_CODE(v) ((1 << (v)) & ((1 << 8) | (0x1f << 10) | (1 << 17) | (1 << 21)))

.macro push_regs_but_di			/* all of pt_regs below di */
	push	%rsi
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

.macro pop_regs_and_return
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rax
	pop	%rcx
	pop	%rdx
	pop	%rsi
	pop	%rdi
	add	$8, %rsp		/* orig_ax, or the error code */
	iretq
.endm

	.section .entry.stubs, "ax", @progbits
stubs_start:

/* The way through the TrapPort: vectors 0..31. */
.macro port_stub vector
	.balign	16
	.type	trap_stub_\vector, @function
trap_stub_\vector:
	.if	!HAS_ERROR_CODE(\vector)
	push	$-1
	.endif
	push	%rdi
	push_regs_but_di
	mov	%rsp, TRAP_PORT + 8 * \vector
	cmpl	$1, TRAP_HANDLED
	jne	1f
	.if	\vector == 1
	mov	$DR6_CLEAN, %eax
	mov	%rax, %db6
	.endif
	pop_regs_and_return
1:	mov	$\vector, %esi
	jmp	call_unhandled
	.size	trap_stub_\vector, . - trap_stub_\vector
.endm

/* The way to a C handler (trap_handlers[vector]): external interrupts, and any vector given to set_trap_handler().
 * Sixteen bytes each, so that the stub of a vector is found by arithmetic. */
.macro c_stub vector
	.balign	16
	.if	\vector >= 32 || !HAS_ERROR_CODE(\vector)
	push	$-1
	.endif
	push	%rdi
	mov	$\vector, %edi
	jmp	call_handler
.endm

	.altmacro
	.set	v, 0
	.rept	32
	port_stub %v
	.set	v, v + 1
	.endr

	.balign	16
	.globl	trap_c_stubs
	.type	trap_c_stubs, @function
trap_c_stubs:
	.set	v, 0
	.rept	48
	c_stub	%v
	.set	v, v + 1
	.endr
	.size	trap_c_stubs, . - trap_c_stubs

	.type	call_handler, @function
call_handler:
	push_regs_but_di
	mov	%edi, %esi
	mov	%rsp, %rdi
	cld
	sub	$8, %rsp		/* the frame is 8 modulo 16 here */
	call	*trap_handlers(, %rsi, 8)
	add	$8, %rsp
	pop_regs_and_return
	.size	call_handler, . - call_handler

	.type	call_unhandled, @function
call_unhandled:
	mov	%rsp, %rdi
	cld
	sub	$8, %rsp
	call	trap_default
	add	$8, %rsp
	pop_regs_and_return
	.size	call_unhandled, . - call_unhandled

/* A guest jprobe handler ends with jprobe_return(): a breakpoint that the runtime knows by its address, which lies in
 * [jprobe_return, jprobe_return_end). The runtime restores registers, stack pointer and stack bytes; what follows the
 * breakpoint runs only when no jprobe was active and trap_unhandled() was replaced by one that returns. */
	.globl	jprobe_return, jprobe_return_end
	.type	jprobe_return, @function
jprobe_return:
	int3
jprobe_return_end:
	nop
	ret
	.size	jprobe_return, . - jprobe_return

/* The IDT as initialised data: nothing to do at start-up. */
.macro gate offset, ist, attr
	.word	\offset, CODE_SEL
	.byte	\ist, \attr
	.word	__stubs_31_16
	.long	__stubs_63_32, 0
.endm

.macro port_gate vector
	.if	\vector == 8
	gate	<trap_stub_\vector - stubs_start>, 1, GATE_INT
	.elseif	\vector == 2
	gate	<trap_stub_\vector - stubs_start>, 2, GATE_INT
	.elseif	\vector == 3
	gate	<trap_stub_\vector - stubs_start>, 0, GATE_INT_U
	.else
	gate	<trap_stub_\vector - stubs_start>, 0, GATE_INT
	.endif
.endm

	.data
	.balign	64
	.globl	guest_idt
	.type	guest_idt, @object
guest_idt:
	.set	v, 0
	.rept	32
	port_gate %v
	.set	v, v + 1
	.endr
	.rept	16
	gate	<trap_c_stubs - stubs_start + 16 * v>, 0, GATE_INT
	.set	v, v + 1
	.endr
	.zero	(256 - 48) * 16		/* not present */
	.size	guest_idt, . - guest_idt

	.section .note.GNU-stack, "", @progbits
