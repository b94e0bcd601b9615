"""The rules of the house: who imports whom, how long a file may be, and the facts that are written twice are equal."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hw", "kprobes", "sim")

#: What a module may import beside the standard library, by the longest prefix of its name.
MAY_IMPORT = {
    "hw": ("hw", "amaranth"),
    "hw.isa": ("hw.isa",),
    "kprobes": ("kprobes",),
    "kprobes.insn": ("kprobes", "capstone"),
    "sim": ("sim", "hw", "amaranth", "rich", "elftools", "vcd"),
    "sim.disasm": ("sim", "hw", "capstone"),
    "sim.kernel": ("sim", "hw", "elftools"),
    "sim.kernel.classify": ("capstone",),
    "sim.kernel.emulator": ("unicorn",),
    **dict.fromkeys(
        ("sim.machine", "sim.frames", "sim.guestport", "sim.modules", "sim.runloop", "sim.trapport"), ("sim", "hw", "kprobes")
    ),
}

#: The pipeline: these meet in hw/types.py and hw/bus.py, and hw/core.py connects them.
STAGES = ("fetch", "length", "decode", "address", "memory", "execute", "retire")

LONGEST_FILE = 500
TABLES = {"hw/isa/opcodes.py"}


class Import(NamedTuple):
    """An import statement: who, what (``a.b`` for ``from a import b`` when that is a module), where, and what kind."""

    importer: str
    imported: str
    line: int
    star: bool
    at_top: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.imported}"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports_of(module: str) -> Iterator[Import]:
    tree = ast.parse(FILES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, False, node in tree.body)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                name = whole if whole in FILES else str(node.module)
                yield Import(module, name, node.lineno, alias.name == "*", node in tree.body)


IMPORTS = [entry for module in FILES for entry in imports_of(module)]


def allowed(module: str) -> tuple[str, ...]:
    parts = module.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(MAY_IMPORT[prefix] for prefix in prefixes if prefix in MAY_IMPORT)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def refuse(entries: list[Import], rule: str) -> None:
    assert not entries, f"{rule}:\n" + "\n".join(sorted(set(map(str, entries))))


def test_layers_import_only_what_lies_below_them():
    wrong = [
        entry
        for entry in IMPORTS
        if entry.imported.split(".")[0] not in sys.stdlib_module_names
        and not any(within(entry.imported, prefix) for prefix in allowed(entry.importer))
    ]
    refuse(wrong, "not allowed by MAY_IMPORT")


def test_stages_do_not_know_each_other():
    stages = {f"hw.{stage}" for stage in STAGES}
    assert stages <= set(FILES)
    wrong = [entry for entry in IMPORTS if entry.importer in stages and entry.imported in stages]
    refuse(wrong, "pipeline stages meet in hw.types and hw.bus")


def test_only_amaranth_is_imported_with_a_star():
    wrong = [entry for entry in IMPORTS if entry.star and entry.imported != "amaranth"]
    refuse(wrong, "star imports hide where a name comes from")


def test_modules_do_not_import_each_other_in_circles():
    below = {
        module: {e.imported for e in IMPORTS if e.importer == module and e.at_top} & set(FILES) for module in FILES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for other in sorted(below[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


def test_files_stay_short():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            name = str(path.relative_to(ROOT))
            if path.suffix in (".py", ".c", ".cc", ".h", ".S", ".inc") and name not in TABLES:
                lines = len(path.read_text().splitlines())
                assert lines <= LONGEST_FILE, f"{name} has {lines} lines; split it ({LONGEST_FILE} is the limit)"


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {module for module, path in FILES.items() if path.name == "__init__.py"}
    assert set(listed) == found


def loaded_by(module: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after importing a module."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_instruction_set_loads_without_amaranth():
    for module in ("hw.isa.opcodes", "hw.isa.routines", "hw.isa.reference"):
        assert not loaded_by(module) & {"amaranth", "rich", "kprobes", "sim"}


def test_the_runtime_loads_alone():
    assert not loaded_by("kprobes") & {"amaranth", "rich", "hw", "sim"}


# --- facts written twice ---


def test_vectors_are_equal():
    from hw.isa import facts
    from kprobes import ptregs

    assert {v.name: v.value for v in facts.Vector} == {v.name: v.value for v in ptregs.Vector}
    assert {row.number for row in facts.VECTORS} == {v.value for v in facts.Vector}
    for row in facts.VECTORS:
        assert row.mnemonic.lstrip("#") == facts.Vector(row.number).name
    # what is not of fault class: traps, aborts, and interrupts
    assert set(ptregs.Vector) - ptregs.FAULTS == {ptregs.Vector[name] for name in ("DB", "NMI", "BP", "OF", "DF", "MC")}


def test_flags_are_equal():
    from hw.isa.facts import RFlag
    from kprobes.ptregs import Flag

    width = {RFlag.IOPL: 3}
    assert {f.name: width.get(f, 1) << f.value for f in RFlag} == {
        name: f.value for name, f in Flag.__members__.items()
    }


def test_debug_status_is_equal():
    from hw import sysregs
    from kprobes import ptregs

    assert (sysregs.DR6_BS, sysregs.DR6_B) == (ptregs.DR6_BS, ptregs.DR6_B)


def test_pt_regs_has_the_order_in_which_the_stubs_push():
    from kprobes.ptregs import FIELDS

    guest, stubs = ((ROOT / "sim" / "guest" / name).read_text() for name in ("guest.h", "stubs.S"))
    struct = re.search(r"struct pt_regs \{(.*?)\}", guest, re.DOTALL)
    assert struct
    declared = re.findall(r"\w+(?=[,;])", re.sub(r"/\*.*?\*/", "", struct[1]))
    assert tuple(declared) == FIELDS

    def pushed(name: str) -> list[str]:
        body = re.search(rf"\.macro {name}\b(.*?)\.endm", stubs, re.DOTALL)
        assert body
        found = re.findall(r"^\s*(?:push\s+(\S+)|(push_regs_but_di)\b)", body[1], re.MULTILINE)
        return [register for push, macro in found for register in (pushed(macro) if macro else [push])]

    order = ["orig_ax" if register == "$-1" else register.removeprefix("%r") for register in pushed("port_stub")]
    order = [f"r{name}" if name[0].isdigit() else name for name in order]
    by_the_cpu = ["ip", "cs", "flags", "sp", "ss"]
    assert (*reversed(order), *by_the_cpu) == FIELDS


def test_stubs_know_the_ports_and_the_error_codes():
    from hw.bus import DEVICE_VIRT, TRAP_RESULT
    from hw.isa.facts import VECTORS

    stubs = (ROOT / "sim" / "guest" / "stubs.S").read_text()
    defined = dict(re.findall(r"#define (TRAP_\w+)\s+(0x[0-9a-f]+)", stubs))
    assert int(defined["TRAP_PORT"], 16) == DEVICE_VIRT
    assert int(defined["TRAP_HANDLED"], 16) == DEVICE_VIRT + TRAP_RESULT
    mask = re.search(r"#define HAS_ERROR_CODE\(v\) \(\(1 << \(v\)\) & (.*)\)$", stubs, re.MULTILINE)
    assert mask
    bits = eval(mask[1], {"__builtins__": {}})
    assert all(bool(bits >> row.number & 1) == row.has_error for row in VECTORS)


# --- the design is a function of its sources ---


def test_test_modules_have_names_of_their_own():
    """Those outside packages are all found by their bare names, so of two with one name only one is."""
    bare = [path for path in sorted((ROOT / "tests").rglob("*.py"))
            if not (path.parent / "__init__.py").exists() and path.name != "conftest.py"]
    twice = {path.name: sorted(str(other.relative_to(ROOT)) for other in bare if other.name == path.name) for path in bare}
    assert not {name: paths for name, paths in twice.items() if len(paths) > 1}


@pytest.mark.slow
def test_elaboration_is_deterministic():
    code = (
        "import hashlib; from hw.emit import rtlil_text; from hw.soc import Soc; from hw.config import Config; "
        "print(hashlib.sha256(rtlil_text(Soc(config=Config(ram_bytes=1 << 16))).encode()).hexdigest())"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    digests = {run.communicate()[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(digests) == 1 and len(digests.pop()) == hashlib.sha256().digest_size * 2
