/* TF: how often the debug trap comes, where it points, and what DR6 says. Prints the list of differences, then "ok". */
#include "guest.h"

#define TF 0x100
#define MOST 16

static unsigned long traps, where[MOST], flags_seen[MOST], dr6[MOST];
static unsigned failures;

static void record(struct pt_regs *regs, unsigned long vector)
{
	(void)vector;
	if (traps < MOST) {
		where[traps] = regs->ip;
		flags_seen[traps] = regs->flags;
		__asm__ volatile("mov %%db6, %0; mov %1, %%db6" : "=&r"(dr6[traps]) : "r"(0xffff0ff0ul));
	}
	traps++;
}

static void check(const char *name, unsigned long is, unsigned long expected)
{
	if (is == expected)
		return;
	failures++;
	puts("FAIL ");
	puts(name);
	puts(": ");
	puthex(is, 16);
	putc(' ');
	puthex(expected, 16);
	putc('\n');
}

/* Runs `code` between a popfq that sets TF and one that clears it. The step after the popfq that clears it is the last. */
#define STEP(code) do {                                                                                      \
	traps = 0;                                                                                           \
	__asm__ volatile("pushfq; pushfq; orl $0x100, (%%rsp); popfq\n" code "\npopfq\nafter%=:"              \
			 : : : "rax", "rcx", "rsi", "rdi", "memory", "cc");                                  \
} while (0)

extern char step_first[], step_second[], step_target[], step_end[], step_string[], step_string_end[], step_popfq[];

char from[4] = "abc", to[4];

int main(void)
{
	unsigned long pushed;

	set_trap_handler(1, record);

	STEP("step_first: nop\nstep_second: jmp step_target\nud2\nstep_target: nop\nstep_end:");
	check("straight: traps", traps, 4);
	check("straight: after the first", where[0], (unsigned long)step_second);
	check("straight: a taken jump gives its target", where[1], (unsigned long)step_target);
	check("straight: after the last", where[2], (unsigned long)step_end);
	check("straight: the popfq that clears TF", where[3], (unsigned long)step_end + 1);
	check("straight: DR6", dr6[0], 0xffff4ff0);
	check("straight: TF is saved", flags_seen[0] & TF, TF);
	check("straight: RF is not set", flags_seen[0] & 0x10000, 0);
	check("straight: TF is gone", flags_seen[3] & TF, 0);

	STEP("lea from(%%rip), %%rsi; lea to(%%rip), %%rdi; mov $3, %%ecx\n"
	     "step_string: rep movsb\nstep_string_end:");
	check("rep movsb: traps", traps, 7);
	check("rep movsb: an iteration", where[3], (unsigned long)step_string);
	check("rep movsb: the last", where[5], (unsigned long)step_string_end);
	check("rep movsb: copied", (unsigned char)to[2], 'c');

	STEP("pushfq; popq %%rax; mov %%rax, %%rcx\n"
	     "step_popfq: mov %%rcx, %%rsi");
	check("pushfq: traps", traps, 5);

	__asm__ volatile("pushfq; pushfq; orl $0x100, (%%rsp); popfq; pushfq; popq %0; popfq" : "=r"(pushed) : : "memory", "cc");
	check("pushfq: TF is in the pushed image", pushed & TF, TF);

	traps = 0;
	__asm__ volatile("nop; nop" : : : "memory");
	check("off: traps", traps, 0);
	if (!failures)
		puts("ok\n");
	return failures != 0;
}
