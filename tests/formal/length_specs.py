"""What the length stage must do: the bytes that are there decide, however they arrive, and every byte is in one instruction."""

from amaranth.hdl import Assert, Assume, Const, Module, Mux, Signal, signed
from amaranth.lib.wiring import Component, In

from hw.types import Fault
from tests.formal.prover import Opened

#: Registers of the stage beside its output and the bytes of prefixes.
CONTROL = ("state", "taken", "stopped")

#: What a fault goes on with, and what an instruction does. The bytes are the matter of `Stream`.
ALWAYS = ("pc", "next_pc", "length", "fault")
MEANING = ("map", "opcode", "modrm", "sib", "disp", "imm", "rex", "has_rex", "opsize", "asize", "lock", "rep", "seg", "vvvv", "long", "refused")


#: The data of the ROM of attributes.
ROM = "rom.lookup__data"


def _well_formed(module, data):
    """Only where there is a ModRM byte may an immediate depend on it."""
    row = module._Attributes(data)
    return ~row.low_regs | row.modrm


def _stage(m, name, module, ports, row):
    """A length stage with the given inputs, opened; its ROM gives `row`, an input."""
    stage = module.Length()
    m.submodules[name] = opened = Opened(stage, cut=("rom",))
    m.d.comb += [opened[ROM].eq(row), Assume(_well_formed(module, row))]
    m.d.comb += [getattr(stage, port).eq(value) for port, value in ports.items() if port != "ready"]
    m.d.comb += stage.o.ready.eq(ports["ready"])
    return stage, opened


class Agreement(Component):
    """Two stages in the same state; what a sees of the window are the first bytes of what b sees; beyond, anything differs.

    If a consumes bytes, b consumes the same, and they are in the same state again, with the same instruction if one is
    complete. If both see equally many, they do the same in every case.
    """

    window: In(128)
    beyond: In(128)
    avail: In(5)
    more: In(5)
    pc: In(64)
    fault: In(Fault)
    kill: In(1)
    ready: In(1)
    row_a: In(7)  #: what the ROM holds: anything, but the same at the same address in both stages
    row_b: In(7)

    def __init__(self, module):
        super().__init__()
        self._module = module
        assert all(row["modrm"] for row in module._rom() if row["low_regs"])

    def elaborate(self, platform):
        m = Module()
        shared = dict(pc=self.pc, fault=self.fault, kill=self.kill, ready=self.ready)
        a, in_a = _stage(m, "a", self._module, shared | dict(window=self.window, avail=self.avail), self.row_a)
        b, in_b = _stage(m, "b", self._module, shared | dict(window=self.beyond, avail=self.more), self.row_b)
        seen = Signal(128)  # the bytes that a may look at
        m.d.comb += seen.eq(~(Const((1 << 128) - 1, 128) << (self.avail << 3))[:128])
        m.d.comb += [
            Assume((self.avail <= self.more) & (self.more <= 16)),
            Assume((self.window & seen) == (self.beyond & seen)),
            Assume((in_a["opcode.lookup__addr"] != in_b["opcode.lookup__addr"]) | (self.row_a == self.row_b)),
        ]
        same, instruction, must = Signal(), Signal(), Signal()
        left, right = a.o.payload, b.o.payload

        def equal(names):
            return _all(getattr(left, name) == getattr(right, name) for name in names)

        m.d.comb += [
            same.eq((a.o.valid == b.o.valid) & _all(in_a[name] == in_b[name] for name in CONTROL)),
            instruction.eq(equal(ALWAYS) & (left.fault.valid | equal(MEANING))),
            must.eq(same & ((self.avail == self.more) | (a.consume != 0))),
        ]
        did, emitted = Signal(), Signal()
        m.d.sync += [did.eq(must), emitted.eq(must & in_a["decide.emit"])]
        m.d.comb += [
            Assert(a.consume <= self.avail, "no more than there is"),
            Assert(a.consume <= 15, "15 bytes at most"),
            Assert(~must | (a.consume == b.consume), "as many bytes"),
            Assert(~did | same, "the same state"),
            Assert(~emitted | ~a.o.valid | instruction, "the same instruction"),
        ]
        return m


