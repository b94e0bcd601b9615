"""Makes a failing vector smaller, with the silicon giving the expected result of every candidate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import reduce

from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from tests.silicon import flags
from tests.silicon.executor import run
from tests.silicon.generate import complete
from tests.silicon.state import runs

_MD = Cs(CS_ARCH_X86, CS_MODE_64)
_MD.detail = True
_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, *range(0x40, 0x50), 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))


def _captured(candidates: list[dict]) -> Iterator[dict]:
    """Those candidates, with a fresh `final`, that do not depend on unnamed memory and meet the same trap as before."""
    for vector, first, second in zip(candidates, run(candidates), run(candidates, fill=0xA5), strict=True):
        if first != second or not first.faithful:
            continue
        kept = {key: copy.deepcopy(vector[key]) for key in ("name", "initial", "insns", "masks") if key in vector}
        undefined = vector["undefined_flags"]
        if "masks" in vector:
            undefined = reduce(lambda so_far, mask: flags.accumulate(so_far, *mask), vector["masks"], 0)
        fresh = complete(kept, first, undefined)
        before, after = vector["final"]["trap"], fresh["final"]["trap"]
        if (before and before["vector"]) == (after and after["vector"]):
            yield fresh


def _shorter(vector: dict) -> Iterator[dict]:
    """Without the first instruction, then without the last."""
    if vector["insns"] < 2:
        return
    outcome = run([dict(vector, insns=1)])[0]
    if outcome.trap is None:
        memory = {a + i: byte for a, text in vector["initial"]["mem"] for i, byte in enumerate(bytes.fromhex(text))}
        memory.update({a + i: byte for a, data in outcome.changed for i, byte in enumerate(data)})
        yield _fewer_insns(vector, slice(1, None), initial={"regs": outcome.regs, "mem": runs(memory)})
    if vector["final"]["trap"] is None:
        yield _fewer_insns(vector, slice(None, -1))


def _fewer_insns(vector: dict, left: slice, **changes: dict) -> dict:
    masks = {"masks": vector["masks"][left]} if "masks" in vector else {}
    return dict(vector, insns=vector["insns"] - 1, **changes, **masks)


def _with_memory(vector: dict, memory: list[list]) -> dict:
    return dict(vector, initial=dict(vector["initial"], mem=[run for run in memory if run[1]]))


def _fewer(vector: dict) -> Iterator[dict]:
    """One register less that is not zero, or fewer bytes of memory: a run, its halves, its ends."""
    regs, mem = vector["initial"]["regs"], vector["initial"]["mem"]
    for name in regs:
        if name not in ("rip", "rsp"):
            yield dict(vector, initial=dict(vector["initial"], regs={n: v for n, v in regs.items() if n != name}))
    for i, (address, text) in enumerate(mem):
        data = bytes.fromhex(text)
        half = len(data) // 2
        for start, end in ((0, 0), (0, half), (half, len(data)), (1, len(data)), (0, len(data) - 1)):
            part = data[start:end]
            if len(part) < len(data):
                yield _with_memory(vector, [*mem[:i], [address + start, part.hex()], *mem[i + 1 :]])


def _plainer(vector: dict) -> Iterator[dict]:
    """The only instruction without one of its prefixes."""
    rip, mem = vector["initial"]["regs"].get("rip", 0), vector["initial"]["mem"]
    for i, (address, text) in enumerate(mem):
        data = bytes.fromhex(text)
        if vector["insns"] != 1 or not address <= rip < address + len(data):
            continue
        for at in range(rip - address, len(data)):
            if data[at] not in _PREFIXES:
                break
            yield _with_memory(vector, [*mem[:i], [address, (data[:at] + data[at + 1 :]).hex()], *mem[i + 1 :]])


def _smaller_values(value: int) -> Iterator[int]:
    """Numbers that are easier to read: with fewer bits set, or fewer bits."""
    yield 1
    for width in (8, 16, 32):
        yield value & ((1 << width) - 1)
        yield value >> width << width
    if value:
        yield 1 << value.bit_length() - 1
        yield value & (value - 1)


def _simpler(vector: dict) -> Iterator[dict]:
    """One register, byte or immediate that is easier to read."""
    initial = vector["initial"]
    rip = initial["regs"].get("rip", 0)
    for name, value in initial["regs"].items():
        if name in ("rip", "rsp"):
            continue
        known = [2] if name == "rflags" else []
        for smaller in dict.fromkeys((*known, *_smaller_values(value))):
            if (smaller.bit_count(), smaller.bit_length()) < (value.bit_count(), value.bit_length()):
                yield dict(vector, initial=dict(initial, regs={**initial["regs"], name: smaller}))
    for i, (address, text) in enumerate(initial["mem"]):
        data = bytes.fromhex(text)
        if address <= rip < address + len(data):
            found = next(_MD.disasm(data[rip - address :], rip, 1), None)
            if found is None or not found.imm_size:
                continue
            at = rip - address + found.imm_offset
            changes = [data[:at] + bytes(found.imm_size) + data[at + found.imm_size :]]
        else:
            changes = [bytes(len(data)), *(data[:n] + b"\0" + data[n + 1 :] for n in range(len(data)))]
        for changed in changes:
            if changed != data:
                yield _with_memory(vector, [*initial["mem"][:i], [address, changed.hex()], *initial["mem"][i + 1 :]])


def _first(candidates: Iterable[dict], fails: Callable[[dict], bool]) -> dict | None:
    return next(filter(fails, _captured(list(candidates))), None)


def shrink(vector: dict, fails: Callable[[dict], bool], masks: Iterable[tuple[int, int]] = ()) -> dict:
    """The smallest vector found that still fails: fewer instructions, registers, bytes and prefixes, simpler values.

    Every step makes one of these less and none of them more, so it ends. `masks`: the flags that each instruction
    defines and leaves undefined; without them, `undefined_flags` stays as it was. A count or operand that became
    zero can make other flags or a result undefined: `fails` should look at what is wrong.
    """
    if masks:
        vector = dict(vector, masks=list(masks))
    progress = True
    while progress:
        progress = False
        for steps in (_shorter, _fewer, _plainer, _simpler):
            smaller = _first(steps(vector), fails)
            if smaller is not None:
                vector, progress = smaller, True
                break
    return {key: value for key, value in vector.items() if key != "masks"}
