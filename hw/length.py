"""Stage L: finds where an instruction ends and takes its bytes apart, without giving them meaning.

Everything that depends on the opcode (is there a ModRM byte, how long is the immediate) is a row of a small ROM made
from the instruction table (with VEX and EVEX, an opcode has the lengths of its map). `hw.isa.reference.split` is the same in
plain Python.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.invariant import invariant
from hw.isa.facts import EventClass, Vector
from hw.isa.reference import MAX_LENGTH, attributes
from hw.isa.rows import VEX
from hw.types import Fault, Insn, Override, Rep

#: Immediate classes of `Row.immediate`, in the order of their numbers in the ROM.
_CLASSES = ("", "b", "w", "wb", "d", "z", "v", "a")


class _Attributes(data.Struct):
    """One row of the ROM: `hw.isa.reference.Attributes`, encoded."""

    modrm: 1
    kind: 3  # index into _CLASSES
    low_regs: 1
    unsigned: 1
    registers: 1


class _Prefixes(data.Struct):
    """What the legacy prefixes so far amount to."""

    opsize: 1
    asize: 1
    lock: 1
    rep: Rep
    seg: Override


#: What a legacy prefix does: byte, field of `_Prefixes`, value. The other four mean nothing.
_EFFECTS = (
    (0x66, "opsize", 1),
    (0x67, "asize", 1),
    (0xF0, "lock", 1),
    (0xF2, "rep", Rep.F2),
    (0xF3, "rep", Rep.F3),
    (0x64, "seg", Override.FS),
    (0x65, "seg", Override.GS),
)

_TOO_LONG = Fault.const(dict(valid=1, vector=Vector.GP, kind=EventClass.FAULT, has_error=1))


def _rom() -> list[dict]:
    rows = []
    for index in range(1024):
        what = attributes(index >> 8, index & 0xFF)
        fields = {name: getattr(what, name) for name in ("modrm", "low_regs", "unsigned", "registers")}
        rows.append(fields | dict(kind=_CLASSES.index(what.immediate)))
    return rows


def _is_legacy(byte):
    return byte.matches("001--110", "011001--", "1111001-", "11110000")


def _is_rex(byte):
    return byte[4:8] == 4


class _Vector(data.Struct):
    """What a VEX or EVEX prefix says. Register bits as REX has them."""

    here: 1
    evex: 1
    known: 1  # its map exists
    rex: 4
    vvvv: 4
    long: 1
    pp: 2


class Length(Component):
    """Takes one instruction a cycle from the window; each legacy prefix beyond the first takes a cycle of its own.

    ``window``, ``avail``, ``pc`` and ``fault`` are those of `hw.fetch.Fetch`. ``consume`` is combinational from them,
    ``o.ready`` and ``kill``; ``o`` comes from registers, one cycle later.

    An instruction that cannot be completed because fetching faulted, or that is longer than 15 bytes, goes on as an
    `Insn` with that `Fault`; after it nothing follows until ``kill``. An undefined opcode ends with its opcode byte:
    the decoder refuses it.
    """

    window: In(128)  #: byte 0 is the next instruction byte
    avail: In(range(17))  #: valid bytes of the window
    pc: In(64)  #: address of byte 0
    fault: In(Fault)  #: why there will be no byte after those
    consume: Out(range(17))  #: bytes taken in this cycle
    o: Out(stream.Signature(Insn))
    held: Out(1)  #: prefixes have been taken of an instruction that is not complete
    held_page: Out(19)  #: physical page of the first of them, where the map is static
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
        prefixes = Signal(_Prefixes)  # those taken earlier and this one
        has_rex = Signal()
        rex = Signal(4)
        lead = Signal(2)  # bytes before the opcode
        body = Signal(120)  # from the opcode on
        front.d.comb += prefixes.eq(state)
        with front.Switch(byte0):
            for byte, field, value in _EFFECTS:
                with front.Case(byte):
                    front.d.comb += prefixes[field].eq(value)
        with front.If(_is_legacy(byte0)):
            with front.If(_is_rex(byte1)):
                front.d.comb += [has_rex.eq(1), rex.eq(byte1[0:4]), lead.eq(2), body.eq(self.window[16:])]
            with front.Else():
                front.d.comb += [lead.eq(1), body.eq(self.window[8:])]
        with front.Elif(_is_rex(byte0)):
            front.d.comb += [has_rex.eq(1), rex.eq(byte0[0:4]), lead.eq(1), body.eq(self.window[8:])]
        with front.Else():
            front.d.comb += body.eq(self.window)

        # The opcode, behind its escape bytes; or one more prefix where it should be.
        m.submodules.opcode = opcode = Module()
        m.submodules.rom = rom = Memory(shape=_Attributes, depth=1024, init=_rom())
        lookup = rom.read_port(domain="comb")
        another = Signal()
        vector = Signal(_Vector)
        base = Signal(3)  # bytes up to the opcode, with it
        tail = Signal(96)  # what follows the opcode
        opcode.d.comb += another.eq((lead != 0) & (_is_legacy(body[0:8]) | _is_rex(body[0:8])))
        escape, last = body[8:16], Signal(8)  # `last`: the byte of a VEX prefix with vvvv, L and pp
        opcode.d.comb += [vector.vvvv.eq(~last[3:7]), vector.long.eq(last[2]), vector.pp.eq(last[0:2])]
        with opcode.Switch(body[0:8]):
            with opcode.Case(0x0F):
                with opcode.If(escape.matches(0x38, 0x3A)):
                    opcode.d.comb += [lookup.addr.eq(Cat(body[16:24], body[9], 1)), tail.eq(body[24:]), base.eq(lead + 3)]
                with opcode.Else():
                    opcode.d.comb += [lookup.addr.eq(Cat(escape, 1)), tail.eq(body[16:]), base.eq(lead + 2)]
            with opcode.Case(0xC5):
                opcode.d.comb += [vector.here.eq(1), vector.known.eq(1), last.eq(escape)]
                opcode.d.comb += vector.rex.eq(Cat(Const(0, 2), ~escape[7]))
                opcode.d.comb += [lookup.addr.eq(Cat(body[16:24], 1)), tail.eq(body[24:]), base.eq(lead + 3)]
            with opcode.Case(0xC4):
                opcode.d.comb += [vector.here.eq(1), last.eq(body[16:24])]
                opcode.d.comb += vector.known.eq(escape[0:2].any() & ~escape[2:5].any())
                opcode.d.comb += vector.rex.eq(Cat(~escape[5:8], last[7]))
                opcode.d.comb += [lookup.addr.eq(Cat(body[24:32], escape[0:2])), tail.eq(body[32:]), base.eq(lead + 4)]
            with opcode.Case(0x62):
                opcode.d.comb += [vector.here.eq(1), vector.evex.eq(1), last.eq(body[16:24])]
                opcode.d.comb += vector.known.eq(escape[0:3].matches(1, 2, 3, 5, 6))
                opcode.d.comb += vector.rex.eq(Cat(~escape[5:8], last[7]))
                opcode.d.comb += [lookup.addr.eq(Cat(body[32:40], escape[0:2])), tail.eq(body[40:]), base.eq(lead + 5)]
            with opcode.Default():
                opcode.d.comb += [lookup.addr.eq(body[0:8]), tail.eq(body[8:]), base.eq(lead + 1)]
        what = lookup.data

        # Sizes of what follows it.
        m.submodules.sizes = sizes = Module()
        mod, rm = tail[6:8], tail[0:3]
        half = prefixes.opsize & ~rex[3]
        has_sib = Signal()
        disp_size = Signal(3)
        imm_size = Signal(4)
        with sizes.If(what.modrm & ~what.registers):
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

        m.submodules.sum = sum_ = Module()
        middle = Signal(3)  # bytes from ModRM to the displacement
        total = Signal(range(32))
        sum_.d.comb += [
            middle.eq(what.modrm + has_sib + disp_size),
            total.eq(Mux(another, lead + 2, base + what.modrm + has_sib + disp_size + imm_size)),
        ]

        m.submodules.hold = hold = Module()
        first = (self.pc - taken)[:31]
        with hold.If(taken != 0):
            hold.d.comb += [self.held.eq(1), self.held_page.eq(first[12:])]

        # Is it all here? If not all of it ever can be, it goes on with a fault.
        m.submodules.decide = decide = Module()
        room = ~taken  # bytes the instruction may still have: 15 - taken
        free = ~self.o.valid | self.o.ready
        size = Signal(range(16))  # bytes that go on
        emit = Signal()
        step = Signal()  # one more prefix goes into the state
        too_long = Signal()
        broken = Signal()
        with decide.If(self.kill | stopped):
            pass
        with decide.Elif(another & (total <= room) & (self.avail > lead)):
            decide.d.comb += [step.eq(1), self.consume.eq(lead)]
        with decide.Elif((total > room) & (self.avail >= room)):
            decide.d.comb += [emit.eq(free), too_long.eq(1), size.eq(room), self.consume.eq(Mux(free, room, 0))]
        with decide.Elif((self.avail >= total) & ~another):
            decide.d.comb += [emit.eq(free), size.eq(total), self.consume.eq(Mux(free, total, 0))]
        with decide.Elif(self.fault.valid):
            decide.d.comb += [emit.eq(free), broken.eq(1), size.eq(self.avail)]

        invariant(m, "length.consume", self.consume <= self.avail, "{} bytes taken of {}", self.consume, self.avail)
        with m.If(emit):
            length = (taken + size)[:5]
            invariant(m, "length.bytes", (length <= MAX_LENGTH) & ((length != 0) | broken), "an instruction of {}", length)

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
            m.d.sync += [
                self.o.valid.eq(1),
                stopped.eq(broken | too_long),
                insn.pc.eq(self.pc - taken),
                insn.next_pc.eq(self.pc + size),
                insn.length.eq(taken + size),
                insn.bytes.eq(early | (self._first(size) << Cat(Const(0, 3), taken))),
                insn.map.eq(lookup.addr[8:10]),
                insn.vvvv.eq(0),
                insn.long.eq(0),
                insn.refused.eq(0),
                insn.opcode.eq(lookup.addr[0:8]),
                insn.modrm.eq(Mux(what.modrm, tail[0:8], 0)),
                insn.sib.eq(Mux(has_sib, tail[8:16], 0)),
                insn.rex.eq(rex),
                insn.has_rex.eq(has_rex),
                insn.opsize.eq(prefixes.opsize),
                insn.asize.eq(prefixes.asize),
                insn.lock.eq(prefixes.lock),
                insn.rep.eq(prefixes.rep),
                insn.seg.eq(prefixes.seg),
                insn.fault.eq(0),
            ]
            with m.If(vector.here):
                m.d.sync += [
                    insn.map.eq(Mux(vector.evex, VEX, Cat(lookup.addr[8:10], 1))),
                    insn.vvvv.eq(vector.vvvv),
                    insn.long.eq(vector.long | vector.evex),
                    insn.refused.eq(~vector.known | has_rex | prefixes.opsize | prefixes.lock | (prefixes.rep != Rep.NONE)),
                    insn.rex.eq(vector.rex),
                    insn.has_rex.eq(0),
                    insn.opsize.eq(vector.pp == 1),
                    insn.rep.eq(Mux(vector.pp[1], vector.pp ^ 1, 0)),  # pp 2 is F3, 3 is F2
                ]
            with m.Switch(disp_size):
                with m.Case(1):
                    m.d.sync += insn.disp.eq(Mux(has_sib, tail[16:24], tail[8:16]).as_signed())
                with m.Case(4):
                    m.d.sync += insn.disp.eq(Mux(has_sib, tail[16:48], tail[8:40]))
                with m.Default():
                    m.d.sync += insn.disp.eq(0)
            with m.Switch(imm_size):
                for bytes_ in (1, 2, 3, 4, 8):
                    raw = (tail >> Cat(Const(0, 3), middle))[: 8 * bytes_]
                    with m.Case(bytes_):
                        m.d.sync += insn.imm.eq(raw if bytes_ in (3, 8) else Mux(what.unsigned, raw, raw.as_signed()))
                with m.Default():
                    m.d.sync += insn.imm.eq(0)
            with m.If(too_long):
                m.d.sync += insn.fault.eq(_TOO_LONG)
            with m.Elif(broken):
                m.d.sync += insn.fault.eq(self.fault)
        with m.If(self.kill):
            m.d.sync += [self.o.valid.eq(0), stopped.eq(0)]
        return m

    def _first(self, count):
        """The first `count` bytes of the window; the others 0."""
        return self.window[0:120] & ~(Const((1 << 120) - 1, 120) << Cat(Const(0, 3), count))
