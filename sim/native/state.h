// Visitors of the design's state, for each_state(): registers (wires) and memories. Combinational values are not state.
#pragma once

#include <cxxrtl/cxxrtl.h>

#include <cstdint>
#include <cstring>

// Undo what an eval() with a rising clock prepared.
struct Rollback {
	template<size_t Bits> void operator()(cxxrtl::wire<Bits> &wire) const { wire.next = wire.curr; }
	template<size_t Bits> void operator()(cxxrtl::memory<Bits> &memory) const { memory.write_queue.clear(); }
};

struct Sizer {
	size_t bytes = 0;
	template<size_t Bits> void operator()(cxxrtl::wire<Bits> &) { bytes += sizeof(cxxrtl::value<Bits>); }
	template<size_t Bits> void operator()(cxxrtl::memory<Bits> &memory) { bytes += memory.depth * sizeof(cxxrtl::value<Bits>); }
};

struct Saver {
	uint8_t *to;
	void raw(const void *from, size_t n)
	{
		memcpy(to, from, n);
		to += n;
	}
	template<size_t Bits> void operator()(cxxrtl::wire<Bits> &wire) { raw(&wire.curr, sizeof wire.curr); }
	template<size_t Bits> void operator()(cxxrtl::memory<Bits> &memory) { raw(&memory[0], memory.depth * sizeof(memory[0])); }
};

struct Loader {
	const uint8_t *from;
	void raw(void *to, size_t n)
	{
		memcpy(to, from, n);
		from += n;
	}
	template<size_t Bits> void operator()(cxxrtl::wire<Bits> &wire)
	{
		raw(&wire.curr, sizeof wire.curr);
		wire.next = wire.curr;
	}
	template<size_t Bits> void operator()(cxxrtl::memory<Bits> &memory)
	{
		raw(&memory[0], memory.depth * sizeof(memory[0]));
	}
};
