"""The list of proofs."""

from tests.formal.delivery_specs import Ends, Final
from tests.formal.fetch_specs import Bytes
from tests.formal.length_specs import Agreement, Stream
from tests.formal.prover import Mutation, Proof
from tests.formal.routine_specs import CYCLES, Return
from tests.formal.trap_specs import Order

PROOFS = (
    Proof(
        "fetch.bytes",
        "the fetch queue neither loses nor repeats a byte, whatever memory's delays and the redirects",
        "hw.fetch",
        Bytes,
        Mutation("hw.fetch", "drop.eq(outstanding - self.bus.resp_valid),", "drop.eq(outstanding),"),
    ),
    Proof(
        "length.agreement",
        "the length decoder takes 1 to 15 bytes, looks at none that is not there, and gives the same however they arrive",
        "hw.length",
        Agreement,
        Mutation("hw.length", "(self.avail >= total) & ~another", "(self.avail + 1 >= total) & ~another"),
    ),
    Proof(
        "length.stream",
        "its instructions are consecutive, 1 to 15 bytes long or faults, and hold the bytes of memory",
        "hw.length",
        Stream,
        Mutation("hw.length", "taken.eq(taken + lead)", "taken.eq(taken + 1)"),
    ),
    Proof(
        "trap.order",
        "the trap picker grants exactly one event, in the manual's order; double faults and shutdown by the table of classes",
        "hw.trap",
        Order,
        Mutation("hw.trap", "(self.take_break, self.breaks),", "(self.take_break, self.breaks & ~self.fault_valid),"),
    ),
    Proof(
        "deliver.ends",
        "a delivery that no fault stops ends, after as many cycles with room as its routine has rows",
        "hw.decode",
        Ends,
        Mutation("hw.decode", "m.d.sync += upc.eq(upc_now + 1)", "m.d.sync += upc.eq(upc_now + ~skip)"),
    ),
    Proof(
        "deliver.final",
        "its uop past the point of no return leaves execute without a fault",
        "hw.execute",
        Final,
        Mutation(
            "hw.execute", "with m.If(error & ~u.fault.valid):", "with m.If((error | (op == Op.JMPA)) & ~u.fault.valid):"
        ),
    ),
    Proof(
        "deliver.return",
        "iretq from a handler restores rip, rsp, CS, SS and RFLAGS as the event found them",
        "hw.isa.routines",
        Return,
        Mutation(
            "hw.isa.routines", "Uop(Op.MOV, b=T2, sysop=SysOp.IRETF)", "Uop(Op.MOV, b=T1, sysop=SysOp.IRETF)"
        ),
        depth=CYCLES,
        bounded=True,
        search="bitwuzla",
    ),
)
