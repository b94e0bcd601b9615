"""What is checked at the ports: each function is a cocotb test, run by `test_verilog.py` in a simulation of its own."""

from __future__ import annotations

import cocotb
from testbench import CODE, CODE_SELECTOR, DATA, DATA_SELECTOR, HANDLER, STACK, Bench

from hw.isa.facts import DebugReg, Reg, SysReg

CF, TF, IF = 1 << 0, 1 << 8, 1 << 9
DR6_BS = 1 << 14

#: Where delivery puts the frame: five quadwords below the stack pointer, aligned to 16.
FRAME = (STACK & ~15) - 40

#: Stores 1 to 5 to DATA + 4 .. DATA + 20.
LOOP = (
    "b905000000"  # mov ecx, 5
    "bf00200000"  # mov edi, 0x2000
    "890c8f"  # 1: mov [rdi + rcx * 4], ecx
    "ffc9"  # dec ecx
    "75f9"  # jnz 1b
    "f4"  # hlt
)


def frame(bench: Bench) -> dict[str, int]:
    return {name: bench.read(FRAME + 8 * i) for i, name in enumerate(("rip", "cs", "rflags", "rsp", "ss"))}


async def loop(bench: Bench) -> None:
    await bench.start(LOOP)
    await bench.until(bench.dbg__halted)
    assert [bench.read(DATA + 4 * i, 4) for i in range(7)] == [0, 1, 2, 3, 4, 5, 0]
    assert len(bench.retired()) == 2 + 5 * 3 + 1
    assert await bench.get(Reg.RCX) == 0
    assert await bench.get(DebugReg.RIP) == CODE + len(bytes.fromhex(LOOP))
    assert bench.traps() == []


@cocotb.test()
async def a_loop_stores_to_memory(dut) -> None:
    await loop(Bench(dut))


@cocotb.test()
async def slow_memory_changes_nothing(dut) -> None:
    for seed in range(3):
        await loop(Bench(dut, slow=seed))


@cocotb.test()
async def reset_stops_a_running_hart(dut) -> None:
    bench = Bench(dut)
    await bench.start("ebfe")  # jmp .
    for _ in range(20):
        await bench.step()
    assert len(bench.retired()) > 2
    await loop(Bench(dut))


@cocotb.test()
async def int3_is_delivered_through_the_idt(dut) -> None:
    bench = Bench(dut)
    bench.gate(3, HANDLER)
    bench.write(HANDLER, "488b0424 f4")  # mov rax, [rsp]; hlt
    await bench.start("90 cc f4", rflags=2 | CF | IF)  # nop; int3; hlt
    await bench.until(bench.dbg__halted)
    after = CODE + 2
    assert bench.traps() == [{"vector": 3, "rip": after}]
    assert frame(bench) == {
        "rip": after,
        "cs": CODE_SELECTOR,
        "rflags": 2 | CF | IF,
        "rsp": STACK,
        "ss": DATA_SELECTOR,
    }
    assert await bench.get(Reg.RAX) == after
    assert await bench.get(Reg.RSP) == FRAME
    assert await bench.get(DebugReg.RFLAGS) == 2 | CF
    assert bench.retired() == [CODE, HANDLER, HANDLER + 4]


@cocotb.test()
async def one_instruction_is_stepped(dut) -> None:
    bench = Bench(dut)
    bench.gate(1, HANDLER)
    bench.write(HANDLER, "f4")  # hlt
    await bench.start("ffc3 ffc3 f4", rflags=2 | TF)  # inc ebx; inc ebx; hlt
    await bench.until(bench.dbg__halted)
    assert bench.traps() == [{"vector": 1, "rip": CODE + 2}]
    assert bench.retired() == [CODE, HANDLER]
    assert await bench.get(Reg.RBX) == 1
    saved = frame(bench)
    assert (saved["rip"], saved["rflags"]) == (CODE + 2, 2 | TF)
    assert await bench.get(DebugReg.RFLAGS) == 2
    assert await bench.system(SysReg.DR6) & DR6_BS


