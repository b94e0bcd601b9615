"""The data path against the processor of this machine: fresh vectors of random instructions, on every engine."""

import pytest

from sim.vectorfile import parse
from sim.vectors import Runner
from tests.silicon.capture import capture
from tests.silicon.executor import available

#: Vectors for each engine: as many as take some ten seconds.
COUNT = {"pysim": 400, "compiled": 6000}

_reason = available()

pytestmark = pytest.mark.skipif(bool(_reason), reason=f"no vectors from this processor: {_reason}")


@pytest.mark.parametrize("max_insns", [1, 6])
def test_random_instructions(engine, engine_name, seed, max_insns):
    vectors = list(capture(COUNT[engine_name] // 2, seed, max_insns))
    failures = [outcome.line() for outcome in Runner(engine).run(parse(vectors)) if outcome.differences]
    command = f"python -m tests.silicon.capture --count {len(vectors)} --seed {seed} --max-insns {max_insns} -o FILE"
    assert not failures, f"{len(failures)} of {len(vectors)}; to have them: {command}\n" + "\n".join(failures[:10])
