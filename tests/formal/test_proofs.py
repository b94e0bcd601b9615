"""Every proof of the list holds, and notices its mutation: none is vacuous."""

import pytest

from tests.formal.proofs import PROOFS
from tests.formal.prover import prove

IN_EVERY_RUN = [pytest.param(proof, id=proof.name) for proof in PROOFS if not proof.deep]


@pytest.mark.slow
@pytest.mark.parametrize("proof", IN_EVERY_RUN)
def test_proof(proof, capsys):
    result = prove(proof)
    assert result.holds, f"{proof.name}: {proof.about}: does not hold\n{result.log}"
    with capsys.disabled():
        print(f"\n{proof.name}: {proof.method}, {result.seconds:.0f} s")


@pytest.mark.slow
@pytest.mark.parametrize("proof", IN_EVERY_RUN)
def test_a_mutated_design_fails(proof):
    result = prove(proof, mutated=True)
    assert not result.holds, f"{proof.name} holds although {proof.mutation.old!r} became {proof.mutation.new!r}"
    assert "Assert failed" in result.log


def test_names_are_unique():
    assert len({proof.name for proof in PROOFS}) == len(PROOFS)
