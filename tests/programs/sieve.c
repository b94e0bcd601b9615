/* Primes below N with one byte a number, then Goldbach pairs from the same table: byte stores and long loops. */
#include "guest.h"

#ifndef N
#define N 200
#endif

static uint8_t composite[N];
static volatile unsigned limit = N;

static noinline unsigned sieve(unsigned n)
{
	unsigned count = 0;

	for (unsigned i = 2; i < n; i++) {
		if (composite[i])
			continue;
		count++;
		for (unsigned j = i * i; j < n; j += i)
			composite[j] = 1;
	}
	return count;
}

static noinline unsigned pairs(unsigned even)
{
	unsigned n = 0;

	for (unsigned i = 2; i <= even / 2; i++)
		n += !composite[i] && !composite[even - i];
	return n;
}

int main(void)
{
	unsigned n = limit;
	uint32_t sum = sieve(n);

	for (unsigned i = 2; i < n; i++)
		if (!composite[i])
			sum = fold(sum, i);
	sum = fold(sum, pairs((n - 2) & ~1u));
	report("sieve", sum);
	return 0;
}
