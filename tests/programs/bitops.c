/* Bits: population counts, rotations, byte swaps, leading and trailing zeros, bit tests, parity, Gray codes, Morton. */
#include "guest.h"

#ifndef N
#define N 24
#endif

static volatile unsigned rounds = N;
static uint64_t map[4];

static noinline unsigned count_bits(uint64_t x)
{
	unsigned n = 0;

	for (; x; x &= x - 1)
		n++;
	return n;
}

static noinline uint32_t rotate(uint32_t x, unsigned n)
{
	uint16_t h = (uint16_t)x;
	uint8_t b = (uint8_t)(x >> 8);

	x = x << (n & 31) | x >> (-n & 31);
	h = (uint16_t)(h << 3 | h >> 13);
	b = (uint8_t)(b >> (n & 7) | b << (-n & 7));
	return x ^ h ^ (uint32_t)b << 24;
}

static noinline uint64_t swap(uint64_t x)
{
	return __builtin_bswap64(x) ^ __builtin_bswap32((uint32_t)x) ^ (uint64_t)__builtin_bswap16((uint16_t)x) << 40;
}

static noinline unsigned zeros(uint64_t x)
{
	unsigned n = (unsigned)(__builtin_ctzll(x | 1ull << 63) + __builtin_clzll(x | 1));

	return n * 64 + (unsigned)(__builtin_ctz((uint32_t)x | 1u << 31) ^ __builtin_clz((uint32_t)x | 1)) + (unsigned)__builtin_ffs((int)x);
}

static noinline int test_and_change(unsigned n)
{
	int was = map[n / 64 & 3] >> (n & 63) & 1;

	if (was)
		map[n / 64 & 3] &= ~(1ull << (n & 63));
	else
		map[n / 64 & 3] |= 1ull << (n & 63);
	map[(n + 1) & 3] ^= 1ull << (n >> 2 & 63);
	return was;
}

static noinline uint32_t spread(uint16_t x, uint16_t y)
{
	uint32_t out = 0;

	for (unsigned i = 0; i < 16; i++)
		out |= (x >> i & 1u) << (2 * i) | (y >> i & 1u) << (2 * i + 1);
	return out;
}

int main(void)
{
	uint32_t seed = 0xbeef, sum = 0;

	for (unsigned r = 0; r < rounds; r++) {
		uint64_t x = (uint64_t)next_random(&seed) << (r & 31) ^ next_random(&seed);
		uint64_t s = swap(x);

		sum = fold(sum, count_bits(x) + (uint32_t)__builtin_parity((uint32_t)x));
		sum = fold(sum, rotate((uint32_t)x, r + 1));
		sum = fold(sum, (uint32_t)s ^ (uint32_t)(s >> 32));
		sum = fold(sum, zeros(x) + (uint32_t)test_and_change((unsigned)x & 255));
		sum = fold(sum, spread((uint16_t)x, (uint16_t)(x >> 16)) ^ (uint32_t)(x ^ x >> 1));
	}
	for (int i = 0; i < 4; i++)
		sum = fold(sum, (uint32_t)(map[i] ^ map[i] >> 32));
	report("bitops", sum);
	return 0;
}
