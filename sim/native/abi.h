// What sim/compiled.py and the library exchange. Every layout here is written a second time there, as a struct format.
#pragma once

#include <cstdint>

enum Reason : uint32_t {
	MAX_CYCLES = 0,
	TRAP_REQUEST = 1,
	EXIT = 2,
	SHUTDOWN = 3,
	TRAP = 4,
	PC = 5,
	REACHED = 6,
	RETIRED = 7,
	HALTED = 8,
	BOUNDARY = 9,
	FLUSH = 10, // a buffer is full: Python takes it and runs on
	FAILS = 11, // an Assert fails, and the edge of its cycle has not come; so until reset or load
};

enum StopFlags : uint32_t { ON_TRAP = 1, ON_RETIRED = 2, ON_PC = 4, ON_REACH = 8, ON_BOUNDARY = 16 };

struct RunSpec {
	uint64_t max_cycles, retired, pc, reach;
	uint32_t flags, halt_cycles;
	int32_t hart; // -1: any
	uint32_t resumed; // the run goes on after a FLUSH
};

struct RunResult {
	uint64_t cycles, retired; // retired: on the harts that ON_RETIRED counts
	uint32_t reason;
	int32_t hart;
};

constexpr uint32_t MAX_IPIS = 64; // that wait to be sent

enum RecordMode : uint32_t { RECORD_OFF = 0, RECORD_TRAPS = 1, RECORD_ALL = 2 };

enum RetireFlags : uint16_t {
	R_VALID = 1 << 0,
	R_FIRST = 1 << 1,
	R_LAST = 1 << 2,
	R_AGAIN = 1 << 3,
	R_REG_WE = 1 << 4,
	R_SP_WE = 1 << 5,
	R_MEM_RE = 1 << 6,
	R_MEM_WE = 1 << 7,
	R_IRET = 1 << 8,
	R_DELIVER = 1 << 9,
	R_TRAP = 1 << 10,
	R_TRAP_HAS_ERROR = 1 << 11,
};

struct RetireRecord {
	uint64_t cycle, pc, next_pc, reg_data, sp, mem_addr, mem_data, rflags, trap_rip, trap_addr;
	uint8_t bytes[16];
	uint32_t trap_error;
	uint8_t hart, length, reg, mem_size, trap_vector, trap_class;
	uint16_t flags;
	uint32_t pad;
};
static_assert(sizeof(RetireRecord) == 112);

struct ConsoleRecord {
	uint64_t cycle, data;
};

enum Buffer : uint32_t { BUFFER_RETIRE = 0, BUFFER_CONSOLE = 1, BUFFER_EXIT = 2, BUFFER_SAMPLE = 3 };

enum HartState : uint32_t { S_BOUNDARY = 1, S_HALTED = 2, S_SHUTDOWN = 4, S_TRAP_REQUEST = 8 };
