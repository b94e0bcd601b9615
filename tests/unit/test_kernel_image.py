"""Kernels unpacked and their symbols found, on made-up images of a few hundred bytes."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile

import pytest

from sim.kernel import fetch
from sim.kernel.image import load_kernel
from sim.kernel.kallsyms import KallsymsError, read_kallsyms
from sim.kernel.unpack import UnpackError, archive_members, decompress, looks_like_kernel, unpack

BASE = 0xFFFFFFFF81000000

#: Address less BASE, letter, name; the last is absolute, as per-CPU variables are.
SYMBOLS = [(0, "T", "_text"), (0x10, "t", "strlen"), (0x40, "T", "x" * 200), *((0x100 + i, "d", f"v{i}") for i in range(600))]


def kallsyms(symbols=SYMBOLS, *, newer=False, absolute=False):
    """Bytes with the tables in one of their two orders. Tokens: every character stands for itself, 0x80 for "strl"."""
    tokens = [bytes([code]) if code and code < 128 else b"?" for code in range(256)]
    tokens[0x80] = b"strl"
    table = b"".join(token + b"\0" for token in tokens)
    index, at = b"", 0
    for token in tokens:
        index += struct.pack("<H", at)
        at += len(token) + 1
    names, markers = b"", []
    for number, (_, letter, name) in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        text = (letter + name).encode().replace(b"strl", b"\x80")
        size = bytes([len(text)]) if len(text) < 128 else bytes([len(text) & 127 | 128, len(text) >> 7])
        names += size + text
    values = [-1 - address if absolute else address for address, _, _ in symbols]
    offsets = struct.pack(f"<{len(values)}i", *values)
    where = [offsets, struct.pack("<Q", BASE)]
    core = [struct.pack("<I", len(symbols)), names, struct.pack(f"<{len(markers)}I", *markers), table, index]
    parts = [*core, *where] if newer else [*where, *core]
    image = b"\x7fELF" + bytes(60)
    for part in parts:
        image += part + bytes(-len(part) % 8)
    return image + bytes(64)


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_symbols_are_found_wherever_their_tables_lie(newer, absolute):
    found = read_kallsyms(kallsyms(newer=newer, absolute=absolute))
    assert [(e.address - BASE, e.letter, e.name) for e in found] == SYMBOLS


def test_a_per_cpu_symbol_is_absolute():
    image = bytearray(kallsyms(absolute=True))
    image[64:68] = struct.pack("<i", 0x28)  # the first of offsets
    assert read_kallsyms(bytes(image))[0].address == 0x28


def test_an_image_without_tables_says_so():
    with pytest.raises(KallsymsError, match="tokens"):
        read_kallsyms(bytes(4096))
    image = kallsyms().replace(b"dv300", b"\x05v300")  # nm has no such letter
    with pytest.raises(KallsymsError, match="names"):
        read_kallsyms(image)


def lz4_legacy(data):
    lz4 = pytest.importorskip("lz4.block", reason="lz4 is in the extra `kernel`")
    blocks = [lz4.compress(data[at : at + (8 << 20)], store_size=False) for at in range(0, len(data), 8 << 20)]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


def zstd(data):
    return pytest.importorskip("zstandard", reason="zstandard is in the extra `kernel`").ZstdCompressor().compress(data)


METHODS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2}]),
    "lz4": lz4_legacy,
    "zstd": zstd,
}


def bzimage(payload, version=0x20F):
    """A vmlinuz with a setup of two sectors."""
    head = bytearray(3 * 512 + 32)
    head[0x1F1], head[0x202:0x206] = 2, b"HdrS"
    struct.pack_into("<H", head, 0x206, version)
    struct.pack_into("<II", head, 0x248, 32, len(payload))
    return bytes(head) + payload + b"the rest"


def archive(members):
    """An `ar` archive."""
    data = b"!<arch>\n"
    for name, content in members.items():
        data += f"{name:16}{0:12}{0:6}{0:6}{100644:8}{len(content):10}`\n".encode() + content + b"\n" * (len(content) & 1)
    return data


def package(files):
    """A Debian package."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as into:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            into.addfile(entry, io.BytesIO(content))
    return archive({"debian-binary": b"2.0\n", "control.tar.xz": b"?", "data.tar.xz": lzma.compress(tar.getvalue())})


