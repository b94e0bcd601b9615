"""Registering is linear in the number of probes, and a hit does not depend on it: counted in lines of Python, not in seconds.

Lines of C (a sort, a comparison of bytes) do not count, so this finds loops in the runtime, which is what goes wrong.
"""

import sys
from pathlib import Path

import pytest

import kprobes
from kprobes import Kprobe, Options
from tests.kprobes.fakemachine import FakeMachine

FEW, MANY = 150, 600
RUNTIME = str(Path(kprobes.__file__).parent)

OPTIONS = {
    "tf": Options(), "int3": Options(step="int3"), "boost": Options(boost=True), "optimise": Options(boost=True, optimize=True),
}

#: One function of many instructions; many functions of a few.
LAYOUTS = {
    "one function": f"func f\n.fill {MANY}, 1, 0x90\nret\nendf f",
    "many functions": "".join(f"func {name}\n.fill 14, 1, 0x90\nret\nendf {name}\n"
                              for name in ("f", *(f"f{n}" for n in range(MANY // 15)))),
}


def lines(call):
    """How many lines of the runtime a call executes."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        if not frame.f_code.co_filename.startswith(RUNTIME):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def costs(n, layout, options):
    """Lines to register n probes, to hit one, to disable and enable all, to switch all off and on, to unregister."""
    machine = FakeMachine(LAYOUTS[layout], options=options)
    runtime = machine.kprobes
    probes = [Kprobe(addr=machine["f"] + i, pre_handler=lambda p, regs: 0) for i in range(n)]

    def each(request):
        return lambda: [request(p) for p in probes]

    def off_and_on():
        runtime.enabled = False
        runtime.enabled = True

    found = {"register": lines(each(runtime.register_kprobe)) / n}
    found["hit"] = lines(lambda: machine.call("f")) / (machine.bytes_of("f").count(b"\xcc") or 1)
    found["disable"] = lines(each(runtime.disable_kprobe)) / n
    found["enable"] = lines(each(runtime.enable_kprobe)) / n
    found["switch"] = lines(off_and_on) / n
    found["unregister"] = lines(each(runtime.unregister_kprobe)) / n
    return found


@pytest.mark.parametrize("mode", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_probe_costs_does_not_depend_on_how_many_there_are(layout, mode):
    few, many = (costs(n, layout, OPTIONS[mode]) for n in (FEW, MANY))
    for what, cost in few.items():
        assert many[what] < 1.5 * cost + 20, f"{what}: {few} for each of {FEW}, {many} for each of {MANY}"
