"""One hart: the seven stages, wired. No logic but the order of redirects and the sharing of ports.

    F fetch -> L length -> D decode -> A address -> M memory -> X execute -> W retire

What is killed: a redirect of D drops F and L; one of X also D, A and M; a flush of W everything.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, Out, connect, flipped

from hw.address import AddressStage
from hw.breakpoints import DR7_GD
from hw.bus import ApicPort, DataBus, DebugPort, FetchBus, IoPort, IrqPort, PipePort, RetirePort
from hw.config import Config, Snoop
from hw.decode import Decode
from hw.execute import ExecuteStage
from hw.fetch import Fetch
from hw.invariant import invariant
from hw.isa.facts import RFlag, Size, SysOp
from hw.length import Length
from hw.linebuffer import LineBuffer
from hw.memory import MemoryStage
from hw.mmu import Mmu
from hw.regfile import Bypass, RegFile
from hw.retire import RetireStage
from hw.split import SplitBus
from hw.sysregs import APIC_EN, CR4_DE, CR4_FSGSBASE, CR4_TSD, CR4_UMIP, EFER_SCE


class Core(Component):
    """A hart of 64-bit mode. It begins when the debug port writes rip, or one that is not the first by INIT and start-up.

    Members: `hw.bus` describes each port. unlock : it does not hold the memory's lock, or not after this cycle
    (`hw.cluster.MemoryLock`). reset : INIT resets the hart in this cycle, and its interrupt controller with it.
    """

    def __init__(self, config: Config, number: int = 0, harts: int = 1):
        """Hart `number` of `harts` that share the memory."""
        self._config, self._number, self._shared = config, number, harts > 1
        super().__init__(
            {
                "fetch": Out(FetchBus()),
                "data": Out(DataBus()),
                "unlock": Out(1),
                "reset": Out(1),
                "irq": Out(IrqPort()),
                "apic": Out(ApicPort()),
                "io": Out(IoPort()),
                "dbg": Out(DebugPort()),
                "retire": Out(RetirePort()),
                "pipe": Out(PipePort()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.f = f = Fetch(self._config.ram_bytes)
        m.submodules.l = length = Length()
        m.submodules.d = d = Decode(self._config.vendor)
        m.submodules.a = a = AddressStage(self._config.ram_bytes)
        m.submodules.m = mem = MemoryStage()
        m.submodules.x = x = ExecuteStage(self._number)
        m.submodules.w = w = RetireStage(self._config, self._number == 0, self._shared)
        m.submodules.regs = regs = RegFile()
        m.submodules.mmu = mmu = Mmu(self._config.ram_bytes)
        m.submodules.split = split = SplitBus()

        connect(m, length=length.o, decode=d.i)
        connect(m, decode=d.o, address=a.i)
        connect(m, address=a.o, memory=mem.i)
        connect(m, memory=mem.o, execute=x.i)
        connect(m, execute=x.o, retire=w.i)
        self._lines(m, f, w)
        connect(m, irq=w.irq, port=flipped(self.irq))
        connect(m, dbg=w.dbg, port=flipped(self.dbg))
        connect(m, retire=w.retire, port=flipped(self.retire))
        m.d.comb += [
            length.window.eq(f.window),
            length.avail.eq(f.avail),
            length.pc.eq(f.pc),
            length.fault.eq(f.fault),
            f.consume.eq(length.consume),
            f.user.eq(w.cpl == 3),
        ]

        # redirects, weakest first; a younger source yields to an older one
        m.d.comb += [f.redirect.eq(d.redirect), length.kill.eq(d.redirect.valid)]
        with m.If(x.redirect.valid):
            m.d.comb += [f.redirect.eq(x.redirect), length.kill.eq(1), d.kill.eq(1), a.kill.eq(1), mem.kill.eq(1)]
        with m.If(w.flush):
            m.d.comb += [
                f.redirect.eq(w.redirect),
                length.kill.eq(1),
                d.kill.eq(1),
                a.kill.eq(1),
                mem.kill.eq(1),
                x.kill.eq(1),
            ]

        flushed, redirected = Signal(), Signal()
        m.d.sync += [flushed.eq(w.flush), redirected.eq(x.redirect.valid)]
        younger = Cat(d.i.valid, a.i.valid, mem.i.valid, x.i.valid)
        with m.If(flushed):
            invariant(m, "core.flush", (younger == 0) & ~w.i.valid, "D, A, M, X hold {:04b}, W {}", younger, w.i.valid)
        with m.If(redirected):
            invariant(m, "core.redirect", younger == 0, "D, A, M, X hold {:04b}", younger)

        # registers
        for stage, names in ((a, ("base", "index")), (mem, ("a", "b", "c"))):
            for name in names:
                m.d.comb += [
                    getattr(regs, f"{name}_addr").eq(getattr(stage, f"{name}_addr")),
                    getattr(stage, f"{name}_data").eq(getattr(regs, f"{name}_data")),
                ]
        in_m = Signal(Bypass)
        late = mem.i.payload
        m.d.comb += [
            regs.debug_addr.eq(w.debug_addr),
            w.debug_data.eq(regs.debug_data),
            regs.d_we.eq(w.d_we),
            regs.d_addr.eq(w.d_addr),
            regs.d_data.eq(w.d_data),
            regs.sp_we.eq(w.sp_we),
            regs.sp_data.eq(w.sp_data),
            in_m.d_we.eq(mem.i.valid & late.u.d_we),
            in_m.d_reg.eq(late.u.d_reg),
            in_m.sp_we.eq(mem.i.valid & late.u.sp_we),
            in_m.sp.eq(late.sp),
            a.from_m.eq(in_m),
            a.from_x.eq(x.bypass),
            a.from_w.eq(w.bypass),
            mem.from_x.eq(x.bypass),
            mem.from_w.eq(w.bypass),
        ]

        # the data bus: a store that retires goes before a younger load, and the walker walks when there are no loads
        bus, table = split.core, mmu.bus
        connect(m, split=split.memory, port=flipped(self.data))
        m.d.comb += [
            bus.req_valid.eq(w.store | table.req_valid | a.request),
            bus.req_write.eq(w.store),
            bus.req_addr.eq(a.request_pa),
            bus.req_size.eq(a.request_size),
            bus.req_lock.eq(a.request_lock),
            bus.req_data.eq(w.store_data),
            split.split.eq(a.request_split),
            split.rest.eq(a.request_rest),
            split.owed.eq(mem.owed),
            w.store_grant.eq(bus.req_ready),
            table.req_ready.eq(bus.req_ready & ~w.store),
            a.grant.eq(bus.req_ready & ~w.store),
            a.walking.eq(mmu.busy),
            mem.resp_valid.eq(bus.resp_valid & ~mmu.busy),
            mem.resp_data.eq(bus.resp_data),
            table.resp_valid.eq(bus.resp_valid),
            table.resp_data.eq(bus.resp_data),
        ]
        with m.If(w.store):
            m.d.comb += [
                bus.req_addr.eq(w.store_pa),
                bus.req_size.eq(w.store_size),
                bus.req_lock.eq(w.store_lock),
                split.split.eq(w.store_split),
                split.rest.eq(w.store_rest),
            ]
        with m.Elif(table.req_valid):
            m.d.comb += [
                bus.req_addr.eq(table.req_addr),
                bus.req_size.eq(Size.Q),
                bus.req_write.eq(table.req_write),
                bus.req_lock.eq(table.req_lock),
                bus.req_data.eq(table.req_data),
                split.split.eq(0),
            ]
        for name, stage in (("m", mem), ("x", x), ("w", w)):
            payload = stage.i.payload
            m.d.comb += [
                getattr(a, f"store_{name}").eq(stage.i.valid & payload.u.store),
                getattr(a, f"store_{name}_pa").eq(payload.pa),
                getattr(a, f"store_{name}_size").eq(payload.u.msize),
                getattr(a, f"store_{name}_split").eq(payload.split),
            ]

        # system state
        system, gates = w.sys, x.gates
        m.d.comb += [
            d.deliver.eq(w.deliver),
            d.deliver_error.eq(w.deliver_error),
            d.cpl.eq(w.cpl),
            d.fpu.mp.eq(system.cr0[1]),
            d.fpu.em.eq(system.cr0[2]),
            d.fpu.ts.eq(system.cr0[3]),
            d.fpu.osfxsr.eq(system.cr4[9]),
            d.fpu.osxsave.eq(system.cr4[18]),
            d.resolved.eq(x.resolved),
            d.resolved_pc.eq(x.resolved_pc),
            d.agreed.eq(x.agreed),
            d.led.eq(x.led),
            d.resolved_target.eq(x.redirect.target),
            d.iopl.eq(Cat(w.rflags[RFlag.IOPL], w.rflags[RFlag.IOPL + 1])),
            d.guard.eq(system.dr7[DR7_GD]),
            d.de.eq(system.cr4[CR4_DE]),
            a.fs_base.eq(system.fs_base),
            a.gs_base.eq(system.gs_base),
            a.gate_addr.eq(system.idt_base + (w.event.vector << 4)),
            a.gate_beyond.eq((w.event.vector << 4) + 15 > system.idt_limit),
            a.gate_error.eq((w.event.vector << 3) | 2),
            a.switch.eq(gates.switch),
            a.user.eq(w.cpl == 3),
            a.user_frame.eq(gates.cs[0:2] == 3),
            x.flags_committed.eq(w.flags_committed),
            x.rflags.eq(w.rflags),
            x.tsc.eq(w.tsc),
            x.older.eq(w.busy),
            self.apic.enable.eq(system.apic_base[11]),
            self.apic.cr8_we.eq(system.cr8_we),
            self.apic.cr8.eq(system.wdata),
            system.tpr.eq(self.apic.tpr),
            w.armed.eq(self.apic.armed),
            w.nmi.eq(self.apic.nmi),
            w.init.eq(self.apic.init),
            w.start.eq(self.apic.start),
            w.page.eq(self.apic.page),
            self.reset.eq(w.reset),
            system.read.eq(x.sysreg),
            x.sysreg_data.eq(system.read_data),
            gates.cpl.eq(w.cpl),
            d.modes.nt.eq(w.rflags[RFlag.NT]),
            d.modes.tsd.eq(system.cr4[CR4_TSD]),
            d.modes.umip.eq(system.cr4[CR4_UMIP]),
            d.modes.fsgsbase.eq(system.cr4[CR4_FSGSBASE]),
            d.modes.sce.eq(system.efer[EFER_SCE]),
            x.apic.eq(system.apic_base[APIC_EN]),
            gates.gdt_base.eq(system.gdt_base),
            gates.gdt_limit.eq(system.gdt_limit),
            gates.ldt_base.eq(system.ldt_base),
            gates.ldt_limit.eq(system.ldt_limit),
            gates.tr.eq(system.tr),
            gates.tr_base.eq(system.tr_base),
            gates.tr_limit.eq(system.tr_limit),
            gates.event_vector.eq(w.event.vector),
            gates.event_kind.eq(w.event.kind),
            gates.event_rip.eq(w.event.rip),
            gates.event_flags.eq(w.event.flags),
            gates.event_error.eq(w.event.error),
            w.gate_trap.eq(gates.trap_gate),
            w.far_cs.eq(gates.cs),
            w.far_ss.eq(gates.ss),
            w.far_ss_we.eq(gates.ss_we),
        ]

        # ports: an `out` retires when an `in` is not the oldest, so they never meet
        m.d.comb += [
            self.io.valid.eq(w.out_valid | x.io_valid),
            self.io.write.eq(w.out_valid),
            self.io.port.eq(x.io_port),
            self.io.size.eq(x.io_size),
            self.io.data.eq(w.out_data),
            x.io_data.eq(self.io.rdata),
        ]
        with m.If(w.out_valid):
            m.d.comb += [self.io.port.eq(w.out_port), self.io.size.eq(w.out_size)]

        self._pages(m, f, d, a, mem, x, w, mmu)
        if self._shared:
            self._order(m, a, (mem, x, w), w, mmu, split)
        self._code_pages(m, f, length, (d, a, mem, x, w), w)
        self._show(m, f, length, d, a, mem, x, w)
        return m

    def _pages(self, m, f, d, a, mem, x, w, mmu):
        """The walker's requesters. A walk sees every older store, and marks no page that is not used."""
        system = w.sys

        def far(u):
            return u.iret | (u.sysop == SysOp.FAR) | (u.sysop == SysOp.SYSCALL) | (u.sysop == SysOp.SYSRET)

        nothing_older = Signal()
        connect(m, fetch=f.walk, mmu=mmu.fetch)
        connect(m, address=a.walk, mmu=mmu.data)
        m.d.comb += [
            mmu.rules.on.eq(system.cr3[12:52].any()),
            mmu.rules.root.eq(system.cr3[12:32]),
            mmu.rules.root_high.eq(system.cr3[32:52].any()),
            mmu.rules.wp.eq(system.cr0[16]),
            mmu.rules.smep.eq(system.cr4[20]),
            mmu.rules.nxe.eq(system.efer[11]),
            mmu.flush.eq(w.tlb_flush),
            nothing_older.eq(~(mem.i.valid | x.i.valid | w.i.valid | mem.owed)),
            mmu.data_alone.eq(nothing_older),
            mmu.data_kill.eq(a.kill),
            mmu.fetch_alone.eq(nothing_older & ~(a.i.valid | d.i.valid | w.delivering)),
            mmu.fetch_kill.eq(f.redirect.valid),
            f.hold.eq(Cat(s.i.valid & (s.i.payload.u.deliver | far(s.i.payload.u)) for s in (x, w)).any()),
            f.stored_page.eq(w.stored_page),
            f.stored_last.eq(w.stored_last),
            a.smap.eq(system.cr4[21]),
            a.alignment.eq(system.cr0[18]),
            a.ac.eq(w.rflags[RFlag.AC]),
        ]

    def _order(self, m, a, later, w, mmu, split):
        """What other harts may see of the order of loads and stores (SDM vol. 3, 8.2): a load passes older stores, unless they
        are locked or a fence is between. A locked load is made when all older instructions have retired, so that their stores
        are in memory and only an event that comes between two instructions can drop it. The walker's locks nothing drops."""
        holds, keeps = Signal(), Signal()  # an instruction has made its locked load; and goes on
        lasts = [stage.i.valid & stage.i.payload.u.last for stage in later]
        fences = [last & stage.i.payload.u.lock for last, stage in zip(lasts, later, strict=True)]
        m.d.comb += [
            a.hold.eq(Cat(fences).any() | (a.i.payload.u.lock & (Cat(lasts).any() | w.asleep))),
            keeps.eq((holds | (a.request & a.request_lock & a.grant)) & ~(w.unlock | w.flush)),
            self.unlock.eq(Mux(mmu.busy, mmu.bus.req_write & mmu.bus.req_ready & ~holds, ~keeps)),
            split.unlock.eq(self.unlock),
            w.stall.eq(w.out_valid & ~self.io.ready),
        ]
        m.d.sync += holds.eq(keeps)

    def _code_pages(self, m, f, length, stages, w):
        """Are bytes of the pages just stored to in flight? The two views of RAM share the low address bits; with tables, a
        page that the fetch TLB has may be in flight."""
        hits = [f.holds_stored]
        for page in (w.stored_page, w.stored_last):
            hits += [f.queue_page_valid & (f.queue_page == page), f.fetch_page_valid & (f.fetch_page == page)]
            hits.append(length.held & (length.held_page == page))
            for stage in stages:
                payload = stage.i.payload
                u = payload if stage is stages[0] else payload.u
                hits.append(stage.i.valid & ((u.pc[12:31] == page) | (u.next_pc[12:31] == page)))
        if self._config.snoop is not Snoop.NONE:
            m.d.comb += w.code_page.eq(Cat(hits).any())

    def _lines(self, m, f, w):
        """Code that the hart keeps until it serialises."""
        if not self._config.stale_lines:
            connect(m, fetch=f.bus, bus=flipped(self.fetch))
            return
        m.submodules.lines = lines = LineBuffer(self._config.stale_lines)
        connect(m, fetch=f.bus, lines=lines.core)
        connect(m, lines=lines.memory, bus=flipped(self.fetch))
        m.d.comb += [
            lines.empty.eq(w.serialises),
            lines.store_addr.eq(self.data.req_addr),
            lines.store_last.eq(self.data.req_addr + (1 << self.data.req_size) - 1),
        ]
        if self._config.snoop is not Snoop.NONE:
            m.d.comb += lines.store.eq(self.data.req_valid & self.data.req_ready & self.data.req_write)

    def _show(self, m, f, length, d, a, mem, x, w):
        """The pipe port."""
        p = self.pipe
        places = {
            "f": (f.bus.req_valid, f.pc, ~f.bus.req_ready),
            "l": (f.avail != 0, f.pc, length.consume == 0),
            "d": (d.i.valid | w.delivering, d.i.payload.pc, ~d.i.ready),
            "a": (a.i.valid, a.i.payload.u.pc, ~a.i.ready),
            "m": (mem.i.valid, mem.i.payload.u.pc, ~mem.i.ready),
            "x": (x.i.valid, x.i.payload.u.pc, ~x.i.ready),
            "w": (w.i.valid, w.i.payload.u.pc, ~w.i.ready),
        }
        for name, (valid, pc, stall) in places.items():
            m.d.comb += [
                getattr(p, f"{name}_valid").eq(valid),
                getattr(p, f"{name}_pc").eq(pc),
                getattr(p, f"{name}_stall").eq(stall),
            ]
        m.d.comb += [p.redirect.eq(f.redirect.valid), p.redirect_pc.eq(f.redirect.target)]
