"""The interfaces of the core: memory, interrupts, the trap port, the debug port, and what it shows of itself.

Every signature is written from the initiator's side (the core's). Members are plain signals, never structs, so that the
exported Verilog, the compiled engine and a testbench see one name for each fact.
"""

from amaranth.lib.wiring import In, Out, Signature

#: Width of physical addresses in bits.
PHYS_BITS = 32

#: Physical address of the device page (the TrapPort), and the virtual address it is reached at.
DEVICE_PHYS = 0xFE000000
DEVICE_VIRT = 0xFFFFFFFFFE000000

#: Where RAM appears a second time (where kernels are linked).
HIGH_BASE = 0xFFFFFFFF80000000

#: Physical and virtual address of the page of a hart's local interrupt controller (SDM vol. 3, 10.4.1).
APIC_BASE = 0xFEE00000

#: Offset in the device page of the word that says whether the last trap was handled.
TRAP_RESULT = 0x800


class FetchBus(Signature):
    """Instruction memory. One request a cycle, answers in order, one cycle later or more.

    Members (core's side)
    ---------------------
    req_valid, req_addr : a 16-byte aligned physical address; a request is made in a cycle with valid and ready.
    req_ready : the memory takes the request in this cycle.
    resp_valid, resp_data : the answer to the oldest request, 128 bits, byte 0 lowest.
    """

    def __init__(self):
        super().__init__(
            {
                "req_valid": Out(1),
                "req_addr": Out(PHYS_BITS),
                "req_ready": In(1),
                "resp_valid": In(1),
                "resp_data": In(128),
            }
        )


class DataBus(Signature):
    """Data memory. Any byte address, 1 to 8 bytes, one request a cycle; a request never leaves its region.

    Members (core's side)
    ---------------------
    req_valid, req_ready : a request is made in a cycle with both. A store that is valid does not change until ready; a load
        may give way to an older store, or be withdrawn.
    req_addr : physical byte address. req_size : log2 of the bytes. req_write, req_data : a store and its data.
    req_lock : the request belongs to a locked read-modify-write; no other hart's request may come between (`hw.cluster`).
        A load claims the lock by it, whatever req_ready is; a claim whose load is dropped in this very cycle comes without
        a request.
    resp_valid, resp_data : the answer to the oldest load, zero-extended to 64 bits, one cycle later or more.
        Stores have no answer.
    """

    def __init__(self):
        super().__init__(
            {
                "req_valid": Out(1),
                "req_ready": In(1),
                "req_addr": Out(PHYS_BITS),
                "req_size": Out(2),
                "req_write": Out(1),
                "req_data": Out(64),
                "req_lock": Out(1),
                "resp_valid": In(1),
                "resp_data": In(64),
            }
        )


class IrqPort(Signature):
    """Interrupts into a hart.

    Members (core's side)
    ---------------------
    valid, vector : an external interrupt is requested (level); the vector is taken in the cycle of ack.
    ack : the hart has accepted the vector in this cycle.
    nmi : a rising edge requests a non-maskable interrupt; one is remembered while another is in service.
    """

    def __init__(self):
        super().__init__({"valid": In(1), "vector": In(8), "ack": Out(1), "nmi": In(1)})


class TrapPort(Signature):
    """The door to the runtime: a guest store of a pt_regs address to device page + 8 * vector.

    Members (hardware's side)
    -------------------------
    req : high from the cycle in which the store reaches the bus until done; the hart's bus cycle is held meanwhile.
    vector, addr : the vector (8 bits) and the stored address (64 bits), valid with req.
    done, handled : set for one cycle to complete the store; handled becomes the word the guest reads back.
    """

    def __init__(self):
        super().__init__({"req": Out(1), "vector": Out(8), "addr": Out(64), "done": In(1), "handled": In(1)})


class ApicPort(Signature):
    """What a hart and its interrupt controller tell each other beside interrupts.

    Members (core's side)
    ---------------------
    enable : IA32_APIC_BASE.EN. cr8_we, cr8 : CR8 is written in this cycle.
    tpr : the task priority, of which CR8 is bits 7 to 4.
    armed : the timer counts and will interrupt.
    nmi : a non-maskable interrupt arrives from a controller. init, start, page : so does an INIT; so does a start-up, with its
    vector.
    """

    def __init__(self):
        super().__init__(
            {
                "enable": Out(1),
                "cr8_we": Out(1),
                "cr8": Out(4),
                "tpr": In(8),
                "armed": In(1),
                "nmi": In(1),
                "init": In(1),
                "start": In(1),
                "page": In(8),
            }
        )


class IpiPort(Signature):
    """An interprocessor interrupt on its way from the controller that sends it, as the ICR has it (SDM vol. 3, 10.6.1).

    Members (sender's side)
    -----------------------
    valid : it is sent in this cycle. vector, mode : what. destination, logical, shorthand : to whom.
    deassert : the end of a level, which asks for nothing.
    """

    def __init__(self):
        fields = {"vector": 8, "mode": 3, "logical": 1, "deassert": 1, "shorthand": 2, "destination": 8}
        super().__init__({"valid": Out(1)} | {name: Out(width) for name, width in fields.items()})


