"""The six status flags as a bundle of the pipeline and as they lie in RFLAGS."""

from amaranth.hdl import Cat, Const

from hw.isa.facts import STATUS_BITS


def status_image(flags) -> Cat:
    """The low 12 bits of an RFLAGS image with the six status flags in place, the others 0."""
    names = dict(zip(STATUS_BITS, (flags.c, flags.p, flags.a, flags.z, flags.s, flags.o), strict=True))
    return Cat(names.get(bit, Const(0, 1)) for bit in range(12))


def status_of(image) -> Cat:
    """The six status flags of an RFLAGS image, in the order of `Flags`."""
    return Cat(image[bit] for bit in STATUS_BITS)
