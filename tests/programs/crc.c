/* CRC-32 bit by bit and by table (the table is built here), CRC-16-CCITT, Adler-32, over random bytes. */
#include "guest.h"

#ifndef N
#define N 128
#endif

static uint8_t data[N];
static uint32_t table[16];
static volatile unsigned length = N;

static noinline uint32_t crc32_bitwise(const uint8_t *p, unsigned n)
{
	uint32_t crc = ~0u;

	while (n--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
	}
	return ~crc;
}

static noinline void make_table(void)
{
	for (uint32_t i = 0; i < 16; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 4; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
		table[i] = crc;
	}
}

static noinline uint32_t crc32_table(const uint8_t *p, unsigned n)
{
	uint32_t crc = ~0u;

	for (; n--; p++) {
		crc = crc >> 4 ^ table[(crc ^ *p) & 15];
		crc = crc >> 4 ^ table[(crc ^ *p >> 4) & 15];
	}
	return ~crc;
}

static noinline uint16_t crc16(const uint8_t *p, unsigned n)
{
	uint16_t crc = 0xffff;

	while (n--) {
		uint8_t x = (uint8_t)(crc >> 8 ^ *p++);
		x ^= x >> 4;
		crc = (uint16_t)(crc << 8 ^ x << 12 ^ x << 5 ^ x);
	}
	return crc;
}

static noinline uint32_t adler32(const uint8_t *p, unsigned n)
{
	uint32_t a = 1, b = 0;

	while (n--) {
		a = (a + *p++) % 65521;
		b = (b + a) % 65521;
	}
	return b << 16 | a;
}

int main(void)
{
	uint32_t seed = 42, sum, check;

	for (unsigned i = 0; i < length; i++)
		data[i] = (uint8_t)next_random(&seed);
	make_table();
	sum = crc32_bitwise(data, length);
	check = crc32_table(data, length);
	if (sum != check)
		return 1;
	report("crc", fold(fold(sum, crc16(data, length)), adler32(data, length)));
	return 0;
}
