/* The four functions that gcc may call on its own. Loops over quadwords, then bytes; gcc must not turn them back into
 * calls of themselves. */
#include "guest.h"

#pragma GCC optimize("no-tree-loop-distribute-patterns")

void *memcpy(void *to, const void *from, size_t n)
{
	char *d = to;
	const char *s = from;

	for (; n >= 8; n -= 8, d += 8, s += 8)
		*(uint64_t __attribute__((may_alias, aligned(1))) *)d = *(const uint64_t __attribute__((may_alias, aligned(1))) *)s;
	while (n--)
		*d++ = *s++;
	return to;
}

void *memmove(void *to, const void *from, size_t n)
{
	char *d = to;
	const char *s = from;

	if ((uintptr_t)d - (uintptr_t)s >= n)
		return memcpy(to, from, n);
	while (n--)
		d[n] = s[n];
	return to;
}

void *memset(void *to, int value, size_t n)
{
	char *d = to;
	uint64_t pattern = (uint8_t)value * 0x0101010101010101ull;

	for (; n >= 8; n -= 8, d += 8)
		*(uint64_t __attribute__((may_alias, aligned(1))) *)d = pattern;
	while (n--)
		*d++ = (char)value;
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *p = a, *q = b;

	for (; n--; p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}
