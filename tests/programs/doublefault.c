/* A general protection fault whose gate is not present: contributory upon contributory gives a double fault, with error
 * code 0, on the stack of IST1. */
#include "guest.h"

extern char fault_stack[], fault_stack_top[];

static void double_fault(struct pt_regs *regs, unsigned long vector)
{
	const char *frame = (const char *)regs;
	int good = vector == 8 && regs->orig_ax == 0 && frame > fault_stack && frame < fault_stack_top;

	puts(good ? "double fault\n" : "FAIL double fault\n");
	exit(!good);
}

int main(void)
{
	set_trap_handler(8, double_fault);
	set_gate(13, 0, GATE_INTERRUPT, 0, 0, 0);
	__asm__ volatile("mov $1, %%eax; shl $62, %%rax; mov (%%rax), %%eax" : : : "rax", "memory");
	puts("FAIL no fault\n");
	return 1;
}
