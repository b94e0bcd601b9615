"""What a hit of an event leaves behind, and its text in the format of ftrace's ``trace`` file.

            TASK-PID     CPU#  FLAGS    TIMESTAMP  EVENT
           guest-1       [000] d....         1234: open: (do_open+0x0/0x2a) path="/etc/passwd"

The task is the guest's name, cut to 15 characters as a task's is, and ``<...>`` when it has none. The flags are d when the
probed code ran with interrupts off; the other four, which only a kernel knows, are dots. The time is the number of the
cycle, printed as ftrace prints clocks that do not count nanoseconds (``trace_clock`` x86-tsc or counter).
"""

from __future__ import annotations

from dataclasses import dataclass

from kprobes.port import Guest, Symbols
from kprobes.ptregs import IF
from kprobes.tracing.types import Value, ValueType, symbolic

UNKNOWN_TASK = "<...>"
LONGEST_COMM = 15
PID = 1


@dataclass(frozen=True, slots=True)
class Field:
    """An argument of an event: ``count`` is 0 unless it is an array."""

    name: str
    type: ValueType
    count: int

    def show(self, value: Value, symbols: Symbols) -> str:
        """Return the value as text."""
        if isinstance(value, tuple):
            return "{" + ",".join(self.type.show(element, symbols) for element in value) + "}"
        return self.type.show(value, symbols)


@dataclass(frozen=True, slots=True)
class Layout:
    """What all records of an event have in common."""

    group: str
    event: str
    is_return: bool
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One hit: ``ip`` is the probed address (of a return, the function's), ``ret_ip`` where the function returned to.

    ``time`` is in cycles, ``flags`` are RFLAGS of the probed code, ``values`` are those of ``layout.fields``.
    """

    layout: Layout
    cpu: int
    time: int
    flags: int
    ip: int
    ret_ip: int | None
    values: tuple[Value, ...]

    @property
    def fields(self) -> dict[str, Value]:
        """The arguments by name: int, str, None for a string that could not be read, tuples for arrays."""
        return {field.name: value for field, value in zip(self.layout.fields, self.values, strict=True)}

    def as_dict(self) -> dict[str, object]:
        """Return what ``json`` can write."""
        return {
            "event": self.layout.event, "group": self.layout.group, "cpu": self.cpu, "time": self.time,
            "ip": self.ip, "ret_ip": self.ret_ip, "fields": self.fields,
        }


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """The text of records for one guest."""

    guest: Guest
    comm: str

    def body(self, record: TraceRecord) -> str:
        """Return ``EVENT: (SYM+0xOFF/0xSIZE) name=value ...``; for a return ``(RETSYM+0xOFF/0xSIZE <- FUNC)``."""
        layout, symbols = record.layout, self.guest.symbols
        if record.ret_ip is None:
            where = symbolic(record.ip, symbols)
        else:
            function = symbols.containing(record.ip)
            name = f"{record.ip:#x}" if function is None else function.name
            where = f"{symbolic(record.ret_ip, symbols)} <- {name}"
        cells = (f" {field.name}={field.show(value, symbols)}"
                 for field, value in zip(layout.fields, record.values, strict=True))
        return f"{layout.event}: ({where}){''.join(cells)}"

    def line(self, record: TraceRecord) -> str:
        """Return the whole line: task, cpu, flags and time before the body."""
        irqs_off = "." if record.flags & IF else "d"
        return (f"{self.comm[:LONGEST_COMM]:>16}-{PID:<7} [{record.cpu:03}] {irqs_off}.... {record.time:12}: "
                f"{self.body(record)}")

    def header(self, kept: int, written: int) -> str:
        """Return the comment lines above the first record."""
        return (f"# tracer: nop\n#\n# entries-in-buffer/entries-written: {kept}/{written}   #P:{self.guest.cpus}\n#\n"
                f"#{'TASK-PID':>20}    CPU#  FLAGS {'CYCLE':>12}  EVENT\n")
