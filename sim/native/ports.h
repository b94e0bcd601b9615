// The design's ports by name, and what the wrapper remembers of each hart.
#pragma once

#include "abi.h"
#include "design.h"
#include "ram.h"

struct Port {
	const char *name;
	uint32_t width;
	bool input;
	uint32_t *data; // little-endian words of the design's state
	size_t bytes() const { return (width + 31) / 32 * 4; }
};

inline uint64_t get64(const uint32_t *p) { return p[0] | uint64_t(p[1]) << 32; }

inline void set64(uint32_t *p, uint64_t v)
{
	p[0] = uint32_t(v);
	p[1] = uint32_t(v >> 32);
}

struct HartPorts {
#define PORTS(X) \
	X(fetch__req_valid) X(fetch__req_addr) X(fetch__req_ready) X(fetch__resp_valid) X(fetch__resp_data) \
	X(data__req_valid) X(data__req_ready) X(data__req_addr) X(data__req_size) X(data__req_write) X(data__req_data) \
	X(data__resp_valid) X(data__resp_data) \
	X(irq__valid) X(irq__vector) X(irq__ack) X(irq__nmi) \
	X(trap__req) X(trap__vector) X(trap__addr) X(trap__done) X(trap__handled) \
	X(dbg__addr) X(dbg__rdata) X(dbg__we) X(dbg__wdata) X(dbg__boundary) X(dbg__halted) X(dbg__shutdown) \
	X(retire__valid) X(retire__first) X(retire__last) X(retire__again) X(retire__pc) X(retire__length) \
	X(retire__bytes) X(retire__next_pc) X(retire__reg_we) X(retire__reg) X(retire__reg_data) X(retire__sp_we) \
	X(retire__sp) X(retire__mem_re) X(retire__mem_we) X(retire__mem_addr) X(retire__mem_size) X(retire__mem_data) \
	X(retire__rflags) X(retire__iret) X(retire__deliver) X(retire__trap) X(retire__trap_vector) \
	X(retire__trap_class) X(retire__trap_has_error) X(retire__trap_error) X(retire__trap_rip) X(retire__trap_addr)
#define X(name) uint32_t *name;
	PORTS(X)
#undef X
};

// What the wrapper remembers of a hart from cycle to cycle. Plain data: a snapshot copies it.
struct Hart {
	RamQueue fetch, data;
	uint64_t retired;
	bool done_armed, done_handled, nmi_wanted, acked;
	bool irq_changes, irq_valid; // at the next edge
	uint8_t irq_vector;
};

struct Ipi {
	uint8_t destination, vector, mode;
};

// What the wrapper remembers beside. Plain data, too.
struct Shared {
	bool exited; // a hart has written the exit port while another one's register was written
	uint32_t ipi_count;
	Ipi ipis[MAX_IPIS]; // to be sent, the first one in the next cycle
};

inline uint32_t wait_seed_of(uint32_t seed, uint32_t port)
{
	uint32_t mixed = seed * 0x9e3779b1u + (port + 1) * 0x85ebca6bu;
	return mixed ? mixed : 1;
}
