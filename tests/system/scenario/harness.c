/* Runs rows of scenarios one after the other and writes a line for each: the traps as the guest itself sees them.
 *
 *     060-step-int3: #BP@n TF; #DB[BS]@m TF
 *
 * is a #BP whose frame has the address of the label n as its rip, and TF set; then a #DB with DR6.BS. A trap's error code
 * stands in parentheses. What is not as usual follows: flags set in the saved image (TF IF DF NT RF AC IOPL VM), cs and ss,
 * sp relative to where the row's stack began, `on` the stack on which the frame lies when it is not the interrupted one,
 * cr2 of a page fault, and after a slash TF, IF, NT and RF as the handler has them. Last, the registers that the row shows. */
#include "harness.h"

#define MOST 12			/* traps in a row */
#define DR6_CLEAR 0xffff0ff0ul
#define FAULTS 0x2b7de1ul	/* vectors whose handlers do not return, unless the row mends the cause */

extern const struct row rows[];
extern struct pt_regs row_end;
extern uint64_t idt[512], gdt[16], tss[16], gdt_original[15], tss_original[14], data[32];
extern char harness_stubs[], stack_top[], rsp0_top[], ist_top[];
void enter_row(const void *code);
void leave_row(void) __attribute__((noreturn));
void load_tables(void);

static const struct row *row;
static unsigned traps;
static const char *const names[32] = {
	"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", 0, "#TS", "#NP", "#SS", "#GP", "#PF", 0,
	"#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
};

static void hex(uint64_t value)
{
	unsigned digits = 1;

	while (digits < 16 && value >> 4 * digits)
		digits++;
	puthex(value, digits);
}

static void address(uint64_t value)
{
	for (const struct label *l = row->labels; l->at; l++)
		if ((uint64_t)l->at == value)
			return puts(l->name);
	hex(value);
}

static void field(const char *name, uint64_t value)
{
	puts(name);
	hex(value);
}

static void flags(uint64_t value, uint64_t shown)
{
	static const struct { uint64_t bit; const char *name; } known[] = {
		{ TF, " TF" }, { IF, " IF" }, { DF, " DF" }, { IOPL, " IOPL" }, { NT, " NT" }, { RF, " RF" }, { AC, " AC" },
		{ VM, " VM" },
	};

	for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
		if (value & shown & known[i].bit)
			puts(known[i].name);
}

static uint64_t take_dr6(void)
{
	uint64_t dr6;

	__asm__ volatile("mov %%db6, %0" : "=r"(dr6));
	if (!row->keep_dr6)
		__asm__ volatile("mov %0, %%db6" : : "r"(DR6_CLEAR));
	return dr6;
}

static void put_dr6(uint64_t dr6)
{
	static const char *const bits[] = { "B0", "B1", "B2", "B3", "BD", "BS", "BT" };
	unsigned n = 0;

	putc('[');
	if ((dr6 & ~0xe00ful) != DR6_CLEAR) {
		hex(dr6);
	} else {
		for (unsigned i = 0; i < 7; i++)
			if (dr6 >> (i < 4 ? i : i + 9) & 1) {
				if (n++)
					putc(' ');
				puts(bits[i]);
			}
	}
	putc(']');
}

/* An address of a stack, by the stack's name and the distance from its top. */
static void put_place(uint64_t at)
{
	uint64_t below = (uint64_t)ist_top + 7 * 4096 - 4096 - at;

	if (below < 7 * 4096) {
		puts("IST");
		putdec(7 - below / 4096);
		below %= 4096;
	} else {
		below = (uint64_t)rsp0_top - at;
		if (below >= 2048)
			return address(at);
		puts("RSP0");
	}
	if (below) {
		putc('-');
		putdec(below);
	}
}

static void put_sp(uint64_t sp)
{
	uint64_t below = (uint64_t)stack_top - sp;

	if (below >= 4096) {
		puts(" sp=");
		put_place(sp);
	} else if (below) {
		puts(" sp-");
		putdec(below);
	}
}

static void put_stack(uint64_t bottom, uint64_t interrupted)
{
	if (bottom == (interrupted & -16ul))
		return;
	puts(" on ");
	put_place(bottom);
}

