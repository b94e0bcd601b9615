/* 64- and 128-bit arithmetic: carries, full products, division by variables, variable shifts, modular powers. */
#include "guest.h"

#ifndef N
#define N 10
#endif

typedef unsigned __int128 u128;
typedef __int128 s128;

static volatile unsigned rounds = N;

/* One 128-by-64 division; the quotient must fit, so high < divisor. */
static uint64_t divide(uint64_t high, uint64_t low, uint64_t divisor, uint64_t *rest)
{
	uint64_t quotient;

	__asm__("divq %4" : "=a"(quotient), "=d"(*rest) : "a"(low), "d"(high), "r"(divisor) : "cc");
	return quotient;
}

static noinline uint64_t multiply_modulo(uint64_t a, uint64_t b, uint64_t m)
{
	u128 product = (u128)a * b;
	uint64_t rest;

	divide((uint64_t)(product >> 64) % m, (uint64_t)product, m, &rest);
	return rest;
}

static noinline uint64_t power_modulo(uint64_t base, uint32_t exponent, uint64_t m)
{
	uint64_t result = 1;

	for (; exponent; exponent >>= 1) {
		if (exponent & 1)
			result = multiply_modulo(result, base, m);
		base = multiply_modulo(base, base, m);
	}
	return result;
}

static noinline u128 shift_add(u128 x, u128 y, unsigned n)
{
	s128 s = (s128)(x - y);

	return (x << (n & 127)) + (y >> (n & 63)) + (u128)(s >> (n & 31)) - (u128)(s < 0);
}

static noinline int64_t signed_parts(int64_t a, int32_t b)
{
	if (!b)
		b = 3;
	return a / b + a % b + (int32_t)a / (b | 1) + (int64_t)(((s128)a * b) >> 60);
}

static noinline uint32_t greatest_divisor(uint32_t a, uint32_t b)
{
	while (b) {
		uint32_t t = a % b;
		a = b;
		b = t;
	}
	return a;
}

int main(void)
{
	uint32_t seed = 2024, sum = 0;
	u128 x = 1;

	for (unsigned r = 0; r < rounds; r++) {
		uint64_t a = (uint64_t)next_random(&seed) << 32 | next_random(&seed);
		uint32_t b = next_random(&seed);
		uint64_t p = power_modulo(a, b & 0xff, (a >> 3) | 1);

		x = shift_add(x * a + b, (u128)a << 60, b);
		sum = fold(sum, (uint32_t)p ^ (uint32_t)(p >> 32));
		sum = fold(sum, (uint32_t)(x >> 96) ^ (uint32_t)(x >> 40));
		sum = fold(sum, (uint32_t)signed_parts((int64_t)a, (int32_t)b >> 8));
		sum = fold(sum, greatest_divisor((uint32_t)a, b));
	}
	report("wide", sum);
	return 0;
}
