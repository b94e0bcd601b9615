"""Waveforms and pipeline views: the text of the files, on samples made by hand and on runs."""

import gzip
import io
import re

import pytest
from toy_soc import Op, ToySoc, line
from vcd.reader import TokenKind, tokenize

from hw.bus import STAGES
from hw.config import Config
from sim import wave
from sim.disasm import Disassembler, Trace, flag_text, vector_name
from sim.engine import EngineUnavailable
from sim.events import Trap
from sim.kanata import follow, kanata_text, pipeview, write_kanata
from sim.machine import Machine
from sim.signals import choose, variables
from sim.wave import WaveError, WaveRecorder, around, vcd_text

BASE = 0x1000
CODE = bytes.fromhex("b805000000" "bb07000000" "4801d8" "50" "eb00" "0f0b")
RETIRE = ("valid", "first", "last", "deliver", "trap", "reg_we", "sp_we", "iret", "again")


def hand_made(rows):
    """A trace of hart 0 in which every port not named in a row is 0."""
    names = [f"pipe__{s}_{what}" for s in STAGES for what in ("valid", "pc", "stall")]
    names += ["pipe__redirect", "pipe__redirect_pc"]
    names += [f"retire__{n}" for n in (*RETIRE, "pc", "next_pc", "rflags", "reg", "reg_data", "sp", "length", "bytes")]
    names += ["retire__trap_vector", "retire__trap_class", "retire__trap_rip"]
    samples = [(cycle, *(row.get(name, 0) for name in names)) for cycle, row in rows]
    return Trace([f"h0_{name}" for name in names], samples, {BASE: "start", BASE + 1: "start+0x1"}.get)


def moving(stage, pc):
    return {f"pipe__{stage}_valid": 1, f"pipe__{stage}_pc": pc}


NOP = {"retire__pc": BASE, "retire__length": 1, "retire__bytes": 0x90, "retire__next_pc": BASE + 1}
GOLDEN = """\
$version kphw $end
$comment one unit of time is one cycle $end
$timescale 1 ns $end
$scope module soc $end
$scope module hart0 $end
$scope module arch $end
$var wire 1 ! zf $end
$var wire 64 " rax $end
$upscope $end
$scope module retire $end
$var string 1 # asm $end
$var wire 1 $ last $end
$upscope $end
$scope module trap $end
$var string 1 % name $end
$upscope $end
$scope module pipe $end
$var string 1 & stages $end
$upscope $end
$upscope $end
$upscope $end
$enddefinitions $end
#410
$dumpvars
x!
bx "
s #
z$
s %
s......W &
$end
#411
1!
b101 "
smov\\x20eax,\\x205 #
1$
#412
s #
z$
s#BP %
s....... &
#413
sdeliver\\x20#BP #
1$
#414
s #
z$
s %
#415
"""


def hand_made_trap():
    mov = {"retire__pc": BASE, "retire__length": 5, "retire__bytes": 0x05B8, "retire__rflags": 0x42}
    mov |= {"retire__valid": 1, "retire__last": 1, "retire__reg_we": 1, "retire__reg_data": 5}
    return hand_made([
        (410, moving("w", BASE)),
        (411, moving("w", BASE) | mov),
        (412, {"retire__trap": 1, "retire__trap_vector": 3}),
        (413, {"retire__valid": 1, "retire__last": 1, "retire__deliver": 1, "retire__rflags": 0x42}),
        (414, {}),
    ])  # fmt: skip


def test_golden_vcd():
    trace = hand_made_trap()
    every = variables({port: 1 for port in trace._columns})
    names = ("arch.rax", "arch.zf", "retire.asm", "retire.last", "trap.name", "pipe.stages")
    assert vcd_text(trace, choose(every, names)) == GOLDEN


def test_text():
    assert (vector_name(3), vector_name(14), vector_name(33)) == ("#BP", "#PF", "irq 33")
    assert flag_text(0x246) == "IF ZF PF"
    text = Disassembler({0x2000: "memcpy"}.get).text
    assert text(0x1000, bytes.fromhex("e8fb0f0000")) == "call memcpy"
    assert text(0x1000, bytes.fromhex("8b4308")) == "mov eax, dword [rbx + 8]"
    assert text(0x1000, b"\x06") == text(0x1000, b"") == "(bad)"


def test_the_bytes_are_those_that_reached_w_next():
    int3 = NOP | {"retire__bytes": 0xCC, "retire__trap": 1, "retire__trap_vector": 3}
    at_d, at_w, retired = moving("d", BASE), moving("w", BASE), {"retire__valid": 1, "retire__last": 1}
    delivered = retired | {"retire__deliver": 1}
    steps = [at_d, at_w | NOP | retired, at_d, at_w | int3, delivered, at_d]
    trace = hand_made(list(enumerate(steps)))
    assert [trace.text_at(0, i, BASE) for i in range(6)] == ["nop", "nop", "int3", "int3", "int3", "int3"]
    assert trace.stage_text(0, "d") == ["nop", "", "int3", "", "", "int3"]
    assert trace.trap_text(0) == ["", "", "", "#BP", "#BP", ""]


