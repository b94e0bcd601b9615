"""Code that is loaded later and taken away again, as kernel modules are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kprobes import Module, ModuleState
from sim.elf import PF_X, Image

if TYPE_CHECKING:
    from sim.machine import Machine


class ModuleError(ValueError):
    """A request about modules that cannot be done; the message says why."""


class Modules:
    """The modules of one machine. A module is an image that was linked to a place of its own (`link-module.ld`).

    Its symbols are `name:symbol` in the machine's table. What it holds between `_sinittext` and `_einittext` is its init text.
    """

    def __init__(self, machine: Machine):
        self._machine = machine
        self._loaded: dict[str, tuple[Module, Image]] = {}

    def names(self) -> list[str]:
        """Return the names of what is loaded, the oldest first."""
        return list(self._loaded)

    def containing(self, address: int) -> Module | None:
        """Return the module whose text or init text an address lies in."""
        for module, _ in self._loaded.values():
            if any(start <= address < end for start, end in (module.text, module.init)):
                return module
        return None

    def load(self, name: str, image: Image) -> Module:
        """Place a module; its init function may then be called. Probe events that wait for it are planted.

        ModuleError when there is one of this name, when it would lie on something else, or when it has no code.
        """
        machine = self._machine
        if name in self._loaded:
            raise ModuleError(f"module {name!r} is loaded; unload it first")
        for segment in image.segments:
            held = next((s for s in machine.symbols.symbols()
                         if s.start < segment.vaddr + segment.memsz and segment.vaddr < s.end), None)
            if held is not None:
                raise ModuleError(f"module {name!r} would lie on {held.name} at {held.start:#x}: link it elsewhere")
        code = [(s.vaddr, s.vaddr + s.memsz) for s in image.segments if s.flags & PF_X]
        if not code:
            raise ModuleError(f"module {name!r} has no code")
        for segment in image.segments:
            machine.mem.write(segment.vaddr, segment.data + bytes(segment.memsz - len(segment.data)))
        machine.symbols = machine.symbols.joined(name, image.symbols)
        start, end = (image.symbols.lookup(f"_{edge}inittext") for edge in "se")
        init = (start, end) if start is not None and end is not None and start < end else (0, 0)
        text = (min(low for low, _ in code), init[0] or max(high for _, high in code))
        module = Module(name, ModuleState.COMING, text, init)
        self._loaded[name] = module, image
        machine.probe_events.module_loaded(name)
        return module

    def live(self, name: str) -> None:
        """Say that a module's init function has returned: its init text is gone, and probes there with it."""
        module, image = self._of(name)
        self._machine.kprobes.module_live(module)
        self._loaded[name] = replace(module, state=ModuleState.LIVE), image
        low, high = module.init
        self._machine.mem.write(low, b"\xcc" * (high - low))

    def unload(self, name: str) -> None:
        """Take a module away: probes in it are gone, its events wait for it to come back, its memory is cleared."""
        machine = self._machine
        module, image = self._of(name)
        module = replace(module, state=ModuleState.GOING)
        self._loaded[name] = module, image
        machine.probe_events.module_unloading(name)
        machine.kprobes.module_going(module)
        del self._loaded[name]
        machine.symbols = machine.symbols.without(name, image.symbols)
        for segment in image.segments:
            machine.mem.write(segment.vaddr, bytes(segment.memsz))

    def _of(self, name: str) -> tuple[Module, Image]:
        try:
            return self._loaded[name]
        except KeyError:
            raise ModuleError(f"there is no module {name!r}; loaded: {', '.join(self._loaded) or 'none'}") from None
