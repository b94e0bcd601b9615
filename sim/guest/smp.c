/* How harts start: INIT and start-up IPIs (hw/startup.py). A hart begins in 64-bit mode at a page below 1 MiB with all
 * registers 0; a trampoline there jumps to hart_start, which finds its tables by the number of the hart. */
#include "smp.h"

#define TRAMPOLINE 0x8000ul
enum { INIT = 0x4500, START = 0x4600, SYNC_VECTOR = 0xfb };

struct __attribute__((packed)) pointer {
	uint16_t limit;
	uint64_t base;
};

struct tables {
	uint64_t gdt[5];
	uint8_t tss[104];
	struct pointer gdt_pointer, idt_pointer;
};

extern char sync_core_entry[], guest_idt[], hart_start[], hart1_stack_top[], hart2_stack_top[], hart3_stack_top[];
extern char hart1_nmi_stack_top[], hart2_nmi_stack_top[], hart3_nmi_stack_top[];

static char *const tops[MAX_HARTS] = { 0, hart1_stack_top, hart2_stack_top, hart3_stack_top };
static char *const nmi_tops[MAX_HARTS] = { 0, hart1_nmi_stack_top, hart2_nmi_stack_top, hart3_nmi_stack_top };
static struct tables tables[MAX_HARTS];

/* What hart_start reads. */
struct start { char *stack; struct pointer *gdt, *idt; } hart_starts[MAX_HARTS];
void hart_main(unsigned hart);

static void (*volatile hart_entry)(unsigned hart);
static volatile unsigned started, finished, wanted;

void hart_main(unsigned hart)
{
	sti();
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	hart_entry(hart);
	__atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
}

static void prepare(unsigned hart)
{
	struct tables *t = &tables[hart];
	uint64_t tss = (uint64_t)t->tss;

	t->gdt[1] = 0x00af9b000000ffff; /* 64-bit code */
	t->gdt[2] = 0x00cf93000000ffff; /* data */
	t->gdt[3] = 0x67 | (tss & 0xffffff) << 16 | 0x89ul << 40 | (tss >> 24 & 0xff) << 56;
	t->gdt[4] = tss >> 32;
	memcpy(t->tss + 0x24, &nmi_tops[hart], 8); /* IST1: #DF */
	memcpy(t->tss + 0x2c, &nmi_tops[hart], 8); /* IST2: NMI */
	t->tss[0x66] = 0x68;
	t->gdt_pointer = (struct pointer){ sizeof t->gdt - 1, (uint64_t)t->gdt };
	t->idt_pointer = (struct pointer){ 256 * 16 - 1, (uint64_t)guest_idt };
	hart_starts[hart] = (struct start){ tops[hart], &t->gdt_pointer, &t->idt_pointer };
}

static void send(unsigned hart, uint32_t command)
{
	apic_write(APIC_ICR_HIGH, hart << 24);
	apic_write(APIC_ICR_LOW, command);
}

void send_ipi(unsigned hart, unsigned vector) { send(hart, vector); }

void start_harts(unsigned count, void (*entry)(unsigned hart))
{
	volatile uint8_t *code = (volatile uint8_t *)TRAMPOLINE;
	uint64_t target = (uint64_t)hart_start;

	code[0] = 0x48, code[1] = 0xb8; /* movabs $target, %rax */
	for (unsigned i = 0; i < 8; i++)
		code[2 + i] = (uint8_t)(target >> 8 * i);
	code[10] = 0xff, code[11] = 0xe0; /* jmp *%rax */
	hart_entry = entry;
	wanted = count - 1;
	apic_write(APIC_SPURIOUS, 0x1ff);
	/* From here on harts are asked to serialise: hart 0, and another one when it has loaded the IDT. */
	set_gate(SYNC_VECTOR, sync_core_entry, GATE_INTERRUPT, 0, 0, 1);
	sti();
	for (unsigned hart = 1; hart < count; hart++) {
		prepare(hart);
		send(hart, INIT);
		for (unsigned i = 0; i < 50; i++)
			__asm__ volatile("pause");
		send(hart, START | TRAMPOLINE >> 12);
	}
	while (started < wanted)
		__asm__ volatile("pause");
}

void join_harts(void)
{
	while (finished < wanted)
		__asm__ volatile("pause");
}
