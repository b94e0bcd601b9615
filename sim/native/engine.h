// One design with its RAM: inputs, settling, clock edge, and the records of what the ports showed.
//
// Between two calls the clock stands still and every signal of the design has the value that follows from its registers and
// inputs. An edge of the clock changes registers and memories by those values; then the inputs of the next cycle are driven,
// and the design settles again.
#pragma once

#include "abi.h"
#include "ports.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

constexpr size_t FLUSH_BYTES = 16 << 20;
constexpr uint64_t NEVER = ~uint64_t(0);

struct Engine {
	std::unique_ptr<Design> design{new Design};
	Ram ram;
	const uint32_t latency, wait_seed;
	const bool waits;
	uint64_t cycle = 0;
	uint64_t halted_for = 0;
	bool failed = false; // an Assert has
	std::vector<Hart> harts;
	Shared shared{};
	std::vector<HartPorts> ports;
	std::vector<Port> all_ports;
	uint32_t *console_valid, *console_data, *exit_valid, *exit_code;
	uint32_t *ipi_valid, *ipi_vector, *ipi_mode, *ipi_destination;
	uint32_t record_mode = RECORD_TRAPS;
	uint64_t record_from = 0, record_until = NEVER;
	std::vector<uint32_t> sampled;
	uint64_t sample_from = 0, sample_until = 0;
	std::vector<uint8_t> buffers[4];

	Engine(uint32_t count, uint64_t ram_bytes, uint32_t latency, bool waits, uint32_t wait_seed)
		: ram(ram_bytes), latency(latency), wait_seed(wait_seed), waits(waits), harts(count), ports(count)
	{
		auto *base = reinterpret_cast<uint8_t *>(design.get());
		for (size_t i = 0; i < port_count; i++) {
			const PortInfo &p = port_table[i];
			all_ports.push_back({p.name, p.width, p.input, reinterpret_cast<uint32_t *>(base + p.offset)});
		}
		for (uint32_t i = 0; i < count; i++) {
			std::string prefix = "h" + std::to_string(i) + "_";
#define X(name) ports[i].name = find(prefix + #name);
			PORTS(X)
#undef X
		}
		console_valid = find("console_valid");
		console_data = find("console_data");
		exit_valid = find("exit_valid");
		exit_code = find("exit_code");
		ipi_valid = find("ipi__valid");
		ipi_vector = find("ipi__vector");
		ipi_mode = find("ipi__mode");
		ipi_destination = find("ipi__destination");
		reset();
	}

	uint32_t *find(const std::string &name)
	{
		for (auto &port : all_ports)
			if (name == port.name)
				return port.data;
		throw std::runtime_error("the design has no port " + name);
	}

	// Power-on state of the design and the memory ports. The contents of RAM stay.
	void reset()
	{
		design_reset(*design);
		cycle = 0;
		failed = false;
		shared = Shared();
		ipi_valid[0] = 0;
		for (size_t i = 0; i < harts.size(); i++) {
			harts[i] = Hart();
			harts[i].fetch.reset(latency, waits, wait_seed_of(wait_seed, 2 * i));
			harts[i].data.reset(latency, waits, wait_seed_of(wait_seed, 2 * i + 1));
			ports[i].irq__valid[0] = 0;
			ports[i].irq__nmi[0] = 0;
		}
		for (auto &buffer : buffers)
			buffer.clear();
		drive();
	}

	// Inputs of the cycle that begins, and all that follows from them.
	void drive()
	{
		for (size_t i = 0; i < harts.size(); i++) {
			Hart &h = harts[i];
			HartPorts &p = ports[i];
			p.fetch__req_ready[0] = h.fetch.ready();
			if ((p.fetch__resp_valid[0] = h.fetch.answering())) {
				set64(p.fetch__resp_data, h.fetch.answer()[0]);
				set64(p.fetch__resp_data + 2, h.fetch.answer()[1]);
			}
			p.data__req_ready[0] = h.data.ready();
			if ((p.data__resp_valid[0] = h.data.answering()))
				set64(p.data__resp_data, h.data.answer()[0]);
		}
		design_settle(*design);
	}