/* Segments of the handler that are not what the delivery should leave: SS is null after a change of CPL. */
static void put_segments(const struct pt_regs *regs)
{
	uint64_t cs, ss;

	__asm__ volatile("mov %%cs, %0; mov %%ss, %1" : "=r"(cs), "=r"(ss));
	if (cs != CODE)
		field(" now cs=", cs);
	if (ss != (regs->cs & 3 && !(cs & 3) ? 0 : regs->ss))
		field(" now ss=", ss);
}

static void put_trap(const struct pt_regs *regs, unsigned long vector, uint64_t now)
{
	uint64_t cr2;

	puts(traps++ ? "; " : " ");
	if (vector < 32 && names[vector]) {
		puts(names[vector]);
	} else {
		putc('v');
		putdec(vector);
	}
	if (regs->orig_ax != ~0ul) {
		field("(", regs->orig_ax);
		putc(')');
	}
	if (vector == 1)
		put_dr6(take_dr6());
	putc('@');
	address(regs->ip);
	flags(regs->flags, -1ul);
	if (regs->cs != CODE)
		field(" cs=", regs->cs);
	if (regs->ss != DATA)
		field(" ss=", regs->ss);
	put_sp(regs->sp);
	put_segments(regs);
	put_stack((uint64_t)(regs + 1), regs->sp);
	if (vector == 14 && regs->orig_ax != ~0ul) {
		__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
		puts(" cr2=");
		address(cr2);
	}
	if (now & (TF | IF | NT | RF)) {
		puts(" /");
		flags(now, TF | IF | NT | RF);
	}
}

static void finish(const struct pt_regs *regs)
{
	for (const struct shown *s = row->shown; s->name; s++) {
		putc(' ');
		puts(s->name);
		putc('=');
		address(*(const uint64_t *)((const char *)regs + s->offset));
	}
	putc('\n');
}

static void end(const struct pt_regs *regs)
{
	row_end = *regs;
	leave_row();
}

/* From the stubs. `now`: rflags as the handler got them. */
void harness_trap(struct pt_regs *regs, unsigned long vector, uint64_t now)
{
	if (vector == 0x7e)
		end(regs);
	put_trap(regs, vector, now);
	if (traps == MOST) {
		puts("; and more");
		end(regs);
	}
	for (const struct label *l = row->labels; l->at; l++)
		if ((uint64_t)l->at == regs->ip && l->name[0] == 'd' && !memcmp(l->name, "done", 5))
			regs->flags &= ~(uint64_t)TF;
	for (const struct fix *f = row->fixes; f->code; f++)
		if (f->vector == vector)
			return f->code(regs);
	if (vector < 32 && FAULTS >> vector & 1)
		end(regs);
}

static void gate(unsigned vector)
{
	uint64_t at = (uint64_t)(harness_stubs + 16 * vector);
	uint64_t attributes = vector == 0x7e || vector == 3 ? 0xee : 0x8e;

	idt[2 * vector] = (at & 0xffff) | CODE << 16 | attributes << 40 | (at >> 16 & 0xffff) << 48;
	idt[2 * vector + 1] = at >> 32;
}

static void prepare(void)
{
	uint64_t base = (uint64_t)tss;

	__asm__ volatile("mov %0, %%db7; mov %1, %%db6" : : "r"(0x400ul), "r"(DR6_CLEAR));
	memcpy(gdt, gdt_original, sizeof gdt_original);
	gdt[TASK / 8] = 0x67 | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
	gdt[TASK / 8 + 1] = base >> 32;
	memcpy(tss, tss_original, 0x68);
	memset(data, 0, sizeof data);
	for (unsigned vector = 0; vector < 256; vector = vector == 64 ? 0x7e : vector == 0x7e ? 255 : vector + 1)
		gate(vector);
	load_tables();
	__asm__ volatile("mov %0, %%cr0; mov %1, %%cr4" : : "r"(0x80050033ul), "r"(0x20ul));
	__asm__ volatile("wrmsr" : : "c"(0xc0000080), "a"(0x500), "d"(0));
	traps = 0;
}

void run_rows(void)
{
	for (row = rows; row->name; row++) {
		prepare();
		puts(row->name);
		putc(':');
		enter_row(row->code);
		finish(&row_end);
	}
}