@cocotb.test()
async def iretq_comes_back(dut) -> None:
    bench = Bench(dut)
    bench.gate(3, HANDLER)
    bench.write(HANDLER, "f8 ffc3 48cf")  # clc; inc ebx; iretq
    await bench.start("f9 cc 0f92c1 f4", rflags=2 | IF)  # stc; int3; setc cl; hlt
    await bench.until(bench.dbg__halted)
    assert bench.retired() == [CODE, HANDLER, HANDLER + 1, HANDLER + 3, CODE + 2, CODE + 5]
    assert await bench.get(Reg.RBX) == 1
    assert await bench.get(Reg.RCX) == 1, "iretq gives back the carry that was saved"
    assert await bench.get(Reg.RSP) == STACK
    assert await bench.get(DebugReg.RFLAGS) == 2 | CF | IF
    assert await bench.system(SysReg.CS) == CODE_SELECTOR


@cocotb.test()
@cocotb.parametrize(handled=[0, 1])
async def a_trap_port_store_is_held(dut, handled: int) -> None:
    """The store to device page + 8 * vector waits for done; the word behind it then says what was answered."""
    bench = Bench(dut)
    await bench.start(
        "48892425180000fe"  # mov [0xfffffffffe000018], rsp
        "833c25000800fe01"  # cmp dword ptr [0xfffffffffe000800], 1
        "0f94c1"  # sete cl
        "f4"  # hlt
    )
    await bench.until(bench.trap__req)
    for _ in range(20):
        assert bench.trap__req.value == 1
        assert int(bench.trap__vector.value) == 3
        assert int(bench.trap__addr.value) == STACK
        await bench.step()
    assert bench.retired() == []
    bench.trap__done.value, bench.trap__handled.value = 1, handled
    await bench.step()
    bench.trap__done.value, bench.trap__handled.value = 0, 0
    assert bench.retired() == [CODE]
    await bench.until(bench.dbg__halted)
    assert bench.trap__req.value == 0
    assert await bench.get(Reg.RCX) == handled


@cocotb.test()
async def an_interrupt_wakes_hlt(dut) -> None:
    bench = Bench(dut)
    bench.gate(0x21, HANDLER)
    bench.write(HANDLER, "ffc3 48cf")  # inc ebx; iretq
    await bench.start("fb f4 ffc1 fa f4")  # sti; hlt; inc ecx; cli; hlt
    await bench.until(bench.dbg__halted)
    bench.irq__valid.value, bench.irq__vector.value = 1, 0x21
    await bench.until(bench.irq__ack)
    await bench.step()
    bench.irq__valid.value = 0
    assert bench.dbg__halted.value == 0
    await bench.until(bench.dbg__halted)
    assert bench.traps() == [{"vector": 0x21, "rip": CODE + 2}]
    assert (await bench.get(Reg.RBX), await bench.get(Reg.RCX)) == (1, 1)


@cocotb.test()
async def an_ipi_wakes_a_sleeping_hart(dut) -> None:
    """The controller is on; the message is there for one cycle, and the handler writes EOI."""
    bench = Bench(dut)
    bench.gate(0x31, HANDLER)
    bench.write(HANDLER, "ffc3 b8b000e0fe c70000000000 48cf")  # inc ebx; mov eax, EOI; mov dword [rax], 0; iretq
    program = "b8f000e0fe c700ff010000 fb f4 ffc1 fa f4"  # mov eax, SVR; mov dword [rax], 0x1ff; sti; hlt; inc ecx; cli; hlt
    await bench.start(program)
    await bench.until(bench.dbg__halted)
    bench.dut.ipi__valid.value, bench.dut.ipi__vector.value = 1, 0x31
    await bench.step()
    bench.dut.ipi__valid.value = 0
    await bench.until(bench.retire__trap)
    await bench.step()
    await bench.until(bench.dbg__halted)
    assert bench.traps() == [{"vector": 0x31, "rip": CODE + 13}]
    assert (await bench.get(Reg.RBX), await bench.get(Reg.RCX)) == (1, 1)
