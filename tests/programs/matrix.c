/* Products of square integer matrices, 32-bit and 16-bit elements into 64-bit sums: multiplier and address arithmetic. */
#include "guest.h"

#ifndef N
#define N 10
#endif

static int32_t a[N][N], c[N][N];
static int16_t b[N][N];
static volatile unsigned rounds = 1;

static noinline void fill(uint32_t seed)
{
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = (int32_t)next_random(&seed) >> 12;
			b[i][j] = (int16_t)next_random(&seed);
		}
}

static noinline void multiply(void)
{
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			int64_t sum = 0;
			for (int k = 0; k < N; k++)
				sum += (int64_t)a[i][k] * b[k][j];
			c[i][j] = (int32_t)(sum ^ sum >> 32);
		}
}

static noinline void transpose(void)
{
	for (int i = 0; i < N; i++)
		for (int j = 0; j < i; j++) {
			int32_t t = c[i][j];
			c[i][j] = c[j][i];
			c[j][i] = t;
		}
}

int main(void)
{
	uint32_t sum = 0;

	for (unsigned r = 0; r < rounds; r++) {
		fill(r + 1);
		multiply();
		transpose();
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++)
				sum = fold(sum, (uint32_t)c[i][j]);
	}
	report("matrix", sum);
	return 0;
}
