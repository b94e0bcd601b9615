"""The adder and logic unit against the reference, and the reference against the host."""

from hw.alu import Alu
from tests.unit.flags_reference import ALU
from tests.unit.opbench import cases, check_reference, check_unit


def test_unit():
    check_unit(Alu(), cases(ALU, range(4), 400, "alu"))


def test_reference(tmp_path):
    check_reference(list(cases(ALU, range(4), 1000, "alu")), tmp_path)
