/* Calls and returns: Fibonacci, Ackermann, queens on a board, the towers of Hanoi. */
#include "guest.h"

#ifndef N
#define N 5
#endif

static volatile unsigned size = N;

static noinline unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

static noinline unsigned ackermann(unsigned m, unsigned n)
{
	if (!m)
		return n + 1;
	return ackermann(m - 1, n ? ackermann(m, n - 1) : 1);
}

static noinline unsigned queens(unsigned all, unsigned columns, unsigned left, unsigned right)
{
	unsigned free = all & ~(columns | left | right), count = 0;

	if (columns == all)
		return 1;
	while (free) {
		unsigned bit = free & -free;
		free ^= bit;
		count += queens(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return count;
}

static noinline void hanoi(unsigned n, uint8_t from, uint8_t to, uint8_t via, uint32_t *sum)
{
	if (!n)
		return;
	hanoi(n - 1, from, via, to, sum);
	*sum = fold(*sum, from * 4u + to + n);
	hanoi(n - 1, via, to, from, sum);
}

int main(void)
{
	unsigned n = size;
	uint32_t sum = fibonacci(n + 2);

	sum = fold(sum, ackermann(2, n / 2));
	sum = fold(sum, queens((1u << n) - 1, 0, 0, 0));
	hanoi(n, 0, 1, 2, &sum);
	report("recursion", sum);
	return 0;
}
