/* Several harts in a guest: compile smp.c, smp.S and sync.S with it. */
#ifndef SMP_H
#define SMP_H

#include "guest.h"

enum { MAX_HARTS = 4, APIC_EOI = 0xb0, APIC_SPURIOUS = 0xf0, APIC_ICR_LOW = 0x300, APIC_ICR_HIGH = 0x310 };

/* Registers of this hart's interrupt controller. */
static inline void apic_write(unsigned at, uint32_t value) { *(volatile uint32_t *)(0xfee00000ul + at) = value; }
static inline uint32_t apic_read(unsigned at) { return *(volatile uint32_t *)(0xfee00000ul + at); }

/* The number of this hart, from 0. */
static inline unsigned this_hart(void) { return apic_read(0x20) >> 24; }

/* Start harts 1 to count - 1, each with a stack, a GDT and a TSS of its own and the IDT of all; each runs entry(hart) and
 * then sleeps. Returns when all of them are in it. All have interrupts on then, and serialise when the runtime changes code
 * (sync.S). */
void start_harts(unsigned count, void (*entry)(unsigned hart));

/* Wait until the other harts' entry has returned. */
void join_harts(void);

/* Send a fixed interrupt to another hart. Its handler ends with apic_write(APIC_EOI, 0). */
void send_ipi(unsigned hart, unsigned vector);

typedef struct { volatile unsigned held; } spinlock_t;

static inline void spin_lock(spinlock_t *lock)
{
	while (__atomic_exchange_n(&lock->held, 1, __ATOMIC_ACQUIRE))
		while (lock->held)
			__asm__ volatile("pause");
}

static inline void spin_unlock(spinlock_t *lock) { __atomic_store_n(&lock->held, 0, __ATOMIC_RELEASE); }

#endif /* SMP_H */
