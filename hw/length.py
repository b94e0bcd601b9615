"""Stage L: finds where an instruction ends and takes its bytes apart, without giving them meaning.

Everything that depends on the opcode (is there a ModRM byte, how long is the immediate) is a row of a small ROM made
from the instruction table; `hw.isa.reference.split` is the same in plain Python.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.isa.facts import EventClass, Vector
from hw.isa.reference import MAX_LENGTH, attributes
from hw.types import Fault, Insn, Override, Rep

#: Immediate classes of `Row.immediate`, in the order of their numbers in the ROM.
_CLASSES = ("", "b", "w", "wb", "d", "z", "v", "a")


class _Attributes(data.Struct):
    """One row of the ROM: `hw.isa.reference.Attributes`, encoded."""

    modrm: 1
    kind: 3  # index into _CLASSES
    low_regs: 1
    unsigned: 1


class _Prefixes(data.Struct):
    """What the legacy prefixes so far amount to."""

    opsize: 1
    asize: 1
    lock: 1
    rep: Rep
    seg: Override


def _rom() -> list[dict]:
    rows = []
    for index in range(1024):
        what = attributes(index >> 8, index & 0xFF)
        kind = _CLASSES.index(what.immediate)
        rows.append(dict(modrm=what.modrm, kind=kind, low_regs=what.low_regs, unsigned=what.unsigned))
    return rows


def _is_legacy(byte):
    return byte.matches("001--110", "011001--", "1111001-", "11110000")


def _is_rex(byte):
    return byte[4:8] == 4


def _sign_extend(value, width: int):
    return Cat(value, value[-1].replicate(width - len(value)))


class Length(Component):
    """Takes one instruction a cycle from the window; each legacy prefix beyond the first takes a cycle of its own.

    ``window``, ``avail``, ``pc`` and ``fault`` are those of `hw.fetch.Fetch`. ``consume`` is combinational from them,
    ``o.ready`` and ``kill``; ``o`` comes from registers, one cycle later.

    An instruction that cannot be completed because fetching faulted, or that is longer than 15 bytes, goes on as an
    `Insn` with that `Fault`; after it nothing follows until ``kill``. An undefined opcode ends with its opcode byte: the
    decoder refuses it.
    """

    window: In(128)  #: byte 0 is the next instruction byte
    avail: In(range(17))  #: valid bytes of the window
    pc: In(64)  #: address of byte 0
    fault: In(Fault)  #: why there will be no byte after those
    consume: Out(range(17))  #: bytes taken in this cycle
    o: Out(stream.Signature(Insn))
    kill: In(1)  #: drops, at the end of this cycle, what is in ``o`` and all prefix state; nothing is consumed

    def elaborate(self, _):
        """Prefixes, opcode, sizes, the decision, and the registers, in that order."""
        m = Module()
        state = Signal(_Prefixes)  # prefixes taken in earlier cycles
        taken = Signal(range(MAX_LENGTH))  # their number (REX bytes that do not count included)
        early = Signal(8 * MAX_LENGTH)  # and their bytes
        stopped = Signal()  # a fault has gone on; what follows does not exist

        # One legacy prefix and one REX.
        m.submodules.front = front = Module()
        byte0, byte1 = self.window[0:8], self.window[8:16]
        legacy = Signal()
        rex = Signal(4)
        has_rex = Signal()
        lead = Signal(2)  # bytes before the opcode
        body = Signal(120)  # from the opcode on
        prefixes = Signal(_Prefixes)
        rex_byte = Mux(_is_legacy(byte0), byte1, byte0)
        front.d.comb += [
            legacy.eq(_is_legacy(byte0)),
            has_rex.eq(_is_rex(rex_byte)),
            rex.eq(Mux(_is_rex(rex_byte), rex_byte[0:4], 0)),
            lead.eq(_is_legacy(byte0) + _is_rex(rex_byte)),
            body.eq(self.window >> Cat(Const(0, 3), (_is_legacy(byte0) + _is_rex(rex_byte))[0:2])),
            prefixes.eq(state),
        ]
        with front.Switch(byte0):
            with front.Case(0x66):
                front.d.comb += prefixes.opsize.eq(1)
            with front.Case(0x67):
                front.d.comb += prefixes.asize.eq(1)
            with front.Case(0xF0):
                front.d.comb += prefixes.lock.eq(1)
            with front.Case(0xF2):
                front.d.comb += prefixes.rep.eq(Rep.F2)
            with front.Case(0xF3):
                front.d.comb += prefixes.rep.eq(Rep.F3)
            with front.Case(0x64):
                front.d.comb += prefixes.seg.eq(Override.FS)
            with front.Case(0x65):
                front.d.comb += prefixes.seg.eq(Override.GS)

        # The opcode, behind its escape bytes.
        m.submodules.opcode = opcode = Module()
        m.submodules.rom = rom = Memory(shape=_Attributes, depth=1024, init=_rom())
        lookup = rom.read_port(domain="comb")
        another = Signal()  # not an opcode but one more prefix
        map_ = Signal(2)
        tail = Signal(96)  # what follows the opcode
        byte = Signal(8)
        base = Signal(3)  # bytes up to the opcode
        escaped = body[0:8] == 0x0F
        twice = escaped & body[8:16].matches(0x38, 0x3A)
        opcode.d.comb += another.eq(_is_legacy(body[0:8]) | _is_rex(body[0:8]))
        with opcode.If(twice):
            opcode.d.comb += [map_.eq(Cat(body[9], 1)), byte.eq(body[16:24]), tail.eq(body[24:]), base.eq(lead + 3)]
            opcode.d.comb += lookup.addr.eq(Cat(body[16:24], body[9], 1))
        with opcode.Elif(escaped):
            opcode.d.comb += [map_.eq(1), byte.eq(body[8:16]), tail.eq(body[16:]), base.eq(lead + 2)]
            opcode.d.comb += lookup.addr.eq(Cat(body[8:16], Const(1, 2)))
        with opcode.Else():
            opcode.d.comb += [map_.eq(0), byte.eq(body[0:8]), tail.eq(body[8:]), base.eq(lead + 1)]
            opcode.d.comb += lookup.addr.eq(body[0:8])

        # ModRM, SIB, displacement and immediate: how long each is.
        m.submodules.sizes = sizes = Module()
        what = lookup.data
        has_sib = Signal()
        disp_size = Signal(3)
        imm_size = Signal(4)
        mod, rm = tail[6:8], tail[0:3]
        half = prefixes.opsize & ~rex[3]
        with sizes.If(what.modrm):
            sizes.d.comb += has_sib.eq((mod != 3) & (rm == 4))
            with sizes.Switch(mod):
                with sizes.Case(0):
                    sizes.d.comb += disp_size.eq(Mux((rm == 5) | ((rm == 4) & (tail[8:11] == 5)), 4, 0))
                with sizes.Case(1):
                    sizes.d.comb += disp_size.eq(1)
                with sizes.Case(2):
                    sizes.d.comb += disp_size.eq(4)
        with sizes.If(~what.low_regs | (tail[4:6] == 0)), sizes.Switch(what.kind):
            for number, fixed in enumerate((0, 1, 2, 3, 4)):
                with sizes.Case(number):
                    sizes.d.comb += imm_size.eq(fixed)
            with sizes.Case(_CLASSES.index("z")):
                sizes.d.comb += imm_size.eq(Mux(half, 2, 4))
            with sizes.Case(_CLASSES.index("v")):
                sizes.d.comb += imm_size.eq(Mux(rex[3], 8, Mux(half, 2, 4)))
            with sizes.Case(_CLASSES.index("a")):
                sizes.d.comb += imm_size.eq(Mux(prefixes.asize, 4, 8))

        # Is it all here?
        total = Signal(range(32))
        need = Signal(range(16))  # bytes that must be here to decide
        too_long = Signal()
        done = Signal()  # a whole instruction, or one that is too long
        step = Signal()  # one more prefix taken into the state
        broken = Signal()  # the bytes end before the instruction does
        emit = Signal()
        room = ~taken  # bytes the instruction may still have: 15 - taken
        m.d.comb += total.eq(Mux(another, lead + 2, base + what.modrm + has_sib + disp_size + imm_size))
        m.d.comb += [
            too_long.eq(total > room),
            need.eq(Mux(total > room, room, total)),
        ]
        live = ~self.kill & ~stopped
        free = ~self.o.valid | self.o.ready
        m.d.comb += [
            done.eq(live & (self.avail >= need) & (too_long | ~another)),
            step.eq(live & another & ~too_long & (self.avail > lead)),
        ]
        m.d.comb += [
            broken.eq(live & ~done & ~step & self.fault.valid),
            emit.eq((done | broken) & free),
            self.consume.eq(Mux(done, Mux(free, need, 0), Mux(step, lead, 0))),
        ]

        # Registers.
        insn = self.o.payload
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(emit | self.kill):
            m.d.sync += [state.eq(0), taken.eq(0), early.eq(0)]
        with m.Elif(step):
            m.d.sync += [
                state.eq(prefixes),
                taken.eq(taken + lead),
                early.eq(early | (self._first(lead) << Cat(Const(0, 3), taken))),
            ]
        with m.If(emit):
            size = Mux(done, need, self.avail[0:4])
            at = Mux(what.modrm, has_sib + disp_size + 1, 0)
            m.d.sync += [
                self.o.valid.eq(1),
                stopped.eq(broken | too_long),
                insn.pc.eq(self.pc - taken),
                insn.next_pc.eq(self.pc + size),
                insn.length.eq(taken + size),
                insn.bytes.eq(early | (self._first(size) << Cat(Const(0, 3), taken))),
                insn.map.eq(map_),
                insn.opcode.eq(byte),
                insn.modrm.eq(Mux(what.modrm, tail[0:8], 0)),
                insn.sib.eq(Mux(has_sib, tail[8:16], 0)),
                insn.disp.eq(self._disp(Mux(has_sib, tail[16:48], tail[8:40]), disp_size)),
                insn.imm.eq(self._imm(tail >> Cat(Const(0, 3), at), imm_size, what.unsigned)),
                insn.rex.eq(rex),
                insn.has_rex.eq(has_rex),
                insn.opsize.eq(prefixes.opsize),
                insn.asize.eq(prefixes.asize),
                insn.lock.eq(prefixes.lock),
                insn.rep.eq(prefixes.rep),
                insn.seg.eq(prefixes.seg),
                insn.fault.eq(Mux(broken, self.fault.as_value(), 0)),
            ]
            with m.If(done & too_long):
                m.d.sync += insn.fault.eq(
                    Fault.const(dict(valid=1, vector=Vector.GP, kind=EventClass.FAULT, has_error=1))
                )
        with m.If(self.kill):
            m.d.sync += [self.o.valid.eq(0), stopped.eq(0)]
        return m

    def _first(self, count):
        """The first `count` bytes of the window; the others 0."""
        return self.window[0:120] & ~(Const((1 << 120) - 1, 120) << Cat(Const(0, 3), count))

    def _disp(self, raw, size):
        return Mux(size[2], raw, Mux(size[0], _sign_extend(raw[0:8], 32), 0))

    def _imm(self, raw, size, unsigned):
        """The immediate at the start of `raw`: 0, 1, 2, 3, 4 or 8 bytes, extended to 64 bits."""
        signed = Mux(size[1], _sign_extend(raw[0:16], 64), Mux(size[0], _sign_extend(raw[0:8], 64), 0))
        plain = Mux(size[1], Mux(size[0], raw[0:24], raw[0:16]), Mux(size[0], raw[0:8], 0))
        small = Mux(unsigned | (size[0:2] == 3), plain, signed)
        word = Mux(unsigned, raw[0:32], _sign_extend(raw[0:32], 64))
        return Mux(size[3], raw[0:64], Mux(size[2], word, small))
