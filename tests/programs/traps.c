/* Every kind of synchronous trap, with handlers in C: what the frame holds, and that the return restores it all. Prints
 * a line "FAIL name: seen expected" for each difference, and "ok" when there is none. */
#include "guest.h"

#define RF (1ul << 16)
#define IF (1ul << 9)
#define TF (1ul << 8)

extern char at_int3[], at_prefixed[], at_soft[], at_de[], at_ud[], at_gp[], at_ss[], at_sel[], at_zero[], at_read[];
extern char at_write[], at_modify[], at_absent[], at_gate[];

static struct pt_regs seen;
static unsigned long seen_vector, traps, seen_cr2, handler_flags;
static unsigned long resume; /* where the handler continues, or 0 for the saved address */
static unsigned failures;

static void record(struct pt_regs *regs, unsigned long vector)
{
	__asm__ volatile("pushfq; popq %0" : "=r"(handler_flags));
	__asm__ volatile("mov %%cr2, %0" : "=r"(seen_cr2));
	seen = *regs;
	seen_vector = vector;
	traps++;
	if (resume)
		regs->ip = resume;
}

static void check(const char *name, const char *what, unsigned long is, unsigned long expected)
{
	if (is == expected)
		return;
	failures++;
	puts("FAIL ");
	puts(name);
	putc(' ');
	puts(what);
	puts(": ");
	puthex(is, 16);
	putc(' ');
	puthex(expected, 16);
	putc('\n');
}

/* One trap was taken, of this vector, at this address, with this error code and RF. */
static void expect(const char *name, unsigned long vector, const void *ip, unsigned long error, unsigned long rf)
{
	check(name, "traps", traps, 1);
	check(name, "vector", seen_vector, vector);
	check(name, "rip", seen.ip, (unsigned long)ip);
	check(name, "error", seen.orig_ax, error);
	check(name, "RF", seen.flags & RF, rf);
	check(name, "cs", seen.cs, 0x08);
	check(name, "ss", seen.ss, 0x10);
	check(name, "IF,TF in the handler", handler_flags & (IF | TF), 0);
	traps = resume = 0;
}

static void test_breakpoints(void)
{
	unsigned long before, after, flags;

	__asm__ volatile("mov %%rsp, %0; stc; int3; at_int3: mov %%rsp, %1; pushfq; popq %2"
			 : "=r"(before), "=r"(after), "=r"(flags) : : "memory", "cc");
	expect("int3", 3, at_int3, -1ul, 0);
	check("int3", "rsp", seen.sp, before);
	check("int3", "rsp after", after, before);
	check("int3", "CF", flags & 1, 1);
	check("int3", "flags", seen.flags & 0xfff, flags & 0xfff);
	__asm__ volatile(".byte 0x66, 0xcc\nat_prefixed:" : : : "memory");
	expect("66 int3", 3, at_prefixed, -1ul, 0);
	__asm__ volatile("int $33\nat_soft:" : : : "memory");
	expect("int n", 33, at_soft, -1ul, 0);
	__asm__ volatile("push %%rax; int $3; pop %%rax" : : : "memory");
	check("int $3", "stack is not aligned", seen.sp & 15, (before & 15) ^ 8);
	traps = 0;
}

static void test_registers(void)
{
	unsigned long sum;

	__asm__ volatile("mov $1, %%eax; mov $2, %%ebx; mov $3, %%ecx; mov $4, %%edx; mov $5, %%esi; mov $6, %%edi\n\t"
			 "mov $8, %%r8d; mov $9, %%r9d; mov $10, %%r10d; mov $11, %%r11d; mov $12, %%r12d; mov $13, %%r13d\n\t"
			 "mov $14, %%r14d; mov $15, %%r15d; std; int3; cld\n\t"
			 "add %%rbx, %%rax; add %%rcx, %%rax; add %%rdx, %%rax; add %%rsi, %%rax; add %%rdi, %%rax\n\t"
			 "add %%r8, %%rax; add %%r9, %%rax; add %%r10, %%rax; add %%r11, %%rax; add %%r12, %%rax\n\t"
			 "add %%r13, %%rax; add %%r14, %%rax; add %%r15, %%rax"
			 : "=a"(sum) : : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
			   "r15", "memory", "cc");
	check("registers", "sum", sum, 113);
	check("registers", "rax", seen.ax, 1);
	check("registers", "rbx", seen.bx, 2);
	check("registers", "rdi", seen.di, 6);
	check("registers", "r8", seen.r8, 8);
	check("registers", "r15", seen.r15, 15);
	check("registers", "DF", seen.flags & 0x400, 0x400);
	traps = 0;
}

/* After `setup`, run `code`, which faults at its label; the handler continues behind it. */
#define FAULT(name, at, setup, code, vector, error) do {                                         \
	__asm__ volatile("lea 2f(%%rip), %%rax; mov %%rax, %0\n" setup "\n" #at ": " code "\n2:" \
			 : "=m"(resume) : : "rax", "rcx", "rdx", "memory", "cc");               \
	expect(name, vector, at, error, RF);                                                     \
} while (0)

static void test_faults(void)
{
	FAULT("#DE", at_de, "xor %%ecx, %%ecx; xor %%edx, %%edx", "div %%ecx", 0, -1ul);
	FAULT("#UD", at_ud, "", "ud2", 6, -1ul);
	FAULT("#GP", at_gp, "mov $1, %%eax; shl $62, %%rax", "mov (%%rax), %%ecx", 13, 0);
	FAULT("#SS", at_ss, "push %%rbp; mov $1, %%ebp; shl $62, %%rbp", "mov (%%rbp), %%ecx\n2: pop %%rbp; jmp 3f\n3:", 12, 0);
	FAULT("#GP(selector)", at_sel, "mov $0x40, %%eax", "mov %%eax, %%es", 13, 0x40);
	FAULT("#GP(gate of zeros)", at_zero, "", "int $200", 13, 200 * 8 + 2);
	FAULT("#PF read", at_read, "mov $0x123456789, %%rax", "mov 7(%%rax), %%cl", 14, 0);
	check("#PF read", "cr2", seen_cr2, 0x123456790);
	FAULT("#PF write", at_write, "mov $0x123456000, %%rax", "movl $1, (%%rax)", 14, 2);
	check("#PF write", "cr2", seen_cr2, 0x123456000);
	FAULT("#PF modify", at_modify, "mov $0x123456000, %%rax", "addl $1, (%%rax)", 14, 2);
}

static void test_gates(void)
{
	unsigned long flags;

	set_gate(40, at_gate, GATE_TRAP, 0, 0, 1);
	__asm__ volatile("sti; int $40; jmp 1f\n"
			 "at_gate: pushfq; popq %%rax; iretq\n"
			 "1: cli" : "=a"(flags) : : "memory", "cc");
	check("trap gate", "IF", flags & IF, IF);
	set_gate(40, at_gate, GATE_INTERRUPT, 0, 0, 1);
	__asm__ volatile("sti; int $40; cli" : "=a"(flags) : : "memory", "cc");
	check("interrupt gate", "IF", flags & IF, 0);
	set_gate(40, at_gate, GATE_INTERRUPT, 0, 0, 0);
	FAULT("#NP", at_absent, "", "int $40", 11, 40 * 8 + 2);
}

int main(void)
{
	for (unsigned vector = 0; vector < 32; vector++)
		if (vector != 2 && vector != 8)
			set_trap_handler(vector, record);
	set_trap_handler(33, record);
	test_breakpoints();
	test_registers();
	test_faults();
	test_gates();
	if (!failures)
		puts("ok\n");
	return failures != 0;
}
