"""RAM behind the fetch and data ports of one or more harts.

Two banks hold the even and the odd 64-bit words, so that an access of up to 8 bytes at any address, and a 16-byte line, is
one access to each. `sim/native/ram.h` is the same memory in C++, cycle for cycle: change both or neither.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In
from amaranth.utils import ceil_log2

from hw.bus import DataBus, FetchBus

#: With waits, so many requests more than the latency may be outstanding at a port.
EXTRA = 4

#: Longest latency, so that the queue of the C++ model has room.
MAX_LATENCY = 32


def wait_seed_of(seed: int, port: int) -> int:
    """Return the start of the wait generator (xorshift, 32 bits) of a port; fetch of hart i is 2i, data 2i + 1."""
    return (seed * 0x9E3779B1 + (port + 1) * 0x85EBCA6B) & 0xFFFFFFFF or 1


def check_parameters(ram_bytes: int, latency: int) -> None:
    """Raise ValueError unless a RAM of this size and latency can be made."""
    if ram_bytes < 4096 or ram_bytes & (ram_bytes - 1) or ram_bytes > 1 << 31:
        raise ValueError(f"RAM must be a power of two from 4 KiB to 2 GiB, not {ram_bytes} bytes")
    if not 1 <= latency <= MAX_LATENCY:
        raise ValueError(f"RAM latency must be 1 to {MAX_LATENCY} cycles, not {latency}")


class _Answers(wiring.Component):
    """Delays what memory read for one port: `latency` cycles after acceptance, and longer when the generator says so.

    Members
    -------
    ready : a request may be accepted in this cycle.
    valid : a load was accepted in the cycle before this one; data is what it reads.
    resp_valid, resp_data : the answer of this cycle.
    """

    def __init__(self, width: int, latency: int, seed: int | None):
        self._latency, self._seed = latency, seed
        super().__init__(
            {
                "ready": wiring.Out(1),
                "accept": In(1),
                "valid": In(1),
                "data": In(width),
                "resp_valid": wiring.Out(1),
                "resp_data": wiring.Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Return the logic."""
        m = Module()
        valid, data = self.valid, self.data
        for stage in range(1, self._latency):
            next_valid, next_data = Signal(name=f"valid{stage}"), Signal.like(self.data, name=f"data{stage}")
            m.d.sync += [next_valid.eq(valid), next_data.eq(data)]
            valid, data = next_valid, next_data
        if self._seed is None:
            m.d.comb += [self.ready.eq(1), self.resp_valid.eq(valid), self.resp_data.eq(data)]
            return m

        random = Signal(32, init=self._seed)
        mixed = [random]
        for shift in (13, -17, 5):
            step = Signal(32, name=f"mixed{len(mixed)}")
            m.d.comb += step.eq(mixed[-1] ^ (mixed[-1] << shift if shift > 0 else mixed[-1] >> -shift))
            mixed.append(step)
        m.d.sync += random.eq(mixed[-1])

        # A queue of answers that are due; one that is due and allowed leaves without entering it.
        depth = self._latency + EXTRA
        outstanding, held = Signal(range(depth + 1)), Signal(range(depth + 1))
        queue = [Signal.like(self.data, name=f"queue{i}") for i in range(depth)]
        push, pop = Signal(), Signal()
        m.d.comb += [
            self.ready.eq(random[:2].any() & (outstanding < depth)),
            self.resp_valid.eq((valid | (held != 0)) & random[8:10].any()),
            self.resp_data.eq(Mux(held != 0, queue[0], data)),
            pop.eq(self.resp_valid & (held != 0)),
            push.eq(valid & ~(self.resp_valid & (held == 0))),
        ]
        m.d.sync += [
            outstanding.eq(outstanding + self.accept - self.resp_valid),
            held.eq(held + push - pop),
        ]
        for i, slot in enumerate(queue):
            with m.If(push & (held - pop == i)):
                m.d.sync += slot.eq(data)
            with m.Elif(pop & Const(i + 1 < depth)):
                m.d.sync += slot.eq(queue[min(i + 1, depth - 1)])
        return m


