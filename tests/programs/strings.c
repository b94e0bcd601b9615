/* String routines written out: length, copy, compare, search, reverse, number to text and back; and block copies. */
#include "guest.h"

#ifndef N
#define N 12
#endif

static volatile unsigned rounds = N;
static char line[160], copy[160];

static noinline size_t length(const char *s)
{
	const char *p = s;

	while (*p)
		p++;
	return (size_t)(p - s);
}

static noinline char *append(char *to, const char *from)
{
	while ((*to = *from++))
		to++;
	return to;
}

static noinline int compare(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (unsigned char)*a - (unsigned char)*b;
}

static noinline const char *find(const char *s, const char *what)
{
	for (; *s; s++) {
		const char *p = s, *q = what;
		while (*q && *p == *q)
			p++, q++;
		if (!*q)
			return s;
	}
	return NULL;
}

static noinline void reverse(char *s)
{
	for (char *end = s + length(s); end - s > 1;) {
		char c = *s;
		*s++ = *--end;
		*end = c;
	}
}

static noinline char *number(char *to, long value, unsigned base)
{
	unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;
	char *p = to;

	do
		*p++ = "0123456789abcdefghijklmnopqrstuvwxyz"[rest % base];
	while (rest /= base);
	if (value < 0)
		*p++ = '-';
	*p = 0;
	reverse(to);
	return p;
}

static noinline long parse(const char *s)
{
	long value = 0;
	int negative = *s == '-';

	for (s += negative; *s >= '0' && *s <= '9'; s++)
		value = value * 10 + (*s - '0');
	return negative ? -value : value;
}

int main(void)
{
	uint32_t seed = 7, sum = 0;

	for (unsigned r = 0; r < rounds; r++) {
		long value = (int32_t)next_random(&seed);
		char *p = number(append(line, "key="), value, 10);
		const char *at;

		p = number(append(p, " hex="), value, 16);
		append(p, " end");
		append(copy, line);
		at = find(line, "hex=");
		if (!at || parse(line + 4) != value || compare(line, copy))
			return 1;
		copy[5] ^= 1;
		sum = fold(sum, (uint32_t)(at - line) + (uint32_t)length(line) + (uint32_t)compare(line, copy));
		reverse(copy);
		for (p = copy; *p; p++)
			sum = fold(sum, (uint8_t)*p);
	}
	report("strings", sum);
	return 0;
}
