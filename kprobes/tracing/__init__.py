"""The kernel's text language for dynamic probes: ``p:open do_open path=+0(%di):string``.

Where to look: ``probeevents`` (the files as an object), ``command`` (lines), ``definition`` (places and arguments
together), ``argument``, ``fetch`` and ``types`` (values), ``filter``, ``event`` (a hit), ``record`` (lines of the trace),
``errors`` (codes and carets), ``source`` (words). ``docs/tracing.md`` has the grammar.
"""

from kprobes.tracing.errors import ErrorCode, ProbeEventError
from kprobes.tracing.event import Event, TraceProbe
from kprobes.tracing.probeevents import ProbeEvents
from kprobes.tracing.record import TraceFormat, TraceRecord

__all__ = ["ErrorCode", "Event", "ProbeEventError", "ProbeEvents", "TraceFormat", "TraceProbe", "TraceRecord"]
