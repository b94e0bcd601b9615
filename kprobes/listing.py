"""What the kernel shows under /sys/kernel/debug/kprobes: ``list``, ``blacklist``, ``enabled``; and the same as data.

Sources: show_kprobe_addr, report_probe, kprobe_blacklist_seq_show, write_enabled_file_bool of kernel/kprobes.c; hash_64 of
include/linux/hash.h; kstrtobool of lib/kstrtox.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import asdict, dataclass

from kprobes.errors import KprobeError
from kprobes.port import Guest
from kprobes.probes import Kprobe, KprobeFlag
from kprobes.registry import Registry

#: The hash of an address: the upper bits of its product with this (GOLDEN_RATIO_64, KPROBE_HASH_BITS).
_GOLDEN_RATIO, _HASH_BITS = 0x61C8864680B583EB, 6

_TAGS = {KprobeFlag.GONE: "GONE", KprobeFlag.DISABLED: "DISABLED", KprobeFlag.OPTIMIZED: "OPTIMIZED",
         KprobeFlag.FTRACE: "FTRACE"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ``list``. ``kind`` is k for a kprobe, r for a kretprobe, j for a jprobe."""

    addr: int
    kind: str
    symbol: str | None
    offset: int
    module: str | None
    tags: tuple[str, ...]
    hits: int
    nmissed: int
    misses: dict[str, int]

    def text(self, privileged: bool = True) -> str:
        """Return the line; who is not privileged sees address 0."""
        where = f"{self.symbol}+{self.offset:#x}  {self.module or ' '}" if self.symbol is not None else f"{self.addr:#x}"
        return f"{self.addr if privileged else 0:016x}  {self.kind}  {where} {''.join(f'[{tag}]' for tag in self.tags)}\n"


@dataclass(frozen=True, slots=True)
class Forbidden:
    """One line of ``blacklist``: a range, the symbol that it begins in, and why."""

    start: int
    end: int
    symbol: str | None
    reason: str

    def text(self) -> str:
        """Return the line."""
        return f"{self.start:#018x}-{self.end:#018x}\t{self.symbol or hex(self.start)}\n"


class Listing:
    """The files of one guest's probes."""

    def __init__(
        self, guest: Guest, registry: Registry, switch: Callable[[bool], None], optimize: Callable[[bool], None],
    ):
        """``switch`` turns all probes on or off, ``optimize`` jumps in place of breakpoints."""
        self._guest = guest
        self._registry = registry
        self._switch = switch
        self._optimize = optimize

    def rows(self) -> list[Row]:
        """Return all probes in the kernel's order: by hash bucket, the newest address first, and there the newest probe."""
        sites = sorted(reversed(tuple(self._registry)), key=lambda site: bucket(site.addr))
        return [self._row(site.addr, p) for site in sites for p in site.probes]

    def list(self, privileged: bool = True) -> str:
        """Return the file ``list``."""
        return "".join(row.text(privileged) for row in self.rows())

    def forbidden(self) -> list[Forbidden]:
        """Return what must not be probed, function by function where there are functions."""
        ranges = self._registry.blacklist
        return [row for start, end, reason in ranges for row in self._by_function(start, end, reason)]

    def blacklist(self) -> str:
        """Return the file ``blacklist``."""
        return "".join(row.text() for row in self.forbidden())

    @property
    def enabled(self) -> str:
        """The file ``enabled``; whether probes are on. Written to, it takes the kernel's ways to say yes and no."""
        return "0\n" if self._registry.off else "1\n"

    @enabled.setter
    def enabled(self, text: str) -> None:
        self._switch(boolean(text))

    @property
    def optimization(self) -> str:
        """The file /proc/sys/debug/kprobes-optimization: whether jumps may replace breakpoints. It takes 0 and 1."""
        return f"{int(self._registry.optimizer.allowed)}\n"

    @optimization.setter
    def optimization(self, text: str) -> None:
        if text.strip() not in ("0", "1"):
            raise KprobeError(errno.EINVAL, f"{text.strip()!r} is neither 0 nor 1")
        self._optimize(text.strip() == "1")

    def kallsyms(self) -> str:
        """Return the lines of /proc/kallsyms for the pages of copies and of detours (kprobe_get_kallsym)."""
        slots, detours = self._registry.copies.slots, self._registry.detours.slots
        pages = [(page, "kprobe_insn_page") for page in slots.pages]
        pages += [(page, "kprobe_optinsn_page") for page in (detours.pages if detours is not None else ())]
        return "".join(f"{page:016x} t {name}\t[__builtin__kprobes]\n" for page, name in pages)

    def as_dict(self) -> dict[str, object]:
        """Return all of it as plain dicts, lists, strings and numbers."""
        return {
            "enabled": not self._registry.off,
            "optimization": self._registry.optimizer.allowed,
            "probes": [asdict(row) for row in self.rows()],
            "blacklist": [asdict(row) for row in self.forbidden()],
        }

    def _row(self, addr: int, p: Kprobe) -> Row:
        symbol, module = self._guest.symbols.containing(addr), self._guest.module(addr)
        flags = p.flags & ~KprobeFlag.DISABLED if p.flags & KprobeFlag.GONE else p.flags
        return Row(
            addr, "r" if p.retprobe is not None else "j" if p.jprobe is not None else "k",
            symbol.name.removeprefix(f"{module.name}:" if module else "") if symbol else None,
            addr - symbol.start if symbol else 0, module.name if module else None,
            tuple(tag for flag, tag in _TAGS.items() if flags & flag), p.hits, p.nmissed,
            {str(reason): count for reason, count in p.misses.items() if count})

    def _by_function(self, start: int, end: int, reason: str) -> list[Forbidden]:
        rows: list[Forbidden] = []
        at = start
        while at < end:
            symbol = self._guest.symbols.containing(at)
            if symbol is not None:
                rows.append(Forbidden(max(start, symbol.start), min(end, symbol.end), symbol.name, reason))
            at = max(symbol.end if symbol is not None else 0, at + 1)
        return rows or [Forbidden(start, end, None, reason)]


def bucket(addr: int) -> int:
    """Return the number of an address's hash bucket, 0 to 63."""
    return (addr * _GOLDEN_RATIO & ((1 << 64) - 1)) >> 64 - _HASH_BITS


def boolean(text: str) -> bool:
    """Read a truth value as the kernel does, by its first letter or two; raise EINVAL for anything else (kstrtobool)."""
    word = text.lower()
    if word.startswith(("y", "t", "1", "on")):
        return True
    if word.startswith(("n", "f", "0", "of")):
        return False
    raise KprobeError(errno.EINVAL, f"{text.strip()!r} is neither yes nor no; write 1 or 0")