def _all(conditions):
    result = Const(1, 1)
    for condition in conditions:
        result = result & condition
    return result


class Stream(Component):
    """One stage; a byte of the stream, any one, is followed from the window into the instruction that it is part of.

    Instructions follow each other without gap or overlap, are 1 to 15 bytes long or carry a fault, and hold that byte where
    they should. What is assumed: ``pc`` and the window move by what is consumed.
    """

    window: In(128)
    avail: In(5)
    fault: In(Fault)
    target: In(64)
    kill: In(1)
    ready: In(1)
    follow: In(1)  #: the byte at ``place`` of the window (or later of the stream) is followed from now on
    place: In(5)
    value: In(8)  #: its value, when that begins
    row: In(7)  #: what the ROM holds: anything

    def __init__(self, module):
        super().__init__()
        self._module = module

    def elaborate(self, platform):
        m = Module()
        pc, start, before = Signal(64), Signal(64), Signal(64)
        ports = dict(window=self.window, avail=self.avail, pc=pc, fault=self.fault, kill=self.kill, ready=self.ready)
        stage, inner = _stage(m, "stage", self._module, ports, self.row)
        taken, early, stopped = inner["taken"], inner["early"], inner["stopped"]
        emits, emitted = inner["decide.emit"] & ~self.kill, Signal()
        m.d.comb += Assume(self.avail <= 16)
        m.d.sync += [emitted.eq(emits), before.eq(start), pc.eq(pc + stage.consume)]
        with m.If(emits):
            m.d.sync += start.eq(pc + inner["decide.size"])
        with m.If(self.kill):
            m.d.sync += [pc.eq(self.target), start.eq(self.target)]

        # the byte: `at` is where it lies from pc on; negative when it has been consumed as a prefix
        following, at, value, inside = Signal(), Signal(signed(7)), Signal(8), Signal(signed(7))
        now, here, byte = Signal(), Signal(signed(7)), Signal(8)
        m.d.comb += [
            now.eq((following | self.follow) & ~self.kill),
            here.eq(Mux(following, at, self.place)),
            byte.eq(Mux(following, value, self.value)),
            Assume(~now | (here < 0) | (here >= self.avail) | (self.window.word_select(here[:4], 8) == byte)),
        ]
        m.d.sync += [following.eq(now), at.eq(here - stage.consume), value.eq(byte), inside.eq(here + taken)]
        leaves, gone = Signal(), Signal()  # it is part of the instruction that leaves; it was
        m.d.comb += leaves.eq(now & emits & (here < inner["decide.size"]))
        m.d.sync += gone.eq(leaves)
        with m.If(leaves):
            m.d.sync += following.eq(0)

        # where the stage stands: `start` is the address of the first byte that is in no instruction yet
        prefix = (taken + at)[:4]
        m.d.comb += [
            Assert(taken <= 13, "prefixes"),
            Assert(stopped | ((start + taken)[:64] == pc), "place"),
            Assert(~following | ((at >= -taken) & (at < 32)), "the byte is in no instruction that has left"),
            Assert(~following | stopped | (at >= 0) | (early.word_select(prefix, 8) == value), "it is among the prefixes"),
            Assert((early >> (taken << 3)) == 0, "no more prefixes"),
        ]
        insn = stage.o.payload
        with m.If(emitted):
            m.d.comb += [
                Assert(stage.o.valid, "an instruction"),
                Assert(insn.pc == before, "begins where the last one ended"),
                Assert(insn.next_pc == start, "the next one begins where it ends"),
                Assert((insn.pc + insn.length)[:64] == insn.next_pc, "length"),
                Assert((insn.length != 0) | insn.fault.valid, "not empty"),
                Assert((insn.bytes >> (insn.length << 3)) == 0, "no more bytes"),
                Assert(~gone | (insn.bytes.word_select(inside[:4], 8) == value), "the byte is in it"),
            ]
        return m
