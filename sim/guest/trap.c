/* Gates and handlers that a guest may change, and what happens when it did not. All of it is entry text: code that runs
 * during a trap cannot itself be probed. */
#include "guest.h"

#define ENTRY_TEXT __attribute__((section(".entry.text")))

struct gate {
	uint16_t offset_15_0, selector;
	uint8_t ist, attributes;
	uint16_t offset_31_16;
	uint32_t offset_63_32, reserved;
};

extern struct gate guest_idt[256];
extern char trap_c_stubs[], __entry_text_start[];

volatile unsigned long irq_count;

trap_handler_t trap_handlers[48] = {
	[0 ... 31] = trap_unhandled,
	[32 ... 47] = irq_handler,
};

/* The gates as they were assembled, once set_trap_handler() has replaced them. */
static struct gate port_gates[32];

static ENTRY_TEXT void set_offset(struct gate *gate, uint64_t address)
{
	gate->offset_15_0 = (uint16_t)address;
	gate->offset_31_16 = (uint16_t)(address >> 16);
	gate->offset_63_32 = (uint32_t)(address >> 32);
}

ENTRY_TEXT void set_gate(unsigned vector, const void *entry, unsigned type, unsigned dpl, unsigned ist, unsigned present)
{
	struct gate *gate = &guest_idt[vector & 255];

	set_offset(gate, (uint64_t)entry);
	gate->selector = 0x08;
	gate->ist = (uint8_t)ist;
	gate->attributes = (uint8_t)(present << 7 | dpl << 5 | type);
	gate->reserved = 0;
}

ENTRY_TEXT void set_trap_handler(unsigned vector, trap_handler_t handler)
{
	struct gate *gate = &guest_idt[vector];

	if (vector >= 48)
		return;
	if (vector < 32 && !port_gates[vector].selector)
		port_gates[vector] = *gate;
	if (handler) {
		trap_handlers[vector] = handler;
		set_offset(gate, (uint64_t)(trap_c_stubs + 16 * vector));
	} else if (vector < 32) {
		*gate = port_gates[vector];
	} else {
		trap_handlers[vector] = irq_handler;
	}
}

ENTRY_TEXT __attribute__((weak)) void irq_handler(struct pt_regs *regs, unsigned long vector)
{
	(void)regs, (void)vector;
	irq_count++;
}

struct fixup {
	int32_t insn, fixup; /* each relative to its own place */
};

extern const struct fixup __start___ex_table[], __stop___ex_table[];

/* Vectors whose saved ip is that of the instruction that failed. */
#define FAULTS (~(1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 8 | 1u << 18))

/* What the runtime did not handle: the exception table, then trap_unhandled(). */
ENTRY_TEXT void trap_default(struct pt_regs *regs, unsigned long vector)
{
	const struct fixup *entry = __start___ex_table;

	if (FAULTS >> vector & 1 && !(regs->cs & 3))
		for (; entry < __stop___ex_table; entry++)
			if ((uint64_t)&entry->insn + entry->insn == regs->ip) {
				regs->ip = (uint64_t)&entry->fixup + entry->fixup;
				return;
			}
	trap_unhandled(regs, vector);
}

ENTRY_TEXT __attribute__((weak)) void trap_unhandled(struct pt_regs *regs, unsigned long vector)
{
	puts("unhandled trap ");
	putdec(vector);
	puts(" at ");
	puthex(regs->ip, 16);
	puts(" error ");
	puthex(regs->orig_ax, 16);
	putc('\n');
	exit(EXIT_UNHANDLED);
}
