/* HARTS harts call the same function, N times each and not in step with each other; hart 0 prints what all of them computed. */
#include "smp.h"

#ifndef N
#define N 10
#endif
#ifndef HARTS
#define HARTS 2
#endif

static uint32_t sums[MAX_HARTS];

noinline uint32_t work(uint32_t x, uint32_t y) { return (x << 5 | x >> 27) ^ y; }

static void body(unsigned hart)
{
	uint32_t sum = hart + 1, seed = 2004 + hart;

	sti();
	for (unsigned i = 0; i < N; i++) {
		sum = work(sum, i);
		for (unsigned wait = next_random(&seed) % 16; wait; wait--)
			__asm__ volatile("pause");
	}
	sums[hart] = sum;
}

int main(void)
{
	uint32_t sum = 0;

	start_harts(HARTS, body);
	body(0);
	join_harts();
	for (unsigned hart = 0; hart < HARTS; hart++)
		sum = fold(sum, sums[hart]);
	report("harts", sum);
	return 0;
}
