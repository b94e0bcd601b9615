/* The console, for the guest and, with -DHOST, for its native twin. */
#include "guest.h"

void puts(const char *s)
{
	while (*s)
		putc(*s++);
}

void puthex(uint64_t value, unsigned digits)
{
	while (digits--)
		putc("0123456789abcdef"[value >> (4 * digits) & 15]);
}

void putdec(uint64_t value)
{
	char text[20];
	unsigned n = 0;

	do
		text[n++] = (char)('0' + value % 10);
	while (value /= 10);
	while (n)
		putc(text[--n]);
}

void report(const char *name, uint32_t checksum)
{
	puts(name);
	puts(": ");
	puthex(checksum, 8);
	putc('\n');
}
