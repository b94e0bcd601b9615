"""``ProbeEvents``: the file ``kprobe_events`` and its neighbours as an object."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator

from kprobes.errors import KprobeError
from kprobes.port import Guest
from kprobes.runtime import Kprobes
from kprobes.tracing.command import Definition, Location, Removal, names, parse
from kprobes.tracing.definition import check_against, compile_definition
from kprobes.tracing.errors import ErrorCode, ProbeEventError
from kprobes.tracing.event import Event, TraceProbe, layout_of
from kprobes.tracing.filter import compile_filter
from kprobes.tracing.record import UNKNOWN_TASK, TraceFormat, TraceRecord
from kprobes.tracing.source import Source, Word

#: Receives each record during the hit; it must not change anything.
Observer = Callable[[TraceRecord], object]


class ProbeEvents:
    """Dynamic probes of one guest, written in the kernel's text language.

        events = ProbeEvents(kprobes, guest)
        events.write("p:open do_open path=+0(%di):string")   # defined, disabled
        events.enable("open")
        ...                                                   # the guest runs
        print(events.trace())                                 # open: (do_open+0x0/0x2a) path="/etc/passwd"

    The names of events are ``[GROUP/]EVENT`` everywhere, ``GROUP/`` for a whole group and the empty string for all. A
    request that is refused raises ``KprobeError`` and has changed nothing; one in the language raises
    ``ProbeEventError`` with a caret under the place. The last ``capacity`` records are kept; ``observers`` see them all.

    ``comm`` is the name of the guest's task, as ``$comm`` and the lines show it. A symbol may be written MODULE:SYMBOL
    when the symbol table has such names; without the module the event waits for ``module_loaded``.
    """

    def __init__(self, kprobes: Kprobes, guest: Guest, comm: str | None = None, capacity: int = 1 << 16):
        self._kprobes = kprobes
        self._guest = guest
        self._comm = comm or UNKNOWN_TASK
        self._events: dict[str, dict[str, Event]] = {}  # by name, then by group
        self._order: dict[TraceProbe, None] = {}  # as they were defined
        self.format = TraceFormat(guest, self._comm)
        self.records: deque[TraceRecord] = deque(maxlen=capacity)
        self.observers: list[Observer] = []
        self.written = 0  #: records so far, those that were dropped for room included

    def __iter__(self) -> Iterator[Event]:
        return iter(dict.fromkeys(probe.event for probe in self._order))

    def __len__(self) -> int:
        return sum(map(len, self._events.values()))

    def __getitem__(self, name: str) -> Event:
        """Return the one event of this name; KeyError when there is none or more than one."""
        found = self._named(name)
        if len(found) != 1:
            raise KeyError(name)
        return found[0]

    # The file kprobe_events.

    def write(self, text: str) -> None:
        """Execute commands, one to a line; what follows a # is a comment.

        The first command that is refused ends this; what the lines before it did stays, as in the kernel.
        """
        for line in text.split("\n"):
            command = parse(line)
            if isinstance(command, Definition):
                self._define(command)
            elif command is not None:
                self._remove(command)

    def boot(self, text: str) -> None:
        """Execute a kernel's boot parameter ``kprobe_event=``, commas for blanks and ';' between commands, and enable."""
        self.write(text.replace(",", " ").replace(";", "\n"))
        self.enable()

    def clear(self) -> None:
        """Remove every event, as opening the file with truncation does; EBUSY, and nothing removed, if one is enabled."""
        self._delete(list(self._order))

    def read(self) -> list[str]:
        """Return all definitions, in their order, in a form that ``write`` takes again."""
        return [str(probe) for probe in self._order]

    # The files enable, filter, kprobe_profile and trace.

    def enable(self, name: str = "") -> None:
        """Enable an event, a group, or all: every probe of each. If one cannot be armed, none is."""
        self._switch(name, True)

    def disable(self, name: str = "") -> None:
        """Disable an event, a group, or all. A call that is under way is still counted on its return, not recorded."""
        self._switch(name, False)

    def set_filter(self, name: str, text: str) -> None:
        """Let only those records of an event or a group pass that the filter (``kprobes.tracing.filter``) is true for.

        "0" removes the filter. Hits are counted in any case.
        """
        found = self._chosen(name)
        compiled = [compile_filter(text, event.layout, self._comm) for event in found]
        for event, keeps in zip(found, compiled, strict=True):
            event.keeps = keeps
            event.filter = text.strip() if keeps is not None else ""

    def profile(self) -> str:
        """Return the text of ``kprobe_profile``: for each probe its event, its hits and its misses."""
        rows = (f"  {probe.event.layout.event:<44} {probe.hits:>15} {probe.misses:>15}\n" for probe in self._order)
        return "".join(rows)

    def trace(self) -> str:
        """Return the text of ``trace``: a header, and one line for each record that is kept."""
        lines = (self.format.line(record) + "\n" for record in self.records)
        return self.format.header(len(self.records), self.written) + "".join(lines)

    def clear_trace(self) -> None:
        """Forget all records."""
        self.records.clear()
        self.written = 0

    # Modules.

    def module_loaded(self, module: str) -> None:
        """Plant the probes that wait for a module, whose symbols the symbol table has by now as ``module:symbol``.

        The first one that is refused is reported when all have been tried.
        """
        errors = []
        for probe in self._order:
            if probe.probe is None and probe.location.module == module:
                try:
                    probe.register(self._kprobes, self._guest)
                except KprobeError as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def module_unloading(self, module: str) -> None:
        """Take out the probes in a module; their events stay, and wait for it to come back."""
        for probe in self._order:
            if probe.location.module == module:
                probe.unregister(self._kprobes)

    def _define(self, definition: Definition) -> None:
        compiled = compile_definition(definition, self._guest, self._comm)
        group, name = definition.group, definition.event
        event = self._events.get(name, {}).get(group)
        if event is None:
            event = Event(layout_of(group, name, definition.is_return, compiled.arguments), self._emit)
        else:
            check_against(definition, compiled.arguments, event)
        probe = TraceProbe(event, definition.location, compiled.arguments, definition.maxactive, compiled.saved)
        if not compiled.pending:
            self._register(definition, probe)
        event.probes[probe.key] = probe
        self._events.setdefault(name, {})[group] = event
        self._order[probe] = None

    def _register(self, definition: Definition, probe: TraceProbe) -> None:
        """Plant a probe; the runtime's refusal gets the code and the place that the kernel gives it."""
        try:
            probe.register(self._kprobes, self._guest)
        except ProbeEventError:
            raise
        except KprobeError as error:
            number = error.errno or errno.EINVAL
            if number in (errno.ENOMEM, errno.EEXIST):
                raise
            code = {errno.EILSEQ: ErrorCode.BAD_INSN_BNDRY, errno.ENOENT: ErrorCode.BAD_PROBE_ADDR}.get(
                number, ErrorCode.FAIL_REG_PROBE)
            at = definition.where.at
            if code is ErrorCode.BAD_INSN_BNDRY:
                at += max(0, definition.where.text.find("+"))
            why, _, picture = str(error.strerror).partition("\n")
            raise definition.source.error(code, at, why, number, picture) from error

    def _remove(self, removal: Removal) -> None:
        found = [probe for event in self._matching(removal.group, removal.event) for probe in event.probes.values()
                 if _is_meant(probe, removal.location, removal.arguments)]
        if not found:
            raise KprobeError(errno.ENOENT, f"no probe event matches {removal.source.text.strip()!r}{self._known()}")
        self._delete(found)

    def _delete(self, probes: list[TraceProbe]) -> None:
        busy = next((probe.event for probe in probes if probe.event.enabled), None)
        if busy is not None:
            raise KprobeError(errno.EBUSY, f"the event {busy.name} is enabled; disable it first")
        for probe in probes:
            probe.unregister(self._kprobes)
            event = probe.event
            del event.probes[probe.key], self._order[probe]
            if not event.probes:
                del self._events[event.layout.event][event.layout.group]

    def _switch(self, name: str, on: bool) -> None:
        changed: list[tuple[Event, TraceProbe]] = []
        found = [event for event in self._chosen(name) if event.enabled != on]
        try:
            for event in found:
                for probe in event.probes.values():
                    probe.set_enabled(self._kprobes, on)
                    changed.append((event, probe))
        except BaseException:
            for _, probe in changed:
                probe.set_enabled(self._kprobes, not on)
            raise
        for event in found:
            event.enabled = on

    def _chosen(self, name: str) -> list[Event]:
        """Return what a name means; ENOENT when it means nothing."""
        found = self._named(name)
        if not found and name:
            raise KprobeError(errno.ENOENT, f"there is no event {name!r}{self._known()}")
        return found

    def _named(self, name: str) -> list[Event]:
        return self._matching(*names(Source(name), Word(name, 0))) if name else list(self)

    def _matching(self, group: str | None, name: str | None) -> list[Event]:
        found = list(self) if name is None else list(self._events.get(name, {}).values())
        return [event for event in found if group in (None, event.layout.group)]

    def _known(self) -> str:
        return f"; there are {', '.join(event.name for event in self)}" if len(self) else "; there are none"

    def _emit(self, record: TraceRecord) -> None:
        self.records.append(record)
        self.written += 1
        for observer in self.observers:
            observer(record)


def _is_meant(probe: TraceProbe, location: Location | None, arguments: tuple[str, ...]) -> bool:
    """Whether a removal with a location, and with the first arguments as they are read back, means this probe."""
    if location is None:
        return True
    return location == probe.location and tuple(map(str, probe.arguments))[:len(arguments)] == arguments
