"""System registers: what a write keeps, what always reads as 1, and what delivery, page faults and swapgs change."""

import pytest

from hw.config import Config, Vendor
from hw.isa.facts import SysReg
from hw.sysregs import ROWS, SysRegs
from tests.unit.opbench import M64, simulate

#: Register: (value after reset, bits a write keeps, bits that read as 1): SDM vol. 3, 2.5 and 17.2, by name of the bits.
_16, _32 = 0xFFFF, 0xFFFFFFFF
FACTS = {
    "CR0": (0x80050033, 0xE005002F, 0x10),  # PG CD NW AM WP NE TS EM MP PE; ET is 1
    "CR2": (0, M64, 0),
    "CR3": (0, M64, 0),
    "CR4": (0x20, 0x7FFFFF, 0),
    "ES": (0x10, _16, 0),
    "CS": (0x08, _16, 0),
    "SS": (0x10, _16, 0),
    "DS": (0x10, _16, 0),
    "FS": (0, _16, 0),
    "GS": (0, _16, 0),
    "TR": (0, _16, 0),
    "LDTR": (0, _16, 0),
    "LDT_BASE": (0, M64, 0),
    "LDT_LIMIT": (0, _32, 0),
    "DR0": (0, M64, 0),
    "DR1": (0, M64, 0),
    "DR2": (0, M64, 0),
    "DR3": (0, M64, 0),
    "DR6": (0xFFFF0FF0, 0xE00F, 0xFFFF0FF0),  # BT BS BD B3-B0
    "DR7": (0x400, 0xFFFF23FF, 0x400),  # LEN R/W GD GE LE G L
    "IDT_BASE": (0, M64, 0),
    "IDT_LIMIT": (_16, _16, 0),
    "GDT_BASE": (0, M64, 0),
    "GDT_LIMIT": (0, _16, 0),
    "TR_BASE": (0, M64, 0),
    "TR_LIMIT": (0, _32, 0),
    "FS_BASE": (0, M64, 0),
    "GS_BASE": (0, M64, 0),
    "KERNEL_GS_BASE": (0, M64, 0),
    "APIC_BASE": (0xFEE00900, 0x800, 0xFEE00100),  # the page, EN, BSP
    "EFER": (0x500, 0x801, 0x500),  # NXE LMA LME SCE
    **dict.fromkeys(("STAR", "LSTAR", "CSTAR"), (0, M64, 0)),
    **dict.fromkeys(("FMASK", "TSC_AUX"), (0, _32, 0)),
    "PAT": (0x0007040600070406, M64, 0),
}
EVENTS = ("we", "swapgs", "segment", "fault_we", "dr6_we", "deliver_we", "far_we", "outer")


class Model:
    """The registers as a dictionary, and a driver that makes one thing happen."""

    def __init__(self, ctx, dut):
        self.ctx, self.dut = ctx, dut
        self.value = {name: reset for name, (reset, _, _) in FACTS.items()}

    async def tick(self, **ports):
        for name, value in ports.items():
            self.ctx.set(getattr(self.dut, name), value)
        await self.ctx.tick()
        for name in EVENTS:
            self.ctx.set(getattr(self.dut, name), 0)

    async def write(self, name, data):
        await self.tick(we=1, waddr=SysReg[name], wdata=data)
        _, mask, ones = FACTS[name]
        self.value[name] = data & mask | ones

    def check(self):
        for name, value in self.value.items():
            for port, data in ((self.dut.read, self.dut.read_data), (self.dut.debug, self.dut.debug_data)):
                self.ctx.set(port, SysReg[name])
                seen = self.ctx.get(data)
                assert seen == value, f"{name}: {seen:#x}, not {value:#x}"
        for reg in SysRegs.WATCHED:
            assert self.ctx.get(getattr(self.dut, reg.name.lower())) == self.value[reg.name]


def run(test, config=Config()):
    dut = SysRegs(config)

    async def bench(ctx):
        model = Model(ctx, dut)
        model.check()
        await test(model)
        model.check()

    simulate(dut, bench, clock=True)


def test_every_register_has_a_row():
    assert {row.reg for row in ROWS} == set(SysReg) - {SysReg.CR8, SysReg.TSC} == {SysReg[name] for name in FACTS}


def test_cr8_is_in_the_interrupt_controller():
    async def test(model):
        model.ctx.set(model.dut.tpr, 0xA5)
        model.ctx.set(model.dut.read, SysReg.CR8)
        assert model.ctx.get(model.dut.read_data) == 0xA
        for reg in (SysReg.CR8, SysReg.CR4):
            model.ctx.set(model.dut.we, 1)
            model.ctx.set(model.dut.waddr, reg)
            assert model.ctx.get(model.dut.cr8_we) == (reg == SysReg.CR8)
            model.ctx.set(model.dut.we, 0)
            assert not model.ctx.get(model.dut.cr8_we)

    run(test)


@pytest.mark.parametrize("name", FACTS)
def test_writes(name, rng):
    async def test(model):
        for data in (M64, 0, rng.getrandbits(64), rng.getrandbits(64)):
            await model.write(name, data)
            model.check()

    run(test)


