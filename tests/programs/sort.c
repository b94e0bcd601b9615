/* Quick, insertion and heap sort of the same random numbers; the three results must agree. */
#include "guest.h"

#ifndef N
#define N 48
#endif

static int32_t quick[N], insertion[N], heap[N];
static volatile unsigned length = N;

static void swap(int32_t *a, int32_t *b)
{
	int32_t t = *a;

	*a = *b;
	*b = t;
}

static noinline void quick_sort(int32_t *v, long low, long high)
{
	while (low < high) {
		int32_t pivot = v[(low + high) / 2];
		long i = low, j = high;

		while (i <= j) {
			while (v[i] < pivot)
				i++;
			while (v[j] > pivot)
				j--;
			if (i <= j)
				swap(&v[i++], &v[j--]);
		}
		quick_sort(v, low, j);
		low = i;
	}
}

static noinline void insertion_sort(int32_t *v, long n)
{
	for (long i = 1; i < n; i++) {
		int32_t x = v[i];
		long j = i;

		for (; j > 0 && v[j - 1] > x; j--)
			v[j] = v[j - 1];
		v[j] = x;
	}
}

static noinline void sift(int32_t *v, unsigned long root, unsigned long n)
{
	for (unsigned long child; (child = 2 * root + 1) < n; root = child) {
		if (child + 1 < n && v[child + 1] > v[child])
			child++;
		if (v[root] >= v[child])
			return;
		swap(&v[root], &v[child]);
	}
}

static noinline void heap_sort(int32_t *v, unsigned long n)
{
	for (unsigned long i = n / 2; i--;)
		sift(v, i, n);
	while (n-- > 1) {
		swap(&v[0], &v[n]);
		sift(v, 0, n);
	}
}

int main(void)
{
	uint32_t seed = 99, sum = 0;

	for (unsigned i = 0; i < length; i++)
		quick[i] = insertion[i] = heap[i] = (int32_t)next_random(&seed);
	quick_sort(quick, 0, (long)length - 1);
	insertion_sort(insertion, length);
	heap_sort(heap, length);
	for (unsigned i = 0; i < length; i++) {
		if (quick[i] != insertion[i] || quick[i] != heap[i])
			return 1;
		sum = fold(sum, (uint32_t)quick[i]);
	}
	report("sort", sum);
	return 0;
}