class RegisterPort(Signature):
    """Registers of 32 bits in a page of their own, one every 16 bytes.

    Members (initiator's side)
    --------------------------
    offset : of the access in the page. write, wdata : a store in this cycle. read : a load in this cycle.
    rdata : the register, combinational.
    """

    def __init__(self):
        super().__init__({"offset": Out(12), "write": Out(1), "wdata": Out(32), "read": Out(1), "rdata": In(32)})


class IoPort(Signature):
    """Port input and output of a hart: `out` at retirement, `in` when nothing older is in flight.

    Members (core's side)
    ---------------------
    valid, write, port, size, data : an access; size is log2 of the bytes. An `out` is made in a cycle with valid and ready,
    and does not change until then; an `in` in its only cycle. write is set with valid only, and does not depend on ready.
    ready : an `out` of this hart may be made in this cycle; looked at with several harts only.
    rdata : the value of an `in`, valid in the same cycle.
    """

    def __init__(self):
        super().__init__(
            {
                "valid": Out(1),
                "write": Out(1),
                "port": Out(16),
                "size": Out(2),
                "data": Out(32),
                "ready": In(1),
                "rdata": In(32),
            }
        )


class DebugPort(Signature):
    """Architectural registers from outside, while the clock is stopped at an instruction boundary.

    Members (core's side)
    ---------------------
    addr : index (`hw.isa.facts.DebugReg`): 0 to 15 GPRs, 16 rip, 17 rflags, 18 cpl, 32 + n system register n.
    rdata : its value, combinational.
    we, wdata : writes it at the clock edge and refetches from rip. Only when boundary is high.
    boundary : the last retired uop ended an instruction; the registers are those between two instructions.
    halted : the hart sleeps in hlt, and no timer of its own will wake it.
    shutdown : it stopped on a triple fault, and no NMI that it may take has come since.
    """

    def __init__(self):
        super().__init__(
            {
                "addr": In(7),
                "rdata": Out(64),
                "we": In(1),
                "wdata": In(64),
                "boundary": Out(1),
                "halted": Out(1),
                "shutdown": Out(1),
            }
        )


class RetirePort(Signature):
    """What retires, one uop a cycle. Lockstep, logs, views and coverage are built on this alone.

    All members are valid in a cycle with valid, but for the trap members, which are valid with trap.

    Members
    -------
    valid : a uop retires. first, last : it begins, ends an instruction.
    again : with last, a string instruction that will go on with its next iteration (rip stays).
    pc, length, bytes : the instruction (bytes: 15, byte 0 lowest). Undefined in the uops of a delivery.
    next_pc : rip after the instruction, valid with last.
    reg_we, reg, reg_data : a register of the file is written (numbers from 16 are temporaries).
    sp_we, sp : rsp is written as a stack pointer.
    mem_re, mem_we, mem_addr, mem_size, mem_data : a load or a store, linear address, log2 of bytes, data stored or loaded.
    rflags : after the uop.
    iret : with last, an iretq. deliver : the uop belongs to a delivery; with last the handler is about to be fetched.
    trap : a trap is taken in this cycle, before its delivery. No uop retires in that cycle.
    trap_vector, trap_class : vector and `EventClass`. trap_has_error, trap_error : the error code.
    trap_rip : the rip that will be saved. trap_addr : the faulting address of a page fault.
    """

    def __init__(self):
        super().__init__(
            {
                "valid": Out(1),
                "first": Out(1),
                "last": Out(1),
                "again": Out(1),
                "pc": Out(64),
                "length": Out(4),
                "bytes": Out(120),
                "next_pc": Out(64),
                "reg_we": Out(1),
                "reg": Out(5),
                "reg_data": Out(64),
                "sp_we": Out(1),
                "sp": Out(64),
                "mem_re": Out(1),
                "mem_we": Out(1),
                "mem_addr": Out(64),
                "mem_size": Out(2),
                "mem_data": Out(64),
                "rflags": Out(64),
                "iret": Out(1),
                "deliver": Out(1),
                "trap": Out(1),
                "trap_vector": Out(8),
                "trap_class": Out(3),
                "trap_has_error": Out(1),
                "trap_error": Out(32),
                "trap_rip": Out(64),
                "trap_addr": Out(64),
            }
        )


#: Pipeline stages in order, as `PipePort` names them.
STAGES = ("f", "l", "d", "a", "m", "x", "w")


class PipePort(Signature):
    """Where every instruction is in this cycle: for waveforms and pipeline views.

    Members, for each stage s of f l d a m x w
    ------------------------------------------
    s_valid : the stage holds something. s_pc : rip of the instruction it belongs to. s_stall : it cannot advance.
    redirect : the fetch address is changed in this cycle. redirect_pc : to where.
    """

    def __init__(self):
        members = {}
        for stage in STAGES:
            members |= {f"{stage}_valid": Out(1), f"{stage}_pc": Out(64), f"{stage}_stall": Out(1)}
        super().__init__(members | {"redirect": Out(1), "redirect_pc": Out(64)})
