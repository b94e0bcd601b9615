/* A mix of the work of small control programs, after the kinds of work that EEMBC's CoreMark combines: a list that is
 * searched and sorted, a matrix with constants added and products reduced, a state machine that classifies numbers, all
 * tied together by a CRC whose value decides what the next round does. */
#include "guest.h"

#ifndef N
#define N 1
#endif

#define ITEMS 10
#define SIDE 4

struct item {
	struct item *next;
	int16_t value, index;
};

static struct item items[ITEMS];
static int16_t left[SIDE][SIDE], right[SIDE][SIDE];
static int32_t product[SIDE][SIDE];
static const char *const numbers[] = { "5012", "-874", "+122", "35.54e+4", ".125", "T0.3", "1e-", "" };

static volatile unsigned rounds = N;

static uint16_t crc_byte(uint8_t data, uint16_t crc)
{
	for (int i = 0; i < 8; i++) {
		uint16_t carry = (data ^ crc) & 1;

		data >>= 1;
		crc >>= 1;
		if (carry)
			crc ^= 0xa001;
	}
	return crc;
}

static noinline uint16_t crc_word(uint32_t data, uint16_t crc)
{
	for (int i = 0; i < 32; i += 8)
		crc = crc_byte((uint8_t)(data >> i), crc);
	return crc;
}

static int by_value(const struct item *a, const struct item *b) { return a->value - b->value; }
static int by_index(const struct item *a, const struct item *b) { return a->index - b->index; }

static noinline struct item *list_sort(struct item *head, int (*compare)(const struct item *, const struct item *))
{
	struct item *sorted = NULL;

	while (head) {
		struct item *item = head, **at = &sorted;

		head = head->next;
		while (*at && compare(*at, item) <= 0)
			at = &(*at)->next;
		item->next = *at;
		*at = item;
	}
	return sorted;
}

static noinline struct item *list_find(struct item *list, int16_t value)
{
	while (list && list->value != value)
		list = list->next;
	return list;
}

static noinline uint16_t work_list(struct item **list, uint16_t crc)
{
	struct item *found;

	*list = list_sort(*list, by_value);
	for (int i = 0; i < 4; i++) {
		found = list_find(*list, (int16_t)((crc >> i & 7) * 3));
		crc = crc_word(found ? (uint32_t)found->index : 0xffffu, crc);
	}
	*list = list_sort(*list, by_index);
	return crc_word((uint32_t)(*list)->value, crc);
}

static noinline uint16_t work_matrix(int16_t add, uint16_t crc)
{
	int32_t reduced = 0;

	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j++) {
			left[i][j] = (int16_t)(left[i][j] + add);
			product[i][j] = 0;
			for (int k = 0; k < SIDE; k++)
				product[i][j] += left[i][k] * right[k][j];
			reduced += (product[i][j] >> 2 & 15) * (product[i][j] >> 5 & 127);
		}
	return crc_word((uint32_t)reduced, crc);
}

static noinline int classify(const char *s)
{
	enum { START, SIGN, INTEGER, FRACTION, EXPONENT, EXPONENT_SIGN, SCIENTIFIC, INVALID } state = START;

	for (; *s && state != INVALID; s++) {
		int digit = *s >= '0' && *s <= '9', sign = *s == '+' || *s == '-';

		switch (state) {
		case START:         state = digit ? INTEGER : sign ? SIGN : *s == '.' ? FRACTION : INVALID; break;
		case SIGN:          state = digit ? INTEGER : *s == '.' ? FRACTION : INVALID; break;
		case INTEGER:       state = digit ? INTEGER : *s == '.' ? FRACTION : INVALID; break;
		case FRACTION:      state = digit ? FRACTION : (*s | 32) == 'e' ? EXPONENT : INVALID; break;
		case EXPONENT:      state = sign ? EXPONENT_SIGN : INVALID; break;
		case EXPONENT_SIGN: state = digit ? SCIENTIFIC : INVALID; break;
		case SCIENTIFIC:    state = digit ? SCIENTIFIC : INVALID; break;
		default:            break;
		}
	}
	return state;
}

static noinline uint16_t work_states(uint16_t crc)
{
	uint32_t seen = 0;

	for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++)
		seen += 1u << (4 * (unsigned)classify(numbers[i]));
	return crc_word(seen, crc);
}

int main(void)
{
	struct item *list = NULL;
	uint32_t seed = 0x3415;
	uint16_t crc = 0;

	for (int i = 0; i < ITEMS; i++) {
		items[i] = (struct item){ list, (int16_t)(next_random(&seed) & 31), (int16_t)i };
		list = &items[i];
	}
	for (int i = 0; i < SIDE * SIDE; i++) {
		left[i / SIDE][i % SIDE] = (int16_t)(next_random(&seed) & 0xff);
		right[i / SIDE][i % SIDE] = (int16_t)(next_random(&seed) & 0xff);
	}
	for (unsigned r = 0; r < rounds; r++) {
		crc = work_list(&list, crc);
		crc = work_matrix((int16_t)(crc & 15), crc);
		crc = work_states(crc);
	}
	report("mix", crc);
	return 0;
}
