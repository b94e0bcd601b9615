"""Hooked calls under random schedules of calls, returns, jumps out of frames, and switches between stacks (K13, K18)."""

import pytest

from kprobes.calls import Call, Calls

STACKS, SIZE = 4, 0x1000


class Schedule:
    """Frames of a guest with several stacks, and what is known of its hooked calls."""

    def __init__(self, rng, fine):
        self.rng, self.fine = rng, fine
        self.told = []
        self.calls = Calls(lambda call: self.told.append(("lost", call)), lambda call: self.told.append(("found", call)))
        self.frames = [[] for _ in range(STACKS)]  # (fp, call or None), innermost last
        self.jumped = set()
        self.current = 0

    def step(self):
        frames = self.frames[self.current]
        what = self.rng.choice(("call", "call", "call", "ret", "ret", "jump", "switch"))
        if what == "call":
            top = frames[-1][0] if frames else SIZE * (self.current + 1)
            fp = top - 8 * self.rng.randint(1, 3)
            stale = self.calls.find(fp)
            if stale is not None:  # its slot holds another return address now
                self.calls.lose(stale)
                self.calls.remove(stale)
                assert stale in self.jumped, "only what was jumped out of can be in the way"
            call = None
            if self.rng.random() < 0.7:
                call = Call(fp, self.rng.getrandbits(32), SIZE * (self.current + 1) if self.fine else 0)
                self.calls.add(call)
            frames.append((fp, call))
        elif what == "ret" and frames:
            fp, call = frames.pop()
            if call is not None:
                assert self.calls.find(fp) is call
                self.calls.leave(call)
                assert self.calls.find(fp) is None
        elif what == "jump" and len(frames) > 2:
            for _ in range(self.rng.randint(1, len(frames) - 1)):
                self.jumped.add(frames.pop()[1])
        else:
            self.current = self.rng.randrange(STACKS)

    def check(self):
        live = {call for frames in self.frames for _, call in frames if call is not None}
        assert all(self.calls.find(call.fp) is call for call in live)
        assert set(self.calls) <= live | self.jumped
        assert set(self.calls.lost) == {call for call in self.calls if call.lost}
        if self.fine:
            assert not any(call.lost for call in live), "each stack has its own order"


@pytest.mark.parametrize("fine", [True, False], ids=["stack_end tells stacks apart", "one end for all stacks"])
def test_K13_K18_random_schedules(rng, fine):
    for _ in range(60):
        schedule = Schedule(rng, fine)
        for _ in range(300):
            schedule.step()
            schedule.check()
        lost = [call for kind, call in schedule.told if kind == "lost"]
        found = [call for kind, call in schedule.told if kind == "found"]
        assert lost and (not found if fine else found)
        if fine:
            assert set(lost) <= schedule.jumped


def test_K18_a_return_above_tells_of_all_below_it():
    told = []
    calls = Calls(told.append, told.append)
    chain = [Call(fp, 0, 0x1000) for fp in (0xF00, 0xE00, 0xD00)]
    for call in chain:
        calls.add(call)
    calls.leave(chain[0])
    assert told == [chain[2], chain[1]] and set(calls.lost) == set(chain[1:]) and calls.find(0xF00) is None
    calls.leave(chain[2])
    assert told[2:] == [chain[2]] and calls.lost == (chain[1],)
