"""What is pending between two instructions, against the procedure of the trap semantics (3.8), and the NMI latch (7.1)."""

import pytest

from hw.boundary import Boundary, Shadow
from hw.config import Config, Vendor
from hw.isa.facts import SysOp, SysReg
from hw.nmi import NmiLatch
from tests.unit.opbench import simulate


class Reference:
    """The procedure, in words of the reference."""

    def __init__(self, vendor):
        self.amd = vendor == Vendor.AMD
        self.shadow, self.bs, self.b, self.halted, self.mid_rep = Shadow.NONE, False, 0, False, False

    def retire(self, kind, tf, if_, hits=0, again=False):
        """An instruction ends: "mov ss", "sti", "hlt" or another; a delivery is "deliver". `tf`: the one that counts."""
        arms = kind == "mov ss" and (self.amd or self.shadow != Shadow.MOVSS)
        self.bs = tf and not arms and kind != "deliver"
        self.b |= hits
        self.shadow = Shadow.MOVSS if arms else Shadow.STI if kind == "sti" and not if_ else Shadow.NONE
        self.halted |= kind == "hlt"
        self.mid_rep = again

    def take(self, keep=False):
        self.shadow, self.bs, self.halted, self.mid_rep = Shadow.NONE, False, False, False
        self.b = self.b if keep else 0


FACTS = {
    "mov ss": (SysOp.SEGMENT, SysReg.SS), "mov ds": (SysOp.SEGMENT, SysReg.DS), "sti": (SysOp.STI, 0), "hlt": (SysOp.HLT, 0),
    "syscall": (SysOp.SYSCALL, 0), "sysret": (SysOp.SYSRET, 0),
}  # fmt: skip


@pytest.mark.parametrize("vendor", Vendor)
def test_random_instructions(vendor, rng):
    dut = Boundary(Config(vendor=vendor))

    async def tick(ctx, **ports):
        for name in ("commit", "ends", "first", "deliver", "again", "take", "keep", "moved", "hits"):
            ctx.set(getattr(dut, name), ports.pop(name, 0))
        for name, value in ports.items():
            ctx.set(getattr(dut, name), value)
        await ctx.tick()

    async def bench(ctx):
        model = Reference(vendor)
        for step in range(600):
            what = rng.choice(("insn", "insn", "insn", "take", "keep", "moved", "idle"))
            if what == "insn":
                kind = rng.choice(("mov ss", "mov ss", *FACTS, "other", "other", "deliver"))
                sysop, sysreg = FACTS.get(kind, (SysOp.NONE, SysReg.SS))
                tf, if_, again = rng.getrandbits(1), rng.getrandbits(1), rng.getrandbits(1)
                after = rng.getrandbits(1)
                uops, hits = rng.randrange(1, 4), 0
                for n in range(uops):
                    hit = 0 if kind == "deliver" else rng.choice((0, 0, 0, 1 << rng.randrange(4)))
                    hits |= hit
                    last = n == uops - 1
                    # only the first uop sees the TF that counts, and only the last one's sysop is the instruction's
                    await tick(
                        ctx, commit=1, ends=last, first=n == 0, deliver=kind == "deliver", again=again and last, hits=hit,
                        tf_before=tf if n == 0 else rng.getrandbits(1), tf_after=after, if_before=if_,
                        sysop=sysop if last else SysOp.NONE, sysreg=sysreg,
                    )  # fmt: skip
                    assert ctx.get(dut.boundary) == last
                model.retire(kind, bool(after if kind in ("syscall", "sysret") else tf), if_, hits, bool(again))
            elif what == "idle":
                await tick(ctx, sysop=SysOp.SEGMENT, sysreg=SysReg.SS, ends=1, hits=15, first=1, again=1)
            else:
                await tick(ctx, take=what != "moved", keep=what == "keep", moved=what == "moved")
                model.take(what == "keep")
                if what != "moved":
                    assert not ctx.get(dut.boundary), "a delivery begins"
                    await tick(ctx, commit=1, ends=1, deliver=1, sysop=SysOp.DELIVER)
                    assert ctx.get(dut.boundary)
            got = tuple(int(ctx.get(p)) for p in (dut.stepped, dut.met, dut.halted, dut.mid_rep))
            assert got == (model.bs, model.b, model.halted, model.mid_rep), (step, what)
            assert ctx.get(dut.shadow) == model.shadow, (step, what)

    simulate(dut, bench, clock=True)


def test_nmi_latch():
    """One request beside the one in service; a burst while blocked is one; iretq unblocks."""
    dut = NmiLatch()

    async def bench(ctx):
        async def tick(line=0, taken=0, unblock=0):
            for name, value in (("line", line), ("taken", taken), ("unblock", unblock)):
                ctx.set(getattr(dut, name), value)
            coming = ctx.get(dut.coming)
            await ctx.tick()
            if not taken:
                assert ctx.get(dut.ready) >= coming
            return ctx.get(dut.ready)

        assert not await tick()
        assert await tick(line=1)
        assert await tick(line=1), "it waits, and a level is one request"
        assert not await tick(line=1, taken=1)
        for _ in range(5):
            assert not await tick(line=1)
            assert not await tick(line=0)
        assert await tick(unblock=1), "one of the five"
        assert not await tick(taken=1)
        assert not await tick(unblock=1), "and no more"
        assert await tick(line=1)
        assert not await tick(line=0, taken=1)
        assert not await tick(line=1)
        ctx.set(dut.line, 0)
        assert not ctx.get(dut.coming), "not while blocked"

    simulate(dut, bench, clock=True)
