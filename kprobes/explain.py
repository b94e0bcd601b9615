"""Whether an address would be probed, how its instruction would be executed, and why not in a faster way.

Nothing here changes anything. The answers are those of the modules that decide at registration: ``checks``, ``emulate``,
``boost``, ``region``.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum

from kprobes.checks import Place
from kprobes.emulate import emulator, refusal
from kprobes.errors import KprobeError
from kprobes.insn import Insn
from kprobes.options import Options
from kprobes.picture import picture
from kprobes.region import Obstacle
from kprobes.registry import Registry
from kprobes.step import Site
from kprobes.text import Function


class Way(StrEnum):
    """How a displaced instruction is executed, the fastest first."""

    FENTRY = "fentry"        # a call in place of a function's nop for tracing, with nothing to execute
    OPTIMIZED = "optimised"  # a jump instead of the breakpoint, to a copy of what it covers
    BOOSTED = "boosted"      # breakpoint; the copy jumps back by itself
    EMULATED = "emulated"    # breakpoint; the runtime does what the instruction does
    INT3 = "int3"            # breakpoint, and a second one behind the copy
    TF = "tf"                # breakpoint, and the debug trap behind the copy
    INLINE = "inline"        # breakpoint, taken out while the original is stepped: what not to do

    @property
    def about(self) -> str:
        """What happens, in words."""
        return _ABOUT[self]


_ABOUT = {
    Way.FENTRY: "a call in place of the nop for tracing, no trap",
    Way.OPTIMIZED: "a jump to a detour, no trap",
    Way.BOOSTED: "one trap, then the copy jumps back",
    Way.EMULATED: "one trap, the instruction is emulated",
    Way.INT3: "two traps, an int3 behind the copy",
    Way.TF: "two traps, single step of the copy",
    Way.INLINE: "two traps, single step in place, which other harts run through",
}

_POST = "a post_handler has to run when the instruction is done, and no trap tells of that"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One way, and why it cannot be taken; None when it can."""

    way: Way
    obstacle: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a probe. ``way`` is the one that the registry's options choose, None when it is refused.

    ``refusal`` is what registration would raise; ``verdicts`` are empty when it would in every mode.
    """

    name: str
    addr: int | None
    text: str | None
    data: bytes
    picture: str
    refusal: KprobeError | None
    way: Way | None
    verdicts: tuple[Verdict, ...]
    probes: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Return it as plain dicts, lists, strings and numbers."""
        refusal = self.refusal
        return {
            "name": self.name, "addr": self.addr, "instruction": self.text, "bytes": self.data.hex(" "),
            "way": self.way and str(self.way),
            "refusal": refusal and {
                "errno": errno.errorcode.get(refusal.errno or 0), "rule": refusal.rule and str(refusal.rule),
                "message": str(refusal.strerror).split("\n")[0]},
            "ways": {str(v.way): v.obstacle for v in self.verdicts},
            "probes": list(self.probes),
        }


class Explainer:
    """Explanations of one guest's addresses."""

    def __init__(self, registry: Registry, options: Options):
        self._registry = registry
        self._options = options

    def explain(
        self, symbol_name: str | None = None, addr: int | None = None, offset: int = 0, *, post: bool = False,
    ) -> Explanation:
        """Explain a place, given as to a Kprobe; ``post``: with a post_handler."""
        registry, checks = self._registry, self._registry.checks
        try:
            place = checks.resolve(symbol_name, addr, offset)
        except KprobeError as exc:
            name = symbol_name if symbol_name is not None else "?" if addr is None else hex(addr)
            return Explanation(f"{name}+{offset:#x}" if offset else name, None, None, b"", "", exc, None, (), ())
        site = registry.find(place.addr)
        name, probes = checks.describe(place.addr), tuple(p.name for p in site.probes) if site is not None else ()
        function = registry.text.function(place.symbol)
        insn, verdicts, way, refused = None, (), None, None
        try:
            checks.permit(place)
            insn = checks.instruction(place)
            verdicts = tuple(Verdict(way, self._obstacle(way, insn, place, site, post)) for way in Way)
            registry.copies.steppable(insn, place)
            way = next(v.way for v in verdicts if v.obstacle is None and self._chosen(v.way))
        except KprobeError as exc:
            refused = exc
        if insn is None:
            number = function.index.get(place.addr)
            _, size, text = function.insns[number] if number is not None else (0, 0, None)
            at = place.addr - place.symbol.start
            data = function.code[at:at + size]
        else:
            text, data = insn.text, insn.data
        shown = picture(function, place.addr, way or _boundaries(function, place.addr))
        return Explanation(name, place.addr, text, data, shown, refused, way, verdicts, probes)

    def _chosen(self, way: Way) -> bool:
        """Whether the registry's options have this way at all."""
        options = self._options
        has = {
            Way.FENTRY: True, Way.OPTIMIZED: options.optimize, Way.BOOSTED: options.boost,
            Way.EMULATED: options.step == "int3",
        }
        return has.get(way, options.step == way)

    def _obstacle(self, way: Way, insn: Insn, place: Place, site: Site | None, post: bool) -> str | None:
        """Return why this way is not open to the instruction."""
        if self._registry.copies.at_fentry(insn):
            return None if way is Way.FENTRY else "the nop for tracing becomes a call, always"
        match way:
            case Way.FENTRY:
                return "it is not a function's nop for tracing"
            case Way.TF | Way.INLINE:
                return None
            case Way.INT3:
                refused = refusal(insn)
                return "it is emulated" if emulator(insn) is not None else refused[1] if refused else None
            case Way.EMULATED:
                if emulator(insn) is not None:
                    return None
                refused = refusal(insn)
                return refused[1] if refused else "it neither branches nor reads or sets IF or TF, so its copy is stepped"
            case Way.BOOSTED:
                if site is not None and self._options.boost and not site.boosted:
                    return "the first probe at the address was to be stepped, and a copy in use is not changed"
                return _POST if post else self._registry.copies.why_not_boosted(insn)
            case Way.OPTIMIZED:
                return _POST if post or (site is not None and site.posts) else self._no_jump(place)

    def _no_jump(self, place: Place) -> str | None:
        region = self._registry.optimizer.region_at(place.addr, place.symbol)
        if isinstance(region, Obstacle):
            return region.reason
        inside = next((at for at in range(place.addr + 1, region.end) if self._armed(at)), None)
        return None if inside is None else (
            f"there is a probe on {self._registry.checks.describe(inside)}, which the jump would cover")

    def _armed(self, addr: int) -> bool:
        site = self._registry.find(addr)
        return site is not None and site.armed


def _boundaries(function: Function, addr: int) -> str:
    """Say where instructions begin around an address that is inside one."""
    before = function.before(addr)
    if before is None or addr in function.index or addr >= before[0] + before[1]:
        return "not probed"
    at = before[0] - function.symbol.start
    return f"not probed; nearest boundaries: +{at:#x}, +{at + before[1]:#x}"
