"""The address stage: base + index * scale + disp, segment base, translation, and the load's request."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hw.bus import PHYS_BITS
from hw.handshake import has_room, register_output
from hw.isa.facts import Size, Vector
from hw.paging import FRAME_BITS, WalkPort
from hw.regfile import Bypass, forward
from hw.translate import DataTranslate
from hw.types import Addressed, Decoded, Override


class PendingStore(Component):
    """A store that has not reached memory: a younger load of the same bytes waits for it. Plain ports, combinational.

    Members
    -------
    valid, pa, size : the older store. load_pa, load_size : the load. conflict : they share a byte.
    """

    valid: In(1)
    pa: In(PHYS_BITS)
    size: In(2)
    load_pa: In(PHYS_BITS)
    load_size: In(2)
    conflict: Out(1)

    def elaborate(self, platform):
        m = Module()
        distance = Signal(PHYS_BITS)
        m.d.comb += distance.eq(self.load_pa - self.pa)
        behind = distance < (1 << self.size)
        before = (~distance + 1)[:PHYS_BITS] < (1 << self.load_size)
        m.d.comb += self.conflict.eq(self.valid & (behind | before))
        return m


class AddressStage(Component):
    """Stage A.

    Members
    -------
    i, o : uops in, addressed uops out (registered). kill : drop both.
    base_addr, base_data, index_addr, index_data : register file ports.
    from_m, from_x, from_w : bypasses, youngest first.
    stores : for m, x and w: valid, pa and size of a store that is not yet in memory.
    stores : for m, x and w: also whether it is split.
    request, request_pa, request_size, request_lock, grant : the load's request; it is made in a cycle with both.
    request_lock, a claim to the memory's lock, is also there when the uop is just being dropped (`hw.bus.DataBus`).
    request_split, request_rest : it crosses its page, and goes on in another frame.
    walk : to the page walker. walking : it has the data bus. smap, ac : CR4.SMAP; RFLAGS.AC, which lifts it.
    alignment : CR0.AM, which with ac makes what CPL 3 does not align a fault.
    hold : the uop's load may not be requested in this cycle, because of what other harts may see.
    fs_base, gs_base : segment bases. gate_addr : address of the gate of the vector being delivered, and whether it lies
    beyond the IDT's limit. switch : accesses marked if_switch happen. user : CPL is 3; user_frame : so it will be after the
    delivery, whose frame is then of the user.
    """

    def __init__(self, ram_bytes: int):
        self._ram_bytes = ram_bytes
        members = {
            "i": In(stream.Signature(Decoded)),
            "o": Out(stream.Signature(Addressed)),
            "kill": In(1),
            "base_addr": Out(5),
            "base_data": In(64),
            "index_addr": Out(5),
            "index_data": In(64),
            "from_m": In(Bypass),
            "from_x": In(Bypass),
            "from_w": In(Bypass),
            "request": Out(1),
            "request_pa": Out(PHYS_BITS),
            "request_size": Out(2),
            "request_lock": Out(1),
            "request_split": Out(1),
            "request_rest": Out(FRAME_BITS),
            "walk": Out(WalkPort()),
            "walking": In(1),
            "smap": In(1),
            "ac": In(1),
            "alignment": In(1),
            "grant": In(1),
            "hold": In(1),
            "fs_base": In(64),
            "gs_base": In(64),
            "gate_addr": In(64),
            "gate_beyond": In(1),
            "gate_error": In(16),
            "switch": In(1),
            "user": In(1),
            "user_frame": In(1),
        }
        for stage in "mxw":
            members |= {f"store_{stage}": In(1), f"store_{stage}_pa": In(PHYS_BITS), f"store_{stage}_size": In(2)}
            members[f"store_{stage}_split"] = In(1)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        u, g = self.i.payload.u, self.i.payload.g
        stages = (self.from_m, self.from_x, self.from_w)
        m.d.comb += [self.base_addr.eq(g.base), self.index_addr.eq(g.index)]
        base, base_wait = forward(m, "base", g.base, self.base_data, stages)
        index, index_wait = forward(m, "index", g.index, self.index_data, stages)

        wait = Signal()
        origin, ea, la, segment = Signal(64), Signal(64), Signal(64), Signal(64)
        with m.If(g.gate):
            m.d.comb += origin.eq(self.gate_addr)
        with m.Elif(g.rip):
            m.d.comb += origin.eq(u.next_pc)
        with m.Elif(g.base_en):
            m.d.comb += origin.eq(base)
        with m.Switch(g.seg):
            with m.Case(Override.FS):
                m.d.comb += segment.eq(self.fs_base)
            with m.Case(Override.GS):
                m.d.comb += segment.eq(self.gs_base)
        total = Signal(64)
        m.d.comb += [
            wait.eq((g.base_en & base_wait) | (g.index_en & index_wait)),
            total.eq(origin + Mux(g.index_en, index << g.scale, 0) + g.disp),
            ea.eq(Mux(g.asize, total[:32], total)),
            la.eq(ea + segment),
        ]

        m.submodules.translate = translate = DataTranslate(self._ram_bytes)
        connect(m, translate=translate.walk, walk=flipped(self.walk))
        load, store, user = Signal(), Signal(), Signal()
        dropped = g.if_switch & ~self.switch
        m.d.comb += [
            load.eq(u.load & ~dropped),
            store.eq(u.store & ~(u.touch & dropped)),
            user.eq(Mux(u.deliver, self.user_frame, self.user) & ~u.implicit),
            translate.la.eq(la),
            translate.last.eq((1 << u.msize) - 1),
        ]

        conflict, pending, split = Signal(), Signal(), Signal()
        for stage in "mxw":
            m.submodules[f"pending_{stage}"] = older = PendingStore()
            m.d.comb += [
                older.valid.eq(getattr(self, f"store_{stage}")),
                older.pa.eq(getattr(self, f"store_{stage}_pa")),
                older.size.eq(getattr(self, f"store_{stage}_size")),
                older.load_pa.eq(translate.pa),
                older.load_size.eq(u.msize),
            ]
        olders = [m.submodules[f"pending_{stage}"] for stage in "mxw"]
        m.d.comb += [
            pending.eq(self.store_m | self.store_x | self.store_w),
            split.eq(translate.split | Cat(getattr(self, f"store_{stage}_split") for stage in "mxw").any()),
            conflict.eq(Cat(older.conflict for older in olders).any() | (pending & split)),
        ]

        out = Signal(Addressed)
        fault = Signal()
        access, write = load | store | u.probe, (store & ~u.touch) | g.intent
        beyond = g.gate & self.gate_beyond
        misaligned = g.align & (u.msize == Size.Q) & la[0:4].any()
        unaligned = Signal()  # CPL 3 asks for alignment (SDM vol. 3, 6.15, #AC)
        with m.If(self.alignment & self.ac & user):
            m.d.comb += unaligned.eq((la[0:4] & ((Mux(g.align, 2, 1) << u.msize) - 1)).any())
        m.d.comb += [
            translate.valid.eq(self.i.valid & access & ~wait & ~beyond & ~misaligned & ~unaligned),
            translate.access.write.eq(write),
            translate.access.user.eq(user),
            translate.access.smap.eq(self.smap & ~(self.ac & ~(u.deliver | u.implicit))),
            out.split.eq(translate.split),
            out.rest.eq(translate.rest),
            out.u.eq(u),
            out.u.load.eq(load),
            out.u.store.eq(store),
            out.ea.eq(ea),
            out.la.eq(la),
            out.pa.eq(translate.pa),
            out.sp.eq(ea + g.sp_delta),
            fault.eq(access & (translate.noncanonical | translate.missing | beyond | misaligned | unaligned)),
        ]
        with m.If(fault & ~u.fault.valid):
            m.d.comb += [
                out.u.fault.valid.eq(1),
                out.u.fault.has_error.eq(1),
                out.u.fault.addr.eq(translate.cr2),
                out.u.load.eq(0),
                out.u.store.eq(0),
            ]
            with m.If(beyond):
                m.d.comb += [out.u.fault.vector.eq(Vector.GP), out.u.fault.error.eq(self.gate_error)]
            with m.Elif(translate.noncanonical):
                m.d.comb += out.u.fault.vector.eq(Mux(g.stack, Vector.SS, Vector.GP))
            with m.Elif(misaligned):
                m.d.comb += out.u.fault.vector.eq(Vector.GP)
            with m.Elif(unaligned):
                m.d.comb += out.u.fault.vector.eq(Vector.AC)
            with m.Else():
                m.d.comb += [out.u.fault.vector.eq(Vector.PF), out.u.fault.error.eq(translate.error)]

        there, free, may, go = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            there.eq(self.i.valid & ~wait & (fault | ~(access & translate.wait))),
            free.eq(has_room(self.o) & ~self.kill),
            may.eq(there & load & ~fault & ~conflict & ~(translate.device & pending) & ~(self.walking | self.hold)),
            self.request.eq(may & free),
            self.request_pa.eq(translate.pa),
            self.request_size.eq(u.msize),
            self.request_lock.eq(may & u.lock),
            self.request_split.eq(translate.split),
            self.request_rest.eq(translate.rest),
            go.eq(there & free & (~load | fault | (self.request & self.grant))),
            self.i.ready.eq(go),
        ]
        register_output(m, self.o, go, out, self.kill)
        return m
