"""A processor with the ports of `hw.soc.Soc` and an instruction set of its own: it exercises engines, not x86.

Every instruction is one 16-byte line: op, reg, size, 0, imm32, imm64. Beside its instructions the fetch port asks for
random lines all the time and folds what comes back into a checksum (system register 0), so that a difference of one
cycle or one byte between two engines or two memories shows in the registers.
"""

import struct
from contextlib import contextmanager
from enum import IntEnum

from amaranth.hdl import Array, Assert, Cat, Format, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus import DataBus, DebugPort, FetchBus, IpiPort, IrqPort, PipePort, RetirePort, TrapPort
from hw.config import Config
from hw.isa.facts import EventClass


class Op(IntEnum):
    NOP = 0
    IMM = 1
    ADD = 2  # reg += imm
    LOAD = 3
    STORE = 4
    CALL = 5  # TrapPort request: vector = imm32, address = reg
    OUT = 6  # console byte = reg
    EXIT = 7  # code = imm32
    HLT = 8
    JMP = 9  # to imm32
    TRAP = 10  # a trap record, then a delivery of one uop to imm64
    IRET = 11
    SHUTDOWN = 12
    LOOP = 13  # reg -= 1, again while it is not 0
    CHECK = 14  # an Assert: imm32 and reg are below 8


def line(op, reg=0, size=3, imm32=0, imm64=0):
    return struct.pack("<BBBBIQ", op, reg, size, 0, imm32, imm64)


