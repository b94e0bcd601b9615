"""From a package, or a compressed kernel, to the bytes of vmlinux.

.deb: an `ar` archive with a tar in it (deb(5)). vmlinuz: the boot protocol's header says where its payload lies
(Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length), which is vmlinux compressed in one of
the ways that a kernel can be configured for; its first bytes tell which.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ELF_MAGIC = b"\x7fELF"
_AR_MAGIC = b"!<arch>\n"
_LZ4_LEGACY = 0x184C2102

#: A System.map that has so few lines only says where the real one is.
_REAL_MAP = 1000


class UnpackError(ValueError):
    """A file that holds no kernel that can be read; the message names the cause and the next step."""


class Kernel(NamedTuple):
    """An unpacked kernel: vmlinux, and System.map if a real one lay beside it."""

    name: str
    vmlinux: bytes
    system_map: str | None


def looks_like_kernel(path: Path) -> bool:
    """Tell whether a file begins as vmlinux, vmlinuz or a package does."""
    try:
        with path.open("rb") as file:
            head = file.read(0x206)
    except OSError:
        return False
    return head.startswith((ELF_MAGIC, _AR_MAGIC)) or head[0x202:0x206] == b"HdrS"


def unpack(path: Path) -> Kernel:
    """Return the kernel in a .deb, vmlinuz or vmlinux; UnpackError when there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnpackError(f"{path} cannot be read ({error.strerror}): give a .deb, vmlinuz or vmlinux") from None
    try:
        if data.startswith(_AR_MAGIC):
            return _from_package(path, data)
        return Kernel(path.name, _vmlinux(data, str(path)), None)
    except (lzma.LZMAError, EOFError, OSError, struct.error, tarfile.TarError, RuntimeError) as error:
        raise UnpackError(f"{path} is damaged ({error}): fetch it again") from None


def _from_package(path: Path, data: bytes) -> Kernel:
    members = archive_members(data)
    name = next((name for name in members if name.startswith("data.tar")), None)
    if name is None:
        raise UnpackError(f"{path} is no Debian package: it has no data.tar")
    boot: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(decompress(members[name]) if name != "data.tar" else members[name])) as tar:
        for member in tar:
            short = member.name.rpartition("/")[2]
            if member.isfile() and short.startswith(("vmlinuz", "System.map")):
                file = tar.extractfile(member)
                assert file is not None
                boot[short] = file.read()
                if len(boot) == 2:
                    break
    image = next((name for name in boot if name.startswith("vmlinuz")), None)
    if image is None:
        raise UnpackError(f"{path} holds no vmlinuz: give a linux-image package, not its meta-package")
    symbols = next((text.decode() for name, text in boot.items() if name.startswith("System.map")), "")
    return Kernel(image, _vmlinux(boot[image], image), symbols if symbols.count("\n") > _REAL_MAP else None)


def archive_members(data: bytes) -> dict[str, bytes]:
    """Return the members of an `ar` archive by name."""
    members, at = {}, len(_AR_MAGIC)
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode().strip().rstrip("/"), int(data[at + 48 : at + 58])
        members[name] = data[at + 60 : at + 60 + size]
        at += 60 + size + (size & 1)
    return members


def _vmlinux(data: bytes, name: str) -> bytes:
    if data.startswith(ELF_MAGIC):
        return data
    if data[0x202:0x206] != b"HdrS":
        raise UnpackError(f"{name} is no kernel: neither ELF nor the x86 boot protocol's header; give a .deb or vmlinuz")
    version, setup_sects = struct.unpack_from("<H", data, 0x206)[0], data[0x1F1] or 4
    if version < 0x208:
        raise UnpackError(f"{name} is of boot protocol {version:#x}, before payloads had offsets: give a newer kernel")
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sects + 1) * 512 + offset
    if start + length > len(data):
        raise UnpackError(f"{name} is truncated: its payload ends at byte {start + length} of {len(data)}")
    vmlinux = decompress(data[start : start + length])
    if not vmlinux.startswith(ELF_MAGIC):
        raise UnpackError(f"the payload of {name} is no ELF image")
    return vmlinux


def decompress(data: bytes) -> bytes:
    """Decompress by the first bytes; what follows the compressed data, as a kernel's size does, is left out."""
    for magic, method in _METHODS:
        if data.startswith(magic):
            return method(data)
    raise UnpackError(f"a compression that is not known here begins with {data[:4].hex()}")


def _xz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data)


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data)


def _bzip2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data)


def _zstd(data: bytes) -> bytes:
    return _library("zstandard").ZstdDecompressor().decompressobj().decompress(data)


def _lz4(data: bytes) -> bytes:
    """The legacy frame: blocks of 8 MiB, each behind its compressed size."""
    block = _library("lz4.block")
    blocks, at = [], 4
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size == _LZ4_LEGACY:
            continue
        if not size or at + size > len(data):  # the size of vmlinux, which the kernel's build appends
            break
        blocks.append(block.decompress(data[at : at + size], uncompressed_size=8 << 20))
        at += size
    return b"".join(blocks)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise UnpackError(f"the kernel is compressed with {package}: pip install {package} (the extra `kernel`)") from None


_METHODS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\xfd7zXZ\0", _xz),
    (b"\x1f\x8b", _gzip),
    (b"BZh", _bzip2),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (_LZ4_LEGACY.to_bytes(4, "little"), _lz4),
)
