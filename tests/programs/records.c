/* Packed records and bit fields: 8- and 16-bit loads, stores and arithmetic, every conversion between signs and widths,
 * and structures passed and returned by value. */
#include "guest.h"

#ifndef N
#define N 20
#endif

struct flags {
	unsigned valid : 1, kind : 3;
	int level : 5;
	unsigned port : 11;
	uint64_t serial : 37;
};

struct __attribute__((packed)) record {
	uint8_t tag;
	int8_t delta;
	int16_t balance;
	uint16_t count;
	int32_t total;
	int64_t wide;
	struct flags flags;
};

struct triple {
	int64_t a, b;
	int16_t c;
};

static struct record records[N], copies[N];
static volatile unsigned length = N;

static noinline void fill(struct record *r, uint32_t *seed)
{
	uint32_t x = next_random(seed);

	r->tag = (uint8_t)x;
	r->delta = (int8_t)(x >> 8);
	r->balance = (int16_t)(x >> 3);
	r->count = (uint16_t)(x >> 16);
	r->total = (int32_t)x;
	r->wide = (int64_t)r->total * r->balance;
	r->flags.valid = x & 1;
	r->flags.kind = x >> 5 & 7;
	r->flags.level = (int)(x >> 9) % 16;
	r->flags.port = x >> 20 & 0x7ff;
	r->flags.serial = (uint64_t)x << 5;
}

static noinline void update(struct record *r)
{
	r->tag += r->delta;
	r->delta = (int8_t)(r->delta / 3 - (r->delta >> 1));
	r->balance = (int16_t)(r->balance * 7 / (r->tag ? r->tag : 1));
	r->count = (uint16_t)(r->count << 2 | r->count >> 14);
	r->count -= (uint16_t)r->balance;
	r->total -= r->count;
	r->wide ^= (int64_t)r->delta << 40 | (uint32_t)r->total;
	if (r->balance < r->delta || r->tag > r->count % 200u)
		r->flags.level ^= 3;
	r->flags.serial += r->flags.port * r->flags.kind;
	r->flags.valid = !r->flags.valid;
}

static noinline struct triple summarise(struct record r)
{
	struct triple t = { r.wide + r.total, (int64_t)r.flags.serial - r.delta, (int16_t)(r.count % 100 - r.flags.level) };

	return t;
}

int main(void)
{
	uint32_t seed = 31337, sum = 0;

	for (unsigned i = 0; i < length; i++) {
		fill(&records[i], &seed);
		update(&records[i]);
		copies[i] = records[i];
		update(&copies[i]);
	}
	for (unsigned i = 0; i < length; i++) {
		struct triple t = summarise(copies[length - 1 - i]);

		sum = fold(sum, (uint32_t)(t.a ^ t.a >> 32));
		sum = fold(sum, (uint32_t)(t.b ^ t.b >> 32) + (uint16_t)t.c);
		sum = fold(sum, (uint32_t)records[i].balance + records[i].flags.valid);
	}
	report("records", sum);
	return 0;
}