class ToyHart(wiring.Component):
    fetch: Out(FetchBus())
    data: Out(DataBus())
    irq: Out(IrqPort())
    trap: Out(TrapPort())
    dbg: Out(DebugPort())
    retire: Out(RetirePort())
    pipe: Out(PipePort())
    console_valid: Out(1)
    console_data: Out(8)
    exit_valid: Out(1)
    exit_code: Out(32)
    run: In(1)
    ipi: In(IpiPort())
    number: In(2)

    def __init__(self, ram_bytes, seed):
        super().__init__()
        self._ram_bytes = ram_bytes
        self._seed = seed

    def elaborate(self, _):
        m = Module()
        regs = Array(Signal(64, name=f"r{i}") for i in range(16))
        pc, line, checksum, irqs = Signal(64), Signal(128), Signal(64), Signal(64)
        shutdown, ipis = Signal(), Signal(64)
        with m.If(self.ipi.valid & ((self.ipi.destination == self.number) | (self.ipi.destination == 0xFF))):
            m.d.sync += ipis.eq((ipis << 12) | (self.ipi.mode << 8) | self.ipi.vector)
        lfsr = Signal(32, init=self._seed)
        op, reg, size, imm32, imm64 = line[:8], line[8:12], line[16:18], line[32:64], line[64:]
        retire, dbg, trap = self.retire, self.dbg, self.trap

        # fetch: instructions, and noise in between. One bit per outstanding request says which it was.
        tags, count, wanted = Signal(16), Signal(5), Signal()
        noise = Signal()
        accept = Signal()
        line_mask = self._ram_bytes - 16
        m.d.sync += lfsr.eq(Cat(lfsr[31] ^ lfsr[21] ^ lfsr[1] ^ lfsr[0], lfsr))
        noise_held = Signal()
        noise_addr = Signal(32)
        m.d.comb += [
            noise.eq(noise_held | (~wanted & lfsr[3] & (count < 12))),
            self.fetch.req_valid.eq(noise | wanted),
            self.fetch.req_addr.eq(Mux(noise, Mux(noise_held, noise_addr, line_mask & (lfsr << 4)), pc)),
            accept.eq(self.fetch.req_valid & self.fetch.req_ready),
        ]
        m.d.sync += [noise_held.eq(noise & ~self.fetch.req_ready), noise_addr.eq(self.fetch.req_addr)]
        outstanding = Signal(5)
        m.d.comb += outstanding.eq(count - self.fetch.resp_valid)
        answered = Signal(16)
        m.d.comb += answered.eq(Mux(self.fetch.resp_valid, tags >> 1, tags))
        m.d.sync += [
            count.eq(outstanding + accept),
            tags.eq(Mux(accept, answered | ((~noise) << outstanding), answered & ((1 << outstanding) - 1))),
        ]
        with m.If(self.fetch.resp_valid):
            data = self.fetch.resp_data
            m.d.sync += checksum.eq((checksum << 7 | checksum >> 57) ^ data[:64] ^ data[64:])
        got_line = Signal()
        m.d.comb += got_line.eq(self.fetch.resp_valid & tags[0])

        m.d.comb += [
            dbg.rdata.eq(Mux(dbg.addr < 16, regs[dbg.addr[:4]], Mux(dbg.addr == 16, pc, Mux(dbg.addr == 32, checksum, Mux(dbg.addr == 34, ipis, irqs))))),
            retire.pc.eq(pc),
            retire.bytes.eq(line),
            retire.length.eq(15),
            retire.next_pc.eq(pc + 16),
            retire.rflags.eq(irqs | 2),
            trap.addr.eq(regs[reg]),
            dbg.shutdown.eq(shutdown),
            self.pipe.x_pc.eq(pc),
        ]

        def result(value):
            m.d.sync += regs[reg].eq(value)
            m.d.comb += [retire.reg_we.eq(1), retire.reg.eq(reg), retire.reg_data.eq(value)]

        def finish(next_pc=None):
            m.d.comb += [retire.valid.eq(1), retire.first.eq(1), retire.last.eq(1)]
            if next_pc is not None:
                m.d.comb += retire.next_pc.eq(next_pc)
            m.d.sync += pc.eq(retire.next_pc)
            m.next = "FETCH"

        @contextmanager
        def state(name):
            with m.State(name):
                yield
                with m.If(dbg.we):
                    m.next = "FETCH"

        with m.FSM():
            with state("FETCH"):
                m.d.comb += [wanted.eq(self.run), dbg.boundary.eq(1), self.pipe.f_valid.eq(1), self.pipe.f_pc.eq(pc)]
                with m.If(accept & ~noise):
                    m.next = "WAIT"
                with m.If(self.irq.valid):
                    m.d.comb += self.irq.ack.eq(1)
                    m.d.sync += irqs.eq(irqs + self.irq.vector)
            with state("WAIT"):
                m.d.comb += dbg.boundary.eq(1)
                with m.If(got_line):
                    m.d.sync += line.eq(self.fetch.resp_data)
                    m.next = "EXEC"
            with state("EXEC"):
                m.d.comb += [dbg.boundary.eq(1), self.pipe.x_valid.eq(1)]
                with m.Switch(op):
                    with m.Case(Op.IMM):
                        result(imm64)
                        finish()
                    with m.Case(Op.ADD):
                        total = Signal(64)
                        m.d.comb += total.eq(regs[reg] + imm64)
                        result(total)
                        finish()
                    with m.Case(Op.LOAD):
                        m.d.comb += [
                            self.data.req_valid.eq(1), self.data.req_addr.eq(imm32), self.data.req_size.eq(size),
                        ]
                        with m.If(self.data.req_ready):
                            m.next = "LOAD"
                    with m.Case(Op.STORE):
                        m.d.comb += [
                            self.data.req_valid.eq(1), self.data.req_addr.eq(imm32), self.data.req_size.eq(size),
                            self.data.req_write.eq(1), self.data.req_data.eq(regs[reg]),
                        ]
                        with m.If(self.data.req_ready):
                            m.d.comb += [retire.mem_we.eq(1), retire.mem_addr.eq(imm32), retire.mem_data.eq(regs[reg])]
                            m.d.comb += retire.mem_size.eq(size)
                            finish()
                    with m.Case(Op.CALL):
                        m.d.comb += trap.req.eq(1)
                        m.d.comb += trap.vector.eq(imm32)
                        with m.If(trap.done):
                            m.d.sync += regs[14].eq(trap.handled)
                            finish()
                    with m.Case(Op.OUT):
                        m.d.comb += [self.console_valid.eq(1), self.console_data.eq(regs[reg])]
                        finish()
                    with m.Case(Op.EXIT):
                        m.d.comb += [self.exit_valid.eq(1), self.exit_code.eq(imm32)]
                        finish()
                    with m.Case(Op.HLT):
                        m.next = "HALT"
                    with m.Case(Op.JMP):
                        finish(imm32)
                    with m.Case(Op.TRAP):
                        m.d.comb += [
                            retire.trap.eq(1), retire.trap_vector.eq(imm32), retire.trap_rip.eq(pc),
                            retire.trap_class.eq(EventClass.SOFT), retire.trap_addr.eq(regs[reg]),
                        ]
                        m.next = "DELIVER"
                    with m.Case(Op.IRET):
                        m.d.comb += retire.iret.eq(1)
                        finish(regs[reg])
                    with m.Case(Op.SHUTDOWN):
                        m.d.sync += shutdown.eq(1)
                        m.next = "DEAD"
                    with m.Case(Op.CHECK):
                        holds = (imm32 < 8) & (reg < 8)
                        m.d.sync += Assert(holds, Format("toy.bound: {:#x} and {}, {{in braces}}", imm32, reg))
                        finish()
                    with m.Case(Op.LOOP):
                        result((regs[reg] - 1)[:64])
                        finish(Mux(regs[reg] == 1, pc + 16, pc))
                        m.d.comb += retire.again.eq(regs[reg] != 1)
                    with m.Default():
                        finish()
            with state("LOAD"), m.If(self.data.resp_valid):
                result(self.data.resp_data)
                m.d.comb += [retire.mem_re.eq(1), retire.mem_addr.eq(imm32), retire.mem_data.eq(self.data.resp_data)]
                m.d.comb += retire.mem_size.eq(size)
                finish()
            with state("DELIVER"):
                m.d.comb += retire.deliver.eq(1)
                finish(imm64)
            with state("HALT"):
                m.d.comb += [dbg.halted.eq(1), dbg.boundary.eq(1)]
                nmi = Signal()
                m.d.sync += nmi.eq(self.irq.nmi)
                with m.If(self.irq.nmi & ~nmi):
                    m.d.sync += irqs.eq(irqs + 1000)
                    finish()
                with m.Elif(self.irq.valid):
                    m.d.comb += self.irq.ack.eq(1)
                    m.d.sync += irqs.eq(irqs + self.irq.vector)
                    finish()
            with state("DEAD"):
                pass

        # A debug write wins over everything that the edge would have done (and over every state: see `state`).
        with m.If(dbg.we):
            m.d.comb += [retire.valid.eq(0), retire.trap.eq(0), self.data.req_valid.eq(0), trap.req.eq(0)]
            m.d.comb += [self.console_valid.eq(0), self.exit_valid.eq(0), wanted.eq(0), self.irq.ack.eq(0)]
            m.d.sync += [tags.eq(0), irqs.eq(irqs), shutdown.eq(shutdown), pc.eq(pc)]
            with m.Switch(dbg.addr):
                for index in range(16):
                    with m.Case(index):
                        m.d.sync += regs[index].eq(dbg.wdata)
                with m.Case(16):
                    m.d.sync += pc.eq(dbg.wdata)
        return m


