"""Runs a guest on QEMU's emulator of a PC: another opinion on what the core does.

`sim/firmware/boot.S` takes the place of the BIOS, and enters the guest in the state in which a hart starts (design, section
5): 64-bit mode, CPL 0, 16 MiB of RAM at 0 and again at the top, the devices at the same ports. There is no TrapPort: a
guest handles its traps itself. What QEMU calls its exit status is ours as well, so the two are compared as they are.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hw.bus import HIGH_BASE
from hw.devices import CONSOLE_PORT, EXIT_PORT, UART_PORT
from sim.elf import Image, load_elf
from sim.guestbuild import CACHE_DIR, GuestBuildError

PROGRAM = "qemu-system-x86_64"
FIRMWARE = Path(__file__).with_name("firmware") / "boot.S"

#: RAM that the guest sees; its page tables are in the firmware.
RAM_BYTES = 16 << 20

#: Where the firmware puts the guest's RAM, and where it looks for the entry point and the stack pointer.
_GUEST_RAM, _PARAMETERS, _PC_RAM = 0x0100_0000, 0x0300_0000, "64M"
_ROM_BASE = 0xFFFF_0000


class QemuError(RuntimeError):
    """QEMU is missing, or cannot run this guest; the message names the cause and the next step."""


@dataclass(frozen=True)
class QemuResult:
    """How a run ended. `exit`: the status that the guest asked for, None if it did not end itself.

    `reset`: a triple fault. With neither, the time was over: the guest sleeps or runs in a circle.
    """

    console: bytes
    exit: int | None
    reset: bool

    @property
    def ending(self) -> str:
        """The end in words."""
        if self.exit is not None:
            return f"status {self.exit}"
        return "triple fault" if self.reset else "does not end"


def missing() -> str | None:
    """Return None when guests can run here, otherwise the reason and the next step."""
    if shutil.which(PROGRAM):
        return None
    return f"{PROGRAM} was not found: apt-get install --no-install-recommends qemu-system-x86"


@functools.cache
def version() -> str:
    """Return QEMU's version, for example "7.2.22"."""
    _require()
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", said)
    return found[0] if found else said


def firmware() -> Path:
    """Assemble the firmware, or return what was assembled before."""
    rom = CACHE_DIR / f"firmware-{hashlib.sha256(FIRMWARE.read_bytes()).hexdigest()[:16]}.rom"
    if not rom.exists():
        rom.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=rom.parent) as scratch:
            made = Path(scratch) / "rom"
            link = ("-nostdlib", "-static", f"-Wl,-Ttext={_ROM_BASE:#x},-e,0,--build-id=none,--oformat=binary")
            command = [os.environ.get("GUEST_CC", "gcc"), "-m64", *link, FIRMWARE, "-o", made]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except FileNotFoundError:
                raise QemuError(f"{command[0]} was not found, and the firmware is assembled with it: install gcc") from None
            if done.returncode:
                raise GuestBuildError(f"{FIRMWARE.name} could not be assembled: {done.stderr.strip()}")
            made.replace(rom)
    return rom


def run(image: str | Path | Image, *, timeout: float = 60.0) -> QemuResult:
    """Run a guest to its end, or for `timeout` seconds of this machine."""
    _require()
    if not isinstance(image, Image):
        image = load_elf(image)
    top = RAM_BYTES - 16 + (HIGH_BASE if image.entry >= HIGH_BASE else 0)
    with tempfile.TemporaryDirectory(prefix="kphw-qemu-") as name:
        folder = Path(name)
        blobs = [(_PARAMETERS, image.entry.to_bytes(8, "little") + top.to_bytes(8, "little"))]
        blobs += [(_GUEST_RAM + _physical(s.vaddr, s.memsz), s.data) for s in image.segments if s.data]
        devices: list[str] = []
        for number, (address, data) in enumerate(blobs):
            (folder / f"{number}").write_bytes(data)
            devices += ["-device", f"loader,file={folder / str(number)},addr={address:#x},force-raw=on"]
        console = folder / "console"
        command = [
            *(PROGRAM, "-machine", "pc", "-accel", "tcg", "-cpu", "max", "-m", _PC_RAM, "-bios", str(firmware())),
            *("-nodefaults", "-display", "none", "-no-reboot"),
            *("-chardev", f"file,id=text,path={console},mux=on"),
            *("-device", f"isa-debugcon,iobase={CONSOLE_PORT:#x},chardev=text"),
            *("-device", f"isa-serial,iobase={UART_PORT:#x},chardev=text"),
            *("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4"),
            *devices,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return QemuResult(console.read_bytes(), None, False)
        complaints = [line for line in done.stderr.splitlines() if line.strip() and "warning:" not in line]
        if complaints:  # its own status 1 looks like the guest's
            raise QemuError(f"{PROGRAM} failed (status {done.returncode}): {complaints[0]}")
        # isa-debug-exit gives odd numbers; -no-reboot ends with 0 at a triple fault.
        return QemuResult(console.read_bytes(), done.returncode or None, done.returncode == 0)


def _physical(address: int, size: int) -> int:
    place = address - HIGH_BASE if address >= HIGH_BASE else address
    if not 0 <= place <= place + size <= RAM_BYTES:
        raise QemuError(f"the image does not fit: {address:#x} is not in the {RAM_BYTES >> 20} MiB of RAM of the guest")
    return place


def _require() -> None:
    reason = missing()
    if reason:
        raise QemuError(reason)
