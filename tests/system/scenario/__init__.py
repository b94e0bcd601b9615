"""Trap scenarios as guest images: tables of rows here, a harness that runs them in harness.c.

A row has the number of its scenario in the trap semantics, section 11, and a name; its code; and the line that the guest has to
write, in the notation of harness.c. The expected lines come from the reference, not from a run.
"""