class ToySoc(wiring.Component):
    def __init__(self, harts=1, config=Config(ram_bytes=1 << 16)):
        self.harts, self._ram_bytes = harts, config.ram_bytes
        ports = {"ipi": In(IpiPort())}
        for i in range(harts):
            ports |= {
                f"h{i}_fetch": Out(FetchBus()), f"h{i}_data": Out(DataBus()), f"h{i}_irq": Out(IrqPort()),
                f"h{i}_trap": Out(TrapPort()), f"h{i}_dbg": Out(DebugPort()), f"h{i}_retire": Out(RetirePort()),
                f"h{i}_pipe": Out(PipePort()),
            }
        ports |= {"console_valid": Out(1), "console_data": Out(8), "exit_valid": Out(1), "exit_code": Out(32)}
        super().__init__(ports)

    def elaborate(self, _):
        m = Module()
        for i in range(self.harts):
            hart = m.submodules[f"h{i}"] = ToyHart(self._ram_bytes, 0xACE1 + 77 * i)
            for port in ("fetch", "data", "irq", "trap", "dbg", "retire", "pipe"):
                connect(m, getattr(hart, port), flipped(getattr(self, f"h{i}_{port}")))
            connect(m, ipi=hart.ipi, port=flipped(self.ipi))
            m.d.comb += [hart.run.eq(1), hart.number.eq(i), Assert(hart.exit_code != 0xBAD, "toy.exit")]
            with m.If(hart.console_valid):
                m.d.comb += [self.console_valid.eq(1), self.console_data.eq(hart.console_data)]
            with m.If(hart.exit_valid):
                m.d.comb += [self.exit_valid.eq(1), self.exit_code.eq(hart.exit_code)]
        return m
