"""A trap's frame lies where an emulated push belongs: the word that the runtime pushed has to be there afterwards."""

import pytest

from kprobes import Kprobe, Options, PtRegs
from sim.frames import CODE, PT_REGS_BYTES, written_back
from sim.guestbuild import build_text

SOURCE = """
	.globl	main
	.type	main, @function
main:	push	%rbx
	mov	%rsp, %rbx
	and	$-16, %rsp
	.rept	2				/* with sp at 0 modulo 16, then at 8 */
	call	leaf
	call	*pointer(%rip)
	pushfq
	pop	results - 16 + 64(%rcx)
	pushfw
	popw	results - 8 + 64(%rcx)
	push	$0
	.endr
	mov	%rbx, %rsp
	pop	%rbx
	xor	%eax, %eax
	ret
	.size	main, . - main

	.type	leaf, @function
leaf:	lea	results(%rip), %rcx
	add	count(%rip), %rcx
	addl	$8, count(%rip)
	mov	(%rsp), %rax
	mov	%rax, (%rcx)
	sub	$results, %rcx
	ret
	.size	leaf, . - leaf

	.data
pointer: .quad	leaf
count:	.quad	0
results: .skip	256
"""


def run(machine, options, wanted):
    elf = build_text(SOURCE, name="pushes", suffix=".S")
    with machine(elf, probes=options) as m:
        start, end = m.symbols.lookup("main"), m.symbols.lookup("leaf")
        if wanted:
            for addr in instructions(m, start, end):
                m.kprobes.register_kprobe(Kprobe(addr=addr, pre_handler=lambda p, regs: None))
        result = m.run(60_000)
        phases = [event.phase for event in m.events if event.kind == "probe"]
        return result.exit, m.mem.read(m.symbols.lookup("results"), 256), phases


def instructions(m, start, end):
    from kprobes.insn import walk

    code = m.mem.read(start, end - start)
    return [addr for addr, _, text in walk(code, start) if text.startswith(("call", "pushf"))]


def test_I01_I03_I20_I22_what_is_emulated_pushes_below_the_interrupted_stack(machine):
    exit_, results, _ = run(machine, Options(), False)
    assert exit_ == 1 and results.count(b"\xff\xff\xff\xff") >= 4
    probed_exit, probed, phases = run(machine, Options(step="int3"), True)
    assert (probed_exit, probed) == (exit_, results)
    assert phases.count("emulate") == 8


@pytest.mark.parametrize("sp", range(0x8FF8, 0x9010, 2))
def test_only_a_stack_that_has_grown_into_the_frame_takes_the_longer_way(sp):
    where, before, after = 0x9000 - PT_REGS_BYTES, PtRegs(sp=0x9004, cs=8, ss=16), PtRegs(ip=0x1234, sp=sp)
    memory = bytes(range(256)) * 2
    made = written_back(lambda at, n: memory[at - 0x8F00:at - 0x8F00 + n], where, before, after, 0x5000)
    if sp >= 0x9000:
        assert made == [(where, after.pack())]
        return
    (low, block), (at, first) = made
    first = PtRegs.unpack(first)
    assert at == where and (first.ip, first.sp, first.cs, first.ss, first.flags) == (0x5000, low, 8, 16, 2)
    count, target = (int.from_bytes(block[i:i + 8], "little") for i in (0, 8))
    assert sp - 8 < target <= sp and target + 8 * count == 0x9000
    assert block[16:16 + 8 * count] == memory[target - 0x8F00:0x100]
    assert block[16 + 8 * count:] == after.pack() and low + len(block) == where
    assert len(CODE) < 64
