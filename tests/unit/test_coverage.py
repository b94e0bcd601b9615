"""The report of what the tests have covered: counting, merging, and what is said to be missing."""

from hw.isa.facts import EventClass
from sim.engine import RetireFlag, RetireRecord, StopOn
from tests.coverage.collect import PORTS, Coverage, Covering, load, save
from tests.coverage.report import groups

ADD = bytes.fromhex("4801d8")  # add rax, rbx
CF, ZF = 1, 0x40


def record(code, rflags=2, flags=RetireFlag.VALID | RetireFlag.LAST, **other):
    fields = dict.fromkeys(RetireRecord._fields, 0) | other
    return RetireRecord(**fields | dict(bytes=code.ljust(16, b"\0"), length=len(code), rflags=rflags, flags=int(flags)))


def missing(coverage, name):
    return next(group.missing for group in groups(coverage) if group.name == name)


def test_rows_sizes_and_flags():
    coverage = Coverage()
    assert "01 /r  add Ev,Gv" in missing(coverage, "table rows retired")
    coverage.take([record(ADD, 2 | CF), record(ADD, 2, RetireFlag.VALID)])  # the second is not the last uop
    assert "01 /r  add Ev,Gv" not in missing(coverage, "table rows retired")
    sizes, flags = missing(coverage, "operand sizes"), missing(coverage, "flag outcomes")
    assert "01 /r  add Ev,Gv, 64 bits" not in sizes and "01 /r  add Ev,Gv, 32 bits" in sizes
    assert "01 /r  add Ev,Gv: CF 0" in flags and "01 /r  add Ev,Gv: CF 1" not in flags
    coverage.take([record(bytes.fromhex("6601d8"), 2 | ZF)])
    assert "01 /r  add Ev,Gv: CF 0" not in missing(coverage, "flag outcomes")
    assert not [what for what in missing(coverage, "flag outcomes") if "and Ev,Gv: CF 1" in what], "it never sets CF"


def test_traps_and_samples():
    coverage = Coverage()
    coverage.take([record(b"", flags=RetireFlag.TRAP, trap_vector=14, trap_class=EventClass.FAULT)])
    assert "#PF as fault" not in missing(coverage, "trap causes") and "#GP as fault" in missing(coverage, "trap causes")
    trap = [7] + [int(name in ("h0_retire__trap", "h0_pipe__a_valid")) for name in PORTS]
    coverage.sampled([trap])
    assert {"trap, A occupied", "trap, M empty"}.isdisjoint(missing(coverage, "traps by occupancy"))
    assert "trap, M occupied" in missing(coverage, "traps by occupancy")


def test_files_merge_and_belong_to_the_hardware(tmp_path, monkeypatch):
    file = tmp_path / "coverage.json"
    one = Coverage()
    one.take([record(ADD, 2 | CF)])
    save(one, file)
    save(one, file)
    both = load(file)
    (key,) = both.rows
    assert both.rows[key] == 2 and both.ones[key] == CF
    monkeypatch.setattr("tests.coverage.collect.source_key", lambda: "other")
    assert not load(file).rows


def test_a_test_is_given_what_it_asks_for_and_no_more(engine_pool):
    engine, coverage = engine_pool.borrow("pysim"), Coverage()
    covering = Covering(engine._engine, coverage)  # not counted twice
    covering.start()
    covering.write_mem(0x1000, ADD + b"\xcc")
    covering.write_reg(0, 16, 0x1000)
    covering.run(100, StopOn(trap=True))
    assert [r.trap_vector for r in covering.drain().retires] == [3]
    assert len(coverage.rows) == 1 and coverage.traps == {f"3:{int(EventClass.SOFT)}": 1}
    covering.finish()
    assert coverage.pipe
