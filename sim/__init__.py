"""The hardware on its engines, the runtime on the hardware, and what shows what happened. `Machine` is where to begin."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.machine import Machine, RunResult

__all__ = ["Machine", "RunResult"]


def __getattr__(name: str):
    """Import the machine when it is asked for: listing engines or tables needs no runtime."""
    if name in __all__:
        import sim.machine

        return getattr(sim.machine, name)
    raise AttributeError(f"module 'sim' has no attribute {name!r}")
