"""Invariants: what the design itself promises, checked in every simulation and used by the proofs of ``tests/formal``."""

from amaranth.hdl import Assert, Format


def invariant(m, name, holds, text="", *values):
    """Assert in module ``m`` that ``holds`` is 1 at every clock edge; within an ``m.If``, at those edges only.

    ``name`` is how reports call it, ``unit.what``; ``text`` says what is wrong, for `str.format` with ``values`` (unsigned,
    64 bits at most). Engines stop in a cycle in which it is 0 (`sim.engine.DesignError`). It must hold from reset on,
    whatever the inputs do that the docstring of the unit allows.
    """
    m.d.sync += Assert(holds, Format(f"{name}: {text}", *values) if text else name)
