"""What is run of a kernel, by topic. `base` explains the notation; a topic is a module whose `cases` yields its cases."""

from sim.kernel.cases import arithmetic, bits, codecs, crypto, formats, hashes, strings, structures

TOPICS = {
    "strings": strings.cases,
    "bitmaps": bits.cases,
    "arithmetic": arithmetic.cases,
    "hashes": hashes.cases,
    "ciphers": crypto.cases,
    "structures": structures.cases,
    "formats": formats.cases,
    "compression": codecs.cases,
}
