"""Makes a failing vector smaller, with the silicon giving the expected result of every candidate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from tests.silicon.executor import run
from tests.silicon.generate import complete

_MD = Cs(CS_ARCH_X86, CS_MODE_64)
_MD.detail = True


def _captured(vector: dict) -> dict | None:
    """The vector with a fresh `final`; None when it depends on unnamed memory, or another trap came."""
    first, second = run([vector]), run([vector], fill=0xA5)
    if first != second or not first[0].faithful:
        return None
    kept = {key: copy.deepcopy(vector[key]) for key in ("name", "initial", "insns")}
    fresh = complete(kept, first[0], vector["undefined_flags"])
    before, after = vector["final"]["trap"], fresh["final"]["trap"]
    if (before and before["vector"]) != (after and after["vector"]):
        return None
    return fresh


def _shorter(vector: dict) -> Iterator[dict]:
    """Without the first instruction, then without the last."""
    if vector["insns"] < 2:
        return
    outcome = run([dict(vector, insns=1)])[0]
    if outcome.trap is None:
        memory = {a + i: byte for a, text in vector["initial"]["mem"] for i, byte in enumerate(bytes.fromhex(text))}
        memory.update({a + i: byte for a, data in outcome.changed for i, byte in enumerate(data)})
        mem = [[address, f"{byte:02x}"] for address, byte in sorted(memory.items())]
        yield dict(vector, insns=vector["insns"] - 1, initial={"regs": outcome.regs, "mem": mem})
    if vector["final"]["trap"] is None:
        yield dict(vector, insns=vector["insns"] - 1)


def _simpler(vector: dict) -> Iterator[dict]:
    """One register, byte or immediate nearer to zero."""
    initial = vector["initial"]
    for name, value in initial["regs"].items():
        if name in ("rip", "rsp"):
            continue
        floor = 2 if name == "rflags" else 0
        for smaller in dict.fromkeys((floor, value & 0xFFFF, value & 0xFFFF_FFFF)):
            if smaller != value:
                yield dict(vector, initial=dict(initial, regs={**initial["regs"], name: smaller}))
    rip = initial["regs"].get("rip", 0)
    for i, (address, text) in enumerate(initial["mem"]):
        data = bytes.fromhex(text)
        if address <= rip < address + len(data):
            found = next(_MD.disasm(data[rip - address :], rip, 1), None)
            if found is None or not found.imm_size:
                continue
            at = rip - address + found.imm_offset
            changed = data[:at] + bytes(found.imm_size) + data[at + found.imm_size :]
        else:
            changed = bytes(len(data))
        if changed != data:
            mem = [*initial["mem"][:i], [address, changed.hex()], *initial["mem"][i + 1 :]]
            yield dict(vector, initial=dict(initial, mem=mem))


def shrink(vector: dict, fails: Callable[[dict], bool]) -> dict:
    """The smallest vector found that still fails: fewer instructions, then registers, memory and immediates at zero.

    `undefined_flags` stays as it was. A count or operand that became zero can make other flags or a result undefined:
    look at what comes out before believing it.
    """
    progress = True
    while progress:
        progress = False
        for steps in (_shorter, _simpler):
            for candidate in steps(vector):
                fresh = _captured(candidate)
                if fresh is not None and fails(fresh):
                    vector, progress = fresh, True
                    break
            if progress:
                break
    return vector
