"""The adder and logic unit against the reference, and the reference against the host."""

from hw.alu import Alu
from tests.unit.flags_reference import ALU, ALU_WIDE
from tests.unit.opbench import cases, check_reference, check_unit


def test_unit():
    check_unit(Alu(), cases(ALU, range(4), 400, "alu"))
    check_unit(Alu(), cases(ALU_WIDE, (2, 3), 400, "alu wide"))


def test_reference(tmp_path):
    check_reference([*cases(ALU, range(4), 1000, "alu"), *cases(ALU_WIDE, (2, 3), 1000, "alu wide")], tmp_path)
