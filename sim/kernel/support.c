/* What a kernel's functions need around them: code to call back, and an address to return to. Linked with the guest's
 * runtime, whose IDT and entry stubs the probes need. */
#include "guest.h"

struct list_head {
	struct list_head *next, *prev;
};

int cmp_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

int cmp_u64_priv(const void *a, const void *b, const void *priv)
{
	uint64_t x = *(const uint64_t *)a ^ *(const uint64_t *)priv, y = *(const uint64_t *)b ^ *(const uint64_t *)priv;

	return x < y ? -1 : x > y;
}

/* The key is the quadword behind the links. */
int cmp_list(void *priv, const struct list_head *a, const struct list_head *b)
{
	uint64_t x = ((const uint64_t *)a)[2], y = ((const uint64_t *)b)[2];

	(void)priv;
	return x < y ? -1 : x > y;
}

int main(void)
{
	__asm__ volatile(".globl kernel_cpuid, kernel_return\n"
			 "kernel_return:\tjmp kernel_return\n"
			 "kernel_cpuid:\tcpuid\n\tjmp kernel_return");
	return 0;
}
