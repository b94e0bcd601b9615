/* What a guest program may use. Compiled with -DHOST the same source is an ordinary program of the build machine, so
 * that a test can compare the two outputs; everything that needs the simulated machine is left out then. */
#ifndef GUEST_H
#define GUEST_H

#include <stddef.h>
#include <stdint.h>

#define noinline __attribute__((noinline, noclone))

#ifdef HOST

int putchar(int c);
static inline void putc(char c) { putchar(c); }

#else

/* Registers at a trap, lowest address first: the kernel's order. */
struct pt_regs {
	uint64_t r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	uint64_t orig_ax; /* the error code, or -1 */
	uint64_t ip, cs, flags, sp, ss;
};

typedef void (*trap_handler_t)(struct pt_regs *regs, unsigned long vector);

enum { GATE_INTERRUPT = 0xe, GATE_TRAP = 0xf };

/* Point a vector at code of your own, which must end with iretq; present = 0 takes the gate away. */
void set_gate(unsigned vector, const void *entry, unsigned type, unsigned dpl, unsigned ist, unsigned present);

/* Call a C function for a vector below 48 instead of asking the TrapPort; NULL gives the vector back to it. The
 * gate's type, privilege and stack stay as they are. */
void set_trap_handler(unsigned vector, trap_handler_t handler);

/* Called when the runtime did not handle a trap. The default says so on the console and ends the run; a guest may
 * define its own. When it returns, so does the trap. */
void trap_unhandled(struct pt_regs *regs, unsigned long vector);

/* Called for external interrupts, vectors 32 to 47. The default counts them in irq_count. */
void irq_handler(struct pt_regs *regs, unsigned long vector);
extern volatile unsigned long irq_count;

/* The last call of a jprobe handler. */
void jprobe_return(void);
extern char jprobe_return_end[];

/* For inline assembly: a fault of the instruction at label `insn` continues at `fixup`, as the kernel's exception table
 * has it. The default trap handling looks there before it calls trap_unhandled(). */
#define EX_TABLE(insn, fixup) \
	".pushsection __ex_table, \"a\"\n.balign 4\n.long (" #insn ") - .\n.long (" #fixup ") - .\n.popsection\n"

enum { EXIT_UNHANDLED = 0x7f };

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void cli(void) { __asm__ volatile("cli" : : : "memory"); }
static inline void sti(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void hlt(void) { __asm__ volatile("hlt" : : : "memory"); }
static inline void int3(void) { __asm__ volatile("int3" : : : "memory"); }

static inline void putc(char c) { outb(0xe9, (uint8_t)c); }

/* End the run; the simulator's exit status is (value << 1) | 1, as with QEMU. */
static inline __attribute__((noreturn)) void exit(uint8_t value)
{
	outb(0xf4, value);
	for (;;)
		hlt();
}

void *memcpy(void *to, const void *from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif /* HOST */

/* The console. puts() adds no newline; puthex() keeps leading zeros. */
void puts(const char *s);
void puthex(uint64_t value, unsigned digits);
void putdec(uint64_t value);

/* The line by which a workload is compared with its native run: "name: 0123abcd". */
void report(const char *name, uint32_t checksum);

/* One step of xorshift32: the same input data everywhere. The state must not be 0. */
static inline uint32_t next_random(uint32_t *state)
{
	uint32_t x = *state;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return *state = x;
}

/* Fold a value into a checksum so that order matters. */
static inline uint32_t fold(uint32_t sum, uint32_t value) { return ((sum << 5 | sum >> 27) ^ value) * 0x9e3779b1u; }

#endif /* GUEST_H */