# On the hardware.


@pytest.fixture(scope="module")
def run():
    """A run that ends with #UD, which finds no IDT: its machine, its recorder."""
    machine = Machine(engine="pysim", config=Config(ram_bytes=1 << 16))
    machine.load(BASE, CODE)
    recorder = WaveRecorder(machine, ("all",))
    recorder.window()
    machine.run(300)
    yield machine, recorder
    machine.close()


def parse(text):
    """The variables by full name, and their values by cycle, read by pyvcd."""
    scopes, names, values, cycle = [], {}, {}, None
    for token in tokenize(io.BytesIO(text.encode())):
        if token.kind is TokenKind.SCOPE:
            scopes.append(token.scope.ident)
        elif token.kind is TokenKind.UPSCOPE:
            scopes.pop()
        elif token.kind is TokenKind.VAR:
            names[token.var.id_code] = ".".join([*scopes, token.var.reference])
        elif token.kind is TokenKind.CHANGE_TIME:
            cycle = token.time_change
        elif token.kind.name.startswith("CHANGE_"):
            change = token.data
            values.setdefault(names[change.id_code], {})[cycle] = change.value
    assert len(set(names.values())) == len(names)
    return values


def test_the_file_of_a_run_reads_back(run):
    machine, recorder = run
    values = parse(recorder.vcd())
    assert set(values) == {v.path for v in recorder.variables}
    assert all(re.fullmatch(r"soc(\.[A-Za-z0-9_]+)+", name) for name in values)
    assert "add\\x20rax,\\x20rbx" in values["soc.hart0.retire.asm"].values()
    assert list(values["soc.hart0.arch.rax"].values()) == ["x", 5, 12]
    trap = next(e for e in machine.events if isinstance(e, Trap))
    assert values["soc.hart0.trap.name"][trap.cycle] == "#UD"
    assert values["soc.hart0.trap.vector"][trap.cycle] == 6
    assert values["soc.hart0.trap.rip"][trap.cycle] == BASE + len(CODE) - 2
    assert list(values["soc.hart0.retire.pc"].values())[:2] == ["z", BASE], "nothing retires, and is shown, before the first"


def test_names_are_stable(run):
    _, recorder = run
    names = {v.path for v in recorder.variables}
    for name in ("arch.rip", "arch.r15", "arch.tf", "retire.asm", "retire.sym", "retire.next_pc", "trap.taken", "trap.name",
                 "trap.port_req", "trap.irq_ack", "pipe.f_pc", "pipe.w_asm", "pipe.x_stall", "pipe.redirect", "pipe.stages",
                 "bus.fetch_req_addr", "bus.data_req_write"):  # fmt: skip
        assert f"soc.hart0.{name}" in names
    assert {"soc.io.console_data", "soc.io.exit_code", "soc.io.ipi_vector"} <= names


def test_sets_and_globs(run):
    machine, _ = run
    recorder = WaveRecorder(machine, ("pipe.[xw]_pc", "*.zf"))
    assert [v.path for v in recorder.variables] == ["soc.hart0.arch.zf", "soc.hart0.pipe.x_pc", "soc.hart0.pipe.w_pc"]
    ports = ["h0_retire__valid", "h0_retire__rflags", "h0_pipe__x_valid", "h0_pipe__x_pc"]
    assert sorted(recorder.ports) == sorted([*ports, "h0_pipe__w_valid", "h0_pipe__w_pc"]), "only what is needed"
    assert not any(v.scope.endswith("bus") for v in WaveRecorder(machine).variables)
    with pytest.raises(WaveError, match="no signal is called 'nonsense'"):
        WaveRecorder(machine, ["nonsense"])


