"""Functions of Debian's kernel on the core: equal to an emulator's and to Python's results, with and without probes.

The kernel comes through apt, once (build/kernel); where it cannot be had, these tests are skipped and say why.
"""

import pytest

from sim.engine import EngineUnavailable
from sim.kernel.fetch import FetchError, fetch
from sim.kernel.image import load_kernel
from sim.kernel.sweep import sweep
from sim.kernel.unpack import UnpackError

#: What the table has of the integer and system instructions in the image, at least.
SHARE = 0.9999

#: For the slow engine: one of each kind that takes a few hundred cycles.
FEW = ("strlen", "gcd", "bsearch", "crc32_le_base", "kstrtoint", "__bitmap_and")


@pytest.fixture(scope="module")
def kernel():
    pytest.importorskip("unicorn", reason="unicorn, the emulator, is in the extra `kernel`")
    try:
        return load_kernel(fetch())
    except (FetchError, UnpackError) as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_functions_of_the_kernel(kernel, engine_name):
    from sim.kernel import campaign

    cases = campaign.table(() if engine_name != "pysim" else FEW)
    if engine_name == "pysim":  # few cases of few functions: it is a thousand times slower
        cases = {topic: [case for case in listed if len(case.calls) == 1][:3] for topic, listed in cases.items()}
    try:
        report = campaign.run(kernel, cases, engine=engine_name)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    different = [difference for function in report.run for difference in function.differences]
    assert not different + report.differences
    assert report.fine and len(report.equal) == len(report.run)
    assert report.seeds[:2] == ["__blockdev_direct_IO", "ip_queue_xmit"]
    assert report.hits > len(report.run)
    if engine_name != "pysim":
        assert len(report.run) >= 200
        assert report.probes >= 3 * len(report.run)
    print(f"{len(report.run)} run, {len(report.equal)} equal, {report.hits} hits, {report.seconds:.0f} s")


@pytest.mark.slow
def test_the_table_covers_the_kernel(kernel):
    code, replacements = sweep(kernel)
    whole = code.supported + replacements.supported, code.total + replacements.total
    assert whole[1] > 2_000_000
    assert whole[0] / whole[1] >= SHARE, (code.missing + replacements.missing).most_common(10)
    # only where a symbol stands inside an instruction (return thunks) there is none
    assert len(code.bad) + len(replacements.bad) <= 4
