/* A function to probe, in a program that any interrupt may disturb at any time: it counts them, and computes on. */
#include "smp.h"

#ifndef N
#define N 4
#endif

volatile unsigned long nmi_count, ipi_count;

static void nmi_handler(struct pt_regs *regs, unsigned long vector)
{
	(void)regs, (void)vector;
	nmi_count++;
}

static void ipi_handler(struct pt_regs *regs, unsigned long vector)
{
	(void)regs, (void)vector;
	ipi_count++;
	apic_write(APIC_EOI, 0);
}

/* One instruction of each kind that a probe has to treat in its own way. */
uint64_t kinds(uint64_t x);
__asm__(".text; .globl kinds; .type kinds, @function; kinds:"
	".globl k_push; k_push: push %rbx;"
	".globl k_load; k_load: mov k_data(%rip), %rbx;"
	".globl k_pushf; k_pushf: pushfq;"
	".globl k_cli; k_cli: cli;"
	".globl k_popf; k_popf: popfq;"
	".globl k_call; k_call: call k_leaf;"
	".globl k_rep; k_rep: mov $3, %ecx;"
	".globl k_sti; k_sti: sti;"
	".globl k_branch; k_branch: jnz 1f;"
	"add $77, %rbx;"
	"1: lea (%rbx, %rdi), %rax;"
	".globl k_pop; k_pop: pop %rbx;"
	".globl k_ret; k_ret: ret;"
	".size kinds, . - kinds;"
	".globl k_leaf; .type k_leaf, @function; k_leaf: imul $13, %rbx, %rbx; test $1, %edi; ret; .size k_leaf, . - k_leaf;"
	".data; .balign 8; k_data: .quad 5; .text");

int main(void)
{
	uint64_t sum = 1;

	set_trap_handler(2, nmi_handler);
	set_trap_handler(40, ipi_handler);
	apic_write(APIC_SPURIOUS, 0x1ff);
	sti();
	for (unsigned i = 0; i < N; i++)
		sum = kinds(sum + i) ^ sum << 1;
	puthex(sum, 4);
	return 0;
}
