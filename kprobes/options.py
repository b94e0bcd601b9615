"""What a registry of probes is set to: how displaced instructions are executed, and whether jumps replace breakpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Step = Literal["tf", "int3", "inline"]


@dataclass(frozen=True, slots=True)
class Options:
    """Chosen once, for all probes of a guest. The defaults are what the announcement of 2004 did.

    * ``step``: "tf" steps the copy with TF and the debug trap, as kernels did to 5.12; "int3" puts a breakpoint behind the
      copy and emulates branches and flag instructions, as they do since 5.13. "inline" is how it must not be done, to be
      looked at: the breakpoint is taken out while a cpu steps the original in its place, and other cpus run through it.
    * ``boost``: a probe without post_handler whose instruction allows it runs its copy and jumps back, with no second trap.
    * ``optimize``: a jump to a detour buffer replaces the breakpoint where the code around it allows that, ``optimize_delay``
      cycles after the registration (5 jiffies in Linux).

    A hit of a program that somebody single-steps (TF set) is stepped by TF in every mode, so that no stop is lost.
    """

    step: Step = "tf"
    boost: bool = False
    optimize: bool = False
    optimize_delay: int = 5_000

    def __post_init__(self) -> None:
        if self.step not in get_args(Step):
            raise ValueError(f"step is {self.step!r}; it must be one of {', '.join(map(repr, get_args(Step)))}")
        if self.step == "inline" and (self.boost or self.optimize):
            raise ValueError('step is "inline", which uses no copies: nothing can be boosted or optimised')
        if self.optimize_delay < 0:
            raise ValueError(f"optimize_delay is {self.optimize_delay} cycles; it cannot be negative")