def test_files_and_their_markers(run, tmp_path, monkeypatch):
    machine, recorder = run
    where = around(machine.events, "trap:0", margin=20)
    paths = recorder.write(tmp_path / "out" / "t.vcd.gz", where.marks | {"outside": 10**6}, where.focus)
    assert [path.name for path in paths] == ["t.vcd.gz", "t.gtkw", "t.sucl"]
    assert gzip.decompress(paths[0].read_bytes()).decode() == recorder.vcd()
    save = paths[1].read_text().splitlines()
    assert f'[dumpfile] "{paths[0]}"' in save
    (zoom,) = (text for text in save if text.startswith("*"))
    assert zoom.split()[1:3] == [str(where.focus)] * 2, "the primary marker, and the first named one"
    assert len(zoom.split()) == 2 + 26
    assert "[markername] Aud" in save and not any("outside" in text for text in save)
    shown = [text for text in save if text.startswith(("soc.", "+{"))]
    assert shown[:2] == ["+{hart0 trap name} soc.hart0.trap.name", "+{hart0 retire sym} soc.hart0.retire.sym"]
    assert {re.sub(r"\+\{.*\} |\[.*", "", text) for text in shown} == {v.path for v in recorder.variables}
    assert "soc.hart0.arch.rip[63:0]" in shown
    assert sum(text.startswith("@8002") for text in save) == sum(text.startswith("@10002") for text in save)
    surfer = paths[2].read_text().splitlines()
    assert surfer[0] == f"load_file {paths[0]}"
    assert surfer[-2:] == [f"cursor_set {where.focus}", "goto_cursor"]

    monkeypatch.setattr(wave.shutil, "which", lambda name: None)
    assert recorder.write(tmp_path / "t.fst")[0] == tmp_path / "t.vcd"
    converter = tmp_path / "vcd2fst"
    converter.write_text('#!/bin/sh\ncp "$1" "$2"\n')
    converter.chmod(0o755)
    monkeypatch.setattr(wave.shutil, "which", lambda name: str(converter))
    assert recorder.write(tmp_path / "u.fst")[0].read_text() == recorder.vcd()
    with pytest.raises(WaveError, match="no waveform"):
        recorder.write(tmp_path / "t.png")


def test_an_empty_window(run, tmp_path):
    recorder = WaveRecorder(run[0])
    recorder.window(10**9)
    with pytest.raises(WaveError, match="holds no cycle"):
        recorder.write(tmp_path / "t.vcd")
    assert pipeview(recorder.trace(), 0, 10) == "no cycle of the window was sampled\n"
    assert kanata_text(recorder.trace()) == "Kanata\t0004\n"


def test_every_instruction_is_followed(run):
    machine, recorder = run
    trace = recorder.trace()
    done = [op for op in follow(trace) if op.end is not None and op.pc is not None]
    assert [op.text for op in done] == ["mov eax, 5", "mov ebx, 7", "add rax, rbx", "push rax", f"jmp {BASE + 16:#x}"]
    stages = ["".join(dict.fromkeys(s[-1] for s in op.stages.values())) for op in done]
    assert all(text.endswith("LDAMXW") for text in stages)
    (ud2,) = (op for op in follow(trace) if op.trap == 6 and op.pc is not None)
    assert ud2.text == "ud2" and ud2.end is None
    assert len(done) == machine.harts[0].retired


def test_pipeview(run):
    machine, recorder = run
    trap = next(e for e in machine.events if isinstance(e, Trap))
    text = pipeview(recorder.trace(), 0, trap.cycle + 2).splitlines()
    assert text[0].startswith("cycle")
    (add,) = (row for row in text if row.endswith("add rax, rbx"))
    assert re.search(r"D+a*A+M+X+W\*", add, re.IGNORECASE)
    (ud2,) = (row for row in text if row.endswith("ud2"))
    assert ud2[ud2.index("!") - 1] in "Ww"
    assert any(row.endswith("deliver #UD") for row in text)


def test_kanata(run, tmp_path):
    _, recorder = run
    text = kanata_text(recorder.trace())
    rows = [row.split("\t") for row in text.splitlines()]
    assert rows[0] == ["Kanata", "0004"] and rows[1][0] == "C="
    assert {row[0] for row in rows} <= {"Kanata", "C=", "C", "I", "L", "S", "E", "R"}
    assert all(int(row[1]) > 0 for row in rows if row[0] == "C")
    began, ended = ({row[1] for row in rows if row[0] == kind} for kind in "IR")
    assert ended <= began
    assert f"L\t0\t0\t{BASE:#x} {BASE:#x}: mov eax, 5" in text
    assert gzip.decompress(write_kanata(recorder.trace(), tmp_path / "k.log.gz").read_bytes()).decode() == text


def toy_vcd(engine):
    program = [line(Op.IMM, 1, imm64=7), line(Op.CALL, 1, imm32=3), line(Op.TRAP, imm32=6, imm64=0x40), line(Op.NOP)]
    program += [line(Op.OUT, 1), line(Op.STORE, 1), line(Op.EXIT, imm32=7)]
    with Machine(engine=engine, config=Config(ram_bytes=1 << 16), soc_factory=ToySoc) as machine:
        machine.mem.write(0, b"".join(program))
        recorder = WaveRecorder(machine, ("all",))
        recorder.window(2, 15)
        machine.run(60)
        return recorder.vcd()


def test_the_same_text_on_every_engine():
    text = toy_vcd("pysim")
    assert "#2\n$dumpvars" in text and text.endswith("#15\n")
    assert toy_vcd("pysim") == text
    try:
        assert toy_vcd("compiled") == text
    except EngineUnavailable as error:
        pytest.skip(str(error))
