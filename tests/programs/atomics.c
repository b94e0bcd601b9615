/* Locked operations of every kind that gcc emits, on one hart: the results must be those of the plain operations. */
#include "guest.h"

#ifndef N
#define N 30
#endif

#define ORDER __ATOMIC_SEQ_CST

static volatile unsigned rounds = N;
static uint64_t quad;
static uint32_t word;
static uint16_t half;
static uint8_t byte;

static noinline uint32_t step(uint32_t x)
{
	uint64_t expected = quad;
	uint32_t sum;

	__atomic_add_fetch(&word, x, ORDER);
	__atomic_sub_fetch(&half, (uint16_t)x, ORDER);
	__atomic_or_fetch(&byte, (uint8_t)(x & 0x55), ORDER);
	__atomic_and_fetch(&word, ~(x >> 7), ORDER);
	__atomic_xor_fetch(&quad, (uint64_t)x << 17, ORDER);
	sum = __atomic_fetch_add(&word, x ^ 5, ORDER);
	sum = fold(sum, __atomic_fetch_sub(&half, 9, ORDER));
	sum = fold(sum, __atomic_fetch_xor(&byte, (uint8_t)x, ORDER));
	sum = fold(sum, __atomic_exchange_n(&word, sum, ORDER));
	if (__atomic_compare_exchange_n(&quad, &expected, x, 0, ORDER, ORDER))
		sum = fold(sum, 1);
	if (__atomic_compare_exchange_n(&quad, &expected, expected * 3 + x, 0, ORDER, ORDER))
		sum = fold(sum, 2);
	__atomic_thread_fence(ORDER);
	__atomic_store_n(&half, (uint16_t)sum, ORDER);
	return fold(sum, (uint32_t)(quad >> 20) ^ __atomic_load_n(&byte, ORDER));
}

int main(void)
{
	uint32_t seed = 5, sum = 0;

	for (unsigned r = 0; r < rounds; r++)
		sum = fold(sum, step(next_random(&seed)));
	report("atomics", fold(fold(sum, word), half));
	return 0;
}
