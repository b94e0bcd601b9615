"""A hart that has one line of an instruction from before a patch and the other from after it runs a mixture of the two, if
nothing serialises it; with the patching protocol it never does (H16, P24)."""

import functools
import re

import pytest

from hw.config import Config
from kprobes import Options
from sim.engine import Recording
from sim.explore import arm, explore
from sim.guestbuild import RUNTIME_DIR, SMP, build_text
from sim.machine import Machine

#: Lines that a hart keeps until it serialises or another takes their place: those whose addresses differ by 16 * LINES.
LINES = 16

#: The loop is in lines 0 to 2; the patched instruction, as long as a jump, begins in the last three bytes of line 3. A call of
#: `other` lets a line far away take the place of line OTHER.
GUEST = """
#include "smp.h"

__asm__(".text; .balign 4096; .globl loop; .type loop, @function; loop:"
	"push %rbx; mov $24, %ebx; mov %edi, %eax;"
	"1: call work; call other;"
	"mov $5, %ecx; 2: dec %ecx; jnz 2b;"
	"dec %ebx; jnz 1b; pop %rbx; ret; .size loop, . - loop;"
	".fill loop + 0x3b - ., 1, 0xcc; .globl work; .type work, @function; work:"
	"rol %eax;"
	".globl w_add; w_add: add $0x01020304, %eax;"
	"ret; .size work, . - work;"
	".balign 256; .fill 16 * OTHER, 1, 0xcc; .globl other; .type other, @function; other:"
	"ret; .size other, . - other; .balign 256");

uint32_t loop(uint32_t x);
static uint32_t sums[2];
static void body(unsigned hart) { sums[hart] = loop(hart + 1); }

int main(void)
{
	start_harts(2, body);
	body(0);
	join_harts();
	report("torn", fold(sums[0], sums[1]));
	return 0;
}
"""

#: Both harts are in the loop, of 35 cycles a turn.
WINDOW = (700, 1000)

#: The line that `other` begins in, since a hart fetches one line ahead; the delay of a jump; and what a hart then runs: the new
#: first bytes with the old last ones, or the old first bytes with the new last ones. For the first the jump must be there when a
#: hart comes again, for the second every hart must have passed the instruction before the breakpoint is seen in its line.
HALVES = pytest.mark.parametrize(("other", "delay", "mixed"), [
    (2, 8, r"e9 \w\w \w\w 02 01"), (4, 40, r"05 04 03 \w\w \w\w"),
], ids=("first line new", "last line new"))


@pytest.fixture
def explored(engine_pool):
    """Arms a probe in the cycles of the window; a jump follows."""

    def make(engine, elf, delay, sync):
        options = Options(optimize=True, optimize_delay=delay)
        return Machine(elf, engine=engine, record=Recording.ALL, probes=options, sync=sync)

    def run(other, delay, step, sync=None):
        elf = build_text(GUEST.replace("OTHER", str(other)), name="torn", beside=[RUNTIME_DIR / name for name in SMP])
        engine = engine_pool.borrow("compiled", harts=2, config=Config(stale_lines=LINES))
        return explore(functools.partial(make, engine, elf, delay, sync), arm("w_add"), range(*WINDOW, step), most=None)

    return run


@HALVES
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.every_cycle)])
def test_H16_P24_the_protocol_lets_no_hart_run_a_mixture(explored, other, delay, mixed, step):
    found = explored(other, delay, step)
    assert not found.findings, found.findings[0]


@HALVES
def test_harts_that_do_not_serialise_run_a_mixture(explored, other, delay, mixed):
    found = explored(other, delay, 11, sync="none")
    torn = [problem for finding in found.findings for problem in finding.problems if "mixture of old and new bytes" in problem]
    assert len(torn) > found.runs // 2
    assert all(re.match(rf"hart \d ran {mixed} at work\+0x2 in cycle ", problem) for problem in torn), torn
