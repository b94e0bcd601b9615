/* Two harts count together, and lose counts: each loads the counter, adds one and stores it, and the other one may do the
 * same in between. With -DLOCKED a spinlock holds it off. */
#include "smp.h"

#ifndef N
#define N 20
#endif

static volatile uint64_t counter;
static spinlock_t lock;

noinline uint64_t counter_load(void) { return counter; }
noinline void counter_store(uint64_t value) { counter = value; }

static void count(unsigned hart)
{
	uint32_t seed = 2004 + hart;

	for (unsigned i = 0; i < N; i++) {
#ifdef LOCKED
		spin_lock(&lock);
#endif
		counter_store(counter_load() + 1);
#ifdef LOCKED
		spin_unlock(&lock);
#endif
		for (unsigned wait = next_random(&seed) % 64; wait; wait--)
			__asm__ volatile("pause");
	}
}

int main(void)
{
	(void)lock;
	start_harts(2, count);
	count(0);
	join_harts();
	puts("counted ");
	putdec(counter);
	puts(" of ");
	putdec(2 * N);
	putc('\n');
	return 0;
}
