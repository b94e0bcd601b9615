"""What must not be probed: ranges of the guest, and those that users add (kernel/kprobes.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from kprobes.errors import KprobeError, Rule
from kprobes.port import Guest, Symbol

#: Symbols that belong to control-flow integrity, not to code that runs.
_NOT_CODE = ("__cfi_", "__pfx_")

Range = tuple[int, int, str]


class Blacklist:
    """The blacklist of one guest. ``own_text`` tells whether an address lies in memory that the runtime has filled."""

    def __init__(self, guest: Guest, own_text: Callable[[int], bool]):
        self._guest = guest
        self._own_text = own_text
        self._added: list[Range] = []

    def __iter__(self) -> Iterator[Range]:
        """Iterate over the ranges: first the guest's, then those added."""
        yield from self._guest.blacklist()
        yield from self._added

    def reason(self, addr: int) -> str | None:
        """Return why ``addr`` must not be probed, None when it may (within_kprobe_blacklist).

        A symbol with a suffix of the compiler's, such as '.cold' or '.isra.0', is judged by the one without it, too.
        """
        if self._own_text(addr):
            return "it is the probe runtime's own text; probing it would never end"
        symbol = self._guest.symbols.containing(addr)
        if symbol is not None and symbol.name.startswith(_NOT_CODE):
            return f"'{symbol.name}' is control-flow integrity data"
        base = None
        if symbol is not None and "." in symbol.name[1:]:
            base = self._guest.symbols.lookup(symbol.name.split(".")[0])
        return next((why for start, end, why in self
                     if start <= addr < end or (base is not None and start <= base < end)), None)

    def add_symbol(self, entry: int) -> int:
        """Forbid the function that contains ``entry``, and return its size (kprobe_add_ksym_blacklist)."""
        symbol = self._guest.symbols.containing(entry)
        if symbol is None or not self._guest.is_text(entry):
            raise KprobeError(errno.EINVAL, (
                f"{entry:#x} is not in a function of the guest's text, so there is nothing to forbid there"), Rule.BLACKLIST)
        self._added.append((symbol.start, symbol.end, f"'{symbol.name}' is on the blacklist"))
        return symbol.size

    def add_area(self, start: int, end: int) -> None:
        """Forbid every function in [start, end), one by one (kprobe_add_area_blacklist)."""
        at = start
        symbols: list[Symbol] = []
        while at < end:
            symbol = self._guest.symbols.containing(at)
            if symbol is None or not self._guest.is_text(at):
                raise KprobeError(errno.EINVAL, (
                    f"{at:#x} is not in a function of the guest's text, so the area from {start:#x} to {end:#x} cannot be "
                    "forbidden; nothing of it was"), Rule.BLACKLIST)
            symbols.append(symbol)
            at = max(symbol.end, at + 1)
        self._added += [(s.start, s.end, f"'{s.name}' is on the blacklist") for s in symbols]
