/* Waits with sti; hlt for N external interrupts, counts NMIs beside them, and says which vectors came. With interrupts
 * off nothing may come, and the work between the waits must not be disturbed. */
#include "guest.h"

#ifndef N
#define N 3
#endif

static volatile unsigned long nmis, disturbed;
static volatile unsigned long vectors, count;
static volatile unsigned closed = 1;

void irq_handler(struct pt_regs *regs, unsigned long vector)
{
	unsigned long flags;

	__asm__ volatile("pushfq; popq %0" : "=r"(flags));
	if (closed || flags & 0x200 || !(regs->flags & 0x200) || regs->orig_ax != ~0ul)
		disturbed++;
	vectors |= 1ul << vector;
	count++;
}

static void nmi(struct pt_regs *regs, unsigned long vector)
{
	(void)regs, (void)vector;
	nmis++;
}

int main(void)
{
	uint32_t seed = 1, sum = 0;

	set_trap_handler(2, nmi);
	puts("waiting\n");
	while (count < N) {
		for (int i = 0; i < 20; i++)
			sum = fold(sum, next_random(&seed));
		closed = 0;
		__asm__ volatile("sti; hlt; cli" : : : "memory");
		closed = 1;
	}
	puts("vectors ");
	puthex(vectors, 12);
	puts(" irqs ");
	putdec(count);
	puts(" nmis ");
	putdec(nmis);
	puts(disturbed ? " FAIL\n" : " ok\n");
	return disturbed != 0;
}
