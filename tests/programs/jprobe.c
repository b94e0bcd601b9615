/* A function to be probed, and a jprobe handler inside the guest that mirrors its arguments, spoils everything that it
 * may spoil (its arguments on the stack too), and leaves through jprobe_return(). Without a probe the handler is never
 * called; with one the sums must be the same and `handled` counts the calls. */
#include "guest.h"

#ifndef N
#define N 4
#endif

static volatile unsigned rounds = N;
static volatile unsigned long handled, last;

long target(long a, long b, int c, unsigned char d, long e, long f, long g, long h);
void target_jprobe(long a, long b, int c, unsigned char d, long e, long f, volatile long g, volatile long h);

noinline long target(long a, long b, int c, unsigned char d, long e, long f, long g, long h)
{
	return a * 2 + b * 3 + c * 5 + d * 7 + e * 11 + f * 13 + g * 17 + h * 19;
}

noinline void target_jprobe(long a, long b, int c, unsigned char d, long e, long f, volatile long g, volatile long h)
{
	last = (unsigned long)(a + b + c + d + e + f + g + h);
	handled++;
	g = h = -1;
	jprobe_return();
}

int main(void)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < rounds; i++)
		sum = fold(sum, (uint32_t)target(i, i + 1, -(int)i, (unsigned char)(i * 99), 5, 6, i * 7, 8));
	report("jprobe", sum);
	puts("handled ");
	putdec(handled);
	puts(" last ");
	putdec(last);
	putc('\n');
	return 0;
}
