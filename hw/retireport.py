"""The retire port: what `hw.bus.RetirePort` promises, from what stage W holds."""

from amaranth.hdl import Mux


def show(m, port, done, commit, rflags, trap):
    """Drives ``port`` from the result ``done`` (`hw.types.Done`) that retires with ``commit``, and the picker ``trap``."""
    d, u, r = done, done.u, port
    m.d.comb += [
        r.valid.eq(commit),
        r.first.eq(u.first),
        r.last.eq(d.ends),
        r.again.eq(d.again),
        r.pc.eq(u.pc),
        r.length.eq(u.length),
        r.bytes.eq(u.bytes),
        r.next_pc.eq(d.target),
        r.reg_we.eq(u.d_we),
        r.reg.eq(u.d_reg),
        r.reg_data.eq(d.result),
        r.sp_we.eq(u.sp_we),
        r.sp.eq(d.sp),
        r.mem_re.eq(u.load),
        r.mem_we.eq(u.store),
        r.mem_addr.eq(d.la),
        r.mem_size.eq(u.msize),
        r.mem_data.eq(Mux(u.store, d.store, d.mem)),
        r.rflags.eq(rflags),
        r.iret.eq(u.iret),
        r.deliver.eq(u.deliver),
        r.trap.eq(trap.take),
        r.trap_vector.eq(trap.taken.vector),
        r.trap_class.eq(trap.taken.kind),
        r.trap_has_error.eq(trap.taken.has_error),
        r.trap_error.eq(trap.taken.error),
        r.trap_rip.eq(trap.taken.rip),
        r.trap_addr.eq(trap.cr2),
    ]

