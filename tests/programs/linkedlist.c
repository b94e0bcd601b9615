/* A list built from random keys, reversed, sorted by merging, walked: chains of dependent loads. */
#include "guest.h"

#ifndef N
#define N 64
#endif

struct node {
	struct node *next;
	uint32_t key;
	uint16_t tag;
};

static struct node pool[N];
static volatile unsigned length = N;

static noinline struct node *build(unsigned n)
{
	struct node *head = NULL;
	uint32_t seed = 0x1234567;

	for (unsigned i = 0; i < n; i++) {
		pool[i].key = next_random(&seed);
		pool[i].tag = (uint16_t)i;
		pool[i].next = head;
		head = &pool[i];
	}
	return head;
}

static noinline struct node *reverse(struct node *head)
{
	struct node *done = NULL;

	while (head) {
		struct node *next = head->next;
		head->next = done;
		done = head;
		head = next;
	}
	return done;
}

static noinline struct node *merge(struct node *a, struct node *b)
{
	struct node *head, **tail = &head;

	while (a && b) {
		struct node **least = a->key <= b->key ? &a : &b;
		*tail = *least;
		tail = &(*least)->next;
		*least = *tail;
	}
	*tail = a ? a : b;
	return head;
}

static noinline struct node *sort(struct node *head)
{
	struct node *slow = head, *fast;

	if (!head || !head->next)
		return head;
	for (fast = head->next; fast && fast->next; fast = fast->next->next)
		slow = slow->next;
	fast = slow->next;
	slow->next = NULL;
	return merge(sort(head), sort(fast));
}

int main(void)
{
	struct node *list = sort(reverse(build(length)));
	uint32_t sum = 0;

	for (struct node *n = list; n; n = n->next) {
		if (n->next && n->key > n->next->key)
			return 1;
		sum = fold(sum, n->key ^ n->tag);
	}
	report("linkedlist", sum);
	return 0;
}
