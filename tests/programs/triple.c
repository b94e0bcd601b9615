/* A fault with no IDT at all: the double fault cannot be delivered either, and the processor shuts down. */
#include "guest.h"

int main(void)
{
	static const struct __attribute__((packed)) { uint16_t limit; uint64_t base; } none = { 0, 0 };

	puts("shutting down\n");
	__asm__ volatile("lidt %0; ud2" : : "m"(none) : "memory");
	puts("FAIL still here\n");
	return 1;
}
