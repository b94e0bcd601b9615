// RAM outside of the design, identical cycle for cycle to hw/ram.py.
//
// A request accepted at the edge of cycle t is answered in cycle t + latency at the earliest, in order. With a wait seed, a
// port is not ready in a quarter of the cycles and holds an answer back in a quarter of the cycles, as its generator says.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

class Ram {
public:
	explicit Ram(uint64_t bytes) : bytes(bytes), mask(bytes - 1), data(static_cast<uint8_t *>(calloc(bytes, 1)))
	{
		if (!data)
			throw std::bad_alloc();
	}
	~Ram() { free(data); }
	Ram(const Ram &) = delete;
	Ram &operator=(const Ram &) = delete;

	// `size` bytes at any address, zero-extended; addresses wrap at the end of memory.
	uint64_t load(uint64_t address, unsigned size) const
	{
		uint64_t value = 0;
		address &= mask;
		if (address + size <= bytes)
			memcpy(&value, data + address, size);
		else
			for (unsigned i = 0; i < size; i++)
				value |= uint64_t(data[(address + i) & mask]) << (8 * i);
		return value;
	}

	void store(uint64_t address, unsigned size, uint64_t value)
	{
		address &= mask;
		if (address + size <= bytes)
			memcpy(data + address, &value, size);
		else
			for (unsigned i = 0; i < size; i++)
				data[(address + i) & mask] = uint8_t(value >> (8 * i));
	}

	const uint64_t bytes, mask;
	uint8_t *const data;
};

// The answers of one port: a queue of what was read at acceptance, with the cycle from which each may leave.
// Plain data, so that a snapshot is a copy.
struct RamQueue {
	static constexpr unsigned SLOTS = 64; // more than latency + EXTRA; hw/ram.py checks the latency
	static constexpr unsigned EXTRA = 4;  // with waits, this many requests more than the latency may be outstanding

	void reset(uint32_t latency_, bool waits_, uint32_t seed)
	{
		*this = RamQueue();
		latency = latency_;
		waits = waits_;
		random = seed;
	}

	bool ready() const { return !waits || ((random & 3) && count < latency + EXTRA); }
	bool answering() const { return count && due[head] <= now && (!waits || (random >> 8 & 3)); }
	const uint64_t *answer() const { return data[head]; }

	void push(uint64_t low, uint64_t high)
	{
		unsigned tail = (head + count++) % SLOTS;
		data[tail][0] = low;
		data[tail][1] = high;
		due[tail] = now + latency;
	}

	// The clock edge. `popped`: an answer was given in the cycle that ends.
	void edge(bool popped)
	{
		if (popped) {
			head = (head + 1) % SLOTS;
			count--;
		}
		now++;
		if (waits) {
			random ^= random << 13;
			random ^= random >> 17;
			random ^= random << 5;
		}
	}

	uint64_t data[SLOTS][2], due[SLOTS], now;
	uint32_t head, count, latency, random;
	bool waits;
};