@pytest.mark.parametrize("method", METHODS)
def test_a_payload_of_any_compression(method, tmp_path):
    vmlinux = b"\x7fELF" + bytes(range(256)) * 300
    payload = METHODS[method](vmlinux) + struct.pack("<I", len(vmlinux))  # as the kernel's build appends it
    path = tmp_path / "vmlinuz-1"
    path.write_bytes(bzimage(payload))
    assert looks_like_kernel(path)
    assert unpack(path).vmlinux == vmlinux


def test_a_package(tmp_path):
    vmlinuz = bzimage(gzip.compress(b"\x7fELF kernel"))
    path = tmp_path / "linux-image.deb"
    path.write_bytes(package({"./boot/System.map-1": b"ff B The real one is elsewhere\n", "./boot/vmlinuz-1": vmlinuz}))
    assert looks_like_kernel(path)
    assert unpack(path) == ("vmlinuz-1", b"\x7fELF kernel", None)
    full = b"".join(b"%016x T f%d\n" % (BASE + i, i) for i in range(2000))
    path.write_bytes(package({"./boot/System.map-1": full, "./boot/vmlinuz-1": vmlinuz}))
    assert unpack(path).system_map == full.decode()


def test_archive_members_of_odd_size():
    assert archive_members(archive({"a": b"123", "b/": b"4567"})) == {"a": b"123", "b": b"4567"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"MZ" + bytes(2000), "neither ELF"),
        (bzimage(b"?", version=0x207), "before payloads"),
        (bzimage(gzip.compress(b"no elf")), "no ELF image"),
        (bzimage(b"\xfd7zXZ\0 broken"), "damaged"),
        (bzimage(b"????"), "compression that is not known"),
        (bzimage(b"x" * 99)[:1600], "truncated"),
        (package({"./usr/share/doc": b""}), "meta-package"),
        (archive({"debian-binary": b"2.0\n"}), "no data.tar"),
        (b"\x7fELF and then nothing", "damaged"),
    ],
)
def test_bad_files_get_one_message(data, why, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UnpackError, match=why):
        load_kernel(path)


def test_a_compression_reads_no_further_than_its_end():
    assert decompress(gzip.compress(b"abc") + b"trailing") == b"abc"


LISTING = """\
linux-image-6.1.0-9-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-56-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-56-amd64-dbg - Debug symbols
linux-image-6.1.0-57-amd64-unsigned - Linux 6.1
linux-image-6.1.0-58-rt-amd64 - Linux 6.1, PREEMPT_RT (signed)
linux-image-6.1.0-47-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.12.43+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-amd64 - Linux for 64-bit PCs (meta-package)
"""


def test_the_newest_of_a_flavour():
    assert fetch.newest(LISTING, "amd64") == "linux-image-6.1.0-56-amd64"
    assert fetch.newest(LISTING, "cloud-amd64") == "linux-image-6.12.43+deb12-cloud-amd64"
    assert fetch.newest("", "amd64") is None


def test_without_apt_there_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(fetch.FetchError, match=r"no apt here.*--image FILE"):
        fetch.fetch(folder=tmp_path)


def test_without_network_there_is_one_message(tmp_path, monkeypatch):
    for name, text in {
        "apt-get": "echo 'E: Could not resolve the host' >&2; exit 100",
        "apt-cache": "echo 'linux-image-6.1.0-9-amd64 - Linux'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(fetch.FetchError, match="Could not resolve the host"):
        fetch.fetch("amd64", tmp_path / "kernel")
    with pytest.raises(fetch.FetchError, match="no linux-image package"):
        (tmp_path / "apt-get").write_text("#!/bin/sh\n")
        fetch.fetch("cloud-amd64", tmp_path / "kernel")


def test_what_was_fetched_is_used_again(tmp_path):
    for name in ("linux-image-6.1.0-9-cloud-amd64_6.1_amd64.deb", "linux-image-6.1.0-56-cloud-amd64_6.1_amd64.deb"):
        (tmp_path / name).touch()
    (tmp_path / "linux-image-6.1.0-57-amd64_6.1_amd64.deb").touch()
    assert fetch.fetch("cloud-amd64", tmp_path).name.startswith("linux-image-6.1.0-56-cloud")