def test_nothing_changes_without_a_write(rng):
    async def test(model):
        for name in FACTS:
            await model.write(name, rng.getrandbits(64))
        await model.tick(wdata=M64, waddr=SysReg.DR0, cr2=5, new_cs=7, new_ss=9, ss_we=1, db=1, dr6_b=15, dr6_bs=1, dr6_bd=1)

    run(test)


def test_indices_without_a_register():
    async def test(model):
        for index in set(range(64)) - set(SysReg):
            await model.tick(we=1, waddr=index, wdata=M64)
            model.ctx.set(model.dut.read, index)
            assert model.ctx.get(model.dut.read_data) == 0

    run(test)


def test_swapgs():
    async def test(model):
        await model.write("GS_BASE", 0x1111)
        await model.write("KERNEL_GS_BASE", 0xFFFF888000000000)
        for _ in range(3):
            await model.tick(swapgs=1)
            swapped = model.value["KERNEL_GS_BASE"], model.value["GS_BASE"]
            model.value["GS_BASE"], model.value["KERNEL_GS_BASE"] = swapped
            model.check()

    run(test)


def test_a_page_fault_writes_cr2(rng):
    async def test(model):
        for _ in range(4):
            model.value["CR2"] = rng.getrandbits(64)
            await model.tick(fault_we=1, cr2=model.value["CR2"])
            model.check()

    run(test)


@pytest.mark.parametrize("before", (0, 0xF, 0xE00F, 0x2005))
@pytest.mark.parametrize("b, bs, bd", ((0, 1, 0), (5, 0, 0), (10, 1, 0), (0, 0, 1)))
def test_a_debug_exception_writes_dr6(before, b, bs, bd):
    """B3 to B0 are rewritten, BS and BD set; what is set of BS, BD and BT is left for software to clear."""

    async def test(model):
        await model.write("DR6", before)
        await model.tick(dr6_we=1, dr6_b=b, dr6_bs=bs, dr6_bd=bd)
        model.value["DR6"] = before & 0xE000 | b | bs << 14 | bd << 13 | 0xFFFF0FF0

    run(test)


@pytest.mark.parametrize("ss_we", (0, 1))
@pytest.mark.parametrize("db", (0, 1))
def test_delivery(ss_we, db):
    """CS always, SS with a change of privilege; DR7.GD is cleared on #DB and on nothing else."""

    async def test(model):
        await model.write("DR7", 0x23FF)
        await model.write("SS", 0x2B)
        await model.tick(deliver_we=1, new_cs=0x8, new_ss=0, ss_we=ss_we, db=db)
        model.value["CS"] = 8
        if ss_we:
            model.value["SS"] = 0
        if db:
            model.value["DR7"] = 0x07FF

    run(test)


def packed(selector, dpl=0, conforming=0, base=0):
    """What the load of a segment register writes."""
    return selector | dpl << 16 | conforming << 18 | base << 32


@pytest.mark.parametrize("name", ("ES", "SS", "DS", "FS", "GS"))
def test_a_segment_register_is_loaded(name):
    """The selector, and the base of FS and GS; the others have none in 64-bit mode."""

    async def test(model):
        await model.write(name, 0x1234)
        await model.tick(we=1, segment=1, waddr=SysReg[name], wdata=packed(0x28, 3, 1, 0x89ABCDEF))
        model.value[name] = 0x28
        if name in ("FS", "GS"):
            model.value[f"{name}_BASE"] = 0x89ABCDEF

    run(test)


@pytest.mark.parametrize("vendor", Vendor)
def test_a_null_selector_and_the_base(vendor):
    async def test(model):
        await model.write("FS_BASE", 0xFFFF800000000000)
        await model.tick(we=1, segment=1, waddr=SysReg.FS, wdata=3)
        model.value["FS"] = 3
        if vendor is Vendor.INTEL:
            model.value["FS_BASE"] = 0

    run(test, Config(vendor=vendor))


def test_return_to_less_privilege_clears_what_it_may_not_use():
    """The hidden DPL decides, not the selector's RPL; conforming code stays; bases stay."""

    async def test(model):
        await model.write("GS_BASE", 0xFFFF800000000000)
        loads = {"ES": packed(0x2B, 3), "DS": packed(0x10, 2), "FS": packed(0x13, 0, base=0x7000), "GS": packed(0x18, 0, 1)}
        for name, data in loads.items():
            await model.tick(we=1, segment=1, waddr=SysReg[name], wdata=data)
            model.value[name] = data & 0xFFFF
        model.value |= {"FS_BASE": 0x7000, "GS_BASE": 0}
        await model.tick(far_we=1, outer=1, new_cs=0x32, ss_we=0)
        model.value |= {"CS": 0x32, "FS": 0}
        model.check()
        await model.tick(far_we=1, outer=1, new_cs=0x33, ss_we=0)
        model.value |= {"CS": 0x33, "DS": 0}

    run(test)


def test_the_time_stamp_counter_counts_and_can_be_set():
    async def test(model):
        ctx, dut = model.ctx, model.dut
        ctx.set(dut.read, SysReg.TSC)
        before = ctx.get(dut.read_data)
        await model.tick()
        assert ctx.get(dut.read_data) == ctx.get(dut.tsc) == before + 1
        await model.tick(we=1, waddr=SysReg.TSC, wdata=M64)
        assert ctx.get(dut.tsc) == M64
        await model.tick()
        assert ctx.get(dut.tsc) == 0

    run(test)
