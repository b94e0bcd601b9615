"""Compression: lib/lz4, lib/lzo, lib/zlib_deflate, lib/zlib_inflate, lib/zstd, with Python on the other side."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from typing import Any

from sim.kernel.cases.base import Call, Case, Load, Mem, room
from sim.kernel.cases.strings import PATTERN

#: Text that repeats, noise that does not, a run, little.
DATA = {
    "text": b"kprobes: a probe is planted, hit, stepped, resumed; " * 12 + b"and removed",
    "noise": PATTERN[:300],
    "run": b"\0" * 1000,
    "short": b"abcabcabcabcabcabcabcabc.",
}

#: As the kernel numbers them: it has one kind of flush more than zlib.
_FINISH, _STREAM_END = 5, 1


def _library(name: str) -> Any:
    """A library of the extra `kernel`, or None: then nothing is compressed outside of the kernel."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def lz4() -> Iterator[Case]:
    """Blocks that Python compressed."""
    block = _library("lz4.block")
    for name, data in DATA.items() if block else ():
        packed = block.compress(data, store_size=False)
        source, size = Mem(packed, name="compressed"), len(data)
        target = room(size + 32)
        call = Call("LZ4_decompress_safe", source, target, len(packed), size + 32, returns=size, bits=32)
        yield Case(name, call, after={target: data})
        call = Call("LZ4_decompress_fast", source, target, size, returns=len(packed), bits=32)
        yield Case(name, call, after={target: data})
        some = size // 2
        call = Call("LZ4_decompress_safe_partial", source, target, len(packed), some, some, returns=some, bits=32)
        yield Case(f"{name}, {some} bytes", call, after={target: data[:some]})
        damaged = Mem(packed[: len(packed) // 2], name="damaged")
        yield Case(f"{name}, cut", Call("LZ4_decompress_safe", damaged, target, damaged.size, size))


def lzo() -> Iterator[Case]:
    """There and back: no Python library has it."""
    for name, data in DATA.items():
        middle, target, length, back = room(2 * len(data) + 200), room(len(data)), room(8), Mem(len(data), name="length")
        compress = Call("lzo1x_1_compress", Mem(data), len(data), middle, length, room(1 << 14, 0), returns=0, bits=32)
        expand = Call("lzo1x_decompress_safe", middle, Load(length), target, back, returns=0, bits=32)
        yield Case(name, compress, expand, after={target: data, back: (len(data),)})
        yield Case(f"{name}, damaged", Call("lzo1x_decompress_safe", Mem(PATTERN[:64]), 64, target, back))
    # 0x11 0 0 ends the stream; before it literals: 17 + their number
    plain = b"literals only"
    packed = Mem(bytes([17 + len(plain)]) + plain + b"\x11\0\0", name="compressed")
    target, length = room(32), Mem(32, name="length")
    call = Call("lzo1x_decompress_safe", packed, packed.size, target, length, returns=0, bits=32)
    yield Case("literals", call, after={target: plain, length: (len(plain),)})


def _stream(source: Mem, size: int, target: Mem, room_: int, workspace: Mem) -> Mem:
    """struct z_stream: next_in, avail_in, total_in, next_out, avail_out, total_out, msg, state, workspace, ..."""
    return Mem(source, size, 0, target, room_, 0, 0, 0, workspace, bytes(24), name="z_stream")


def deflate() -> Iterator[Case]:
    """zlib's streams, from Python and to it."""
    for name, data in DATA.items():
        packed = zlib.compress(data, 9)
        target = room(len(data) + 8)
        stream = _stream(Mem(packed, name="compressed"), len(packed), target, len(data) + 8, room(1 << 16, 0))
        yield Case(
            name,
            Call("zlib_inflateInit2", stream, 15, returns=0, bits=32),
            Call("zlib_inflate", stream, _FINISH, returns=_STREAM_END, bits=32),
            after={target: data},
        )
        damaged = bytearray(packed)
        damaged[-1] ^= 1
        stream = _stream(Mem(bytes(damaged), name="damaged"), len(packed), target, len(data) + 8, room(1 << 16, 0))
        yield Case(
            f"{name}, bad checksum",
            Call("zlib_inflateInit2", stream, 15, returns=0, bits=32),
            Call("zlib_inflate", stream, _FINISH, returns=-3, bits=32),
        )
        for level in (1, 6):
            # negative window bits: no header, so that the kernel's inflate can follow on the same bytes
            middle, back = room(len(data) + 300, 0), room(len(data))
            stream = _stream(Mem(data, name="plain"), len(data), middle, middle.size, room(1 << 19, 0))
            again = _stream(middle, middle.size, back, back.size, room(1 << 16, 0))
            yield Case(
                f"{name}, level {level}, there and back",
                Call("zlib_deflateInit2", stream, level, 8, -15, 8, 0, returns=0, bits=32),
                Call("zlib_deflate", stream, _FINISH, returns=_STREAM_END, bits=32),
                Call("zlib_inflateInit2", again, -15, returns=0, bits=32),
                Call("zlib_inflate", again, _FINISH, returns=_STREAM_END, bits=32),
                after={back: data},
            )


def zstd() -> Iterator[Case]:
    """Frames that Python compressed."""
    library = _library("zstandard")
    for name, data in DATA.items() if library else ():
        packed = library.ZstdCompressor(level=3).compress(data)
        source, target, space = Mem(packed, name="compressed"), room(len(data) + 64), room(0x40000, 0)
        yield Case(
            name,
            Call("zstd_init_dctx", space, space.size, returns=space),
            Call("zstd_decompress_dctx", space, target, target.size, source, len(packed), returns=len(data)),
            after={target: data},
        )
    for code, known in ((-20, 1), (-119, 1), (-121, 0), (0, 0), (100, 0)):  # errors are -1 to -120
        yield Case(f"error {code}", Call("zstd_is_error", code, returns=known, bits=32))


def cases() -> Iterator[Case]:
    """All of them."""
    yield from lz4()
    yield from lzo()
    yield from deflate()
    yield from zstd()
