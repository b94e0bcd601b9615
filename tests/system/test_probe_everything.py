"""Every instruction of the guests probed, in every way of executing it, all at once and one probe at a time: nothing but
time may change (`everything` says what is compared, and which hits there have to be).

One at a time, a run takes a sample: an address for each kind of instruction in the guests. ``--every-probe`` takes all that
are executed (about 4 000, half an hour for each way).
"""

import pytest

from tests.system.everything import GUESTS, MODES, Runs, sample


@pytest.fixture(scope="module")
def runs(engine_name):
    if engine_name == "pysim":
        pytest.skip("tens of thousands of hits: on the compiled engine only")
    return Runs(engine_name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GUESTS)
def test_all_at_once(name, mode, runs):
    guest = runs.guest(name)
    done = runs.probed(name, guest.addresses, MODES[mode])
    assert sum(done.hits.values()) > 100 and len(done.refused) < len(done.hits) // 4
    may_refuse = ("hlt", "int3", "ud2") + (("iret",) if MODES[mode].step == "int3" else ())
    assert all(guest.insns[address].text.startswith(may_refuse) for address in done.refused), done.refused
    assert bool(done.optimised) is MODES[mode].optimize


@pytest.mark.parametrize("mode", MODES)
def test_one_at_a_time(mode, runs, request):
    if request.config.getoption("--every-probe"):
        chosen = ((name, address) for name in GUESTS for address in runs.guest(name).executed)
    else:
        chosen = sample(runs)
    runs_done = jumps = 0
    for name, address in chosen:
        try:
            done = runs.probed(name, [address], MODES[mode])
        except Exception as error:
            guest = runs.guest(name)
            error.add_note(f"{name}: {guest.image.symbols.describe(address)}: {guest.insns[address].text}")
            raise
        runs_done += len(done.hits)
        jumps += len(done.optimised)
        assert not done.optimised or not done.traps
    assert runs_done > 100 and bool(jumps) is MODES[mode].optimize
    print(f"{mode}: {runs_done} runs, {jumps} with a jump")
