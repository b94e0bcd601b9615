"""The registered output that every stage has: one payload, held until the next stage takes it."""


def register_output(m, output, load, payload, kill):
    """Makes ``output`` (a stream) a register of the stage in module ``m``.

    It takes ``payload`` in a cycle with ``load``, which the stage raises only if the register is free or being emptied
    (`has_room`), is emptied by ``ready``, and dropped by ``kill``, which is stronger than ``load``.
    """
    with m.If(output.ready):
        m.d.sync += output.valid.eq(0)
    with m.If(load):
        m.d.sync += [output.valid.eq(1), output.payload.eq(payload)]
    with m.If(kill):
        m.d.sync += output.valid.eq(0)


def has_room(output):
    """Whether a registered output can take a payload in this cycle."""
    return ~output.valid | output.ready
