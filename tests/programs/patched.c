/* HARTS harts call a function, in loops of different length, while the runtime changes its code. */
#include "smp.h"

#ifndef N
#define N 14
#endif
#ifndef HARTS
#define HARTS 2
#endif

/* The second instruction has the length of a jump and lies in two lines of 16 bytes. */
uint32_t work(uint32_t x);
__asm__(".text; .balign 16; .fill 11, 1, 0xcc; .globl work; .type work, @function; work:"
	"mov %edi, %eax;"
	".globl w_add; w_add: add $0x01020304, %eax;"
	"rol $7, %eax;"
	"ret; .size work, . - work; .balign 16");

static uint32_t sums[HARTS];

static void body(unsigned hart)
{
	uint32_t sum = hart + 1;

	for (unsigned i = 0; i < N; i++) {
		sum = work(sum ^ i);
		for (unsigned pause = 7 + 2 * hart; pause; pause--)
			sum ^= sum >> 3;
	}
	sums[hart] = sum;
}

volatile unsigned long ipi_count, nmi_count;

static void ipi_handler(struct pt_regs *regs, unsigned long vector)
{
	(void)regs, (void)vector;
	__atomic_add_fetch(&ipi_count, 1, __ATOMIC_RELAXED);
	apic_write(APIC_EOI, 0);
}

static void nmi_handler(struct pt_regs *regs, unsigned long vector)
{
	(void)regs, (void)vector;
	__atomic_add_fetch(&nmi_count, 1, __ATOMIC_RELAXED);
}

int main(void)
{
	uint32_t sum;

	set_trap_handler(2, nmi_handler);
	set_trap_handler(40, ipi_handler);
	start_harts(HARTS, body);
	body(0);
	join_harts();
	sum = sums[0];
	for (unsigned hart = 1; hart < HARTS; hart++)
		sum = fold(sum, sums[hart]);
	report("patched", sum);
	return 0;
}
