/* The guest of the demo: two functions with famous names, called in loops by a main program.
 *
 * __blockdev_direct_IO walks the segments of a transfer and copies them between memory and a small disk;
 * ip_queue_xmit walks the fragments of a socket buffer, builds an IP header with its checksum, and copies the datagram
 * to a ring. Both are written for this demo, and small enough for a simulator of a thousand cycles a second. */
#include "guest.h"

#ifndef N
#define N 3
#endif

#define SECTOR 32
#define SECTORS 8
#define MTU 96

enum { READ = 0, WRITE = 1 };

struct segment {
	uint8_t *base;
	uint32_t length;
};

struct bio {
	struct bio *next;
	struct segment vec[2];
	uint32_t done;
};

struct frag {
	const struct frag *next;
	const uint8_t *data;
	uint32_t length;
};

struct iphdr {
	uint8_t version_ihl, tos;
	uint16_t tot_len, id, frag_off;
	uint8_t ttl, protocol;
	uint16_t check;
	uint32_t saddr, daddr;
};

struct sk_buff {
	const struct frag *frags;
	uint32_t len, saddr, daddr;
	uint16_t id;
	uint8_t protocol;
	uint32_t csum;
};

long __blockdev_direct_IO(int rw, struct bio *bio, unsigned long sector, unsigned long nr_segs);
int ip_queue_xmit(struct sk_buff *skb, int ipfragok);

static volatile unsigned rounds = N;
static uint8_t disk[SECTORS * SECTOR], memory[SECTORS * SECTOR], wire[MTU];
static unsigned long sent, refused;

/* Transfer up to nr_segs segments, starting at a sector; return the number of bytes, or -1 past the end of the disk. */
noinline long __blockdev_direct_IO(int rw, struct bio *bio, unsigned long sector, unsigned long nr_segs)
{
	unsigned long at = sector * SECTOR;
	long total = 0;

	for (; bio; bio = bio->next) {
		for (unsigned i = 0; i < 2 && nr_segs; i++, nr_segs--) {
			const struct segment *s = &bio->vec[i];

			if (at + s->length > sizeof disk)
				return -1;
			if (rw == WRITE)
				memcpy(disk + at, s->base, s->length);
			else
				memcpy(s->base, disk + at, s->length);
			at += s->length;
			total += s->length;
		}
		bio->done = (uint32_t)total;
	}
	return total;
}

/* The one's complement sum of the header's 16-bit words. */
static noinline uint16_t ip_fast_csum(const void *header, unsigned words)
{
	const uint16_t *p = header;
	uint32_t sum = 0;

	while (words--)
		sum += *p++;
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~(sum + (sum >> 16));
}

/* Build a datagram and put it on the wire; return 0, or -90 (EMSGSIZE) when it needs fragments and may not have them. */
noinline int ip_queue_xmit(struct sk_buff *skb, int ipfragok)
{
	struct iphdr header = {
		.version_ihl = 0x45, .tot_len = __builtin_bswap16((uint16_t)(skb->len + sizeof header)),
		.id = __builtin_bswap16(skb->id++), .frag_off = ipfragok ? 0 : 0x40, .ttl = 64,
		.protocol = skb->protocol, .saddr = skb->saddr, .daddr = skb->daddr,
	};
	uint8_t *to = wire + sizeof header;

	if (skb->len + sizeof header > MTU && !ipfragok) {
		refused++;
		return -90;
	}
	for (const struct frag *f = skb->frags; f; f = f->next) {
		uint32_t room = (uint32_t)(wire + MTU - to), n = f->length < room ? f->length : room;

		memcpy(to, f->data, n);
		to += n;
	}
	header.check = ip_fast_csum(&header, sizeof header / 2);
	*(struct iphdr *)wire = header;
	skb->csum = fold(skb->csum, header.check);
	sent++;
	return 0;
}

static uint32_t checksum(uint32_t sum, const uint8_t *data, unsigned n)
{
	for (unsigned i = 0; i < n; i += 4)
		sum = fold(sum, data[i] | data[i + 1] << 8 | data[i + 2] << 16 | (uint32_t)data[i + 3] << 24);
	return sum;
}

static void disk_round(unsigned round)
{
	struct bio second = { NULL, { { memory + 96, SECTOR }, { memory + 128, 2 * SECTOR } }, 0 };
	struct bio first = { &second, { { memory, SECTOR }, { memory + SECTOR, SECTOR } }, 0 };

	__blockdev_direct_IO(WRITE, &first, round & 3, 4);
	__blockdev_direct_IO(READ, &first, (round + 1) & 1, 3);
	memory[round] ^= (uint8_t)second.done;
}

static uint32_t net_round(struct sk_buff *skb, unsigned round)
{
	const struct frag tail = { NULL, memory + 100, 11 + 17 * round };
	const struct frag body = { &tail, memory + 8 * round, 40 };

	skb->frags = &body;
	skb->len = body.length + tail.length;
	skb->daddr = 0x0a000001 + round;
	return (uint32_t)ip_queue_xmit(skb, (int)(round & 1)) + (uint32_t)ip_queue_xmit(skb, 1);
}

int main(void)
{
	struct sk_buff skb = { .saddr = 0x0a0000fe, .id = 0x1234, .protocol = 6 };
	uint32_t seed = 2004, sum = 0;

	for (unsigned i = 0; i < sizeof memory; i++)
		memory[i] = (uint8_t)(i % 4 ? memory[i - 1] * 5 + 1 : next_random(&seed));
	for (unsigned round = 0; round < rounds; round++) {
		disk_round(round);
		sum = fold(sum, net_round(&skb, round));
	}
	sum = checksum(fold(sum, skb.csum), disk, sizeof disk);
	sum = checksum(sum, wire, sizeof wire);
	report("checksum", fold(sum, (uint32_t)(sent << 8 | refused)));
	return 0;
}
