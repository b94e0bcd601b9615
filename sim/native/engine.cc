// The loop that runs until something happens, register writes, and snapshots.
#include "engine.h"

void Engine::run(const RunSpec &spec, RunResult &result)
{
	if (!spec.resumed)
		halted_for = 0;
	result = RunResult{0, 0, failed ? FAILS : MAX_CYCLES, -1};
	auto stop = [&result](Reason reason, int32_t hart) {
		if (result.reason == MAX_CYCLES) {
			result.reason = reason;
			result.hart = hart;
		}
	};
	if (shared.exited && !failed) {
		shared.exited = false;
		stop(EXIT, -1);
		return;
	}
	while (result.reason == MAX_CYCLES && result.cycles < spec.max_cycles) {
		for (size_t i = 0; i < harts.size(); i++) {
			Hart &h = harts[i];
			ports[i].trap__done[0] = h.done_armed;
			ports[i].trap__handled[0] = h.done_armed && h.done_handled;
			bool pulse = h.nmi_wanted && !ports[i].irq__nmi[0];
			ports[i].irq__nmi[0] = pulse;
			h.nmi_wanted &= !pulse;
		}
		if (shared.ipi_count) {
			ipi_valid[0] = 1;
			ipi_vector[0] = shared.ipis[0].vector;
			ipi_mode[0] = shared.ipis[0].mode;
			ipi_destination[0] = shared.ipis[0].destination;
		}
		design_settle(*design);

		// Events that stop the clock before the edge of their cycle.
		for (size_t i = 0; i < harts.size(); i++) {
			if (ports[i].trap__req[0] && !harts[i].done_armed)
				stop(TRAP_REQUEST, int32_t(i));
			if ((spec.flags & ON_BOUNDARY) && (spec.hart < 0 || spec.hart == int32_t(i)) && ports[i].dbg__boundary[0])
				stop(BOUNDARY, int32_t(i));
		}
		if (result.reason != MAX_CYCLES) {
			for (size_t i = 0; i < harts.size(); i++) // a pulse that no edge has seen is still to come
				if (ports[i].irq__nmi[0]) {
					harts[i].nmi_wanted = true;
					ports[i].irq__nmi[0] = 0;
				}
			ipi_valid[0] = 0; // so is the IPI
			design_settle(*design);
			return;
		}

		// Events that stop it after the edge, in order of precedence.
		observe();
		if (exit_valid[0])
			stop(EXIT, -1);
		bool all_halted = true;
		for (size_t i = 0; i < harts.size(); i++) {
			HartPorts &p = ports[i];
			if (p.dbg__shutdown[0])
				stop(SHUTDOWN, int32_t(i));
			all_halted &= p.dbg__halted[0] != 0;
			harts[i].done_armed = false;
			if (!spec.flags || (spec.hart >= 0 && spec.hart != int32_t(i)))
				continue;
			if ((spec.flags & ON_TRAP) && p.retire__trap[0])
				stop(TRAP, int32_t(i));
			if (!p.retire__valid[0] || !p.retire__last[0])
				continue;
			if ((spec.flags & ON_REACH) && get64(p.retire__next_pc) == spec.reach)
				stop(REACHED, int32_t(i));
			if (p.retire__deliver[0] || p.retire__again[0])
				continue;
			if ((spec.flags & ON_PC) && get64(p.retire__pc) == spec.pc)
				stop(PC, int32_t(i));
			if ((spec.flags & ON_RETIRED) && ++result.retired == spec.retired)
				stop(RETIRED, int32_t(i));
		}
		halted_for = all_halted ? halted_for + 1 : 0;
		if (halted_for >= spec.halt_cycles)
			stop(HALTED, -1);
		if ((failed = design_fails(*design))) {
			result.reason = FAILS;
			return;
		}
		edge();
		cycle++;
		result.cycles++;
		if (buffers[BUFFER_RETIRE].size() >= FLUSH_BYTES || buffers[BUFFER_SAMPLE].size() >= FLUSH_BYTES)
			stop(FLUSH, -1);
	}
}

// One clock edge that is not counted: the hart drops what it had under way, and does nothing; the other harts run on.
bool Engine::write_register(uint32_t hart, uint32_t index, uint64_t value)
{
	HartPorts &p = ports[hart];
	if (!p.dbg__boundary[0] || p.trap__req[0])
		return false;
	std::vector<bool> requested;
	for (size_t i = 0; i < ports.size(); i++) {
		HartPorts &q = ports[i];
		requested.push_back(q.irq__valid[0] && !harts[i].irq_changes);
		q.irq__valid[0] = q.trap__done[0] = q.trap__handled[0] = 0;
	}
	p.dbg__addr[0] = index;
	set64(p.dbg__wdata, value);
	p.dbg__we[0] = 1;
	design_settle(*design);
	observe_harts();
	shared.exited |= exit_valid[0] != 0;
	edge();
	p.dbg__we[0] = 0;
	for (size_t i = 0; i < ports.size(); i++)
		if (requested[i])
			ports[i].irq__valid[0] = 1;
	design_settle(*design);
	return true;
}

// An IPI waits until the next cycle that runs, and for those before it.
bool Engine::send(Ipi ipi)
{
	if (shared.ipi_count == MAX_IPIS)
		return false;
	shared.ipis[shared.ipi_count++] = ipi;
	return true;
}

size_t Engine::state_bytes() const
{
	return sizeof cycle + sizeof shared + sizeof(Design) + harts.size() * sizeof(Hart);
}

void Engine::save(uint8_t *to) const
{
	auto put = [&to](const void *part, size_t size) { to = static_cast<uint8_t *>(memcpy(to, part, size)) + size; };
	put(&cycle, sizeof cycle);
	put(&shared, sizeof shared);
	put(design.get(), sizeof(Design));
	put(harts.data(), harts.size() * sizeof(Hart));
}

void Engine::load(const uint8_t *from)
{
	auto take = [&from](void *part, size_t size) { memcpy(part, from, size), from += size; };
	failed = false;
	take(&cycle, sizeof cycle);
	take(&shared, sizeof shared);
	take(design.get(), sizeof(Design));
	take(harts.data(), harts.size() * sizeof(Hart));
}

#include "interface.inc"
