"""The list of proofs."""

from tests.formal.fetch_specs import Bytes
from tests.formal.length_specs import Agreement, Stream
from tests.formal.prover import Mutation, Proof
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
)