class Ram(wiring.Component):
    """RAM of `ram_bytes` (a power of two) with a fetch and a data port for each hart.

    Ports: ``h{i}_fetch`` and ``h{i}_data``, from the memory's side. A request accepted at the edge of cycle t is answered in
    cycle t + `latency`. With a `wait_seed`, ports are at times not ready and answers come later, in a pattern that only the
    seed decides. Reads see memory as it was before the stores of the same edge. Addresses wrap at the end of memory.
    """

    def __init__(self, harts: int = 1, ram_bytes: int = 16 << 20, latency: int = 1, wait_seed: int | None = None):
        check_parameters(ram_bytes, latency)
        self.harts, self.ram_bytes, self.latency, self.wait_seed = harts, ram_bytes, latency, wait_seed
        ports = {}
        for i in range(harts):
            ports |= {f"h{i}_fetch": In(FetchBus()), f"h{i}_data": In(DataBus())}
        super().__init__(ports)
        #: The even and the odd 64-bit words.
        self.banks = [Memory(shape=64, depth=ram_bytes // 16, init=[]) for _ in range(2)]

    def _answers(self, m: Module, name: str, port: int, width: int) -> _Answers:
        seed = None if self.wait_seed is None else wait_seed_of(self.wait_seed, port)
        m.submodules[name] = answers = _Answers(width, self.latency, seed)
        return answers

    def elaborate(self, platform: object) -> Module:
        """Return the logic."""
        m = Module()
        m.submodules.even, m.submodules.odd = self.banks
        index_bits = ceil_log2(self.ram_bytes // 16)
        for hart in range(self.harts):
            self._fetch(m, hart, index_bits)
            self._data(m, hart, index_bits)
        return m

    def _fetch(self, m: Module, hart: int, index_bits: int) -> None:
        bus = getattr(self, f"h{hart}_fetch")
        answers = self._answers(m, f"h{hart}_fetch_answers", 2 * hart, 128)
        accepted = Signal(name=f"h{hart}_fetch_accepted")
        m.d.sync += accepted.eq(answers.accept)
        m.d.comb += [
            bus.req_ready.eq(answers.ready),
            answers.accept.eq(bus.req_valid & answers.ready),
            answers.valid.eq(accepted),
            bus.resp_valid.eq(answers.resp_valid),
            bus.resp_data.eq(answers.resp_data),
        ]
        ports = [bank.read_port() for bank in self.banks]
        for port in ports:
            m.d.comb += [port.addr.eq(bus.req_addr[4 : 4 + index_bits]), port.en.eq(answers.accept)]
        m.d.comb += answers.data.eq(Cat(port.data for port in ports))

    def _data(self, m: Module, hart: int, index_bits: int) -> None:
        bus = getattr(self, f"h{hart}_data")
        answers = self._answers(m, f"h{hart}_data_answers", 2 * hart + 1, 64)
        accepted = Signal(name=f"h{hart}_data_accepted")
        load = Signal(name=f"h{hart}_load")
        m.d.comb += [
            load.eq(bus.req_valid & answers.ready & ~bus.req_write),
            bus.req_ready.eq(answers.ready),
            answers.accept.eq(load),
            answers.valid.eq(accepted),
            bus.resp_valid.eq(answers.resp_valid),
            bus.resp_data.eq(answers.resp_data),
        ]

        # The access covers words w and w + 1: the even one of them lies at (w + 1) / 2, the odd one at w / 2.
        offset, odd_first = bus.req_addr[:3], bus.req_addr[3]
        word = bus.req_addr[3 : 4 + index_bits]
        rows = ((word + 1)[1 : 1 + index_bits], word[1:])
        enables = Signal(16, name=f"h{hart}_enables")
        stored = Signal(128, name=f"h{hart}_stored")
        store = Signal(name=f"h{hart}_store")
        m.d.comb += store.eq(bus.req_valid & answers.ready & bus.req_write)
        with m.If(store):
            m.d.comb += [
                enables.eq(_byte_enables(bus.req_size) << offset),
                stored.eq(bus.req_data << (offset << 3)),
            ]
        reads = []
        for parity, bank in enumerate(self.banks):
            read, write = bank.read_port(), bank.write_port(granularity=8)
            second = odd_first != parity
            m.d.comb += [
                read.addr.eq(rows[parity]),
                read.en.eq(load),
                write.addr.eq(rows[parity]),
                write.en.eq(Mux(second, enables[8:], enables[:8])),
                write.data.eq(Mux(second, stored[64:], stored[:64])),
            ]
            reads.append(read)

        shift, swap, size = (Signal(n, name=f"h{hart}_{name}") for n, name in ((3, "shift"), (1, "swap"), (2, "size")))
        m.d.sync += accepted.eq(load)
        with m.If(load):
            m.d.sync += [shift.eq(offset), swap.eq(odd_first), size.eq(bus.req_size)]
        both = Signal(128, name=f"h{hart}_both")
        even, odd = reads
        m.d.comb += both.eq(Mux(swap, Cat(odd.data, even.data), Cat(even.data, odd.data)))
        read_mask = Cat(bit.replicate(8) for bit in _byte_enables(size))
        m.d.comb += answers.data.eq(both.bit_select(shift << 3, 64) & read_mask)


def _byte_enables(size: Value) -> Value:
    """Return the 8 byte enables of an access of 1 << size bytes at offset 0."""
    return Cat(Const(1), size != 0, (size[1]).replicate(2), (size == 3).replicate(4))
