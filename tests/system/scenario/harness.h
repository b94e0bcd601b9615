/* Where the harness keeps things, for harness.S, the rows (which are assembly too) and harness.c.
 *
 * A row's code runs at CPL 0 with all registers 0, rflags 2, on `stack_top`, with fresh copies of the tables below. */
#ifndef HARNESS_H
#define HARNESS_H

/* Selectors. */
#define CODE      0x08	/* 64-bit, DPL 0 */
#define DATA      0x10
#define TASK      0x18	/* two entries */
#define CODE32    0x28	/* L = 0, D = 1 */
#define CODE_NP   0x30	/* not present */
#define USER_CODE 0x38	/* 64-bit, DPL 3 */
#define USER_DATA 0x40
#define READ_ONLY 0x48	/* data, DPL 0 */
#define DATA_NP   0x50	/* data, DPL 3, not present */
#define CONFORM   0x58	/* 64-bit, conforming, DPL 0 */
#define CODE_LD   0x60	/* L = 1 and D = 1 */
#define SYSRET    0x60	/* what sysret adds to: the two that follow are for DPL 3 */
#define SYS_DATA  0x68
#define SYS_CODE  0x70

/* struct pt_regs (guest.h), for rows that change what a trap returns to. */
#define R_BX    40
#define R_CX    88
#define R_AX    80
#define R_IP    128
#define R_CS    136
#define R_FLAGS 144
#define R_SP    152
#define R_SS    160

/* Linear addresses that are no memory. */
#define MISSING      0x40000000
#define RAM_END      0x01000000
#define NONCANONICAL 0x8000000000000000

/* RFLAGS. */
#define TF   0x100
#define IF   0x200
#define DF   0x400
#define IOPL 0x3000
#define NT   0x4000
#define RF   0x10000
#define VM   0x20000
#define AC   0x40000

#ifdef __ASSEMBLER__

/* Fields of a gate. */
#define GATE_SELECTOR(v) idt + 16 * (v) + 2
#define GATE_IST(v)      idt + 16 * (v) + 4
#define GATE_TYPE(v)     idt + 16 * (v) + 5	/* P, DPL, type */
#define GATE_63_32(v)    idt + 16 * (v) + 8
#define TSS_RSP0         tss + 4
#define TSS_IST(n)       tss + 28 + 8 * (n)

/* TF from the instruction after the next; the flag bits at a time. */
.macro set_flags bits
	pushfq
	orl	$\bits, (%rsp)
	popfq
.endm
.macro clear_flags bits
	pushfq
	andl	$~\bits, (%rsp)
	popfq
.endm
/* The frame of an iretq; 64-bit values go through rax. */
.macro frame ip, cs=CODE, flags=2, sp=stack_top, ss=DATA
	push	$\ss
	movabs	$\sp, %rax
	push	%rax
	push	$\flags
	push	$\cs
	movabs	$\ip, %rax
	push	%rax
.endm
/* To CPL 3, with the same stack. */
.macro user flags=2
	push	$USER_DATA + 3
	push	$stack_top
	push	$\flags
	push	$USER_CODE + 3
	push	$in_user\@
	iretq
in_user\@:
.endm
/* Leads a vector that has an error code to a stub that does not expect one. */
.macro without_error_code vector
	mov	$stub_of_int\vector, %rax
	mov	%ax, idt + 16 * \vector
	shr	$16, %rax
	mov	%ax, idt + 16 * \vector + 6
.endm
/* An offset that is not canonical. */
.macro far_gate vector
	movw	$0, idt + 16 * \vector
	movw	$0, idt + 16 * \vector + 6
	movl	$0x8000, GATE_63_32(\vector)
.endm
.macro set_msr number, value
	mov	$\number, %ecx
	movabs	$\value, %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	wrmsr
.endm
/* syscall goes to `entry`, and comes from SYS_CODE when sysret returns to it. */
.macro syscalls entry, mask=0
	set_msr	0xc0000080, 0x501
	set_msr	0xc0000081, SYSRET << 48 | CODE << 32
	set_msr	0xc0000082, \entry
	set_msr	0xc0000084, \mask
	xor	%eax, %eax
	xor	%ecx, %ecx
.endm
.macro set_dr7 value
	mov	$\value, %eax
	mov	%rax, %db7
.endm
.macro set_dr number, address
	mov	$\address, %rax
	mov	%rax, %db\number
.endm
.macro lidt_limit limit
	movw	$\limit, idt_pointer_row
	lidt	idt_pointer_row
.endm
.macro tr_limit limit
	movw	$\limit, gdt + TASK
	movb	$0x89, gdt + TASK + 5
	mov	$TASK, %eax
	ltr	%ax
.endm

#else

#include "guest.h"

struct label { const void *at; const char *name; };
struct fix { unsigned long vector; void (*code)(struct pt_regs *regs); };
struct shown { unsigned long offset; const char *name; };
struct row {
	const char *name;
	const void *code;
	const struct label *labels;	/* ends with at = 0 */
	const struct fix *fixes;	/* ends with code = 0 */
	const struct shown *shown;	/* ends with name = 0 */
	unsigned long keep_dr6;
};

#endif
#endif
