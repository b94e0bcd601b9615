"""Gets the newest `linux-image` package that apt offers, and keeps it in ``build/kernel``."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE_DIR = Path(__file__).resolve().parents[2] / "build" / "kernel"

#: Kinds of kernel, by the end of the package's name; the cloud's is the smaller download.
FLAVOURS = ("cloud-amd64", "amd64")

_GIVE_ONE = "Give a kernel of your own: kphw kernel --image FILE (a .deb, vmlinuz or vmlinux)"


class FetchError(RuntimeError):
    """No package can be had; the message gives the cause and the next step."""


def cached(flavour: str = FLAVOURS[0], folder: Path = CACHE_DIR) -> Path | None:
    """Return the newest package of a flavour that was fetched before, or None."""
    found = [path for path in folder.glob("linux-image-*.deb") if _flavour(path.name.split("_")[0]) == flavour]
    return max(found, key=lambda path: version_key(path.name.split("_")[0]), default=None)


def fetch(flavour: str = FLAVOURS[0], folder: Path = CACHE_DIR, *, again: bool = False) -> Path:
    """Return the package, from the cache unless `again`; FetchError without apt, network or package.

    The system's package lists are tried first. When they name no image, or one that is gone, lists of our own are read
    into `folder`, which needs no privilege and changes nothing of the system.
    """
    held = cached(flavour, folder)
    if held is not None and not again:
        return held
    if shutil.which("apt-get") is None or shutil.which("apt-cache") is None:
        raise FetchError(f"there is no apt here, which kernels are fetched with. {_GIVE_ONE}")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = cached(flavour, folder)  # another process may have fetched it
        return held if held is not None and not again else _fetch(flavour, folder)


def _fetch(flavour: str, folder: Path) -> Path:
    why = ""
    for options in ((), _own_lists(folder)):
        if options:
            updated = _run("apt-get", *options, "update")
            why = _reason(updated) or why
        name = newest(_run("apt-cache", *options, "search", "--names-only", "^linux-image-[0-9]").stdout, flavour)
        if name is None:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # what is interrupted leaves nothing behind
            done = _run("apt-get", *options, "download", name, cwd=Path(scratch))
            got = cached(flavour, Path(scratch))
            if done.returncode == 0 and got is not None:
                return got.rename(folder / got.name)
        why = _reason(done)
    what = f"apt offers no linux-image package ({flavour})" if not why else f"apt could not fetch a kernel ({why})"
    raise FetchError(f"{what}: check the network and apt's sources. {_GIVE_ONE}")


def newest(listing: str, flavour: str) -> str | None:
    """Return the package of the highest version in what `apt-cache search` printed, or None."""
    names = [line.split(" - ")[0].strip() for line in listing.splitlines()]
    return max((name for name in names if _flavour(name) == flavour), key=version_key, default=None)


def version_key(name: str) -> tuple[int, ...]:
    """Order of the versions in names of packages: 6.1.0-56 is after 6.1.0-9."""
    return tuple(int(number) for number in re.findall(r"\d+", name.removesuffix("-amd64")))


def _flavour(name: str) -> str | None:
    found = re.fullmatch(r"linux-image-\d[\d.]*(?:\+\w+)?(?:-\d+)?-((?:cloud-)?amd64)", name)
    return found[1] if found else None


def _own_lists(folder: Path) -> tuple[str, ...]:
    state = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    return "-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}", "-o", "APT::Sandbox::User="


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.removeprefix("E:").removeprefix("W:").strip() for line in done.stderr.splitlines() if line[:2] == "E:"]
    return lines[0] if lines else ""