	void edge()
	{
		// Reads see memory as it was before this edge's writes, whoever makes them; writes land in the order of harts.
		for (size_t i = 0; i < harts.size(); i++) {
			Hart &h = harts[i];
			HartPorts &p = ports[i];
			if (p.fetch__req_valid[0] && p.fetch__req_ready[0]) {
				uint64_t address = p.fetch__req_addr[0] & ~15u;
				h.fetch.push(ram.load(address, 8), ram.load(address + 8, 8));
			}
			if (p.data__req_valid[0] && p.data__req_ready[0] && !p.data__req_write[0])
				h.data.push(ram.load(p.data__req_addr[0], 1 << p.data__req_size[0]), 0);
		}
		for (auto &p : ports)
			if (p.data__req_valid[0] && p.data__req_ready[0] && p.data__req_write[0])
				ram.store(p.data__req_addr[0], 1 << p.data__req_size[0], get64(p.data__req_data));
		for (size_t i = 0; i < harts.size(); i++) {
			harts[i].fetch.edge(ports[i].fetch__resp_valid[0]);
			harts[i].data.edge(ports[i].data__resp_valid[0]);
			harts[i].acked = ports[i].irq__ack[0] != 0;
		}
		design_edge(*design);
		if (ipi_valid[0]) {
			ipi_valid[0] = 0;
			shared.ipi_count--;
			std::copy(shared.ipis + 1, std::end(shared.ipis), shared.ipis);
		}
		for (size_t i = 0; i < harts.size(); i++) {
			if (harts[i].acked)
				ports[i].irq__valid[0] = 0;
			if (harts[i].irq_changes)
				set_irq(i, harts[i].irq_valid, harts[i].irq_vector);
			ports[i].trap__done[0] = ports[i].trap__handled[0] = 0;
		}
		drive();
	}

	// A store that is on the bus must not change, so its hart's interrupt line does not before the edge.
	void request_irq(size_t hart, bool valid, uint32_t vector)
	{
		if (!ports[hart].trap__req[0]) {
			set_irq(hart, valid, vector);
			design_settle(*design);
			return;
		}
		harts[hart].irq_changes = true;
		harts[hart].irq_valid = valid;
		harts[hart].irq_vector = uint8_t(vector);
	}

	void set_irq(size_t hart, bool valid, uint32_t vector)
	{
		harts[hart].irq_changes = false;
		ports[hart].irq__valid[0] = valid;
		ports[hart].irq__vector[0] = vector;
	}

	template<class Record> void put(Buffer buffer, const Record &record)
	{
		auto *bytes = reinterpret_cast<const uint8_t *>(&record);
		buffers[buffer].insert(buffers[buffer].end(), bytes, bytes + sizeof(Record));
	}

	void put_retire(size_t hart, const HartPorts &p)
	{
		RetireRecord r{};
		r.cycle = cycle;
		r.hart = uint8_t(hart);
#define X(name) r.name = get64(p.retire__##name);
		X(pc) X(next_pc) X(reg_data) X(sp) X(mem_addr) X(mem_data) X(rflags) X(trap_rip) X(trap_addr)
#undef X
#define X(name) r.name = uint8_t(p.retire__##name[0]);
		X(length) X(reg) X(mem_size) X(trap_vector) X(trap_class)
#undef X
		r.trap_error = p.retire__trap_error[0];
		memcpy(r.bytes, p.retire__bytes, 16);
#define X(name, flag) (p.retire__##name[0] ? flag : 0)
		r.flags = X(valid, R_VALID) | X(first, R_FIRST) | X(last, R_LAST) | X(again, R_AGAIN) | X(reg_we, R_REG_WE) |
			X(sp_we, R_SP_WE) | X(mem_re, R_MEM_RE) | X(mem_we, R_MEM_WE) | X(iret, R_IRET) | X(deliver, R_DELIVER) |
			X(trap, R_TRAP) | X(trap_has_error, R_TRAP_HAS_ERROR);
#undef X
		put(BUFFER_RETIRE, r);
	}

	void put_sample()
	{
		auto &out = buffers[BUFFER_SAMPLE];
		auto append = [&out](const void *p, size_t n) {
			out.insert(out.end(), static_cast<const uint8_t *>(p), static_cast<const uint8_t *>(p) + n);
		};
		append(&cycle, 8);
		for (uint32_t index : sampled)
			append(all_ports[index].data, all_ports[index].bytes());
	}

	// Records of the cycle that was evaluated.
	void observe()
	{
		if (cycle >= sample_from && cycle < sample_until)
			put_sample();
		observe_harts();
	}

	// The console and the exit port are shared.
	void observe_harts()
	{
		if (console_valid[0])
			put(BUFFER_CONSOLE, ConsoleRecord{cycle, console_data[0]});
		if (exit_valid[0])
			put(BUFFER_EXIT, ConsoleRecord{cycle, exit_code[0]});
		for (size_t i = 0; i < harts.size(); i++) {
			HartPorts &p = ports[i];
			bool valid = p.retire__valid[0], trap = p.retire__trap[0];
			if (!valid && !trap)
				continue;
			bool ends = valid && p.retire__last[0];
			if (ends && !p.retire__again[0] && !p.retire__deliver[0])
				harts[i].retired++;
			bool all = record_mode == RECORD_ALL && cycle >= record_from && cycle < record_until;
			if (all || (record_mode != RECORD_OFF && (trap || (ends && (p.retire__iret[0] || p.retire__deliver[0])))))
				put_retire(i, p);
		}
	}

	void run(const RunSpec &spec, RunResult &result);
	bool write_register(uint32_t hart, uint32_t index, uint64_t value);
	bool send(Ipi ipi);
	size_t state_bytes() const;
	void save(uint8_t *to) const;
	void load(const uint8_t *from);
};
